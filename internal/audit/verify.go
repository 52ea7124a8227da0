package audit

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/phigate/phigate/internal/store"
)

// Report says what Verify found.
type Report struct {
	Leaves      int64    `json:"leaves"`
	Root        string   `json:"root"`        // of the whole log, recomputed
	Opened      int64    `json:"opened"`      // leaves whose clear values match their commitments
	Redacted    int64    `json:"redacted"`    // leaves whose clear values were dropped
	Checkpoints int      `json:"checkpoints"` // that the log contains
	Problems    []string `json:"problems"`    // what is wrong, at most 100; empty is good
}

// OK reports whether nothing is wrong.
func (r Report) OK() bool { return len(r.Problems) == 0 }

const maxProblems = 100

func (r *Report) problem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Verify recomputes every leaf hash, every tree hash and the root; checks the
// clear values against their commitments; and compares the tree with the
// checkpoints in the folder and with those given, which may come from elsewhere.
// An error means that it could not look; what is wrong with the log is in the Report.
func (l *Log) Verify(ctx context.Context, checkpoints ...[]byte) (Report, error) {
	v := verifier{log: l, open: map[int64]tlog.Hash{}}
	trees, err := l.kept()
	if err != nil {
		v.problem("%v", err)
	}
	for i, c := range checkpoints {
		t, err := openCheckpoint(c, l.verifier)
		if err != nil {
			v.problem("checkpoint %d of those given: %v", i+1, err)
			continue
		}
		trees = append(trees, t)
	}
	v.trees = bySize(trees)
	size, err := l.o.Store.TreeSize(ctx)
	if err != nil {
		return v.Report, fmt.Errorf("audit: %w", err)
	}
	return v.Report, v.run(ctx, size)
}

func bySize(trees []tree) map[int64][]tree {
	m := map[int64][]tree{}
	for _, t := range trees {
		m[t.size] = append(m[t.size], t)
	}
	return m
}

// verifier recomputes the tree leaf by leaf. open holds the hashes that later
// ones are made of: about two for each level.
type verifier struct {
	Report
	log   *Log
	trees map[int64][]tree // checkpoints not yet reached
	open  map[int64]tlog.Hash
}

func (v *verifier) run(ctx context.Context, size int64) (err error) {
	v.reached()
	for v.Leaves < size {
		leaves, err := v.log.o.Store.Leaves(ctx, v.Leaves, int(min(page, size-v.Leaves)))
		if err != nil {
			return fmt.Errorf("audit: read: %w", err)
		}
		if len(leaves) == 0 {
			v.problem("leaf %d and later ones are missing: the tree has %d", v.Leaves, size)
			break
		}
		if err := v.page(ctx, leaves); err != nil {
			return err
		}
	}
	for n := range v.trees {
		v.problem("a checkpoint signed %d leaves, the log has %d", n, v.Leaves)
	}
	root, err := tlog.TreeHash(v.Leaves, v)
	v.Root = root.String()
	return err
}

func (v *verifier) page(ctx context.Context, leaves []store.Leaf) error {
	first := tlog.StoredHashCount(v.Leaves)
	at := make([]int64, tlog.StoredHashCount(v.Leaves+int64(len(leaves)))-first)
	for i := range at {
		at[i] = first + int64(i)
	}
	stored, err := v.log.o.Store.TreeHashes(ctx, at)
	if err == nil && len(stored) != len(at) {
		err = fmt.Errorf("%d hashes for %d", len(stored), len(at))
	}
	if err != nil {
		return fmt.Errorf("audit: read tree hashes: %w", err)
	}
	for _, leaf := range leaves {
		if leaf.N != v.Leaves {
			v.problem("leaf %d stands where leaf %d belongs", leaf.N, v.Leaves)
		}
		n := tlog.StoredHashIndex(0, v.Leaves) - first
		if err := v.leaf(leaf, stored[n:]); err != nil {
			return err
		}
	}
	return nil
}

// leaf adds one leaf; stored are the tree hashes from its own on.
func (v *verifier) leaf(leaf store.Leaf, stored [][32]byte) error {
	n := v.Leaves
	hashes, err := tlog.StoredHashes(n, leaf.Record, v)
	if err != nil {
		return fmt.Errorf("audit: tree: %w", err)
	}
	first := tlog.StoredHashIndex(0, n)
	for i, h := range hashes {
		v.open[first+int64(i)] = h
		switch {
		case h == stored[i]:
		case i == 0:
			v.problem("leaf %d was changed: it does not have the hash it was stored with", n)
		default:
			v.problem("tree hash %d was changed, or a leaf below it", first+int64(i))
		}
	}
	for i := range len(hashes) - 1 { // the halves of a whole subtree are not needed again
		delete(v.open, first+int64(i))
		delete(v.open, tlog.StoredHashIndex(i, n>>i-1))
	}
	v.values(leaf)
	v.Leaves++
	v.reached()
	return nil
}

// values checks what lies beside the leaf.
func (v *verifier) values(leaf store.Leaf) {
	r, clear, err := parse(leaf)
	switch {
	case err != nil:
		v.problem("leaf %d: %v", leaf.N, err)
		return
	case !r.Time.Equal(leaf.Time) || r.ID != leaf.ID || string(r.Event) != leaf.Event:
		v.problem("leaf %d is filed under another time, id or event", leaf.N)
	}
	if clear == nil {
		if len(r.Sealed) > 0 {
			v.Redacted++
		}
		return
	}
	v.Opened++
	for name, c := range r.Sealed {
		value, ok := clear.Values[name]
		if !ok || commit(clear.Salt, name, value) != c {
			v.problem("leaf %d: the sealed value of %q is not what was recorded", leaf.N, name)
		}
	}
	if len(clear.Values) != len(r.Sealed) {
		v.problem("leaf %d: %d sealed values, %d recorded", leaf.N, len(clear.Values), len(r.Sealed))
	}
}

// reached compares the tree with the checkpoints of its size.
func (v *verifier) reached() {
	trees, ok := v.trees[v.Leaves]
	if !ok {
		return
	}
	delete(v.trees, v.Leaves)
	root, err := tlog.TreeHash(v.Leaves, v)
	for _, t := range trees {
		if err != nil || t.root != root {
			v.problem("a checkpoint signed another root at %d leaves", v.Leaves)
			continue
		}
		v.Checkpoints++
	}
}

// ReadHashes gives tlog the recomputed hashes.
func (v *verifier) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, x := range at {
		h, ok := v.open[x]
		if !ok {
			return nil, fmt.Errorf("audit: tree hash %d is gone", x)
		}
		out[i] = h
	}
	return out, nil
}
