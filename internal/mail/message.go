// Package mail reads, prepares and signs messages, and composes the few that
// the gateway itself sends.
//
// The way of a message: [Canonical] (or [NewCanonicalReader]) settles its line
// ends once at intake; [Parse] finds header, body and what the header says;
// [Message.Prepare] gives the exact bytes to send, and [Signer.Sign] puts DKIM
// signatures before them. No byte that is not removed or added by Prepare is
// ever changed: a message is never written anew from what was understood of it.
//
// The gateway's own mail is [DSN], [Notice] and [PickupCode].
//
// A Message and a [Text] print as [phi] under every verb.
package mail

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	stdmail "net/mail"
	"strings"

	"github.com/emersion/go-message/charset"

	"github.com/phigate/phigate/policy"
)

// Errors of Parse and of what it returns.
var (
	// ErrHeaderTooLarge is returned when the header has more than MaxHeader
	// bytes or MaxFields fields. Answer 552 5.3.4.
	ErrHeaderTooLarge = errors.New("mail: header too large")
	// ErrMalformedHeader is returned when a header line is no field: no colon, a
	// name of other than printable ASCII, a NUL, or a continuation with nothing
	// before it. Readers disagree where the header of such a message ends, so it
	// is refused (550 5.6.0) instead of guessed at.
	ErrMalformedHeader = errors.New("mail: malformed header line")
	// ErrFrom is returned when there is no From field, more than one, or one
	// without a readable address (RFC 5322 §3.6: exactly one). Answer 550 5.6.0.
	ErrFrom = errors.New("mail: no single readable From field")
)

const (
	// MaxHeader is the most bytes a header may have.
	MaxHeader = 1 << 20
	// MaxFields is the most fields a header may have.
	MaxFields = 1000
)

const crlf = "\r\n"

// Text is text out of a message. It prints as [phi]; call Clear for the text.
type Text string

// Clear returns the text itself, as UTF-8.
func (t Text) Clear() string { return string(t) }

// Format keeps message text out of logs and errors under every verb.
func (t Text) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// MarshalText keeps message text out of JSON and slog.
func (t Text) MarshalText() ([]byte, error) { return []byte("[phi]"), nil }

// Mailbox is one address of a header field with its display name.
type Mailbox struct {
	Name    Text
	Address policy.Address
}

// Message is a message as it came, and where its parts lie. It keeps the bytes
// it was parsed from, which must not be changed afterwards.
type Message struct {
	raw    []byte
	fields []field
	header int // bytes of the header, without the empty line
	body   int // where the body begins; len(raw) if there is none
}

// field is one header field; start, value and end are offsets into the message.
type field struct {
	name              string // lower case, without the blanks before the colon
	start, value, end int
}

// Format keeps the message out of logs and errors under every verb.
func (m *Message) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// MarshalText keeps the message out of JSON and slog.
func (m *Message) MarshalText() ([]byte, error) { return []byte("[phi]"), nil }

// Parse finds the parts of a message with canonical line ends. The header ends
// at the first empty line; without one, all is header. Errors are ErrBareLine,
// ErrHeaderTooLarge and ErrMalformedHeader.
func Parse(raw []byte) (*Message, error) {
	if !isCanonical(raw) {
		return nil, ErrBareLine
	}
	m := &Message{raw: raw}
	m.header, m.body = border(raw)
	if m.header > MaxHeader {
		return nil, ErrHeaderTooLarge
	}
	var err error
	m.fields, err = splitFields(raw[:m.header])
	return m, err
}

// border returns where the header ends and where the body begins: before and
// behind the first empty line (RFC 5322 §2.1).
func border(raw []byte) (header, body int) {
	if bytes.HasPrefix(raw, []byte(crlf)) {
		return 0, len(crlf)
	}
	if i := bytes.Index(raw, []byte(crlf+crlf)); i >= 0 {
		return i + len(crlf), i + 2*len(crlf)
	}
	return len(raw), len(raw)
}

// splitFields cuts a header with canonical line ends into its fields.
func splitFields(header []byte) ([]field, error) {
	var fields []field
	for at := 0; at < len(header); {
		end := at + fieldLen(header[at:])
		f, err := readField(header, at, end)
		if err != nil {
			return nil, err
		}
		if len(fields) == MaxFields {
			return nil, ErrHeaderTooLarge
		}
		fields = append(fields, f)
		at = end
	}
	return fields, nil
}

// fieldLen is the length of the first field of header with its continuations.
func fieldLen(header []byte) int {
	at := 0
	for {
		i := bytes.IndexByte(header[at:], '\n')
		if i < 0 {
			return len(header)
		}
		at += i + 1
		if at == len(header) || (header[at] != ' ' && header[at] != '\t') {
			return at
		}
	}
}

