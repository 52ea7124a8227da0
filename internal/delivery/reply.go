package delivery

import (
	"errors"
	"fmt"
	"net/textproto"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/phigate/phigate/tlscheck"
)

// Reply is what the peer said about one recipient. Code 0 means that nothing was
// said. It prints as its codes alone: the text may repeat an address.
type Reply struct {
	Code     int    // 250, 4xx, 5xx
	Enhanced string // "2.0.0" or "" (RFC 3463)
	Text     string `json:"-"` // the peer's words

	refused bool // at RCPT
}

// Accepted reports whether the peer took the message for this recipient.
func (r Reply) Accepted() bool { return r.Code/100 == 2 }

// Class is Transport for a reply that asks to try again and Permanent for one
// that does not. It means nothing for an accepted recipient.
func (r Reply) Class() tlscheck.FailureClass {
	if r.Code/100 == 5 {
		return tlscheck.Permanent
	}
	return tlscheck.Transport
}

// Format prints the codes under every verb.
func (r Reply) Format(f fmt.State, _ rune) {
	fmt.Fprint(f, strings.TrimSpace(fmt.Sprintf("%d %s", r.Code, r.Enhanced)))
}

// replyOf returns the refusal that err is, if the peer gave one. A code that is
// none, such as 250 for DATA, means that peer and client no longer talk about
// the same thing.
func replyOf(err error) (Reply, bool) {
	var e *smtp.SMTPError
	if !errors.As(err, &e) || e.Code/100 != 4 && e.Code/100 != 5 {
		return Reply{}, false
	}
	r := Reply{Code: e.Code, Text: e.Message}
	if e.EnhancedCode != (smtp.EnhancedCode{}) && e.EnhancedCode != smtp.NoEnhancedCode {
		r.Enhanced = fmt.Sprintf("%d.%d.%d", e.EnhancedCode[0], e.EnhancedCode[1], e.EnhancedCode[2])
	}
	return r, true
}

func toReply(err error) Reply { r, _ := replyOf(err); return r }

// accepted is the reply to a message that was taken; the client keeps its text
// only.
func accepted(text string) Reply {
	r := Reply{Code: 250, Text: text}
	if word, rest, _ := strings.Cut(text, " "); enhanced(word) {
		r.Enhanced, r.Text = word, rest
	}
	return r
}

// enhanced reports whether s is an enhanced status code of success.
func enhanced(s string) bool {
	var class, subject, detail int
	n, err := fmt.Sscanf(s, "%d.%d.%d", &class, &subject, &detail)
	return err == nil && n == 3 && fmt.Sprintf("%d.%d.%d", class, subject, detail) == s && class == 2
}

// failure classes an error of the client: a reply by its code, anything else as
// a lost connection, which ends the session.
func (s *session) failure(err error, at string) *tlscheck.Failure {
	r, ok := replyOf(err)
	if !ok {
		s.fail(err)
		return &tlscheck.Failure{Class: tlscheck.Transport, Reason: "connection lost at " + at, Err: quiet(err)}
	}
	// 421 announces that the peer hangs up, whatever was asked (RFC 5321 §3.8).
	if r.Code == 421 {
		s.fail(errHungUp)
	}
	f := &tlscheck.Failure{Class: r.Class(), Reason: fmt.Sprintf("%s answered with %v", at, r),
		Said: tlscheck.Said{Code: r.Code, Enhanced: r.Enhanced, Text: r.Text}}
	if f.Class == tlscheck.Permanent {
		f.Code, f.Enhanced = r.Code, r.Enhanced
	}
	return f
}

var (
	errHungUp    = errors.New("peer hung up")
	errMalformed = errors.New("peer's reply is not one that could be given here")
)

// quiet drops errors that quote the peer.
func quiet(err error) error {
	var protocol textproto.ProtocolError
	var e *smtp.SMTPError
	if errors.As(err, &protocol) || errors.As(err, &e) {
		return errMalformed
	}
	return err
}
