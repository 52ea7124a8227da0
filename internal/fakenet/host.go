package fakenet

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stage is a point of an SMTP conversation at which a fault can strike. Those
// of commands are named by the verb.
type Stage string

const (
	Connect   Stage = "CONNECT" // before the greeting
	EHLO      Stage = "EHLO"
	STARTTLS  Stage = "STARTTLS"
	Handshake Stage = "TLS" // after the 220 to STARTTLS
	MailFrom  Stage = "MAIL"
	RcptTo    Stage = "RCPT"
	Data      Stage = "DATA"
	EndOfData Stage = "." // the whole message is in
	Reset     Stage = "RSET"
	Quit      Stage = "QUIT"
)

// Faults are what a mail server does wrong. The zero value is a good server.
type Faults struct {
	Down bool // refuses connections

	// Replies are said in place of a success: whole replies without CRLF, lines
	// parted by "\n". A 421 closes, as it must (RFC 5321 §3.8).
	Replies map[Stage]string
	// Times bounds Replies to the first so many uses of each; 0 is no bound.
	Times int
	// Recipients are replies to RCPT for single addresses in lower case.
	Recipients map[string]string
	// Greylist answers 451 to the first so many RCPTs of each address.
	Greylist int

	Hang      Stage // goes silent there, and stays so until the client leaves
	Drop      Stage // closes there without a reply; at EndOfData the mail is kept
	DropAfter Stage // closes right after the reply

	Strip      bool // STARTTLS is not offered, as if a man in the middle took it out
	StripAfter int  // only from the connection after this many
	Inject     string
	// Inject is written in one segment with the 220 to STARTTLS (CVE-2021-38371).

	Delay time.Duration // before every reply
}

// Message is a mail as it arrived at a Host.
type Message struct {
	Host       string
	Connection int // which connection of the host, from 1
	Helo       string
	From       string
	FromArgs   string // ESMTP parameters of MAIL, as sent
	Rcpt       []Rcpt
	Data       []byte               // without the dots of transparency
	TLS        *tls.ConnectionState // nil: it came in clear
	At         time.Time
}

// Rcpt is a recipient that the server took.
type Rcpt struct{ Address, Args string }

func (m Message) isFor(address string) bool {
	return slices.ContainsFunc(m.Rcpt, func(r Rcpt) bool { return strings.EqualFold(r.Address, address) })
}

// Host is a mail server. It takes mail for the domains added with it.
type Host struct {
	Name string
	IP   string // as the DNS server says it

	d    Domain
	addr string // of the listener
	leaf *x509.Certificate
	tls  *tls.Config
	now  func() time.Time
	ln   net.Listener
	done sync.WaitGroup

	mu       sync.Mutex
	faults   *Faults
	uses     map[Stage]int  // of Replies
	tries    map[string]int // of RCPT, for Greylist
	domains  map[string]bool
	conns    map[net.Conn]bool
	opened   int
	count    int
	messages []Message
	clear    bytes.Buffer
	arrived  chan struct{} // closed and replaced at each arrival
	closed   bool
}

func listenSMTP(name, ip string, port int, d Domain, ca *authority) (*Host, error) {
	cert, err := ca.issue(name, d.Cert, d.Key)
	if err != nil {
		return nil, err
	}
	ln, err := listen(context.Background(), ip, port)
	if err != nil {
		return nil, fmt.Errorf("mail server %s: %w", name, err)
	}
	h := &Host{
		Name: name, IP: ip, d: d, addr: ln.Addr().String(), ln: ln, now: ca.clock,
		domains: map[string]bool{},
		conns:   map[net.Conn]bool{},
		arrived: make(chan struct{}),
	}
	h.Set(d.Faults)
	if cert != nil {
		h.leaf = cert.Leaf
		h.tls = d.tlsConfig(cert)
	}
	h.done.Go(h.accept)
	return h, nil
}

