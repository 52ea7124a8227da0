// Package storetest is the storage contract as tests: [Run] holds an engine to
// it, and [Memory] is the model that engines are compared with.
package storetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/phigate/phigate/internal/store"
)

// repeatFor is how long an equal acceptance counts as the same message.
const repeatFor = 24 * time.Hour

// Memory is the contract in its plainest form: maps under one lock, nothing
// sealed, nothing durable. It is the model that engines are compared with and
// the store of other packages' tests.
type Memory struct {
	// Hash computes tree hashes; nil keeps none. Set it before the first leaf.
	Hash store.Hasher

	clock func() time.Time

	mu        sync.Mutex // guards all below
	closed    bool
	envelopes map[store.EnvelopeID]*envelope
	bodies    map[store.ID][]byte
	queued    map[store.ID]int // envelopes of a message
	awaited   map[store.ID]int // pickups of a message that are not over
	pickups   map[store.ID]*pickup
	records   map[recordKey][]byte
	leaves    []store.Leaf
	hashes    [][32]byte
	accepted  map[[32]byte]acceptance
	slots     map[slotKey]*slot
	tokens    uint64
}

type (
	envelope struct {
		store.Envelope
		token uint64 // of its lease; 0 = none
	}
	pickup struct {
		store.Pickup
		secret []byte
		pin    string
	}
	recordKey struct{ kind, subject, key string }
	slotKey   struct {
		dest string
		n    int
	}
	slot struct {
		token uint64
		until time.Time
	}
	acceptance struct {
		id store.ID
		at time.Time
	}
)

var _ store.Store = (*Memory)(nil)

// NewMemory returns an empty store that takes its time from clock; nil is time.Now.
func NewMemory(clock func() time.Time) *Memory {
	if clock == nil {
		clock = time.Now
	}
	return &Memory{
		clock:     clock,
		envelopes: map[store.EnvelopeID]*envelope{},
		bodies:    map[store.ID][]byte{},
		queued:    map[store.ID]int{},
		awaited:   map[store.ID]int{},
		pickups:   map[store.ID]*pickup{},
		records:   map[recordKey][]byte{},
		accepted:  map[[32]byte]acceptance{},
		slots:     map[slotKey]*slot{},
	}
}

// Restart does what the next start does after a kill: every lease returns.
func (m *Memory) Restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = false
	clear(m.slots)
	for _, e := range m.envelopes {
		if e.token != 0 {
			e.token, e.State = 0, store.Ready
			e.Due = store.Recovered(e.Attempts, e.Due, m.now())
		}
	}
}

// now has the resolution that engines keep: nanoseconds, UTC, no monotonic part.
func (m *Memory) now() time.Time { return plain(m.clock()) }

func plain(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.Unix(0, t.UnixNano()).UTC()
}

// enter takes the lock for one call of the contract.
func (m *Memory) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, fmt.Errorf("%w: closed", store.ErrUnavailable)
	}
	return m.mu.Unlock, nil
}

// Accept implements [store.Store].
func (m *Memory) Accept(ctx context.Context, a store.Acceptance) (store.Receipt, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Receipt{}, err
	}
	defer leave()
	if !a.ID.Valid() {
		return store.Receipt{}, fmt.Errorf("%w: malformed id", store.ErrUnavailable)
	}
	if first, ok := m.accepted[a.Digest]; ok && m.now().Sub(first.at) < repeatFor {
		return store.Receipt{ID: first.id, Repeated: true}, nil
	}
	if err := m.apply(a.Effects, nil); err != nil {
		return store.Receipt{}, err
	}
	m.accepted[a.Digest] = acceptance{a.ID, m.now()}
	return store.Receipt{ID: a.ID}, nil
}

// Apply implements [store.Store].
func (m *Memory) Apply(ctx context.Context, e store.Effects) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return m.apply(e, nil)
}

