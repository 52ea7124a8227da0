package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// Kind says what happened. The texts never change meaning.
type Kind string

const (
	Accepted   Kind = "accepted"   // decided and queued; what becomes of it has a leaf of its own
	Delivered  Kind = "delivered"  // the recipient's server took it
	Pickup     Kind = "pickup"     // put on the portal, and each step there
	Bounced    Kind = "bounced"    // given up, a DSN was made
	Complained Kind = "complained" // the recipient called it spam, by its provider's report
	Held       Kind = "held"
	Deferred   Kind = "deferred" // to be tried again, or answered 4xx
	Rejected   Kind = "rejected"
	Released   Kind = "released" // a reviewer let a held one go
	Recalled   Kind = "recalled" // a pickup was withdrawn
	Cancelled  Kind = "cancelled"
	Imported   Kind = "imported"
	Revoked    Kind = "revoked"
	Changed    Kind = "changed" // policy, keys, users, settings
	Exported   Kind = "exported"
	Read       Kind = "read"
)

// Event is one thing that happened. What could tell about a person is kept as a
// salted commitment in the log and as a clear value sealed beside it; only
// Time, ID, Envelope, Kind, Sender, Partner, Code, Rule, Policy, the enums of
// Facts and Codes enter the log itself.
type Event struct {
	Time     time.Time        // UTC, kept to the millisecond
	ID       store.ID         // the message or pickup, as said in the SMTP reply; "" if none
	Envelope store.EnvelopeID // "" if it is about the whole message
	Kind     Kind
	Code     policy.Code
	Rule     string // name in policy.yaml
	Policy   string // hash of the policy that decided
	Sender   string // name in policy.yaml
	Partner  string // partner id
	Facts    *policy.Facts

	Recipient policy.Address
	Return    policy.Address // envelope sender
	Campaign  string
	Who       string // the person who did it; "" is the gateway
	Second    string // the second person, where four eyes are asked for
	Reason    string // the person's words

	// Codes are words of closed sets and numbers: action, tls, suite, assurance,
	// reply, format. One that is no plain token is treated as Evidence.
	Codes map[string]string
	// Evidence is what else proves it: mx, certificate, client, login method.
	Evidence map[string]string
}

// Format keeps people out of logs: an event prints as its kind and code.
func (e Event) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%s %s", string(e.Kind), string(e.Code)) }

// record is what enters the tree. Its JSON is canonical because it is written
// once and hashed as bytes: fields in this order, map keys sorted.
type record struct {
	Version  int               `json:"v"`
	Time     time.Time         `json:"time"`
	Event    Kind              `json:"event"`
	ID       store.ID          `json:"id,omitempty"`
	Envelope store.EnvelopeID  `json:"envelope,omitempty"`
	Code     policy.Code       `json:"code,omitempty"`
	Rule     string            `json:"rule,omitempty"`
	Policy   string            `json:"policy,omitempty"`
	Sender   string            `json:"sender,omitempty"`
	Partner  string            `json:"partner,omitempty"`
	Facts    json.RawMessage   `json:"facts,omitempty"` // a facts line: enums only
	Codes    map[string]string `json:"codes,omitempty"`
	Build    string            `json:"build,omitempty"`
	Sealed   map[string]string `json:"sealed,omitempty"` // commitments
}

// values are the clear values behind the commitments of a record.
type values struct {
	Salt   []byte            `json:"salt"`
	Values map[string]string `json:"values"`
}

func (v values) Format(f fmt.State, _ rune) { io.WriteString(f, "[phi]") }

// Names of sealed values; evidence has its own key behind a prefix.
const (
	recordVersion  = 1
	saltSize       = 32
	recipientName  = "recipient"
	returnName     = "return"
	campaignName   = "campaign"
	consentName    = "consent"
	whoName        = "who"
	secondName     = "second"
	reasonName     = "reason"
	evidencePrefix = "evidence."
)

// sensitive lists the clear values of an event by name.
func (e Event) sensitive() map[string]string {
	m := map[string]string{}
	put := func(name, value string) {
		if value != "" {
			m[name] = value
		}
	}
	put(recipientName, e.Recipient.Clear())
	put(returnName, e.Return.Clear())
	put(campaignName, e.Campaign)
	put(whoName, e.Who)
	put(secondName, e.Second)
	put(reasonName, e.Reason)
	if e.Facts != nil {
		put(consentName, e.Facts.ConsentID)
		if e.Campaign == "" {
			put(campaignName, e.Facts.Campaign)
		}
	}
	for k, v := range e.Evidence {
		put(evidencePrefix+k, v)
	}
	for k, v := range e.Codes {
		if !token(v) {
			put(evidencePrefix+k, v)
		}
	}
	return m
}

