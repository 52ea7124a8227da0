package queue

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/yamlfile"
)

// Destination is a site, or one domain of it, as `gateway queue destinations
// --json` prints it. Window, connections, rate, limit and last reply are those
// of the site.
type Destination struct {
	Site        string        `json:"site"`
	Domain      string        `json:"domain,omitempty"`  // "" for the whole site
	Domains     int           `json:"domains,omitempty"` // with mail, of a whole site
	Queued      int           `json:"queued"`
	InFlight    int           `json:"in_flight"`
	Held        int           `json:"held"`
	Due         *time.Time    `json:"due,omitempty"` // of the next queued one
	Connections int           `json:"connections"`   // open now
	Window      int           `json:"window"`        // allowed now
	Rate        int           `json:"rate"`          // answered in the last minute
	Limit       yamlfile.Rate `json:"limit,omitzero"`
	LastReply   string        `json:"last_reply,omitempty"`
	LastAt      *time.Time    `json:"last_at,omitempty"`
	Suspended   *time.Time    `json:"suspended_until,omitempty"`
	Why         string        `json:"why,omitempty"`
}

// Destinations lists where mail waits or is sent to, and sites in trouble, those
// with most mail first: a row per site, or per domain. It reads the whole queue:
// some seconds for a million envelopes. progress is told how many it has read.
func (q *Queue) Destinations(ctx context.Context, byDomain bool, progress func(int)) ([]Destination, error) {
	waiting, err := q.waiting(ctx, progress)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	rows := map[string]*Destination{}
	row := func(site, domain string) *Destination {
		key := site
		if byDomain {
			key = domain
		}
		r := rows[key]
		if r == nil {
			r = &Destination{Site: site}
			if byDomain {
				r.Domain = domain
			}
			rows[key] = r
			q.describe(r)
		}
		return r
	}
	for domain, n := range waiting {
		r := row(q.sites.of(domain), domain)
		r.Domains++
		r.add(n)
	}
	for name, v := range q.sites.known {
		if _, listed := rows[name]; !listed && !byDomain && (v.open > 0 || q.o.Clock().Before(v.until)) {
			row(name, "")
		}
	}
	return sorted(rows, byDomain), nil
}

func sorted(rows map[string]*Destination, byDomain bool) []Destination {
	out := make([]Destination, 0, len(rows))
	for _, r := range rows {
		if byDomain {
			r.Domains = 0
		}
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Destination) int {
		if d := b.Queued + b.InFlight - a.Queued - a.InFlight; d != 0 {
			return d
		}
		return strings.Compare(a.Site+" "+a.Domain, b.Site+" "+b.Domain)
	})
	return out
}

// waiting counts the mail of each domain.
func (q *Queue) waiting(ctx context.Context, progress func(int)) (map[string]Destination, error) {
	counts, n := map[string]Destination{}, 0
	for e, err := range q.selected(ctx, Selection{}) {
		if err != nil {
			return nil, err
		}
		c := counts[e.Dest]
		switch e.State {
		case store.Leased:
			c.InFlight++
		case store.Held:
			c.Held++
		default:
			c.Queued++
			due := e.Due
			c.Due = earlier(c.Due, &due)
		}
		counts[e.Dest] = c
		if n++; progress != nil {
			progress(n)
		}
	}
	return counts, nil
}

func (d *Destination) add(n Destination) {
	d.Queued += n.Queued
	d.InFlight += n.InFlight
	d.Held += n.Held
	d.Due = earlier(d.Due, n.Due)
}

func earlier(a, b *time.Time) *time.Time {
	if a == nil || b != nil && b.Before(*a) {
		return b
	}
	return a
}

// describe fills in what is known of a row's site and domain. Call it with mu held.
func (q *Queue) describe(r *Destination) {
	now := q.o.Clock()
	v := q.sites.known[r.Site]
	if v == nil {
		l := q.sites.limits(r.Site)
		r.Window, r.Limit = initial(l), l.rate
		return
	}
	r.Connections, r.Window, r.Rate, r.Limit = v.open, v.window, v.passed.perMinute(now), v.rate(now)
	if r.LastReply = v.last.codes; !v.last.at.IsZero() {
		at := v.last.at
		r.LastAt = &at
	}
	if r.Domain != "" {
		r.Connections = 0
	}
	until := v.until
	if now.Before(until) || now.Before(v.slowUntil) {
		r.Why = v.why
	}
	for name, d := range v.at {
		switch single := len(v.at) == 1; {
		case r.Domain == name:
			r.Connections = d.open
		case r.Domain != "" || !single:
			continue
		}
		if d.until.After(until) && d.troubles > 0 {
			until, r.Why = d.until, "not reached"
		}
	}
	if now.Before(until) {
		r.Suspended = &until
	}
}
