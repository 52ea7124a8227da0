package queue_test

import (
	"context"
	"fmt"
	"iter"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/keys"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/store/bolt"
	"github.com/phigate/phigate/queue"
)

// site is the queue as it runs: over the embedded engine, the key ring and the log.
type site struct {
	store *bolt.Store
	log   *audit.Log
	ids   store.IDs
}

func newSite(t testing.TB) *site {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root.key")
	if err := keys.CreateRoot(root); err != nil {
		t.Fatal(err)
	}
	key, err := keys.FileRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.Open(filepath.Join(dir, "keys"), key, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Open(filepath.Join(dir, "store"), bolt.Options{Sealer: ring, Hash: audit.Hash})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	log, err := audit.Open(audit.Options{Store: s, Sealer: ring, Dir: filepath.Join(dir, "checkpoints"), Origin: "gateway.clinic.example", Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return &site{store: s, log: log}
}

func (s *site) accept(t testing.TB, n, dests int) {
	t.Helper()
	var fx store.Effects
	for i := range n {
		id := s.ids.New(time.Now())
		dest := fmt.Sprintf("d%d.example", i%dests)
		m := store.Message{ID: id, Sender: "mailer-a", Accepted: time.Now()}
		fx.Messages = append(fx.Messages, store.NewMessage{Message: m, Body: make([]byte, 2<<10), Envelopes: []store.Envelope{{
			ID: store.EnvelopeIDOf(id, 0), Message: m, Recipient: "pat@" + dest, Dest: dest, State: store.Ready,
			Due: time.Now(), Expires: time.Now().Add(time.Hour),
		}}})
		if len(fx.Messages) == 500 || i == n-1 {
			if err := s.store.Apply(t.Context(), fx); err != nil {
				t.Fatal(err)
			}
			fx = store.Effects{}
		}
	}
}

// deliver runs a queue until n envelopes were sent.
func (s *site) deliver(t testing.TB, n int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var sent atomic.Int64
	q, err := queue.New(queue.Options{
		Store: s.store, Clock: time.Now, Leaf: s.log.Leaf, Linger: time.Millisecond,
		GiveUp: func(context.Context, store.Envelope) (queue.Outcome, error) { panic("nothing expires here") },
		Try: func(_ context.Context, _ string, mail iter.Seq[store.Envelope], done func(queue.Outcome)) {
			for e := range mail {
				o := queue.Outcome{Result: store.Result{Envelope: e.ID, Next: store.Finish, LastReply: "250 2.0.0"}}
				o.Leaves = []store.Leaf{s.log.Leaf(audit.Event{ID: e.Message.ID, Envelope: e.ID, Kind: audit.Delivered, Code: e.Code})}
				done(o)
				if sent.Add(1) == int64(n) {
					stop()
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestOverTheEngine(t *testing.T) {
	s := newSite(t)
	s.accept(t, 300, 7)
	s.deliver(t, 300)
	stats, err := s.store.Stats(t.Context())
	if err != nil || stats.Ready+stats.Leased != 0 || stats.Leaves != 300 {
		t.Errorf("%+v %v", stats, err)
	}
	if r, err := s.log.Verify(t.Context()); err != nil || !r.OK() || r.Leaves != 300 {
		t.Errorf("the log: %+v %v", r, err)
	}
}

func BenchmarkDeliver(b *testing.B) {
	for _, dests := range []int{1, 200} {
		b.Run(fmt.Sprintf("dests=%d", dests), func(b *testing.B) {
			s := newSite(b)
			s.accept(b, b.N, dests)
			b.ResetTimer()
			s.deliver(b, b.N)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
