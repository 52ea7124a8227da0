package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// maxLine is the longest line taken from a client. RFC 5321 §4.5.3.1.6 asks for
// 1,000 octets, but marketing tools send HTML in one line. What a stranger can
// make us buffer is bounded by strangerQuota instead.
const maxLine = 1 << 20

// maxFailures is how many wrong passwords one connection may try.
const maxFailures = 3

// frontDoor is the SMTP server of one listener.
func (g *Gateway) frontDoor(l Listen) *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{g: g, listen: l, conn: c, client: remoteAddr(c.Conn())}, nil
	}))
	s.Domain = g.cfg.Hostname
	s.MaxRecipients = g.cfg.Limits.Recipients
	s.MaxMessageBytes = int64(g.cfg.Limits.MessageSize) + 1 // go-smtp refuses a message of exactly this size
	s.MaxLineLength = maxLine
	s.ReadTimeout = time.Duration(g.cfg.Limits.Timeout)
	s.WriteTimeout = time.Duration(g.cfg.Limits.Timeout)
	s.EnableSMTPUTF8 = true
	s.EnableDSN = true
	s.AllowInsecureAuth = l.TLS == TLSNone // its networks are named and trusted
	s.ErrorLog = quiet                     // it would print peers' texts and panics
	if l.TLS == TLSStart {
		s.TLSConfig = g.serverTLS()
	}
	return s
}

// serverTLS is the TLS of the SMTP listeners; the certificate is looked up for
// each handshake, so that a reload changes it.
func (g *Gateway) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return g.cert.Load(), nil
		},
	}
}

// session is one client's conversation. go-smtp makes a new one after STARTTLS,
// so nothing said in clear outlives it (RFC 3207 §4.2).
type session struct {
	g        *Gateway
	listen   Listen
	conn     *smtp.Conn
	client   netip.Addr
	login    string // the SMTP AUTH user, "" before; a reload may take its rights away
	failures int

	mu    sync.Mutex
	from  *Submission // the message being received, nil before MAIL; guarded by mu, as go-smtp reads BDAT beside RSET
	known []recipient // its recipients so far; guarded by mu
}

// recipient is one accepted RCPT.
type recipient struct {
	address policy.Address
	notify  string
	orcpt   string
	about   registry.Description
}

var (
	_ smtp.AuthSession = (*session)(nil)
)

func (s *session) Reset()        { s.begin(nil) }
func (s *session) Logout() error { return nil }

// begin starts a message; nil forgets the one being received.
func (s *session) begin(sub *Submission) {
	s.mu.Lock()
	s.from, s.known = sub, nil
	s.mu.Unlock()
}

// submission is the message being received, false if it was forgotten.
func (s *session) submission() (Submission, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.from == nil {
		return Submission{}, false
	}
	sub := *s.from
	sub.recipients = s.known
	return sub, true
}

