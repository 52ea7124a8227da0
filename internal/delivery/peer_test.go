package delivery

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/phigate/phigate/policy"
	"github.com/phigate/phigate/tlscheck"
)

// script is how a mail host behaves; the zero script is a good one.
type script struct {
	clear    []string          // keywords before TLS; STARTTLS if nil
	starttls string            // reply to STARTTLS; "220 go" if empty
	garbage  string            // sent where the TLS handshake should be
	wrong    bool              // a certificate of another name
	ehlo     []string          // keywords behind TLS; SIZE, 8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES if nil
	replies  map[string]string // by the first word of a command, or "." for the end of a message
	rcpt     map[string]string // by recipient
	drop     string            // word at which the connection is closed unanswered
	hang     string            // word that is never answered
	slurp    int               // bytes of a message read before the connection is closed
	stall    bool              // nothing of a message is read
	one      bool              // one EHLO in clear and no more, as OpenSMTPD has it
}

// host is a scripted mail host behind a name, with a tee on its sockets.
type host struct {
	script
	t     *testing.T
	addr  string
	roots *x509.CertPool
	cert  tls.Certificate
	done  chan struct{}

	mu       sync.Mutex
	commands []string // as they came, over TLS or not
	messages [][]byte // the bytes between DATA and the final dot, as they came
	wire     bytes.Buffer
}

func startHost(t *testing.T, s script) *host {
	t.Helper()
	h := &host{script: s, t: t, done: make(chan struct{})}
	h.certify()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); h.serve(c) })
			wg.Go(func() { <-h.done; c.Close() })
		}
	})
	t.Cleanup(func() { close(h.done); l.Close(); wg.Wait() })
	return h
}

func (h *host) certify() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	name := "mx.a.test"
	if h.wrong {
		name = "mx.b.test"
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	h.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	leaf, _ := x509.ParseCertificate(der)
	h.roots = x509.NewCertPool()
	h.roots.AddCert(leaf)
}

// Lookup makes the host the MX of every domain.
func (h *host) Lookup(_ context.Context, name string, qtype uint16) (tlscheck.Answer, error) {
	a := tlscheck.Answer{Secure: tlscheck.DNSInsecure}
	switch qtype {
	case dns.TypeMX:
		a.RRs = []dns.RR{&dns.MX{Hdr: dns.RR_Header{Name: name + "."}, Preference: 1, Mx: "mx.a.test."}}
	case dns.TypeA:
		a.RRs = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name + "."}, A: net.IPv4(192, 0, 2, 1)}}
	}
	return a, nil
}

func (h *host) Load(context.Context, string) (tlscheck.Entry, error) {
	return tlscheck.Entry{}, tlscheck.ErrMiss
}
func (h *host) Save(context.Context, tlscheck.Entry) error     { return nil }
func (h *host) List(context.Context) ([]tlscheck.Entry, error) { return nil, nil }

// teed copies what passes the client's socket.
type teed struct {
	net.Conn
	h *host
}

func (c teed) Write(p []byte) (int, error) {
	c.h.mu.Lock()
	c.h.wire.Write(p)
	c.h.mu.Unlock()
	return c.Conn.Write(p)
}

func (h *host) checker() *tlscheck.Checker {
	c, err := tlscheck.New(tlscheck.Options{Hostname: "gw.test", Resolver: h, Cache: h, RootCAs: h.roots,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, h.addr)
			return teed{c, h}, err
		}})
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

var phiFloor = policy.Floor{Assurance: policy.AssuranceVerified, Strength: policy.StrengthSP80052r2}

// dial plans and dials with a floor.
func (h *host) dial(ctx context.Context) (*tlscheck.Conn, error) {
	c := h.checker()
	p, err := c.Plan(ctx, "a.test", phiFloor)
	if err != nil {
		return nil, err
	}
	conn, _, err := c.Dial(ctx, p.Targets[0])
	return conn, err
}

// session opens a session over a proved connection, or fails the test.
func (h *host) session() *Session {
	h.t.Helper()
	conn, err := h.dial(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := Open(conn, "gw.test")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { s.Close() })
	return s
}