// token reports whether s can be a code: short, and without "@", blank or quote,
// so that neither an address nor a sentence is one.
func token(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '-', c == '+', c == ':', c == '/', c == ',':
		default:
			return false
		}
	}
	return len(s) <= 100
}

func (e Event) public(build string) record {
	r := record{
		Version: recordVersion, Time: e.Time.UTC().Truncate(time.Millisecond), Event: e.Kind,
		ID: e.ID, Envelope: e.Envelope, Code: e.Code, Rule: e.Rule, Policy: e.Policy,
		Sender: e.Sender, Partner: e.Partner, Codes: maps.Clone(e.Codes), Build: build,
	}
	maps.DeleteFunc(r.Codes, func(_, v string) bool { return !token(v) })
	if e.Facts != nil {
		r.Facts = e.Facts.Line()
	}
	return r
}

// commit binds one value. Each has a salt of its own, so that one can be shown
// to an outsider without making the others guessable.
func commit(salt []byte, name, value string) string {
	return commitSalted(fieldSalt(salt, name), value)
}

// fieldSalt is SHA-256(salt | name); the salt has a fixed length, so nothing is
// ambiguous, and no name ends in SHA-256 padding, so none is another's extension.
func fieldSalt(salt []byte, name string) [sha256.Size]byte {
	var buf [128]byte
	return sha256.Sum256(append(append(buf[:0], salt...), name...))
}

func commitSalted(salt [sha256.Size]byte, value string) string {
	var buf [256]byte
	sum := sha256.Sum256(append(append(buf[:0], salt[:]...), value...))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// leaf makes the log line of an event.
func (e Event) leaf(build string) store.Leaf {
	r := e.public(build)
	var sealed []byte
	if clear := e.sensitive(); len(clear) > 0 {
		v := values{Salt: make([]byte, saltSize), Values: clear}
		rand.Read(v.Salt) // never fails since Go 1.24
		r.Sealed = make(map[string]string, len(clear))
		for name, value := range clear {
			r.Sealed[name] = commit(v.Salt, name, value)
		}
		sealed = mustJSON(v)
	}
	return store.Leaf{Time: r.Time, ID: e.ID, Event: string(e.Kind), Record: mustJSON(r), Sealed: sealed}
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("audit: a record is no JSON") // no field of ours can fail
	}
	return b
}

var errLeaf = errors.New("audit: not a leaf of this version")

// parse reads a leaf back. The values are absent when they were dropped.
func parse(l store.Leaf) (record, *values, error) {
	var r record
	if err := json.Unmarshal(l.Record, &r); err != nil || r.Version != recordVersion {
		return r, nil, errLeaf
	}
	if _, err := r.facts(); err != nil {
		return r, nil, errLeaf
	}
	if len(l.Sealed) == 0 {
		return r, nil, nil
	}
	v := new(values)
	if err := json.Unmarshal(l.Sealed, v); err != nil {
		return r, nil, errLeaf
	}
	return r, v, nil
}

// facts reads the facts line, nil if there is none.
func (r record) facts() (*policy.Facts, error) {
	if len(r.Facts) == 0 {
		return nil, nil
	}
	f, err := policy.ParseFactsLine(r.Facts)
	f.Now, f.Partner = r.Time, r.Partner
	return &f, err
}

// event puts record and values together again.
func (r record) event(v *values) Event {
	e := Event{
		Time: r.Time, ID: r.ID, Envelope: r.Envelope, Kind: r.Event, Code: r.Code, Rule: r.Rule, Policy: r.Policy,
		Sender: r.Sender, Partner: r.Partner, Codes: r.Codes,
	}
	e.Facts, _ = r.facts() // parse has looked
	if v == nil {
		return e
	}
	get := func(name string) string { return v.Values[name] }
	e.Recipient, e.Return = policy.Address(get(recipientName)), policy.Address(get(returnName))
	e.Campaign, e.Who, e.Second, e.Reason = get(campaignName), get(whoName), get(secondName), get(reasonName)
	if e.Facts != nil {
		e.Facts.Campaign, e.Facts.ConsentID = e.Campaign, get(consentName)
	}
	for name, value := range v.Values {
		if key, ok := strings.CutPrefix(name, evidencePrefix); ok {
			if e.Evidence == nil {
				e.Evidence = map[string]string{}
			}
			e.Evidence[key] = value
		}
	}
	return e
}
