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

// unreadable returns problems that make the whole file unreadable.
func unreadable(file string, line int, what ...string) ([]Problem, error) {
	var problems []Problem
	for _, w := range what {
		problems = append(problems, Problem{File: file, Line: line, What: w})
	}
	return problems, ErrUnreadable
}

// parse reads a CSV file (RFC 4180, UTF-8, a header row) and hands over its rows
// one by one with the mistakes they have. If the file is no such table, parse
// says why and returns ErrUnreadable; other errors are those of take.
func (b *book[T]) parse(file string, data []byte, now time.Time, take func(line int, row *T, faults []fault) error) ([]Problem, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at := invalidUTF8(data); at >= 0 {
		return unreadable(file, 1+bytes.Count(data[:at], []byte("\n")), "not UTF-8, save the file as UTF-8")
	}
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = -1 // counted per row, below
	r.ReuseRecord = true
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return unreadable(file, 1, b.noHeader())
	}
	if err != nil {
		return unreadable(file, lineOf(err), brokenQuoting)
	}
	order, what := b.order(header)
	if what != nil {
		return unreadable(file, 1, what...)
	}
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return unreadable(file, lineOf(err), brokenQuoting)
		}
		line, _ := r.FieldPos(0)
		row, faults := b.parseRow(order, cells, now)
		if err := take(line, &row, faults); err != nil {
			return nil, err
		}
	}
}

const brokenQuoting = "broken quoting, close every quote and double those inside"

func (b *book[T]) noHeader() string {
	return "no header, write the names of the columns into the first line: " + b.names()
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
		return nil, []string{b.noHeader()}
	}
	for i, c := range b.columns {
		if c.required && !slices.Contains(order, i) {
			wrong = append(wrong, "column "+c.name+" is missing, add it")
		}
	}
	return order, wrong
}

// parseRow reads a row and lists its mistakes.
func (b *book[T]) parseRow(order []int, cells []string, now time.Time) (row T, faults []fault) {
	if len(cells) != len(order) {
		return row, []fault{{"", fmt.Sprintf("%d cells, write %d as in the header", len(cells), len(order))}}
	}
	row, faults = b.readCells(order, cells, now)
	if len(faults) == 0 {
		faults = b.check(&row)
	}
	return row, faults
}

// readCells reads the cells one by one.
func (b *book[T]) readCells(order []int, cells []string, now time.Time) (row T, faults []fault) {
	for i, at := range order {
		c := &b.columns[at]
		cell := unguard(strings.TrimSpace(strings.Clone(cells[i])))
		wrong := ""
		switch {
		case cell != "":
			wrong = c.set(&row, cell, now)
		case c.required:
			wrong = "missing, it is required"
		}
		if wrong != "" {
			faults = append(faults, fault{c.name, wrong})
		}
	}
	return row, faults
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
