package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/store"
)

// ImportOptions say how to import.
type ImportOptions struct {
	Partial  bool           // import the good rows of a file that has bad ones
	By       string         // who imports, for the audit log
	Reason   string         // why, if a person said so
	Progress func(rows int) // told now and then how many are done; nil for none
}

// Report says what became of a file.
type Report struct {
	File     string    `json:"file"`
	SHA256   string    `json:"sha256"`
	Applied  bool      `json:"applied"`  // the good rows are in the store
	Counts   Counts    `json:"counts"`   // Added and Changed are what would have been, if not applied
	Problems []Problem `json:"problems"` // all mistakes, in the order of the file
	Warnings []Problem `json:"warnings"` // missing legal elements
}

// Import reads a CSV file of a kind, or FHIR R4 consents. All rows go in, in one transaction with
// their audit leaves, or none; with Partial the good ones go in. Rows that are
// already there change nothing. The error is nil, ErrBadRows, ErrUnreadable or
// ErrStore; the report holds in every case what is known. file is the name that
// problems are reported under.
func (r *Registry) Import(ctx context.Context, what Kind, file string, src io.Reader, o ImportOptions) (Report, error) {
	data, err := io.ReadAll(src)
	if err != nil {
		return Report{File: file}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	switch {
	case what == Consents && isJSON(data):
		return importBook(ctx, r, &consents, parseFHIR, file, data, o)
	case what == Consents:
		return importBook(ctx, r, &consents, consents.parse, file, data, o)
	case what == Partners:
		return importBook(ctx, r, &partners, partners.parse, file, data, o)
	case what == Suppressions:
		return importBook(ctx, r, &suppressions, suppressions.parse, file, data, o)
	}
	return Report{File: file}, fmt.Errorf("%w: no such kind of rows", ErrUnreadable)
}

// Add imports one row given as cells by column name, as a person at the command
// line or the console gives it. Problems are reported under the name
// "arguments", line 2.
func (r *Registry) Add(ctx context.Context, what Kind, cells map[string]string, o ImportOptions) (Report, error) {
	names := make([]string, 0, len(cells))
	for name := range cells {
		names = append(names, name)
	}
	slices.Sort(names)
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = guard(cells[name])
	}
	var file bytes.Buffer
	w := csv.NewWriter(&file)
	w.WriteAll([][]string{names, values}) // a bytes.Buffer takes all
	return r.Import(ctx, what, "arguments", &file, o)
}

// parser hands over the rows of a file, as book.parse does.
type parser[T any] func(file string, data []byte, now time.Time, take func(line int, row *T, faults []fault) error) ([]Problem, error)

func importBook[T any](ctx context.Context, r *Registry, b *book[T], parse parser[T], file string, data []byte, o ImportOptions) (Report, error) {
	sum := sha256.Sum256(data)
	r.writing.Lock()
	defer r.writing.Unlock()
	p := r.plan(o)
	p.file = hex.EncodeToString(sum[:])
	empty := Report{File: file, SHA256: p.file, Problems: []Problem{}, Warnings: []Problem{}} // no null in its JSON
	i := importer[T]{planned: p, b: b, report: empty, seen: map[fingerprint]place{}}
	problems, err := parse(file, data, p.now, func(line int, row *T, faults []fault) error { return i.take(ctx, line, row, faults) })
	if errors.Is(err, ErrUnreadable) {
		empty.Problems = problems
		return empty, err
	}
	if err != nil {
		return i.report, err
	}
	return i.commit(ctx)
}

// importer works through the rows of a file.
type importer[T any] struct {
	*planned
	b      *book[T]
	report Report
	seen   map[fingerprint]place // by the key of the row
}

// fingerprint stands for a key or a content where many are remembered.
type fingerprint [16]byte

func fingerprintOf(text string) fingerprint {
	sum := sha256.Sum256([]byte(text))
	return fingerprint(sum[:])
}

// place is where a row stands in the file, and what it holds.
type place struct {
	line    int
	content fingerprint
}

