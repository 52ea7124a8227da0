package registry

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/language"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/policy"
)

// column is one column of a book. set reads a cell that is not empty and
// returns what is wrong with it and how to write it, "" if nothing is; it gets
// the time of the import. get writes the cell again.
type column[T any] struct {
	name     string
	required bool
	set      func(row *T, cell string, now time.Time) string
	get      func(row *T) string
}

// required marks a column whose empty cell makes a bad row.
func required[T any](c column[T]) column[T] {
	c.required = true
	return c
}

func addressColumn[T any](name string, at func(*T) *policy.Address) column[T] {
	return column[T]{
		name: name,
		set: func(row *T, cell string, _ time.Time) string {
			a, err := mail.ParseAddress(cell)
			if err != nil {
				return "not an e-mail address, write name@domain.example"
			}
			*at(row) = a
			return ""
		},
		get: func(row *T) string { return at(row).Clear() },
	}
}

func textColumn[T any](name string, longest int, at func(*T) *string) column[T] {
	return column[T]{
		name: name,
		set: func(row *T, cell string, _ time.Time) string {
			if utf8.RuneCountInString(cell) > longest {
				return "too long, write at most " + strconv.Itoa(longest) + " characters"
			}
			if strings.ContainsFunc(cell, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) {
				return "has control characters, write plain text"
			}
			*at(row) = cell
			return ""
		},
		get: func(row *T) string { return *at(row) },
	}
}

func oneOf[T any](name string, at func(*T) *string, values ...string) column[T] {
	return column[T]{
		name: name,
		set: func(row *T, cell string, _ time.Time) string {
			if !slices.Contains(values, cell) {
				return "unknown value, write one of " + strings.Join(values, ", ")
			}
			*at(row) = cell
			return ""
		},
		get: func(row *T) string { return *at(row) },
	}
}

func tokenColumn[T any](name string, at func(*T) *string) column[T] {
	return column[T]{
		name: name,
		set: func(row *T, cell string, _ time.Time) string {
			if !isToken(cell, "-") {
				return "not a token, write a-z, 0-9 and -"
			}
			*at(row) = cell
			return ""
		},
		get: func(row *T) string { return *at(row) },
	}
}

// tokensColumn holds values joined by ";". one returns the settled form of one
// value, and what is wrong with it.
func tokensColumn[T any](name string, at func(*T) *[]string, one func(string) (string, string)) column[T] {
	return column[T]{
		name: name,
		set: func(row *T, cell string, _ time.Time) string {
			var list []string
			for value := range strings.SplitSeq(cell, ";") {
				value = strings.TrimSpace(value)
				if value == "" {
					continue
				}
				settled, wrong := one(value)
				if wrong != "" {
					return wrong
				}
				if !slices.Contains(list, settled) {
					list = append(list, settled)
				}
			}
			*at(row) = list
			return ""
		},
		get: func(row *T) string { return strings.Join(*at(row), ";") },
	}
}

func boolColumn[T any](name string, at func(*T) *bool) column[T] {
	return column[T]{
		name: name,
		set: func(row *T, cell string, _ time.Time) string {
			if cell != "true" && cell != "false" {
				return "not a yes or no, write true or false"
			}
			*at(row) = cell == "true"
			return ""
		},
		get: func(row *T) string { return strconv.FormatBool(*at(row)) },
	}
}

func hashColumn[T any](name string, at func(*T) *string) column[T] {
	return column[T]{
		name: name,
		set: func(row *T, cell string, _ time.Time) string {
			if b, err := hex.DecodeString(cell); err != nil || len(b) != 32 {
				return "not a SHA-256, write its 64 hex digits"
			}
			*at(row) = strings.ToLower(cell)
			return ""
		},
		get: func(row *T) string { return *at(row) },
	}
}

func languageColumn[T any](name string, at func(*T) *string) column[T] {
	return column[T]{
		name: name,
		set: func(row *T, cell string, _ time.Time) string {
			tag, err := language.Parse(cell)
			if err != nil {
				return "not a language tag, write en or es-MX"
			}
			*at(row) = tag.String()
			return ""
		},
		get: func(row *T) string { return *at(row) },
	}
}

// startColumn is the beginning of something: a date alone is its first second,
// in UTC.
func startColumn[T any](name string, at func(*T) *time.Time) column[T] {
	return timeColumn(name, 0, at)
}

// endColumn is the end of something: a date alone is its last second.
func endColumn[T any](name string, at func(*T) *time.Time) column[T] {
	return timeColumn(name, 24*time.Hour-time.Second, at)
}

// pastColumn is a startColumn that may not lie in the future.
func pastColumn[T any](name string, at func(*T) *time.Time) column[T] {
	c := startColumn(name, at)
	set := c.set
	c.set = func(row *T, cell string, now time.Time) string {
		if wrong := set(row, cell, now); wrong != "" {
			return wrong
		}
		if at(row).After(now) {
			return "in the future, write when it happened"
		}
		return ""
	}
	return c
}

func timeColumn[T any](name string, ofDay time.Duration, at func(*T) *time.Time) column[T] {
	return column[T]{
		name: name,
		set: func(row *T, cell string, _ time.Time) string {
			t, wrong := readTime(cell, ofDay)
			*at(row) = t
			return wrong
		},
		get: func(row *T) string { return writeTime(*at(row), ofDay) },
	}
}

func readTime(cell string, ofDay time.Duration) (t time.Time, wrong string) {
	if t, err := time.Parse(time.DateOnly, cell); err == nil {
		return t.Add(ofDay), ""
	}
	if t, err := time.Parse(time.RFC3339, cell); err == nil {
		return t.UTC().Truncate(time.Second), ""
	}
	return time.Time{}, "not a date, write 2026-02-28"
}

func writeTime(t time.Time, ofDay time.Duration) string {
	if t.IsZero() {
		return ""
	}
	if day := t.Add(-ofDay); day.Equal(day.Truncate(24 * time.Hour)) {
		return day.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339)
}

// isToken reports whether s is made of a-z, 0-9 and the extra characters.
func isToken(s, extra string) bool {
	for i := range len(s) {
		if b := s[i]; !('a' <= b && b <= 'z' || '0' <= b && b <= '9' || strings.IndexByte(extra, b) >= 0) {
			return false
		}
	}
	return s != ""
}
