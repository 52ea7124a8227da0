package extract

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"net/textproto"
	"strings"
)

// header is one header block, in order, with its folds undone.
type header []struct{ name, value string }

func (h header) all(name string) []string {
	var v []string
	for _, f := range h {
		if strings.EqualFold(f.name, name) {
			v = append(v, f.value)
		}
	}
	return v
}

func (h header) first(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// parseHeader splits a block and its body. Lines may end in CRLF, LF or CR;
// a line that is no field ends the header (what follows is body).
func parseHeader(raw []byte) (h header, body []byte, clean bool) {
	clean = true
	for first := true; len(raw) > 0; first = false {
		line, rest := nextLine(raw)
		if len(line) == 0 {
			return h, rest, clean
		}
		if (line[0] == ' ' || line[0] == '\t') && len(h) > 0 {
			h[len(h)-1].value += " " + strings.TrimSpace(string(line))
			raw = rest
			continue
		}
		colon := bytes.IndexByte(line, ':')
		name := ""
		if colon > 0 {
			name = strings.TrimRight(string(line[:colon]), " \t")
		}
		switch {
		case first && (bytes.HasPrefix(line, []byte("From ")) || bytes.HasPrefix(line, []byte(">From "))): // mbox separator
		case name == "" || strings.ContainsAny(name, " \t\"<>"):
			return h, raw, false
		default:
			h = append(h, struct{ name, value string }{name, strings.TrimSpace(string(line[colon+1:]))})
		}
		raw = rest
	}
	return h, nil, clean
}

func nextLine(b []byte) (line, rest []byte) {
	i := bytes.IndexAny(b, "\r\n")
	if i < 0 {
		return b, nil
	}
	if b[i] == '\r' && i+1 < len(b) && b[i+1] == '\n' {
		return b[:i], b[i+2:]
	}
	return b[:i], b[i+1:]
}

// entity reads one MIME entity: its header fields, then its body.
func (w *walker) entity(at spot, raw []byte) {
	if !w.enter(at) {
		return
	}
	head := raw
	if len(head) > w.lim.Header {
		head = head[:w.lim.Header]
	}
	h, body, clean := parseHeader(head)
	switch {
	case len(head) == len(raw):
	case body == nil: // the header alone is larger than allowed
		w.cannot(at.field("header"), TooLarge)
	default:
		body = raw[len(head)-len(body):]
	}
	if !clean {
		w.cannot(at.path(), Ambiguous)
	}
	w.fields(at, h)
	w.body(at, h, body)
}

// skipped are fields that no reader sees and that hold only routing and keys.
var skipped = map[string]bool{
	"received": true, "dkim-signature": true, "arc-seal": true, "arc-message-signature": true, "arc-authentication-results": true,
	"authentication-results": true, "mime-version": true, "content-type": true, "content-transfer-encoding": true, "date": true,
	"message-id": true, "in-reply-to": true, "references": true, "return-path": true, "content-disposition": true, "received-spf": true,
	"dkim-filter": true, "domainkey-signature": true, "lines": true, "x-mailer": true, "user-agent": true, "content-id": true,
}

func (w *walker) fields(at spot, h header) {
	n := 0
	for _, f := range h {
		if skipped[strings.ToLower(f.name)] {
			continue
		}
		if n++; n > w.lim.Entries {
			w.cannot(at.field("header"), TooLarge)
			return
		}
		name := textproto.CanonicalMIMEHeaderKey(f.name)
		w.add(Part{Path: at.field(name), Name: name, Kind: Header, Text: decodeWords(f.value)})
	}
}

// decodeWords undoes RFC 2047, joining neighbouring words of one charset before
// decoding them, since tools split characters and numbers between words.
func decodeWords(s string) string {
	if !strings.Contains(s, "=?") {
		return decodeText([]byte(s), "")
	}
	var out strings.Builder
	var held []byte
	var label string
	flush := func() {
		if held != nil {
			out.WriteString(decodeText(held, label))
			held = nil
		}
	}
	for s != "" {
		i := strings.Index(s, "=?")
		if i < 0 {
			break
		}
		data, charset, n, ok := encodedWord(s[i:])
		gap := s[:i]
		if strings.TrimSpace(gap) != "" || held == nil || charset != label {
			flush()
			if strings.TrimSpace(gap) != "" || out.Len() == 0 {
				out.WriteString(gap)
			}
		}
		if !ok {
			out.WriteString("=?")
			s = s[i+2:]
			continue
		}
		held, label, s = append(held, data...), charset, s[i+n:]
	}
	flush()
	out.WriteString(s)
	return out.String()
}

func encodedWord(s string) (data []byte, charset string, n int, ok bool) {
	f := strings.SplitN(s[2:], "?", 4)
	if len(f) < 4 || len(f[1]) != 1 || !strings.HasPrefix(f[3], "=") {
		return nil, "", 0, false
	}
	charset, _, _ = strings.Cut(strings.ToLower(f[0]), "*")
	n = 2 + len(f[0]) + 1 + 1 + 1 + len(f[2]) + 2
	switch f[1] {
	case "B", "b":
		return unbase64([]byte(f[2])), charset, n, true
	case "Q", "q":
		return unquote([]byte(strings.ReplaceAll(f[2], "_", " "))), charset, n, true
	}
	return nil, "", 0, false
}

// body reads the body of an entity under every type its header claims.
func (w *walker) body(at spot, h header, raw []byte) {
	types := h.all("Content-Type")
	if len(types) > 1 {
		w.cannot(at.path(), Ambiguous)
	}
	if len(types) == 0 {
		types = []string{"text/plain"}
	}
	seen := map[string]bool{}
	for _, t := range types {
		media, params := parseType(t)
		key := media + "\x00" + params["boundary"]
		if seen[key] || len(seen) >= 4 {
			continue
		}
		seen[key] = true
		w.typed(at, h, media, params, raw)
	}
}

func (w *walker) typed(at spot, h header, media string, params map[string]string, raw []byte) {
	switch {
	case strings.HasPrefix(media, "multipart/"):
		if media == "multipart/encrypted" {
			w.cannot(at.path(), Encrypted)
		}
		w.multipart(at, params["boundary"], raw)
		return
	case media == "message/partial" || media == "message/external-body":
		w.cannot(at.path(), Unsupported)
	}
	data, ok := decodeTransfer(raw, h.first("Content-Transfer-Encoding"))
	if !ok {
		w.cannot(at.path(), Ambiguous)
	}
	name := fileName(h, params)
	_, disposed := parseType(h.first("Content-Disposition"))
	attached := name != "" || disposed == nil && h.first("Content-Disposition") != ""
	if attached {
		at = at.named(name)
		w.add(Part{Path: at.path(), Name: name, Kind: FileName, Text: name})
	}
	if media == "message/rfc822" || media == "message/global" || media == "text/rfc822-headers" {
		at.mime++
		w.entity(deeper(at), data)
		return
	}
	w.content(at, leaf{media: media, charset: params["charset"], name: name, shown: !attached}, data)
}

// deeper makes the entity inside a message/rfc822 part a spot of its own.
func deeper(at spot) spot {
	if at.number == "" {
		at.number = "1"
	}
	return at
}

// fileName is the name of an attachment, from RFC 2183 or the older parameter.
func fileName(h header, params map[string]string) string {
	_, d := parseType(h.first("Content-Disposition"))
	for _, n := range []string{d["filename"], params["name"]} {
		if n != "" {
			return decodeWords(n)
		}
	}
	return ""
}

// parseType reads "type/subtype; a=b", by the standard library where it can
// (RFC 2231 too) and leniently where that gives up.
func parseType(s string) (string, map[string]string) {
	if media, params, err := mime.ParseMediaType(s); err == nil {
		return media, params
	}
	f := strings.Split(s, ";")
	params := map[string]string{}
	for _, p := range f[1:] {
		if k, v, ok := strings.Cut(p, "="); ok {
			k = strings.ToLower(strings.TrimSpace(k))
			if _, have := params[k]; !have {
				params[k] = strings.Trim(strings.TrimSpace(v), `"'`)
			}
		}
	}
	media := strings.ToLower(strings.TrimSpace(f[0]))
	if !strings.Contains(media, "/") {
		media = "text/plain"
	}
	return media, params
}

// multipart reads the parts between boundary lines, and the text before and
// after them, which some readers show.
func (w *walker) multipart(at spot, boundary string, raw []byte) {
	if boundary == "" || !bytes.Contains(raw, []byte("--"+boundary)) {
		w.cannot(at.path(), Ambiguous)
		if boundary = guessBoundary(raw); boundary == "" {
			w.content(at, leaf{media: "text/plain", shown: true}, raw)
			return
		}
	}
	pieces, around, closed := split(raw, boundary)
	if !closed {
		w.cannot(at.path(), Ambiguous)
	}
	for i, p := range pieces {
		if w.ctx.Err() != nil || w.entries > w.lim.Entries {
			w.enter(at)
			return
		}
		w.entity(at.child(i+1), p)
	}
	if len(bytes.TrimSpace(around)) > 80 { // more than "This is a multi-part message"
		w.content(at.child(0), leaf{media: "text/plain", shown: true}, around)
	}
}

func guessBoundary(raw []byte) string {
	for range 20 {
		line, rest := nextLine(raw)
		if s := string(bytes.TrimRight(line, " \t")); len(s) > 6 && strings.HasPrefix(s, "--") && !strings.ContainsAny(s[2:], " ") && strings.Trim(s, "-=_") != "" {
			return s[2:]
		}
		raw = rest
	}
	return ""
}

// split cuts raw at the lines that are the boundary. closed says that the
// closing one was there.
func split(raw []byte, boundary string) (pieces [][]byte, around []byte, closed bool) {
	mark := []byte("--" + boundary)
	start := -1
	for i := 0; i < len(raw); {
		line, rest := nextLine(raw[i:])
		next := len(raw) - len(rest)
		if bytes.HasPrefix(line, mark) {
			tail := string(bytes.TrimRight(line[len(mark):], " \t"))
			if tail == "" || tail == "--" {
				if start >= 0 {
					pieces = append(pieces, raw[start:i])
				} else {
					around = append(around, raw[:i]...)
				}
				start = next
				if tail == "--" {
					around = append(around, raw[next:]...)
					return pieces, around, true
				}
			}
		}
		i = next
	}
	if start >= 0 && start < len(raw) {
		pieces = append(pieces, raw[start:])
	}
	return pieces, around, false
}

// decodeTransfer undoes the transfer encoding, repairing what it can; ok is
// false when the encoding is unknown.
func decodeTransfer(raw []byte, encoding string) ([]byte, bool) {
	encoding, _, _ = strings.Cut(encoding, ";")
	switch strings.ToLower(strings.Trim(strings.TrimSpace(encoding), `"`)) {
	case "", "7bit", "8bit", "binary":
		return raw, true
	case "base64":
		return unbase64(raw), true
	case "quoted-printable":
		return unquote(raw), true
	case "x-uuencode", "uuencode", "x-uue":
		if data, _, ok := unuuencode(raw); ok {
			return data, true
		}
	}
	return raw, false
}

var base64Value = func() (t [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = true
	}
	return t
}()

// unbase64 decodes whatever alphabet bytes there are: junk is skipped, padding
// may be missing or stand in the middle (two encodings joined).
func unbase64(raw []byte) []byte {
	clean := make([]byte, 0, len(raw))
	out := make([]byte, 0, len(raw)*3/4)
	flush := func() {
		if len(clean)%4 == 1 {
			clean = clean[:len(clean)-1]
		}
		n := base64.RawStdEncoding.DecodedLen(len(clean))
		at := len(out)
		out = append(out, make([]byte, n)...)
		n, _ = base64.RawStdEncoding.Decode(out[at:], clean)
		out, clean = out[:at+n], clean[:0]
	}
	for _, c := range raw {
		switch {
		case base64Value[c]:
			clean = append(clean, c)
		case c == '=' && len(clean)%4 != 0:
			flush()
		}
	}
	flush()
	return out
}

// unquote decodes quoted-printable and leaves what is not encoded as it is.
func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '=') < 0 {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		j := bytes.IndexByte(raw[i:], '=')
		if j < 0 {
			return append(out, raw[i:]...)
		}
		out = append(out, raw[i:i+j]...)
		i += j
		if i+2 < len(raw) {
			if hi, lo := unhex(raw[i+1]), unhex(raw[i+2]); hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 3
				continue
			}
		}
		k := i + 1
		for k < len(raw) && (raw[k] == ' ' || raw[k] == '\t') {
			k++
		}
		switch {
		case k >= len(raw):
			return out
		case raw[k] == '\r' && k+1 < len(raw) && raw[k+1] == '\n':
			i = k + 2
		case raw[k] == '\n' || raw[k] == '\r':
			i = k + 1
		default:
			out = append(out, '=')
			i++
		}
	}
	return out
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// unuuencode finds "begin 644 name" in raw and decodes up to "end".
func unuuencode(raw []byte) (data []byte, name string, ok bool) {
	i := bytes.Index(raw, []byte("begin "))
	for i > 0 && raw[i-1] != '\n' && raw[i-1] != '\r' {
		j := bytes.Index(raw[i+1:], []byte("begin "))
		if j < 0 {
			return nil, "", false
		}
		i += 1 + j
	}
	if i < 0 {
		return nil, "", false
	}
	line, rest := nextLine(raw[i:])
	f := strings.SplitN(string(line), " ", 3)
	if len(f) < 3 || len(f[1]) < 3 || len(f[1]) > 4 || strings.Trim(f[1], "01234567") != "" {
		return nil, "", false
	}
	for len(rest) > 0 {
		line, rest = nextLine(rest)
		if string(bytes.TrimSpace(line)) == "end" {
			return data, f[2], true
		}
		if len(line) == 0 {
			continue
		}
		n := int(line[0]-' ') & 63
		data = append(data, uuLine(line[1:], n)...)
	}
	return data, f[2], len(data) > 0
}

func uuLine(line []byte, n int) []byte {
	var out []byte
	at := func(i int) byte {
		if i < len(line) {
			return (line[i] - ' ') & 63
		}
		return 0
	}
	for i := 0; len(out) < n && i < len(line); i += 4 {
		a, b, c, d := at(i), at(i+1), at(i+2), at(i+3)
		out = append(out, a<<2|b>>4, b<<4|c>>2, c<<6|d)
	}
	return out[:min(n, len(out))]
}

// readAll reads what a decompressor gives, within the message's budget; whole
// is false when there was more.
func (w *walker) readAll(r io.Reader, packed int64) (data []byte, whole bool, err error) {
	limit := min(w.left, max(packed, 1<<10)*w.lim.Ratio)
	data, err = io.ReadAll(io.LimitReader(r, limit+1))
	if int64(len(data)) > limit {
		w.left = 0
		return data[:limit], false, err
	}
	w.spend(int64(len(data)))
	return data, true, err
}
