package bolt

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/phigate/phigate/internal/store"
)

// backlog is up to how many queued messages BenchmarkBacklog goes.
var backlog = flag.Int("backlog", 20_000, "messages queued at the end of BenchmarkBacklog")

// html is marketing mail of about n bytes; it compresses to about a third.
func html(n, seed int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), uint64(seed)))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "<tr><td style=\"padding:%dpx;font-family:Arial\"><a href=\"https://click.clinic.example/c/%x\">Visit %d</a> ", rng.IntN(40), rng.Uint64(), rng.IntN(1000))
		for range 12 {
			fmt.Fprintf(&b, "%x ", rng.Uint32N(1<<18))
		}
		b.WriteString("</td></tr>\r\n")
	}
	return []byte(b.String()[:n])
}

// load accepts mail from several goroutines at once, as the sessions of a
// campaign do, and keeps the time of each.
type load struct {
	s      *Store
	bodies [][]byte
	ids    store.IDs
	dests  int
	n      atomic.Int64
}

func newLoad(b *testing.B, size int) *load {
	s, err := Open(b.TempDir(), Options{Sealer: newRing(), Hash: hashTree})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	l := &load{s: s, dests: 200}
	for i := range 64 {
		l.bodies = append(l.bodies, html(size, i))
	}
	return l
}

func (l *load) accept() error {
	now := time.Now()
	i := int(l.n.Add(1))
	id := l.ids.New(now)
	body := l.bodies[i%len(l.bodies)]
	dest := fmt.Sprintf("d%d.example", i%l.dests)
	a := store.Acceptance{
		Digest: sha256.Sum256([]byte(id)), ID: id,
		Effects: store.Effects{
			Messages: []store.NewMessage{{
				Message: store.Message{ID: id, Sender: "mailer-a", Return: "bounce@clinic.example", Campaign: "spring", Accepted: now, Size: len(body)},
				Body:    body,
				Envelopes: []store.Envelope{{
					ID: store.EnvelopeIDOf(id, 0), Recipient: fmt.Sprintf("r%d@%s", i, dest), Dest: dest, State: store.Ready,
					Due: now, Expires: now.Add(72 * time.Hour), Code: "HG-D703", Rule: "phi",
				}},
			}},
			Leaves: []store.Leaf{{Time: now, ID: id, Event: "accepted", Record: make([]byte, 200), Sealed: []byte("r@d.example")}},
		},
	}
	_, err := l.s.Accept(context.Background(), a)
	return err
}

// run shares n calls among so many goroutines and reports rate and tail.
func (l *load) run(b *testing.B, goroutines, n int, call func() error) []time.Duration {
	b.Helper()
	took := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				start := time.Now()
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// cpu is the processor time this process has used: on a busy machine it says more
// than the clock.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkAccept(b *testing.B) {
	for _, size := range []int{10 << 10, 50 << 10} {
		for _, goroutines := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%dKB/%d", size>>10, goroutines), func(b *testing.B) {
				l := newLoad(b, size)
				b.ReportAllocs()
				b.ResetTimer()
				before := cpu()
				took := l.run(b, goroutines, b.N, l.accept)
				b.StopTimer()
				b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/msg")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
			})
		}
	}
}