// apply checks everything, then changes everything: what is given as act runs
// between the new rows and the clean-up of what nobody holds any more.
func (m *Memory) apply(e store.Effects, act func()) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	if err := m.fits(e); err != nil {
		return err
	}
	if err := m.append(e.Leaves); err != nil {
		return err
	}
	for _, n := range e.Messages {
		m.bodies[n.Message.ID] = slices.Clone(n.Body)
		for _, v := range n.Envelopes {
			v.Message = n.Message
			v.Message.Accepted = plain(v.Message.Accepted)
			m.envelopes[v.ID] = &envelope{Envelope: tidy(v)}
			m.queued[v.Message.ID]++
		}
	}
	for _, p := range e.Pickups {
		p.Pickup.Value = slices.Clone(p.Pickup.Value)
		m.pickups[p.Pickup.ID] = &pickup{tidyPickup(p.Pickup), slices.Clone(p.Secret), p.PIN}
		m.awaited[p.Pickup.Message]++
	}
	for _, r := range e.Records {
		k := recordKey{r.Kind, r.Subject, r.Key}
		if r.Delete {
			delete(m.records, k)
		} else {
			m.records[k] = slices.Clone(r.Value)
		}
	}
	if act != nil {
		act()
	}
	for _, n := range e.Messages {
		m.hold(m.queued, n.Message.ID, 0) // nobody may want it
	}
	return nil
}

// tidy gives an envelope the times that engines keep.
func tidy(v store.Envelope) store.Envelope {
	for _, t := range []*time.Time{&v.Due, &v.Expires, &v.Within, &v.LastAt, &v.Facts.Now} {
		*t = plain(*t)
	}
	return v
}

func tidyPickup(p store.Pickup) store.Pickup {
	for _, t := range []*time.Time{&p.Created, &p.Expires, &p.Facts.Now} {
		*t = plain(*t)
	}
	return p
}

// fits refuses an id that exists and a pickup of a message whose key is gone.
func (m *Memory) fits(e store.Effects) error {
	fresh := map[store.ID]bool{}
	for _, n := range e.Messages {
		if _, ok := m.bodies[n.Message.ID]; ok || fresh[n.Message.ID] {
			return fmt.Errorf("%w: message exists", store.ErrConflict)
		}
		fresh[n.Message.ID] = true
	}
	made := map[store.ID]bool{}
	for _, p := range e.Pickups {
		if m.pickups[p.Pickup.ID] != nil || made[p.Pickup.ID] {
			return fmt.Errorf("%w: pickup exists", store.ErrConflict)
		}
		made[p.Pickup.ID] = true
		if !fresh[p.Pickup.Message] && m.queued[p.Pickup.Message] == 0 {
			return fmt.Errorf("%w: message of a pickup", store.ErrNotFound)
		}
	}
	return nil
}

func (m *Memory) append(leaves []store.Leaf) error {
	hashes := m.hashes
	all := m.leaves
	for _, l := range leaves {
		l.N, l.Time = int64(len(all)), plain(l.Time)
		l.Record, l.Sealed = slices.Clone(l.Record), slices.Clone(l.Sealed)
		if m.Hash != nil {
			more, err := m.Hash(l.N, l.Record, func(at []int64) ([][32]byte, error) { return pick(hashes, at) })
			if err != nil {
				return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
			}
			hashes = append(hashes, more...)
		}
		all = append(all, l)
	}
	m.leaves, m.hashes = all, hashes
	return nil
}

func pick(hashes [][32]byte, at []int64) ([][32]byte, error) {
	out := make([][32]byte, len(at))
	for i, n := range at {
		if n < 0 || n >= int64(len(hashes)) {
			return nil, fmt.Errorf("%w: tree hash", store.ErrNotFound)
		}
		out[i] = hashes[n]
	}
	return out, nil
}

// hold counts a holder of a message's body in or out; the last one out takes
// the body along.
func (m *Memory) hold(holders map[store.ID]int, id store.ID, by int) {
	holders[id] += by
	if holders[id] == 0 {
		delete(holders, id)
	}
	if m.queued[id]+m.awaited[id] == 0 {
		delete(m.bodies, id)
	}
}

func (m *Memory) remove(id store.EnvelopeID) {
	if m.envelopes[id] == nil {
		return
	}
	delete(m.envelopes, id)
	m.hold(m.queued, id.Message(), -1)
}

// expire returns the mail of leases that ran out.
func (m *Memory) expire() {
	now := m.now()
	for k, s := range m.slots {
		if s.until.After(now) {
			continue
		}
		delete(m.slots, k)
		for _, e := range m.envelopes {
			if e.token == s.token {
				e.token, e.State = 0, store.Ready
			}
		}
	}
}

