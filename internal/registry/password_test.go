package registry

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestPassword(t *testing.T) {
	s := newSite(t)
	const right, wrong = "correct horse battery", "correct horse battery!"
	check := func(sender, password string, want error) {
		t.Helper()
		if err := s.CheckPassword(t.Context(), sender, password); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if err := s.SetPassword(t.Context(), "mailer-a", "short", "me"); !errors.Is(err, ErrWeakPassword) {
		t.Error(err)
	}
	check("mailer-a", right, ErrPassword)
	if err := s.SetPassword(t.Context(), "mailer-a", right, "me"); err != nil {
		t.Fatal(err)
	}
	check("mailer-a", wrong, ErrPassword)
	check("mailer-a", right, nil)
	check("mailer-a", wrong, ErrPassword)
	check("mailer-a", "", ErrPassword)
	check("mailer-b", right, ErrPassword)
	if err := s.SetPassword(t.Context(), "mailer-a", wrong, "me"); err != nil {
		t.Fatal(err)
	}
	check("mailer-a", right, ErrPassword) // the old proof is void
	check("mailer-a", wrong, nil)
	s.store = gone{}
	check("mailer-a", wrong, ErrStore)
}

// TestPasswordOfManyConnections opens 64 connections at once: the costly part
// happens once.
func TestPasswordOfManyConnections(t *testing.T) {
	s := newSite(t)
	const password = "correct horse battery"
	if err := s.SetPassword(t.Context(), "mailer-a", password, "me"); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			if err := s.CheckPassword(t.Context(), "mailer-a", password); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if s.proofs.costs != 1 {
		t.Errorf("derived %d times", s.proofs.costs)
	}
}

func BenchmarkCheckPassword(b *testing.B) {
	s := newSite(b)
	s.rounds = rounds
	const password = "correct horse battery"
	if err := s.SetPassword(b.Context(), "mailer-a", password, "me"); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, password string }{{"right", password}, {"wrong", "wrong"}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				s.CheckPassword(b.Context(), "mailer-a", c.password)
			}
		})
	}
}

func TestPasswordWaitsNoLongerThanAsked(t *testing.T) {
	s := newSite(t)
	release, err := s.proofs.slow(t.Context(), "x", credential{})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.CheckPassword(ctx, "nobody", "anything at all"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
