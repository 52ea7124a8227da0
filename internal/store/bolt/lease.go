package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/phigate/phigate/internal/store"
)

// slot is the row of a live lease: until, token, then the keys of its envelopes.
type slot struct {
	until uint64
	token uint64
	keys  [][]byte
}

func (l *slot) row() []byte {
	return join(append([][]byte{be(l.until), be(l.token)}, l.keys...)...)
}

func readSlot(row []byte) (l slot, err error) {
	if len(row) < 16 || (len(row)-16)%envelopeKeySize != 0 {
		return l, errDamaged
	}
	l.until, l.token = binary.BigEndian.Uint64(row), binary.BigEndian.Uint64(row[8:])
	for rest := bytes.Clone(row[16:]); len(rest) > 0; rest = rest[envelopeKeySize:] {
		l.keys = append(l.keys, rest[:envelopeKeySize])
	}
	return l, nil
}

func slotKey(dest digest, n int) []byte {
	return binary.BigEndian.AppendUint16(bytes.Clone(dest[:]), uint16(n))
}

func lapseKey(until uint64, slot []byte) []byte { return join(be(until), slot) }

// putSlot writes a lease's row and its end.
func (t *txn) putSlot(key []byte, l *slot) {
	t.put(tSlot, key, l.row())
	t.put(tLapse, lapseKey(l.until, key), nil)
}

// endSlot frees a lease's slot; its envelopes are the caller's matter.
func (t *txn) endSlot(key []byte, l *slot) {
	t.del(tSlot, key)
	t.del(tLapse, lapseKey(l.until, key))
}

// giveBack ends a lease and makes ready what it still holds, due when due says.
func (t *txn) giveBack(key []byte, l *slot, due func(*duty) uint64) error {
	for _, k := range l.keys {
		row := bytes.Clone(t.get(tEnvelope, k))
		if row == nil {
			continue
		}
		was, sealed, err := readDuty(row)
		if err != nil {
			return err
		}
		if was.token != l.token {
			continue
		}
		is := was
		is.state, is.token, is.due = ready, 0, due(&was)
		t.set(k, &was, &is, sealed)
	}
	t.endSlot(key, l)
	return nil
}

func asLeft(d *duty) uint64 { return d.due }

// lapse gives back the mail of leases that have run out: up to n of those whose
// slot key begins with prefix.
func (t *txn) lapse(prefix []byte, n int) error {
	now := nanos(t.now)
	for _, k := range t.lapsed(prefix, n) {
		l, err := readSlot(t.get(tSlot, k))
		if err != nil {
			return err
		}
		if l.until > now {
			continue
		}
		if err := t.giveBack(k, &l, asLeft); err != nil {
			return err
		}
	}
	return nil
}

// lapsed lists slot keys that may have run out: those of one destination, or,
// without prefix, the earliest.
func (t *txn) lapsed(prefix []byte, n int) (slots [][]byte) {
	if len(prefix) > 0 {
		return t.keys(tSlot, prefix, n)
	}
	now := nanos(t.now)
	t.each(tLapse, nil, nil, func(k, _ []byte) bool {
		if len(slots) == n || binary.BigEndian.Uint64(k) > now {
			return false
		}
		slots = append(slots, bytes.Clone(k[8:]))
		return true
	})
	return slots
}

// lapseSome is how many ended leases one operation gives back.
const lapseSome = 256

// expire gives back what has run out anywhere before queues are listed. It
// writes only if there is something.
func (s *Store) expire() error {
	for {
		some := false
		err := s.view(func(t *txn) error {
			some = len(t.lapsed(nil, 1)) > 0
			return nil
		})
		if err != nil || !some {
			return err
		}
		if err := s.write(0, func(t *txn) error { return t.lapse(nil, lapseSome) }); err != nil {
			return err
		}
	}
}

