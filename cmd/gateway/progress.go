package main

import (
	"fmt"
	"os"
	"time"
)

// progressEvery bounds how often a progress line is drawn.
const progressEvery = 200 * time.Millisecond

// progress returns a function that draws how far long work is, on a terminal
// only, and wipes the line when the work is done.
func (c *command) progress(what string) func(done, total int) {
	f, ok := c.err.(*os.File)
	if !ok {
		return func(int, int) {}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func(int, int) {}
	}
	last := time.Now() // nothing is drawn for work that is done at once
	return func(done, total int) {
		switch {
		case done >= total:
			fmt.Fprint(f, "\r\x1b[K")
		case time.Since(last) >= progressEvery:
			last = time.Now()
			fmt.Fprintf(f, "\r\x1b[K%s: %d %%", what, int(100*float64(done)/float64(total)))
		}
	}
}