// take plans what one row changes, or lists its mistakes.
func (i *importer[T]) take(ctx context.Context, line int, row *T, faults []fault) error {
	const step = 10_000
	if i.report.Counts.Rows++; i.report.Counts.Rows%step == 0 && i.o.Progress != nil {
		i.o.Progress(i.report.Counts.Rows)
	}
	if err := ctx.Err(); err != nil {
		return joinStore(err)
	}
	if len(faults) > 0 {
		i.refuse(line, faults...)
		return nil
	}
	key := fingerprintOf(i.b.subject(row) + "\n" + i.b.key(row))
	here := place{line, fingerprintOf(strings.Join(i.b.cells(row), "\x00"))}
	first, twice := i.seen[key]
	if twice && first.content != here.content {
		i.refuse(line, fault{"", fmt.Sprintf("the same row as line %d with other content, keep one", first.line)})
		return nil
	}
	if twice {
		i.report.Counts.Unchanged++
		return nil
	}
	i.seen[key] = here
	return i.compare(ctx, line, row)
}

// compare plans a row against what is stored of it.
func (i *importer[T]) compare(ctx context.Context, line int, row *T) error {
	old, err := i.b.find(ctx, i.r.opts.Store, row)
	if err != nil {
		return err
	}
	if old != nil && i.b.same(&old.Row, row) {
		i.report.Counts.Unchanged++
		i.warn(line, row)
		return nil
	}
	if old != nil {
		if faults := i.b.replaces(&old.Row, row); len(faults) > 0 {
			i.refuse(line, faults...)
			return nil
		}
		i.report.Counts.Changed++
	} else {
		i.report.Counts.Added++
	}
	i.warn(line, row)
	return write(i.planned, i.b, old, *row)
}

func (i *importer[T]) refuse(line int, faults ...fault) {
	i.report.Counts.Bad++
	for _, f := range faults {
		i.report.Problems = append(i.report.Problems, Problem{i.report.File, line, f.column, f.what})
	}
}

// warn lists the legal elements that a good row lacks.
func (i *importer[T]) warn(line int, row *T) {
	defects := i.b.defects(row)
	if len(defects) > 0 {
		i.report.Counts.Defective++
	}
	for _, d := range defects {
		i.report.Warnings = append(i.report.Warnings, Problem{i.report.File, line, d.column, d.what})
	}
}

// commit writes what was planned, unless there are bad rows and no leave to
// pass them over.
func (i *importer[T]) commit(ctx context.Context) (Report, error) {
	bad := i.report.Counts.Bad > 0
	if bad && !i.o.Partial {
		return i.report, ErrBadRows
	}
	i.leaf(Change{Event: "imported", What: i.b.kind, Counts: i.report.Counts})
	if err := i.r.apply(ctx, i.effects); err != nil {
		return i.report, err
	}
	i.report.Applied = true
	if bad {
		return i.report, ErrBadRows
	}
	return i.report, nil
}

// find returns the newest version of the stored row with the key of value, nil
// if there is none.
func (b *book[T]) find(ctx context.Context, s Records, value *T) (*version[T], error) {
	stored, err := b.read(ctx, s, b.subject(value))
	if err != nil {
		return nil, err
	}
	key := b.key(value)
	for i := range stored {
		if b.key(&stored[i].Row) == key {
			return &stored[i], nil
		}
	}
	return nil, nil
}

// Export writes the newest version of every row of a kind as a CSV file that
// Import reads back, sorted, so that two exports can be compared. The export is
// on record before the first byte is written.
func (r *Registry) Export(ctx context.Context, what Kind, w io.Writer, by string) error {
	switch what {
	case Consents:
		return exportBook(ctx, r, &consents, w, by)
	case Partners:
		return exportBook(ctx, r, &partners, w, by)
	case Suppressions:
		return exportBook(ctx, r, &suppressions, w, by)
	}
	return fmt.Errorf("%w: no such kind of rows", ErrNotFound)
}

func exportBook[T any](ctx context.Context, r *Registry, b *book[T], w io.Writer, by string) error {
	rows, err := b.all(ctx, r.opts.Store)
	if err != nil {
		return err
	}
	rows = slices.DeleteFunc(rows, func(v version[T]) bool { return b.lifted != nil && b.lifted(&v.Row) })
	slices.SortFunc(rows, func(x, y version[T]) int {
		return cmp.Or(cmp.Compare(b.subject(&x.Row), b.subject(&y.Row)), cmp.Compare(b.key(&x.Row), b.key(&y.Row)))
	})
	leaf := r.opts.Leaf(Change{Time: r.opts.Now(), Event: "exported", What: b.kind, By: by, Counts: Counts{Rows: len(rows)}})
	if err := r.apply(ctx, store.Effects{Leaves: []store.Leaf{leaf}}); err != nil {
		return err
	}
	return b.write(w, rows)
}
