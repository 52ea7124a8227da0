package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// Faults are what a test can do to an engine from outside. What an engine cannot
// suffer is nil; the cases that need it then do not apply to it.
type Faults struct {
	// Kill ends the process that has the store, as kill -9 does, and returns the
	// store as the next process opens it.
	Kill func(t testing.TB) store.Store
	// Shred destroys every epoch key there is; what is sealed later has a new one.
	Shred func(t testing.TB)
}

// Open opens an empty store that takes its time from the clock and closes with
// the test.
type Open func(t testing.TB, clock *Clock) (store.Store, Faults)

// Run holds an engine to the contract.
func Run(t *testing.T, open Open) {
	runCases(t, open)
	t.Run("agrees with the model", func(t *testing.T) {
		t.Parallel()
		compare(t, open)
	})
}

func runCases(t *testing.T, open Open) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := &fixture{T: t, ctx: t.Context(), clock: NewClock()}
			f.s, f.faults = open(t, f.clock)
			c.run(f)
		})
	}
}

var cases = []struct {
	name string
	run  func(*fixture)
}{
	{"what was accepted survives a kill", survives},
	{"every field comes back", everyField},
	{"bodies of every size come back", bodySizes},
	{"at most cap live leases per destination", capHolds},
	{"a stale token changes nothing", staleToken},
	{"the end of a lease returns its mail", leaseEnds},
	{"leases of a killed process return", leasesReturn},
	{"no lease before due", notBeforeDue},
	{"prompt mail is leased before bulk", promptFirst},
	{"state change and leaf both or neither", bothOrNeither},
	{"a revocation is seen by the next claim", revocationSeen},
	{"a repeated accept is one message", repeatedAccept},
	{"a queue of one domain does not delay another", noDelay},
	{"senders and campaigns take turns", takeTurns},
	{"the audit log has no gap", noGap},
	{"the last holder takes the body along", lastHolder},
	{"only the secret opens a pickup", pickupSecret},
	{"a recalled pickup never opens again", pickupRecalled},
	{"a pickup changes only from the version read", pickupVersion},
	{"changes need an envelope at rest", changeAtRest},
	{"finish outcomes", finishOutcomes},
	{"results must be of the batch", resultsOfBatch},
	{"queries select and page", queries},
	{"records replace, delete, page", records},
	{"what was shredded is gone", shredded},
	{"bad effects are refused whole", badEffects},
	{"a closed store is unavailable", closedStore},
}

// fixture is one store under test with the small words the cases are written in.
type fixture struct {
	*testing.T
	ctx    context.Context
	clock  *Clock
	s      store.Store
	faults Faults
	ids    store.IDs
}

func (f *fixture) id() store.ID { return f.ids.New(f.clock.Now()) }

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) wants(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("error %v, want %v", err, want)
	}
}

// message makes a message of ours to the recipients.
func (f *fixture) message(body string, recipients ...policy.Address) store.NewMessage {
	id := f.id()
	m := store.NewMessage{
		Message: store.Message{ID: id, Sender: "mailer-a", Return: "bounce@clinic.example", Campaign: "spring", Accepted: f.clock.Now(), Size: len(body)},
		Body:    []byte(body),
	}
	for i, r := range recipients {
		m.Envelopes = append(m.Envelopes, store.Envelope{
			ID: store.EnvelopeIDOf(id, i), Recipient: r.Clear(), Dest: r.Domain(), State: store.Ready,
			Due: f.clock.Now(), Expires: f.clock.Now().Add(72 * time.Hour), Code: "HG-D703", Rule: "phi",
			Floor: policy.Floor{Assurance: policy.AssuranceVerified, Strength: policy.StrengthSP80052r2},
		})
	}
	return m
}

func digestOf(text string) [32]byte { return sha256.Sum256([]byte(text)) }

// accept stores one message and gives it back as it was stored.
func (f *fixture) accept(body string, recipients ...policy.Address) store.NewMessage {
	f.Helper()
	m := f.message(body, recipients...)
	f.acceptAs(string(m.Message.ID), m)
	return m
}

func (f *fixture) acceptAs(digest string, m store.NewMessage, pickups ...store.NewPickup) store.Receipt {
	f.Helper()
	r, err := f.s.Accept(f.ctx, store.Acceptance{Digest: digestOf(digest), ID: m.Message.ID, Effects: store.Effects{
		Messages: []store.NewMessage{m}, Pickups: pickups, Leaves: []store.Leaf{f.leaf(m.Message.ID, "accepted")},
	}})
	f.must(err)
	return r
}

func (f *fixture) leaf(id store.ID, event string) store.Leaf {
	return store.Leaf{Time: f.clock.Now(), ID: id, Event: event, Record: []byte(event + " " + string(id)), Sealed: []byte("to ann@clinic.example")}
}

func (f *fixture) request(dest string) store.LeaseRequest {
	return store.LeaseRequest{
		Node: "n1", Dest: dest, Max: 50, Cap: 2, For: time.Minute,
		Backoff: store.Backoff{First: 5 * time.Minute, Max: time.Hour},
	}
}

