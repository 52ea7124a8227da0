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
	lower []byte // scratch for one attribute
	name  []byte // scratch for one tag
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
			p.start(raw, pos, t == html.SelfClosingTagToken)
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
		j := i
		for j < len(raw) && raw[j] != '&' && raw[j] != '\n' && raw[j] != '\r' && raw[j] != '\t' {
			j++
		}
		if j > i {
			p.text.write(raw[i:j], pos+i)
			i = j
		}
		if i == len(raw) {
			return
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

func (p *page) start(raw []byte, pos int, selfClosing bool) {
	name, rest := p.tagName(raw)
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
	for len(rest) > 0 {
		var key, val []byte
		if key, val, rest = nextAttr(rest); len(key) == 0 {
			continue
		}
		if z := p.attr(tag, key, val, pos); z != Plain && zone == Plain {
			zone = z
		}
	}
	p.nest(name, tag, zone, selfClosing)
}

// tagName splits "<Name attributes>" and returns the name in lower case, until
// the next call.
func (p *page) tagName(raw []byte) (name, rest []byte) {
	raw = bytes.TrimSuffix(bytes.TrimSuffix(raw[1:], []byte(">")), []byte("/"))
	n := bytes.IndexAny(raw, " \t\r\n\f/")
	if n < 0 {
		n = len(raw)
	}
	p.name = appendLower(p.name[:0], raw[:n])
	return p.name, raw[n:]
}

// nextAttr reads one attribute as HTML Standard 13.2.5.32 ff. does; val has its
// entities decoded. The tokenizer's own reading allocates for each.
func nextAttr(s []byte) (key, val, rest []byte) {
	s = bytes.TrimLeft(s, " \t\r\n\f/")
	n := 0
	for n < len(s) && s[n] > ' ' && s[n] != '/' && (s[n] != '=' || n == 0) {
		if c := s[n]; c >= 'A' && c <= 'Z' {
			s[n] = c | 0x20
		}
		n++
	}
	key, rest = s[:n], bytes.TrimLeft(s[n:], " \t\r\n\f")
	if len(rest) == 0 || rest[0] != '=' {
		return key, nil, rest
	}
	rest = bytes.TrimLeft(rest[1:], " \t\r\n\f")
	if len(rest) == 0 {
		return key, nil, nil
	}
	end := 0
	if q := rest[0]; q == '"' || q == '\'' {
		rest = rest[1:]
		if end = bytes.IndexByte(rest, q); end < 0 {
			end = len(rest)
		}
		val, rest = rest[:end], rest[min(end+1, len(rest)):]
	} else {
		if end = bytes.IndexAny(rest, " \t\r\n\f"); end < 0 {
			end = len(rest)
		}
		val, rest = rest[:end], rest[end:]
	}
	if bytes.IndexByte(val, '&') >= 0 {
		val = []byte(html.UnescapeString(string(val)))
	}
	return key, val, rest
}

func appendLower(to, s []byte) []byte {
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		to = append(to, c)
	}
	return to
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
		p.link(val, pos)
	case "class", "id", "role":
		if len(val) <= 100 {
			return zoneName(p.fold(val))
		}
	case "style":
		if len(val) <= 2000 {
			return zoneStyle(p.fold(val))
		}
	case "hidden":
		return Hidden
	}
	return Plain
}

// fold returns an attribute in lower case, until the next call.
func (p *page) fold(val []byte) []byte {
	p.lower = appendLower(p.lower[:0], val)
	return p.lower
}

var footerName, quoteName, navName, navbarName, navigationName = []byte("footer"), []byte("gmail_quote"), []byte("nav"), []byte("navbar"), []byte("navigation")

// zoneName reads a class, id or role in lower case.
func zoneName(v []byte) Zone {
	switch {
	case bytes.Contains(v, footerName):
		return Footer
	case bytes.Contains(v, quoteName):
		return Quoted
	case bytes.Equal(v, navName) || bytes.Contains(v, navbarName) || bytes.Contains(v, navigationName):
		return Nav
	}
	return Plain
}

// hiding lists the usual ways to hide text, by the property and the beginning
// of its value.
var hiding = map[string][]string{
	"display": {"none"}, "visibility": {"hidden"}, "font-size": {"0", "1px"}, "opacity": {"0;"}, "mso-hide": {"all"}, "max-height": {"0"},
}

// zoneStyle finds hidden text in a style in lower case. Hidden text is scanned
// all the same: the mark only says that a reader would not see it.
func zoneStyle(v []byte) Zone {
	for len(v) > 0 {
		end := bytes.IndexByte(v, ';') + 1
		if end == 0 {
			end = len(v)
		}
		if i := bytes.IndexByte(v[:end], ':'); i > 0 {
			value := bytes.TrimLeft(v[i+1:end], " ")
			for _, sign := range hiding[string(bytes.TrimSpace(v[:i]))] {
				if len(value) >= len(sign) && string(value[:len(sign)]) == sign {
					return Hidden
				}
			}
		}
		v = v[end:]
	}
	return Plain
}

// link keeps the decoded target of a link: a path or query may say what the
// text does not (results, a record number, an address).
func (p *page) link(target []byte, pos int) {
	target = bytes.TrimSpace(target)
	switch {
	case len(target) == 0 || target[0] == '#' || hasPrefix(target, "cid:"):
		return
	case hasPrefix(target, "data:image/"):
		p.w.out.Images++
		return
	case hasPrefix(target, "data:"):
		p.w.dataURI(p.at, string(target))
		return
	}
	p.w.host(target)
	if bytes.IndexByte(target, '%') >= 0 || bytes.IndexByte(target, '+') >= 0 {
		if plain, err := url.QueryUnescape(string(target)); err == nil {
			target = []byte(plain)
		}
	}
	p.links.write(target, pos)
	p.links.writeByte('\n', pos)
}

func hasPrefix(b []byte, s string) bool { return len(b) >= len(s) && string(b[:len(s)]) == s }

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

// host notes the host of a link, in lower case.
func (w *walker) host(target []byte) {
	_, rest, ok := bytes.Cut(target, slashes)
	if !ok {
		return
	}
	if end := bytes.IndexAny(rest, "/?#: \t\r\n"); end >= 0 {
		rest = rest[:end]
	}
	rest = rest[bytes.LastIndexByte(rest, '@')+1:]
	if bytes.IndexByte(rest, '.') < 0 || w.hosts[string(rest)] || len(w.hosts) >= 1000 {
		return
	}
	if h := strings.ToLower(string(rest)); !w.hosts[h] {
		w.hosts[h] = true
		w.out.Hosts = append(w.out.Hosts, h)
	}
}

var slashes = []byte("//")

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
