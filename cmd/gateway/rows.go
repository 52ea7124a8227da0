package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"text/tabwriter"
)

// list prints rows as they come: a JSON line each, or a table under a heading
// whose cells are parted by tabs. An error of the source ends it.
func list[T any](c *command, asJSON bool, heading string, rows iter.Seq2[T, error], cells func(T) string) error {
	if asJSON {
		enc := json.NewEncoder(c.out)
		enc.SetEscapeHTML(false)
		for r, err := range rows {
			if err != nil {
				return unreachable(err)
			}
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, heading)
	for r, err := range rows {
		if err != nil {
			return unreachable(err)
		}
		fmt.Fprintln(w, cells(r))
	}
	return w.Flush()
}

// given is a source of rows that are all there.
func given[T any](rows []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for r := range slices.Values(rows) {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// jsonLines prints a JSON line for each row.
func jsonLines[T any](w io.Writer, rows []T) error {
	return list(&command{stdio: stdio{out: w}}, true, "", given(rows), nil)
}

// cut shortens a text for a table.
func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
