package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/store"
)

// ImportOptions say how to import.
type ImportOptions struct {
	Partial  bool                  // import the good rows of a file that has bad ones
	By       string                // who imports, for the audit log
	Reason   string                // why, if a person said so
	Progress func(done, total int) // called now and then; nil for none
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

// Import reads a CSV file of a kind. All rows go in, in one transaction with
// their audit leaves, or none; with Partial the good ones go in. Rows that are
// already there change nothing. The error is nil, ErrBadRows, ErrUnreadable or
// ErrStore; the report holds in every case what is known. file is the name that
// problems are reported under.
func (r *Registry) Import(ctx context.Context, what Kind, file string, src io.Reader, o ImportOptions) (Report, error) {
	data, err := io.ReadAll(src)
	if err != nil {
		return Report{File: file}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	switch what {
	case Consents:
		return importBook(ctx, r, &consents, file, data, o)
	case Partners:
		return importBook(ctx, r, &partners, file, data, o)
	case Suppressions:
		return importBook(ctx, r, &suppressions, file, data, o)
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

func importBook[T any](ctx context.Context, r *Registry, b *book[T], file string, data []byte, o ImportOptions) (Report, error) {
	sum := sha256.Sum256(data)
	now := r.opts.Now()
	s, err := b.parse(file, data, now)
	report := Report{File: file, SHA256: hex.EncodeToString(sum[:]), Problems: s.problems}
	if err != nil {
		return report, err
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	p := planned[T]{r: r, b: b, o: o, now: now, file: report.SHA256, seen: make(map[string]int, len(s.rows))}
	if err := p.plan(ctx, s); err != nil {
		return report, err
	}
	p.counts.Rows, p.counts.Bad = len(s.rows)+s.bad-p.refused, s.bad
	report.Counts, report.Warnings = p.counts, s.warnings
	report.Problems = s.problems
	slices.SortStableFunc(report.Problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	if s.bad > 0 && !o.Partial {
		return report, ErrBadRows
	}
	p.effects.Leaves = append(p.effects.Leaves, r.opts.Leaf(Change{
		Time: now, Event: "imported", What: b.kind, By: o.By, Reason: o.Reason, File: report.SHA256, Counts: p.counts,
	}))
	if err := r.apply(ctx, p.effects); err != nil {
		return report, err
	}
	report.Applied = true
	if s.bad > 0 {
		return report, ErrBadRows
	}
	return report, nil
}

// planned is what an import will do.
type planned[T any] struct {
	r    *Registry
	b    *book[T]
	o    ImportOptions
	now  time.Time
	file string

	seen    map[string]int // row key → its place in the sheet
	effects store.Effects
	counts  Counts
	refused int // rows of the sheet that turned out bad
}

// plan compares each row with what is stored.
func (p *planned[T]) plan(ctx context.Context, s *sheet[T]) error {
	const step = 10_000
	for i := range s.rows {
		if p.o.Progress != nil && i%step == 0 {
			p.o.Progress(i, len(s.rows))
		}
		if err := ctx.Err(); err != nil {
			return joinStore(err)
		}
		if err := p.planRow(ctx, s, i); err != nil {
			return err
		}
	}
	if p.o.Progress != nil {
		p.o.Progress(len(s.rows), len(s.rows))
	}
	return nil
}

func (p *planned[T]) planRow(ctx context.Context, s *sheet[T], i int) error {
	row := &s.rows[i]
	key := p.b.subject(&row.value) + "\n" + p.b.key(&row.value)
	if first, twice := p.seen[key]; twice {
		if p.b.same(&row.value, &s.rows[first].value) {
			p.counts.Unchanged++
			return nil
		}
		p.refuse(s, row.line, fault{"", fmt.Sprintf("the same row as line %d with other content, keep one", s.rows[first].line)})
		return nil
	}
	p.seen[key] = i
	old, err := p.b.find(ctx, p.r.opts.Store, &row.value)
	if err != nil {
		return err
	}
	if old != nil && p.b.same(&old.Row, &row.value) {
		p.counts.Unchanged++
		p.good(row)
		return nil
	}
	if old != nil {
		if faults := p.b.replaces(&old.Row, &row.value); len(faults) > 0 {
			p.refuse(s, row.line, faults...)
			return nil
		}
	}
	p.good(row)
	return p.write(old, row.value)
}

func (p *planned[T]) good(row *row[T]) {
	if row.defective {
		p.counts.Defective++
	}
}

func (p *planned[T]) refuse(s *sheet[T], line int, faults ...fault) {
	s.refuse(line, faults...)
	p.refused++
}

// write plans the version of a row that follows old, which is nil for a new row.
func (p *planned[T]) write(old *version[T], value T) error {
	n, event := 1, "imported"
	if old == nil {
		p.counts.Added++
	} else {
		p.counts.Changed++
		n = old.N + 1
	}
	if p.b.revoked(&value) && (old == nil || !p.b.revoked(&old.Row)) {
		event = "revoked"
	}
	v := version[T]{ID: p.r.ids.New(p.now), N: n, Recorded: p.now, By: p.o.By, Reason: p.o.Reason, Row: value}
	record, err := p.b.record(v)
	if err != nil {
		return err
	}
	p.effects.Records = append(p.effects.Records, record)
	if p.b.index != nil {
		p.effects.Records = append(p.effects.Records, p.b.index(&value)...)
	}
	p.effects.Leaves = append(p.effects.Leaves, p.r.opts.Leaf(Change{
		Time: p.now, Event: event, What: p.b.kind, ID: v.ID, Subject: record.Subject, By: p.o.By, Reason: p.o.Reason, File: p.file,
	}))
	return nil
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
		return cmp.Or(strings.Compare(b.subject(&x.Row), b.subject(&y.Row)), strings.Compare(b.key(&x.Row), b.key(&y.Row)))
	})
	leaf := r.opts.Leaf(Change{Time: r.opts.Now(), Event: "exported", What: b.kind, By: by, Counts: Counts{Rows: len(rows)}})
	if err := r.apply(ctx, store.Effects{Leaves: []store.Leaf{leaf}}); err != nil {
		return err
	}
	return b.write(w, rows)
}
