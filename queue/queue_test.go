package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/store/storetest"
	"github.com/phigate/phigate/policy"
)

// server is one destination as data.
type server struct {
	takes time.Duration // per envelope
	down  bool          // cannot be reached
	reply string        // "" delivers; "4…" retries
	once  bool          // the reply, to one envelope only
	words string        // behind the reply
	most  int           // sessions at once; the reply is for those above it
}

// attempt is one envelope tried.
type attempt struct {
	id   store.EnvelopeID
	dest string
	at   time.Time
}

// world is a queue over the model of the store, with servers as data.
type world struct {
	*testing.T
	*Queue
	mem   *storetest.Memory
	ids   store.IDs
	nodes int
	done  chan error
	cut   context.CancelFunc

	mu       sync.Mutex // guards what follows
	servers  map[string]server
	attempts []attempt
	gaveUp   []store.EnvelopeID
	counts   map[Event]int
	sessions int            // opened in all
	open     map[string]int // now
	peak     map[string]int
	peakAll  int
}

func newWorld(t *testing.T, change func(*Options)) *world {
	w := &world{
		T: t, mem: storetest.NewMemory(nil), servers: map[string]server{},
		counts: map[Event]int{}, open: map[string]int{}, peak: map[string]int{},
	}
	w.mem.Hash = audit.Hash
	w.Queue = w.node(w.mem, change)
	return w
}

// node makes a queue on the store, as the next process or another machine would.
func (w *world) node(s Store, change func(*Options)) *Queue {
	w.nodes++
	o := Options{
		Store: s, Try: w.try, GiveUp: w.giveUp, Clock: time.Now, Node: fmt.Sprint("n", w.nodes),
		Leaf: leaf, Count: func(e Event) { w.mu.Lock(); w.counts[e]++; w.mu.Unlock() },
	}
	if change != nil {
		change(&o)
	}
	q, err := New(o)
	if err != nil {
		w.Fatal(err)
	}
	return q
}

func leaf(e audit.Event) store.Leaf {
	return store.Leaf{Time: time.Now(), ID: e.ID, Event: string(e.Kind), Record: []byte(string(e.Kind) + " " + e.Who + " " + e.Reason)}
}

// start runs the queue until stop, or the end of the test.
func (w *world) start() {
	ctx, cut := context.WithCancel(w.Context())
	w.cut, w.done = cut, make(chan error, 1)
	go func() { w.done <- w.Queue.Run(ctx) }()
}

func (w *world) stop() {
	w.cut()
	if err := <-w.done; err != nil {
		w.Error(err)
	}
}

// pass lets time pass, and then everybody finish what they do at that time.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) serve(dest string, s server) {
	w.mu.Lock()
	w.servers[dest] = s
	w.mu.Unlock()
}

// accept queues n messages of one envelope each.
func (w *world) accept(dest string, n int, change func(*store.Envelope)) (ids []store.EnvelopeID) {
	w.Helper()
	for range n {
		id := w.ids.New(time.Now())
		m := store.Message{ID: id, Sender: "mailer-a", Campaign: "spring", Accepted: time.Now()}
		e := store.Envelope{
			ID: store.EnvelopeIDOf(id, 0), Message: m, Recipient: "pat@" + dest, Dest: dest, State: store.Ready,
			Due: time.Now(), Expires: time.Now().Add(72 * time.Hour), Code: "HG-D703", Floor: policy.Open,
		}
		if change != nil {
			change(&e)
		}
		fx := store.Effects{Messages: []store.NewMessage{{Message: e.Message, Body: []byte("x"), Envelopes: []store.Envelope{e}}}}
		if err := w.mem.Apply(w.Context(), fx); err != nil {
			w.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	w.Kick()
	return ids
}

// enter counts a session in and returns how many there are then.
func (w *world) enter(dest string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions++
	w.open[dest]++
	all := 0
	for _, n := range w.open {
		all += n
	}
	w.peak[dest], w.peakAll = max(w.peak[dest], w.open[dest]), max(w.peakAll, all)
	return w.open[dest]
}

func (w *world) leave(dest string) { w.mu.Lock(); w.open[dest]--; w.mu.Unlock() }

// try is the gateway's side: one session, whatever the server says.
func (w *world) try(ctx context.Context, dest string, mail iter.Seq[store.Envelope], done func(Outcome)) {
	nth := w.enter(dest)
	defer w.leave(dest)
	for e := range mail {
		w.mu.Lock()
		s := w.servers[dest]
		if s.once {
			w.servers[dest] = server{takes: s.takes}
		}
		w.attempts = append(w.attempts, attempt{e.ID, dest, time.Now()})
		if s.most >= nth {
			s.reply = ""
		}
		w.mu.Unlock()
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return // no outcome
		}
		done(s.outcome(e))
	}
}

func (s server) outcome(e store.Envelope) Outcome {
	o := Outcome{Result: store.Result{Envelope: e.ID, Next: store.Finish, LastReply: "250 2.0.0"}}
	o.Leaves = []store.Leaf{leaf(audit.Event{ID: e.Message.ID, Kind: audit.Delivered})}
	if s.down || s.reply != "" {
		o.Next, o.Down, o.LastReply, o.Words = store.Retry, s.down, s.reply, Words(s.words)
		o.Leaves = []store.Leaf{leaf(audit.Event{ID: e.Message.ID, Kind: audit.Deferred})}
	}
	return o
}

func (w *world) giveUp(_ context.Context, e store.Envelope) (Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gaveUp = append(w.gaveUp, e.ID)
	o := Outcome{Result: store.Result{Next: store.Finish}}
	o.Leaves = []store.Leaf{leaf(audit.Event{ID: e.Message.ID, Kind: audit.Bounced})}
	return o, nil
}

// opened is how many sessions a destination has now; "" is all there ever were.
func (w *world) opened(dest string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if dest == "" {
		return w.sessions
	}
	return w.open[dest]
}

func (w *world) tries() int        { w.mu.Lock(); defer w.mu.Unlock(); return len(w.attempts) }
func (w *world) count(e Event) int { w.mu.Lock(); defer w.mu.Unlock(); return w.counts[e] }
func (w *world) given() int        { w.mu.Lock(); defer w.mu.Unlock(); return len(w.gaveUp) }

func (w *world) tried(dest string) (at []time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.attempts {
		if a.dest == dest {
			at = append(at, a.at)
		}
	}
	return at
}

func (w *world) left() int {
	w.Helper()
	s, err := w.mem.Stats(context.WithoutCancel(w.Context()))
	if err != nil {
		w.Fatal(err)
	}
	return s.Ready + s.Leased + s.Held
}

func (w *world) leaves(kind audit.Kind) (n int) {
	all, _ := w.mem.Leaves(context.WithoutCancel(w.Context()), 0, 1<<20)
	for _, l := range all {
		if l.Event == string(kind) {
			n++
		}
	}
	return n
}

func story(t *testing.T, change func(*Options), play func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { play(newWorld(t, change)) })
}

