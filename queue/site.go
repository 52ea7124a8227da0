package queue

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/yamlfile"
)

// sites decides who may open a session now. It holds what is known about sites
// that have sessions or trouble; of the others only the latest, and not for long.
type sites struct {
	limit   Concurrency
	linger  time.Duration
	of      func(dest string) string
	retry   store.Backoff
	shaping *Shaping
	known   map[string]*site
	open    int  // sessions of all sites
	wanted  bool // somebody waits for a worker
	blocked int  // destinations with mail due that could not start at the last look
}

// site is one provider's side: sessions to all its domains share a window, which
// grows with each success and shrinks when the provider pushes back (RFC 5321
// §4.5.4.1 leaves the strategy to us; Postfix's concurrency feedback is the model).
type site struct {
	name      string
	limits    limits
	open      int        // sessions
	leasing   int        // of them not yet told whether there is mail
	idle      []*session // of them waiting for more mail, or for the rate
	window    int        // sessions allowed
	successes int        // since the window last changed
	ceiling   int        // the window at which it last pushed back; 0 = not known
	good      time.Time  // the last time it took mail
	trouble   time.Time  // the last time it pushed back
	troubles  int        // times in a row that it did against a single session
	until     time.Time  // left alone before
	why       string     // codes and action that made it so, or slow
	slow      yamlfile.Rate
	slowUntil time.Time
	next      time.Time // when the rate allows the next message
	passed    meter
	last      said
	wanted    bool // another of its destinations waits for a place
	at        map[string]*destination
}

// destination is one domain of a site. What cannot be reached at all is left
// alone by domain: its hosts may be its own though the provider serves many.
type destination struct {
	open     int
	served   time.Time // when it last got a session
	turn     uint8     // the flow that was served last
	until    time.Time // left alone before
	troubles int       // times in a row that it could not be reached
}

// said is what a site last answered.
type said struct {
	codes string
	at    time.Time
}

// meter measures a rate over the last minute or two.
type meter struct {
	start     time.Time
	now, last int
}

func (m *meter) count(now time.Time) {
	m.turn(now)
	m.now++
}

func (m *meter) turn(now time.Time) {
	switch d := now.Sub(m.start); {
	case d >= 2*time.Minute:
		*m = meter{start: now}
	case d >= time.Minute:
		*m = meter{start: m.start.Add(time.Minute), last: m.now}
	}
}

// perMinute is the rate of the last minute.
func (m *meter) perMinute(now time.Time) int {
	m.turn(now)
	return m.now + int(float64(m.last)*(1-now.Sub(m.start).Minutes()))
}

// How many sites, and domains of a site, are remembered though nothing goes on
// there, and for how long at most.
const (
	keepKnown = 1000
	keepFor   = time.Hour
)

// reserve is how many workers only prompt mail may take: a pickup code must not
// wait behind a campaign.
func (s *sites) reserve() int { return s.limit.Total / 10 }

// initial is the window of a site of which nothing is known.
func initial(l limits) int { return min(5, l.connections) }

func (s *sites) get(name string) *site {
	v := s.known[name]
	if v == nil {
		l := s.limits(name)
		v = &site{name: name, limits: l, window: initial(l), at: map[string]*destination{}}
		s.known[name] = v
	}
	return v
}

func (s *sites) limits(name string) limits {
	return s.shaping.of(name, limits{connections: s.limit.PerDestination, idle: s.linger})
}

// reshape holds all sites to new limits; what they learnt stays.
func (s *sites) reshape(shaping *Shaping) {
	s.shaping = shaping
	for _, v := range s.known {
		v.limits = s.limits(v.name)
		v.window = max(1, min(v.window, v.limits.connections))
	}
}

func (v *site) dest(name string) *destination {
	d := v.at[name]
	if d == nil {
		// A turn that was forgotten begins anywhere, so that no flow is always the first.
		d = &destination{turn: uint8(rand.UintN(256))}
		v.at[name] = d
	}
	return d
}

