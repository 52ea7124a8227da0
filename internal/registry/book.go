package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// book is the table of one kind of row.
type book[T any] struct {
	kind    Kind
	columns []column[T]

	// check returns the mistakes between the cells of a row whose cells are
	// good one by one.
	check func(row *T) []fault
	// defects returns the legal elements that a good row lacks.
	defects func(row *T) []fault
	// replaces returns the mistakes in writing row as the version after old.
	replaces func(old, row *T) []fault

	subject func(*T) string // what the row is looked up by
	key     func(*T) string // what makes it the same row
	revoked func(*T) bool
	lifted  func(*T) bool           // nil if rows of this kind cannot be taken back
	index   func(*T) []store.Record // further records to find the row by; nil for none
}

// fault is one mistake in one column of a row. What says the fix, and never
// what the cell holds.
type fault struct{ column, what string }

// version is a row as it is stored.
type version[T any] struct {
	ID       store.ID  `json:"id"`
	N        int       `json:"n"` // 1 is the first
	Recorded time.Time `json:"recorded"`
	By       string    `json:"by"`
	Reason   string    `json:"reason,omitempty"`
	Row      T         `json:"row"`
}

// record returns v as the store keeps it.
func (b *book[T]) record(v version[T]) (store.Record, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return store.Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	key := b.key(&v.Row) + "\n" + strconv.Itoa(v.N)
	return store.Record{Kind: string(b.kind), Subject: b.subject(&v.Row), Key: key, Value: value}, nil
}

// read returns the newest version of each row of a subject, in the order in
// which they were first recorded.
func (b *book[T]) read(ctx context.Context, s Records, subject string) ([]version[T], error) {
	records, err := s.Records(ctx, string(b.kind), subject)
	if err != nil {
		return nil, joinStore(err)
	}
	return b.newest(records)
}

// newest decodes records and keeps of each row the newest version.
func (b *book[T]) newest(records []store.Record) ([]version[T], error) {
	if len(records) == 0 {
		return nil, nil
	}
	at := make(map[string]int, len(records))
	var out []version[T]
	for _, record := range records {
		var v version[T]
		if err := json.Unmarshal(record.Value, &v); err != nil || v.N < 1 {
			// The cause may quote the value, so it is not passed on.
			return nil, fmt.Errorf("%w: %s", ErrDamaged, b.kind)
		}
		key := b.subject(&v.Row) + "\n" + b.key(&v.Row)
		i, seen := at[key]
		switch {
		case !seen:
			at[key] = len(out)
			out = append(out, v)
		case v.N > out[i].N:
			out[i] = v
		}
	}
	slices.SortStableFunc(out, func(a, b version[T]) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out, nil
}

// all returns the newest version of each row there is.
func (b *book[T]) all(ctx context.Context, s Records) ([]version[T], error) {
	const pageSize = 1000
	var records []store.Record
	for after := ""; ; {
		page, next, err := s.Scan(ctx, string(b.kind), after, pageSize)
		if err != nil {
			return nil, joinStore(err)
		}
		records = append(records, page...)
		if next == "" {
			return b.newest(records)
		}
		after = next
	}
}

// cells returns a row as its cells, in the order of the columns.
func (b *book[T]) cells(row *T) []string {
	cells := make([]string, len(b.columns))
	for i, c := range b.columns {
		cells[i] = c.get(row)
	}
	return cells
}

// same reports whether two rows have equal content.
func (b *book[T]) same(x, y *T) bool {
	for _, c := range b.columns {
		if c.get(x) != c.get(y) {
			return false
		}
	}
	return true
}

func (b *book[T]) column(name string) int {
	return slices.IndexFunc(b.columns, func(c column[T]) bool { return c.name == name })
}

// mailbox is what consents and suppressions of an address are found by: one
// spelling of the domain, no case. The error is ErrAddress.
func mailbox(a policy.Address) (string, error) {
	parsed, err := mail.ParseAddress(strings.TrimSpace(a.Clear()))
	if err != nil {
		return "", ErrAddress
	}
	return parsed.Key(), nil
}