func few(total, each int) func(*Options) {
	return func(o *Options) { o.Concurrency = Concurrency{total, each} }
}

func TestDeliversEverythingOnce(t *testing.T) {
	story(t, few(10, 3), func(w *world) {
		const dests, each = 12, 25
		for i := range dests {
			dest := fmt.Sprintf("d%d.example", i)
			w.serve(dest, server{takes: 50 * time.Millisecond})
			w.accept(dest, each, nil)
		}
		w.start()
		w.pass(time.Minute)
		w.stop()
		if w.left() != 0 || w.tries() != dests*each || w.leaves(audit.Delivered) != dests*each {
			w.Errorf("%d left, %d attempts, %d leaves", w.left(), w.tries(), w.leaves(audit.Delivered))
		}
		for dest, n := range w.peak {
			if n > 3 {
				w.Errorf("%d sessions to %s", n, dest)
			}
		}
		if w.peakAll > 10 || w.peakAll < 9 {
			w.Errorf("%d sessions at once, want 9 or 10 of 10", w.peakAll)
		}
	})
}

func TestKickedMailLeavesAtOnceOverTheSameSession(t *testing.T) {
	story(t, nil, func(w *world) {
		w.start()
		w.pass(time.Hour)
		for range 20 {
			begin := time.Now()
			w.accept("a.example", 1, nil)
			w.pass(500 * time.Millisecond)
			at := w.tried("a.example")
			if d := at[len(at)-1].Sub(begin); d < 0 || d > 10*time.Millisecond {
				w.Fatalf("left after %v", d)
			}
		}
		if w.opened("") != 1 {
			w.Errorf("%d sessions for 20 messages in 10 s", w.opened(""))
		}
		w.pass(2 * time.Second)
		if w.opened("a.example") != 0 {
			w.Error("an idle session stays open")
		}
		w.stop()
	})
}

func TestIdleSessionMakesRoom(t *testing.T) {
	story(t, func(o *Options) { o.Concurrency, o.Linger = Concurrency{1, 1}, time.Hour }, func(w *world) {
		w.start()
		for range 3 {
			for _, dest := range []string{"a.example", "b.example"} {
				w.accept(dest, 1, nil)
				w.pass(100 * time.Millisecond)
				if w.left() != 0 {
					w.Fatalf("mail to %s waits for a session that has nothing to do", dest)
				}
			}
		}
		w.stop()
	})
}

// A campaign to one slow destination fills the workers; others do not wait for it.
func TestFairness(t *testing.T) {
	story(t, few(10, 10), func(w *world) {
		w.serve("slow.example", server{takes: 5 * time.Second})
		w.serve("dead.example", server{takes: 30 * time.Second, down: true})
		w.accept("slow.example", 600, nil)
		w.accept("dead.example", 100, nil)
		w.start()
		w.pass(time.Minute)
		for i := range 20 {
			begin := time.Now()
			dest := fmt.Sprintf("small%d.example", i)
			w.accept(dest, 1, nil)
			w.pass(12 * time.Second)
			at := w.tried(dest)
			if len(at) == 0 {
				w.Fatalf("%s waits more than 12 s behind the campaign", dest)
			}
			if d := at[0].Sub(begin); d > 8*time.Second {
				w.Errorf("%s waited %v", dest, d)
			}
		}
		w.stop()
		if n := len(w.tried("slow.example")); n < 360 {
			w.Errorf("the campaign got only %d through", n)
		}
	})
}

// At one destination a sender's large campaign does not keep another sender's
// mail, or another campaign, waiting; not even at one message in ten seconds.
func TestSendersTakeTurns(t *testing.T) {
	story(t, func(o *Options) {
		o.Concurrency = Concurrency{10, 2}
		o.Shaping = shaping(t, `{version: 1, default: {rate: 6/min}}`)
	}, func(w *world) {
		w.accept("a.example", 400, nil)
		w.start()
		w.pass(10 * time.Minute)
		begin := time.Now()
		by := func(sender, campaign string) []store.EnvelopeID {
			return w.accept("a.example", 3, func(e *store.Envelope) { e.Message.Sender, e.Message.Campaign = sender, campaign })
		}
		late := append(by("mailer-b", "spring"), by("mailer-a", "summer")...)
		w.pass(3 * time.Minute)
		w.stop()
		w.mu.Lock()
		defer w.mu.Unlock()
		others := 0
		for _, a := range w.attempts {
			if a.at.Before(begin) {
				continue
			}
			if slices.Contains(late, a.id) {
				late = slices.DeleteFunc(late, func(id store.EnvelopeID) bool { return id == a.id })
			} else {
				others++
			}
		}
		if len(late) > 0 || others < 6 {
			w.Errorf("%d of 6 wait for the campaign, which got %d in 3 minutes", len(late), others)
		}
	})
}