func (f *fixture) lease(dest string) store.Batch {
	f.Helper()
	b, err := f.s.Lease(f.ctx, f.request(dest))
	f.must(err)
	return b
}

func (f *fixture) envelope(id store.EnvelopeID) store.Envelope {
	f.Helper()
	v, err := f.s.Envelope(f.ctx, id)
	f.must(err)
	return v
}

func (f *fixture) size() int64 {
	f.Helper()
	n, err := f.s.TreeSize(f.ctx)
	f.must(err)
	return n
}

func (f *fixture) equal(what string, got, want any) {
	f.Helper()
	if !reflect.DeepEqual(got, want) {
		f.Fatalf("%s: got %+v, want %+v", what, got, want)
	}
}

// finishAll ends a batch with one outcome for all.
func (f *fixture) finishAll(b store.Batch, next store.Next) {
	f.Helper()
	var rs []store.Result
	for _, v := range b.Envelopes {
		rs = append(rs, store.Result{Envelope: v.ID, Next: next})
	}
	f.must(f.s.Finish(f.ctx, b.Token, rs, store.Effects{}))
}

func (f *fixture) pickup(m store.ID, secret string) store.NewPickup {
	return store.NewPickup{
		Pickup: store.Pickup{
			ID: f.id(), Message: m, Recipient: "ann@clinic.example", Sender: "mailer-a", Created: f.clock.Now(),
			Expires: f.clock.Now().Add(720 * time.Hour), State: store.Noticed, Code: "HG-P001", Value: []byte("tries 0"),
		},
		Secret: secretOf(secret),
	}
}

// secretOf is a link's secret, 24 bytes, that a word stands for.
func secretOf(word string) []byte { return fmt.Appendf(nil, "%-24s", word)[:24] }

func survives(f *fixture) {
	if f.faults.Kill == nil {
		return
	}
	m := f.accept("hello", "ann@a.example", "bob@b.example")
	f.s = f.faults.Kill(f)
	for _, want := range m.Envelopes {
		want.Message = m.Message
		f.equal("envelope", f.envelope(want.ID), want)
	}
	body, err := f.s.Body(f.ctx, m.Message.ID)
	f.must(err)
	f.equal("body", string(body), "hello")
	leaves, err := f.s.LeavesOf(f.ctx, m.Message.ID)
	f.must(err)
	f.equal("leaves", len(leaves), 1)
	r := f.acceptAs(string(m.Message.ID), f.message("hello", "ann@a.example"))
	f.equal("repeat after a kill", r, store.Receipt{ID: m.Message.ID, Repeated: true})
}

// everyField fills each field by reflection, so that a field which is added and
// forgotten by an engine is noticed.
func everyField(f *fixture) {
	m := f.message("x", "ann@a.example")
	id, envelope := m.Message.ID, m.Envelopes[0].ID
	n := 0
	fill(reflect.ValueOf(&m.Message).Elem(), &n)
	fill(reflect.ValueOf(&m.Envelopes[0]).Elem(), &n)
	m.Message.ID = id
	v := &m.Envelopes[0]
	v.ID, v.Message, v.State, v.Lane = envelope, m.Message, store.Held, store.Prompt
	p := f.pickup(id, "secret")
	fill(reflect.ValueOf(&p.Pickup).Elem(), &n)
	p.Pickup.ID, p.Pickup.Message, p.Pickup.State = f.id(), id, store.Proven
	f.acceptAs("all", m, p)
	f.equal("envelope", f.envelope(envelope), *v)
	got, err := f.s.Pickup(f.ctx, p.Pickup.ID)
	f.must(err)
	f.equal("pickup", got, p.Pickup)
}

// fill sets every field to a value that is not its zero.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 1, 0, 0, *n, *n, time.UTC)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8:
		v.SetUint(uint64(*n%3 + 1))
	case reflect.Slice:
		v.Set(reflect.ValueOf([]byte{byte(*n)}))
	default:
		panic("fill: no value for " + v.Type().String())
	}
}

func bodySizes(f *fixture) {
	for _, size := range []int{0, 1, 10 << 10, 64<<10 - 1, 64 << 10, 200 << 10, 3 << 20} {
		body := noise(size)
		m := f.accept(body, "ann@a.example")
		got, err := f.s.Body(f.ctx, m.Message.ID)
		f.must(err)
		if string(got) != body {
			f.Fatalf("a body of %d bytes came back as %d other bytes", size, len(got))
		}
	}
}

// noise is text that does not compress, the same for one length.
func noise(n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
	return string(b)
}

