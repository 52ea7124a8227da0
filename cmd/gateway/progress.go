package main

import (
	"fmt"
	"os"
	"time"
)

// progressEvery bounds how often a progress line is drawn.
const progressEvery = 200 * time.Millisecond

// meter draws how far long work is, on a terminal only.
type meter struct {
	out  *os.File // nil: nobody watches
	last time.Time
}

// meter returns one that draws nothing for work that is done at once.
func (c *command) meter() *meter {
	f, ok := c.err.(*os.File)
	if !ok {
		return &meter{}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &meter{}
	}
	return &meter{out: f, last: time.Now()}
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
