// Package delivery holds one SMTP conversation over a connection that tlscheck
// made: [Open] over a proved one, [OpenPlain] over an open one. The sessions
// take different types of mail, so that a message with a floor cannot be written
// to a connection that proved nothing.
//
// The bytes of a message go out as they are, but for dot-stuffing (RFC 5321
// §4.5.2): what was signed is what arrives.
package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/phigate/phigate/tlscheck"
)

// Mail is one message with a floor, for recipients of one domain. It prints as
// [phi].
type Mail struct {
	From     string   // envelope sender, "" for a bounce
	To       []string // envelope recipients
	Data     []byte   // canonical: CRLF ends every line, the last one too, and stands nowhere else
	UTF8     bool     // needs SMTPUTF8 (RFC 6531)
	EightBit bool     // needs 8BITMIME (RFC 6152)
	DSN      DSN
}

// DSN are the wishes of RFC 3461. A peer without the extension never hears them.
type DSN struct {
	EnvelopeID string // ENVID, must not show whom the mail is about
	Notify     string // NOTIFY as it was given, such as "SUCCESS,FAILURE"; "" is the default
	ORcpt      string // ORCPT with its type, "rfc822;ann@clinic.example"; "" if none
	Headers    bool   // RET=HDRS: a bounce must not carry the body back
}

// PlainMail is a message without a floor: a notice, a DSN, mail that is open by
// policy. It is a type of its own so that a Mail cannot become one by accident.
type PlainMail struct {
	From     string
	To       []string
	Data     []byte
	UTF8     bool
	EightBit bool
	DSN      DSN
}

// Format prints [phi] under every verb.
func (Mail) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// LogValue keeps messages out of logs.
func (Mail) LogValue() slog.Value { return slog.StringValue("[phi]") }

// MarshalJSON keeps messages out of JSON.
func (Mail) MarshalJSON() ([]byte, error) { return []byte(`"[phi]"`), nil }

// Format prints [phi] under every verb.
func (PlainMail) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// LogValue keeps messages out of logs.
func (PlainMail) LogValue() slog.Value { return slog.StringValue("[phi]") }

// MarshalJSON keeps messages out of JSON.
func (PlainMail) MarshalJSON() ([]byte, error) { return []byte(`"[phi]"`), nil }

// Session speaks SMTP over a proved connection, one message after the other. It
// is not safe for concurrent use.
type Session struct{ session }

// PlainSession speaks SMTP over an open connection.
type PlainSession struct{ session }

type session struct {
	conn   *guarded
	client *smtp.Client
	hello  string
	dead   error         // why the session can no longer be used
	dirty  bool          // a transaction was begun and not finished
	quit   time.Duration // how long to wait for the answer to QUIT
}

const (
	helloTimeout = 2 * time.Minute
	quitTimeout  = 5 * time.Second
)

// Open says EHLO with the name hello over a proved connection. On error, a
// *tlscheck.Failure, the connection is closed.
func Open(c *tlscheck.Conn, hello string) (*Session, error) {
	g := &guarded{Conn: c}
	s := &Session{session{conn: g, client: smtp.NewClient(g), hello: hello, quit: quitTimeout}}
	return s, s.greet()
}

// OpenPlain says EHLO, or HELO to those who know no better, over an open
// connection. On error, a *tlscheck.Failure, the connection is closed.
func OpenPlain(c *tlscheck.OpenConn, hello string) (*PlainSession, error) {
	g := &guarded{Conn: c}
	s := &PlainSession{session{conn: g, client: smtp.NewClient(g), hello: hello, quit: quitTimeout}}
	return s, s.greet()
}

// Send delivers one message and returns one reply per recipient, in order: that
// to RCPT if it was refused, else that to the message. An error, always a
// *tlscheck.Failure, is about the whole message: then it went to nobody, unless
// the class is Indeterminate, and the replies hold what was said so far. The
// session stays usable after a refusal, not after a lost connection.
func (s *Session) Send(ctx context.Context, m Mail) ([]Reply, error) { return s.send(ctx, m) }

// Send is that of Session, for mail without a floor.
func (s *PlainSession) Send(ctx context.Context, m PlainMail) ([]Reply, error) {
	return s.send(ctx, Mail(m))
}