func readField(header []byte, start, end int) (field, error) {
	colon := bytes.IndexByte(header[start:end], ':')
	if colon < 0 || bytes.IndexByte(header[start:end], 0) >= 0 {
		return field{}, ErrMalformedHeader
	}
	// Blanks before the colon are obsolete, but every reader drops them
	// (RFC 5322 §4.5), so "From :" must not hide a From.
	name := bytes.TrimRight(header[start:start+colon], " \t")
	for _, b := range name {
		if b < '!' || b > '~' {
			return field{}, ErrMalformedHeader
		}
	}
	if len(name) == 0 {
		return field{}, ErrMalformedHeader
	}
	return field{strings.ToLower(string(name)), start, start + colon + 1, end}, nil
}

// Raw returns the message as it was parsed. Do not change it.
func (m *Message) Raw() []byte { return m.raw }

// Body returns all behind the empty line, undecoded. Do not change it.
func (m *Message) Body() []byte { return m.raw[m.body:] }

// Header returns all before the empty line. Do not change it.
func (m *Message) Header() []byte { return m.raw[:m.header] }

// Has reports whether the header has a field of that name, in any case.
func (m *Message) Has(name string) bool { return len(m.Values(name)) > 0 }

// Values returns the unfolded, undecoded values of all fields of that name, top
// first.
func (m *Message) Values(name string) []Text {
	var values []Text
	for _, f := range m.fields {
		if strings.EqualFold(f.name, name) {
			values = append(values, Text(m.value(f)))
		}
	}
	return values
}

// value is the value of a field, unfolded (RFC 5322 §2.2.3) and trimmed.
func (m *Message) value(f field) string {
	v := strings.ReplaceAll(string(m.raw[f.value:f.end]), crlf, "")
	return strings.Trim(v, " \t")
}

// Subject returns the decoded subject, of several the text of all: whichever of
// them a reader shows, it has been seen.
func (m *Message) Subject() Text {
	var all []string
	for _, v := range m.Values("Subject") {
		all = append(all, decode(v.Clear()))
	}
	return Text(strings.Join(all, "\n"))
}

// From returns the mailboxes of the From field, at least one, or ErrFrom.
func (m *Message) From() ([]Mailbox, error) {
	values := m.Values("From")
	if len(values) != 1 {
		return nil, ErrFrom
	}
	boxes, ok := mailboxes(values[0])
	if !ok || len(boxes) == 0 {
		return nil, ErrFrom
	}
	return boxes, nil
}

// Named returns the mailboxes of the named address fields, such as To and Cc.
// A value that cannot be read as addresses comes as a mailbox that has only a
// Name, so that its text is still looked at.
func (m *Message) Named(names ...string) []Mailbox {
	var all []Mailbox
	for _, name := range names {
		for _, v := range m.Values(name) {
			boxes, ok := mailboxes(v)
			if !ok {
				boxes = []Mailbox{{Name: Text(decode(v.Clear()))}}
			}
			all = append(all, boxes...)
		}
	}
	return all
}

// MessageID returns the value of the Message-ID field, "" without one.
func (m *Message) MessageID() Text {
	if v := m.Values("Message-ID"); len(v) > 0 {
		return v[0]
	}
	return ""
}

// NeedsUTF8 reports whether the header has bytes beyond ASCII, so that the
// message may be sent only with SMTPUTF8 (RFC 6531 §3.4).
func (m *Message) NeedsUTF8() bool { return !isASCII(m.Header()) }

// EightBit reports whether the body has bytes beyond ASCII, so that BODY=8BITMIME
// must be said (RFC 6152).
func (m *Message) EightBit() bool { return !isASCII(m.Body()) }

// OneClick reports whether the message can be unsubscribed from with one click
// (RFC 8058 §3.1): an https address in List-Unsubscribe, and the Post field.
func (m *Message) OneClick() bool {
	unsubscribe, post := m.Values("List-Unsubscribe"), m.Values("List-Unsubscribe-Post")
	return len(unsubscribe) == 1 && len(post) == 1 &&
		strings.Contains(strings.ToLower(unsubscribe[0].Clear()), "<https://") &&
		strings.EqualFold(post[0].Clear(), "List-Unsubscribe=One-Click")
}

// words decodes RFC 2047 encoded words in every charset that go-message knows.
var words = &mime.WordDecoder{CharsetReader: charset.Reader}

// decode returns s with its encoded words decoded, or s if one cannot be.
func decode(s string) string {
	if d, err := words.DecodeHeader(s); err == nil {
		return d
	}
	return s
}

func mailboxes(v Text) ([]Mailbox, bool) {
	parser := stdmail.AddressParser{WordDecoder: words}
	list, err := parser.ParseList(v.Clear())
	if err != nil {
		return nil, false
	}
	boxes := make([]Mailbox, len(list))
	for i, a := range list {
		boxes[i] = Mailbox{Text(a.Name), policy.Address(a.Address)}
	}
	return boxes, true
}