func capHolds(f *fixture) {
	for range 20 {
		f.accept("x", "ann@a.example")
	}
	r := f.request("a.example")
	r.Max, r.Cap = 1, 3
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		got []store.Batch
	)
	for range 12 {
		wg.Go(func() {
			b, err := f.s.Lease(f.ctx, r)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				got = append(got, b)
			} else if !errors.Is(err, store.ErrNoSlot) {
				f.Error(err)
			}
		})
	}
	wg.Wait()
	f.equal("live leases", len(got), 3)
	f.finishAll(got[0], store.Finish)
	if b := f.lease2(r); len(b.Envelopes) != 1 {
		f.Fatal("a finished lease did not free its slot")
	}
	_, err := f.s.Lease(f.ctx, r)
	f.wants(err, store.ErrNoSlot)
}

func (f *fixture) lease2(r store.LeaseRequest) store.Batch {
	f.Helper()
	b, err := f.s.Lease(f.ctx, r)
	f.must(err)
	return b
}

func staleToken(f *fixture) {
	m := f.accept("x", "ann@a.example")
	old := f.lease("a.example")
	f.clock.Advance(10 * time.Minute)
	b := f.lease("a.example")
	f.equal("second attempt", len(b.Envelopes), 1)
	before, size := f.envelope(m.Envelopes[0].ID), f.size()
	result := []store.Result{{Envelope: m.Envelopes[0].ID, Next: store.Finish}}
	err := f.s.Finish(f.ctx, old.Token, result, store.Effects{Leaves: []store.Leaf{f.leaf("", "delivered")}})
	f.wants(err, store.ErrLeaseLost)
	_, err = f.s.Extend(f.ctx, old.Token, time.Minute)
	f.wants(err, store.ErrLeaseLost)
	f.equal("envelope", f.envelope(m.Envelopes[0].ID), before)
	f.equal("log", f.size(), size)
	f.must(f.s.Finish(f.ctx, b.Token, result, store.Effects{}))
	f.wants(f.s.Finish(f.ctx, b.Token, result, store.Effects{}), store.ErrLeaseLost)
}

func leaseEnds(f *fixture) {
	m := f.accept("x", "ann@a.example")
	b := f.lease("a.example")
	f.equal("until", b.Until, f.clock.Now().Add(time.Minute))
	v := f.envelope(m.Envelopes[0].ID)
	f.equal("state and attempts", []any{v.State, v.Attempts}, []any{store.Leased, 1})
	if next := v.Due.Sub(f.clock.Now()); next < 4*time.Minute || next > 6*time.Minute {
		f.Errorf("the lease set the next attempt in %v, want 5m ±20 %%", next)
	}
	f.clock.Advance(50 * time.Second)
	until, err := f.s.Extend(f.ctx, b.Token, time.Minute)
	f.must(err)
	f.equal("extended", until, f.clock.Now().Add(time.Minute))
	f.clock.Advance(59 * time.Second)
	due, err := f.s.Due(f.ctx, f.clock.Now(), 0)
	f.must(err)
	f.equal("due while leased", len(due), 0)
	next, err := f.s.NextDue(f.ctx)
	f.must(err)
	f.equal("next due is the end of the lease", next, until)
	f.clock.Advance(time.Second)
	_, err = f.s.Due(f.ctx, f.clock.Now(), 0)
	f.must(err)
	v = f.envelope(m.Envelopes[0].ID)
	f.equal("state after the end", v.State, store.Ready)
	next, err = f.s.NextDue(f.ctx)
	f.must(err)
	f.equal("next due", next, v.Due)
	f.clock.Advance(6 * time.Minute)
	f.equal("leased again", len(f.lease("a.example").Envelopes), 1)
}

func leasesReturn(f *fixture) {
	if f.faults.Kill == nil {
		return
	}
	m := f.accept("x", "ann@a.example")
	f.lease("a.example")
	f.s = f.faults.Kill(f)
	v := f.envelope(m.Envelopes[0].ID)
	f.equal("state, attempts, due", []any{v.State, v.Attempts, v.Due}, []any{store.Ready, 1, f.clock.Now()})
	f.equal("leased again at once", len(f.lease("a.example").Envelopes), 1)
	f.s = f.faults.Kill(f)
	f.equal("a second crash waits", len(f.lease("a.example").Envelopes), 0)
	v = f.envelope(m.Envelopes[0].ID)
	f.equal("state, attempts", []any{v.State, v.Attempts}, []any{store.Ready, 2})
	st, err := f.s.Stats(f.ctx)
	f.must(err)
	f.equal("leased", st.Leased, 0)
}

func notBeforeDue(f *fixture) {
	m := f.message("x", "ann@a.example")
	m.Envelopes[0].Due = f.clock.Now().Add(time.Hour)
	f.acceptAs("x", m)
	f.clock.Advance(time.Hour - 1)
	due, err := f.s.Due(f.ctx, f.clock.Now(), 0)
	f.must(err)
	f.equal("due", len(due), 0)
	f.equal("leased", len(f.lease("a.example").Envelopes), 0)
	f.clock.Advance(1)
	due, err = f.s.Due(f.ctx, f.clock.Now(), 0)
	f.must(err)
	f.equal("due", due, []store.DestDue{{Dest: "a.example", Due: f.clock.Now()}})
	f.equal("leased", len(f.lease("a.example").Envelopes), 1)
}