// A pickup code overtakes a campaign: to another destination on a worker kept
// for it, to the same one as the next envelope.
func TestPromptLane(t *testing.T) {
	story(t, few(10, 5), func(w *world) {
		for _, dest := range []string{"a.example", "b.example"} {
			w.serve(dest, server{takes: time.Second})
			w.accept(dest, 330, nil)
		}
		w.start()
		w.pass(time.Minute + 500*time.Millisecond) // in the middle of what all workers do
		prompt := func(e *store.Envelope) { e.Lane = store.Prompt }
		begin := time.Now()
		w.accept("c.example", 1, prompt)
		a := w.accept("a.example", 1, prompt)[0]
		w.pass(3 * time.Second)
		w.stop()
		if at := w.tried("c.example"); len(at) != 1 || at[0].Sub(begin) > 10*time.Millisecond {
			w.Errorf("to another destination: %v", at)
		}
		i := slices.IndexFunc(w.attempts, func(t attempt) bool { return t.id == a })
		if i < 0 || w.attempts[i].at.Sub(begin) > 1100*time.Millisecond {
			w.Error("the code waits behind the campaign to the same destination")
		}
	})
}

func TestDownDestinationIsLeftAlone(t *testing.T) {
	story(t, nil, func(w *world) {
		w.serve("dead.example", server{takes: 30 * time.Second, down: true})
		w.accept("dead.example", 50, nil)
		w.start()
		w.pass(6 * time.Hour)
		if n := len(w.tried("dead.example")); n < 4 || n > 12 {
			w.Errorf("%d attempts in 6 hours", n)
		}
		if s := w.Status(); s.Trouble+s.Sessions != 1 {
			w.Errorf("status %+v", s)
		}
		w.serve("dead.example", server{takes: time.Second})
		w.pass(6 * time.Hour)
		if w.left() != 0 {
			w.Errorf("%d left after it came back", w.left())
		}
		w.stop()
	})
}

func TestPushBackShrinksTheWindow(t *testing.T) {
	story(t, few(100, 16), func(w *world) {
		w.serve("a.example", server{takes: time.Second, reply: "421 4.7.0"})
		w.accept("a.example", 400, nil)
		w.start()
		w.pass(10 * time.Second)
		n := len(w.tried("a.example"))
		if n > 10 {
			w.Errorf("%d attempts against a server that pushes back", n)
		}
		w.serve("a.example", server{takes: time.Second})
		w.pass(12 * time.Hour)
		if w.left() != 0 || w.peak["a.example"] > 16 {
			w.Errorf("%d left, peak %d", w.left(), w.peak["a.example"])
		}
		w.stop()
	})
}

func TestOnePushBackEndsHalfOfTheSessions(t *testing.T) {
	story(t, few(100, 16), func(w *world) {
		w.serve("a.example", server{takes: time.Second})
		w.accept("a.example", 700, nil)
		w.start()
		w.pass(20*time.Second + 500*time.Millisecond)
		before := w.opened("a.example")
		w.serve("a.example", server{takes: time.Second, reply: "421 4.7.0", once: true})
		w.pass(2 * time.Second)
		if after := w.opened("a.example"); before != 16 || after < 7 || after > 12 {
			w.Errorf("%d sessions, %d after a 421", before, after)
		}
		w.pass(time.Minute)
		w.stop()
		if w.left() != 1 {
			w.Errorf("%d left", w.left())
		}
	})
}

func TestRetryTimes(t *testing.T) {
	story(t, nil, func(w *world) {
		w.serve("a.example", server{reply: "450 4.2.0"})
		begin := time.Now()
		id := w.accept("a.example", 1, func(e *store.Envelope) {
			e.Within, e.Expires = begin.Add(time.Hour), begin.Add(9*time.Hour)
		})[0]
		w.start()
		w.pass(24 * time.Hour)
		w.stop()
		at := w.tried("a.example")
		for i, want := range []time.Duration{0, 5 * time.Minute, 15 * time.Minute, 35 * time.Minute} {
			got := at[i].Sub(begin)
			if math.Abs(float64(got-want)) > 0.2*float64(want)+float64(time.Second) {
				w.Errorf("attempt %d after %v, want %v ±20%%", i+1, got, want)
			}
		}
		has := func(d time.Duration) bool {
			return slices.ContainsFunc(at, func(t time.Time) bool { e := t.Sub(begin) - d; return e >= 0 && e < time.Second })
		}
		if !has(time.Hour) {
			w.Errorf("no attempt when the floor had to be met: %v", at)
		}
		if !slices.Equal(w.gaveUp, []store.EnvelopeID{id}) || w.left() != 0 || w.leaves(audit.Bounced) != 1 {
			w.Errorf("gave up %v, %d left", w.gaveUp, w.left())
		}
		if last := at[len(at)-1].Sub(begin); last > 9*time.Hour+time.Second {
			w.Errorf("tried %v after it expired", last-9*time.Hour)
		}
	})
}