// returnLeases gives back the leases of the process that had the store before.
func (s *Store) returnLeases() error {
	for {
		var some [][]byte
		err := s.view(func(t *txn) error {
			some = t.keys(tSlot, nil, lapseSome)
			return nil
		})
		if err != nil || len(some) == 0 {
			return err
		}
		if err := s.write(0, func(t *txn) error { return t.returnSlots(some) }); err != nil {
			return err
		}
	}
}

func (t *txn) returnSlots(keys [][]byte) error {
	due := func(d *duty) uint64 {
		return nanos(store.Recovered(int(d.attempts), fromNanos(d.due), t.now))
	}
	for _, k := range keys {
		l, err := readSlot(t.get(tSlot, k))
		if err != nil {
			return err
		}
		if err := t.giveBack(k, &l, due); err != nil {
			return err
		}
	}
	return nil
}

// Due implements [store.Store].
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]store.DestDue, error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, err
	}
	if err := s.expire(); err != nil {
		return nil, err
	}
	var heads []waiting
	err := s.view(func(t *txn) error {
		heads = t.due(nanos(now), limitOf(limit))
		return nil
	})
	if err != nil {
		return nil, err
	}
	due := make([]store.DestDue, 0, len(heads))
	for _, h := range heads {
		var v store.Envelope
		if err := s.openEnvelope(h.key, h.sealed, &v); err != nil {
			s.o.Log.Error("store: a due envelope cannot be opened", "envelope", envelopeID(h.key), "cause", err)
			continue
		}
		due = append(due, store.DestDue{Dest: v.Dest, Due: fromNanos(h.due), Lane: h.lane})
	}
	return due, nil
}

// waiting is the first envelope of a lane, which knows the destination's name.
type waiting struct {
	lane        store.Lane
	due         uint64
	key, sealed []byte
}

// due lists the heads of destinations, the prompt lane's first, each destination
// once.
func (t *txn) due(now uint64, limit int) (heads []waiting) {
	seen := map[digest]bool{}
	take := func(k []byte) bool {
		due := binary.BigEndian.Uint64(k[1:])
		if due > now || len(heads) == limit {
			return false
		}
		dest := digest(k[9:])
		if seen[dest] {
			return true
		}
		l := laneKey(join(dest[:], k[:1]))
		first, _ := t.first(tDue, l[:])
		if first == nil {
			return true
		}
		w := waiting{lane: store.Bulk, due: due, key: bytes.Clone(first[dueAt+8:])}
		if k[0] == promptLane {
			w.lane = store.Prompt
		}
		if _, sealed, err := readDuty(t.get(tEnvelope, w.key)); err == nil {
			seen[dest] = true
			w.sealed = bytes.Clone(sealed)
			heads = append(heads, w)
		}
		return true
	}
	t.each(tHead, []byte{promptLane}, nil, func(k, _ []byte) bool { return take(k) })
	for lanes := t.lanes(tHead, nil, flowLane(0)); len(lanes) > 0; {
		first := 0
		for i, l := range lanes {
			if bytes.Compare(l.key[1:], lanes[first].key[1:]) < 0 {
				first = i
			}
		}
		if !take(lanes[first].key) {
			break // none is due before this one
		}
		if !lanes[first].next() {
			lanes = slices.Delete(lanes, first, first+1)
		}
	}
	return heads
}

// lane walks the rows of one lane.
type lane struct {
	c      *bbolt.Cursor
	prefix []byte
	key    []byte
}

func (l *lane) next() bool {
	l.key, _ = l.c.Next()
	return bytes.HasPrefix(l.key, l.prefix)
}

// lanes finds the lanes, from one on, in which there are rows; prefix is what
// stands in front of the lane. Empty lanes cost nothing.
func (t *txn) lanes(tb table, prefix []byte, from byte) (all []*lane) {
	for next := append(bytes.Clone(prefix), from); ; next[len(prefix)]++ {
		c := t.bucket(tb).Cursor()
		k, _ := c.Seek(next)
		if !bytes.HasPrefix(k, prefix) || len(k) == 0 {
			return all
		}
		next[len(prefix)] = k[len(prefix)]
		all = append(all, &lane{c, bytes.Clone(next), k})
		if next[len(prefix)] == flowLane(store.Flows-1) {
			return all
		}
	}
}

