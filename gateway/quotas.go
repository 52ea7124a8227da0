package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// quotas count the recipients that each sender named, against its limits in
// policy.yaml. The day's counts are kept in the store once a minute and at the
// end, so that a crash forgets a minute of them at most; the rate begins anew
// with each start.
type quotas struct {
	store store.Store
	clock func() time.Time

	mu      sync.Mutex // guards what follows
	used    map[string]*quota
	changed bool
}

// quota is what one sender has used.
type quota struct {
	next time.Time // when its rate allows the next recipient, if it saved nothing
	day  string    // UTC
	n    int       // recipients of that day
}

// How the counts are stored: one record that holds all.
const (
	quotaKind = "quota"
	saveEach  = time.Minute
)

func newQuotas(s store.Store, clock func() time.Time) *quotas {
	return &quotas{store: s, clock: clock, used: map[string]*quota{}}
}

// take counts a recipient, or says when the sender may come back and which limit
// it met. A rate may be saved up: 100/min are also 100 at once, then none for a
// minute.
func (q *quotas) take(s *policy.Sender) (wait time.Duration, limit string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.clock().UTC()
	u := q.of(s.Name, now)
	if l := s.Limits; l.Daily > 0 && u.n >= l.Daily {
		return now.Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now), "daily"
	}
	if r := s.Limits.Rate; r.N > 0 {
		saved := now.Add(r.Every() - r.Per)
		if u.next.Before(saved) {
			u.next = saved
		}
		if u.next.After(now) {
			return u.next.Sub(now), "rate"
		}
		u.next = u.next.Add(r.Every())
	}
	u.n++
	q.changed = true
	return 0, ""
}

// giveBack uncounts a recipient that was refused for another reason.
func (q *quotas) giveBack(s *policy.Sender) {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.of(s.Name, q.clock().UTC())
	u.n = max(0, u.n-1)
	u.next = u.next.Add(-s.Limits.Rate.Every())
}

func (q *quotas) of(sender string, now time.Time) *quota {
	u := q.used[sender]
	if u == nil {
		u = &quota{}
		q.used[sender] = u
	}
	if today := now.Format(time.DateOnly); u.day != today {
		u.day, u.n = today, 0
	}
	return u
}

// counted is a day's count as it is stored.
type counted struct {
	Day string `json:"day"`
	N   int    `json:"n"`
}

// load reads what was counted before the start.
func (q *quotas) load(ctx context.Context) error {
	rs, err := q.store.Records(ctx, quotaKind, quotaKind)
	if err != nil || len(rs) == 0 {
		return err
	}
	var days map[string]counted
	if err := json.Unmarshal(rs[0].Value, &days); err != nil {
		return fmt.Errorf("counts of senders: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, c := range days {
		q.used[name] = &quota{day: c.Day, n: c.N}
	}
	return nil
}

// save stores the day's counts, if they changed.
func (q *quotas) save(ctx context.Context) error {
	q.mu.Lock()
	days := map[string]counted{}
	for name, u := range maps.All(q.used) {
		days[name] = counted{u.day, u.n}
	}
	changed := q.changed
	q.changed = false
	q.mu.Unlock()
	if !changed {
		return nil
	}
	value, err := json.Marshal(days)
	if err != nil {
		return err
	}
	return q.store.Apply(ctx, store.Effects{Records: []store.Record{{Kind: quotaKind, Subject: quotaKind, Key: quotaKind, Value: value}}})
}

// keepQuotas saves the counts now and then, and at the end.
func (g *Gateway) keepQuotas(ctx context.Context) error {
	tick := time.NewTicker(saveEach)
	defer tick.Stop()
	for {
		over := false
		select {
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
		if err := g.quotas.save(context.WithoutCancel(ctx)); err != nil {
			g.log.Warn("counts of senders not saved", "err", err)
		}
		if over {
			return nil
		}
	}
}

// overQuota is the answer to a recipient above its sender's limit. It says when
// to come back: at RCPT nothing is lost, and tools keep what got a 4xx.
func (s *session) overQuota(wait time.Duration, limit string) *smtp.SMTPError {
	s.g.metrics.refused.WithLabelValues(limit).Inc()
	return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1},
		Message: fmt.Sprintf("Sender is over its %s limit, retry in %d seconds", limit, int(wait/time.Second)+1)}
}
