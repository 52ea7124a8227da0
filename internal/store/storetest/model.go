package storetest

import (
	"errors"
	"flag"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// series is how many random series a build runs; -rapid.checks=N runs N.
const series = "15"

// compare runs long random series of calls on an engine and on the model, and
// compares each answer and, after each step, all that can be seen.
func compare(t *testing.T, open Open) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set(series)
	}
	rapid.Check(t, func(rt *rapid.T) {
		clock := NewClock()
		m := &machine{t: t, clock: clock, model: NewMemory(clock.Now)}
		m.s, m.faults = open(t, clock)
		defer func() { m.s.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"":            m.same,
			"accept":      m.accept,
			"apply":       m.apply,
			"lease":       m.lease,
			"extend":      m.extend,
			"finish":      m.finish,
			"change":      m.change,
			"put pickup":  m.putPickup,
			"open pickup": m.openPickup,
			"query":       m.query,
			"wait":        m.wait,
			"kill":        m.kill,
		})
	})
}

// machine holds an engine and its model, and what the calls so far have given.
type machine struct {
	t      *testing.T
	clock  *Clock
	s      store.Store
	model  *Memory
	faults Faults

	ids      store.IDs
	messages []store.ID
	pickups  []store.NewPickup
	tokens   []store.Token
	leased   [][]store.EnvelopeID // per token
}

var (
	bodies   = []string{"", "short", noise(70 << 10)}
	domains  = []string{"a.example", "b.example", "c.example"}
	waits    = []time.Duration{0, time.Second, time.Minute, 7 * time.Minute, 5 * time.Hour, 25 * time.Hour}
	contract = []error{
		store.ErrNotFound, store.ErrNoSlot, store.ErrLeaseLost, store.ErrConflict, store.ErrUnavailable, store.ErrUnknown, store.ErrShredded,
	}
)

func (m *machine) id() store.ID { return m.ids.New(m.clock.Now()) }

// agree compares two answers and two errors.
func (m *machine) agree(rt *rapid.T, what string, got any, err error, want any, wantErr error) {
	rt.Helper()
	for _, of := range contract {
		if errors.Is(err, of) != errors.Is(wantErr, of) {
			rt.Fatalf("%s: error %v, model %v", what, err, wantErr)
		}
	}
	if err == nil && wantErr != nil || err != nil && wantErr == nil {
		rt.Fatalf("%s: error %v, model %v", what, err, wantErr)
	}
	if g, w := reflect.ValueOf(got), reflect.ValueOf(want); g.Kind() == reflect.Slice && g.Len() == 0 && w.Len() == 0 {
		return
	}
	if !reflect.DeepEqual(got, want) {
		rt.Fatalf("%s:\n got   %+v\n model %+v", what, got, want)
	}
}

// same compares everything that can be read.
func (m *machine) same(rt *rapid.T) {
	ctx := m.t.Context()
	// Due first: it gives back what has run out, which other reads need not see.
	due, err := m.s.Due(ctx, m.clock.Now(), 0)
	wantDue, wantErr := m.model.Due(ctx, m.clock.Now(), 0)
	byDest := func(a, b store.DestDue) int { return strings.Compare(a.Dest, b.Dest) } // equal ones may come either way
	slices.SortFunc(due, byDest)
	slices.SortFunc(wantDue, byDest)
	m.agree(rt, "due", due, err, wantDue, wantErr)
	next, err := m.s.NextDue(ctx)
	wantNext, wantErr := m.model.NextDue(ctx)
	m.agree(rt, "next due", next, err, wantNext, wantErr)
	all, err := m.s.Envelopes(ctx, store.Query{Limit: 1000})
	wantAll, wantErr := m.model.Envelopes(ctx, store.Query{Limit: 1000})
	m.agree(rt, "envelopes", all, err, wantAll, wantErr)
	stats, err := m.s.Stats(ctx)
	wantStats, wantErr := m.model.Stats(ctx)
	m.agree(rt, "stats", stats, err, wantStats, wantErr)
	pickups, err := m.s.Pickups(ctx, store.PickupQuery{Limit: 1000})
	wantPickups, wantErr := m.model.Pickups(ctx, store.PickupQuery{Limit: 1000})
	m.agree(rt, "pickups", pickups, err, wantPickups, wantErr)
	from := max(stats.Leaves-3, 0)
	leaves, err := m.s.Leaves(ctx, from, 10)
	wantLeaves, wantErr := m.model.Leaves(ctx, from, 10)
	m.agree(rt, "leaves", leaves, err, wantLeaves, wantErr)
	for _, id := range m.messages[max(len(m.messages)-3, 0):] {
		body, err := m.s.Body(ctx, id)
		wantBody, wantErr := m.model.Body(ctx, id)
		m.agree(rt, "body", string(body), err, string(wantBody), wantErr)
	}
}