func promptFirst(f *fixture) {
	f.accept("bulk", "ann@a.example")
	f.clock.Advance(time.Second)
	f.accept("bulk", "bob@b.example")
	f.clock.Advance(time.Second)
	m := f.message("code", "ann@b.example")
	m.Envelopes[0].Lane = store.Prompt
	f.acceptAs("code", m)
	due, err := f.s.Due(f.ctx, f.clock.Now(), 0)
	f.must(err)
	f.equal("destinations", []any{len(due), due[0].Dest, due[0].Lane, due[1].Dest}, []any{2, "b.example", store.Prompt, "a.example"})
	r := f.request("b.example")
	r.Max = 1
	f.equal("first leased", f.lease2(r).Envelopes[0].ID, m.Envelopes[0].ID)
}

func bothOrNeither(f *fixture) {
	m := f.accept("x", "ann@a.example")
	size := f.size()
	// A conflict in the middle: the message exists already, the leaf is good.
	err := f.s.Apply(f.ctx, store.Effects{
		Records:  []store.Record{{Kind: "consent", Subject: "ann@a.example", Key: "1", Value: []byte("given")}},
		Messages: []store.NewMessage{m},
		Leaves:   []store.Leaf{f.leaf("", "imported")},
	})
	f.wants(err, store.ErrConflict)
	f.equal("log", f.size(), size)
	rs, err := f.s.Records(f.ctx, "consent", "ann@a.example")
	f.must(err)
	f.equal("records", len(rs), 0)
	b := f.lease("a.example")
	f.must(f.s.Finish(f.ctx, b.Token, []store.Result{{Envelope: m.Envelopes[0].ID, Next: store.Finish}},
		store.Effects{Leaves: []store.Leaf{f.leaf(m.Message.ID, "delivered")}}))
	f.equal("log", f.size(), size+1)
	_, err = f.s.Envelope(f.ctx, m.Envelopes[0].ID)
	f.wants(err, store.ErrNotFound)
}

func revocationSeen(f *fixture) {
	f.accept("x", "ann@a.example")
	f.must(f.s.Apply(f.ctx, store.Effects{Records: []store.Record{{Kind: "suppression", Subject: "ann@a.example", Key: "opt-out", Value: []byte("now")}}}))
	b := f.lease("a.example")
	rs, err := f.s.Records(f.ctx, "suppression", b.Envelopes[0].Recipient)
	f.must(err)
	f.equal("records seen by the claim", len(rs), 1)
	f.must(f.s.Change(f.ctx, store.Change{}, store.Effects{})) // nothing to change is no conflict
}

func repeatedAccept(f *fixture) {
	m := f.accept("x", "ann@a.example")
	size := f.size()
	again := f.message("x", "ann@a.example")
	f.equal("receipt", f.acceptAs(string(m.Message.ID), again), store.Receipt{ID: m.Message.ID, Repeated: true})
	f.equal("log", f.size(), size)
	f.clock.Advance(24*time.Hour - 1)
	f.equal("receipt", f.acceptAs(string(m.Message.ID), again), store.Receipt{ID: m.Message.ID, Repeated: true})
	f.clock.Advance(1)
	f.equal("receipt after 24 h", f.acceptAs(string(m.Message.ID), again), store.Receipt{ID: again.Message.ID})

	var wg sync.WaitGroup
	first := make(chan store.ID, 8)
	for range 8 {
		m := f.message(noise(100<<10), "ann@a.example")
		wg.Go(func() {
			r, err := f.s.Accept(f.ctx, store.Acceptance{Digest: digestOf("race"), ID: m.Message.ID, Effects: store.Effects{Messages: []store.NewMessage{m}}})
			if err != nil {
				f.Error(err)
			} else if !r.Repeated {
				first <- r.ID
			}
		})
	}
	wg.Wait()
	f.equal("acceptances of eight at once", len(first), 1)
	_, err := f.s.Body(f.ctx, <-first)
	f.must(err)
}

func noDelay(f *fixture) {
	f.acceptAs("many", f.copies(f.message("x", "ann@big.example"), 5000))
	f.clock.Advance(time.Second)
	f.accept("y", "bob@small.example")
	due, err := f.s.Due(f.ctx, f.clock.Now(), 2)
	f.must(err)
	f.equal("destinations", []string{due[0].Dest, due[1].Dest}, []string{"big.example", "small.example"})
	f.lease("big.example")
	f.equal("leased of the small one", len(f.lease("small.example").Envelopes), 1)
}

