// Package sanitize makes a stranger's HTML safe to show on the portal's own
// pages.
//
// [Easy] gives a fragment in the portal's own typography: no style, class or
// id, no script, no form, no picture from elsewhere. [Original] gives a whole
// document that keeps its looks, for a page of its own under a sandboxing
// Content-Security-Policy. Both first walk the parsed tree, where pictures are
// judged: those the message carries (cid:, RFC 2392) become data: URLs, all
// others are dropped, because fetching one tells its server who reads. Easy
// then runs bluemonday over the result, so that two walls stand between the
// message and the page, each of which would do alone (a test says so); the
// page's Content-Security-Policy is the third.
package sanitize

import (
	"bytes"
	"encoding/base64"
	"errors"
	"html/template"
	"regexp"
	"strings"

	"github.com/microcosm-cc/bluemonday"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// ErrTooMuch is returned when the HTML is longer than MaxHTML bytes or nested
// deeper than a parser should follow. Show the plain text instead.
var ErrTooMuch = errors.New("sanitize: too long or nested too deep")

const (
	// MaxHTML is the most bytes of HTML that are shown: twenty times what large
	// mail programs show, and a second of work.
	MaxHTML = 2 << 20
	// maxPictures is the most bytes of pictures put into one page.
	maxPictures = 12 << 20
	maxDepth    = 256
)

// Picture is an image that the message itself carries.
type Picture struct {
	Type string // media type
	Data []byte
}

// Lookup finds a picture by its Content-ID, without the angle brackets.
type Lookup func(contentID string) (Picture, bool)

// Result is HTML that may be shown, and how many pictures were left out.
type Result struct {
	HTML    template.HTML
	Blocked int
}

// Easy returns doc as a fragment for a page of the portal.
func Easy(doc string, find Lookup) (Result, error) {
	root, blocked, err := prepare(doc, find, true)
	if err != nil {
		return Result{}, err
	}
	var b bytes.Buffer
	for n := range body(root).ChildNodes() {
		if err := html.Render(&b, n); err != nil {
			return Result{}, ErrTooMuch
		}
	}
	return Result{template.HTML(easy.SanitizeBytes(b.Bytes())), blocked}, nil
}

// Original returns doc as a whole document with its looks. It is safe only
// under a policy that sandboxes and fetches nothing.
func Original(doc string, find Lookup) (Result, error) {
	root, blocked, err := prepare(doc, find, false)
	if err != nil {
		return Result{}, err
	}
	var b bytes.Buffer
	if err := html.Render(&b, root); err != nil {
		return Result{}, ErrTooMuch
	}
	return Result{template.HTML(b.String()), blocked}, nil
}

var webAddress = regexp.MustCompile(`https?://[^\s<>"'()]+[^\s<>"'().,;:!?]`)

// Text returns plain text as HTML with its web addresses as links. Line ends
// are kept as they are; show it where white space is kept.
func Text(s string) template.HTML {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\r\n", "\n")
	var b strings.Builder
	for at := 0; ; {
		m := webAddress.FindStringIndex(s[at:])
		if m == nil {
			b.WriteString(html.EscapeString(s[at:]))
			break
		}
		link := html.EscapeString(s[at+m[0] : at+m[1]])
		b.WriteString(html.EscapeString(s[at : at+m[0]]))
		b.WriteString(`<a href="` + link + `">` + link + `</a>`)
		at += m[1]
	}
	return template.HTML(easy.Sanitize(b.String()))
}

// easy is what may stand in the fragment. It is never changed after this.
var easy = policy()

func policy() *bluemonday.Policy {
	p := bluemonday.NewPolicy()
	p.AllowElements("p", "br", "hr", "div", "span", "h2", "h3", "h4", "h5", "h6", "b", "strong", "i", "em", "u", "s",
		"small", "sub", "sup", "mark", "blockquote", "pre", "code", "ul", "ol", "li", "dl", "dt", "dd",
		"figure", "figcaption", "table", "caption", "thead", "tbody", "tfoot", "tr", "td", "th")
	p.AllowAttrs("colspan", "rowspan").Matching(regexp.MustCompile(`^[1-9][0-9]?$`)).OnElements("td", "th")
	p.AllowAttrs("scope").Matching(regexp.MustCompile(`^(row|col)$`)).OnElements("th")
	p.AllowAttrs("start").Matching(regexp.MustCompile(`^[0-9]{1,4}$`)).OnElements("ol")
	p.AllowAttrs("dir").Matching(regexp.MustCompile(`^(ltr|rtl|auto)$`)).Globally()
	p.AllowAttrs("lang").Matching(regexp.MustCompile(`^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$`)).Globally()
	p.AllowAttrs("href").Matching(regexp.MustCompile(`(?i)^(https?|mailto|tel):`)).OnElements("a")
	p.AllowAttrs("alt").Matching(bluemonday.Paragraph).OnElements("img")
	p.AllowAttrs("src").Matching(dataPicture).OnElements("img")
	p.AllowURLSchemes("http", "https", "mailto", "tel")
	p.AllowDataURIImages()
	p.RequireNoFollowOnLinks(true)
	p.RequireNoReferrerOnLinks(true)
	p.AddTargetBlankToFullyQualifiedLinks(true) // adds noopener
	p.SkipElementsContent("script", "style", "title", "noscript", "template", "svg", "math", "textarea", "select", "object", "iframe")
	return p
}

var dataPicture = regexp.MustCompile(`^data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+=*$`)

// shown are the picture types a browser draws without running anything; SVG
// may hold script and is not among them.
var shown = map[string]bool{"image/png": true, "image/jpeg": true, "image/gif": true, "image/webp": true}

func dataURL(p Picture) string {
	return "data:" + p.Type + ";base64," + base64.StdEncoding.EncodeToString(p.Data)
}

func body(root *html.Node) *html.Node {
	for n := range root.Descendants() {
		if n.DataAtom == atom.Body {
			return n
		}
	}
	return root
}
