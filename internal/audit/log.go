// Package audit is the record of what happened: a Merkle log that an outsider
// can check.
//
// An [Event] becomes a leaf ([Log.Leaf]) that the caller hands to the store with
// the effect it tells of, so that both commit or neither. The store keeps the
// tree hashes, which [Hash] computes (RFC 6962 §2.1). [Log.Run] signs the tree
// each minute ([Log.Checkpoint]); [Log.Verify] recomputes all of it and compares
// it with every checkpoint that is left; [Log.Prove] shows one leaf to somebody
// who has nothing but a checkpoint.
//
// A leaf holds codes, ids and salted commitments. The clear values lie sealed
// beside it and may be dropped: the tree still verifies.
//
// Reading the log is itself an event (45 CFR 164.312(b)): [Log.List] and
// [Log.Export] write it before they read.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// ErrNoReader is returned when a reading names nobody.
var ErrNoReader = errors.New("audit: say who reads the log")

// Store is what the log needs of the storage contract.
type Store interface {
	Apply(context.Context, store.Effects) error
	Leaves(ctx context.Context, from int64, n int) ([]store.Leaf, error)
	LeavesOf(context.Context, store.ID) ([]store.Leaf, error)
	TreeSize(context.Context) (int64, error)
	TreeHashes(ctx context.Context, indexes []int64) ([][32]byte, error)
}

// Sealer is what the log needs of the key ring.
type Sealer interface {
	SealRecord(aad, plain []byte) ([]byte, error)
	Open(aad, sealed []byte) ([]byte, error)
	Index(space, value string) [16]byte
}

// Options of a log; all but Build and Log are needed.
type Options struct {
	Store  Store
	Sealer Sealer
	Dir    string // folder of checkpoints and of the sealed signing key
	Origin string // names the log in its checkpoints: the gateway's hostname
	Build  string // version of the program, told in every leaf
	Clock  func() time.Time
	Log    *slog.Logger
}

// Log is the audit log of one gateway, safe for concurrent use.
type Log struct {
	o        Options
	signer   note.Signer
	verifier note.Verifier
	vkey     string
}

// Open reads the signing key in o.Dir, or makes one.
func Open(o Options) (*Log, error) {
	if o.Store == nil || o.Sealer == nil || o.Clock == nil || o.Dir == "" || o.Origin == "" {
		return nil, errors.New("audit: store, sealer, clock, folder and origin are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{o: o}
	if err := l.loadKey(); err != nil {
		return nil, err
	}
	return l, nil
}

// Leaf makes the leaf of an event. Hand it to the store with the effect it tells
// of. A zero Time is now.
func (l *Log) Leaf(e Event) store.Leaf {
	if e.Time.IsZero() {
		e.Time = l.o.Clock()
	}
	return e.leaf(l.o.Build)
}

// Append records events that change nothing else.
func (l *Log) Append(ctx context.Context, events ...Event) error {
	var fx store.Effects
	for _, e := range events {
		fx.Leaves = append(fx.Leaves, l.Leaf(e))
	}
	if err := l.o.Store.Apply(ctx, fx); err != nil {
		return fmt.Errorf("audit: append: %w", err)
	}
	return nil
}

// Hash computes the tree hashes that the n-th leaf adds; it is the store's Hasher.
func Hash(n int64, record []byte, read func([]int64) ([][32]byte, error)) ([][32]byte, error) {
	hashes, err := tlog.StoredHashes(n, record, reader(read))
	if err != nil {
		return nil, fmt.Errorf("audit: tree: %w", err)
	}
	out := make([][32]byte, len(hashes))
	for i, h := range hashes {
		out[i] = h
	}
	return out, nil
}

// reader lets tlog read stored hashes.
type reader func([]int64) ([][32]byte, error)

func (r reader) ReadHashes(at []int64) ([]tlog.Hash, error) {
	if len(at) == 0 {
		return nil, nil
	}
	hashes, err := r(at)
	if err != nil {
		return nil, err
	}
	out := make([]tlog.Hash, len(hashes))
	for i, h := range hashes {
		out[i] = h
	}
	return out, nil
}

func (l *Log) hashes(ctx context.Context) reader {
	return func(at []int64) ([][32]byte, error) { return l.o.Store.TreeHashes(ctx, at) }
}

// Reader is who reads the log, for the record of the reading.
type Reader struct{ Who, Reason string }

// Filter selects entries; zero fields select all. Times are [From, To).
type Filter struct {
	From, To  time.Time
	ID        store.ID
	Kinds     []Kind
	Code      policy.Code
	Recipient policy.Address
	Sender    string
	Campaign  string
	Newest    bool // newest first
	Before    int64
	Limit     int // entries at most; 0 = all
}

// codes tells of the filter in the log, without its addresses and free text.
func (f Filter) codes() map[string]string {
	m := map[string]string{}
	put := func(k, v string) {
		if v != "" {
			m[k] = v
		}
	}
	if !f.From.IsZero() {
		put("from", f.From.UTC().Format(time.RFC3339))
	}
	if !f.To.IsZero() {
		put("to", f.To.UTC().Format(time.RFC3339))
	}
	put("id", string(f.ID))
	put("code", string(f.Code))
	put("sender", f.Sender)
	for i, k := range f.Kinds {
		put(fmt.Sprintf("event%d", i), string(k))
	}
	return m
}

func (f Filter) evidence() map[string]string {
	return map[string]string{"by_recipient": f.Recipient.Clear(), "by_campaign": f.Campaign}
}

func (f Filter) inTime(t time.Time) bool {
	return (f.From.IsZero() || !t.Before(f.From)) && (f.To.IsZero() || t.Before(f.To))
}

func (f Filter) matches(e Event) bool {
	return f.inTime(e.Time) &&
		(f.ID == "" || e.ID == f.ID) &&
		(len(f.Kinds) == 0 || slices.Contains(f.Kinds, e.Kind)) &&
		(f.Code == "" || e.Code == f.Code) &&
		(f.Recipient == "" || e.Recipient.Key() == f.Recipient.Key()) &&
		(f.Sender == "" || e.Sender == f.Sender) &&
		(f.Campaign == "" || e.Campaign == f.Campaign)
}

// Entry is an event as the log holds it.
type Entry struct {
	N int64 // number of its leaf
	Event
	Redacted bool // its clear values were dropped
	hash     tlog.Hash
}

// MarshalJSON writes the row of `gateway audit list --json`.
func (e Entry) MarshalJSON() ([]byte, error) {
	detail := map[string]string{}
	for _, m := range []map[string]string{e.Codes, e.Evidence} {
		for k, v := range m {
			detail[k] = v
		}
	}
	var facts json.RawMessage
	if e.Facts != nil {
		facts = e.Facts.Line()
	}
	return json.Marshal(struct {
		N         int64             `json:"n"`
		Time      time.Time         `json:"time"`
		ID        store.ID          `json:"id"`
		Envelope  store.EnvelopeID  `json:"envelope,omitempty"`
		Event     Kind              `json:"event"`
		Code      policy.Code       `json:"code"`
		Recipient string            `json:"recipient"`
		Sender    string            `json:"sender,omitempty"`
		Return    string            `json:"return,omitempty"`
		Partner   string            `json:"partner,omitempty"`
		Campaign  string            `json:"campaign,omitempty"`
		Rule      string            `json:"rule,omitempty"`
		Policy    string            `json:"policy,omitempty"`
		Facts     json.RawMessage   `json:"facts,omitempty"`
		Who       string            `json:"who,omitempty"`
		Second    string            `json:"second,omitempty"`
		Reason    string            `json:"reason,omitempty"`
		Detail    map[string]string `json:"detail,omitempty"`
		Redacted  bool              `json:"redacted,omitempty"`
		Hash      string            `json:"hash"`
	}{
		e.N, e.Time, e.ID, e.Envelope, e.Kind, e.Code, e.Recipient.Clear(), e.Sender, e.Return.Clear(), e.Partner,
		e.Campaign, e.Rule, e.Policy, facts, e.Who, e.Second, e.Reason, detail, e.Redacted, e.hash.String(),
	})
}

const page = 500 // leaves read at once

// List writes down that r reads the log, then yields the entries that f selects.
// An error ends the list.
func (l *Log) List(ctx context.Context, r Reader, f Filter) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		size, err := l.open(ctx, r, Event{Kind: Read, Codes: f.codes(), Evidence: f.evidence()})
		if err != nil {
			yield(Entry{}, err)
			return
		}
		l.scan(ctx, size, f, yield)
	}
}

