package audit

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/phigate/phigate/internal/store"
)

// ErrProof is returned when a proof does not prove what it says.
var ErrProof = errors.New("audit: the proof does not hold")

// Proof shows some leaves of the log to somebody who has only the public key of
// the log, better a checkpoint too that came another way.
type Proof struct {
	Checkpoint string      `json:"checkpoint"`
	Leaves     []LeafProof `json:"leaves"`
}

// LeafProof shows that one leaf is in the log, and what some of its commitments hide.
type LeafProof struct {
	N      int64            `json:"n"`
	Record string           `json:"record"` // exactly the bytes that were hashed
	Path   tlog.RecordProof `json:"path"`
	Opened []Opened         `json:"opened,omitempty"`
}

// Opened is the value of one commitment, and the salt that proves it.
type Opened struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Salt  []byte `json:"salt"`
}

// Prove writes down that r takes a proof along, and proves all leaves of an id.
// Values are opened only by name: "recipient", "who", "evidence.mx".
func (l *Log) Prove(ctx context.Context, r Reader, id store.ID, open ...string) (Proof, error) {
	if _, err := l.open(ctx, r, Event{ID: id, Kind: Exported, Codes: map[string]string{"format": "proof"}}); err != nil {
		return Proof{}, err
	}
	signed, err := l.Checkpoint(ctx)
	if err != nil {
		return Proof{}, err
	}
	t, err := openCheckpoint(signed, l.verifier)
	if err != nil {
		return Proof{}, err
	}
	leaves, err := l.o.Store.LeavesOf(ctx, id)
	if err != nil {
		return Proof{}, fmt.Errorf("audit: read: %w", err)
	}
	p := Proof{Checkpoint: string(signed)}
	for _, leaf := range leaves {
		if leaf.N >= t.size {
			continue
		}
		path, err := tlog.ProveRecord(t.size, leaf.N, l.hashes(ctx))
		if err != nil {
			return Proof{}, fmt.Errorf("audit: tree: %w", err)
		}
		p.Leaves = append(p.Leaves, LeafProof{N: leaf.N, Record: string(leaf.Record), Path: path, Opened: opened(leaf, open)})
	}
	return p, nil
}

func opened(leaf store.Leaf, names []string) (list []Opened) {
	_, v, err := parse(leaf)
	if err != nil || v == nil {
		return nil
	}
	for _, name := range names {
		if value, ok := v.Values[name]; ok {
			salt := fieldSalt(v.Salt, name)
			list = append(list, Opened{name, value, salt[:]})
		}
	}
	return list
}

// Verify checks the proof against the public key of the log, as VerifierKey gives it.
func (p Proof) Verify(verifierKey string) error {
	v, err := note.NewVerifier(verifierKey)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	t, err := openCheckpoint([]byte(p.Checkpoint), v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	for _, leaf := range p.Leaves {
		if err := tlog.CheckRecord(leaf.Path, t.size, t.root, leaf.N, tlog.RecordHash([]byte(leaf.Record))); err != nil {
			return fmt.Errorf("%w: leaf %d is not in the log", ErrProof, leaf.N)
		}
		var r record
		if err := json.Unmarshal([]byte(leaf.Record), &r); err != nil {
			return fmt.Errorf("%w: leaf %d: %w", ErrProof, leaf.N, errLeaf)
		}
		for _, o := range leaf.Opened {
			c, ok := r.Sealed[o.Name]
			if !ok || len(o.Salt) != sha256.Size || c != commitSalted([sha256.Size]byte(o.Salt), o.Value) {
				return fmt.Errorf("%w: leaf %d does not hold that %s", ErrProof, leaf.N, o.Name)
			}
		}
	}
	return nil
}