func (m *machine) draw(rt *rapid.T) store.NewMessage {
	id := m.id()
	now := m.clock.Now()
	n := store.NewMessage{
		Message: store.Message{ID: id, Sender: rapid.SampledFrom([]string{"mailer-a", "mailer-b"}).Draw(rt, "sender"),
			Campaign: rapid.SampledFrom([]string{"", "spring"}).Draw(rt, "campaign"), Accepted: now},
		Body: []byte(rapid.SampledFrom(bodies).Draw(rt, "body")),
	}
	for i := range rapid.IntRange(0, 4).Draw(rt, "recipients") {
		dest := rapid.SampledFrom(domains).Draw(rt, "dest")
		n.Envelopes = append(n.Envelopes, store.Envelope{
			ID: store.EnvelopeIDOf(id, i), Recipient: fmt.Sprintf("r%d@%s", i, dest), Dest: dest,
			State: rapid.SampledFrom([]store.State{store.Ready, store.Ready, store.Ready, store.Held}).Draw(rt, "state"),
			Lane:  rapid.SampledFrom([]store.Lane{store.Bulk, store.Bulk, store.Prompt}).Draw(rt, "lane"),
			Due:   now.Add(rapid.SampledFrom(waits).Draw(rt, "due")), Expires: now.Add(72 * time.Hour),
			Floor: policy.Floor{Assurance: policy.AssuranceVerified, Strength: policy.StrengthBCP195}, Code: "HG-D703",
		})
	}
	m.messages = append(m.messages, id)
	return n
}

func (m *machine) leaf(rt *rapid.T) store.Leaf {
	id := store.ID("")
	if len(m.messages) > 0 && rapid.Bool().Draw(rt, "of a message") {
		id = m.messages[len(m.messages)-1]
	}
	return store.Leaf{Time: m.clock.Now(), ID: id, Event: "event", Record: []byte("record"), Sealed: []byte("clear")}
}

// newPickup makes a pickup of one of the messages so far, whether it still has its key or not.
func (m *machine) newPickup(rt *rapid.T) []store.NewPickup {
	if len(m.messages) == 0 || !rapid.Bool().Draw(rt, "pickup") {
		return nil
	}
	p := store.NewPickup{
		Pickup: store.Pickup{ID: m.id(), Message: rapid.SampledFrom(m.messages).Draw(rt, "message"), Recipient: "ann@a.example", State: store.Noticed, Expires: m.clock.Now().Add(time.Hour)},
		Secret: secretOf("secret"),
	}
	m.pickups = append(m.pickups, p)
	return []store.NewPickup{p}
}

func (m *machine) accept(rt *rapid.T) {
	n := m.draw(rt)
	a := store.Acceptance{ID: n.Message.ID, Effects: store.Effects{
		Messages: []store.NewMessage{n}, Pickups: m.newPickup(rt), Leaves: []store.Leaf{m.leaf(rt)},
	}}
	a.Digest[0] = byte(rapid.IntRange(0, 30).Draw(rt, "digest")) // some repeat
	got, err := m.s.Accept(m.t.Context(), a)
	want, wantErr := m.model.Accept(m.t.Context(), a)
	m.agree(rt, "accept", got, err, want, wantErr)
}

func (m *machine) apply(rt *rapid.T) {
	kind := rapid.SampledFrom([]string{"consent", "partner"}).Draw(rt, "kind")
	e := store.Effects{
		Pickups: m.newPickup(rt),
		Records: []store.Record{{
			Kind: kind, Subject: rapid.SampledFrom(domains).Draw(rt, "subject"), Key: rapid.SampledFrom([]string{"", "1", "2"}).Draw(rt, "key"),
			Value: []byte("value"), Delete: rapid.Bool().Draw(rt, "delete"),
		}},
		Leaves: []store.Leaf{m.leaf(rt), m.leaf(rt)},
	}
	if rapid.IntRange(0, 3).Draw(rt, "message") == 0 {
		e.Messages = []store.NewMessage{m.draw(rt)}
	}
	err := m.s.Apply(m.t.Context(), e)
	m.agree(rt, "apply", nil, err, nil, m.model.Apply(m.t.Context(), e))
	got, err := m.s.Records(m.t.Context(), kind, e.Records[0].Subject)
	want, wantErr := m.model.Records(m.t.Context(), kind, e.Records[0].Subject)
	for i := range got {
		got[i].Value = append([]byte{}, got[i].Value...)
	}
	m.agree(rt, "records", got, err, want, wantErr)
}