// takeTurns holds a campaign of thousands against mail that came later.
func takeTurns(f *fixture) {
	f.acceptAs("campaign", f.copies(f.message("x", "ann@big.example"), 3000))
	f.clock.Advance(time.Second)
	late := f.message("y", "bob@big.example", "cy@big.example")
	late.Message.Sender = "mailer-b"
	f.acceptAs("late", late)
	spring, other := store.FlowOf(f.message("").Message), store.FlowOf(late.Message)
	var order []store.ID
	after := spring
	for range 6 {
		r := f.request("big.example")
		r.Max, r.Cap, r.After = 1, 10, after
		b, err := f.s.Lease(f.ctx, r)
		f.must(err)
		order = append(order, b.Envelopes[0].Message.ID)
		after = store.FlowOf(b.Envelopes[0].Message)
	}
	for i, id := range order {
		f.equal(fmt.Sprintf("turn %d is that of the late sender", i), id == late.Message.ID, i == 0 || i == 2)
	}

	later := f.message("z", "dee@big.example")
	later.Message.Campaign = "summer"
	f.acceptAs("later", later)
	prompt := f.message("p", "eve@big.example")
	prompt.Envelopes[0].Lane = store.Prompt
	f.acceptAs("prompt", prompt)
	r := f.request("big.example")
	r.Max, r.Cap, r.After = 4, 10, other
	b, err := f.s.Lease(f.ctx, r)
	f.must(err)
	f.equal("a batch", len(b.Envelopes), 4)
	f.equal("the prompt one first", b.Envelopes[0].ID, prompt.Envelopes[0].ID)
	turns := map[store.ID]int{}
	for _, e := range b.Envelopes[1:] {
		turns[e.Message.ID]++
	}
	f.equal("turns of the other campaign", turns[later.Message.ID], 1)
	due, err := f.s.Due(f.ctx, f.clock.Now(), 5)
	f.must(err)
	f.equal("destinations", len(due), 1)
}

// copies gives a message of one envelope n of them.
func (f *fixture) copies(m store.NewMessage, n int) store.NewMessage {
	for i := 1; i < n; i++ {
		v := m.Envelopes[0]
		v.ID = store.EnvelopeIDOf(m.Message.ID, i)
		m.Envelopes = append(m.Envelopes, v)
	}
	return m
}

func noGap(f *fixture) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if err := f.s.Apply(f.ctx, store.Effects{Leaves: []store.Leaf{f.leaf(f.id(), "imported"), f.leaf("", "exported")}}); err != nil {
					f.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if f.faults.Kill != nil {
		f.s = f.faults.Kill(f)
	}
	id := f.id()
	f.must(f.s.Apply(f.ctx, store.Effects{Leaves: []store.Leaf{f.leaf(id, "read")}}))
	leaves, err := f.s.Leaves(f.ctx, 0, 1000)
	f.must(err)
	f.equal("leaves", len(leaves), 8*20*2+1)
	for i, l := range leaves {
		f.equal("number", l.N, int64(i))
	}
	want := f.leaf(id, "read")
	want.N = int64(len(leaves) - 1)
	of, err := f.s.LeavesOf(f.ctx, id)
	f.must(err)
	f.equal("leaves of one id", of, []store.Leaf{want})
	page, err := f.s.Leaves(f.ctx, 5, 3)
	f.must(err)
	f.equal("page", page, leaves[5:8])
}

func lastHolder(f *fixture) {
	m := f.message(noise(100<<10), "ann@a.example", "bob@a.example")
	p := f.pickup(m.Message.ID, "one")
	f.acceptAs("x", m, p)
	q := f.pickup(m.Message.ID, "two")
	b := f.lease("a.example")
	// The floor cannot be met: one becomes a pickup, in the same transaction.
	f.must(f.s.Finish(f.ctx, b.Token, []store.Result{{Envelope: m.Envelopes[0].ID, Next: store.Finish}}, store.Effects{Pickups: []store.NewPickup{q}}))
	_, err := f.s.Body(f.ctx, m.Message.ID)
	f.must(err)
	f.must(f.s.Change(f.ctx, store.Change{Envelopes: []store.EnvelopeID{m.Envelopes[1].ID}}, store.Effects{}))
	_, err = f.s.Body(f.ctx, m.Message.ID)
	f.wants(err, store.ErrNotFound)
	late := f.pickup(m.Message.ID, "late")
	f.wants(f.s.Apply(f.ctx, store.Effects{Pickups: []store.NewPickup{late}}), store.ErrNotFound)
	for _, k := range []store.NewPickup{p, q} {
		body, err := f.s.PickupBody(f.ctx, k.Pickup.ID, k.Secret, "")
		f.must(err)
		f.equal("pickup body", string(body), string(m.Body))
		k.Pickup.State = store.Expired
		f.must(f.s.PutPickup(f.ctx, k.Pickup, store.Effects{}))
		_, err = f.s.PickupBody(f.ctx, k.Pickup.ID, k.Secret, "")
		f.wants(err, store.ErrNotFound)
	}
	st, err := f.s.Stats(f.ctx)
	f.must(err)
	f.equal("stats", st, store.Stats{Leaves: 1})
	// The id is free again only because nothing of the body is left.
	f.must(f.s.Apply(f.ctx, store.Effects{Messages: []store.NewMessage{m}}))
}