// Due implements [store.Store].
func (m *Memory) Due(ctx context.Context, now time.Time, limit int) ([]store.DestDue, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	m.expire()
	best := map[string]store.DestDue{}
	for _, e := range m.envelopes {
		if e.State != store.Ready || e.Due.After(now) {
			continue
		}
		d, ok := best[e.Dest]
		if !ok || e.Lane > d.Lane || e.Lane == d.Lane && e.Due.Before(d.Due) {
			best[e.Dest] = store.DestDue{Dest: e.Dest, Due: e.Due, Lane: e.Lane}
		}
	}
	all := slices.SortedFunc(maps.Values(best), func(a, b store.DestDue) int {
		return cmp.Or(-cmp.Compare(a.Lane, b.Lane), a.Due.Compare(b.Due), cmp.Compare(a.Dest, b.Dest))
	})
	return all[:min(len(all), limitOf(limit))], nil
}

func limitOf(n int) int {
	if n <= 0 {
		return store.DefaultLimit
	}
	return n
}

// NextDue implements [store.Store].
func (m *Memory) NextDue(ctx context.Context) (time.Time, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer leave()
	var next time.Time
	sooner := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, e := range m.envelopes {
		if e.State == store.Ready {
			sooner(e.Due)
		}
	}
	for _, s := range m.slots {
		sooner(s.until)
	}
	return next, nil
}

// Lease implements [store.Store].
func (m *Memory) Lease(ctx context.Context, r store.LeaseRequest) (store.Batch, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Batch{}, err
	}
	defer leave()
	m.expire()
	now := m.now()
	n, ok := m.freeSlot(r.Dest, r.Cap)
	if !ok {
		return store.Batch{}, store.ErrNoSlot
	}
	var due []*envelope
	for _, e := range m.envelopes {
		if e.Dest == r.Dest && e.State == store.Ready && !e.Due.After(now) {
			due = append(due, e)
		}
	}
	inTurn(due, r.After)
	due = due[:min(len(due), max(r.Max, 0))]
	if len(due) == 0 {
		return store.Batch{}, nil
	}
	m.tokens++
	b := store.Batch{Token: store.Token{Dest: r.Dest, Slot: n, N: m.tokens}, Until: now.Add(r.For)}
	m.slots[slotKey{r.Dest, n}] = &slot{m.tokens, b.Until}
	for _, e := range due {
		e.State, e.token = store.Leased, m.tokens
		e.Attempts++
		e.Due = now.Add(r.Backoff.Wait(e.ID, e.Attempts))
		b.Envelopes = append(b.Envelopes, e.Envelope)
	}
	return b, nil
}

// inTurn sorts the due envelopes of a destination into the order of Lease.
func inTurn(due []*envelope, after uint8) {
	slices.SortFunc(due, func(a, b *envelope) int {
		return cmp.Or(-cmp.Compare(a.Lane, b.Lane), a.Due.Compare(b.Due), order(a.ID, b.ID))
	})
	round := map[*envelope]int{} // 0 for prompt ones, then the n-th of each flow in round n
	seen := map[uint8]int{}
	turn := func(e *envelope) int { return store.Behind(after, store.FlowOf(e.Message)) }
	for _, e := range due {
		if flow := store.FlowOf(e.Message); e.Lane != store.Prompt {
			seen[flow]++
			round[e] = seen[flow]
		}
	}
	slices.SortStableFunc(due, func(a, b *envelope) int {
		if round[a] == 0 || round[b] == 0 {
			return cmp.Compare(round[a], round[b])
		}
		return cmp.Or(cmp.Compare(round[a], round[b]), cmp.Compare(turn(a), turn(b)))
	})
}

func order(a, b store.EnvelopeID) int {
	switch {
	case a == b:
		return 0
	case a.Less(b):
		return -1
	}
	return 1
}

func (m *Memory) freeSlot(dest string, limit int) (int, bool) {
	for n := range limit {
		if m.slots[slotKey{dest, n}] == nil {
			return n, true
		}
	}
	return 0, false
}

// held returns the slot that the token proves.
func (m *Memory) held(t store.Token) (*slot, error) {
	m.expire()
	s := m.slots[slotKey{t.Dest, t.Slot}]
	if s == nil || s.token != t.N {
		return nil, store.ErrLeaseLost
	}
	return s, nil
}