// Of returns what is on record about one id, oldest first, for the gateway's own
// use: nobody reads it, so no reading is recorded.
func (l *Log) Of(ctx context.Context, id store.ID) ([]Entry, error) {
	leaves, err := l.o.Store.LeavesOf(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	out := make([]Entry, len(leaves))
	for i, leaf := range inOrder(leaves, Filter{}) {
		if out[i], err = entry(leaf); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// open records a reading and returns the size of the log before it.
func (l *Log) open(ctx context.Context, r Reader, e Event) (int64, error) {
	if r.Who == "" {
		return 0, ErrNoReader
	}
	size, err := l.o.Store.TreeSize(ctx)
	if err != nil {
		return 0, fmt.Errorf("audit: %w", err)
	}
	e.Who, e.Reason = r.Who, r.Reason
	return size, l.Append(ctx, e)
}

// scan yields the entries below size that f selects.
func (l *Log) scan(ctx context.Context, size int64, f Filter, yield func(Entry, error) bool) {
	if f.Before > 0 {
		size = min(size, f.Before)
	}
	found := 0
	for leaves, err := range l.pages(ctx, size, f) {
		if err != nil {
			yield(Entry{}, err)
			return
		}
		for _, leaf := range leaves {
			if leaf.N >= size || !f.inTime(leaf.Time) {
				continue
			}
			e, err := entry(leaf)
			if err == nil && !f.matches(e.Event) {
				continue
			}
			found++
			if !yield(e, err) || err != nil || found == f.Limit {
				return
			}
		}
	}
}

// pages reads the leaves below size in the order the filter asks for.
func (l *Log) pages(ctx context.Context, size int64, f Filter) iter.Seq2[[]store.Leaf, error] {
	return func(yield func([]store.Leaf, error) bool) {
		if f.ID != "" {
			leaves, err := l.o.Store.LeavesOf(ctx, f.ID)
			yield(inOrder(leaves, f), wrap(err))
			return
		}
		for done := int64(0); done < size; done += page {
			n := min(page, size-done)
			from := done
			if f.Newest {
				from = size - done - n
			}
			leaves, err := l.o.Store.Leaves(ctx, from, int(n))
			if !yield(inOrder(leaves, f), wrap(err)) || err != nil {
				return
			}
		}
	}
}

func inOrder(leaves []store.Leaf, f Filter) []store.Leaf {
	if f.Newest {
		slices.Reverse(leaves)
	}
	return leaves
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("audit: read: %w", err)
}

func entry(leaf store.Leaf) (Entry, error) {
	r, v, err := parse(leaf)
	if err != nil {
		return Entry{}, fmt.Errorf("leaf %d: %w", leaf.N, err)
	}
	return Entry{
		N: leaf.N, Event: r.event(v), hash: tlog.RecordHash(leaf.Record),
		Redacted: v == nil && len(r.Sealed) > 0,
	}, nil
}
