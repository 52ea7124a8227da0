package sanitize

import (
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// dangerous elements go with all they hold, in both views: they run, load,
// embed, send or redirect.
var dangerous = map[atom.Atom]bool{
	atom.Script: true, atom.Noscript: true, atom.Template: true, atom.Iframe: true, atom.Frame: true, atom.Frameset: true,
	atom.Object: true, atom.Embed: true, atom.Applet: true, atom.Base: true, atom.Meta: true, atom.Link: true,
	atom.Input: true, atom.Select: true, atom.Textarea: true, atom.Datalist: true,
	atom.Svg: true, atom.Math: true, atom.Video: true, atom.Audio: true, atom.Source: true, atom.Track: true, atom.Dialog: true,
	atom.Title: true,                                                                // shows in the browser's history
	atom.Xmp:   true, atom.Plaintext: true, atom.Noembed: true, atom.Noframes: true, // read as text by one parser, as tags by another
}

// loading are attributes by which an element other than img could fetch
// something or send the reader somewhere.
var loading = []string{"background", "poster", "srcset", "data", "action", "formaction", "ping", "longdesc", "usemap",
	"dynsrc", "lowsrc", "cite", "codebase", "classid", "manifest", "archive", "profile", "xlink:href", "srcdoc", "target", "autofocus"}

// prepare parses doc and judges every element of it.
func prepare(doc string, find Lookup, easy bool) (root *html.Node, blocked int, err error) {
	if len(doc) > MaxHTML {
		return nil, 0, ErrTooMuch
	}
	root, err = html.Parse(strings.NewReader(strings.ToValidUTF8(doc, "\uFFFD")))
	if err != nil {
		return nil, 0, ErrTooMuch // the parser's only refusal: its stack of open elements is full
	}
	w := walker{find: find, easy: easy}
	w.walk(root, 0)
	if w.tooDeep {
		return nil, 0, ErrTooMuch
	}
	return root, w.blocked, nil
}

type walker struct {
	find    Lookup
	easy    bool
	blocked int // pictures left out
	drawn   int // bytes of pictures put in
	tooDeep bool
}

func (w *walker) walk(n *html.Node, depth int) {
	if depth > maxDepth {
		w.tooDeep = true
		return
	}
	for c := n.FirstChild; c != nil; {
		next := c.NextSibling
		w.visit(c, depth)
		c = next
	}
}

// visit removes n, or cleans it and goes on to its children.
func (w *walker) visit(n *html.Node, depth int) {
	switch {
	case n.Type == html.CommentNode:
		n.Parent.RemoveChild(n) // conditional comments speak to one reader only
		return
	case n.Type != html.ElementNode:
		return
	case n.Namespace != "" || dangerous[n.DataAtom] || w.easy && hidden(n):
		n.Parent.RemoveChild(n)
		return
	}
	w.clean(n)
	w.walk(n, depth+1)
	switch n.DataAtom {
	case atom.Img:
		w.picture(n)
	case atom.A:
		w.link(n)
	case atom.Form:
		rename(n, atom.Div) // its text stays, sending does not
	case atom.Button:
		rename(n, atom.Span)
	case atom.H1:
		if w.easy {
			rename(n, atom.H2) // the page has its own first heading, the subject
		}
	case atom.Table:
		if w.easy && !isData(n) {
			unfold(n)
		}
	}
}

// clean removes the attributes that run or load something.
func (w *walker) clean(n *html.Node) {
	n.Attr = slices.DeleteFunc(n.Attr, func(a html.Attribute) bool {
		key := strings.ToLower(a.Key)
		return a.Namespace != "" || strings.HasPrefix(key, "on") || slices.Contains(loading, key) ||
			key == "src" && n.DataAtom != atom.Img || key == "href" && n.DataAtom != atom.A
	})
}

// picture gives an img its data, or puts its alternative text in its place.
func (w *walker) picture(n *html.Node) {
	src := strings.TrimSpace(attr(n, "src"))
	if p, ok := w.carried(src); ok {
		set(n, "src", dataURL(p))
		return
	}
	if dataPicture.MatchString(src) && w.fits(len(src)) {
		set(n, "src", src)
		return
	}
	w.blocked++
	alt := &html.Node{Type: html.TextNode, Data: attr(n, "alt")}
	n.Parent.InsertBefore(alt, n)
	n.Parent.RemoveChild(n)
}

// carried finds the picture that a cid: URL names among those of the message.
func (w *walker) carried(src string) (Picture, bool) {
	if w.find == nil || len(src) < 4 || !strings.EqualFold(src[:4], "cid:") {
		return Picture{}, false
	}
	id, err := url.PathUnescape(src[4:])
	if err != nil {
		return Picture{}, false
	}
	p, ok := w.find(id)
	p.Type = strings.ToLower(p.Type)
	return p, ok && shown[p.Type] && len(p.Data) > 0 && w.fits(len(p.Data))
}

func (w *walker) fits(bytes int) bool {
	w.drawn += bytes
	return w.drawn <= maxPictures
}

// link keeps web, mail and telephone links and shows where a web link goes: a
// link whose text says one place and leads to another is how people are robbed.
func (w *walker) link(n *html.Node) {
	u, err := url.Parse(strings.TrimSpace(attr(n, "href")))
	if err != nil || !slices.Contains([]string{"http", "https", "mailto", "tel"}, strings.ToLower(u.Scheme)) {
		set(n, "href", "")
		rename(n, atom.Span)
		return
	}
	set(n, "href", u.String())
	set(n, "rel", "noopener noreferrer nofollow")
	set(n, "target", "_blank")
	if w.easy && u.Host != "" && !strings.Contains(strings.ToLower(text(n)), strings.ToLower(u.Hostname())) {
		note := &html.Node{Type: html.ElementNode, Data: "small", DataAtom: atom.Small}
		note.AppendChild(&html.Node{Type: html.TextNode, Data: " (" + u.Hostname() + ")"})
		n.AppendChild(note)
	}
}

// hidden reports whether the sender hides n with a style of its own, as
// preview texts are. Without styles it would suddenly show.
func hidden(n *html.Node) bool {
	for _, a := range n.Attr {
		if strings.EqualFold(a.Key, "hidden") {
			return true
		}
	}
	style := strings.ToLower(strings.Join(strings.Fields(attr(n, "style")), ""))
	for _, s := range strings.Split(style, ";") {
		switch strings.TrimSuffix(s, "!important") {
		case "display:none", "visibility:hidden", "mso-hide:all", "font-size:0", "font-size:0px", "max-height:0", "max-height:0px":
			return true
		}
	}
	return false
}

// isData reports whether a table holds values, such as a table of laboratory
// results, and not just the layout of a page.
func isData(table *html.Node) bool {
	if role := attr(table, "role"); role == "presentation" || role == "none" {
		return false
	}
	width, rows := -1, 0
	for n := range table.Descendants() {
		switch n.DataAtom {
		case atom.Th, atom.Caption:
			return true
		case atom.Table, atom.Div, atom.Img, atom.H2, atom.H3:
			return false // a table inside, or what was one
		case atom.Tr:
			rows++
			if width < 0 {
				width = cells(n)
			}
			if cells(n) != width {
				return false
			}
		}
	}
	return rows >= 2 && width >= 2
}

func cells(row *html.Node) int {
	count := 0
	for c := range row.ChildNodes() {
		if c.DataAtom == atom.Td {
			count++
		}
	}
	return count
}

// unfold turns a layout table into blocks, which a narrow screen can hold.
func unfold(table *html.Node) {
	rename(table, atom.Div)
	var parts []*html.Node
	for n := range table.Descendants() {
		switch n.DataAtom {
		case atom.Tbody, atom.Thead, atom.Tfoot, atom.Tr, atom.Td, atom.Th:
			parts = append(parts, n)
		}
	}
	for _, n := range parts {
		if n.DataAtom != atom.Div && within(n, table) {
			rename(n, atom.Div)
		}
	}
}

// within reports whether n belongs to the table itself and not to one inside it.
func within(n, table *html.Node) bool {
	for p := n.Parent; p != table; p = p.Parent {
		if p.DataAtom == atom.Table {
			return false
		}
	}
	return true
}

func rename(n *html.Node, to atom.Atom) { n.DataAtom, n.Data = to, to.String() }

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Namespace == "" && strings.EqualFold(a.Key, key) {
			return a.Val
		}
	}
	return ""
}

// set gives n one attribute of that name, or none if value is empty.
func set(n *html.Node, key, value string) {
	n.Attr = slices.DeleteFunc(n.Attr, func(a html.Attribute) bool { return strings.EqualFold(a.Key, key) })
	if value != "" {
		n.Attr = append(n.Attr, html.Attribute{Key: key, Val: value})
	}
}

func text(n *html.Node) string {
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			b.WriteString(c.Data)
		}
	}
	return b.String()
}
