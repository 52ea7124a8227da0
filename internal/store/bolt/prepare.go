package bolt

import (
	"context"
	"fmt"

	"github.com/phigate/phigate/internal/store"
)

// prepared are effects as the rows they become: sealed, compressed and hashed in
// the caller's goroutine, so that the writer only copies bytes. Its large bodies
// are on the disk already.
type prepared struct {
	messages []messageRows
	pickups  []pickupRows
	records  []recordRow
	leaves   []leafRow
	files    []store.ID // written for this; removed again if it does not commit
	size     int
}

type messageRows struct {
	id        []byte
	row, body []byte // row is nil without envelopes
	envelopes []envelopeRow
}

type envelopeRow struct {
	key    []byte
	duty   duty
	sealed []byte
}

type pickupRows struct {
	id, message []byte
	row, wrap   []byte
	fresh       bool // its message is stored in the same effects
}

type recordRow struct {
	key, value []byte // value nil deletes
}

type leafRow struct {
	id     store.ID
	record []byte // what the tree hashes
	row    []byte
	clear  []byte // sealed; nil if there is none
}

// prepare makes the rows. Of a message without envelopes and pickups nothing is
// stored.
func (s *Store) prepare(e store.Effects) (*prepared, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	p := &prepared{}
	if err := s.fill(p, &e); err != nil {
		s.discard(p)
		return nil, err
	}
	return p, nil
}

func (s *Store) fill(p *prepared, e *store.Effects) error {
	keys := map[store.ID][]byte{} // of the bodies made here
	for i := range e.Messages {
		if err := s.prepareMessage(p, &e.Messages[i], e.Pickups, keys); err != nil {
			return err
		}
	}
	for i := range e.Pickups {
		if err := s.preparePickup(p, &e.Pickups[i], keys); err != nil {
			return err
		}
	}
	for i := range e.Records {
		if err := s.prepareRecord(p, &e.Records[i]); err != nil {
			return err
		}
	}
	for i := range e.Leaves {
		if err := s.prepareLeaf(p, &e.Leaves[i]); err != nil {
			return err
		}
	}
	return nil
}

// discard removes the body files of effects that were certainly not committed.
func (s *Store) discard(p *prepared) { s.bodies.removeAll(p.files) }

func (s *Store) prepareMessage(p *prepared, m *store.NewMessage, pickups []store.NewPickup, keys map[store.ID][]byte) error {
	id := m.Message.ID
	wanted := len(m.Envelopes) > 0
	for i := range pickups {
		wanted = wanted || pickups[i].Pickup.Message == id
	}
	if !wanted {
		return nil
	}
	sealed, key, err := s.sealBody(id, m.Body)
	if err != nil {
		return err
	}
	keys[id] = key
	r := messageRows{id: []byte(id)}
	if r.body, err = s.place(p, id, sealed); err != nil {
		return err
	}
	if len(m.Envelopes) > 0 {
		if r.row, err = s.o.Sealer.SealMail(aad(tMessage, r.id), encodeMessage(&m.Message, key)); err != nil {
			return err
		}
	}
	for i := range m.Envelopes {
		v := m.Envelopes[i]
		v.Message = m.Message
		row, err := s.envelopeRow(&v)
		if err != nil {
			return err
		}
		r.envelopes = append(r.envelopes, row)
		p.size += len(row.sealed)
	}
	p.size += len(r.row) + len(r.body)
	p.messages = append(p.messages, r)
	return nil
}

// place gives the row of a sealed body, and writes its file if it is large.
func (s *Store) place(p *prepared, id store.ID, sealed []byte) ([]byte, error) {
	if len(sealed) <= inlineMax {
		return sealed, nil
	}
	if err := s.bodies.write(id, sealed); err != nil {
		return nil, fmt.Errorf("writing a body: %w", err)
	}
	p.files = append(p.files, id)
	return inFile, nil
}

func (s *Store) envelopeRow(v *store.Envelope) (r envelopeRow, err error) {
	r.key, _ = envelopeKey(v.ID) // validated
	r.duty = s.dutyOf(v)
	r.sealed, err = s.o.Sealer.SealMail(aad(tEnvelope, r.key), encodeEnvelope(v))
	return r, err
}

func (s *Store) preparePickup(p *prepared, n *store.NewPickup, keys map[store.ID][]byte) (err error) {
	r := pickupRows{id: []byte(n.Pickup.ID), message: []byte(n.Pickup.Message)}
	key, fresh := keys[n.Pickup.Message]
	if r.fresh = fresh; !fresh {
		if _, key, err = s.message(n.Pickup.Message); err != nil {
			return fmt.Errorf("message of a pickup: %w", err)
		}
	}
	if r.wrap, err = s.o.Sealer.WrapPickup(aad(tWrap, r.id), n.Secret, n.PIN, key); err != nil {
		return err
	}
	if r.row, err = s.pickupRow(&n.Pickup); err != nil {
		return err
	}
	p.size += len(r.row) + len(r.wrap)
	p.pickups = append(p.pickups, r)
	return nil
}