func pickupSecret(f *fixture) {
	m := f.message("only a pickup")
	p := f.pickup(m.Message.ID, "24 bytes of the link....")
	p.PIN = "4711"
	f.acceptAs("x", m, p)
	for _, c := range []struct {
		id     store.ID
		secret string
		pin    string
		opens  bool
	}{
		{p.Pickup.ID, "24 bytes of the link....", "4711", true},
		{p.Pickup.ID, "24 bytes of the link....", "4712", false},
		{p.Pickup.ID, "24 bytes of the link....", "", false},
		{p.Pickup.ID, "25 bytes of the link....", "4711", false},
		{p.Pickup.ID, "", "", false},
		{f.id(), "24 bytes of the link....", "4711", false},
	} {
		body, err := f.s.PickupBody(f.ctx, c.id, []byte(c.secret), c.pin)
		ok, checkErr := f.s.CheckPickup(f.ctx, c.id, []byte(c.secret), c.pin)
		f.must(checkErr)
		f.equal("check", ok, c.opens)
		if c.opens {
			f.must(err)
			f.equal("body", string(body), "only a pickup")
		} else {
			f.wants(err, store.ErrNotFound)
		}
	}
	_, err := f.s.Body(f.ctx, m.Message.ID)
	f.wants(err, store.ErrNotFound) // nothing is queued, so no key but the link's opens it
}

func pickupRecalled(f *fixture) {
	m := f.message("x", "ann@a.example")
	p := f.pickup(m.Message.ID, "secret")
	f.acceptAs("x", m, p)
	p.Pickup.State = store.Recalled
	f.must(f.s.PutPickup(f.ctx, p.Pickup, store.Effects{Leaves: []store.Leaf{f.leaf(p.Pickup.ID, "revoked")}}))
	_, err := f.s.PickupBody(f.ctx, p.Pickup.ID, p.Secret, "")
	f.wants(err, store.ErrNotFound)
	_, err = f.s.Body(f.ctx, m.Message.ID)
	f.must(err) // still queued for others
	again := p.Pickup
	again.Version, again.State = 1, store.Noticed
	f.wants(f.s.PutPickup(f.ctx, again, store.Effects{}), store.ErrConflict)
	got, err := f.s.Pickups(f.ctx, store.PickupQuery{ExpiresBy: p.Pickup.Expires})
	f.must(err)
	f.equal("pickups that expire", len(got), 0)
	st, err := f.s.Stats(f.ctx)
	f.must(err)
	f.equal("pickups", st.Pickups, 0)
}

func pickupVersion(f *fixture) {
	m := f.message("x")
	p := f.pickup(m.Message.ID, "secret")
	f.acceptAs("x", m, p)
	p.Pickup.State, p.Pickup.Value = store.Landed, []byte("tries 1")
	f.must(f.s.PutPickup(f.ctx, p.Pickup, store.Effects{}))
	got, err := f.s.Pickup(f.ctx, p.Pickup.ID)
	f.must(err)
	want := p.Pickup
	want.Version = 1
	f.equal("pickup", got, want)
	size := f.size()
	f.wants(f.s.PutPickup(f.ctx, p.Pickup, store.Effects{Leaves: []store.Leaf{f.leaf("", "read")}}), store.ErrConflict)
	f.equal("log", f.size(), size)
	p.Pickup.ID = f.id()
	f.wants(f.s.PutPickup(f.ctx, p.Pickup, store.Effects{}), store.ErrNotFound)
	_, err = f.s.Pickup(f.ctx, p.Pickup.ID)
	f.wants(err, store.ErrNotFound)
}

func changeAtRest(f *fixture) {
	m := f.accept("x", "ann@a.example", "bob@b.example")
	a, b := m.Envelopes[0].ID, m.Envelopes[1].ID
	batch := f.lease("a.example")
	hold := store.Change{Envelopes: []store.EnvelopeID{b, a}, To: store.Held}
	f.wants(f.s.Change(f.ctx, hold, store.Effects{Leaves: []store.Leaf{f.leaf("", "held")}}), store.ErrConflict)
	f.equal("log", f.size(), int64(1))
	f.equal("state", f.envelope(b).State, store.Ready)
	f.finishAll(batch, store.Retry)
	f.must(f.s.Change(f.ctx, hold, store.Effects{}))
	f.clock.Advance(time.Hour)
	f.equal("leased while held", len(f.lease("b.example").Envelopes), 0)
	update := f.envelope(b)
	update.Floor, update.Code, update.Rule, update.Else = policy.Open, "HG-D701", "released", policy.Portal
	update.Expires, update.Within = f.clock.Now().Add(time.Hour), f.clock.Now().Add(time.Minute)
	f.must(f.s.Change(f.ctx, store.Change{Envelopes: []store.EnvelopeID{b}, To: store.Ready, Due: f.clock.Now(), Update: &update}, store.Effects{}))
	update.State, update.Due = store.Ready, f.clock.Now()
	f.equal("released", f.envelope(b), update)
	f.equal("leased", len(f.lease("b.example").Envelopes), 1)
	f.wants(f.s.Change(f.ctx, store.Change{Envelopes: []store.EnvelopeID{store.EnvelopeIDOf(f.id(), 0)}}, store.Effects{}), store.ErrConflict)
}