// Extend implements [store.Store].
func (m *Memory) Extend(ctx context.Context, t store.Token, by time.Duration) (time.Time, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer leave()
	s, err := m.held(t)
	if err != nil {
		return time.Time{}, err
	}
	s.until = m.now().Add(by)
	return s.until, nil
}

// Finish implements [store.Store].
func (m *Memory) Finish(ctx context.Context, t store.Token, results []store.Result, e store.Effects) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s, err := m.held(t)
	if err != nil {
		return err
	}
	seen := map[store.EnvelopeID]bool{}
	for _, r := range results {
		v := m.envelopes[r.Envelope]
		if v == nil || v.token != s.token || seen[r.Envelope] {
			return fmt.Errorf("%w: result for an envelope not of the lease", store.ErrConflict)
		}
		seen[r.Envelope] = true
	}
	return m.apply(e, func() {
		for _, r := range results {
			m.finish(r)
		}
		for _, v := range m.envelopes {
			if v.token == s.token {
				v.token, v.State = 0, store.Ready
			}
		}
		delete(m.slots, slotKey{t.Dest, t.Slot})
	})
}

func (m *Memory) finish(r store.Result) {
	if r.Next == store.Finish {
		m.remove(r.Envelope)
		return
	}
	v := m.envelopes[r.Envelope]
	v.token = 0
	v.Envelope = tidy(r.Outcome(v.Envelope, m.now()))
}

// Change implements [store.Store].
func (m *Memory) Change(ctx context.Context, c store.Change, e store.Effects) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	m.expire()
	for _, id := range c.Envelopes {
		if v := m.envelopes[id]; v == nil || v.token != 0 {
			return fmt.Errorf("%w: envelope leased or gone", store.ErrConflict)
		}
	}
	if !c.To.Settable() {
		return fmt.Errorf("%w: no change to that state", store.ErrUnavailable)
	}
	return m.apply(e, func() {
		for _, id := range c.Envelopes {
			if c.To == "" {
				m.remove(id)
			} else {
				v := m.envelopes[id]
				v.Envelope = tidy(c.Outcome(v.Envelope))
			}
		}
	})
}

// Envelope implements [store.Store].
func (m *Memory) Envelope(ctx context.Context, id store.EnvelopeID) (store.Envelope, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Envelope{}, err
	}
	defer leave()
	if v := m.envelopes[id]; v != nil {
		return v.Envelope, nil
	}
	return store.Envelope{}, store.ErrNotFound
}

// Envelopes implements [store.Store].
func (m *Memory) Envelopes(ctx context.Context, q store.Query) ([]store.Envelope, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var page []store.Envelope
	for _, v := range m.envelopes {
		if q.Match(v.Envelope) && (q.After == "" || q.After.Less(v.ID)) {
			page = append(page, v.Envelope)
		}
	}
	slices.SortFunc(page, func(a, b store.Envelope) int { return order(a.ID, b.ID) })
	return page[:min(len(page), limitOf(q.Limit))], nil
}

// Body implements [store.Store].
func (m *Memory) Body(ctx context.Context, id store.ID) ([]byte, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if m.queued[id] == 0 {
		return nil, store.ErrNotFound
	}
	return slices.Clone(m.bodies[id]), nil
}

// Pickup implements [store.Store].
func (m *Memory) Pickup(ctx context.Context, id store.ID) (store.Pickup, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Pickup{}, err
	}
	defer leave()
	if p := m.pickups[id]; p != nil {
		return p.Pickup, nil
	}
	return store.Pickup{}, store.ErrNotFound
}

// Pickups implements [store.Store].
func (m *Memory) Pickups(ctx context.Context, q store.PickupQuery) ([]store.Pickup, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var page []store.Pickup
	for id, p := range m.pickups {
		if id > q.After && q.Match(p.Pickup) {
			page = append(page, p.Pickup)
		}
	}
	slices.SortFunc(page, func(a, b store.Pickup) int { return cmp.Compare(a.ID, b.ID) })
	return page[:min(len(page), limitOf(q.Limit))], nil
}

