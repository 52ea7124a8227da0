package mail

import (
	"slices"
	"strings"
	"time"
)

// Passage is what the gateway writes into a message on its way through.
type Passage struct {
	Hostname string    // our name in Received and in a Message-ID we have to make
	ID       string    // the id said in the reply
	Protocol string    // RFC 3848 word, such as ESMTPSA; "" is ESMTP
	From     string    // whom Received names as the client, ASCII; "" hides it (RFC 5321 §7.6)
	Now      time.Time // of the acceptance
	Fields   []Field   // further fields to add, such as List-Unsubscribe
}

// Field is a header field to be added. The value is ASCII without line ends.
type Field struct{ Name, Value string }

// removed are fields that must not leave: Bcc would name other recipients
// (RFC 5322 §3.6.3), Return-Path is written by the last server (RFC 5321 §4.4),
// and TLS-Required would ask the next server to lower its guard (RFC 8689 §3).
var removed = []string{"bcc", "resent-bcc", "return-path", "tls-required"}

// leaves reports whether a field of that name may leave.
func leaves(name string) bool {
	return !strings.HasPrefix(name, controlPrefix) && !slices.Contains(removed, name)
}

// Prepare returns the exact bytes to sign and send: one Received field, a Date
// and a Message-ID if they are missing (RFC 6409 §8), then the message without
// the fields that must not leave. All other bytes stay as they came.
func (m *Message) Prepare(p Passage) []byte {
	out := make([]byte, 0, len(m.raw)+1024)
	out = append(out, p.received()...)
	if !m.Has("Date") {
		out = appendField(out, Field{"Date", p.Now.Format(dateLayout)})
	}
	if !m.Has("Message-ID") {
		out = appendField(out, Field{"Message-ID", "<" + p.ID + "@" + p.Hostname + ">"})
	}
	for _, f := range p.Fields {
		out = appendField(out, f)
	}
	for _, f := range m.fields {
		if leaves(f.name) {
			out = append(out, m.raw[f.start:f.end]...)
		}
	}
	out = append(out, crlf...)
	return append(out, m.Body()...)
}

const dateLayout = "Mon, 02 Jan 2006 15:04:05 -0700"

// received is the trace field (RFC 5321 §4.4). It never names the recipient.
func (p Passage) received() []byte {
	from, protocol := p.From, p.Protocol
	if from == "" {
		from = "unspecified"
	}
	if protocol == "" {
		protocol = "ESMTP"
	}
	return []byte("Received: from " + oneLine(from) + " by " + p.Hostname + crlf +
		"\twith " + protocol + " id " + p.ID + ";" + crlf +
		"\t" + p.Now.Format(dateLayout) + crlf)
}

// appendField adds a field on one line. A line end in it would begin a field of
// its own, so control characters are dropped.
func appendField(out []byte, f Field) []byte {
	out = append(out, f.Name...)
	out = append(out, ": "...)
	for _, b := range []byte(f.Value) {
		if b >= ' ' && b != 0x7f {
			out = append(out, b)
		}
	}
	return append(out, crlf...)
}
