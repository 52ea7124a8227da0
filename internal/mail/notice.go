package mail

import (
	"html/template"
	"strings"
	texttemplate "text/template"
	"time"
)

// Notice tells a person that a message waits for them on the pickup site. It
// says nothing about the message: no subject, no sender of it, no health word;
// one link, nothing loaded from anywhere, no attachment.
type Notice struct {
	Envelope
	Language string    // BCP 47 tag; Spanish if it begins with "es", English otherwise
	Practice string    // as patients know it; choose a neutral name if that one tells a diagnosis
	Phone    string    // whom to call in doubt; "" leaves the line out
	Link     string    // https address of the pickup page
	Expires  time.Time // last day to read it
}

// PickupCode is the mail with the code that proves a mailbox. The code stands
// in the subject, so that a notification shows it and nobody has to leave the
// page to read it.
type PickupCode struct {
	Envelope
	Language string
	Practice string
	Phone    string
	Code     string        // six digits
	Valid    time.Duration // how long it is good for
}

// Bytes composes the notice as multipart/alternative of plain text and HTML.
func (n Notice) Bytes() ([]byte, error) {
	w := wordsFor(n.Language)
	return letter{
		Language: w.language,
		Subject:  fill(w.noticeSubject, "{practice}", n.Practice),
		Heading:  fill(w.noticeHeading, "{practice}", n.Practice),
		Link:     n.Link,
		Button:   w.noticeButton,
		Lines:    []string{fill(w.noticeUntil, "{day}", w.day(n.Expires)), w.noticeWhy},
		Doubt:    doubt(w, n.Practice, n.Phone),
	}.compose(n.Envelope)
}

// Bytes composes the mail as multipart/alternative of plain text and HTML.
func (c PickupCode) Bytes() ([]byte, error) {
	w := wordsFor(c.Language)
	minutes := fill(w.codeMinutes, "{minutes}", decimal(int(c.Valid.Minutes())))
	return letter{
		Language: w.language,
		Subject:  c.Code + " " + fill(w.codeSubject, "{practice}", c.Practice),
		Heading:  w.codeHeading,
		Code:     c.Code,
		Lines:    []string{minutes, w.codeNever},
		Doubt:    doubt(w, c.Practice, c.Phone),
	}.compose(c.Envelope)
}

func doubt(w *wording, practice, phone string) string {
	if phone == "" {
		return fill(w.doubtNoPhone, "{practice}", practice)
	}
	return fill(w.doubt, "{practice}", practice, "{phone}", phone)
}

// letter is what both mails are made of.
type letter struct {
	Language, Subject, Heading string
	Link, Button               string // Notice only
	Code                       string // PickupCode only
	Lines                      []string
	Doubt                      string
}

func (l letter) compose(e Envelope) ([]byte, error) {
	var plain, rich strings.Builder
	if err := plainLetter.Execute(&plain, l); err != nil {
		return nil, err
	}
	if err := richLetter.Execute(&rich, l); err != nil {
		return nil, err
	}
	return compose(e.header(l.Subject), "multipart/alternative", nil, []part{
		textPart("plain", l.Language, plain.String()),
		textPart("html", l.Language, rich.String()),
	})
}

var plainLetter = texttemplate.Must(texttemplate.New("plain").Parse(`{{.Heading}}

{{with .Link}}{{.}}

{{end}}{{with .Code}}{{.}}

{{end}}{{range .Lines}}{{.}}

{{end}}{{.Doubt}}
`))

// richLetter is readable at 320 px, with large type and a 44 px target (WCAG
// 2.2: 1.4.10, 2.5.8). The address is shown too, so that people can see where
// the link leads.
var richLetter = template.Must(template.New("rich").Parse(`<!DOCTYPE html>
<html lang="{{.Language}}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Subject}}</title></head>
<body style="margin:0;padding:24px;font-family:sans-serif;font-size:18px;line-height:1.5;color:#111;background:#fff">
<h1 style="font-size:22px">{{.Heading}}</h1>
{{with .Link}}<p><a href="{{.}}" style="display:inline-block;padding:12px 20px;min-height:24px;background:#0b4f8a;color:#fff">{{$.Button}}</a></p>
<p style="word-break:break-all">{{.}}</p>
{{end}}{{with .Code}}<p style="font-size:32px;letter-spacing:4px"><strong>{{.}}</strong></p>
{{end}}{{range .Lines}}<p>{{.}}</p>
{{end}}<p>{{.Doubt}}</p>
</body>
</html>
`))
