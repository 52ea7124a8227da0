package queue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/phigate/phigate/internal/store"
)

const (
	pace      = 2 * time.Millisecond // at least, between two looks at what is due
	share     = 10                   // looks take at most one part in so many of a core
	maxPace   = 100 * time.Millisecond
	blocked   = time.Second // until the next look when mail is due that may not go
	idleLook  = time.Minute // when nothing is due
	sweepEach = time.Minute
	firstWait = time.Second // after a store error
	maxWait   = 30 * time.Second
)

// pause stops all sending while the store cannot record it.
type pause struct {
	on    bool
	ended bool // the queue is shutting down
	wait  time.Duration
}

// Run sends mail until ctx ends, then lets open sessions end what they are
// sending, for at most Options.Drain, and returns nil. Errors of the store pause
// it; they do not end it.
func (q *Queue) Run(ctx context.Context) error {
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var sessions, others sync.WaitGroup
	others.Go(func() { q.keep(work) })
	others.Go(func() { q.sweep(ctx) })
	q.dispatch(ctx, func(s *session) {
		s.ctx, s.stop = context.WithCancel(work)
		sessions.Go(func() {
			defer q.leave(s)
			s.run()
		})
	})
	q.end()
	timer := time.AfterFunc(q.o.Drain, cut)
	defer timer.Stop()
	sessions.Wait()
	cut()
	others.Wait()
	return nil
}

// dispatch starts sessions as mail falls due.
func (q *Queue) dispatch(ctx context.Context, launch func(*session)) {
	q.mu.Lock()
	q.pause = pause{}
	q.mu.Unlock()
	for ctx.Err() == nil {
		begin := time.Now()
		wait := q.look(ctx, launch)
		rest(ctx, min(max(pace, (share-1)*time.Since(begin)), maxPace))
		select {
		case <-q.wake:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// look starts what may start now and returns when to look again at the latest.
func (q *Queue) look(ctx context.Context, launch func(*session)) time.Duration {
	if wait := q.ready(ctx); wait > 0 {
		return wait
	}
	now := q.o.Clock()
	due, err := q.o.Store.Due(ctx, now, q.room())
	if err == nil {
		q.assign(due, now, launch)
		var next time.Time
		if next, err = q.o.Store.NextDue(ctx); err == nil {
			return until(now, next)
		}
	}
	if ctx.Err() == nil {
		q.failed("due", err)
	}
	return firstWait
}

func until(now, next time.Time) time.Duration {
	switch {
	case next.IsZero():
		return idleLook
	case !next.After(now):
		return blocked
	}
	return min(next.Sub(now), idleLook)
}

// room is how many destinations to ask for: those that may not start now must
// not hide those that may.
func (q *Queue) room() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.o.Concurrency.Total + len(q.sites.known)
}

// assign gives each destination that is due one more session, if it may. Each
// that finds mail makes us look again, so a destination gets more step by step.
func (q *Queue) assign(due []store.DestDue, now time.Time, launch func(*session)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sites.order(due)
	q.sites.wanted = false
	for _, d := range due {
		switch q.sites.chance(d, now) {
		case start:
			launch(q.newSession(d.Dest))
		case resume:
			q.resume(d.Dest)
		case crowd:
			q.sites.wanted = true
			q.makeRoom()
		}
	}
}

func (q *Queue) newSession(dest string) *session {
	v := q.sites.get(dest)
	v.open++
	v.leasing++
	q.sites.open++
	s := &session{q: q, dest: dest, site: v, more: make(chan bool, 1), since: q.o.Clock(), looking: true}
	q.live[s] = struct{}{}
	return s
}

// resume wakes an idle session of the destination. Call it with mu held.
func (q *Queue) resume(dest string) {
	v := q.sites.get(dest)
	i := slices.IndexFunc(v.idle, func(s *session) bool { return s.dest == dest })
	s := v.idle[i]
	v.idle = slices.Delete(v.idle, i, i+1)
	v.leasing++
	s.looking = true
	s.more <- true
}

// makeRoom ends one idle session. Call it with mu held.
func (q *Queue) makeRoom() {
	for _, v := range q.sites.known {
		if len(v.idle) > 0 {
			s := v.idle[0]
			v.idle = v.idle[1:]
			s.more <- false
			return
		}
	}
}

// linger waits a moment for more mail, so that the connection can be used again.
func (q *Queue) linger(s *session) bool {
	q.mu.Lock()
	if q.pause.ended || q.sites.wanted {
		q.mu.Unlock()
		return false
	}
	s.site.idle = append(s.site.idle, s)
	q.mu.Unlock()
	q.Kick() // for mail that came meanwhile
	select {
	case more := <-s.more:
		return more
	case <-time.After(q.o.Linger):
	case <-s.ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(s.site.idle, s); i >= 0 {
		s.site.idle = slices.Delete(s.site.idle, i, i+1)
		return false
	}
	return <-s.more // somebody woke us at the same moment
}

// leased notes what a session got, and looks for a second one if it got mail.
func (q *Queue) leased(s *session, b store.Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.looked(s)
	if len(b.Envelopes) > 0 {
		s.token, s.until = b.Token, b.Until
		q.Kick()
	}
}

// looked notes that a session knows whether there is mail. Call it with mu held.
func (q *Queue) looked(s *session) {
	if s.looking {
		s.looking = false
		s.site.leasing--
	}
}

// crowdedOut leaves a site alone for a moment: other nodes have all its slots.
func (q *Queue) crowdedOut(s *session) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if soon := q.o.Clock().Add(blocked); s.site.until.Before(soon) {
		s.site.until = soon
	}
}

// leave ends a session.
func (q *Queue) leave(s *session) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.looked(s)
	delete(q.live, s)
	s.site.open--
	q.sites.open--
	q.sites.forget(s.site)
	q.Kick()
}

// learn tells the site what an outcome says about it, and reports whether the
// session should stop.
func (q *Queue) learn(s *session, o Outcome) (stop bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case o.Down:
		q.sites.down(s.site, s.dest, q.o.Clock())
		return true
	case o.Next == store.Retry && throttled(o.LastReply):
		q.sites.pushedBack(s.site, s.dest, q.o.Clock())
		return true
	case o.Next == store.Finish && o.LastReply != "": // not what became something else here
		q.sites.success(s.site)
	}
	return false
}

