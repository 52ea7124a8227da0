package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
)

// painter colours output for a terminal, and leaves it alone elsewhere and where
// NO_COLOR is set (no-color.org).
type painter bool

func (c *command) painter() painter {
	f, ok := c.out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return false
	}
	info, err := f.Stat()
	return painter(err == nil && info.Mode()&os.ModeCharDevice != 0)
}

func (p painter) in(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p painter) bold(s string) string { return p.in("1", s) }

// verdict colours by what happened; the word says it too.
func (p painter) verdict(s string) string {
	switch strings.TrimSpace(s) {
	case "delivered":
		return p.in("32", s)
	case "pickup":
		return p.in("36", s)
	case "held", "deferred":
		return p.in("33", s)
	}
	return p.in("31", s)
}

// freePort finds a loopback address nobody uses. The portal must know its own
// address before it listens, since links are made of it. The port lies below
// those that systems give to connections, which
// otherwise take it while nobody listens.
func freePort() (string, error) {
	const lowest, count, tries = 20000, 12000, 50
	var err error
	for range tries {
		addr := fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(count))
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", err
}
