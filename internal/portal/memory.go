package portal

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/phigate/phigate/internal/store"
)

// CodeFor is how long a mailed code is good.
const CodeFor = 10 * time.Minute

// The limits of one message. NIST SP 800-63B-4 §3.2.2 allows 100 wrong guesses
// in a row; these are stricter, and a new code resets none of them.
const (
	codesPerDay    = 3
	guessesPerCode = 5
	guessesPerDay  = 15
	guessesInAll   = 30 // then the practice must send the message again
	resendAfter    = 30 * time.Second
	maxVisits      = 5 // browsers that may have the message open at once
	day            = 24 * time.Hour
)

// memory is what the portal remembers of one pickup: its Value.
type memory struct {
	Link    []byte      `json:"link,omitempty"` // hash of the link's secret
	PIN     bool        `json:"pin,omitempty"`  // opened with a PIN instead of a code
	Lang    string      `json:"lang,omitempty"`
	Code    *code       `json:"code,omitempty"`
	Sent    []time.Time `json:"sent,omitempty"`  // codes of the last day
	Wrong   []time.Time `json:"wrong,omitempty"` // wrong guesses of the last day
	WrongIn int         `json:"wrong_in_all,omitempty"`
	Visits  []visitor   `json:"visits,omitempty"`
	Fetched []int       `json:"fetched,omitempty"` // files that were taken, 0 = the whole message
}

// code is the one code that is good now. Its hash is keyed with the link's
// secret, which is not stored: a million guesses at the hash lead nowhere.
type code struct {
	Hash    []byte    `json:"hash"`
	Browser []byte    `json:"browser"` // hash of the browser that asked
	At      time.Time `json:"at"`
	Wrong   int       `json:"wrong,omitempty"`
}

// visitor is a browser that has proven itself.
type visitor struct {
	Browser []byte    `json:"browser"` // hash
	Until   time.Time `json:"until"`
}

func (m memory) encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic("portal: memory does not encode") // it is plain data
	}
	return b
}

// decodeMemory reads a Value. One that is not the portal's opens to nobody, but
// can still be ended.
func decodeMemory(value []byte) (m memory, ok bool) {
	if len(value) == 0 {
		return memory{}, true
	}
	if err := json.Unmarshal(value, &m); err != nil {
		return memory{Link: []byte("unreadable")}, false
	}
	return m, true
}

// newCode draws six digits and remembers them for one browser.
func (m *memory) newCode(t ticket, now time.Time) string {
	n, err := rand.Int(rand.Reader, big.NewInt(1_000_000))
	if err != nil {
		panic("portal: no randomness") // never fails (crypto/rand since Go 1.24)
	}
	digits := fmt.Sprintf("%06d", n)
	m.Code = &code{Hash: codeHash(t, digits), Browser: browserHash(t), At: now}
	m.Sent = append(lastDay(m.Sent, now), now)
	return digits
}

// codeOf returns the code this browser asked for, nil if there is none that
// could still be typed in.
func (m *memory) codeOf(t ticket, now time.Time) *code {
	c := m.Code
	if c == nil || c.Wrong >= guessesPerCode || !now.Before(c.At.Add(CodeFor)) || !hmac.Equal(c.Browser, browserHash(t)) {
		return nil
	}
	return c
}

// nextCode is when one more code may be asked for; not after now: at once.
func (m *memory) nextCode(now time.Time) time.Time {
	sent := lastDay(m.Sent, now)
	if len(sent) < codesPerDay {
		return now
	}
	return sent[len(sent)-codesPerDay].Add(day)
}

// nextGuess is when one more guess may be made; not after now: at once.
func (m *memory) nextGuess(now time.Time) time.Time {
	wrong := lastDay(m.Wrong, now)
	if len(wrong) < guessesPerDay {
		return now
	}
	return wrong[len(wrong)-guessesPerDay].Add(day)
}

func (m *memory) locked() bool { return m.WrongIn >= guessesInAll }

func (m *memory) wrong(now time.Time) {
	m.Wrong = append(lastDay(m.Wrong, now), now)
	m.WrongIn++
	if m.Code != nil {
		m.Code.Wrong++
	}
}

// admit lets a browser in; its code is used up.
func (m *memory) admit(t ticket, now time.Time) {
	m.Code = nil
	m.Visits = slices.DeleteFunc(m.Visits, func(v visitor) bool { return !now.Before(v.Until) })
	m.Visits = append(m.Visits, visitor{browserHash(t), now.Add(visitFor)})
	m.Visits = m.Visits[max(0, len(m.Visits)-maxVisits):]
}

func (m *memory) admitted(t ticket, now time.Time) bool {
	return slices.ContainsFunc(m.Visits, func(v visitor) bool {
		return now.Before(v.Until) && hmac.Equal(v.Browser, browserHash(t))
	})
}

func (m *memory) dismiss(t ticket) {
	m.Visits = slices.DeleteFunc(m.Visits, func(v visitor) bool { return hmac.Equal(v.Browser, browserHash(t)) })
}

func lastDay(times []time.Time, now time.Time) []time.Time {
	return slices.DeleteFunc(slices.Clone(times), func(t time.Time) bool { return !now.Before(t.Add(day)) })
}

func codeHash(t ticket, digits string) []byte { return keyedHash(t, "code", digits) }

func browserHash(t ticket) []byte { return keyedHash(t, "browser", "") }

func keyedHash(t ticket, purpose, text string) []byte {
	h := hmac.New(sha256.New, t.Secret)
	fmt.Fprintf(h, "%s\x00%x\x00%s", purpose, t.Browser, text)
	return h.Sum(nil)
}

// entry is a pickup with what the portal remembers of it.
type entry struct {
	store.Pickup
	memory
}

func (p *Portal) entry(ctx context.Context, id store.ID) (entry, error) {
	pick, err := p.o.Store.Pickup(ctx, id)
	if err != nil {
		return entry{}, err
	}
	m, ok := decodeMemory(pick.Value)
	if !ok {
		p.o.Log.Error("portal: cannot read what was remembered of a pickup; it stays closed", "id", id)
	}
	return entry{pick, m}, nil
}

// advance takes the pickup to a later state, never back, and returns the leaf
// of what happened.
func (p *Portal) advance(e *entry, ev Event) store.Leaf {
	if slices.Index(way, ev.State) > slices.Index(way, e.State) {
		e.State = ev.State
	}
	ev.Pickup, ev.Time = e.Pickup, p.o.Clock()
	return p.o.Leaf(ev)
}

// way is the order of a pickup's states.
var way = []store.PickupState{store.Noticed, store.Landed, store.Proven, store.Released, store.Fetched, store.Replied,
	store.Expired, store.Recalled}

// errUnchanged is returned by the function of change when nothing is to be stored.
var errUnchanged = errors.New("portal: nothing to change")

// maxRaces is how often change tries against other writers of one pickup.
const maxRaces = 20

// change reads a pickup, lets alter change it and stores the result with its
// effects, from the start again if somebody else stored meanwhile. So two
// guesses at once cannot count as one, and a code works once.
func (p *Portal) change(ctx context.Context, id store.ID, alter func(*entry) (store.Effects, error)) error {
	for range maxRaces {
		e, err := p.entry(ctx, id)
		if err != nil {
			return err
		}
		effects, err := alter(&e)
		if errors.Is(err, errUnchanged) {
			return nil
		}
		if err != nil {
			return err
		}
		e.Value = e.memory.encode()
		if err = p.o.Store.PutPickup(ctx, e.Pickup, effects); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return store.ErrConflict
}
