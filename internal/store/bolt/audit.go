package bolt

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/phigate/phigate/internal/store"
)

// tail is where the log and the tree go on.
type tail struct{ leaves, hashes uint64 }

func (t *txn) tail() *tail {
	if t.leaves == nil {
		t.leaves = &tail{t.after(tLeaf), t.after(tHash)}
	}
	return t.leaves
}

// after is the number behind the last key of a numbered table.
func (t *txn) after(tb table) uint64 {
	k, _ := t.bucket(tb).Cursor().Last()
	if k == nil {
		return 0
	}
	return binary.BigEndian.Uint64(k) + 1
}

// appendLeaves numbers the leaves and adds them and their tree hashes.
func (s *Store) appendLeaves(t *txn, leaves []leafRow) error {
	for _, l := range leaves {
		n := t.tail().leaves
		hashes, err := s.o.Hash(int64(n), l.record, t.treeHashes)
		if err != nil {
			return fmt.Errorf("hashing leaf %d: %w", n, err)
		}
		t.put(tLeaf, be(n), l.row)
		if l.clear != nil {
			t.put(tClear, be(n), l.clear)
		}
		if l.id != "" {
			t.put(tLeafOf, join([]byte(l.id), be(n)), nil)
		}
		for _, h := range hashes {
			t.put(tHash, be(t.tail().hashes), h[:])
			t.leaves.hashes++
		}
		t.leaves.leaves++
	}
	return nil
}

func (t *txn) treeHashes(at []int64) ([][32]byte, error) {
	out := make([][32]byte, len(at))
	for i, n := range at {
		v := t.get(tHash, be(uint64(n)))
		if len(v) != 32 {
			return nil, fmt.Errorf("%w: tree hash", store.ErrNotFound)
		}
		copy(out[i][:], v)
	}
	return out, nil
}

// TreeHashes implements [store.Store].
func (s *Store) TreeHashes(ctx context.Context, at []int64) (out [][32]byte, err error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, err
	}
	err = s.view(func(t *txn) error {
		out, err = t.treeHashes(at)
		return err
	})
	return out, err
}

// TreeSize implements [store.Store].
func (s *Store) TreeSize(ctx context.Context) (size int64, err error) {
	if err := s.admit(ctx, false); err != nil {
		return 0, err
	}
	err = s.view(func(t *txn) error {
		size = int64(t.after(tLeaf))
		return nil
	})
	return size, err
}

// stage is a leaf on its way out of a transaction.
type stage struct {
	n          int64
	row, clear []byte
}

func (t *txn) leaf(n uint64) (stage, bool) {
	row := t.get(tLeaf, be(n))
	if row == nil {
		return stage{}, false
	}
	return stage{int64(n), append([]byte(nil), row...), append([]byte(nil), t.get(tClear, be(n))...)}, true
}

// Leaves implements [store.Store].
func (s *Store) Leaves(ctx context.Context, from int64, n int) ([]store.Leaf, error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, err
	}
	var rows []stage
	err := s.view(func(t *txn) error {
		for i := max(from, 0); len(rows) < n; i++ {
			r, ok := t.leaf(uint64(i))
			if !ok {
				break
			}
			rows = append(rows, r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.openLeaves(rows)
}

// LeavesOf implements [store.Store].
func (s *Store) LeavesOf(ctx context.Context, id store.ID) ([]store.Leaf, error) {
	if err := s.admit(ctx, false); err != nil {
		return nil, err
	}
	if !id.Valid() {
		return nil, nil
	}
	var rows []stage
	err := s.view(func(t *txn) error {
		t.each(tLeafOf, []byte(id), nil, func(k, _ []byte) bool {
			if r, ok := t.leaf(binary.BigEndian.Uint64(k[idSize:])); ok {
				rows = append(rows, r)
			}
			return true
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.openLeaves(rows)
}

func (s *Store) openLeaves(rows []stage) ([]store.Leaf, error) {
	var leaves []store.Leaf
	for _, r := range rows {
		l, err := decodeLeaf(r.n, r.row)
		if err == nil && len(r.clear) > 0 {
			l.Sealed, err = s.o.Sealer.Open(aad(tClear, l.Record), r.clear)
		}
		if err != nil {
			return nil, known(fmt.Errorf("leaf %d: %w", r.n, err))
		}
		leaves = append(leaves, l)
	}
	return leaves, nil
}
