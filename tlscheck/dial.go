package tlscheck

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/phigate/phigate/policy"
)

// talkTimeout bounds each reply and the handshake. RFC 5321 §4.5.3.2.1 would
// have us wait 5 minutes for a greeting; a worker is worth more than such a peer.
const talkTimeout = 2 * time.Minute

// syntheticGreeting opens what a Conn is read as: the peer's own greeting came
// before TLS and is forgotten (RFC 3207 §4.2), an SMTP client waits for one.
const syntheticGreeting = "220 ready\r\n"

// Conn is a TLS connection that met its target's floor. Only Dial makes one.
// The first read yields a greeting, then comes what the peer sends: say EHLO.
// The zero Conn refuses every use.
type Conn struct{ link }

// OpenConn is a connection for mail without a floor: encrypted if the peer can,
// clear if not. Only DialOpen makes one. It reads as a Conn does.
type OpenConn struct{ link }

// link is a net.Conn behind a synthetic greeting, with its evidence.
type link struct {
	conn     net.Conn
	greeting []byte
	evidence Evidence
}

var errNoConn = errors.New("connection was not made by tlscheck")

// Evidence is what the connection proved when it was made.
func (l *link) Evidence() Evidence { return l.evidence }

func (l *link) Read(p []byte) (int, error) {
	if l.conn == nil {
		return 0, errNoConn
	}
	if len(l.greeting) > 0 {
		n := copy(p, l.greeting)
		l.greeting = l.greeting[n:]
		return n, nil
	}
	return l.conn.Read(p)
}

func (l *link) Write(p []byte) (int, error) {
	if l.conn == nil {
		return 0, errNoConn
	}
	return l.conn.Write(p)
}

func (l *link) Close() error {
	if l.conn == nil {
		return errNoConn
	}
	return l.conn.Close()
}

func (l *link) LocalAddr() net.Addr {
	if l.conn == nil {
		return nil
	}
	return l.conn.LocalAddr()
}

func (l *link) RemoteAddr() net.Addr {
	if l.conn == nil {
		return nil
	}
	return l.conn.RemoteAddr()
}

func (l *link) SetDeadline(t time.Time) error      { return l.deadline(net.Conn.SetDeadline, t) }
func (l *link) SetReadDeadline(t time.Time) error  { return l.deadline(net.Conn.SetReadDeadline, t) }
func (l *link) SetWriteDeadline(t time.Time) error { return l.deadline(net.Conn.SetWriteDeadline, t) }

func (l *link) deadline(set func(net.Conn, time.Time) error, t time.Time) error {
	if l.conn == nil {
		return errNoConn
	}
	return set(l.conn, t)
}

// Dial connects to a target and proves it: greeting, EHLO, STARTTLS, handshake,
// certificate, strength. It tries the addresses in turn and returns the first
// connection that meets the floor and every live policy; there is no way back to
// clear text. The Evidence is that of the last attempt, also on error. The error
// is a *Failure, PolicyFail only if every address gave one.
func (c *Checker) Dial(ctx context.Context, t Target) (*Conn, Evidence, error) {
	return dialEach(ctx, c, t, func(ip netip.Addr) (*Conn, Evidence, *Failure) {
		l, e, f := c.secure(ctx, t, ip)
		if f != nil {
			return nil, e, f
		}
		return &Conn{*l}, e, nil
	})
}

// DialOpen connects to a target for mail that has no floor: with TLS if the peer
// can, else, on a new connection, in clear. Where DANE or MTA-STS demand TLS
// there is no clear text and no unproved peer either (RFC 8461 §5, RFC 7672
// §2.2). A target with a floor is refused.
func (c *Checker) DialOpen(ctx context.Context, t Target) (*OpenConn, Evidence, error) {
	if !t.Floor.IsOpen() {
		return nil, Evidence{}, &Failure{Class: PolicyFail, Reason: "mail with a floor does not travel on an open connection"}
	}
	return dialEach(ctx, c, t, func(ip netip.Addr) (*OpenConn, Evidence, *Failure) {
		l, e, f := c.secure(ctx, t, ip)
		if f != nil && f.tls && !t.MX.NeedTLS {
			l, e, f = c.clear(ctx, t, ip)
		}
		if f != nil {
			return nil, e, f
		}
		return &OpenConn{*l}, e, nil
	})
}

