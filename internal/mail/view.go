package mail

import (
	"bytes"
	"fmt"
	"html"
	"io"
	stdmail "net/mail"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/charset"
)

// View is a message as a person reads it.
type View struct {
	Subject Text
	From    []Mailbox
	Date    time.Time // zero if the message has no readable date
	HTML    Text      // "" if no part is HTML; as the sender wrote it, not safe to show
	Text    Text      // "" if no part is plain text
	Inline  []File    // pictures that HTML shows by their Content-ID
	Files   []File    // all other parts, in the order of the message
}

// File is a part of a message that is not its text. Its data, like its name,
// is the sender's word.
type File struct {
	Name string // as the sender named it, "" if unnamed; may hold anything
	Type string // media type in lower case, "application/octet-stream" if unreadable
	ID   string // Content-ID without its brackets, "" if none
	Data []byte
}

// Format keeps the message out of logs and errors under every verb.
func (v View) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// MarshalText keeps the message out of JSON and slog.
func (v View) MarshalText() ([]byte, error) { return []byte("[phi]"), nil }

// Format keeps the file and its name out of logs and errors under every verb.
func (f File) Format(s fmt.State, _ rune) { fmt.Fprint(s, "[phi]") }

// MarshalText keeps the file and its name out of JSON and slog.
func (f File) MarshalText() ([]byte, error) { return []byte("[phi]"), nil }

const (
	maxViewDepth = 30   // nested multiparts that are followed
	maxViewParts = 1000 // parts that are looked at
)

// View finds what a person reads in the message. It does its best with what is
// broken: a part in an unknown charset or transfer encoding is taken as it is,
// and of a multipart that ends early the parts that were there. Nothing is
// decided by it; that is for whoever scans the message.
func (m *Message) View() View {
	v := View{Subject: m.Subject()}
	v.From, _ = m.From()
	if d := m.Values("Date"); len(d) > 0 {
		v.Date, _ = stdmail.ParseDate(d[0].Clear())
	}
	r := viewer{left: maxViewParts}
	if e, err := readEntity(bytes.NewReader(m.raw)); err == nil {
		b := r.part(e, 0)
		v.HTML, v.Text = Text(b.html), Text(b.text)
	}
	for _, f := range r.files {
		// A picture that the text does not show by its id is an attachment like
		// any other, or the reader would never see it.
		if f.ID != "" && strings.HasPrefix(f.Type, "image/") && strings.Contains(v.HTML.Clear(), "cid:"+f.ID) {
			v.Inline = append(v.Inline, f)
		} else {
			v.Files = append(v.Files, f)
		}
	}
	return v
}

// readEntity reads a message although its charset or encoding is unknown.
func readEntity(r io.Reader) (*message.Entity, error) {
	e, err := message.ReadWithOptions(r, &message.ReadOptions{MaxHeaderBytes: MaxHeader + 1})
	return e, unlessUnknown(err)
}

func unlessUnknown(err error) error {
	if message.IsUnknownCharset(err) || message.IsUnknownEncoding(err) {
		return nil
	}
	return err
}

// bodies is the words of one part, in up to two forms that say the same.
type bodies struct{ html, text string }

type viewer struct {
	left  int // parts that may still be looked at
	files []File
}

func (r *viewer) part(e *message.Entity, depth int) bodies {
	kind, params, err := e.Header.ContentType()
	kind = strings.ToLower(kind)
	if err != nil && kind == "" {
		kind = "application/octet-stream"
	}
	if mr := e.MultipartReader(); mr != nil && depth < maxViewDepth {
		return r.multipart(mr, kind == "multipart/alternative", depth)
	}
	disposition, dparams, _ := e.Header.ContentDisposition()
	data, _ := io.ReadAll(e.Body) // what was readable is shown
	if !strings.EqualFold(disposition, "attachment") && dparams["filename"] == "" && params["name"] == "" {
		switch kind {
		case "text/plain":
			return bodies{text: asUTF8(data)}
		case "text/html":
			return bodies{html: asUTF8(data)}
		}
	}
	r.files = append(r.files, File{
		Name: fileName(dparams["filename"], params["name"]),
		Type: kind,
		ID:   strings.Trim(strings.TrimSpace(e.Header.Get("Content-Id")), "<>"),
		Data: data,
	})
	return bodies{}
}

func (r *viewer) multipart(mr message.MultipartReader, alternative bool, depth int) bodies {
	var parts []bodies
	for ; r.left > 0; r.left-- {
		e, err := mr.NextPart()
		if unlessUnknown(err) != nil {
			break // io.EOF, or broken from here on
		}
		if b := r.part(e, depth+1); b != (bodies{}) {
			parts = append(parts, b)
		}
	}
	if alternative {
		return lastOfEach(parts)
	}
	return joined(parts)
}

// lastOfEach picks from alternatives, which go from plain to rich (RFC 2046 §5.1.4).
func lastOfEach(parts []bodies) (b bodies) {
	for _, p := range parts {
		if p.html != "" {
			b.html = p.html
		}
		if p.text != "" {
			b.text = p.text
		}
	}
	return b
}

// joined puts parts that follow each other together. If one of them is HTML
// alone, HTML is the only form that says all.
func joined(parts []bodies) (b bodies) {
	rich, plain := false, true
	for _, p := range parts {
		rich = rich || p.html != ""
		plain = plain && p.text != ""
	}
	for i, p := range parts {
		if rich && p.html == "" {
			p.html = "<pre>" + html.EscapeString(p.text) + "</pre>"
		}
		if i > 0 {
			p.html, p.text = "<hr>"+p.html, "\r\n"+p.text
		}
		b.html += p.html
		b.text += p.text
	}
	if !rich {
		b.html = ""
	}
	if !plain {
		b.text = ""
	}
	return b
}

// asUTF8 gives text that go-message has decoded, or cures what it could not: in
// mail that names no charset, or an unknown one, bytes that are not UTF-8 are
// nearly always Windows-1252.
func asUTF8(data []byte) string {
	if utf8.Valid(data) {
		return string(data)
	}
	if r, err := charset.Reader("windows-1252", bytes.NewReader(data)); err == nil {
		data, _ = io.ReadAll(r)
	}
	return strings.ToValidUTF8(string(data), "\uFFFD")
}

// fileName decodes a name, which many senders give as an encoded word although
// RFC 2047 §5 forbids it in a parameter.
func fileName(names ...string) string {
	for _, n := range names {
		if n != "" {
			return decode(n)
		}
	}
	return ""
}