func (s *Store) pickupRow(p *store.Pickup) ([]byte, error) {
	sealed, err := s.o.Sealer.SealMail(aad(tPickup, []byte(p.ID)), encodePickup(p))
	h := s.pickupHeadOf(p)
	return h.row(sealed), err
}

// message opens the row of a message that is queued or held, with its body's key.
func (s *Store) message(id store.ID) (m store.Message, key []byte, err error) {
	var row []byte
	if err := s.view(func(t *txn) error {
		row = append(row, t.get(tMessage, []byte(id))...)
		return nil
	}); err != nil {
		return m, nil, err
	}
	if row == nil {
		return m, nil, store.ErrNotFound
	}
	plain, err := s.o.Sealer.Open(aad(tMessage, []byte(id)), row)
	if err != nil {
		return m, nil, err
	}
	return decodeMessage(id, plain)
}

// recordKey is kind|subject|key, the kind with its length in front so that no
// kind is the beginning of another.
func (s *Store) recordKey(r *store.Record) []byte {
	key := s.index("key "+r.Kind, r.Key)
	return join(s.subjectKey(r.Kind, r.Subject), key[:])
}

func kindKey(kind string) []byte { return append([]byte{byte(len(kind))}, kind...) }

func (s *Store) subjectKey(kind, subject string) []byte {
	h := s.index("subject "+kind, subject)
	return join(kindKey(kind), h[:])
}

func (s *Store) prepareRecord(p *prepared, r *store.Record) (err error) {
	row := recordRow{key: s.recordKey(r)}
	if !r.Delete {
		if row.value, err = s.o.Sealer.SealRecord(aad(tRecord, row.key), encodeRecord(r)); err != nil {
			return err
		}
	}
	p.size += len(row.value)
	p.records = append(p.records, row)
	return nil
}

func (s *Store) prepareLeaf(p *prepared, l *store.Leaf) (err error) {
	r := leafRow{id: l.ID, record: l.Record, row: encodeLeaf(l)}
	if len(l.Sealed) > 0 { // bound to the record: the number is not known yet
		if r.clear, err = s.o.Sealer.SealRecord(aad(tClear, l.Record), l.Sealed); err != nil {
			return err
		}
	}
	p.size += len(r.row) + len(r.clear)
	p.leaves = append(p.leaves, r)
	return nil
}

// apply writes the rows of effects.
func (s *Store) apply(t *txn, p *prepared) error {
	if err := t.fits(p); err != nil {
		return err
	}
	for i := range p.messages {
		t.addMessage(&p.messages[i])
	}
	for i := range p.pickups {
		t.addPickup(&p.pickups[i])
	}
	for _, r := range p.records {
		if r.value == nil {
			t.del(tRecord, r.key)
		} else {
			t.put(tRecord, r.key, r.value)
		}
	}
	return s.appendLeaves(t, p.leaves)
}

// fits refuses, before anything is written, an id that exists and a pickup of a
// message whose key is gone.
func (t *txn) fits(p *prepared) error {
	for _, m := range p.messages {
		if t.get(tBody, m.id) != nil {
			return fmt.Errorf("%w: message exists", store.ErrConflict)
		}
	}
	for _, k := range p.pickups {
		if t.get(tPickup, k.id) != nil {
			return fmt.Errorf("%w: pickup exists", store.ErrConflict)
		}
		if !k.fresh && t.get(tMessage, k.message) == nil {
			return fmt.Errorf("%w: message of a pickup", store.ErrNotFound)
		}
	}
	return nil
}

func (t *txn) addMessage(m *messageRows) {
	t.put(tBody, m.id, m.body)
	if m.row != nil {
		t.put(tMessage, m.id, m.row)
	}
	for i := range m.envelopes {
		v := &m.envelopes[i]
		t.set(v.key, nil, &v.duty, v.sealed)
	}
}

func (t *txn) addPickup(k *pickupRows) {
	t.put(tPickup, k.id, k.row)
	t.put(tWrap, k.id, k.wrap)
	t.put(tHolder, join(k.message, k.id), nil)
	t.tally().pickups++
}

// Apply implements [store.Store].
func (s *Store) Apply(ctx context.Context, e store.Effects) error {
	if err := s.admit(ctx, true); err != nil {
		return err
	}
	return s.effects(e, nothing, nothing)
}

func nothing(*txn) error { return nil }

// effects commits e between a check, which must not write, and a change. The
// change comes last so that a body whose holder changes always has one.
func (s *Store) effects(e store.Effects, check, change func(*txn) error) error {
	p, err := s.prepare(e)
	if err != nil {
		return known(err)
	}
	return s.settled(p, s.write(p.size, func(t *txn) error {
		if err := check(t); err != nil {
			return err
		}
		if err := s.apply(t, p); err != nil {
			return err
		}
		return change(t)
	}))
}

// settled cleans up after effects whose outcome is known.
func (s *Store) settled(p *prepared, err error) error {
	if err != nil && !isUnknown(err) {
		s.discard(p)
	}
	return err
}