// AuthMechanisms offers nothing where a password could be overheard.
func (s *session) AuthMechanisms() []string {
	if !s.safe() {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
}

func (s *session) Auth(mech string) (sasl.Server, error) {
	if !s.safe() {
		return nil, s.refuse("HG-R801")
	}
	check := func(name, password string) error { return s.logIn(name, password) }
	switch mech {
	case sasl.Plain:
		return sasl.NewPlainServer(func(identity, name, password string) error {
			if identity != "" && identity != name {
				return smtp.ErrAuthFailed
			}
			return check(name, password)
		}), nil
	case sasl.Login:
		return &loginServer{check: check}, nil
	}
	return nil, smtp.ErrAuthUnknownMechanism
}

// logIn checks a password. A wrong one costs time, more each time, and in the
// end the connection.
func (s *session) logIn(name, password string) error {
	ctx, cancel := s.g.requestContext()
	defer cancel()
	sender, known := s.g.rules().SenderByLogin(name)
	err := s.g.registry.CheckPassword(ctx, sender.Name, password) // an unknown name costs the same time
	switch {
	case err != nil && !errors.Is(err, registry.ErrPassword):
		s.g.log.Error("credentials unreadable", "err", err)
		return &smtp.SMTPError{Code: 454, EnhancedCode: smtp.EnhancedCode{4, 7, 0}, Message: "Temporary authentication failure"}
	case err == nil && known:
		s.login = name
		s.welcome()
		return nil
	}
	s.failures++
	s.g.metrics.authFailures.Inc()
	s.g.log.Warn("login failed", "client", s.client)
	pause(ctx, s.g.failures.pause(s.client))
	if s.failures >= maxFailures {
		s.say(421, "4.7.0", "Too many failed logins, closing connection")
		s.conn.Close()
	}
	return smtp.ErrAuthFailed
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// loginServer is AUTH LOGIN, which old marketing tools speak alone and go-sasl
// dropped. It asks twice (draft-murchison-sasl-login-00).
type loginServer struct {
	check func(name, password string) error
	name  string
	asked int
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch l.asked {
	case 0:
		l.asked = 1
		if response == nil { // no initial response
			return []byte("Username:"), false, nil
		}
		fallthrough
	case 1:
		l.asked, l.name = 2, string(response)
		return []byte("Password:"), false, nil
	case 2:
		l.asked = 3
		return nil, true, l.check(l.name, string(response))
	}
	return nil, false, smtp.ErrAuthFailed
}

// Mail answers MAIL FROM: TLS, then who it is, then what it may write from.
func (s *session) Mail(from string, o *smtp.MailOptions) error {
	s.Reset()
	sub := Submission{Client: s.client, Helo: s.conn.Hostname(), From: policy.Address(from), UTF8: o.UTF8,
		EightBit: o.Body == smtp.Body8BitMIME, EnvID: o.EnvelopeID, DSNFull: o.Return == smtp.DSNReturnFull}
	if state, isTLS := s.conn.TLSConnectionState(); isTLS {
		sub.TLS = &state
	}
	if !s.safe() {
		return s.refuse("HG-R801")
	}
	if sub.Sender = s.who(sub.From); sub.Sender == nil {
		return s.refuse("HG-R802")
	}
	s.welcome()
	if from != "" && !sub.Sender.MayUse(sub.From) {
		ctx, cancel := s.g.requestContext()
		defer cancel()
		return s.g.turnDown(ctx, sub, codeReply("HG-R803", s.g.ids.New(s.g.clock())), "HG-R803").smtp()
	}
	s.begin(&sub)
	return nil
}

// safe reports whether mail and passwords may be said here: under TLS, or in
// clear from a network that the listener names.
func (s *session) safe() bool {
	_, isTLS := s.conn.TLSConnectionState()
	return isTLS || s.listen.TLS == TLSNone && within(s.listen.Networks, s.client)
}

func within(networks []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// who is the sender: who logged in or, where the listener allows it, one whose
// networks hold the client; the address chooses between several.
func (s *session) who(from policy.Address) *policy.Sender {
	if s.login != "" {
		if c, known := s.g.rules().SenderByLogin(s.login); known {
			return &c
		}
		return nil
	}
	if s.listen.Auth != AuthOptional {
		return nil
	}
	candidates := s.g.rules().SendersAt(s.client)
	for _, c := range candidates {
		if c.MayUse(from) {
			return &c
		}
	}
	if len(candidates) > 0 {
		return &candidates[0]
	}
	return nil
}

// welcome lifts the limits on strangers.
func (s *session) welcome() { s.socket().welcome() }

func (s *session) socket() *conn { return socketOf(s.conn) }

// refuse is the reply of a code before there is a message to decide about.
func (s *session) refuse(code policy.Code) error {
	s.g.metrics.refused.WithLabelValues(string(code)).Inc()
	s.g.log.Info("refused", "code", code, "client", s.client)
	return smtpReply(code, "")
}

// smtpReply is the reply of a code, with the id that finds the decision.
func smtpReply(code policy.Code, id store.ID) *smtp.SMTPError {
	status, enhanced, text := policy.Reply(code)
	return replyError(status, enhanced, text, id)
}

func replyError(status int, enhanced, text string, id store.ID) *smtp.SMTPError {
	if id != "" {
		text += " (id " + string(id) + ")"
	}
	e := &smtp.SMTPError{Code: status, Message: text}
	fmt.Sscanf(enhanced, "%d.%d.%d", &e.EnhancedCode[0], &e.EnhancedCode[1], &e.EnhancedCode[2])
	return e
}

// Rcpt answers RCPT TO: what can be decided now is refused now.
func (s *session) Rcpt(to string, o *smtp.RcptOptions) error {
	address, err := mail.ParseAddress(to)
	if err != nil {
		return &smtp.SMTPError{Code: 501, EnhancedCode: smtp.EnhancedCode{5, 1, 3}, Message: "Bad recipient address"}
	}
	sub, ok := s.submission()
	if !ok {
		return smtp.ErrDataReset
	}
	if slices.ContainsFunc(sub.recipients, func(r recipient) bool { return r.address.Key() == address.Key() }) {
		return nil // once is enough
	}
	ctx, cancel := s.g.requestContext()
	defer cancel()
	if wait, limit := s.g.quotas.take(sub.Sender); wait > 0 {
		return s.overQuota(wait, limit)
	}
	about, refusal := s.g.acceptRecipient(ctx, sub, address)
	if refusal != nil {
		s.g.quotas.giveBack(sub.Sender)
		return refusal
	}
	s.mu.Lock()
	s.known = append(s.known, recipient{address, notifyText(o.Notify), orcptText(o), about})
	s.mu.Unlock()
	return nil
}

func notifyText(n []smtp.DSNNotify) string {
	words := make([]string, len(n))
	for i, w := range n {
		words[i] = string(w)
	}
	return strings.Join(words, ",")
}

func orcptText(o *smtp.RcptOptions) string {
	if o.OriginalRecipient == "" {
		return ""
	}
	return string(o.OriginalRecipientType) + ";" + o.OriginalRecipient
}

// Data takes the message. go-smtp wants the reply as an error, a 250 too.
func (s *session) Data(r io.Reader) (err error) {
	started := s.g.clock()
	defer func() {
		if recover() != nil { // go-smtp would print the value, which may be mail
			s.g.log.Error("panic while accepting a message", "client", s.client)
			err = smtpReply("HG-S902", "")
		}
	}()
	s.socket().work(time.Duration(s.g.cfg.Limits.Timeout))
	defer s.socket().rest()
	body := &bodyReader{s: s, r: r}
	defer body.done()
	sub, ok := s.submission()
	if !ok {
		return smtp.ErrDataReset
	}
	data, err := body.readAll()
	ctx, cancel := s.g.requestContext()
	defer cancel()
	if err != nil {
		_, chunked := r.(*io.PipeReader) // BDAT: go-smtp counts the chunks, whatever is in them
		return s.bodyError(ctx, sub, err, chunked)
	}
	sub.Data = data
	reply := s.g.Accept(ctx, sub)
	s.g.metrics.accept.Observe(s.g.clock().Sub(started).Seconds())
	return reply.smtp()
}

// Errors of reading a body.
var (
	errTooLarge = errors.New("message larger than the limit")
	errNoMemory = errors.New("no memory for the message now")
)

// bodyError is the reply to a body that could not be read. After a bare line end
// or a broken read the rest of the stream cannot be told from commands, unless
// it comes in chunks, so the connection ends; the reply is written by hand, as
// go-smtp would first wait for the end of the body.
func (s *session) bodyError(ctx context.Context, sub Submission, err error, chunked bool) error {
	id := s.g.ids.New(s.g.clock())
	switch {
	case errors.Is(err, smtp.ErrDataReset): // RSET between two BDAT (RFC 3030 §3): nothing is left on the way
		return smtp.ErrDataReset
	case errors.Is(err, errTooLarge):
		return s.g.turnDown(ctx, sub, Reply{552, "5.3.4", "Message exceeds the size limit", id}, "").smtp()
	case errors.Is(err, errNoMemory):
		return s.g.turnDown(ctx, sub, Reply{452, "4.3.1", "No memory for the message now, try again later", id}, "").smtp()
	case chunked && errors.Is(err, mail.ErrBareLine):
		return s.g.turnDown(ctx, sub, malformed(err, id), "").smtp()
	case errors.Is(err, mail.ErrBareLine):
		s.partWith(s.g.turnDown(ctx, sub, malformed(err, id), ""))
	case errors.Is(err, smtp.ErrTooLongLine):
		s.partWith(s.g.turnDown(ctx, sub, Reply{550, "5.6.0", "Line longer than 1 MiB", id}, ""))
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.say(421, "4.4.2", "Waited too long for the message")
	}
	s.conn.Close()
	return &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 4, 2}, Message: "Message broke off"}
}

// partWith gives the last reply on this connection. What the client is still
// sending is thrown away unread for a while: closing at once would have its
// network stack discard the reply, and it would send the same again.
func (s *session) partWith(r Reply) {
	e := r.smtp()
	s.say(e.Code, r.Enhanced, e.Message)
	c := s.socket()
	c.SetReadDeadline(time.Now().Add(lingerFor))
	io.CopyN(io.Discard, c.Conn, int64(s.g.cfg.Limits.MessageSize))
}

// lingerFor is how long a client may go on sending after its last reply.
const lingerFor = 10 * time.Second

func (s *session) say(status int, enhanced, text string) { say(s.conn, status, enhanced, text) }

// say writes a reply past go-smtp, just before the connection is closed.
func say(sc *smtp.Conn, status int, enhanced, text string) {
	c := sc.Conn()
	c.SetWriteDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, "%d %s %s\r\n", status, enhanced, text)
}

// bodyReader reads a body within the limits of size and memory.
type bodyReader struct {
	s        *session
	r        io.Reader
	reserved int64
}

// readAll returns the body with canonical line ends; a bare CR or LF ends it.
func (b *bodyReader) readAll() ([]byte, error) {
	limit := int64(b.s.g.cfg.Limits.MessageSize)
	lines := mail.NewCanonicalReader(b.r, mail.RefuseBare)
	var data []byte
	for {
		if len(data) == cap(data) {
			more := min(max(firstBody, cap(data)), int(limit)+1-len(data)) // the one byte shows that it is too large
			if err := b.reserve(min(int64(more), limit-b.reserved)); err != nil {
				return nil, err
			}
			data = slices.Grow(data, more)
		}
		n, err := lines.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if int64(len(data)) > limit || errors.Is(err, smtp.ErrDataTooLarge) {
			return nil, errTooLarge
		}
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// firstBody is the room first made for a body; it doubles from there.
const firstBody = 16 << 10

func (b *bodyReader) reserve(n int64) error {
	if !b.s.g.memory.take(n) {
		return errNoMemory
	}
	b.reserved += n
	return nil
}

func (b *bodyReader) done() { b.s.g.memory.give(b.reserved) }
