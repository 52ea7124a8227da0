package store

import (
	"testing"
	"time"
)

func TestIDsSortByTimeAndNeverRepeat(t *testing.T) {
	var g IDs
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	last := ID("")
	for i := range 10000 {
		if i == 5000 {
			now = now.Add(-time.Hour) // the clock steps back
		}
		id := g.New(now)
		if !id.Valid() || id <= last {
			t.Fatalf("id %d: %s does not follow %s", i, id, last)
		}
		last = id
	}
	if a, b := (&IDs{}).New(now), (&IDs{}).New(now.Add(time.Millisecond)); a >= b {
		t.Errorf("a later process: %s does not follow %s", b, a)
	}
}

func TestEnvelopeIDNamesItsMessage(t *testing.T) {
	if got := EnvelopeIDOf("0123456789abc", 7); got != "0123456789abc.7" || got.Message() != "0123456789abc" {
		t.Errorf("got %s of %s", got, got.Message())
	}
	for _, bad := range []ID{"", "short", "0123456789abZ", "0123456789abcd"} {
		if bad.Valid() {
			t.Errorf("%q is taken for an id", bad)
		}
	}
}