// keep extends the leases of open sessions, and stops a session that lost its own.
func (q *Queue) keep(ctx context.Context) {
	tick := time.NewTicker(q.o.Lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for s, t := range q.leases() {
				q.extend(ctx, s, t)
			}
		}
	}
}

func (q *Queue) leases() map[*session]store.Token {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := map[*session]store.Token{}
	for s := range q.live {
		if !s.until.IsZero() {
			m[s] = s.token
		}
	}
	return m
}

func (q *Queue) extend(ctx context.Context, s *session, t store.Token) {
	until, err := q.o.Store.Extend(ctx, t, q.o.Lease)
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.token != t || s.until.IsZero() { // finished meanwhile
		return
	}
	switch {
	case err == nil:
		s.until = until
	case errors.Is(err, store.ErrLeaseLost) || !q.o.Clock().Before(s.until):
		s.stop()
	}
}

// finish ends a lease. While the store fails it tries again for as long as the
// lease may live: a result that is lost is mail that is sent twice.
func (q *Queue) finish(s *session, results []store.Result, effects store.Effects) error {
	ctx := context.WithoutCancel(s.ctx)
	defer func() {
		q.mu.Lock()
		s.until = time.Time{}
		q.mu.Unlock()
	}()
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		err := q.o.Store.Finish(ctx, s.token, results, effects)
		if errors.Is(err, store.ErrLeaseLost) {
			q.o.Count(LeaseLost)
		}
		if err == nil || errors.Is(err, store.ErrLeaseLost) || errors.Is(err, store.ErrConflict) {
			return err
		}
		q.failed("finish", err)
		if s.ctx.Err() != nil {
			return err
		}
		rest(s.ctx, wait)
	}
}

// failed pauses the queue: mail that is sent and not recorded is sent again.
func (q *Queue) failed(doing string, err error) {
	q.mu.Lock()
	first := !q.pause.on
	q.pause.on = true
	q.mu.Unlock()
	if first {
		q.o.Count(Paused)
		q.o.Log.Error("the store failed; sending pauses", "doing", doing, "error", err)
	}
	q.Kick()
}

// ready asks a failed store whether it can serve again; the answer is how long
// to wait before asking again, 0 if all is well.
func (q *Queue) ready(ctx context.Context) time.Duration {
	q.mu.Lock()
	on := q.pause.on
	q.mu.Unlock()
	if !on {
		return 0
	}
	err := q.o.Store.Check(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		q.pause.wait = min(max(firstWait, 2*q.pause.wait), maxWait)
		return q.pause.wait
	}
	q.pause.on, q.pause.wait = false, 0
	q.o.Log.Info("the store serves again; sending goes on")
	return 0
}

// end lets no session take more mail.
func (q *Queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pause.ended = true
	for _, v := range q.sites.known {
		for _, s := range v.idle {
			s.more <- false
		}
		v.idle = nil
	}
}

// sweep gives up what no session sees to: held mail that expired, and mail to
// destinations that are left alone, when it expired or its floor should have
// been met by now.
func (q *Queue) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEach)
	defer tick.Stop()
	for {
		if err := q.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			q.o.Log.Error("expired mail could not be swept", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (q *Queue) sweepOnce(ctx context.Context) error {
	now := q.o.Clock()
	q.mu.Lock()
	q.sites.prune(now)
	unreached := q.sites.unreached()
	q.mu.Unlock()
	err := q.sweepQuery(ctx, store.Query{ExpiresBy: now}, func(e store.Envelope) bool {
		untried := e.State == store.Ready && e.Attempts == 0 && !slices.Contains(unreached, e.Dest)
		return !untried && !now.Before(q.expires(e))
	})
	for _, dest := range unreached { // nobody will try whether the floor can be met
		if err == nil {
			err = q.sweepQuery(ctx, store.Query{State: store.Ready, Dest: dest}, func(e store.Envelope) bool {
				return !e.Within.IsZero() && !now.Before(e.Within)
			})
		}
	}
	return err
}

// sweepQuery gives up what the query selects and over says.
func (q *Queue) sweepQuery(ctx context.Context, query store.Query, over func(store.Envelope) bool) error {
	for {
		page, err := q.o.Store.Envelopes(ctx, query)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			if e.State == store.Leased || !over(e) {
				continue
			}
			if err := q.giveUp(ctx, e); err != nil {
				return err
			}
		}
		query.After = page[len(page)-1].ID
	}
}

func (q *Queue) giveUp(ctx context.Context, e store.Envelope) error {
	o, err := q.o.GiveUp(ctx, e)
	if err != nil || o.Next == store.Retry {
		return err
	}
	c := store.Change{Envelopes: []store.EnvelopeID{e.ID}}
	if o.Next != store.Finish {
		e.Expires = o.Expires
		if o.Code != "" {
			e.Code = o.Code
		}
		c.To, c.Update = store.Held, &e
	}
	err = q.o.Store.Change(ctx, c, o.Effects)
	if errors.Is(err, store.ErrConflict) { // leased meanwhile: the session sees to it
		return nil
	}
	q.o.Count(GaveUp)
	q.Kick() // for what it left: a DSN, a notice
	return err
}