func (h *host) plainSession() (*PlainSession, error) {
	c := h.checker()
	p, err := c.Plan(h.t.Context(), "a.test", policy.Open)
	if err != nil {
		return nil, err
	}
	conn, _, err := c.DialOpen(h.t.Context(), p.Targets[0])
	if err != nil {
		return nil, err
	}
	s, err := OpenPlain(conn, "gw.test")
	if err == nil {
		h.t.Cleanup(func() { s.Close() })
	}
	return s, err
}

func (h *host) heard() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.commands...)
}

func (h *host) got() [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([][]byte(nil), h.messages...)
}

// serve speaks in clear until STARTTLS, then over TLS.
func (h *host) serve(c net.Conn) {
	io.WriteString(c, "220 mx.a.test ESMTP\r\n")
	kw := h.clear
	if kw == nil {
		kw = []string{"STARTTLS"}
	}
	if !h.talk(c, kw) {
		return
	}
	if h.garbage != "" {
		io.WriteString(c, h.garbage)
		return
	}
	tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{h.cert}})
	if tc.Handshake() != nil {
		return
	}
	kw = h.ehlo
	if kw == nil {
		kw = []string{"SIZE 100000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"}
	}
	h.talk(tc, kw)
}

// talk serves commands; true means that STARTTLS was agreed on.
func (h *host) talk(c net.Conn, keywords []string) bool {
	br := bufio.NewReader(c)
	for hellos := 0; ; {
		line, err := br.ReadString('\n')
		if err != nil {
			return false
		}
		line = strings.TrimRight(line, "\r\n")
		h.mu.Lock()
		h.commands = append(h.commands, line)
		h.mu.Unlock()
		verb, _, _ := strings.Cut(line, " ")
		if verb == h.hang {
			<-h.done
		}
		if verb == h.drop || verb == h.hang {
			return false
		}
		reply := h.reply(verb, line, keywords)
		if verb == "EHLO" {
			if hellos++; h.one && hellos > 1 {
				reply = "503 5.5.1 already said"
			}
		}
		fmt.Fprintf(c, "%s\r\n", reply)
		switch {
		case verb == "STARTTLS":
			return strings.HasPrefix(reply, "220")
		case verb == "QUIT", strings.HasPrefix(reply, "421"):
			return false
		case verb == "DATA" && strings.HasPrefix(reply, "354"):
			if !h.message(c, br) {
				return false
			}
		}
	}
}

func (h *host) reply(verb, line string, keywords []string) string {
	if r, ok := h.rcpt[line]; ok {
		return r
	}
	if r, ok := h.replies[verb]; ok {
		return r
	}
	switch verb {
	case "EHLO":
		return strings.Join(append([]string{"250-mx.a.test"}, keywords...), "\r\n250-") + "\r\n250 HELP"
	case "DATA":
		return "354 go on"
	case "QUIT":
		return "221 2.0.0 bye"
	case "STARTTLS":
		if h.starttls != "" {
			return h.starttls
		}
		return "220 go"
	}
	return "250 2.0.0 ok"
}

// message reads up to the final dot and keeps the bytes as they came.
func (h *host) message(c net.Conn, br *bufio.Reader) bool {
	if h.stall {
		<-h.done
		return false
	}
	var raw bytes.Buffer
	for !bytes.HasSuffix(raw.Bytes(), []byte("\r\n.\r\n")) && raw.String() != ".\r\n" {
		b, err := br.ReadByte()
		if err != nil {
			return false
		}
		raw.WriteByte(b)
		if h.slurp > 0 && raw.Len() >= h.slurp {
			return false
		}
	}
	h.mu.Lock()
	h.messages = append(h.messages, raw.Bytes()[:raw.Len()-3])
	h.mu.Unlock()
	if h.hang == "." {
		<-h.done
	}
	if h.drop == "." || h.hang == "." {
		return false
	}
	r, ok := h.replies["."]
	if !ok {
		r = "250 2.0.0 queued as 17"
	}
	fmt.Fprintf(c, "%s\r\n", r)
	return true
}