func TestExpiredIsGivenUpUntried(t *testing.T) {
	story(t, nil, func(w *world) {
		w.serve("dead.example", server{down: true})
		soon := func(e *store.Envelope) { e.Expires = time.Now().Add(time.Hour) }
		ids := w.accept("dead.example", 3, soon)
		ids = append(ids, w.accept("a.example", 1, func(e *store.Envelope) { soon(e); e.State = store.Held })...)
		kept := w.accept("a.example", 1, func(e *store.Envelope) { e.State, e.Expires = store.Held, time.Time{} })
		w.start()
		w.pass(2 * time.Hour)
		w.mu.Lock()
		gone := slices.Sorted(slices.Values(w.gaveUp))
		w.mu.Unlock()
		if !slices.Equal(gone, slices.Sorted(slices.Values(ids))) || w.left() != 1 {
			w.Errorf("gave up %d of %d, %d left", w.given(), len(ids), w.left())
		}
		w.pass(72 * time.Hour)
		w.stop()
		if w.left() != 0 || w.gaveUp[w.given()-1] != kept[0] {
			w.Error("mail without an expiry lives for ever")
		}
	})
}

func TestGivingUpCanWait(t *testing.T) {
	story(t, nil, func(w *world) {
		asked := 0
		w.Queue = w.node(w.mem, func(o *Options) {
			o.GiveUp = func(ctx context.Context, e store.Envelope) (Outcome, error) {
				switch asked++; asked {
				case 1:
					return Outcome{}, errors.New("no portal")
				case 2:
					return Outcome{Result: store.Result{Next: store.Retry}}, nil
				case 3:
					return Outcome{Result: store.Result{Next: store.Park, Code: "HG-H600", Expires: time.Now().Add(time.Hour)}}, nil
				}
				return w.giveUp(ctx, e)
			}
		})
		id := w.accept("a.example", 1, func(e *store.Envelope) { e.State, e.Expires = store.Held, time.Now().Add(time.Minute) })[0]
		w.start()
		w.pass(30 * time.Minute)
		if e, err := w.mem.Envelope(w.Context(), id); err != nil || e.State != store.Held || e.Code != "HG-H600" {
			w.Errorf("%v: %s %s", err, e.State, e.Code)
		}
		w.pass(time.Hour)
		w.stop()
		if w.left() != 0 || asked != 4 {
			w.Errorf("%d left, asked %d times", w.left(), asked)
		}
	})
}

// An envelope that became a pickup says nothing about the server.
func TestOtherWayIsNoSuccess(t *testing.T) {
	story(t, nil, func(w *world) {
		s := &session{q: w.Queue, dest: "a.example", site: w.sites.get("a.example")}
		w.learn(s, Outcome{Down: true})
		w.learn(s, Outcome{Result: store.Result{Next: store.Finish}})
		if w.Status().Trouble != 1 {
			w.Error("a pickup made here ends the trouble there")
		}
		w.learn(s, Outcome{Result: store.Result{Next: store.Finish, LastReply: "250 2.0.0"}})
		if w.Status().Trouble != 0 {
			w.Error("a delivery does not")
		}
	})
}

// Mail that should have met its floor by now goes another way, though nobody
// tries it because its destination is down.
func TestFloorTimeOfAnUnreachedDestination(t *testing.T) {
	story(t, nil, func(w *world) {
		w.serve("dead.example", server{down: true})
		w.accept("dead.example", 20, func(e *store.Envelope) { e.Within = time.Now().Add(time.Hour) })
		w.accept("dead.example", 2, nil)
		w.start()
		w.pass(58 * time.Minute)
		early := w.given()
		w.pass(5 * time.Minute)
		w.stop()
		if early != 0 || w.given() != 20 || w.left() != 2 {
			w.Errorf("gave up %d before and %d after the hour, %d left", early, w.given(), w.left())
		}
	})
}

// Another node has all slots of a destination: its mail waits, without a hot loop.
func TestAnotherNodeHasTheSlots(t *testing.T) {
	story(t, few(10, 1), func(w *world) {
		s := &failing{Memory: w.mem}
		w.Queue = w.node(s, few(10, 1))
		w.accept("a.example", 2, nil)
		b, err := w.mem.Lease(w.Context(), store.LeaseRequest{Dest: "a.example", Max: 1, Cap: 1, For: time.Hour})
		if err != nil || len(b.Envelopes) != 1 {
			w.Fatal(err)
		}
		w.start()
		w.pass(time.Minute)
		if w.tries() != 0 || s.looks() > 200 {
			w.Errorf("%d attempts, %d looks in a minute", w.tries(), s.looks())
		}
		if err := w.mem.Finish(w.Context(), b.Token, []store.Result{{Envelope: b.Envelopes[0].ID, Next: store.Finish}}, store.Effects{}); err != nil {
			w.Fatal(err)
		}
		w.pass(5 * time.Second)
		w.stop()
		if w.left() != 0 {
			w.Error("its mail does not leave when the slot is free")
		}
	})
}

// We were switched off for a week: what never had a chance gets one.
func TestExpiredButNeverTriedIsTried(t *testing.T) {
	story(t, few(1, 1), func(w *world) {
		w.serve("a.example", server{takes: 40 * time.Second}) // the third waits when expired mail is swept
		w.accept("a.example", 3, func(e *store.Envelope) { e.Expires = time.Now().Add(time.Hour) })
		w.pass(7 * 24 * time.Hour)
		w.start()
		w.pass(5 * time.Minute)
		w.stop()
		if w.given() != 0 || w.leaves(audit.Delivered) != 3 {
			w.Errorf("gave up %d, delivered %d", w.given(), w.leaves(audit.Delivered))
		}
	})
}

