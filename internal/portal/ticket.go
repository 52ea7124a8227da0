package portal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/phigate/phigate/internal/store"
)

const (
	waitFor  = 15 * time.Minute // from the link to the proof; longer than a code lives
	idleFor  = 20 * time.Minute // from one page to the next, once proven
	warnAt   = 18 * time.Minute
	visitFor = 4 * time.Hour // in all
)

// ticket is what the browser holds for one message, sealed: the link's secret,
// without which the body has no key, and who the browser is.
type ticket struct {
	Secret  []byte    `json:"s"`
	PIN     string    `json:"p,omitempty"`
	Browser []byte    `json:"b"` // random; a code works only in the browser that asked for it
	Proven  bool      `json:"v,omitempty"`
	Seen    time.Time `json:"t"`
}

// Format keeps the secret out of logs and errors under every verb.
func (t ticket) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[key]") }

func newTicket(secret []byte, now time.Time) ticket {
	t := ticket{Secret: secret, Seen: now}
	t.rename()
	return t
}

// rename gives the browser a new name: after a proof nobody who knew the old
// one is let in (session fixation).
func (t *ticket) rename() {
	t.Browser = make([]byte, 16)
	rand.Read(t.Browser) // never fails (crypto/rand since Go 1.24)
}

func (t ticket) life() time.Duration {
	if t.Proven {
		return idleFor
	}
	return waitFor
}

// sealer seals tickets with AES-256-GCM.
type sealer struct{ aead cipher.AEAD }

func newSealer(secret []byte) (sealer, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "phigate portal ticket v1", 32)
	if err != nil {
		return sealer{}, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{aead}, err
}

func (s sealer) seal(id store.ID, t ticket) (string, error) {
	plain, err := json.Marshal(t)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, []byte(id))), nil
}

func (s sealer) open(id store.ID, text string) (t ticket, ok bool) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return ticket{}, false
	}
	plain, err := s.aead.Open(nil, nil, sealed, []byte(id))
	if err != nil {
		return ticket{}, false
	}
	return t, json.Unmarshal(plain, &t) == nil
}

// cookieName has the message's id, so that two messages can be open at once.
func (p *Portal) cookieName(id store.ID) string {
	if p.secure {
		return "__Host-pickup-" + string(id)
	}
	return "pickup-" + string(id)
}

// ticket returns what the browser holds for a message, if its time is not over.
func (p *Portal) ticket(r *http.Request, id store.ID) (ticket, bool) {
	c, err := r.Cookie(p.cookieName(id))
	if err != nil || !id.Valid() {
		return ticket{}, false
	}
	t, ok := p.seal.open(id, c.Value)
	return t, ok && p.o.Clock().Before(t.Seen.Add(t.life()))
}

// give hands the ticket to the browser, its time running anew.
func (p *Portal) give(w http.ResponseWriter, id store.ID, t ticket) error {
	t.Seen = p.o.Clock()
	value, err := p.seal.seal(id, t)
	if err != nil {
		return err
	}
	http.SetCookie(w, p.cookie(p.cookieName(id), value, t.life()))
	return nil
}

func (p *Portal) take(w http.ResponseWriter, id store.ID) {
	http.SetCookie(w, p.cookie(p.cookieName(id), "", -time.Second))
}

// cookie lasts although the browser is closed: in-app browsers are, when their
// user goes to look for the code. Lax, not Strict: the way in is a link from
// another site.
func (p *Portal) cookie(name, value string, life time.Duration) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: p.secure, SameSite: http.SameSiteLaxMode,
	}
}
