package queue

import (
	"context"
	"errors"
	"slices"
	"strings"
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

// pause stops all sending while the store cannot record it, or an operator says.
type pause struct {
	on      bool
	stopped bool // by an operator
	known   bool // whether stopped has been read from the store
	ended   bool // the queue is shutting down
	wait    time.Duration
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
	switch stopped, err := q.stopped(ctx); {
	case err != nil:
		if ctx.Err() == nil {
			q.failed("pause", err)
		}
		return firstWait
	case stopped:
		return idleLook
	}
	now, room := q.o.Clock(), q.room()
	due, err := q.o.Store.Due(ctx, now, room)
	if err == nil {
		soon, stuck := q.assign(due, now, launch)
		if stuck && len(due) == room {
			return 0 // those that may start are hidden behind those that may not
		}
		var next time.Time
		if next, err = q.o.Store.NextDue(ctx); err == nil {
			return sooner(until(now, next), soon, now)
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

// sooner is wait, or the time until soon if that is shorter.
func sooner(wait time.Duration, soon, now time.Time) time.Duration {
	if soon.IsZero() {
		return wait
	}
	return min(wait, max(soon.Sub(now), 0))
}

// room is how many destinations to ask for: those that may not start now must
// not hide those that may.
func (q *Queue) room() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.o.Concurrency.Total + q.sites.blocked
}

// assign gives each destination that is due one more session, if it may. Each
// that finds mail makes us look again, so a destination gets more step by step.
// soon is when a rate allows more, if any does; stuck is that nothing could
// start.
func (q *Queue) assign(due []store.DestDue, now time.Time, launch func(*session)) (soon time.Time, stuck bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.sites.order(due)
	q.sites.wanted, q.sites.blocked = false, 0
	for _, c := range list {
		c.site.wanted = false
	}
	for _, c := range list {
		q.sites.blocked++
		switch what, paced := q.sites.chance(c, now); what {
		case start:
			q.sites.blocked--
			launch(q.newSession(c))
		case resume:
			q.sites.blocked--
			q.resume(c)
		case crowd:
			q.sites.wanted = true
			q.makeRoom()
		case squash:
			c.site.wanted = true
			c.site.dismiss()
		case wait:
			if !paced.IsZero() && (soon.IsZero() || paced.Before(soon)) {
				soon = paced
			}
		}
	}
	for _, c := range list {
		q.sites.forget(c.site, c.Dest)
	}
	return soon, q.sites.blocked == len(list)
}

func (q *Queue) newSession(c candidate) *session {
	now := q.o.Clock()
	s := &session{q: q, dest: c.Dest, more: make(chan bool, 1), since: now, looking: true}
	c.site.leasing++
	q.enter(s, c.site)
	s.site.dest(s.dest).served = now
	q.live[s] = struct{}{}
	return s
}

// enter counts a session in at a site. Call it with mu held.
func (q *Queue) enter(s *session, v *site) {
	s.site = v
	v.open++
	v.dest(s.dest).open++
	q.sites.open++
}

// exit counts a session out of its site. Call it with mu held.
func (q *Queue) exit(s *session) {
	s.site.open--
	s.site.dest(s.dest).open--
	q.sites.open--
	q.sites.forget(s.site, s.dest)
}

// resume wakes an idle session of the destination. Call it with mu held.
func (q *Queue) resume(c candidate) {
	v := c.site
	i := slices.IndexFunc(v.idle, func(s *session) bool { return s.dest == c.Dest })
	s := v.idle[i]
	v.idle = slices.Delete(v.idle, i, i+1)
	v.leasing++
	v.dest(c.Dest).served = q.o.Clock()
	s.looking = true
	s.more <- true
}

// makeRoom ends one idle session. Call it with mu held.
func (q *Queue) makeRoom() {
	for _, v := range q.sites.known {
		if v.dismiss() {
			return
		}
	}
}

// dismiss ends one idle session of the site, if it has one.
func (v *site) dismiss() bool {
	if len(v.idle) == 0 {
		return false
	}
	s := v.idle[0]
	v.idle = v.idle[1:]
	s.more <- false
	return true
}

// linger waits a moment for more mail, so that the connection can be used again.
func (q *Queue) linger(s *session) bool {
	q.mu.Lock()
	if q.pause.ended || q.pause.stopped || q.sites.wanted {
		q.mu.Unlock()
		return false
	}
	v, idle := s.site, s.site.limits.idle
	v.idle = append(v.idle, s)
	q.mu.Unlock()
	q.Kick() // for mail that came meanwhile
	select {
	case more := <-s.more:
		return more
	case <-time.After(idle):
	case <-s.ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(v.idle, s); i >= 0 {
		v.idle = slices.Delete(v.idle, i, i+1)
		return false
	}
	return <-s.more // somebody woke us at the same moment
}

// leased notes what a session got, and looks for a second one if it got mail.
func (q *Queue) leased(s *session, b store.Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.looked(s)
	if len(b.Envelopes) == 0 {
		s.site.giveBack(q.o.Clock())
		return
	}
	s.site.next = s.site.next.Add(time.Duration(len(b.Envelopes)-1) * s.site.rate(q.o.Clock()).Every())
	s.token, s.until = b.Token, b.Until
	s.site.dest(s.dest).turn = store.FlowOf(b.Envelopes[len(b.Envelopes)-1].Message)
	q.Kick()
}

// looked notes that a session knows whether there is mail. Call it with mu held.
func (q *Queue) looked(s *session) {
	if s.looking {
		s.looking = false
		s.site.leasing--
	}
}

// crowdedOut leaves a destination alone for a moment: other nodes have all its slots.
func (q *Queue) crowdedOut(s *session) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := s.site.dest(s.dest)
	if soon := q.o.Clock().Add(blocked); d.until.Before(soon) {
		d.until = soon
	}
}

// leave ends a session.
func (q *Queue) leave(s *session) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.looked(s)
	delete(q.live, s)
	q.exit(s)
	q.Kick()
}

// learn tells the site what an outcome says about it, and reports whether the
// session should stop.
func (q *Queue) learn(s *session, o Outcome) (stop bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rehome(s)
	v, now, codes := s.site, q.o.Clock(), codesOf(o.LastReply)
	if codes != "" {
		v.last = said{codes, now}
		v.passed.count(now)
	}
	r := q.sites.shaping.rule(v.name, codes, o.Words)
	switch {
	case r != nil: // a server that says why does not count as dead
		q.obey(s, r, codes, now)
		return r.do != slow || o.Down
	case o.Down:
		q.sites.down(v, s.dest, now)
		return true
	case o.Next == store.Finish && o.LastReply != "": // not what became something else here
		v.success(s.dest, now)
	}
	return false
}

// codesOf is a kept reply without the class that may stand behind its codes.
func codesOf(reply string) string {
	return strings.TrimRight(reply, " _abcdefghijklmnopqrstuvwxyz")
}

// obey does what a rule says. Call it with mu held.
func (q *Queue) obey(s *session, r *rule, codes string, now time.Time) {
	why := codes + ", " + string(r.do)
	switch v := s.site; r.do {
	case backOff:
		q.sites.pushedBack(v, s.begun, now, why)
	case suspend:
		q.sites.suspend(v, now, r.forHow, why)
	case slow:
		v.slow, v.slowUntil, v.why = r.to, now.Add(r.forHow), why
	}
}

// rehome moves a session to the site that its destination is now known to belong
// to; if there are too many, it ends. Call it with mu held.
func (q *Queue) rehome(s *session) {
	if name := q.sites.of(s.dest); name != s.site.name {
		q.exit(s)
		q.enter(s, q.sites.get(name))
	}
}

// allowed counts a message against the rate of the session's site, or reports
// that it must wait.
func (q *Queue) allowed(s *session) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.site.take(q.o.Clock()) {
		return true
	}
	q.looked(s)
	return false
}

// request is what a session asks the store for.
func (q *Queue) request(s *session) store.LeaseRequest {
	q.mu.Lock()
	defer q.mu.Unlock()
	return store.LeaseRequest{
		Node: q.o.Node, Dest: s.dest, Max: q.o.Batch, Cap: s.site.limits.connections,
		For: q.o.Lease, Backoff: q.o.Retry, After: s.site.dest(s.dest).turn,
	}
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
	unreached := q.sites.unreached(now)
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