func limitOf(n int) int {
	if n <= 0 {
		return store.DefaultLimit
	}
	return n
}

// NextDue implements [store.Store].
func (s *Store) NextDue(ctx context.Context) (next time.Time, err error) {
	if err := s.admit(ctx, false); err != nil {
		return next, err
	}
	err = s.view(func(t *txn) error {
		first := uint64(none)
		for _, l := range t.lanes(tHead, nil, promptLane) {
			first = min(first, binary.BigEndian.Uint64(l.key[1:]))
		}
		if k, _ := t.first(tLapse, nil); k != nil {
			first = min(first, binary.BigEndian.Uint64(k))
		}
		if first != none {
			next = fromNanos(first)
		}
		return nil
	})
	return next, err
}

// Lease implements [store.Store]. The node is not kept: one process owns the file.
func (s *Store) Lease(ctx context.Context, r store.LeaseRequest) (b store.Batch, err error) {
	if err := s.admit(ctx, false); err != nil {
		return b, err
	}
	if err := s.expire(); err != nil {
		return b, err
	}
	dest := s.index("dest", r.Dest)
	idle := false
	err = s.view(func(t *txn) error { // most polls end here, without a commit
		if t.freeSlot(dest, r.Cap) < 0 {
			return store.ErrNoSlot
		}
		idle = len(t.dueOf(dest, r.Max, r.After)) == 0
		return nil
	})
	if err != nil || idle {
		return b, err
	}
	var keys [][]byte
	err = s.write(0, func(t *txn) (err error) {
		b, keys, err = t.lease(dest, &r)
		return err
	})
	if err != nil || len(keys) == 0 {
		return store.Batch{}, err
	}
	b.Envelopes, err = s.envelopes(keys)
	return b, err
}

// lease takes a slot and what is due.
func (t *txn) lease(dest digest, r *store.LeaseRequest) (b store.Batch, keys [][]byte, err error) {
	if err := t.lapse(dest[:], everything); err != nil {
		return b, nil, err
	}
	n := t.freeSlot(dest, r.Cap)
	if n < 0 {
		return b, nil, store.ErrNoSlot
	}
	if keys = t.dueOf(dest, r.Max, r.After); len(keys) == 0 {
		return b, nil, nil
	}
	b.Token = store.Token{Dest: r.Dest, Slot: n, N: t.next("token")}
	b.Until = t.now.Add(r.For)
	t.putSlot(slotKey(dest, n), &slot{nanos(b.Until), b.Token.N, keys})
	for _, k := range keys {
		if err := t.attempt(k, b.Token.N, r.Backoff); err != nil {
			return b, nil, err
		}
	}
	return b, keys, nil
}

// attempt counts the attempt and sets the next time before anything is dialled.
func (t *txn) attempt(key []byte, token uint64, b store.Backoff) error {
	was, sealed, err := readDuty(bytes.Clone(t.get(tEnvelope, key)))
	if err != nil {
		return err
	}
	is := was
	is.state, is.token = leased, token
	is.attempts++
	is.due = nanos(t.now.Add(b.Wait(envelopeID(key), int(is.attempts))))
	t.set(key, &was, &is, sealed)
	return nil
}

