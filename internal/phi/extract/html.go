package extract

import (
	"bytes"
	"net/url"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// page turns one HTML document into text. Inline tags leave no trace, so that
// words split by them stand whole; blocks end a line, cells end in a tab.
type page struct {
	w     *walker
	at    spot
	text  mapped
	aside mapped // titles, labels and comments, shown after the text
	links mapped
	marks []Mark
	open  []zoned // elements that opened a zone
	skip  atom.Atom
}

type zoned struct {
	tag   string
	zone  Zone
	start int
	depth int
}

func (w *walker) html(at spot, l leaf, data []byte) {
	text := decodeText(data, l.charset)
	p := &page{w: w, at: at}
	p.text.buf = make([]byte, 0, len(text)/2)
	p.read([]byte(text), 0)
	for len(p.open) > 0 {
		p.close()
	}
	if len(p.aside.buf) > 0 {
		p.text.writeByte('\n', len(text))
		start := len(p.text.buf)
		base := uint32(start)
		for _, m := range rooted(p.aside.moves) {
			p.text.moves = append(p.text.moves, move{base + m.out, m.src})
		}
		p.text.buf = append(p.text.buf, p.aside.buf...)
		p.marks = append(p.marks, Mark{base, uint32(len(p.text.buf)), Hidden})
	}
	w.add(Part{Path: at.path(), Kind: l.kind(), Text: string(p.text.buf), Marks: p.marks, moves: rooted(p.text.moves)})
	w.add(Part{Path: at.path(), Kind: Links, Text: string(p.links.buf), moves: rooted(p.links.moves)})
}

// read tokenises doc, whose first byte stands at base in the part.
func (p *page) read(doc []byte, base int) {
	z := html.NewTokenizer(bytes.NewReader(doc))
	z.SetMaxBuf(len(doc) + 4096)
	pos := base
	for {
		t := z.Next()
		raw := z.Raw()
		switch t {
		case html.ErrorToken:
			return
		case html.TextToken:
			if p.skip == 0 {
				p.chars(raw, pos)
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			p.start(z, pos, t == html.SelfClosingTagToken)
		case html.EndTagToken:
			name, _ := z.TagName()
			p.end(name, pos)
		case html.CommentToken:
			p.comment(raw, pos)
		}
		pos += len(raw)
	}
}

// chars writes text with its entities decoded and white space as one space.
func (p *page) chars(raw []byte, pos int) {
	for i := 0; i < len(raw); {
		j := bytes.IndexAny(raw[i:], "&\r\n\t")
		if j < 0 {
			p.text.write(raw[i:], pos+i)
			return
		}
		if j > 0 {
			p.text.write(raw[i:i+j], pos+i)
			i += j
		}
		if raw[i] != '&' {
			p.space(pos + i)
			i++
			continue
		}
		i += p.entity(raw, i, pos)
	}
}

func (p *page) space(src int) {
	if n := len(p.text.buf); n > 0 && p.text.buf[n-1] > ' ' {
		p.text.writeByte(' ', src)
	}
}

// entity decodes the reference at raw[i] and returns its length.
func (p *page) entity(raw []byte, i, pos int) int {
	n := 1
	for i+n < len(raw) && n < 34 && (letter(raw[i+n]) || raw[i+n] >= '0' && raw[i+n] <= '9' || raw[i+n] == '#') {
		n++
	}
	if i+n < len(raw) && raw[i+n] == ';' {
		n++
	}
	p.text.writeString(html.UnescapeString(string(raw[i:i+n])), pos+i)
	return n
}

// block lists the elements that stand on lines of their own.
var block = map[atom.Atom]bool{
	atom.P: true, atom.Div: true, atom.Br: true, atom.Tr: true, atom.Table: true, atom.Ul: true, atom.Ol: true, atom.Li: true,
	atom.H1: true, atom.H2: true, atom.H3: true, atom.H4: true, atom.H5: true, atom.H6: true, atom.Hr: true, atom.Blockquote: true,
	atom.Section: true, atom.Article: true, atom.Header: true, atom.Footer: true, atom.Nav: true, atom.Pre: true, atom.Title: true,
	atom.Dt: true, atom.Dd: true, atom.Option: true, atom.Body: true, atom.Center: true, atom.Form: true, atom.Address: true,
}

func (p *page) start(z *html.Tokenizer, pos int, selfClosing bool) {
	name, more := z.TagName()
	tag := atom.Lookup(name)
	switch {
	case tag == atom.Td || tag == atom.Th:
		p.cell(pos)
	case block[tag]:
		p.line(pos)
	case tag == atom.Style || tag == atom.Script:
		p.skip = tag
	}
	zone := Plain
	switch tag {
	case atom.Blockquote:
		zone = Quoted
	case atom.Footer:
		zone = Footer
	case atom.Nav:
		zone = Nav
	case atom.Img:
		p.w.out.Images++
	}
	for more {
		var key, val []byte
		key, val, more = z.TagAttr()
		if z := p.attr(tag, key, val, pos); z != Plain && zone == Plain {
			zone = z
		}
	}
	p.nest(name, tag, zone, selfClosing)
}

// nest keeps track of the zones that are open, and of elements of the same name
// inside them.
func (p *page) nest(name []byte, tag atom.Atom, zone Zone, selfClosing bool) {
	if selfClosing || tag == atom.Img || tag == atom.Br || tag == atom.Input || tag == atom.Meta || tag == atom.Hr || tag == atom.Link {
		return
	}
	if n := len(p.open); zone != Plain && n < 64 {
		p.open = append(p.open, zoned{string(name), zone, len(p.text.buf), 0})
	} else if n > 0 && p.open[n-1].tag == string(name) {
		p.open[n-1].depth++
	}
}

func (p *page) end(name []byte, pos int) {
	tag := atom.Lookup(name)
	if tag == p.skip {
		p.skip = 0
	}
	if block[tag] {
		p.line(pos)
	}
	n := len(p.open)
	if n == 0 || p.open[n-1].tag != string(name) {
		return
	}
	if p.open[n-1].depth > 0 {
		p.open[n-1].depth--
		return
	}
	p.close()
}

// maxMarks bounds the zones of a page; the texts behind it are plain.
const maxMarks = 500

func (p *page) close() {
	n := len(p.open) - 1
	z := p.open[n]
	p.open = p.open[:n]
	if len(p.text.buf) > z.start && len(p.marks) < maxMarks {
		p.marks = append(p.marks, Mark{uint32(z.start), uint32(len(p.text.buf)), z.zone})
	}
}

func (p *page) line(pos int) {
	if n := len(p.text.buf); n > 0 && p.text.buf[n-1] != '\n' {
		p.text.writeByte('\n', pos)
	}
}

func (p *page) cell(pos int) {
	if n := len(p.text.buf); n > 0 && p.text.buf[n-1] != '\n' {
		p.text.writeByte('\t', pos)
	}
}

// attr reads one attribute: words in it become text, addresses become links,
// styles may open a zone.
func (p *page) attr(tag atom.Atom, key, val []byte, pos int) Zone {
	switch string(key) {
	case "alt", "placeholder", "value", "summary":
		if len(val) > 0 && tag != atom.Option {
			p.space(pos)
			p.text.write(val, pos)
			p.text.writeByte(' ', pos)
		}
	case "title", "aria-label", "content", "label":
		if bytes.IndexByte(val, ' ') > 0 && tag != atom.Meta {
			p.aside.write(val, pos)
			p.aside.writeByte('\n', pos)
		}
	case "href", "src", "action", "background", "poster":
		p.link(string(val), pos)
	case "class", "id", "role":
		return zoneName(val)
	case "style":
		return zoneStyle(val)
	case "hidden":
		return Hidden
	}
	return Plain
}

func zoneName(val []byte) Zone {
	if len(val) > 100 {
		return Plain
	}
	v := strings.ToLower(string(val))
	switch {
	case strings.Contains(v, "footer"):
		return Footer
	case strings.Contains(v, "gmail_quote"):
		return Quoted
	case v == "nav" || strings.Contains(v, "navbar") || strings.Contains(v, "navigation"):
		return Nav
	}
	return Plain
}

// zoneStyle finds the usual ways to hide text. Hidden text is scanned all the
// same: the mark only says that a reader would not see it.
func zoneStyle(val []byte) Zone {
	if len(val) > 2000 || !bytes.Contains(val, []byte(":")) {
		return Plain
	}
	v := strings.ToLower(string(val))
	for _, sign := range []string{"display:none", "display: none", "visibility:hidden", "visibility: hidden", "font-size:0", "font-size: 0", "font-size:1px", "font-size: 1px", "opacity:0;", "mso-hide:all", "max-height:0"} {
		if strings.Contains(v, sign) {
			return Hidden
		}
	}
	return Plain
}

// link keeps the decoded target of a link: a path or query may say what the
// text does not (results, a record number, an address).
func (p *page) link(target string, pos int) {
	target = strings.TrimSpace(target)
	switch {
	case strings.HasPrefix(target, "cid:") || target == "" || target[0] == '#':
		return
	case strings.HasPrefix(target, "data:"):
		if strings.HasPrefix(target, "data:image/") {
			p.w.out.Images++
		} else {
			p.w.dataURI(p.at, target)
		}
		return
	}
	p.w.host(target)
	if plain, err := url.QueryUnescape(target); err == nil {
		target = plain
	}
	p.links.writeString(target, pos)
	p.links.writeByte('\n', pos)
}

// dataURI reads text carried in a link (RFC 2397).
func (w *walker) dataURI(at spot, uri string) {
	head, body, ok := strings.Cut(uri[len("data:"):], ",")
	if !ok || !w.enter(at) {
		return
	}
	data := []byte(body)
	if strings.HasSuffix(head, ";base64") {
		data = unbase64(data)
	} else if s, err := url.PathUnescape(body); err == nil {
		data = []byte(s)
	}
	media, params := parseType(strings.TrimSuffix(head, ";base64"))
	at.mime++
	at.archive++
	if at.archive <= w.lim.Archives {
		w.content(at.inside("data"), leaf{media: media, charset: params["charset"]}, data)
	} else {
		w.cannot(at.path(), TooDeep)
	}
}

func (w *walker) host(target string) {
	_, rest, ok := strings.Cut(target, "//")
	if !ok {
		return
	}
	end := strings.IndexAny(rest, "/?#: \t\r\n")
	if end < 0 {
		end = len(rest)
	}
	rest = rest[:end]
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	if h := strings.ToLower(rest); strings.Contains(h, ".") && !w.hosts[h] && len(w.hosts) < 1000 {
		w.hosts[h] = true
		w.out.Hosts = append(w.out.Hosts, h)
	}
}

// comment reads what Outlook shows of conditional comments, and what tools
// leave in the others.
func (p *page) comment(raw []byte, pos int) {
	body := bytes.TrimSuffix(bytes.TrimPrefix(raw, []byte("<!--")), []byte("-->"))
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("[if")) {
		i := bytes.IndexByte(body, '>')
		if i < 0 || bytes.Contains(body[i+1:], []byte("<!--")) {
			return
		}
		inner := body[i+1:]
		if j := bytes.LastIndex(inner, []byte("<![endif]")); j >= 0 {
			inner = inner[:j]
		}
		p.line(pos)
		was := p.skip
		p.skip = 0
		p.read(inner, pos+4+i+1)
		p.skip = was
		p.line(pos)
		return
	}
	if len(bytes.TrimSpace(body)) > 0 {
		p.aside.write(bytes.ReplaceAll(body, []byte("\n"), []byte(" ")), pos+4)
		p.aside.writeByte('\n', pos+4+len(body))
	}
}