func (d Domain) tlsConfig(cert *tls.Certificate) *tls.Config {
	c := &tls.Config{
		Certificates: []tls.Certificate{*cert},
		MinVersion:   d.MinTLS,
		MaxVersion:   d.MaxTLS,
		CipherSuites: d.Suites,
	}
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	if c.MaxVersion != 0 && c.MaxVersion < c.MinVersion {
		c.MinVersion = c.MaxVersion
	}
	return c
}

// Set replaces the faults of a host and starts their counts anew. Connections
// that are open feel it at their next command.
func (h *Host) Set(f Faults) {
	f.Replies, f.Recipients = maps.Clone(f.Replies), maps.Clone(f.Recipients)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults, h.uses, h.tries = &f, map[Stage]int{}, map[string]int{}
}

func (h *Host) plan() *Faults {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.faults
}

// scripted returns the reply that the faults put at a stage, "" for none.
func (h *Host) scripted(at Stage) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	reply := h.faults.Replies[at]
	if reply == "" || (h.faults.Times > 0 && h.uses[at] >= h.faults.Times) {
		return ""
	}
	h.uses[at]++
	return reply
}

// refusal is the reply for one recipient, "" to take it.
func (h *Host) refusal(address string) string {
	key := strings.ToLower(address)
	h.mu.Lock()
	defer h.mu.Unlock()
	if reply := h.faults.Recipients[key]; reply != "" {
		return reply
	}
	if h.tries[key]++; h.tries[key] <= h.faults.Greylist {
		return "451 4.7.1 Greylisted, come back later"
	}
	at := strings.LastIndexByte(key, '@')
	if !h.domains[key[at+1:]] && key != "postmaster" {
		return "550 5.7.1 Relaying denied"
	}
	return ""
}

func (h *Host) serves(domain string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.domains[domain] = true
}

// Messages returns what has arrived.
func (h *Host) Messages() []Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.messages)
}

// Count says how many messages have arrived, also those that a Discard host
// did not keep.
func (h *Host) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

// Connections says how many connections were accepted.
func (h *Host) Connections() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.opened
}

// Wait returns the messages once n have arrived, or the error of ctx.
func (h *Host) Wait(ctx context.Context, n int) ([]Message, error) {
	for {
		h.mu.Lock()
		count, arrived := h.count, h.arrived
		h.mu.Unlock()
		if count >= n {
			return h.Messages(), nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return h.Messages(), fmt.Errorf("fakenet: %d of %d messages arrived: %w", count, n, ctx.Err())
		}
	}
}

// Cleartext returns every byte seen outside TLS, both ways.
func (h *Host) Cleartext() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Clone(h.clear.Bytes())
}

func (h *Host) keep(m Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	if !h.d.Discard {
		m.At = h.now()
		h.messages = append(h.messages, m)
	}
	close(h.arrived)
	h.arrived = make(chan struct{})
}

func (h *Host) accept() {
	for {
		conn, err := h.ln.Accept()
		if err != nil {
			return // the listener is closed
		}
		n := h.track(conn)
		if n == 0 {
			conn.Close()
			continue
		}
		h.done.Go(func() {
			newSession(h, conn, n).serve()
			conn.Close()
			h.mu.Lock()
			delete(h.conns, conn)
			h.mu.Unlock()
		})
	}
}

// track counts a connection; 0 turns it away.
func (h *Host) track(conn net.Conn) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.faults.Down {
		return 0
	}
	h.conns[conn] = true
	h.opened++
	return h.opened
}

func (h *Host) close() error {
	err := h.ln.Close()
	h.mu.Lock()
	h.closed = true
	for conn := range h.conns {
		conn.Close()
	}
	h.mu.Unlock()
	h.done.Wait()
	return err
}

// tap is a connection whose bytes are also written to the host's clear buffer.
type tap struct {
	net.Conn
	h *Host
}

func (t tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.h.saw(p[:n])
	return n, err
}

func (t tap) Write(p []byte) (int, error) {
	t.h.saw(p)
	return t.Conn.Write(p)
}

func (h *Host) saw(p []byte) {
	if h.d.Discard {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clear.Write(p)
}