// dueOf lists up to n envelopes of a destination that are due, prompt ones first,
// then those of the flows in turn from the one behind after on.
func (t *txn) dueOf(dest digest, n int, after uint8) (keys [][]byte) {
	now := nanos(t.now)
	take := func(k []byte) bool {
		if len(keys) >= n || binary.BigEndian.Uint64(k[dueAt:]) > now {
			return false
		}
		keys = append(keys, bytes.Clone(k[dueAt+8:]))
		return true
	}
	t.each(tDue, append(dest[:], promptLane), nil, func(k, _ []byte) bool { return take(k) })
	if len(keys) >= n {
		return keys
	}
	flows := t.lanes(tDue, dest[:], flowLane(0))
	slices.SortFunc(flows, func(a, b *lane) int {
		return store.Behind(after, a.prefix[len(dest)]-1) - store.Behind(after, b.prefix[len(dest)]-1)
	})
	for len(flows) > 0 && len(keys) < n {
		flows = slices.DeleteFunc(flows, func(l *lane) bool { return !take(l.key) || !l.next() })
	}
	return keys
}

// freeSlot is the lowest slot of a destination that no lease has, -1 at the cap.
// A lease that has run out does not count against the cap, but keeps its slot
// until it is given back.
func (t *txn) freeSlot(dest digest, limit int) int {
	now, live, free := nanos(t.now), 0, 0
	t.each(tSlot, dest[:], nil, func(k, v []byte) bool {
		if int(binary.BigEndian.Uint16(k[len(dest):])) == free {
			free++
		}
		if binary.BigEndian.Uint64(v) > now {
			live++
		}
		return true
	})
	if live >= limit {
		return -1
	}
	return free
}

// live is the lease that a token proves now.
func (t *txn) live(key []byte, token uint64) (l slot, err error) {
	row := t.get(tSlot, key)
	if row == nil {
		return l, store.ErrLeaseLost
	}
	if l, err = readSlot(row); err != nil {
		return l, err
	}
	if l.token != token || l.until <= nanos(t.now) {
		return l, store.ErrLeaseLost
	}
	return l, nil
}

func (s *Store) slotOf(t store.Token) []byte { return slotKey(s.index("dest", t.Dest), t.Slot) }

// Extend implements [store.Store].
func (s *Store) Extend(ctx context.Context, token store.Token, by time.Duration) (until time.Time, err error) {
	if err := s.admit(ctx, false); err != nil {
		return until, err
	}
	key := s.slotOf(token)
	err = s.write(0, func(t *txn) error {
		l, err := t.live(key, token.N)
		if err != nil {
			return err
		}
		t.del(tLapse, lapseKey(l.until, key))
		until = t.now.Add(by)
		l.until = nanos(until)
		t.putSlot(key, &l)
		return nil
	})
	if err != nil {
		return time.Time{}, err
	}
	return until, nil
}

// Finish implements [store.Store]. The new rows are made before the write: while
// the token holds, nobody else changes what it leased.
func (s *Store) Finish(ctx context.Context, token store.Token, results []store.Result, e store.Effects) error {
	if err := s.admit(ctx, false); err != nil {
		return err
	}
	key := s.slotOf(token)
	outcomes, err := s.outcomes(key, token.N, results)
	if err != nil {
		return err
	}
	var l slot
	return s.effects(e,
		func(t *txn) (err error) {
			l, err = t.live(key, token.N)
			return err
		},
		func(t *txn) error {
			for i := range outcomes {
				if err := t.turn(&outcomes[i]); err != nil {
					return err
				}
			}
			return t.giveBack(key, &l, asLeft)
		})
}

// outcome is what becomes of one envelope: row nil removes it.
type outcome struct {
	key    []byte
	before []byte // the sealed rest it was made from
	row    *envelopeRow
}

