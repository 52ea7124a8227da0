package store

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/phigate/phigate/policy"
)

// What every engine does alike: which effects it refuses, when a leased
// envelope falls due again, and which rows a query selects.

// DefaultLimit is how many rows a query without a Limit gives.
const DefaultLimit = 100

// defaultFirst is the wait of a Backoff that names none, so that a forgotten
// setting does not hammer a server.
const defaultFirst = 5 * time.Minute

// minSecret is the least a link's secret may have in bytes: the key of its mail
// hangs on it.
const minSecret = 16

// Wait is the time from the attempt-th attempt (from 1) of an envelope to its
// next: First, doubled for each attempt up to Max, ±20 %. The jitter hangs on
// the envelope and the attempt alone, so that two engines agree on it.
func (b Backoff) Wait(id EnvelopeID, attempt int) time.Duration {
	first := b.First
	if first <= 0 {
		first = defaultFirst
	}
	limit := max(first, b.Max)
	wait := first
	for i := 1; i < attempt && wait < limit; i++ {
		wait = min(2*wait, limit)
	}
	h := fnv.New32a()
	h.Write(strconv.AppendInt(append([]byte(id), '/'), int64(attempt), 10))
	return time.Duration(float64(wait) * (0.8 + 0.4*float64(h.Sum32())/math.MaxUint32))
}

// Flows is how many flows there are; they are numbered from 0.
const Flows = 255

// FlowOf is the flow of a message, by which envelopes of one destination take
// turns: that of its sender and campaign. Two campaigns share a flow, and then
// wait for each other, with a chance of one in Flows.
func FlowOf(m Message) uint8 {
	h := fnv.New32a()
	h.Write([]byte(m.Sender + "\x00" + m.Campaign))
	return uint8(h.Sum32() % Flows)
}

// Behind is how many turns flow comes after the flow that had its turn last; it
// sorts flows into the order of Lease.
func Behind(after, flow uint8) int { return (int(flow) - int(after) - 1 + 2*Flows) % Flows }

// Recovered is when an envelope whose lease died with its process falls due:
// at once if that was its first attempt, for a restart should not delay a whole
// campaign; otherwise when the lease said, so that mail which kills the process
// each time does not hammer anybody.
func Recovered(attempts int, due, now time.Time) time.Time {
	if attempts <= 1 {
		return now
	}
	return due
}

// Number is the n of "<message id>.<n>"; ok is false if the id has not that form.
func (e EnvelopeID) Number() (n uint32, ok bool) {
	m, text, found := strings.Cut(string(e), ".")
	v, err := strconv.ParseUint(text, 10, 32)
	ok = found && err == nil && ID(m).Valid() && strconv.FormatUint(v, 10) == text
	return uint32(v), ok
}

// Less reports whether e comes before f: by message, then by number.
func (e EnvelopeID) Less(f EnvelopeID) bool {
	if a, b := e.Message(), f.Message(); a != b {
		return a < b
	}
	a, _ := e.Number()
	b, _ := f.Number()
	return a < b
}

// Validate reports what no engine stores: malformed ids, an envelope of another
// message, an envelope that is neither ready nor held, a pickup without secret.
// Its errors print no value.
func (e Effects) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("store: "+format, args...)) }
	for i, m := range e.Messages {
		if !m.Message.ID.Valid() {
			bad("message %d: malformed id", i)
		}
		seen := map[EnvelopeID]bool{}
		for j, v := range m.Envelopes {
			if seen[v.ID] {
				bad("message %d: envelope %d: id given twice", i, j)
			}
			seen[v.ID] = true
			if _, ok := v.ID.Number(); !ok || v.ID.Message() != m.Message.ID {
				bad("message %d: envelope %d: id is not one of the message", i, j)
			}
			if v.State != Ready && v.State != Held {
				bad("message %d: envelope %d: state must be ready or held", i, j)
			}
		}
	}
	for i, p := range e.Pickups {
		if !p.Pickup.ID.Valid() || !p.Pickup.Message.Valid() {
			bad("pickup %d: malformed id", i)
		}
		if len(p.Secret) < minSecret || p.Pickup.State.Over() {
			bad("pickup %d: secret too short, or over already", i)
		}
	}
	for i, r := range e.Records {
		if r.Kind == "" || len(r.Kind) > math.MaxUint8 {
			bad("record %d: kind must have 1 to 255 bytes", i)
		}
	}
	for i, l := range e.Leaves {
		if l.ID != "" && !l.ID.Valid() {
			bad("leaf %d: malformed id", i)
		}
	}
	return errors.Join(errs...)
}

// Settable reports whether a Change may ask for the state.
func (s State) Settable() bool { return s == Ready || s == Held || s == "" }

// Outcome is what a result that keeps the envelope in the queue makes of it at
// now. An unknown Next holds it.
func (r Result) Outcome(e Envelope, now time.Time) Envelope {
	switch r.Next {
	case Retry:
		e.State = Ready
		if !r.Due.IsZero() {
			e.Due = r.Due
		}
	default:
		e.State = Held
		if !r.Expires.IsZero() {
			e.Expires = r.Expires
		}
	}
	if r.Floor != (policy.Floor{}) {
		e.Floor = e.Floor.Max(r.Floor)
	}
	if r.Code != "" {
		e.Code = r.Code
	}
	if r.LastReply != "" {
		e.LastReply, e.LastAt = r.LastReply, now
	}
	e.Sent = e.Sent || r.Sent
	return e
}

// Outcome is what a change that keeps the envelope makes of it. An Update is a
// new verdict: its floor replaces the stored one.
func (c Change) Outcome(e Envelope) Envelope {
	e.State = c.To
	if !c.Due.IsZero() {
		e.Due = c.Due
	}
	if u := c.Update; u != nil {
		e.Floor, e.Within, e.Else = u.Floor, u.Within, u.Else
		e.Code, e.Rule, e.Facts, e.Expires = u.Code, u.Rule, u.Facts, u.Expires
	}
	return e
}

// Match reports whether the query selects the envelope, pages aside.
func (q Query) Match(e Envelope) bool {
	return (q.State == "" || q.State == e.State) &&
		(q.Message == "" || q.Message == e.Message.ID) &&
		(q.Sender == "" || q.Sender == e.Message.Sender) &&
		(q.Dest == "" || q.Dest == e.Dest) &&
		(q.Campaign == "" || q.Campaign == e.Message.Campaign) &&
		(q.Recipient == "" || sameMailbox(q.Recipient, e.Recipient)) &&
		(q.Code == "" || q.Code == e.Code) &&
		(q.ExpiresBy.IsZero() || !e.Expires.After(q.ExpiresBy))
}

// Match reports whether the query selects the pickup, pages aside.
func (q PickupQuery) Match(p Pickup) bool {
	return (q.Recipient == "" || sameMailbox(q.Recipient, p.Recipient)) &&
		(q.Message == "" || q.Message == p.Message) &&
		(q.ExpiresBy.IsZero() || !p.State.Over() && !p.Expires.After(q.ExpiresBy))
}

func sameMailbox(a, b string) bool { return policy.Address(a).Key() == policy.Address(b).Key() }