func TestSlowDeliveryKeepsItsLease(t *testing.T) {
	story(t, func(o *Options) { o.Lease = time.Minute }, func(w *world) {
		w.serve("a.example", server{takes: 25 * time.Minute})
		w.accept("a.example", 1, nil)
		w.start()
		w.pass(time.Hour)
		w.stop()
		if w.tries() != 1 || w.left() != 0 || w.count(LeaseLost) != 0 {
			w.Errorf("%d attempts, %d left, %d lost", w.tries(), w.left(), w.count(LeaseLost))
		}
	})
}

func TestStoreErrorShorterThanTheLease(t *testing.T) {
	story(t, nil, func(w *world) {
		s := &failing{Memory: w.mem}
		w.Queue = w.node(s, func(o *Options) { o.Lease = time.Minute })
		w.serve("a.example", server{takes: 25 * time.Minute})
		w.accept("a.example", 1, nil)
		w.start()
		w.pass(10 * time.Minute)
		s.set(true)
		w.pass(20 * time.Second)
		s.set(false)
		w.pass(time.Hour)
		w.stop()
		if w.tries() != 1 || w.left() != 0 {
			w.Errorf("%d attempts, %d left", w.tries(), w.left())
		}
	})
}

// Somebody else has the mail now: what the first worker says changes nothing.
func TestLostLeaseChangesNothing(t *testing.T) {
	story(t, func(o *Options) {
		o.Lease = time.Hour // no extension that would notice
	}, func(w *world) {
		w.serve("a.example", server{takes: time.Minute})
		id := w.accept("a.example", 1, nil)[0]
		w.start()
		w.pass(30 * time.Second)
		w.mem.Restart() // the lease is gone, as if it had run out
		b, err := w.mem.Lease(w.Context(), store.LeaseRequest{Dest: "a.example", Max: 1, Cap: 9, For: time.Hour})
		if err != nil || len(b.Envelopes) != 1 {
			w.Fatal(err)
		}
		w.pass(time.Minute)
		e, err := w.mem.Envelope(w.Context(), id)
		if err != nil || e.State != store.Leased || w.leaves(audit.Delivered) != 0 || w.count(LeaseLost) != 1 {
			w.Errorf("%v: %s, %d leaves, %d lost", err, e.State, w.leaves(audit.Delivered), w.count(LeaseLost))
		}
		w.stop()
	})
}

func TestLostLeaseStopsTheSession(t *testing.T) {
	story(t, func(o *Options) { o.Lease = time.Minute }, func(w *world) {
		w.serve("a.example", server{takes: time.Hour})
		w.accept("a.example", 1, nil)
		w.start()
		w.pass(5 * time.Second)
		w.mem.Restart()
		w.mem.Lease(w.Context(), store.LeaseRequest{Dest: "a.example", Max: 1, Cap: 9, For: 10 * time.Hour})
		w.pass(time.Minute)
		if w.opened("a.example") != 0 {
			w.Error("it goes on sending what another worker has")
		}
		w.stop()
	})
}

// dying is a process that can be killed: nothing it does reaches the store any more.
type dying struct {
	*storetest.Memory
	mu   sync.Mutex
	dead bool
}

var errDead = fmt.Errorf("%w: killed", store.ErrUnavailable)

func (d *dying) Finish(ctx context.Context, t store.Token, r []store.Result, e store.Effects) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return errDead
	}
	return d.Memory.Finish(ctx, t, r, e)
}

func TestCrashBetweenLeaseAndFinish(t *testing.T) {
	story(t, nil, func(w *world) {
		w.serve("a.example", server{takes: time.Second})
		w.accept("a.example", 5, nil)
		first := &dying{Memory: w.mem, dead: true}
		w.Queue = w.node(first, func(o *Options) { o.Drain = time.Nanosecond })
		w.start()
		w.pass(1500 * time.Millisecond) // delivered, not recorded
		w.stop()
		sent := w.tries()
		if w.left() != 5 || w.leaves(audit.Delivered) != 0 || sent == 0 {
			w.Fatalf("%d left, %d leaves, %d attempts", w.left(), w.leaves(audit.Delivered), sent)
		}
		w.mem.Restart()
		w.Queue = w.node(w.mem, nil)
		w.start()
		w.pass(time.Hour)
		w.stop()
		if w.left() != 0 || w.leaves(audit.Delivered) != 5 || w.tries() > 5+sent {
			w.Errorf("%d left, %d delivered, %d attempts", w.left(), w.leaves(audit.Delivered), w.tries())
		}
	})
}

// failing is a store whose Finish and Check fail until it is healed.
type failing struct {
	*storetest.Memory
	mu    sync.Mutex
	sick  bool
	calls int
	dues  int
}

func (f *failing) set(sick bool) { f.mu.Lock(); f.sick = sick; f.mu.Unlock() }
func (f *failing) looks() int    { f.mu.Lock(); defer f.mu.Unlock(); return f.dues }
func (f *failing) count() int    { f.mu.Lock(); defer f.mu.Unlock(); return f.calls }
func (f *failing) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.sick {
		return fmt.Errorf("%w: disk full", store.ErrUnavailable)
	}
	return nil
}

func (f *failing) Check(context.Context) error { return f.err() }

func (f *failing) Due(ctx context.Context, now time.Time, n int) ([]store.DestDue, error) {
	f.mu.Lock()
	f.dues++
	f.mu.Unlock()
	return f.Memory.Due(ctx, now, n)
}

