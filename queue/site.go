package queue

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/store"
)

// sites decides who may open a session now. It holds what is known about
// destinations that have sessions or trouble; the others are not kept.
type sites struct {
	limit  Concurrency
	of     func(dest string) string
	retry  store.Backoff
	known  map[string]*site
	open   int  // sessions of all sites
	wanted bool // somebody waits for a worker
}

// site is one provider's side: sessions to it share a window, which grows with
// each success and shrinks when the provider pushes back (RFC 5321 §4.5.4.1
// leaves the strategy to us; Postfix's concurrency feedback is the model).
type site struct {
	name      string
	open      int        // sessions
	leasing   int        // of them not yet told whether there is mail
	idle      []*session // of them waiting for more mail
	window    int        // sessions allowed
	successes int        // since the window last changed
	until     time.Time  // left alone before
	troubles  int        // times in a row that it could not be reached
	trouble   time.Time  // the last time it could not be reached, or pushed back
	unreached []string   // destinations that could not be reached since the last success
}

// reserve is how many workers only prompt mail may take: a pickup code must not
// wait behind a campaign.
func (s *sites) reserve() int { return s.limit.Total / 10 }

// initial is the window of a site of which nothing is known.
func (s *sites) initial() int { return min(5, s.limit.PerDestination) }

func (s *sites) get(dest string) *site {
	name := s.of(dest)
	v := s.known[name]
	if v == nil {
		v = &site{name: name, window: s.initial()}
		s.known[name] = v
	}
	return v
}

// forget drops a site about which there is nothing to say.
func (s *sites) forget(v *site) {
	if v.open == 0 && v.window >= s.initial() && v.troubles == 0 && v.until.IsZero() {
		delete(s.known, v.name)
	}
}

// prune forgets old troubles.
func (s *sites) prune(now time.Time) {
	for name, v := range s.known {
		if v.open == 0 && now.After(v.until) && now.Sub(v.trouble) > 2*s.retry.Max {
			delete(s.known, name)
		}
	}
}

// order sorts destinations by who is served first: the prompt lane, then the one
// with the fewest sessions, then the one that waits longest.
func (s *sites) order(due []store.DestDue) {
	open := func(d store.DestDue) int {
		if v := s.known[s.of(d.Dest)]; v != nil {
			return v.open
		}
		return 0
	}
	slices.SortStableFunc(due, func(a, b store.DestDue) int {
		return cmp.Or(cmp.Compare(b.Lane, a.Lane), cmp.Compare(open(a), open(b)), a.Due.Compare(b.Due))
	})
}

// chance is what a destination with mail due may do.
type chance int

const (
	wait   chance = iota // its site is full, in trouble, or just looking itself
	start                // open a session
	resume               // wake an idle session
	crowd                // it could start, if there were a worker
)

func (s *sites) chance(d store.DestDue, now time.Time) chance {
	v := s.get(d.Dest)
	defer s.forget(v)
	free := s.limit.Total - s.open
	if d.Lane != store.Prompt {
		free -= s.reserve()
	}
	switch {
	case v.leasing > 0 || now.Before(v.until):
		return wait
	case slices.ContainsFunc(v.idle, func(w *session) bool { return w.dest == d.Dest }):
		return resume
	case v.open >= v.window:
		return wait
	case free <= 0:
		return crowd
	}
	return start
}

// success opens the window by one; once the site had trouble, only when as many
// succeeded as the window holds.
func (s *sites) success(v *site) {
	v.troubles, v.until, v.unreached = 0, time.Time{}, nil
	v.successes++
	if v.trouble.IsZero() || v.successes >= v.window {
		v.window, v.successes = min(v.window+1, s.limit.PerDestination), 0
	}
}

// pushedBack halves the window; a site that pushes back against a single session
// is left alone.
func (s *sites) pushedBack(v *site, dest string, now time.Time) {
	if v.window == 1 {
		s.down(v, dest, now)
		return
	}
	v.trouble, v.successes = now, 0
	v.window = max(1, min(v.window, v.open)/2)
}

// down leaves a site alone: its next session is a single one, after a time that
// doubles with each failure.
func (s *sites) down(v *site, dest string, now time.Time) {
	if !slices.Contains(v.unreached, dest) {
		v.unreached = append(v.unreached, dest)
	}
	if now.Before(v.until) { // another session said so already
		return
	}
	wait := min(s.retry.First<<min(v.troubles, 16), s.retry.Max)
	v.troubles++
	v.trouble, v.window, v.successes = now, 1, 0
	v.until = now.Add(time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64())))
}

// unreached lists the destinations that are left alone.
func (s *sites) unreached() (dests []string) {
	for _, v := range s.known {
		dests = append(dests, v.unreached...)
	}
	return dests
}

// clear forgets the troubles of a destination, because an operator says so.
func (s *sites) clear(dest string) {
	if v := s.known[s.of(dest)]; v != nil {
		v.until, v.troubles, v.window, v.unreached = time.Time{}, 0, s.initial(), nil
		s.forget(v)
	}
}

// throttled reports whether a reply asks to slow down: 421 (RFC 5321 §3.8) or a
// 4.7.x status (RFC 3463 §3.8).
func throttled(reply string) bool {
	code, enhanced, _ := strings.Cut(reply, " ")
	return code == "421" || strings.HasPrefix(code, "4") && strings.HasPrefix(enhanced, "4.7.")
}
