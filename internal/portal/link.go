package portal

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"github.com/phigate/phigate/internal/store"
)

// secretSize is 192 bits: nobody guesses a link, so only its holder can spend
// the attempts of a message.
const secretSize = 24

// NewLink makes the link of a pickup: a fresh secret, and the path that shows
// it. The secret is in the path, not in the fragment, which mail scanners
// rewrite into the request line anyway.
func NewLink(id store.ID) (secret []byte, path string) {
	secret = make([]byte, secretSize)
	rand.Read(secret) // never fails (crypto/rand since Go 1.24)
	return secret, "/p/" + string(id) + "." + base64.RawURLEncoding.EncodeToString(secret)
}

// Offer makes p a pickup to be stored, in state noticed, and returns the link
// for its notice. pin is the practice's PIN of eight digits, or "" for a code by
// mail; lang the recipient's language, or "". A zero p.Expires becomes
// p.Created and the portal's expiry.
func (p *Portal) Offer(pick store.Pickup, pin, lang string) (offer store.NewPickup, link string) {
	secret, path := NewLink(pick.ID)
	pick.State = store.Noticed
	if pick.Expires.IsZero() {
		pick.Expires = pick.Created.Add(p.o.Expiry)
	}
	pick.Value = memory{Link: linkHash(secret), PIN: pin != "", Lang: lang}.encode()
	return store.NewPickup{Pickup: pick, Secret: secret, PIN: pin}, p.base + path
}

// readRef takes "{id}.{secret}" apart. ok says only that it has the form.
func readRef(ref string) (id store.ID, secret []byte, ok bool) {
	head, tail, _ := strings.Cut(ref, ".")
	secret, err := base64.RawURLEncoding.DecodeString(tail)
	id = store.ID(head)
	return id, secret, err == nil && len(secret) == secretSize && id.Valid()
}

// linkHash is what the record keeps to know a link again. The secret is random
// and long, so its hash tells nothing; the key of the body needs the secret.
func linkHash(secret []byte) []byte {
	h := sha256.Sum256(append([]byte("phigate pickup link\x00"), secret...))
	return h[:]
}

func sameLink(hash, secret []byte) bool {
	return subtle.ConstantTimeCompare(hash, linkHash(secret)) == 1
}
