package gateway

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// memoryPerByte is how much memory one byte of a message may take on its way:
// the message, what is sent, its decoded text.
const memoryPerByte = 3

// memory bounds the bytes of all messages in flight.
type memory struct {
	mu   sync.Mutex
	left int64 // guarded by mu
}

func newMemory(limit int64) *memory { return &memory{left: limit} }

// take reserves memory for n message bytes, or reports that there is none.
func (m *memory) take(n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left < n*memoryPerByte {
		return false
	}
	m.left -= n * memoryPerByte
	return true
}

func (m *memory) give(n int64) {
	m.mu.Lock()
	m.left += n * memoryPerByte
	m.mu.Unlock()
}

// Pauses after wrong passwords: the first costs a second, each further one
// doubles it. They are forgotten after a quarter of an hour without one.
const (
	failurePause    = time.Second
	failurePauseMax = 16 * time.Second
	failureMemory   = 15 * time.Minute
	failureHosts    = 10000 // hosts remembered at most
)

// failures slows those who guess passwords, by network (/32, or /64 for IPv6).
type failures struct {
	clock func() time.Time
	mu    sync.Mutex
	hosts map[netip.Prefix]failed // guarded by mu
}

type failed struct {
	count int
	last  time.Time
}

func newFailures(clock func() time.Time) *failures {
	return &failures{clock: clock, hosts: map[netip.Prefix]failed{}}
}

// pause counts one more failure of a host and says how long to make it wait.
func (f *failures) pause(a netip.Addr) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock()
	key := network(a)
	h := f.hosts[key]
	if now.Sub(h.last) > failureMemory {
		h.count = 0
	}
	if len(f.hosts) >= failureHosts {
		f.forget(now)
	}
	h.count, h.last = h.count+1, now
	f.hosts[key] = h
	return min(failurePause<<min(h.count-1, 10), failurePauseMax)
}

func (f *failures) forget(now time.Time) {
	for k, h := range f.hosts {
		if now.Sub(h.last) > failureMemory {
			delete(f.hosts, k)
		}
	}
	if len(f.hosts) >= failureHosts {
		clear(f.hosts) // an attack from everywhere: per-connection limits still hold
	}
}

func network(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

func remoteAddr(c net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// clients are the open connections of all SMTP listeners.
type clients struct {
	limit      int
	perNetwork int    // 0 = no limit
	turned     func() // counts those turned away
	mu         sync.Mutex
	open       map[*conn]struct{}   // guarded by mu
	from       map[netip.Prefix]int // of them, by network; guarded by mu
	closed     bool                 // no more are taken; guarded by mu
}

// room is whether one more connection is taken.
type room int

const (
	taken   room = iota
	full         // there are too many
	crowded      // there are too many from its network
)

func (cs *clients) add(c *conn) room {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	switch {
	case cs.closed || len(cs.open) >= cs.limit:
		return full
	case cs.perNetwork > 0 && c.network.IsValid() && cs.from[c.network] >= cs.perNetwork:
		return crowded
	}
	if cs.from == nil {
		cs.from = map[netip.Prefix]int{}
	}
	cs.open[c] = struct{}{}
	cs.from[c.network]++
	return taken
}

func (cs *clients) remove(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, open := cs.open[c]; !open {
		return
	}
	delete(cs.open, c)
	if cs.from[c.network]--; cs.from[c.network] <= 0 {
		delete(cs.from, c.network)
	}
}

// drain ends every conversation between two messages, with a 421, and every
// other one after its message.
func (cs *clients) drain() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for c := range cs.open {
		c.drain()
	}
}

func (cs *clients) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open)
}

// listener bounds the connections of a server and wraps each in a [conn].
type listener struct {
	net.Listener
	clients *clients
	busy    string // what the one too many is told
	crowd   string // and the one too many of a network
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		n, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: n, clients: l.clients, quota: strangerQuota, network: network(remoteAddr(n))}
		word := l.busy
		switch l.clients.add(c) {
		case taken:
			return c, nil
		case crowded:
			word = l.crowd
		}
		l.clients.turned()
		n.SetDeadline(time.Now().Add(time.Second)) // the line fits into any socket's buffer
		n.Write([]byte(word))
		n.Close()
	}
}

// strangerQuota is how many bytes a client may send before it is known to us.
// It bounds what go-smtp, whose line limit must be as long as the longest body
// line, can be made to buffer for a stranger.
const strangerQuota = 64 << 10

// conn is a client's connection. Once a read has failed, every later one fails
// too: go-smtp goes back to reading commands after a body read error, and the
// rest of the body must never be taken for commands (SMTP smuggling).
type conn struct {
	net.Conn
	clients *clients
	network netip.Prefix // invalid if it has none
	mu      sync.Mutex
	quota   int64         // bytes a stranger may still send; negative: no limit. Guarded by mu
	broken  error         // guarded by mu
	busy    bool          // in the middle of a message; guarded by mu
	last    bool          // to be ended as soon as it is not busy; guarded by mu
	pause   time.Duration // that a client may make in a message; guarded by mu
	end     time.Time     // nobody may send one message for longer; guarded by mu
}

func (c *conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	err, quota := c.broken, c.quota
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if quota == 0 {
		return 0, c.fail(net.ErrClosed)
	}
	if quota > 0 && int64(len(b)) > quota {
		b = b[:quota]
	}
	c.wait()
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, c.fail(err)
	}
	c.mu.Lock()
	if c.quota > 0 {
		c.quota = max(c.quota-int64(n), 0)
	}
	c.mu.Unlock()
	return n, nil
}

func (c *conn) fail(err error) error {
	c.mu.Lock()
	c.broken = err
	c.mu.Unlock()
	return err
}

// welcome lifts the quota: the client has proved who it is.
func (c *conn) welcome() {
	c.mu.Lock()
	c.quota = -1
	c.mu.Unlock()
}

// messageTime is how many pauses a whole message may take.
const messageTime = 4

// work marks the beginning of a message, in which the client may pause for so
// long at a time: go-smtp sets the deadline only once for a whole body.
func (c *conn) work(pause time.Duration) {
	c.mu.Lock()
	c.busy, c.pause, c.end = true, pause, time.Now().Add(messageTime*pause)
	c.mu.Unlock()
}

// rest marks the end of a message.
func (c *conn) rest() {
	c.mu.Lock()
	c.busy = false
	c.mu.Unlock()
}

// wait sets the deadline of one read inside a message.
func (c *conn) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.busy {
		return
	}
	next := time.Now().Add(c.pause)
	if next.After(c.end) {
		next = c.end
	}
	c.Conn.SetReadDeadline(next)
}

func (c *conn) drain() {
	c.mu.Lock()
	c.last = true
	idle := !c.busy
	c.mu.Unlock()
	if idle {
		c.Conn.SetReadDeadline(longAgo)
	}
}

// longAgo is a deadline that has passed: the wait for a command ends at once.
var longAgo = time.Unix(1, 0)

// SetReadDeadline is what go-smtp calls before it waits for the next command.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	if c.last && !c.busy {
		t = longAgo
	}
	c.mu.Unlock()
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) Close() error {
	c.clients.remove(c)
	return c.Conn.Close()
}