// PutPickup implements [store.Store].
func (m *Memory) PutPickup(ctx context.Context, p store.Pickup, e store.Effects) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	old := m.pickups[p.ID]
	switch {
	case old == nil:
		return store.ErrNotFound
	case old.Version != p.Version, old.Message != p.Message, old.State.Over() && !p.State.Over():
		return store.ErrConflict
	}
	return m.apply(e, func() {
		p.Version++
		p.Value = slices.Clone(p.Value)
		over := p.State.Over() && !old.State.Over()
		old.Pickup = tidyPickup(p)
		if over {
			old.secret = nil
			m.hold(m.awaited, p.Message, -1)
		}
	})
}

// opens reports whether secret and pin open the pickup.
func (p *pickup) opens(secret []byte, pin string) bool {
	return p != nil && len(p.secret) > 0 && bytes.Equal(p.secret, secret) && p.pin == pin
}

// PickupBody implements [store.Store].
func (m *Memory) PickupBody(ctx context.Context, id store.ID, secret []byte, pin string) ([]byte, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	p := m.pickups[id]
	if !p.opens(secret, pin) {
		return nil, store.ErrNotFound
	}
	return slices.Clone(m.bodies[p.Message]), nil
}

// CheckPickup implements [store.Store].
func (m *Memory) CheckPickup(ctx context.Context, id store.ID, secret []byte, pin string) (bool, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	return m.pickups[id].opens(secret, pin), nil
}

// Records implements [store.Store].
func (m *Memory) Records(ctx context.Context, kind, subject string) ([]store.Record, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return m.selected(func(k recordKey) bool { return k.kind == kind && k.subject == subject }), nil
}

func (m *Memory) selected(want func(recordKey) bool) []store.Record {
	var page []store.Record
	for k, v := range m.records {
		if want(k) {
			page = append(page, store.Record{Kind: k.kind, Subject: k.subject, Key: k.key, Value: slices.Clone(v)})
		}
	}
	slices.SortFunc(page, func(a, b store.Record) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Key, b.Key))
	})
	return page
}

// Scan implements [store.Store]. Its pages go by subject and key.
func (m *Memory) Scan(ctx context.Context, kind, after string, limit int) ([]store.Record, string, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, "", err
	}
	defer leave()
	place := func(subject, key string) string { return subject + "\x00" + key }
	page := m.selected(func(k recordKey) bool { return k.kind == kind && place(k.subject, k.key) > after })
	if limit = limitOf(limit); len(page) <= limit {
		return page, "", nil
	}
	last := page[limit-1]
	return page[:limit], place(last.Subject, last.Key), nil
}

// Leaves implements [store.Store].
func (m *Memory) Leaves(ctx context.Context, from int64, n int) ([]store.Leaf, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	from = min(max(from, 0), int64(len(m.leaves)))
	return slices.Clone(m.leaves[from:min(from+int64(max(n, 0)), int64(len(m.leaves)))]), nil
}

// LeavesOf implements [store.Store].
func (m *Memory) LeavesOf(ctx context.Context, id store.ID) ([]store.Leaf, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var of []store.Leaf
	for _, l := range m.leaves {
		if id != "" && l.ID == id {
			of = append(of, l)
		}
	}
	return of, nil
}

// TreeSize implements [store.Store].
func (m *Memory) TreeSize(ctx context.Context) (int64, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	return int64(len(m.leaves)), nil
}

// TreeHashes implements [store.Store].
func (m *Memory) TreeHashes(ctx context.Context, at []int64) ([][32]byte, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return pick(m.hashes, at)
}

// Stats implements [store.Store].
func (m *Memory) Stats(ctx context.Context) (store.Stats, error) {
	leave, err := m.enter(ctx)
	if err != nil {
		return store.Stats{}, err
	}
	defer leave()
	m.expire()
	st := store.Stats{Leaves: int64(len(m.leaves))}
	var first store.EnvelopeID
	for id, v := range m.envelopes {
		switch v.State {
		case store.Ready:
			st.Ready++
		case store.Leased:
			st.Leased++
		case store.Held:
			st.Held++
			continue
		}
		if first == "" || id.Less(first) {
			first, st.Oldest = id, v.Message.Accepted
		}
	}
	for _, p := range m.pickups {
		if !p.State.Over() {
			st.Pickups++
		}
	}
	return st, nil
}

// Check implements [store.Store].
func (m *Memory) Check(ctx context.Context) error {
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	leave()
	return nil
}

// Durability implements [store.Store].
func (m *Memory) Durability() store.Durability { return store.None }

// Close implements [store.Store].
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