// outcomes makes the new rows of leased envelopes.
func (s *Store) outcomes(key []byte, token uint64, results []store.Result) ([]outcome, error) {
	keys := make([][]byte, len(results))
	rows := make([][]byte, len(results))
	err := s.view(func(t *txn) error {
		if _, err := t.live(key, token); err != nil {
			return err
		}
		seen := map[store.EnvelopeID]bool{}
		for i, r := range results {
			k, ok := envelopeKey(r.Envelope)
			row := t.get(tEnvelope, k)
			if d, _, err := readDuty(row); !ok || err != nil || d.token != token || seen[r.Envelope] {
				return fmt.Errorf("%w: result for an envelope not of the lease", store.ErrConflict)
			}
			seen[r.Envelope] = true
			keys[i], rows[i] = k, bytes.Clone(row)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	now := s.now()
	out := make([]outcome, len(results))
	for i, r := range results {
		become := func(v store.Envelope) store.Envelope { return r.Outcome(v, now) }
		if r.Next == store.Finish {
			become = nil
		}
		if out[i], err = s.outcome(keys[i], rows[i], become); err != nil {
			return nil, known(err)
		}
	}
	return out, nil
}

// outcome makes the new row of one envelope; become nil removes it.
func (s *Store) outcome(key, row []byte, become func(store.Envelope) store.Envelope) (o outcome, err error) {
	was, sealed, err := readDuty(row)
	if err != nil {
		return o, err
	}
	o = outcome{key: key, before: sealed}
	if become == nil {
		return o, nil
	}
	v, err := s.openRow(key, row)
	if err != nil {
		return o, err
	}
	v = become(v)
	r, err := s.envelopeRow(&v)
	r.duty.sender, r.duty.campaign, r.duty.lane = was.sender, was.campaign, was.lane // of the message, which was not opened
	o.row = &r
	return o, err
}

// turn puts an outcome in the place of what is there.
func (t *txn) turn(o *outcome) error {
	was, _, err := readDuty(bytes.Clone(t.get(tEnvelope, o.key)))
	if err != nil {
		return err
	}
	if o.row == nil {
		t.set(o.key, &was, nil, nil)
		t.release(o.key[:idSize])
		return nil
	}
	t.set(o.key, &was, &o.row.duty, o.row.sealed)
	return nil
}

// Change implements [store.Store].
func (s *Store) Change(ctx context.Context, c store.Change, e store.Effects) error {
	if err := s.admit(ctx, false); err != nil {
		return err
	}
	if !c.To.Settable() {
		return fmt.Errorf("%w: no change to that state", store.ErrUnavailable)
	}
	if err := s.expire(); err != nil {
		return err
	}
	outcomes, err := s.changes(&c)
	if err != nil {
		return err
	}
	return s.effects(e,
		func(t *txn) error {
			for i := range outcomes {
				if err := t.unchanged(&outcomes[i]); err != nil {
					return err
				}
			}
			return nil
		},
		func(t *txn) error {
			for i := range outcomes {
				if err := t.turn(&outcomes[i]); err != nil {
					return err
				}
			}
			return nil
		})
}

func (s *Store) changes(c *store.Change) ([]outcome, error) {
	rows := map[store.EnvelopeID][]byte{}
	err := s.view(func(t *txn) error {
		for _, id := range c.Envelopes {
			key, _ := envelopeKey(id)
			row := bytes.Clone(t.get(tEnvelope, key))
			if d, _, err := readDuty(row); err != nil || d.state == leased {
				return fmt.Errorf("%w: envelope leased or gone", store.ErrConflict)
			}
			rows[id] = row
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	become := c.Outcome
	if c.To == "" {
		become = nil
	}
	var out []outcome
	for id, row := range rows {
		key, _ := envelopeKey(id)
		o, err := s.outcome(key, row, become)
		if err != nil {
			return nil, known(err)
		}
		out = append(out, o)
	}
	return out, nil
}

// unchanged refuses a change of an envelope that was leased, attempted or changed
// since it was read. Each sealing has its own nonce, so equal bytes are the same row.
func (t *txn) unchanged(o *outcome) error {
	d, sealed, err := readDuty(t.get(tEnvelope, o.key))
	if err != nil || d.state == leased || !bytes.Equal(sealed, o.before) {
		return fmt.Errorf("%w: envelope leased, changed or gone", store.ErrConflict)
	}
	return nil
}