// Close says QUIT, waits for the answer for a few seconds, and closes the
// connection. It returns nothing worth acting on but is an io.Closer.
func (s *session) Close() error {
	if s.dead == nil {
		ctx, cancel := context.WithTimeout(context.Background(), s.quit)
		defer cancel()
		defer s.conn.watch(ctx)()
		s.client.Quit()
	}
	s.fail(errClosed)
	return nil
}

// Usable reports whether another message may be sent.
func (s *session) Usable() bool { return s.dead == nil }

var (
	errClosed    = errors.New("session is closed")
	errCanonical = errors.New("message is not canonical: a bare CR or LF, a NUL, or no CRLF at its end")
)

// fail ends the session. The connection is closed at once: whatever is still in
// the client's buffers must not follow.
func (s *session) fail(why error) {
	if s.dead == nil {
		s.dead = why
		s.conn.end()
	}
}

func (s *session) greet() error {
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	defer cancel()
	defer s.conn.watch(ctx)()
	if err := s.ehlo(); err != nil {
		f := s.failure(err, "EHLO")
		s.fail(err)
		if f.Class == tlscheck.Permanent {
			f.Class = tlscheck.Transport // a host that refuses us is not the domain's last word
		}
		return f
	}
	return nil
}

func (s *session) ehlo() error {
	s.conn.fold.on = true
	defer func() { s.conn.fold.on = false }()
	return s.client.Hello(s.hello)
}

func (s *session) send(ctx context.Context, m Mail) ([]Reply, error) {
	if s.dead != nil {
		return nil, &tlscheck.Failure{Class: tlscheck.Transport, Reason: "session is over", Err: s.dead}
	}
	defer s.conn.watch(ctx)()
	if f := s.unfit(m); f != nil {
		return nil, f
	}
	if f := s.begin(m); f != nil {
		return nil, f
	}
	replies, accepted, f := s.recipients(m)
	if f != nil || accepted == 0 {
		return replies, orNil(f)
	}
	last, f := s.data(m.Data)
	for i := range replies {
		if !replies[i].refused {
			replies[i] = last
		}
	}
	return replies, orNil(f)
}

// orNil keeps a nil *Failure from becoming an error that is not nil.
func orNil(f *tlscheck.Failure) error {
	if f == nil {
		return nil
	}
	return f
}

// unfit is why the peer cannot take such a message, found before a word of it
// is said.
func (s *session) unfit(m Mail) *tlscheck.Failure {
	utf8 := m.needsUTF8()
	has := func(ext string) bool { ok, _ := s.client.Extension(ext); return ok }
	size, limited := s.client.MaxMessageSize()
	switch {
	case !canonical(m.Data):
		return &tlscheck.Failure{Class: tlscheck.Permanent, Reason: "refused to send", Code: 550, Enhanced: "5.6.11", Err: errCanonical}
	case len(m.To) == 0:
		return &tlscheck.Failure{Class: tlscheck.Permanent, Reason: "message has no recipient", Code: 554, Enhanced: "5.5.1"}
	case !mailbox(m.From) || slices.ContainsFunc(m.To, func(a string) bool { return a == "" || !mailbox(a) }):
		return permanent("an address of the envelope is malformed", "RFC 5321 §4.1.2", 553, "5.1.3")
	case utf8 && !has("SMTPUTF8"):
		return permanent("peer lacks SMTPUTF8", "RFC 6531 §3.2", 550, "5.6.7")
	case m.EightBit && !has("8BITMIME"):
		return permanent("peer lacks 8BITMIME", "RFC 6152 §3", 554, "5.6.3")
	case limited && size > 0 && len(m.Data) > size:
		return permanent("message is larger than the peer takes", "RFC 1870 §6.1", 552, "5.3.4")
	}
	return nil
}

func permanent(reason, rfc string, code int, enhanced string) *tlscheck.Failure {
	return &tlscheck.Failure{Class: tlscheck.Permanent, Reason: reason, RFC: rfc, Code: code, Enhanced: enhanced}
}

// canonical reports whether data can be sent byte for byte: a stray CR or LF
// would come out changed, or as the end of the message (SMTP smuggling).
func canonical(data []byte) bool {
	if !bytes.HasSuffix(data, []byte("\r\n")) || bytes.IndexByte(data, 0) >= 0 {
		return false
	}
	for rest := data; len(rest) > 0; {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			return true
		}
		if rest[i] != '\r' || i+1 >= len(rest) || rest[i+1] != '\n' {
			return false
		}
		rest = rest[i+2:]
	}
	return true
}