// forget drops a domain, and its site, about which there is nothing to say.
func (s *sites) forget(v *site, dest string) {
	if d := v.at[dest]; d != nil && len(v.at) > keepKnown && d.open == 0 && d.troubles == 0 && v.until.IsZero() {
		delete(v.at, dest)
	}
	if v.open == 0 && len(s.known) > keepKnown && v.window >= initial(v.limits) && v.calm() && s.known[v.name] == v {
		delete(s.known, v.name)
	}
}

// calm reports whether a site is in no trouble, with no rate to remember.
func (v *site) calm() bool {
	for _, d := range v.at {
		if d.troubles > 0 {
			return false
		}
	}
	return v.troubles == 0 && v.until.IsZero() && v.slowUntil.IsZero() && v.limits.rate == yamlfile.Rate{}
}

// prune forgets old troubles, and what has not been used for long.
func (s *sites) prune(now time.Time) {
	long := func(t time.Time) bool { return now.Sub(t) > max(keepFor, 2*s.retry.Max) }
	for name, v := range s.known {
		for dest, d := range v.at {
			if d.open == 0 && now.After(d.until) && now.After(v.until) && (long(d.served) || d.troubles == 0 && now.Sub(d.served) > keepFor) {
				delete(v.at, dest)
			}
		}
		if v.open == 0 && len(v.at) == 0 && now.After(v.until) && now.After(v.slowUntil) && (v.trouble.IsZero() || long(v.trouble)) {
			delete(s.known, name)
		}
	}
}

// candidate is a destination with mail due and its site, as one look found them.
type candidate struct {
	store.DestDue
	site *site
}

// order looks up the sites of destinations and sorts them by who is served
// first: the prompt lane, then the site with the fewest sessions, then of its
// destinations the one with the fewest, then the one served longest ago, then
// the one that waits longest.
func (s *sites) order(due []store.DestDue) []candidate {
	type place struct {
		candidate
		sessions int
		served   time.Time
	}
	list := make([]place, len(due))
	for i, d := range due {
		list[i] = place{candidate: candidate{d, s.get(s.of(d.Dest))}}
		if at := list[i].site.at[d.Dest]; at != nil {
			list[i].sessions, list[i].served = at.open, at.served
		}
	}
	slices.SortStableFunc(list, func(a, b place) int {
		return cmp.Or(cmp.Compare(b.Lane, a.Lane), cmp.Compare(a.site.open, b.site.open), cmp.Compare(a.sessions, b.sessions),
			a.served.Compare(b.served), a.Due.Compare(b.Due))
	})
	out := make([]candidate, len(list))
	for i, p := range list {
		out[i] = p.candidate
	}
	return out
}

// chance is what a destination with mail due may do.
type chance int

const (
	wait   chance = iota // its site is full, in trouble, or just looking itself
	start                // open a session
	resume               // wake an idle session
	crowd                // it could start, if there were a worker
	squash               // it could start, if a session of its site made room
)

// chance decides about one destination. soon is when to look again if the rate
// is all that it waits for.
func (s *sites) chance(c candidate, now time.Time) (_ chance, soon time.Time) {
	v := c.site
	free := s.limit.Total - s.open
	if c.Lane != store.Prompt {
		free -= s.reserve()
	}
	here := v.dest(c.Dest) // kept while in trouble, for the sweep must find its mail
	held := now.Before(v.until) || now.Before(here.until) || here.troubles > 0 && here.open > 0
	switch paced := v.paced(now); {
	case v.leasing > 0 || held:
		return wait, soon
	case paced.After(now):
		return wait, paced
	case slices.ContainsFunc(v.idle, func(w *session) bool { return w.dest == c.Dest }):
		return resume, soon
	case v.open >= v.window && here.open == 0:
		return squash, soon
	case v.open >= v.window:
		return wait, soon
	case free <= 0:
		return crowd, soon
	}
	return start, soon
}

// rate is what a site is held to now.
func (v *site) rate(now time.Time) yamlfile.Rate {
	if !now.Before(v.slowUntil) {
		return v.limits.rate
	}
	if every := v.limits.rate.Every(); every > v.slow.Every() {
		return v.limits.rate
	}
	return v.slow
}

// A site may save up a second's worth of messages, and a session is started for
// a quarter of that at least, so that a high rate costs few looks.
const (
	burst = time.Second
	serve = 250 * time.Millisecond
)