func finishOutcomes(f *fixture) {
	m := f.accept("x", "a@a.example", "b@a.example", "c@a.example", "d@a.example")
	ids := make([]store.EnvelopeID, 4)
	for i, v := range m.Envelopes {
		ids[i] = v.ID
	}
	b := f.lease("a.example")
	due, expires := f.clock.Now().Add(7*time.Minute), f.clock.Now().Add(9*time.Hour)
	f.must(f.s.Finish(f.ctx, b.Token, []store.Result{
		{Envelope: ids[0], Next: store.Finish},
		{Envelope: ids[1], Next: store.Retry, Due: due, LastReply: "450 4.7.1", Floor: policy.Floor{Assurance: policy.AssuranceDANE, Strength: policy.StrengthWeak}},
		{Envelope: ids[2], Next: store.Park, Expires: expires, Code: "HG-H601"},
	}, store.Effects{}))
	_, err := f.s.Envelope(f.ctx, ids[0])
	f.wants(err, store.ErrNotFound)

	want := b.Envelopes[1]
	want.State, want.Due, want.LastReply, want.LastAt = store.Ready, due, "450 4.7.1", f.clock.Now()
	want.Floor = policy.Floor{Assurance: policy.AssuranceDANE, Strength: policy.StrengthSP80052r2} // only rises
	f.equal("retried", f.envelope(ids[1]), want)
	want = b.Envelopes[2]
	want.State, want.Expires, want.Code = store.Held, expires, "HG-H601"
	f.equal("parked", f.envelope(ids[2]), want)
	want = b.Envelopes[3]
	want.State = store.Ready
	f.equal("without a result", f.envelope(ids[3]), want)
	st, err := f.s.Stats(f.ctx)
	f.must(err)
	f.equal("stats", st, store.Stats{Ready: 2, Held: 1, Oldest: m.Message.Accepted, Leaves: 1})
}

func resultsOfBatch(f *fixture) {
	m := f.accept("x", "ann@a.example", "bob@b.example")
	b := f.lease("a.example")
	for _, rs := range [][]store.Result{
		{{Envelope: m.Envelopes[0].ID}, {Envelope: m.Envelopes[1].ID}},
		{{Envelope: m.Envelopes[0].ID}, {Envelope: m.Envelopes[0].ID, Next: store.Finish}},
		{{Envelope: "no such"}},
	} {
		f.wants(f.s.Finish(f.ctx, b.Token, rs, store.Effects{}), store.ErrConflict)
	}
	f.finishAll(b, store.Finish) // the lease is as good as before
}

func queries(f *fixture) {
	var all []store.EnvelopeID
	for i := range 12 {
		m := f.message("x", "ann@a.example", "Bob@B.example")
		if i%3 == 0 {
			m.Message.Sender, m.Message.Campaign = "mailer-b", "autumn"
			m.Envelopes[1].State, m.Envelopes[1].Code = store.Held, "HG-H600"
			m.Envelopes[1].Expires = f.clock.Now().Add(time.Hour)
		}
		for j := range m.Envelopes {
			all = append(all, m.Envelopes[j].ID)
		}
		f.acceptAs(fmt.Sprint(i), m)
	}
	for _, c := range []struct {
		q    store.Query
		want int
	}{
		{store.Query{}, 24},
		{store.Query{Message: all[0].Message()}, 2},
		{store.Query{State: store.Held}, 4},
		{store.Query{State: store.Leased}, 0},
		{store.Query{Sender: "mailer-b"}, 8},
		{store.Query{Sender: "mailer-b", State: store.Ready}, 4},
		{store.Query{Dest: "b.example"}, 12},
		{store.Query{Campaign: "spring"}, 16},
		{store.Query{Recipient: "bob@b.example"}, 12},
		{store.Query{Code: "HG-H600"}, 4},
		{store.Query{State: store.Held, ExpiresBy: f.clock.Now().Add(time.Hour)}, 4},
		{store.Query{State: store.Held, ExpiresBy: f.clock.Now()}, 0},
		{store.Query{Sender: "nobody"}, 0},
	} {
		var got []store.EnvelopeID
		for q := c.q; ; {
			q.Limit = 5
			page, err := f.s.Envelopes(f.ctx, q)
			f.must(err)
			for _, v := range page {
				if !c.q.Match(v) {
					f.Errorf("query %+v selected %s", c.q, v.ID)
				}
				got = append(got, v.ID)
				q.After = v.ID
			}
			if len(page) < q.Limit {
				break
			}
		}
		if len(got) != c.want {
			f.Errorf("query %+v selected %d, want %d", c.q, len(got), c.want)
		}
		for i := 1; i < len(got); i++ {
			if !got[i-1].Less(got[i]) {
				f.Errorf("query %+v: %s before %s", c.q, got[i-1], got[i])
			}
		}
	}
}

