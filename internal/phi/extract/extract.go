// Package extract finds every text in a message that a reader, or a reader's
// software, could find: bodies, headers, attachments, archives inside archives.
//
// [Read] walks the MIME tree ([walker.entity]), decides by magic bytes what a
// leaf is ([walker.content]) and hands it to the reader of that format. Every
// text becomes a [Part] in normalised UTF-8 that remembers where each of its
// bytes came from. What cannot be read is listed as [Unscannable]: nothing here
// returns an error, and nothing unread passes for read.
package extract

import (
	"context"
	"fmt"
	"strings"
)

// Limits bound the work on one message. A zero field takes the default.
type Limits struct {
	Archives int   // archives inside archives; 4
	Nesting  int   // MIME parts inside MIME parts; 200
	Entries  int   // parts and archive members in all; 1,000
	Header   int   // bytes of one header block; 10 MB
	Bytes    int64 // bytes decompressed in all; 64 MB
	Ratio    int64 // bytes out per byte in of one archive; 100
}

func (l Limits) orDefault() Limits {
	pick := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	pick(&l.Archives, 4)
	pick(&l.Nesting, 200)
	pick(&l.Entries, 1000)
	pick(&l.Header, 10<<20)
	if l.Bytes <= 0 {
		l.Bytes = 64 << 20
	}
	if l.Ratio <= 0 {
		l.Ratio = 100
	}
	return l
}

// Reason says why a part could not be read, or not be trusted.
type Reason string

// The reasons. Ambiguous alone still means that every reading was scanned.
const (
	Encrypted   Reason = "encrypted"
	TooLarge    Reason = "too_large"
	TooDeep     Reason = "too_deep"
	Timeout     Reason = "timeout"
	Malformed   Reason = "malformed"
	Ambiguous   Reason = "ambiguous"
	ImageOnly   Reason = "image_only"
	Unsupported Reason = "unsupported"
)

// Unscannable names a part whose text is not known, or not known for certain.
type Unscannable struct {
	Part   string `json:"part"`
	Reason Reason `json:"reason"`
}

// Kind says what a part is to the message.
type Kind uint8

// The kinds of part.
const (
	Body     Kind = iota // text shown as the mail itself
	Header               // one header field, Part.Name says which
	File                 // text of an attachment
	FileName             // the name of an attachment
	Links                // targets of links and images of a body
)

// Zone says what a stretch of a part is for.
type Zone uint8

// The zones; what has no mark is Plain.
const (
	Plain  Zone = iota
	Quoted      // an earlier mail
	Footer      // <footer>, or a block named so
	Nav         // menus
	Hidden      // not shown by a usual reader
)

// Mark is a stretch of Part.Text that lies in a zone.
type Mark struct {
	Start, End uint32
	Zone       Zone
}

// Part is one text of the message.
type Part struct {
	Path  string // such as "2.1 report.zip!labs.xlsx!Sheet1"
	Name  string // header field or file name
	Kind  Kind
	Text  string // normalised UTF-8
	Marks []Mark // in order of Start
	moves []move // where Text departs from the decoded part
}

// Format keeps mail text out of logs under every verb.
func (p Part) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// Source turns an offset into Text into one of the decoded UTF-8 text of the part.
func (p *Part) Source(at int) int { return source(p.moves, at) }

// Message is all that was found.
type Message struct {
	Parts       []Part
	Unscannable []Unscannable
	Hosts       []string // hosts of links and images, lower case, each once
	Formats     []string // clinical and claims formats seen: hl7, x12, ccda, fhir, dicom
	Images      int      // images attached or referred to
}

// Fields returns the values of the message's own header fields called name.
func (m *Message) Fields(name string) []string {
	var v []string
	for i := range m.Parts {
		if p := &m.Parts[i]; p.Kind == Header && p.Path == p.Name && strings.EqualFold(p.Name, name) {
			v = append(v, p.Text)
		}
	}
	return v
}

// walker carries the bounds through one message.
type walker struct {
	ctx     context.Context
	lim     Limits
	out     *Message
	left    int64 // bytes that may still be decompressed
	entries int
	shown   int // bytes of body text seen
	hosts   map[string]bool
}

// Read finds the texts of a raw message (RFC 5322). It never fails and never
// panics; ctx bounds its time.
func Read(ctx context.Context, raw []byte, lim Limits) *Message {
	lim = lim.orDefault()
	w := &walker{ctx: ctx, lim: lim, out: &Message{}, left: lim.Bytes, hosts: map[string]bool{}}
	w.guard("message", func() { w.entity(spot{}, raw) })
	if w.shown < 40 && w.out.Images > 0 {
		w.cannot("message", ImageOnly)
	}
	return w.out
}

// guard runs f and records a panic of a reader as a malformed part.
func (w *walker) guard(path string, f func()) {
	defer func() {
		if recover() != nil {
			w.cannot(path, Malformed)
		}
	}()
	f()
}

func (w *walker) cannot(path string, why Reason) {
	u := Unscannable{path, why}
	for _, have := range w.out.Unscannable {
		if have == u {
			return
		}
	}
	if len(w.out.Unscannable) < 1000 {
		w.out.Unscannable = append(w.out.Unscannable, u)
	}
}

// enter counts one more part; false when the message has too many, is too deep
// or its time is up.
func (w *walker) enter(at spot) bool {
	w.entries++
	switch {
	case w.ctx.Err() != nil:
		w.cannot(at.path(), Timeout)
	case w.entries > w.lim.Entries:
		w.cannot(at.path(), TooLarge)
	case at.mime > w.lim.Nesting || at.archive > w.lim.Archives:
		w.cannot(at.path(), TooDeep)
	default:
		return true
	}
	return false
}

// spot is a place in the tree of parts.
type spot struct {
	number  string // "2.1"
	name    string // " report.zip!labs.xlsx"
	mime    int    // depth of MIME parts
	archive int    // depth of archives
}

func (s spot) path() string {
	n := s.number
	if n == "" {
		n = "1"
	}
	return n + s.name
}

// field is the path of a header field: bare for the message's own.
func (s spot) field(name string) string {
	if s.number == "" && s.name == "" {
		return name
	}
	return s.path() + " " + name
}

func (s spot) child(n int) spot {
	s.mime++
	if s.number == "" {
		s.number = fmt.Sprint(n)
	} else {
		s.number += "." + fmt.Sprint(n)
	}
	return s
}

func (s spot) named(file string) spot {
	if file = printable(file); file != "" {
		s.name += " " + file
	}
	return s
}

func (s spot) inside(file string) spot {
	s.name += "!" + printable(file)
	return s
}

// printable makes a file name fit for a path: one line, not too long.
func printable(name string) string {
	if len(name) > 200 {
		name = strings.ToValidUTF8(name[:200], "")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '!' {
			return -1
		}
		return r
	}, name)
}

// add keeps one text, normalised.
func (w *walker) add(p Part) {
	if strings.TrimSpace(p.Text) == "" {
		return
	}
	if p.Kind == Body {
		w.shown += len(p.Text)
	}
	normalise(&p)
	w.out.Parts = append(w.out.Parts, p)
}

func (w *walker) format(name string) {
	for _, f := range w.out.Formats {
		if f == name {
			return
		}
	}
	w.out.Formats = append(w.out.Formats, name)
}

// spend takes n decompressed bytes from the budget.
func (w *walker) spend(n int64) bool {
	w.left -= n
	return w.left >= 0
}
