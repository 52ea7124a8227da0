package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

func (s *Store) openPickup(id store.ID, row []byte) (p store.Pickup, err error) {
	h, sealed, err := readPickupHead(row)
	if err != nil {
		return p, err
	}
	plain, err := s.o.Sealer.Open(aad(tPickup, []byte(id)), sealed)
	if err != nil {
		return p, err
	}
	p = store.Pickup{ID: id, Message: store.ID(h.message[:]), Expires: fromNanos(h.expires), Version: int64(h.version)}
	return p, decodePickup(plain, &p)
}

// Pickup implements [store.Store].
func (s *Store) Pickup(ctx context.Context, id store.ID) (p store.Pickup, err error) {
	if err := s.admit(ctx, false); err != nil {
		return p, err
	}
	row, err := s.pickupRowOf(id)
	if err != nil {
		return p, err
	}
	p, err = s.openPickup(id, row)
	return p, known(err)
}

func (s *Store) pickupRowOf(id store.ID) (row []byte, err error) {
	err = s.view(func(t *txn) error {
		if row = bytes.Clone(t.get(tPickup, []byte(id))); row == nil {
			return store.ErrNotFound
		}
		return nil
	})
	return row, err
}

// Pickups implements [store.Store]. It walks the rows in short transactions and
// opens only those whose clear part fits; one whose key was destroyed is left out.
func (s *Store) Pickups(ctx context.Context, q store.PickupQuery) (page []store.Pickup, err error) {
	limit, from := limitOf(q.Limit), append([]byte(q.After), 0)
	recipient := s.short("recipient", policy.Address(q.Recipient).Key())
	fits := func(h *pickupHead) bool {
		return (q.Recipient == "" || h.recipient == recipient) &&
			(q.Message == "" || string(h.message[:]) == string(q.Message)) &&
			(q.ExpiresBy.IsZero() || !h.over && h.expires <= nanos(q.ExpiresBy))
	}
	for {
		rows, next, err := s.siftPickups(ctx, from, fits, limit-len(page))
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			p, err := s.openPickup(store.ID(r.id), r.row)
			if err != nil && !errors.Is(err, store.ErrShredded) {
				return nil, known(fmt.Errorf("pickup %s: %w", r.id, err))
			}
			if err == nil && q.Match(p) {
				page = append(page, p)
			}
		}
		if next == nil || len(page) >= limit {
			return page, nil
		}
		from = next
	}
}

func (s *Store) siftPickups(ctx context.Context, from []byte, fits func(*pickupHead) bool, n int) (rows []pickupRows, next []byte, err error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, nil, err
	}
	err = s.view(func(t *txn) error {
		looked := 0
		t.each(tPickup, nil, from, func(k, v []byte) bool {
			if looked == scanRows || len(rows) == n {
				next = bytes.Clone(k)
				return false
			}
			looked++
			if h, _, err := readPickupHead(v); err == nil && fits(&h) {
				rows = append(rows, pickupRows{id: bytes.Clone(k), row: bytes.Clone(v)})
			}
			return true
		})
		return nil
	})
	return rows, next, err
}

// PutPickup implements [store.Store].
func (s *Store) PutPickup(ctx context.Context, p store.Pickup, e store.Effects) error {
	if err := s.admit(ctx, false); err != nil {
		return err
	}
	id, expected := []byte(p.ID), uint64(p.Version)
	p.Version++
	row, err := s.pickupRow(&p)
	if err != nil {
		return known(err)
	}
	var was pickupHead
	return s.effects(e,
		func(t *txn) (err error) {
			old := t.get(tPickup, id)
			if old == nil {
				return store.ErrNotFound
			}
			if was, _, err = readPickupHead(old); err != nil {
				return err
			}
			if was.version != expected || string(was.message[:]) != string(p.Message) || was.over && !p.State.Over() {
				return store.ErrConflict
			}
			return nil
		},
		func(t *txn) error {
			t.put(tPickup, id, row)
			if p.State.Over() && !was.over {
				t.del(tWrap, id)
				t.del(tHolder, join(was.message[:], id))
				t.tally().pickups--
				t.release(was.message[:])
			}
			return nil
		})
}

// unlock gives the body's key. Nothing can be told from its ErrNotFound: no such
// pickup, over, key destroyed, wrong secret or PIN.
func (s *Store) unlock(ctx context.Context, id store.ID, secret []byte, pin string) (message store.ID, key []byte, err error) {
	if err := s.admit(ctx, false); err != nil {
		return "", nil, err
	}
	var wrap []byte
	err = s.view(func(t *txn) error {
		wrap = bytes.Clone(t.get(tWrap, []byte(id)))
		h, _, err := readPickupHead(t.get(tPickup, []byte(id)))
		if wrap == nil || err != nil {
			return store.ErrNotFound
		}
		message = store.ID(h.message[:])
		return nil
	})
	if err != nil {
		return "", nil, err
	}
	if key, err = s.o.Sealer.UnwrapPickup(aad(tWrap, []byte(id)), secret, pin, wrap); err != nil {
		return "", nil, store.ErrNotFound
	}
	return message, key, nil
}

// PickupBody implements [store.Store].
func (s *Store) PickupBody(ctx context.Context, id store.ID, secret []byte, pin string) ([]byte, error) {
	message, key, err := s.unlock(ctx, id, secret, pin)
	if err != nil {
		return nil, err
	}
	return s.bodyOf(message, key)
}

// CheckPickup implements [store.Store].
func (s *Store) CheckPickup(ctx context.Context, id store.ID, secret []byte, pin string) (bool, error) {
	_, key, err := s.unlock(ctx, id, secret, pin)
	clear(key)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