func (f *failing) Extend(ctx context.Context, t store.Token, by time.Duration) (time.Time, error) {
	if err := f.err(); err != nil {
		return time.Time{}, err
	}
	return f.Memory.Extend(ctx, t, by)
}

func (f *failing) Finish(ctx context.Context, t store.Token, r []store.Result, e store.Effects) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Memory.Finish(ctx, t, r, e)
}

func TestStoreErrorPausesAndNothingIsSentTwice(t *testing.T) {
	story(t, few(20, 4), func(w *world) {
		s := &failing{Memory: w.mem}
		w.Queue = w.node(s, few(20, 4))
		w.serve("a.example", server{takes: time.Second})
		w.accept("a.example", 50, nil)
		w.start()
		w.pass(3 * time.Second)
		s.set(true)
		w.pass(2 * time.Second)
		before, calls := len(w.tried("a.example")), s.count()
		w.pass(5 * time.Minute)
		if n := len(w.tried("a.example")); n != before || !w.Status().Paused {
			w.Errorf("%d attempts while nothing could be recorded", n-before)
		}
		if n := s.count() - calls; n > 150 {
			w.Errorf("a failed store was asked %d times in 5 minutes", n)
		}
		s.set(false)
		w.pass(5 * time.Minute)
		w.stop()
		if w.tries() != 50 || w.left() != 0 || w.leaves(audit.Delivered) != 50 {
			w.Errorf("%d attempts, %d left, %d recorded of 50", w.tries(), w.left(), w.leaves(audit.Delivered))
		}
		if w.count(Paused) != 1 {
			w.Errorf("paused %d times", w.count(Paused))
		}
	})
}

func TestQuietWhenNothingCanBeDone(t *testing.T) {
	story(t, nil, func(w *world) {
		s := &failing{Memory: w.mem}
		w.Queue = w.node(s, nil)
		w.serve("dead.example", server{down: true})
		w.accept("dead.example", 10, nil)
		w.start()
		w.pass(time.Hour)
		w.stop()
		if s.dues > 3700 {
			w.Errorf("%d looks in an hour", s.dues)
		}
	})
}

func TestShutdownFinishesWhatIsOpen(t *testing.T) {
	story(t, few(10, 2), func(w *world) {
		w.serve("a.example", server{takes: 10 * time.Second})
		w.serve("stuck.example", server{takes: time.Hour})
		w.accept("a.example", 10, nil)
		stuck := w.accept("stuck.example", 1, nil)[0]
		w.start()
		w.pass(5 * time.Second)
		begin := time.Now()
		w.stop()
		if d := time.Since(begin); d < 29*time.Second || d > 31*time.Second {
			w.Errorf("ended after %v, want the 30 s of Drain", d)
		}
		if n := w.leaves(audit.Delivered); n != 2 || w.tries() != 3 {
			w.Errorf("%d delivered, %d attempts: want what was open and no more", n, w.tries())
		}
		e, err := w.mem.Envelope(context.Background(), stuck)
		if err != nil || e.State != store.Ready || e.Due.After(time.Now()) {
			w.Errorf("what was cut off: %s, due in %v, %v", e.State, time.Until(e.Due), err)
		}
	})
}

func TestShutdownWhenIdleIsQuick(t *testing.T) {
	story(t, nil, func(w *world) {
		w.accept("a.example", 1, nil)
		w.start()
		w.pass(500 * time.Millisecond) // the session lingers
		begin := time.Now()
		w.stop()
		if d := time.Since(begin); d > 10*time.Millisecond {
			w.Errorf("took %v", d)
		}
	})
}

func TestBatchIsFinishedWhole(t *testing.T) {
	story(t, func(o *Options) { o.Batch = 4; o.Concurrency = Concurrency{10, 1} }, func(w *world) {
		w.serve("a.example", server{takes: time.Second})
		w.accept("a.example", 10, nil)
		w.start()
		w.pass(5500 * time.Millisecond)
		if w.leaves(audit.Delivered) != 4 {
			w.Errorf("%d recorded, want one batch of 4", w.leaves(audit.Delivered))
		}
		w.stop() // in the second batch: the rest goes back at once
		page, _ := w.mem.Envelopes(context.Background(), store.Query{State: store.Ready})
		if len(page) != 4 {
			w.Errorf("%d left", len(page))
		}
		for _, e := range page {
			if e.Due.After(time.Now()) {
				w.Errorf("%s waits %v though it was never tried", e.ID, time.Until(e.Due))
			}
		}
	})
}

func TestEffectsThatCannotBeStoredPark(t *testing.T) {
	story(t, nil, func(w *world) {
		w.Queue = w.node(w.mem, func(o *Options) {
			o.Try = func(_ context.Context, _ string, mail iter.Seq[store.Envelope], done func(Outcome)) {
				for e := range mail {
					done(Outcome{Result: store.Result{Envelope: "wrong"}}) // passed by
					o := server{}.outcome(e)
					o.Leaves[0].ID = "no id"
					done(o)
				}
			}
		})
		id := w.accept("a.example", 1, nil)[0]
		w.start()
		w.pass(time.Hour)
		w.stop()
		e, err := w.mem.Envelope(context.Background(), id)
		if err != nil || e.State != store.Held || w.count(Parked) != 1 {
			w.Errorf("%v: state %q", err, e.State)
		}
	})
}

func TestSharedSite(t *testing.T) {
	story(t, func(o *Options) {
		o.Concurrency = Concurrency{50, 4}
		o.Site = func(string) string { return "big provider" }
	}, func(w *world) {
		for i := range 10 {
			dest := fmt.Sprintf("d%d.example", i)
			w.serve(dest, server{takes: time.Second})
			w.accept(dest, 10, nil)
		}
		w.start()
		w.pass(5 * time.Minute)
		w.stop()
		if w.left() != 0 || w.peakAll > 4 {
			w.Errorf("%d left, %d sessions at once to one provider", w.left(), w.peakAll)
		}
	})
}