func (m *machine) lease(rt *rapid.T) {
	r := store.LeaseRequest{
		Node: "n", Dest: rapid.SampledFrom(domains).Draw(rt, "dest"), Max: rapid.IntRange(0, 3).Draw(rt, "max"), Cap: rapid.IntRange(0, 2).Draw(rt, "cap"),
		After: rapid.Uint8().Draw(rt, "after"),
		For:   2 * time.Minute, Backoff: store.Backoff{First: time.Minute, Max: 10 * time.Minute},
	}
	got, err := m.s.Lease(m.t.Context(), r)
	want, wantErr := m.model.Lease(m.t.Context(), r)
	// Engines may number tokens as they like, as long as they differ.
	if slices.Contains(m.tokens, got.Token) {
		rt.Fatalf("token %+v was given before", got.Token)
	}
	want.Token.N = got.Token.N
	m.agree(rt, "lease", got, err, want, wantErr)
	if len(got.Envelopes) == 0 {
		return
	}
	m.model.rename(want.Token)
	var ids []store.EnvelopeID
	for _, v := range got.Envelopes {
		ids = append(ids, v.ID)
	}
	m.tokens, m.leased = append(m.tokens, got.Token), append(m.leased, ids)
}

// rename gives the lease in the token's slot the engine's number.
func (m *Memory) rename(t store.Token) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slots[slotKey{t.Dest, t.Slot}]
	for _, v := range m.envelopes {
		if v.token == s.token {
			v.token = t.N
		}
	}
	s.token = t.N
}

func (m *machine) pick(rt *rapid.T) int {
	if len(m.tokens) == 0 {
		rt.Skip("nothing was leased")
	}
	return rapid.IntRange(max(len(m.tokens)-4, 0), len(m.tokens)-1).Draw(rt, "token")
}

func (m *machine) extend(rt *rapid.T) {
	token := m.tokens[m.pick(rt)]
	by := rapid.SampledFrom([]time.Duration{0, time.Minute, time.Hour}).Draw(rt, "by")
	got, err := m.s.Extend(m.t.Context(), token, by)
	want, wantErr := m.model.Extend(m.t.Context(), token, by)
	m.agree(rt, "extend", got, err, want, wantErr)
}

func (m *machine) finish(rt *rapid.T) {
	i := m.pick(rt)
	var rs []store.Result
	for _, id := range m.leased[i] {
		if rapid.IntRange(0, 4).Draw(rt, "result") == 0 {
			continue
		}
		rs = append(rs, store.Result{
			Envelope: id, Next: store.Next(rapid.IntRange(0, 3).Draw(rt, "next")), Code: "HG-X", LastReply: "450",
			Due: m.clock.Now().Add(rapid.SampledFrom(waits).Draw(rt, "due")), Expires: m.clock.Now().Add(time.Hour),
		})
	}
	if rapid.IntRange(0, 9).Draw(rt, "foreign") == 0 && len(m.messages) > 0 {
		rs = append(rs, store.Result{Envelope: store.EnvelopeIDOf(rapid.SampledFrom(m.messages).Draw(rt, "message"), 0)})
	}
	e := store.Effects{Leaves: []store.Leaf{m.leaf(rt)}, Pickups: m.newPickup(rt)}
	err := m.s.Finish(m.t.Context(), m.tokens[i], rs, e)
	m.agree(rt, "finish", nil, err, nil, m.model.Finish(m.t.Context(), m.tokens[i], rs, e))
}