// BenchmarkBare is bbolt alone, a value of 4 KB in groups of 64: what an accept
// of 10 KB leaves in the file, without all the rest.
func BenchmarkBare(b *testing.B) {
	l := newLoad(b, 1)
	value := noise(4 << 10)
	before := cpu()
	b.ResetTimer()
	for i := 0; i < b.N; {
		err := l.s.db.Update(func(tx *bbolt.Tx) error {
			for n := 0; n < 64 && i < b.N; n++ {
				i++
				if err := tx.Bucket([]byte(tableNames[tBody])).Put(be(uint64(i)), value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/msg")
}

// BenchmarkDeliver leases and finishes all that was accepted; one op is one message.
func BenchmarkDeliver(b *testing.B) {
	for _, goroutines := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			l := newLoad(b, 10<<10)
			l.run(b, 64, b.N, l.accept)
			before := cpu()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var turn atomic.Int64
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					for left.Load() > 0 {
						n, err := l.deliver(fmt.Sprintf("d%d.example", turn.Add(1)%int64(l.dests)))
						if err != nil {
							b.Error(err)
							return
						}
						left.Add(int64(-n))
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/msg")
		})
	}
}

// deliver leases one batch of a destination, reads its bodies and finishes it.
func (l *load) deliver(dest string) (int, error) {
	ctx := context.Background()
	batch, err := l.s.Lease(ctx, store.LeaseRequest{Node: "n", Dest: dest, Max: 20, Cap: 64, For: time.Minute})
	if err != nil || len(batch.Envelopes) == 0 {
		return 0, err
	}
	var rs []store.Result
	var e store.Effects
	for _, v := range batch.Envelopes {
		if _, err := l.s.Body(ctx, v.Message.ID); err != nil {
			return 0, err
		}
		rs = append(rs, store.Result{Envelope: v.ID, Next: store.Finish})
		e.Leaves = append(e.Leaves, store.Leaf{Time: time.Now(), ID: v.Message.ID, Event: "delivered", Record: make([]byte, 200)})
	}
	return len(rs), l.s.Finish(ctx, batch.Token, rs, e)
}

// residentSize is how much memory the system counts as ours, own and mapped,
// where it says so.
func residentSize() string {
	status, _ := os.ReadFile("/proc/self/status")
	var sizes []string
	for _, field := range []string{"RssAnon:", "RssFile:"} {
		_, rest, _ := strings.Cut(string(status), field)
		line, _, _ := strings.Cut(rest, "\n")
		sizes = append(sizes, strings.TrimSpace(line))
	}
	return strings.Join(sizes, " + ")
}

// BenchmarkBacklog lets the queue grow tenfold from step to step and measures,
// at each size, accept and lease + finish, memory and the time to open. Use
// -benchtime 1x -backlog 1000000.
func BenchmarkBacklog(b *testing.B) {
	for b.Loop() {
		l := newLoad(b, 1<<10)
		queued := 0
		for size := 1000; size <= *backlog; size *= 10 {
			l.run(b, 64, size-queued, l.accept)
			const probe = 2000
			start, before := time.Now(), cpu()
			took := l.run(b, 64, probe, l.accept)
			perThousand := (cpu() - before) * 1000 / probe
			accepts := float64(probe) / time.Since(start).Seconds()
			start = time.Now()
			done := 0
			for done < probe {
				due, err := l.s.Due(context.Background(), time.Now(), 64)
				if err != nil {
					b.Fatal(err)
				}
				var n atomic.Int64
				var wg sync.WaitGroup
				for _, d := range due {
					wg.Go(func() {
						k, err := l.deliver(d.Dest)
						if err != nil {
							b.Error(err)
						}
						n.Add(int64(k))
					})
				}
				wg.Wait()
				done += int(n.Load())
			}
			delivers := float64(done) / time.Since(start).Seconds()
			queued = size + probe - done
			runtime.GC()
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			resident := residentSize()
			start = time.Now()
			l.s.Close()
			s, err := Open(l.s.dir, l.s.o)
			if err != nil {
				b.Fatal(err)
			}
			opened := time.Since(start)
			l.s = s
			fi, _ := os.Stat(s.path())
			b.Logf("%8d queued: accept %6.0f/s (p99 %v), deliver %6.0f/s, CPU %v per 1000 accepts, heap %d MiB, resident %s, file %d MiB, open %v",
				queued, accepts, took[len(took)*99/100].Round(100*time.Microsecond), delivers, perThousand.Round(time.Millisecond),
				mem.HeapAlloc>>20, resident, fi.Size()>>20, opened.Round(time.Millisecond))
		}
		l.s.Close()
	}
}
