package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// scanRows is how many rows one read transaction looks at: a long one would keep
// the writer from using freed pages.
const scanRows = 10_000

// openEnvelope opens the sealed rest of an envelope row into v.
func (s *Store) openEnvelope(key, sealed []byte, v *store.Envelope) error {
	plain, err := s.o.Sealer.Open(aad(tEnvelope, key), sealed)
	if err != nil {
		return err
	}
	return decodeEnvelope(plain, v)
}

// openRow makes an envelope of its row, without its message.
func (s *Store) openRow(key, row []byte) (v store.Envelope, err error) {
	d, sealed, err := readDuty(row)
	if err != nil {
		return v, err
	}
	v = store.Envelope{
		ID: envelopeID(key), State: d.stateText(), Lane: laneFrom(d.lane),
		Due: fromNanos(d.due), Expires: fromNanos(d.expires), Attempts: int(d.attempts),
	}
	v.Message.ID = v.ID.Message()
	return v, s.openEnvelope(key, sealed, &v)
}

// found is an envelope's row and its message's, copied out of a transaction.
type found struct{ key, row, message []byte }

func (t *txn) find(key []byte) found {
	return found{key, bytes.Clone(t.get(tEnvelope, key)), bytes.Clone(t.get(tMessage, key[:idSize]))}
}

func (s *Store) openFound(f found) (store.Envelope, error) {
	v, err := s.openRow(f.key, f.row)
	if err != nil {
		return v, err
	}
	plain, err := s.o.Sealer.Open(aad(tMessage, f.key[:idSize]), f.message)
	if err != nil {
		return v, err
	}
	m, key, err := decodeMessage(v.ID.Message(), plain)
	clear(key)
	v.Message = m
	return v, err
}

// envelopes opens the envelopes of a batch.
func (s *Store) envelopes(keys [][]byte) ([]store.Envelope, error) {
	rows := make([]found, len(keys))
	err := s.view(func(t *txn) error {
		for i, k := range keys {
			rows[i] = t.find(k)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.openAll(rows)
}

// openAll opens rows. One whose key was destroyed is left out, for it is to be
// as if it were not there; if all were, that is the error.
func (s *Store) openAll(rows []found) (all []store.Envelope, err error) {
	for _, f := range rows {
		v, e := s.openFound(f)
		if errors.Is(e, store.ErrShredded) {
			err = e
			continue
		}
		if e != nil {
			return nil, known(fmt.Errorf("envelope %s: %w", envelopeID(f.key), e))
		}
		all = append(all, v)
	}
	if len(all) > 0 {
		err = nil
	}
	return all, err
}

// Envelope implements [store.Store].
func (s *Store) Envelope(ctx context.Context, id store.EnvelopeID) (v store.Envelope, err error) {
	if err := s.admit(ctx, false); err != nil {
		return v, err
	}
	key, ok := envelopeKey(id)
	if !ok {
		return v, store.ErrNotFound
	}
	var f found
	err = s.view(func(t *txn) error {
		f = t.find(key)
		return nil
	})
	if err != nil {
		return v, err
	}
	if f.row == nil {
		return v, store.ErrNotFound
	}
	v, err = s.openFound(f)
	return v, known(err)
}

// sieve compares the clear part of a row with a query, so that only what is
// likely selected is opened.
type sieve struct {
	state                                byte
	dest                                 digest
	byDest                               bool
	sender, campaign, recipient, code    short
	bySender, byCampaign, byRcpt, byCode bool
	expires                              uint64
}

func (s *Store) sieve(q *store.Query) sieve {
	f := sieve{
		byDest: q.Dest != "", bySender: q.Sender != "", byCampaign: q.Campaign != "",
		byRcpt: q.Recipient != "", byCode: q.Code != "", expires: nanos(q.ExpiresBy),
		sender: s.short("sender", q.Sender), campaign: s.short("campaign", q.Campaign),
		recipient: s.short("recipient", policy.Address(q.Recipient).Key()), code: s.short("code", string(q.Code)),
	}
	if q.State != "" {
		f.state = stateByte(q.State)
	}
	if f.byDest {
		f.dest = s.index("dest", q.Dest)
	}
	return f
}

func (f *sieve) passes(d *duty) bool {
	return (f.state == 0 || d.state == f.state) &&
		(!f.byDest || d.dest == f.dest) &&
		(!f.bySender || d.sender == f.sender) &&
		(!f.byCampaign || d.campaign == f.campaign) &&
		(!f.byRcpt || d.recipient == f.recipient) &&
		(!f.byCode || d.code == f.code) &&
		(f.expires == 0 || d.expires <= f.expires)
}

// Envelopes implements [store.Store]. It walks the rows in short transactions
// and opens only those whose clear part fits.
func (s *Store) Envelopes(ctx context.Context, q store.Query) (page []store.Envelope, err error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, err
	}
	limit, f := limitOf(q.Limit), s.sieve(&q)
	table, prefix := tEnvelope, []byte(q.Message)
	if q.State == store.Held && q.Message == "" {
		table = tHeld
	}
	from, ok := envelopeKey(q.After)
	if ok {
		from = append(from, 0) // right behind it
	}
	for {
		rows, next, err := s.sift(ctx, table, prefix, from, &f, limit-len(page))
		if err != nil {
			return nil, err
		}
		opened, err := s.openAll(rows)
		if err != nil && !errors.Is(err, store.ErrShredded) {
			return nil, err
		}
		page = append(page, slices.DeleteFunc(opened, func(v store.Envelope) bool { return !q.Match(v) })...)
		if next == nil || len(page) >= limit {
			return page, nil
		}
		from = next
	}
}

// sift looks at scanRows rows from a key on and gives up to n that fit, and where
// to go on, nil at the end.
func (s *Store) sift(ctx context.Context, tb table, prefix, from []byte, f *sieve, n int) (rows []found, next []byte, err error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, nil, err
	}
	err = s.view(func(t *txn) error {
		looked := 0
		t.each(tb, prefix, from, func(k, v []byte) bool {
			if looked == scanRows || len(rows) == n {
				next = bytes.Clone(k)
				return false
			}
			looked++
			if tb != tEnvelope {
				v = t.get(tEnvelope, k)
			}
			if d, _, err := readDuty(v); err == nil && f.passes(&d) {
				rows = append(rows, t.find(bytes.Clone(k)))
			}
			return true
		})
		return nil
	})
	return rows, next, err
}

// Body implements [store.Store].
func (s *Store) Body(ctx context.Context, id store.ID) ([]byte, error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, err
	}
	_, key, err := s.message(id)
	if err != nil {
		return nil, known(err)
	}
	return s.bodyOf(id, key)
}

