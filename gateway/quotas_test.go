package gateway

import (
	"testing"
	"time"

	"github.com/phigate/phigate/internal/store/storetest"
	"github.com/phigate/phigate/internal/yamlfile"
	"github.com/phigate/phigate/policy"
)

func TestQuotas(t *testing.T) {
	now := time.Date(2026, 3, 1, 20, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	mem := storetest.NewMemory(clock)
	q := newQuotas(mem, clock)
	rated := &policy.Sender{Name: "rated", Limits: policy.SenderLimits{Rate: yamlfile.Rate{N: 10, Per: time.Minute}}}
	daily := &policy.Sender{Name: "daily", Limits: policy.SenderLimits{Daily: 25}}
	free := &policy.Sender{Name: "free"}
	take := func(s *policy.Sender, n int) (ok int, last time.Duration, limit string) {
		for range n {
			wait, why := q.take(s)
			if wait == 0 {
				ok++
			}
			last, limit = wait, why
		}
		return ok, last, limit
	}
	if ok, wait, limit := take(rated, 15); ok != 10 || wait != 6*time.Second || limit != "rate" {
		t.Errorf("at once: %d, then wait %v for the %s", ok, wait, limit)
	}
	now = now.Add(6 * time.Second)
	if ok, _, _ := take(rated, 3); ok != 1 {
		t.Errorf("after the wait: %d", ok)
	}
	q.giveBack(rated)
	if ok, _, _ := take(rated, 2); ok != 1 {
		t.Errorf("after one was given back: %d", ok)
	}
	now = now.Add(10 * time.Minute)
	if ok, _, _ := take(rated, 15); ok != 10 {
		t.Errorf("saved up: %d", ok)
	}
	if ok, _, _ := take(free, 1000); ok != 1000 {
		t.Errorf("without limits: %d", ok)
	}

	if ok, _, _ := take(daily, 20); ok != 20 {
		t.Errorf("of the day: %d", ok)
	}
	if err := q.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	q = newQuotas(mem, clock) // the next start
	if err := q.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ok, wait, limit := take(daily, 10); ok != 5 || limit != "daily" || now.Add(wait).Format(time.DateTime) != "2026-03-02 00:00:00" {
		t.Errorf("after a restart: %d, then wait %v for the %s", ok, wait, limit)
	}
	now = now.Add(4 * time.Hour)
	if ok, _, _ := take(daily, 30); ok != 25 {
		t.Errorf("of the next day: %d", ok)
	}
}
