package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progressEvery bounds how often a progress line is drawn.
const progressEvery = 200 * time.Millisecond

// meter draws how far long work is, on a terminal only.
type meter struct {
	out  io.Writer // nil: nobody watches
	last time.Time
}

// meter returns one that draws nothing for work that is done at once.
func (c *command) meter() *meter {
	if !c.watched && !c.terminal() {
		return &meter{}
	}
	return &meter{out: c.err, last: time.Now()}
}

// terminal reports whether a person reads standard error.
func (c *command) terminal() bool {
	f, ok := c.err.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (m *meter) draw(format string, args ...any) {
	if m.out == nil || time.Since(m.last) < progressEvery {
		return
	}
	m.last = time.Now()
	fmt.Fprintf(m.out, "\r\x1b[K"+format, args...)
}

func (m *meter) wipe() {
	if m.out != nil {
		fmt.Fprint(m.out, "\r\x1b[K")
	}
}

// progress returns a function that draws a share of work that has a known end.
func (c *command) progress(what string) func(done, total int) {
	m := c.meter()
	return func(done, total int) {
		if done >= total {
			m.wipe()
			return
		}
		m.draw("%s: %d %%", what, int(100*float64(done)/float64(total)))
	}
}