func (m *machine) change(rt *rapid.T) {
	if len(m.messages) == 0 {
		rt.Skip("nothing was accepted")
	}
	c := store.Change{To: rapid.SampledFrom([]store.State{store.Ready, store.Held, ""}).Draw(rt, "to")}
	for range rapid.IntRange(1, 2).Draw(rt, "envelopes") {
		id := rapid.SampledFrom(m.messages).Draw(rt, "message")
		c.Envelopes = append(c.Envelopes, store.EnvelopeIDOf(id, rapid.IntRange(0, 2).Draw(rt, "n")))
	}
	if rapid.Bool().Draw(rt, "update") {
		c.Due = m.clock.Now().Add(rapid.SampledFrom(waits).Draw(rt, "due"))
		c.Update = &store.Envelope{Code: "HG-Y", Expires: m.clock.Now().Add(time.Hour), Floor: policy.Open}
	}
	e := store.Effects{Leaves: []store.Leaf{m.leaf(rt)}}
	err := m.s.Change(m.t.Context(), c, e)
	m.agree(rt, "change", nil, err, nil, m.model.Change(m.t.Context(), c, e))
}

func (m *machine) putPickup(rt *rapid.T) {
	if len(m.pickups) == 0 {
		rt.Skip("no pickup")
	}
	p := rapid.SampledFrom(m.pickups).Draw(rt, "pickup").Pickup
	if now, err := m.model.Pickup(m.t.Context(), p.ID); err == nil && rapid.IntRange(0, 4).Draw(rt, "fresh") > 0 {
		p = now
	}
	p.State = rapid.SampledFrom([]store.PickupState{store.Landed, store.Released, store.Expired, store.Recalled}).Draw(rt, "state")
	p.Value = []byte("changed")
	e := store.Effects{Leaves: []store.Leaf{m.leaf(rt)}}
	err := m.s.PutPickup(m.t.Context(), p, e)
	m.agree(rt, "put pickup", nil, err, nil, m.model.PutPickup(m.t.Context(), p, e))
}

func (m *machine) openPickup(rt *rapid.T) {
	if len(m.pickups) == 0 {
		rt.Skip("no pickup")
	}
	id := rapid.SampledFrom(m.pickups).Draw(rt, "pickup").Pickup.ID
	secret := secretOf(rapid.SampledFrom([]string{"secret", "secret", "wrong"}).Draw(rt, "secret"))
	got, err := m.s.PickupBody(m.t.Context(), id, secret, "")
	want, wantErr := m.model.PickupBody(m.t.Context(), id, secret, "")
	m.agree(rt, "pickup body", string(got), err, string(want), wantErr)
	ok, err := m.s.CheckPickup(m.t.Context(), id, secret, "")
	wantOK, wantErr := m.model.CheckPickup(m.t.Context(), id, secret, "")
	m.agree(rt, "check pickup", ok, err, wantOK, wantErr)
}

func (m *machine) query(rt *rapid.T) {
	q := store.Query{
		State:  rapid.SampledFrom([]store.State{"", store.Ready, store.Leased, store.Held}).Draw(rt, "state"),
		Sender: rapid.SampledFrom([]string{"", "mailer-a"}).Draw(rt, "sender"),
		Dest:   rapid.SampledFrom([]string{"", "a.example"}).Draw(rt, "dest"),
		Code:   policy.Code(rapid.SampledFrom([]string{"", "HG-X"}).Draw(rt, "code")),
		Limit:  rapid.IntRange(1, 4).Draw(rt, "limit"),
	}
	if len(m.messages) > 0 && rapid.Bool().Draw(rt, "one message") {
		q.Message = rapid.SampledFrom(m.messages).Draw(rt, "message")
	}
	if len(m.messages) > 0 && rapid.Bool().Draw(rt, "page") {
		q.After = store.EnvelopeIDOf(rapid.SampledFrom(m.messages).Draw(rt, "after"), 1)
	}
	got, err := m.s.Envelopes(m.t.Context(), q)
	want, wantErr := m.model.Envelopes(m.t.Context(), q)
	m.agree(rt, "query", got, err, want, wantErr)
	for _, id := range m.messages {
		_, err := m.s.Body(m.t.Context(), id)
		_, wantErr := m.model.Body(m.t.Context(), id)
		m.agree(rt, "body", nil, err, nil, wantErr)
	}
}

func (m *machine) wait(rt *rapid.T) {
	m.clock.Advance(rapid.SampledFrom(waits).Draw(rt, "wait"))
}

func (m *machine) kill(rt *rapid.T) {
	if m.faults.Kill == nil {
		rt.Skip("this engine does not survive")
	}
	m.s = m.faults.Kill(m.t)
	m.model.Restart()
}