// bodyOf reads, opens and expands a body.
func (s *Store) bodyOf(id store.ID, key []byte) ([]byte, error) {
	var row []byte
	err := s.view(func(t *txn) error {
		row = bytes.Clone(t.get(tBody, []byte(id)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.used(len(row))
	sealed, err := s.sealedBody(id, row)
	if err != nil {
		return nil, known(err)
	}
	body, err := s.openBody(id, key, sealed)
	return body, known(err)
}

// Stats implements [store.Store].
func (s *Store) Stats(ctx context.Context) (st store.Stats, err error) {
	if err := s.admit(ctx, false); err != nil {
		return st, err
	}
	if err := s.expire(); err != nil {
		return st, err
	}
	var oldest store.ID
	err = s.view(func(t *txn) error {
		c := t.tally()
		st.Ready, st.Leased, st.Held, st.Pickups = int(c.ready), int(c.leased), int(c.held), int(c.pickups)
		st.Leaves = int64(t.after(tLeaf))
		t.each(tEnvelope, nil, nil, func(k, v []byte) bool {
			if d, _, err := readDuty(v); err != nil || d.state == held {
				return true
			}
			oldest = store.ID(k[:idSize])
			return false
		})
		return nil
	})
	if err != nil || oldest == "" {
		return st, err
	}
	m, _, err := s.message(oldest)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrShredded) {
		return st, nil // left the queue meanwhile, or nobody can tell any more
	}
	st.Oldest = m.Accepted
	return st, known(err)
}

// Check implements [store.Store]: it writes and waits for the disk.
func (s *Store) Check(ctx context.Context) error {
	if err := s.admit(ctx, true); err != nil {
		return err
	}
	return s.write(0, func(t *txn) error {
		t.put(tMeta, []byte("checked"), be(nanos(t.now)))
		return nil
	})
}

// Records implements [store.Store].
func (s *Store) Records(ctx context.Context, kind, subject string) ([]store.Record, error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, err
	}
	if kind == "" || len(kind) > 255 {
		return nil, nil
	}
	rows, _, err := s.recordRows(s.subjectKey(kind, subject), nil, everything)
	if err != nil {
		return nil, err
	}
	records, err := s.openRecords(kind, rows)
	slices.SortFunc(records, func(a, b store.Record) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
	return records, err
}

// Scan implements [store.Store]. Its pages go by keyed hash; after is the key of
// the last row, in hex.
func (s *Store) Scan(ctx context.Context, kind, after string, limit int) (page []store.Record, next string, err error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, "", err
	}
	if kind == "" || len(kind) > 255 {
		return nil, "", nil
	}
	from, err := scanFrom(kind, after)
	if err != nil {
		return nil, "", err
	}
	rows, more, err := s.recordRows(kindKey(kind), from, limitOf(limit))
	if err != nil {
		return nil, "", err
	}
	if more {
		next = fmt.Sprintf("%x", rows[len(rows)-1].key[1+len(kind):])
	}
	page, err = s.openRecords(kind, rows)
	return page, next, err
}

func scanFrom(kind, after string) ([]byte, error) {
	if after == "" {
		return nil, nil
	}
	var at []byte
	if _, err := fmt.Sscanf(after, "%x", &at); err != nil {
		return nil, fmt.Errorf("%w: not the end of a page", store.ErrNotFound)
	}
	return join(kindKey(kind), at, []byte{0}), nil
}

func (s *Store) recordRows(prefix, from []byte, n int) (rows []recordRow, more bool, err error) {
	err = s.view(func(t *txn) error {
		t.each(tRecord, prefix, from, func(k, v []byte) bool {
			if more = len(rows) == n; more {
				return false
			}
			rows = append(rows, recordRow{bytes.Clone(k), bytes.Clone(v)})
			return true
		})
		return nil
	})
	return rows, more, err
}

func (s *Store) openRecords(kind string, rows []recordRow) ([]store.Record, error) {
	var records []store.Record
	for _, r := range rows {
		plain, err := s.o.Sealer.Open(aad(tRecord, r.key), r.value)
		if err != nil {
			return nil, known(fmt.Errorf("record of kind %s: %w", kind, err))
		}
		rec, err := decodeRecord(kind, plain)
		if err != nil {
			return nil, known(fmt.Errorf("record of kind %s: %w", kind, err))
		}
		records = append(records, rec)
	}
	return records, nil
}