func TestNothingIsRememberedOfDestinations(t *testing.T) {
	story(t, nil, func(w *world) {
		for i := range 200 {
			dest := fmt.Sprintf("d%d.example", i)
			w.serve(dest, server{down: i%2 == 0})
			w.accept(dest, 1, func(e *store.Envelope) { e.Expires = time.Now().Add(time.Hour) })
		}
		w.start()
		w.pass(48 * time.Hour)
		w.stop()
		if n := len(w.sites.known); n != 0 || w.left() != 0 {
			w.Errorf("%d sites known, %d left", n, w.left())
		}
	})
}

var by = By{Who: "operator", Reason: "asked"}

func TestOperatorVerbs(t *testing.T) {
	story(t, nil, func(w *world) {
		ctx := w.Context()
		a := w.accept("a.example", 3, func(e *store.Envelope) { e.Due = time.Now().Add(time.Hour) })
		b := w.accept("b.example", 2, func(e *store.Envelope) { e.State = store.Held; e.Code = "HG-H600" })
		states := func(s Selection) (out string) {
			for r, err := range w.List(ctx, s) {
				if err != nil {
					return err.Error()
				}
				out += string(r.State[0])
				if r.Recipient != "" || r.ID != r.Envelope.Message() {
					w.Errorf("row %v", r)
				}
			}
			return out
		}
		expect := func(what, got, want string) {
			w.Helper()
			if got != want {
				w.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		changed := func(what string, c Changed, err error, want string) {
			w.Helper()
			expect(what, fmt.Sprint(c, err), want)
		}
		expect("all", states(Selection{}), "rrrhh")
		expect("by message id", states(Selection{IDs: []string{string(a[0].Message())}}), "r")
		expect("by envelope id", states(Selection{IDs: []string{string(a[0]), string(b[0])}}), "rh")
		expect("by code", states(Selection{Filter: store.Query{Code: "HG-H600"}}), "hh")
		unknown := w.ids.New(time.Now())
		for _, id := range []string{string(unknown), string(unknown) + ".0"} {
			if _, err := w.Show(ctx, id); !errors.Is(err, store.ErrNotFound) {
				w.Errorf("unknown id: %v", err)
			}
		}
		if rows, err := w.Show(ctx, string(a[0])); err != nil || len(rows) != 1 || rows[0].Recipient.Clear() != "pat@a.example" {
			w.Errorf("show: %v %v", rows, err)
		}

		c, err := w.Hold(ctx, Selection{}, by)
		changed("hold nothing", c, err, "{0 0 0} "+ErrNothingSelected.Error())
		c, err = w.Cancel(ctx, Selection{IDs: []string{string(a[0])}}, By{Who: "operator"})
		changed("no reason", c, err, "{0 0 0} "+ErrNoReason.Error())
		c, err = w.Hold(ctx, Selection{Filter: store.Query{Dest: "a.example"}}, by)
		changed("hold", c, err, "{3 0 0} <nil>")
		c, err = w.Hold(ctx, Selection{IDs: []string{string(a[0])}}, by)
		changed("hold again", c, err, "{0 0 1} <nil>")
		c, err = w.Cancel(ctx, Selection{IDs: []string{string(a[2].Message())}}, by)
		changed("cancel", c, err, "{1 0 0} <nil>")

		refuse := errors.New("no consent")
		decide := func(_ context.Context, e store.Envelope) (store.Envelope, error) {
			if e.ID == b[0] {
				return e, refuse
			}
			e.Code, e.Floor = "HG-D704", policy.Floor{Assurance: policy.AssuranceVerified, Strength: policy.StrengthBCP195}
			return e, nil
		}
		if _, err := w.Release(ctx, Selection{IDs: []string{string(b[0])}}, by, decide); !errors.Is(err, refuse) {
			w.Errorf("released against the decision: %v", err)
		}
		c, err = w.Release(ctx, Selection{IDs: []string{string(b[1])}}, by, decide)
		changed("release", c, err, "{1 0 0} <nil>")
		if e, _ := w.mem.Envelope(ctx, b[1]); e.State != store.Ready || e.Code != "HG-D704" || e.Floor.Assurance != policy.AssuranceVerified || e.Due.After(time.Now()) {
			w.Errorf("released as %s %s", e.State, e.Code)
		}
		expect("in the end", states(Selection{}), "hhhr")
		if w.leaves(audit.Held) != 3 || w.leaves(audit.Cancelled) != 1 || w.leaves(audit.Released) != 1 {
			w.Error("the audit log does not tell it all")
		}
		all, _ := w.mem.Leaves(ctx, 0, 99)
		for _, l := range all {
			if !strings.Contains(string(l.Record), "operator asked") {
				w.Errorf("a leaf without who and why: %s", l.Record)
			}
		}
	})
}

func TestPauseLetsNothingLeaveAndOutlivesARestart(t *testing.T) {
	story(t, few(10, 4), func(w *world) {
		w.serve("a.example", server{takes: time.Second})
		w.accept("a.example", 100, nil)
		w.start()
		w.pass(3500 * time.Millisecond)
		if err := w.Pause(w.Context(), By{Who: "operator"}); !errors.Is(err, ErrNoReason) {
			t.Errorf("paused without a reason: %v", err)
		}
		if err := w.Pause(w.Context(), by); err != nil || !w.Status().Stopped {
			t.Fatal(err)
		}
		w.pass(2 * time.Second)
		n := w.tries()
		w.accept("b.example", 1, nil)
		w.pass(time.Hour)
		if w.tries() != n || w.opened("a.example") != 0 || w.leaves(audit.Delivered) != n {
			w.Errorf("%d more attempts, %d of %d recorded", w.tries()-n, w.leaves(audit.Delivered), n)
		}
		w.stop()
		w.Queue = w.node(w.mem, few(10, 4))
		w.start()
		w.pass(time.Hour)
		if reason, stopped, err := w.Stopped(w.Context()); w.tries() != n || reason != "asked" || !stopped || err != nil {
			w.Errorf("after a restart: %d attempts, %q %v %v", w.tries()-n, reason, stopped, err)
		}
		if err := w.Resume(w.Context(), by); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
		w.stop()
		if w.left() != 0 || w.leaves(audit.Changed) != 2 {
			w.Errorf("%d left, %d leaves", w.left(), w.leaves(audit.Changed))
		}
	})
}

func TestBulkChanges(t *testing.T) {
	story(t, nil, func(w *world) {
		ctx := w.Context()
		w.accept("a.example", 600, nil)
		w.pass(3 * time.Hour)
		w.accept("a.example", 50, nil)
		spring := Selection{Filter: store.Query{Campaign: "spring"}}
		old := spring
		old.Before, old.DryRun = time.Now().Add(-2*time.Hour), true
		if c, err := w.Cancel(ctx, old, By{}); err != nil || c.Done != 600 || w.left() != 650 || w.leaves(audit.Cancelled) != 0 {
			w.Errorf("dry run: %+v %v, %d left", c, err, w.left())
		}
		b, err := w.mem.Lease(ctx, store.LeaseRequest{Dest: "a.example", Max: 1, Cap: 1, For: time.Hour})
		if err != nil || len(b.Envelopes) != 1 {
			t.Fatal(err)
		}
		var told []int
		spring.Progress = func(c Changed) { told = append(told, c.Done) }
		c, err := w.Hold(ctx, spring, by)
		if err != nil || c != (Changed{Done: 649, Busy: 1}) || len(told) < 3 || w.leaves(audit.Held) != 649 {
			w.Errorf("hold: %+v %v, told %v, %d leaves", c, err, told, w.leaves(audit.Held))
		}
		old.DryRun = false
		if c, err := w.Cancel(ctx, old, by); err != nil || c.Done+c.Busy != 600 || w.left() != 50+c.Busy || w.leaves(audit.Cancelled) != c.Done {
			w.Errorf("cancel: %+v %v, %d left", c, err, w.left())
		}
		if _, err := w.Cancel(ctx, Selection{DryRun: true}, by); !errors.Is(err, ErrNothingSelected) {
			w.Errorf("nothing: %v", err)
		}
	})
}

// What is leased while a group is put together does not keep the others from
// being changed.
func TestBulkMeetsALease(t *testing.T) {
	story(t, nil, func(w *world) {
		s := &racing{Memory: w.mem}
		w.Queue = w.node(s, nil)
		w.accept("a.example", 300, nil)
		c, err := w.Hold(w.Context(), Selection{Filter: store.Query{Dest: "a.example"}}, by)
		if err != nil || c != (Changed{Done: 299, Busy: 1}) || w.leaves(audit.Held) != 299 {
			w.Errorf("%+v %v, %d leaves", c, err, w.leaves(audit.Held))
		}
	})
}

// racing leases an envelope just before the first change.
type racing struct {
	*storetest.Memory
	over bool
}

func (r *racing) Change(ctx context.Context, c store.Change, e store.Effects) error {
	if !r.over {
		r.over = true
		if _, err := r.Memory.Lease(ctx, store.LeaseRequest{Dest: "a.example", Max: 1, Cap: 1, For: time.Hour}); err != nil {
			return err
		}
	}
	return r.Memory.Change(ctx, c, e)
}

func TestRetryNowLooksAgainAtADeadDestination(t *testing.T) {
	story(t, nil, func(w *world) {
		w.serve("a.example", server{down: true})
		id := w.accept("a.example", 1, nil)[0]
		w.start()
		w.pass(time.Hour)
		w.serve("a.example", server{takes: time.Minute})
		begin := time.Now()
		if c, err := w.Retry(w.Context(), Selection{Filter: store.Query{Sender: "mailer-a"}}, by); err != nil || c.Done != 1 {
			w.Fatal(c, err)
		}
		w.pass(time.Second)
		if at := w.tried("a.example"); at[len(at)-1].Before(begin) {
			w.Error("not tried at once")
		}
		if _, err := w.Cancel(w.Context(), Selection{IDs: []string{string(id)}}, by); !errors.Is(err, ErrLeased) {
			w.Errorf("cancelled while it is being sent: %v", err)
		}
		w.pass(2 * time.Minute)
		w.stop()
		if w.left() != 0 {
			w.Error("not delivered")
		}
	})
}

func TestThrottled(t *testing.T) {
	for reply, want := range map[string]bool{
		"421": true, "421 4.3.2": true, "450 4.7.1": true, "451 4.7.650": true,
		"450 4.2.0": false, "550 5.7.1": false, "250 2.0.0": false, "": false,
	} {
		if r := plain().rule("a.example", reply, ""); (r != nil && r.do == backOff) != want {
			t.Errorf("%q: %v", reply, !want)
		}
	}
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	if _, err := New(Options{}); !errors.Is(err, ErrOptions) {
		t.Errorf("%v", err)
	}
}
