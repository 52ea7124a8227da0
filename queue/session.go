package queue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/phigate/phigate/internal/store"
)

// A session makes room for another destination after so many envelopes or so long.
const (
	quantum = 100
	stay    = 5 * time.Second
)

// session is one worker's stay at one destination.
type session struct {
	q    *Queue
	dest string
	site *site
	ctx  context.Context
	stop context.CancelFunc
	more chan bool // to an idle session: true = there is mail, false = make room

	since time.Time
	begun time.Time // of the envelope that is being sent

	// Guarded by q.mu.
	token   store.Token
	until   time.Time // of the lease; zero = none
	looking bool      // not yet told whether there is mail

	batch    []store.Envelope
	outcomes map[store.EnvelopeID]Outcome
	taken    int  // envelopes in all
	over     bool // an outcome said to stop
}

// run stays until there is no mail, or no place.
func (s *session) run() {
	defer s.stop()
	s.q.o.Try(s.ctx, s.dest, s.mail, s.done)
	s.finish()
}

// mail yields envelopes, leasing as it goes.
func (s *session) mail(yield func(store.Envelope) bool) {
	for s.lease() {
		for _, e := range s.batch {
			if s.over || s.cut() {
				return
			}
			if o, done := s.tooLate(e); done {
				s.record(e, o)
				continue
			}
			s.q.o.Count(Attempt)
			s.begun = s.q.o.Clock()
			if !yield(e) {
				return
			}
		}
	}
}

// lease finishes the last batch and takes the next one, waiting a moment for it.
func (s *session) lease() bool {
	for s.finish() && s.mayGoOn() {
		if !s.q.allowed(s) {
			if s.taken == 0 || !s.q.linger(s) {
				return false
			}
			continue
		}
		b, err := s.q.o.Store.Lease(s.ctx, s.q.request(s))
		s.q.leased(s, b)
		switch {
		case errors.Is(err, store.ErrNoSlot):
			s.q.crowdedOut(s)
			return false
		case err != nil:
			if s.ctx.Err() == nil {
				s.q.failed("lease", err)
			}
			return false
		case len(b.Envelopes) > 0:
			s.batch, s.outcomes = b.Envelopes, map[store.EnvelopeID]Outcome{}
			s.taken += len(b.Envelopes)
			return true
		case s.taken == 0 || !s.q.linger(s):
			return false
		}
	}
	return false
}

// cut reports whether the session must stop because of a shutdown or a lost lease.
func (s *session) cut() bool {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	return s.ctx.Err() != nil || s.q.pause.ended
}

// mayGoOn reports whether the session may take more mail.
func (s *session) mayGoOn() bool {
	if s.over || s.cut() {
		return false
	}
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	v, now := s.site, s.q.o.Clock()
	long := s.taken >= quantum || now.Sub(s.since) >= stay
	full := v.limits.messages > 0 && s.taken >= v.limits.messages
	return !s.q.pause.on && !s.q.pause.stopped && !full && !(long && (s.q.sites.wanted || v.wanted)) && v.open <= v.window && !now.Before(v.until)
}

// done takes the outcome of an envelope of the batch.
func (s *session) done(o Outcome) {
	i := slices.IndexFunc(s.batch, func(e store.Envelope) bool { return e.ID == o.Envelope })
	if i < 0 {
		s.q.o.Log.Error("outcome for an envelope that was not leased", "envelope", string(o.Envelope))
		return
	}
	e := s.batch[i]
	s.over = s.q.learn(s, o)
	if o.Next == store.Retry {
		o = s.retry(e, o)
	}
	s.record(e, o)
}

// tooLate gives up an envelope whose time is over, unless it was never tried: we
// may have been switched off.
func (s *session) tooLate(e store.Envelope) (Outcome, bool) {
	if e.Attempts <= 1 || s.q.o.Clock().Before(s.q.expires(e)) {
		return Outcome{}, false
	}
	return s.giveUp(e)
}

func (s *session) giveUp(e store.Envelope) (Outcome, bool) {
	o, err := s.q.o.GiveUp(s.ctx, e)
	if err != nil {
		s.q.o.Log.Error("giving up failed", "envelope", string(e.ID), "error", err)
		return Outcome{}, false
	}
	s.q.o.Count(GaveUp)
	o.Envelope = e.ID
	return o, true
}

// retry sets when an envelope is tried again: as the lease said, but not after
// the time when its floor must be met or when it expires. One that expired is
// given up.
func (s *session) retry(e store.Envelope, o Outcome) Outcome {
	now := s.q.o.Clock()
	if !now.Before(s.q.expires(e)) {
		if last, ok := s.giveUp(e); ok {
			last.Leaves = append(o.Leaves, last.Leaves...)
			return last
		}
		return o
	}
	due := o.Due
	if due.IsZero() {
		due = e.Due
	}
	for _, limit := range []time.Time{e.Within, s.q.expires(e)} {
		if limit.After(now) && limit.Before(due) {
			due, o.Due = limit, limit
		}
	}
	return o
}

// record keeps an outcome for the next finish. Effects that no store would take
// park the envelope: a person must look, and it must not be sent again.
func (s *session) record(e store.Envelope, o Outcome) {
	if err := o.Effects.Validate(); err != nil {
		s.q.o.Log.Error("outcome cannot be stored; the envelope is held", "envelope", string(e.ID), "error", err)
		o.Effects, o.Next = store.Effects{}, store.Park
	}
	o.Envelope = e.ID
	s.outcomes[e.ID] = o
	s.q.o.Count(counted(o.Next))
}

func counted(n store.Next) Event {
	switch n {
	case store.Retry:
		return Retried
	case store.Finish:
		return Sent
	}
	return Parked
}

// finish makes the outcomes of the batch durable and ends its lease. It reports
// whether the session may lease again.
func (s *session) finish() bool {
	if len(s.batch) == 0 {
		return true
	}
	results, effects := s.gather()
	s.batch = nil
	err := s.q.finish(s, results, effects)
	if err != nil {
		s.q.o.Log.Error("results are not recorded; their mail is sent again", "results", len(results), "error", err)
	}
	return err == nil
}

// gather puts the outcomes of a batch into one finish. What was cut off by the
// shutdown goes back at once; the rest waits as the lease said.
func (s *session) gather() (results []store.Result, effects store.Effects) {
	for _, e := range s.batch {
		o, ok := s.outcomes[e.ID]
		if !ok {
			if s.cut() {
				results = append(results, store.Result{Envelope: e.ID, Next: store.Retry, Due: s.q.o.Clock()})
			}
			continue
		}
		results = append(results, o.Result)
		effects.Messages = append(effects.Messages, o.Messages...)
		effects.Pickups = append(effects.Pickups, o.Pickups...)
		effects.Records = append(effects.Records, o.Records...)
		effects.Leaves = append(effects.Leaves, o.Leaves...)
	}
	return results, effects
}
