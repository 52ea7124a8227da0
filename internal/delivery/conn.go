package delivery

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// stallTimeout is how long a peer may take to accept one piece of a message
// (RFC 5321 §4.5.3.2.5).
const stallTimeout = 3 * time.Minute

var errEnded = errors.New("context ended")

// guarded is the connection under an SMTP client that knows no context. Its
// deadlines are never later than the context's, and a context that ends closes
// the connection: after a half-sent command nothing on it can be trusted.
type guarded struct {
	net.Conn

	mu    sync.Mutex
	limit time.Time // zero: none
	ended bool

	fold foldReader
}

// watch applies ctx until the returned function is called.
func (g *guarded) watch(ctx context.Context) (done func()) {
	limit, _ := ctx.Deadline()
	g.mu.Lock()
	g.limit = limit
	g.mu.Unlock()
	stop := context.AfterFunc(ctx, g.end)
	return func() {
		if !stop() {
			g.end()
		}
	}
}

func (g *guarded) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		g.ended = true
		g.Conn.Close()
	}
}

// SetDeadline takes the earlier of t and the context's deadline; t zero means
// the latter alone.
func (g *guarded) SetDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return errEnded
	}
	return g.Conn.SetDeadline(earlier(t, g.limit))
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Write bounds each piece, since the client sets no deadline for the body.
func (g *guarded) Write(p []byte) (int, error) {
	g.mu.Lock()
	ended, limit := g.ended, g.limit
	g.mu.Unlock()
	if ended {
		return 0, errEnded
	}
	g.Conn.SetWriteDeadline(earlier(time.Now().Add(stallTimeout), limit))
	return g.Conn.Write(p)
}

func (g *guarded) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.fold.upper(p[:n])
	return n, err
}

// foldReader writes the keywords of an EHLO reply in upper case while it is on.
// They are read without regard to case (RFC 5321 §2.4), which the client does
// not do.
type foldReader struct {
	on  bool
	col int  // column in the line
	arg bool // behind the keyword
}

func (f *foldReader) upper(p []byte) {
	if !f.on {
		return
	}
	for i, b := range p {
		switch {
		case b == '\n':
			f.col, f.arg = 0, false
			continue
		case f.col >= 4 && b == ' ':
			f.arg = true
		case f.col >= 4 && !f.arg:
			p[i] = bytes.ToUpper(p[i : i+1])[0]
		}
		f.col++
	}
}