// needsUTF8 reports whether only a peer with SMTPUTF8 may have the message.
func (m Mail) needsUTF8() bool {
	return m.UTF8 || !ascii(m.From) || slices.ContainsFunc(m.To, func(a string) bool { return !ascii(a) })
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7e })
}

// mailbox reports whether an address can stand between angle brackets: what
// would end it or the line may occur in quotes at most (RFC 5321 §4.1.2).
func mailbox(a string) bool {
	quoted, escaped := false, false
	for _, r := range a {
		switch {
		case r < ' ' || r == 0x7f:
			return false
		case escaped:
			escaped = false
		case quoted && r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case !quoted && (r == '<' || r == '>' || r == ' '):
			return false
		}
	}
	return !quoted
}

// begin clears what a refused message left behind and says MAIL. After a clean
// 250 there is nothing to clear, and RSET would cost two round trips.
func (s *session) begin(m Mail) *tlscheck.Failure {
	if s.dirty {
		err := s.client.Reset()
		if err == nil {
			err = s.ehlo() // the client forgets its EHLO with RSET
		}
		if err != nil {
			s.fail(err)
			return s.failure(err, "RSET")
		}
	}
	s.dirty = true
	o := &smtp.MailOptions{Size: int64(len(m.Data)), UTF8: m.needsUTF8(), EnvelopeID: m.DSN.EnvelopeID}
	if m.DSN.Headers {
		o.Return = smtp.DSNReturnHeaders
	}
	if err := s.client.Mail(m.From, o); err != nil {
		return s.failure(err, "MAIL")
	}
	return nil
}

// RelaysDSN reports whether the peer was told the wishes of RFC 3461, and so
// answers for them once it took a message.
func (s *session) RelaysDSN() bool { ok, _ := s.client.Extension("DSN"); return ok }

// rcpt are the wishes about one recipient. An ORCPT that could not be written
// again is left out, as any relay may (RFC 3461 §5.2.1 asks for the same one).
func (d DSN) rcpt() *smtp.RcptOptions {
	o := &smtp.RcptOptions{}
	for word := range strings.SplitSeq(d.Notify, ",") {
		if word != "" {
			o.Notify = append(o.Notify, smtp.DSNNotify(word))
		}
	}
	kind, to, _ := strings.Cut(d.ORcpt, ";")
	if strings.EqualFold(kind, string(smtp.DSNAddressTypeRFC822)) && ascii(to) && mailbox(to) {
		o.OriginalRecipientType, o.OriginalRecipient = smtp.DSNAddressTypeRFC822, to
	}
	return o
}

// recipients says RCPT for each recipient and returns how many were accepted.
func (s *session) recipients(m Mail) ([]Reply, int, *tlscheck.Failure) {
	o := m.DSN.rcpt()
	replies, accepted := make([]Reply, len(m.To)), 0
	for i, to := range m.To {
		err := s.client.Rcpt(to, o)
		if err == nil {
			accepted++
			continue
		}
		r, ok := replyOf(err)
		if !ok {
			return replies[:i], accepted, s.failure(err, "RCPT")
		}
		if r.refused = true; r.Code == 421 {
			return replies[:i], accepted, s.failure(err, "RCPT")
		}
		replies[i] = r
	}
	return replies, accepted, nil
}

// data sends the message. A connection lost before the final dot leaves nothing
// behind; lost after it, the peer may have the message or not.
func (s *session) data(data []byte) (Reply, *tlscheck.Failure) {
	w, err := s.client.Data()
	if err != nil {
		return toReply(err), s.failure(err, "DATA")
	}
	if _, err := w.Write(data); err != nil {
		s.fail(err) // and never w.Close: it would send the dot
		return Reply{}, s.failure(err, "the message")
	}
	resp, err := w.CloseWithResponse()
	if err == nil {
		s.dirty = false
		return accepted(resp.StatusText), nil
	}
	if r, ok := replyOf(err); ok {
		return r, s.failure(err, "the message")
	}
	s.fail(err)
	return Reply{}, &tlscheck.Failure{Class: tlscheck.Indeterminate, RFC: "RFC 1047", Reason: "no reply to the end of the message", Err: quiet(err)}
}