// paced is when the rate allows enough messages to be worth a session.
func (v *site) paced(now time.Time) time.Time {
	every := v.rate(now).Every()
	if every == 0 || every >= serve {
		return v.next
	}
	return v.next.Add(serve - every)
}

// take counts a message against the rate, or reports that it must wait.
func (v *site) take(now time.Time) bool {
	every := v.rate(now).Every()
	if every == 0 {
		v.next = time.Time{}
		return true
	}
	if v.next.After(now) {
		return false
	}
	saved := now.Add(-max(0, burst-every))
	if v.next.Before(saved) {
		v.next = saved
	}
	v.next = v.next.Add(every)
	return true
}

// giveBack undoes a take for which there was no mail.
func (v *site) giveBack(now time.Time) { v.next = v.next.Add(-v.rate(now).Every()) }

// success opens the window by one; once the site had trouble, only when as many
// succeeded as the window holds, and with more patience where it pushed back.
func (v *site) success(dest string, now time.Time) {
	d := v.dest(dest)
	d.until, d.troubles = time.Time{}, 0
	if now.Before(v.until) {
		return // said before it was left alone
	}
	v.troubles, v.until, v.good = 0, time.Time{}, now
	v.successes++
	if v.successes < v.enough() || v.window >= v.limits.connections {
		return
	}
	v.window, v.successes = v.window+1, 0
	if v.window > v.ceiling {
		v.ceiling = 0 // the site takes more than it did
	}
}

// patience is how many windows must succeed before one that was too large is
// tried again.
const patience = 10

// enough is how many successes open the window by one.
func (v *site) enough() int {
	switch {
	case v.trouble.IsZero():
		return 1
	case v.window+1 == v.ceiling:
		return patience * v.window
	}
	return v.window
}

// pushedBack halves the window, once for all messages that were under way; a
// site that pushes back against a single session, and has taken nothing since it
// did before, is left alone.
func (s *sites) pushedBack(v *site, begun, now time.Time, why string) {
	switch {
	case begun.Before(v.trouble):
	case v.window == 1 && !v.good.After(v.trouble):
		s.suspend(v, now, doubled(s.retry, v.troubles), why)
		v.troubles++
	default:
		v.trouble, v.successes = now, 0
		v.ceiling = min(v.window, v.open)
		v.window = max(1, v.ceiling/2)
	}
}

// suspend leaves a site alone; its next session is a single one.
func (s *sites) suspend(v *site, now time.Time, d time.Duration, why string) {
	v.trouble, v.window, v.successes = now, 1, 0
	if until := now.Add(jitter(d)); until.After(v.until) {
		v.until, v.why = until, why
	}
}

// down leaves a domain alone that could not be reached: its next session is a
// single one, after a time that doubles with each failure.
func (s *sites) down(v *site, dest string, now time.Time) {
	d := v.dest(dest)
	if now.Before(d.until) { // another session said so already
		return
	}
	d.until = now.Add(jitter(doubled(s.retry, d.troubles)))
	d.troubles++
	if v.open == d.open { // nothing says that the site serves others
		v.trouble, v.window, v.successes = now, 1, 0
	}
}

func doubled(b store.Backoff, times int) time.Duration { return min(b.First<<min(times, 16), b.Max) }

func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// unreached lists the destinations with mail that are left alone.
func (s *sites) unreached(now time.Time) (dests []string) {
	for _, v := range s.known {
		for dest, d := range v.at {
			if d.troubles > 0 || now.Before(v.until) {
				dests = append(dests, dest)
			}
		}
	}
	return dests
}

// clear forgets the troubles of a destination and its site, because an operator
// says so.
func (s *sites) clear(dest string) {
	v := s.known[s.of(dest)]
	if v == nil {
		return
	}
	if d := v.at[dest]; d != nil {
		d.until, d.troubles = time.Time{}, 0
	}
	v.until, v.why, v.troubles, v.window = time.Time{}, "", 0, initial(v.limits)
	v.slow, v.slowUntil = yamlfile.Rate{}, time.Time{}
	s.forget(v, dest)
}
