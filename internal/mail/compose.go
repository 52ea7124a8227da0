package mail

import (
	"bytes"
	"mime"
	"strings"
	"time"

	"github.com/emersion/go-message"

	"github.com/phigate/phigate/policy"
)

// Envelope is what every mail of the gateway's own has. Send it with the null
// reverse-path, so that a bounce of it ends there (RFC 3834 §3.3).
type Envelope struct {
	FromName string         // display name; "" for none
	From     policy.Address // an address of the organization's, so that DKIM aligns
	To       policy.Address
	Hostname string    // our name in the Message-ID
	ID       string    // opaque and unique; the Message-ID is made of it
	Now      time.Time // the Date
}

// header returns the fields every mail of ours has. subject may be any UTF-8.
func (e Envelope) header(subject string) message.Header {
	from := "<" + e.From.Clear() + ">"
	if e.FromName != "" {
		from = phrase(e.FromName) + " " + from
	}
	var h message.Header
	set := func(name, value string) { h.Set(name, oneLine(value)) }
	set("MIME-Version", "1.0")
	set("Auto-Submitted", "auto-generated") // RFC 3834 §5: no vacation reply to it
	set("Message-ID", "<"+e.ID+"@"+e.Hostname+">")
	set("Date", e.Now.Format(dateLayout))
	set("Subject", mime.QEncoding.Encode("utf-8", oneLine(subject)))
	set("To", "<"+e.To.Clear()+">")
	set("From", from)
	return h
}

// phrase writes a display name: quoted, or as an encoded word if it is beyond
// ASCII (RFC 5322 §3.2.5). In base64, since a phrase allows few of the characters
// that Q leaves alone (RFC 2047 §5).
func phrase(name string) string {
	name = oneLine(name)
	if !isASCII([]byte(name)) {
		return mime.BEncoding.Encode("utf-8", name)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
}

// oneLine drops control characters, so that no text can begin a field.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

// part is one leaf of a composed message.
type part struct {
	mediaType string
	language  string // BCP 47 tag of a text, "" for none
	encoding  string
	text      string // lines end in LF
}

func textPart(subtype, language, text string) part {
	return part{"text/" + subtype, language, "quoted-printable", text}
}

func (p part) header() message.Header {
	var h message.Header
	h.Set("Content-Transfer-Encoding", p.encoding)
	if p.language == "" {
		h.SetContentType(p.mediaType, nil)
		return h
	}
	h.Set("Content-Language", p.language)
	h.SetContentType(p.mediaType, map[string]string{"charset": "utf-8"})
	return h
}

// compose writes a multipart message with canonical line ends.
func compose(h message.Header, mediaType string, params map[string]string, parts []part) ([]byte, error) {
	h.SetContentType(mediaType, params)
	var out bytes.Buffer
	w, err := message.CreateWriter(&out, h)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if err := writePart(w, p); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return Canonical(out.Bytes(), RefuseBare)
}

func writePart(w *message.Writer, p part) error {
	pw, err := w.CreatePart(p.header())
	if err != nil {
		return err
	}
	if _, err := pw.Write([]byte(strings.ReplaceAll(p.text, "\n", crlf))); err != nil {
		return err
	}
	return pw.Close()
}
