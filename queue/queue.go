// Package queue sends what must still be sent: when, and how fast.
//
// [Queue.Run] asks the store which destinations have mail due, and gives each a
// session as long as there are free workers. A session leases mail of its
// destination and hands it to [Options.Try], one envelope after the other over
// one connection; the lease has counted the attempt and set the next due time
// before anything is dialled. Each result is on disk before the next envelope of
// the session is leased, so a crash repeats at most [Options.Batch] per session.
//
// Nothing is kept in memory for mail that waits, so a million waiting messages
// cost nothing here. Destinations do not wait for one another: a free worker goes
// to the one with the fewest sessions, mail of the prompt lane first; one that
// cannot be reached is left alone for a while. Domains of one provider share a
// site, which has limits and a pace of its own: see [Shaping]. At one destination
// senders and their campaigns take turns, so that none waits for the end of another. When the store
// fails everything pauses, for mail that is sent but not recorded is sent twice.
//
// [Queue.List], [Queue.Retry], [Queue.Hold], [Queue.Release], [Queue.Cancel],
// [Queue.Pause] and [Queue.Destinations] are the operator's verbs.
package queue

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/store"
)

// Store is what the queue needs of the storage contract.
type Store interface {
	Due(ctx context.Context, now time.Time, limit int) ([]store.DestDue, error)
	NextDue(context.Context) (time.Time, error)
	Lease(context.Context, store.LeaseRequest) (store.Batch, error)
	Extend(ctx context.Context, t store.Token, by time.Duration) (time.Time, error)
	Finish(context.Context, store.Token, []store.Result, store.Effects) error
	Change(context.Context, store.Change, store.Effects) error
	Envelope(context.Context, store.EnvelopeID) (store.Envelope, error)
	Envelopes(context.Context, store.Query) ([]store.Envelope, error)
	Apply(context.Context, store.Effects) error
	Records(ctx context.Context, kind, subject string) ([]store.Record, error)
	Check(context.Context) error
}

// Outcome is what became of one envelope, and what else changes with it: its
// audit leaf, a DSN, a pickup.
type Outcome struct {
	store.Result
	store.Effects
	// Down says that the destination could not be reached at all, so that its
	// other mail need not try now.
	Down bool
	// Words are what the server said behind the codes in LastReply, for the
	// rules of the shaping.
	Words Words
}

// Try sends mail to one destination. For each envelope it must call done once,
// before it takes the next; mail ends when nothing is due, when the session has
// lasted long enough, or after an outcome that says to stop. An envelope without
// outcome is tried again when its lease said. ctx ends when the lease was lost
// or the time to shut down is over: stop sending at once.
type Try func(ctx context.Context, dest string, mail iter.Seq[store.Envelope], done func(Outcome))

// GiveUp decides what becomes of an envelope whose time is over: it leaves the
// queue (a DSN, a pickup) or is parked. After an error or a Retry it is asked
// again later.
type GiveUp func(context.Context, store.Envelope) (Outcome, error)

// Concurrency bounds open sessions.
type Concurrency struct{ Total, PerDestination int }

// Options of a queue. Store, Try, GiveUp, Leaf and Clock are needed; zero values
// of the rest are replaced by the defaults in parentheses.
type Options struct {
	Store       Store
	Try         Try
	GiveUp      GiveUp
	Leaf        func(audit.Event) store.Leaf // of the operator's verbs
	Clock       func() time.Time
	Node        string
	Concurrency Concurrency   // (200, 20)
	Retry       store.Backoff // (5m, 4h)
	Lifetime    time.Duration // of an envelope without Expires (72h)
	Lease       time.Duration // how long a dead node's mail waits, and a store may fail without a mail being sent twice (10m)
	Batch       int           // envelopes per lease; a crash repeats at most so many per session (1)
	Linger      time.Duration // an idle session waits so long for more mail (1s)
	Drain       time.Duration // time for open sessions at shutdown (30s)

	// Site names what a destination shares its limits with, as [Shaping.Site]
	// does; nil is the destination itself. It is asked often, with a lock held,
	// and must not wait. While it does not know it names the destination, and
	// open sessions move when it does.
	Site    func(dest string) string
	Shaping *Shaping // nil: 421 and 4.7.x back off, and Concurrency is the only limit
	Log     *slog.Logger
	Count   func(Event) // for metrics
}

// Event is something that metrics count.
type Event string

const (
	Attempt   Event = "attempt"
	Sent      Event = "finished"
	Retried   Event = "retry"
	Parked    Event = "parked"
	GaveUp    Event = "gave_up"
	LeaseLost Event = "lease_lost"
	Paused    Event = "paused"
)

// ErrOptions is returned by New when something needed is missing.
var ErrOptions = errors.New("queue: Store, Try, GiveUp, Leaf and Clock are needed")

// Queue sends mail. Its methods may be called at once from many goroutines.
type Queue struct {
	o    Options
	wake chan struct{} // capacity 1: look again

	mu    sync.Mutex // guards what follows
	sites sites
	live  map[*session]struct{}
	pause pause
}

// New returns a queue that does nothing until Run.
func New(o Options) (*Queue, error) {
	if o.Store == nil || o.Try == nil || o.GiveUp == nil || o.Leaf == nil || o.Clock == nil {
		return nil, ErrOptions
	}
	o = o.withDefaults()
	return &Queue{
		o: o, wake: make(chan struct{}, 1),
		sites: sites{limit: o.Concurrency, linger: o.Linger, of: o.Site, retry: o.Retry, shaping: o.Shaping, known: map[string]*site{}},
		live:  map[*session]struct{}{},
	}, nil
}

func (o Options) withDefaults() Options {
	setDefault(&o.Concurrency.Total, 200)
	setDefault(&o.Concurrency.PerDestination, 20)
	setDefault(&o.Retry.First, 5*time.Minute)
	setDefault(&o.Retry.Max, 4*time.Hour)
	setDefault(&o.Lifetime, 72*time.Hour)
	setDefault(&o.Lease, 10*time.Minute)
	setDefault(&o.Batch, 1)
	setDefault(&o.Linger, time.Second)
	setDefault(&o.Drain, 30*time.Second)
	if o.Site == nil {
		o.Site = func(dest string) string { return dest }
	}
	if o.Shaping == nil {
		o.Shaping = plain()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Count == nil {
		o.Count = func(Event) {}
	}
	return o
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Reshape holds destinations to new limits and rules from now on; nil are those
// of a queue without Shaping. What was learnt about them stays.
func (q *Queue) Reshape(s *Shaping) {
	if s == nil {
		s = plain()
	}
	q.mu.Lock()
	q.sites.reshape(s)
	q.mu.Unlock()
	q.Kick()
}

// Kick says that there may be new mail. It never blocks.
func (q *Queue) Kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// expires is when an envelope's time is over.
func (q *Queue) expires(e store.Envelope) time.Time {
	if e.Expires.IsZero() {
		return e.Message.Accepted.Add(q.o.Lifetime)
	}
	return e.Expires
}
