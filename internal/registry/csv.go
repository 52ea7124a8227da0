package registry

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Problem is one mistake in a file. It never holds what a cell holds.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column string `json:"column,omitempty"` // name of the column, "" for the row or the file
	What   string `json:"what"`             // and how to mend it
}

func (p Problem) String() string {
	if p.Column == "" {
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.What)
	}
	return fmt.Sprintf("%s:%d: %s: %s", p.File, p.Line, p.Column, p.What)
}

// row is one good row of a file.
type row[T any] struct {
	line      int
	value     T
	defective bool
}

// sheet is what a file holds.
type sheet[T any] struct {
	file     string
	rows     []row[T]
	bad      int       // rows that are not in rows
	problems []Problem // why
	warnings []Problem
}

func (s *sheet[T]) refuse(line int, faults ...fault) {
	s.bad++
	for _, f := range faults {
		s.problems = append(s.problems, Problem{s.file, line, f.column, f.what})
	}
}

// unreadable returns problems that make the whole file unreadable.
func unreadable[T any](file string, line int, what ...string) (*sheet[T], error) {
	s := &sheet[T]{file: file}
	for _, w := range what {
		s.problems = append(s.problems, Problem{File: file, Line: line, What: w})
	}
	return s, ErrUnreadable
}

// parse reads a CSV file (RFC 4180, UTF-8, a header row). Rows with mistakes
// are counted and listed; the error is ErrUnreadable, with nothing read.
func (b *book[T]) parse(file string, data []byte, now time.Time) (*sheet[T], error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at := invalidUTF8(data); at >= 0 {
		return unreadable[T](file, 1+bytes.Count(data[:at], []byte("\n")), "not UTF-8, save the file as UTF-8")
	}
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1 // counted per row, below
	r.ReuseRecord = true
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return unreadable[T](file, 1, "no header, write the names of the columns into the first line: "+b.names())
	}
	if err != nil {
		return unreadable[T](file, lineOf(err), "broken quoting, close every quote and double those inside")
	}
	order, what := b.order(header)
	if what != nil {
		return unreadable[T](file, 1, what...)
	}
	s := &sheet[T]{file: file}
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return unreadable[T](file, lineOf(err), "broken quoting, close every quote and double those inside")
		}
		line, _ := r.FieldPos(0)
		b.parseRow(s, line, order, cells, now)
	}
}

// invalidUTF8 returns where data stops being UTF-8, -1 if nowhere.
func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for at := 0; ; {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n <= 1 {
			return at
		}
		at += n
	}
}

func lineOf(err error) int {
	var p *csv.ParseError
	if errors.As(err, &p) {
		return p.StartLine
	}
	return 1
}

func (b *book[T]) names() string {
	names := make([]string, len(b.columns))
	for i, c := range b.columns {
		names[i] = c.name
	}
	return strings.Join(names, ",")
}

// order maps the cells of a row to columns of the book, or says everything
// that is wrong with the header. Of an unknown name only its place is said:
// a file without header has people in its first line.
func (b *book[T]) order(header []string) (order []int, wrong []string) {
	known := 0
	for i, name := range header {
		at := b.column(strings.TrimSpace(name))
		switch {
		case at < 0:
			wrong = append(wrong, fmt.Sprintf("column %d: unknown name, use only %s", i+1, b.names()))
		case slices.Contains(order, at):
			wrong = append(wrong, fmt.Sprintf("column %d: %s is there twice, remove one", i+1, b.columns[at].name))
		default:
			known++
		}
		order = append(order, at)
	}
	if known == 0 {
		return nil, []string{"no header, write the names of the columns into the first line: " + b.names()}
	}
	for i, c := range b.columns {
		if c.required && !slices.Contains(order, i) {
			wrong = append(wrong, "column "+c.name+" is missing, add it")
		}
	}
	return order, wrong
}

// parseRow adds a row to the sheet, as a good one or as a list of mistakes.
func (b *book[T]) parseRow(s *sheet[T], line int, order []int, cells []string, now time.Time) {
	if len(cells) != len(order) {
		s.refuse(line, fault{"", fmt.Sprintf("%d cells, write %d as in the header", len(cells), len(order))})
		return
	}
	value, faults := b.readCells(order, cells, now)
	if len(faults) == 0 {
		faults = b.check(&value)
	}
	if len(faults) > 0 {
		s.refuse(line, faults...)
		return
	}
	defects := b.defects(&value)
	for _, d := range defects {
		s.warnings = append(s.warnings, Problem{s.file, line, d.column, d.what})
	}
	s.rows = append(s.rows, row[T]{line, value, len(defects) > 0})
}

// readCells reads the cells one by one.
func (b *book[T]) readCells(order []int, cells []string, now time.Time) (value T, faults []fault) {
	for i, at := range order {
		c := &b.columns[at]
		cell := unguard(strings.TrimSpace(strings.Clone(cells[i])))
		wrong := ""
		switch {
		case cell != "":
			wrong = c.set(&value, cell, now)
		case c.required:
			wrong = "missing, it is required"
		}
		if wrong != "" {
			faults = append(faults, fault{c.name, wrong})
		}
	}
	return value, faults
}

// A spreadsheet runs a cell that begins like a formula, so export puts a "'"
// before it and import takes it off again. One more is put before a text that
// has such a "'" of its own, so that both ways together change nothing.
const formula = "=+-@"

func guard(cell string) string {
	if rest := strings.TrimLeft(cell, "'"); rest != "" && strings.IndexByte(formula, rest[0]) >= 0 {
		return "'" + cell
	}
	return cell
}

func unguard(cell string) string {
	if rest := strings.TrimLeft(cell, "'"); rest != cell && rest != "" && strings.IndexByte(formula, rest[0]) >= 0 {
		return cell[1:]
	}
	return cell
}

// write writes rows as a CSV file that import reads back.
func (b *book[T]) write(w io.Writer, rows []version[T]) error {
	out := csv.NewWriter(w)
	if err := out.Write(strings.Split(b.names(), ",")); err != nil {
		return err
	}
	for i := range rows {
		cells := b.cells(&rows[i].Row)
		for j := range cells {
			cells[j] = guard(cells[j])
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}
