// Package registry knows who may send what to whom: senders' passwords, partners
// and their contracts (BAAs), consents, preferences and suppressions.
//
// [Registry.Describe] answers, for one partner and one recipient, in the words
// of package policy; its [Description] is a value that can be asked again for
// each class a message may turn out to have. [Registry.Import] and
// [Registry.Export] speak CSV; [Registry.Add], [Registry.RevokeConsents] and
// [Registry.LiftSuppressions] change single rows the same way.
//
// A book is the table of one kind of row: its columns, what makes a row bad,
// what makes it defective, and by what it is found. Rows are kept in versions
// and never overwritten: a changed row becomes a new version beside the old one.
//
// Whatever cannot be read ends in an error and in a zero Description, whose
// records are unavailable; an unreadable consent is never "none".
package registry

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

var (
	// ErrBadRows is returned by Import and Add when rows have mistakes, which
	// the report lists. Exit 1.
	ErrBadRows = errors.New("registry: rows with mistakes")
	// ErrUnreadable is returned when a file is no table of that kind at all:
	// not UTF-8, no header, wrong columns, broken quoting. Nothing was read.
	// Exit 2.
	ErrUnreadable = errors.New("registry: file cannot be read")
	// ErrStore is returned when the store could not be asked or written.
	// Nothing was changed. Exit 3.
	ErrStore = errors.New("registry: records not reachable")
	// ErrDamaged is returned when a stored row cannot be understood.
	ErrDamaged = errors.New("registry: damaged record")
	// ErrNotFound is returned when there is no such row.
	ErrNotFound = errors.New("registry: no such record")
	// ErrAddress is returned when a text is not an e-mail address.
	ErrAddress = errors.New("registry: not an e-mail address")
)

// Records is what the registry needs of the store.
type Records interface {
	Records(ctx context.Context, kind, subject string) ([]store.Record, error)
	Scan(ctx context.Context, kind, after string, limit int) (page []store.Record, next string, err error)
	Apply(context.Context, store.Effects) error
}

// Change is what the audit log is told of one changed row, or of a whole import
// or export, whose ID and Subject are "".
type Change struct {
	Time    time.Time
	Event   string   // imported, revoked, exported
	What    Kind     // consent, partner, suppression, credential
	ID      store.ID // of the row's version
	Subject string   // address, partner or sender, in clear: for the sealed part
	By      string   // who did it
	Reason  string   // why, if a person said so
	File    string   // SHA-256 of the file, in hex
	Counts  Counts   // of the whole file
}

// Counts says what became of the rows of a file.
type Counts struct {
	Rows      int `json:"rows"`
	Added     int `json:"added"`
	Changed   int `json:"changed"` // new versions beside older ones
	Unchanged int `json:"unchanged"`
	Defective int `json:"defective"` // of the good rows, those that lack a legal element
	Bad       int `json:"bad"`
}

// Kind names a kind of row.
type Kind string

const (
	Consents     Kind = "consent"
	Partners     Kind = "partner"
	Suppressions Kind = "suppression"

	credentials Kind = "credential"
	services    Kind = "service"   // index: which partners name a domain or host
	confirmed   Kind = "confirmed" // address that a finished pickup has proved
)

// Options are what a Registry works with. All are needed.
type Options struct {
	Store        Records
	Organization func() policy.Organization // the one now in force
	Leaf         func(Change) store.Leaf
	Now          func() time.Time
}

// Registry answers and changes what is known of senders, partners and
// recipients. Its methods may be called at once from many goroutines.
type Registry struct {
	opts Options
	ids  store.IDs

	decoded sync.Map   // partner → decodedContracts
	writing sync.Mutex // held from reading the versions to writing the next one
	proofs  proofs
	rounds  int // of PBKDF2, for new passwords
}

// New returns a registry over a store.
func New(o Options) *Registry { return &Registry{opts: o, proofs: newProofs(), rounds: rounds} }

// apply commits changes with their leaves.
func (r *Registry) apply(ctx context.Context, e store.Effects) error {
	if err := r.opts.Store.Apply(ctx, e); err != nil {
		return joinStore(err)
	}
	return nil
}

// joinStore wraps what the store said so that it reads as ErrStore.
func joinStore(err error) error { return errors.Join(ErrStore, err) }