// dialEach tries the addresses of a target in turn.
func dialEach[C any](ctx context.Context, c *Checker, t Target, try func(netip.Addr) (*C, Evidence, *Failure)) (*C, Evidence, error) {
	e := Evidence{Domain: t.Domain, MX: t.MX.Host}
	if t.MX.Skip != nil {
		return nil, e, t.MX.Skip
	}
	fs := []*Failure{}
	for _, ip := range t.MX.Addrs {
		conn, got, f := try(ip)
		if f == nil {
			return conn, got, nil
		}
		e, fs = got, append(fs, f)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, e, worst(fs)
}

// talk is one SMTP conversation before TLS.
type talk struct {
	conn     net.Conn
	br       *bufio.Reader
	deadline time.Time
	stop     func() bool // ends the watch on the context
}

// greet connects and reads the greeting. What a peer says before TLS is
// unauthenticated, so that no reply here ends a message: a refusal is Transport.
func (c *Checker) greet(ctx context.Context, t Target, ip netip.Addr) (*talk, *Failure) {
	conn, err := c.connect(ctx, "tcp", ip, t.MX.Port)
	if err != nil {
		return nil, &Failure{Class: Transport, Reason: "could not connect", Err: err}
	}
	k := &talk{conn: conn, br: bufio.NewReaderSize(conn, replyLine)}
	k.deadline, _ = ctx.Deadline()
	k.stop = context.AfterFunc(ctx, func() { conn.Close() })
	if _, f := k.expect(220, "greeting"); f != nil {
		k.close()
		return nil, f
	}
	return k, nil
}

// hello says EHLO. A peer that does not know the word has no STARTTLS either.
func (k *talk) hello(name string) (reply, *Failure) {
	r, f := k.say("EHLO "+name, 0, "EHLO")
	if f == nil && r.code/100 == 4 {
		f = refused("EHLO", r)
	}
	return r, f
}

func (k *talk) close() {
	k.stop()
	k.conn.Close()
}

// say sends a line and reads the reply; want 0 takes any code.
func (k *talk) say(line string, want int, what string) (reply, *Failure) {
	if k.br.Buffered() > 0 {
		return reply{}, injected()
	}
	k.arm()
	if _, err := k.conn.Write([]byte(line + "\r\n")); err != nil {
		return reply{}, &Failure{Class: Transport, Reason: "connection lost at " + what, Err: err}
	}
	return k.expect(want, what)
}

// arm sets the deadline of the next exchange.
func (k *talk) arm() {
	d := time.Now().Add(talkTimeout)
	if !k.deadline.IsZero() && k.deadline.Before(d) {
		d = k.deadline
	}
	k.conn.SetDeadline(d)
}

func (k *talk) expect(want int, what string) (reply, *Failure) {
	k.arm()
	r, err := readReply(k.br)
	switch {
	case err != nil:
		return r, &Failure{Class: Transport, Reason: "no proper reply to " + what, Err: err}
	case want != 0 && r.code != want:
		return r, refused(what, r)
	}
	return r, nil
}

func refused(what string, r reply) *Failure {
	return &Failure{Class: Transport, Reason: fmt.Sprintf("%s answered with %d", what, r.code), Said: r.said()}
}

// injected is a peer, or somebody before it, that speaks out of turn: what was
// said in clear would be read as if it came through TLS (CVE-2021-38371).
func injected() *Failure {
	return &Failure{Class: PolicyFail, RFC: "RFC 3207 §4.2", TLSRPT: "validation-failure", Reason: "bytes arrived ahead of their turn: an injection"}
}

// secure opens a connection and proves it.
func (c *Checker) secure(ctx context.Context, t Target, ip netip.Addr) (*link, Evidence, *Failure) {
	e := Evidence{Domain: t.Domain, MX: t.MX.Host, IP: ip.String(), SNI: t.MX.SNI, PolicyID: t.Policy.ID, PolicyMode: t.Policy.Mode}
	k, f := c.greet(ctx, t, ip)
	if f != nil {
		e.note("connect", f.RFC, "%v", f)
		return nil, e, f
	}
	ehlo, f := k.hello(c.hostname)
	if f != nil {
		k.close()
		e.note("connect", f.RFC, "%v", f)
		return nil, e, f
	}
	conn, f := c.startTLS(ctx, k, ehlo, t, &e)
	if f != nil {
		k.close()
		e.note("STARTTLS", f.RFC, "%v", f)
		f.tls = true
		return nil, e, f
	}
	return k.hand(ctx, conn, e)
}

// startTLS negotiates STARTTLS and the handshake. Every failure but a lost
// connection or a temporary refusal is PolicyFail.
func (c *Checker) startTLS(ctx context.Context, k *talk, ehlo reply, t Target, e *Evidence) (net.Conn, *Failure) {
	if ehlo.code != 250 || !ehlo.offers("STARTTLS") {
		e.Assurance = policy.AssuranceNone
		return nil, &Failure{Class: PolicyFail, RFC: "RFC 3207 §4", TLSRPT: "starttls-not-supported", Reason: "peer does not offer STARTTLS"}
	}
	r, f := k.say("STARTTLS", 0, "STARTTLS")
	switch {
	case f != nil:
		return nil, f
	case r.code/100 == 4:
		return nil, refused("STARTTLS", r)
	case r.code != 220:
		e.Assurance = policy.AssuranceNone
		return nil, &Failure{Class: PolicyFail, RFC: "RFC 3207 §4", TLSRPT: "starttls-not-supported", Reason: fmt.Sprintf("STARTTLS answered with %d", r.code)}
	case k.br.Buffered() > 0:
		return nil, injected()
	}
	return c.handshake(ctx, k, t, e)
}

// handshake runs TLS and proves the peer inside it, in VerifyConnection, so that
// an unproved peer never sees a finished handshake. TLS 1.2 settles the group
// only later; such a connection is judged once more when it stands. There is no
// resumption (no client cache) and no renegotiation (crypto/tls's default).
func (c *Checker) handshake(ctx context.Context, k *talk, t Target, e *Evidence) (net.Conn, *Failure) {
	before := *e
	var verdict *Failure
	judge := func(cs tls.ConnectionState) error {
		*e = before
		if verdict = c.prove(t, cs, e); verdict != nil {
			return verdict
		}
		return nil
	}
	cfg := &tls.Config{
		ServerName:         t.MX.SNI,
		InsecureSkipVerify: true, // judge verifies instead: DANE needs its own rules
		VerifyConnection:   judge,
		Time:               c.now,
	}
	offer(cfg, max(t.hello, t.Floor.Max(policy.Open).Strength))
	k.arm()
	conn := tls.Client(k.conn, cfg)
	err := conn.HandshakeContext(ctx)
	if cs := conn.ConnectionState(); err == nil && cs.Version < tls.VersionTLS13 {
		err = judge(cs)
	}
	switch {
	case err == nil:
		return conn, nil
	case verdict != nil:
		return nil, verdict
	}
	*e = before // a handshake that broke after the proof proves nothing
	f := handshakeFailure(err)
	if f.Class == PolicyFail {
		e.Assurance = policy.AssuranceNone
	}
	return nil, f
}

// handshakeFailure tells a peer that will not do such TLS (PolicyFail) from a
// connection that broke (Transport). Neither leads to clear text.
func handshakeFailure(err error) *Failure {
	f := &Failure{Class: PolicyFail, RFC: "RFC 3207 §4.1", TLSRPT: "validation-failure", Reason: "TLS handshake failed", Err: err}
	var op *net.OpError
	alert := errors.As(err, &op) && op.Op == "remote error" // crypto/tls has no type for an alert
	var ne net.Error
	if !alert && (errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled)) {
		f.Class, f.TLSRPT = Transport, ""
	}
	return f
}

// clear opens a connection for mail without a floor that stays in clear. It
// leaves EHLO to the client: some servers take only one (OpenSMTPD says 503).
func (c *Checker) clear(ctx context.Context, t Target, ip netip.Addr) (*link, Evidence, *Failure) {
	e := Evidence{Domain: t.Domain, MX: t.MX.Host, IP: ip.String(), Assurance: policy.AssuranceNone, Strength: policy.StrengthWeak}
	k, f := c.greet(ctx, t, ip)
	if f != nil {
		return nil, e, f
	}
	e.note("TLS", "RFC 3207 §4", "none: the message has no floor and the peer's TLS is missing or broken")
	return k.hand(ctx, k.conn, e)
}

// hand ends the watch and the deadlines and gives the connection away.
func (k *talk) hand(ctx context.Context, conn net.Conn, e Evidence) (*link, Evidence, *Failure) {
	if !k.stop() { // the context ended and closed the connection
		conn.Close()
		return nil, e, interrupted(ctx.Err())
	}
	conn.SetDeadline(time.Time{})
	return &link{conn, []byte(syntheticGreeting), e}, e, nil
}