func records(f *fixture) {
	put := func(kind, subject, key, value string) store.Record {
		return store.Record{Kind: kind, Subject: subject, Key: key, Value: []byte(value)}
	}
	f.must(f.s.Apply(f.ctx, store.Effects{Records: []store.Record{
		put("consent", "ann@a.example", "2", "b"), put("consent", "ann@a.example", "1", "a"), put("consent", "bob@a.example", "1", "c"),
		put("consents", "ann@a.example", "1", "another kind"), put("partner", "acme", "", "d"),
	}}))
	f.must(f.s.Apply(f.ctx, store.Effects{Records: []store.Record{
		put("consent", "ann@a.example", "2", "B"), {Kind: "consent", Subject: "ann@a.example", Key: "1", Delete: true},
		{Kind: "consent", Subject: "nobody", Key: "1", Delete: true}, put("consent", "ann@a.example", "3", ""),
	}}))
	rs, err := f.s.Records(f.ctx, "consent", "ann@a.example")
	f.must(err)
	f.equal("records", len(rs), 2)
	f.equal("replaced", []string{rs[0].Key, string(rs[0].Value), rs[1].Key, string(rs[1].Value)}, []string{"2", "B", "3", ""})
	seen := map[string]bool{}
	after := ""
	for pages := 0; ; pages++ {
		page, next, err := f.s.Scan(f.ctx, "consent", after, 2)
		f.must(err)
		for _, r := range page {
			seen[r.Kind+" "+r.Subject+" "+r.Key] = true
		}
		if next == "" {
			f.equal("pages", pages, 1)
			break
		}
		after = next
	}
	f.equal("scanned", seen, map[string]bool{"consent ann@a.example 2": true, "consent ann@a.example 3": true, "consent bob@a.example 1": true})
	none, err := f.s.Records(f.ctx, "consent", "Ann@a.example")
	f.must(err)
	f.equal("another subject", len(none), 0)
}

func shredded(f *fixture) {
	if f.faults.Shred == nil {
		return
	}
	old := f.message("old", "ann@a.example")
	p := f.pickup(old.Message.ID, "secret")
	f.acceptAs("old", old, p)
	f.faults.Shred(f)
	m := f.accept("new", "bob@a.example")
	_, err := f.s.Body(f.ctx, old.Message.ID)
	f.wants(err, store.ErrShredded)
	_, err = f.s.Envelope(f.ctx, old.Envelopes[0].ID)
	f.wants(err, store.ErrShredded)
	_, err = f.s.PickupBody(f.ctx, p.Pickup.ID, p.Secret, "")
	f.wants(err, store.ErrNotFound)
	page, err := f.s.Envelopes(f.ctx, store.Query{})
	f.must(err)
	f.equal("listed", len(page), 1)
	f.equal("leased", f.lease("a.example").Envelopes[0].ID, m.Envelopes[0].ID)
	leaves, err := f.s.Leaves(f.ctx, 0, 10)
	f.must(err)
	f.equal("leaves", len(leaves), 2) // the log outlives the mail
}

func badEffects(f *fixture) {
	good := f.leaf("", "imported")
	m := f.message("x", "ann@a.example")
	noState, otherID, twice := m, m, m
	noState.Envelopes = []store.Envelope{m.Envelopes[0]}
	noState.Envelopes[0].State = ""
	otherID.Envelopes = []store.Envelope{m.Envelopes[0]}
	otherID.Envelopes[0].ID = store.EnvelopeIDOf(f.id(), 0)
	twice.Envelopes = []store.Envelope{m.Envelopes[0], m.Envelopes[0]}
	p := f.pickup(m.Message.ID, "x")
	p.Secret = nil
	for _, e := range []store.Effects{
		{Messages: []store.NewMessage{noState}},
		{Messages: []store.NewMessage{otherID}},
		{Messages: []store.NewMessage{twice}},
		{Messages: []store.NewMessage{m}, Pickups: []store.NewPickup{p}},
		{Records: []store.Record{{Subject: "no kind"}}},
		{Leaves: []store.Leaf{{ID: "not an id"}}},
	} {
		e.Leaves = append(e.Leaves, good)
		f.wants(f.s.Apply(f.ctx, e), store.ErrUnavailable)
	}
	f.equal("log", f.size(), int64(0))
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	f.wants(f.s.Apply(ctx, store.Effects{Leaves: []store.Leaf{good}}), store.ErrUnavailable)
	f.must(f.s.Check(f.ctx))
}

func closedStore(f *fixture) {
	f.must(f.s.Close())
	f.must(f.s.Close())
	f.wants(f.s.Check(f.ctx), store.ErrUnavailable)
	_, err := f.s.Envelopes(f.ctx, store.Query{})
	f.wants(err, store.ErrUnavailable)
	_, err = f.s.Accept(f.ctx, store.Acceptance{ID: f.id()})
	f.wants(err, store.ErrUnavailable)
}
