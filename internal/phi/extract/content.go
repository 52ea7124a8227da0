package extract

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"io"
	"strings"
	"unicode/utf8"
)

// leaf is what a part says about itself; its bytes have the last word.
type leaf struct {
	media   string
	charset string
	name    string
	shown   bool // part of the mail's own text, not an attachment
}

func (l leaf) kind() Kind {
	if l.shown {
		return Body
	}
	return File
}

// format is a file format that magic bytes or a claim tell.
type format uint8

const (
	isText format = iota
	isHTML
	isCalendar
	isZip
	isPDF
	isGzip
	isBzip2
	isTar
	isRTF
	isCompound
	isTNEF
	isDICOM
	isImage
	isEncrypted
	isNothing
	isUnsupported
)

// magic maps the first bytes of a file to its format.
var magic = []struct {
	prefix string
	format format
}{
	{"PK\x03\x04", isZip}, {"PK\x05\x06", isZip}, {"%PDF-", isPDF}, {"\x1f\x8b", isGzip}, {"BZh", isBzip2},
	{"{\\rtf", isRTF}, {"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", isCompound}, {"\x78\x9f\x3e\x22", isTNEF},
	{"7z\xbc\xaf\x27\x1c", isUnsupported}, {"Rar!\x1a\x07", isUnsupported}, {"\xfd7zXZ\x00", isUnsupported},
	{"\x28\xb5\x2f\xfd", isUnsupported}, {"MSCF", isUnsupported},
	{"\x89PNG\r\n\x1a\n", isImage}, {"\xff\xd8\xff", isImage}, {"GIF8", isImage}, {"II*\x00", isImage}, {"MM\x00*", isImage},
	{"BEGIN:VCALENDAR", isCalendar}, {"BEGIN:VCARD", isCalendar}, {"-----BEGIN PGP MESSAGE-----", isEncrypted},
}

// content reads a decoded leaf by what its bytes are, never by its name.
func (w *walker) content(at spot, l leaf, data []byte) {
	if w.ctx.Err() != nil {
		w.cannot(at.path(), Timeout)
		return
	}
	w.guard(at.path(), func() { w.open(at, l, data) })
}

func (w *walker) open(at spot, l leaf, data []byte) {
	switch tell(l, data) {
	case isText:
		w.plain(at, l, data)
	case isHTML:
		w.html(at, l, data)
	case isCalendar:
		w.calendar(at, l, data)
	case isZip:
		w.zip(at, l, data)
	case isPDF:
		w.pdf(at, data)
	case isGzip:
		w.gzip(at, l, data)
	case isBzip2:
		w.unpacked(at, strings.TrimSuffix(l.name, ".bz2"), bzip2.NewReader(bytes.NewReader(data)), int64(len(data)))
	case isTar:
		w.tar(at, data)
	case isRTF:
		w.add(Part{Path: at.path(), Kind: l.kind(), Text: rtfText(data)})
	case isCompound:
		w.compound(at, data)
	case isTNEF:
		w.tnef(at, data)
	case isDICOM:
		w.format("dicom")
		w.runs(at, data)
	case isImage:
		w.out.Images++
	case isEncrypted:
		if signed, ok := opaqueSigned(data); ok {
			at.mime++
			w.entity(deeper(at), signed)
			return
		}
		w.cannot(at.path(), Encrypted)
	case isUnsupported:
		w.cannot(at.path(), Unsupported)
	}
}

// tell decides the format by magic bytes, then by what the part claims.
func tell(l leaf, data []byte) format {
	head := bytes.TrimLeft(data[:min(len(data), 1024)], " \t\r\n\xef\xbb\xbf")
	for _, m := range magic {
		if len(head) >= len(m.prefix) && strings.EqualFold(string(head[:len(m.prefix)]), m.prefix) {
			return m.format
		}
	}
	switch {
	case len(data) > 132 && string(data[128:132]) == "DICM":
		return isDICOM
	case len(data) > 262 && string(data[257:262]) == "ustar":
		return isTar
	case bytes.Contains(data[:min(len(data), 1024)], []byte("%PDF-")):
		return isPDF
	case len(head) > 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP":
		return isImage
	}
	return byClaim(l, data)
}

// byClaim tells formats that have no magic: text, or what the header says.
func byClaim(l leaf, data []byte) format {
	switch l.media {
	case "application/pkcs7-mime", "application/x-pkcs7-mime":
		return isEncrypted
	case "application/pgp-encrypted", "application/pkcs7-signature", "application/x-pkcs7-signature", "application/pgp-signature":
		return isNothing
	}
	if !textual(data) {
		switch {
		case len(data) == 0:
			return isNothing
		case strings.HasPrefix(l.media, "image/"):
			return isImage
		case strings.HasPrefix(l.media, "text/"):
			return isText // an odd charset: better read badly than not
		}
		return isUnsupported
	}
	switch {
	case l.media == "text/html" || l.media == "application/xhtml+xml" || l.media == "text/x-amp-html" || sniffHTML(data):
		return isHTML
	case l.media == "text/calendar" || l.media == "text/vcard" || l.media == "text/directory":
		return isCalendar
	}
	return isText
}

// textual reports whether data reads as text in some charset.
func textual(data []byte) bool {
	sample := data[:min(len(data), 4096)]
	if _, ok := looksUTF16(sample); ok || bytes.HasPrefix(sample, []byte("\xff\xfe")) || bytes.HasPrefix(sample, []byte("\xfe\xff")) {
		return true
	}
	odd := 0
	for _, c := range sample {
		if c < 9 || c > 13 && c < 32 && c != 27 {
			odd++
		}
	}
	return odd*50 <= len(sample)
}

func sniffHTML(data []byte) bool {
	head := bytes.ToLower(bytes.TrimSpace(data[:min(len(data), 512)]))
	return bytes.HasPrefix(head, []byte("<!doctype html")) || bytes.HasPrefix(head, []byte("<html")) || bytes.HasPrefix(head, []byte("<head")) || bytes.HasPrefix(head, []byte("<body"))
}

// plain reads text, and files of known formats that are text.
func (w *walker) plain(at spot, l leaf, data []byte) {
	text := decodeText(data, l.charset)
	w.formats(text)
	if inner, name, ok := unuuencode(data); ok && utf8.Valid(data) {
		w.content(at.inside(name), leaf{name: name}, inner)
	}
	switch {
	case strings.Contains(text, "-----BEGIN PGP MESSAGE-----"):
		w.cannot(at.path(), Encrypted)
	case strings.Contains(text, "=ybegin line=") || strings.Contains(text, "(This file must be converted with BinHex"):
		w.cannot(at.path(), Unsupported)
	}
	if strings.HasPrefix(strings.TrimSpace(text), "<?xml") {
		w.add(Part{Path: at.path(), Kind: l.kind(), Text: xmlText(strings.NewReader(text))})
		return
	}
	w.add(Part{Path: at.path(), Kind: l.kind(), Text: text})
	if l.shown && strings.Contains(text, "://") {
		w.plainHosts(text)
	}
}

// plainHosts notes the hosts of URLs written out in text.
func (w *walker) plainHosts(text string) {
	for {
		i := strings.Index(text, "://")
		if i < 0 {
			return
		}
		start := max(0, i-5)
		if s := strings.LastIndexAny(text[start:i], " \t\r\n<(\"'"); s >= 0 {
			start += s + 1
		}
		end := strings.IndexAny(text[i:], " \t\r\n<>\"')")
		if end < 0 {
			end = len(text) - i
		}
		w.host([]byte(text[start : i+end]))
		text = text[i+3:]
	}
}

// formats marks data formats that carry patient records by design: HL7 v2,
// X12, C-CDA, FHIR (45 CFR 162.1102 names the X12 ones).
func (w *walker) formats(text string) {
	head := strings.TrimSpace(text[:min(len(text), 4096)])
	switch {
	case strings.HasPrefix(head, "MSH|") && strings.Contains(head, "\rPID|") || strings.HasPrefix(head, "MSH|") && strings.Contains(head, "\nPID|"):
		w.format("hl7")
	case len(head) > 105 && strings.HasPrefix(head, "ISA") && strings.Contains(head, "GS"+head[3:4]):
		w.format("x12")
	case strings.Contains(head, "<ClinicalDocument") && strings.Contains(head, "urn:hl7-org:v3"):
		w.format("ccda")
	case strings.HasPrefix(head, "{") && strings.Contains(head, `"resourceType"`):
		w.format("fhir")
	}
}

func (w *walker) gzip(at spot, l leaf, data []byte) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		w.cannot(at.path(), Malformed)
		return
	}
	name := r.Name
	if name == "" {
		name = strings.TrimSuffix(l.name, ".gz")
	}
	w.unpacked(at, name, r, int64(len(data)))
}

// unpacked reads the one file of a stream compressor.
func (w *walker) unpacked(at spot, name string, r io.Reader, packed int64) {
	at = at.inside(name)
	at.archive++
	if !w.enter(at) {
		return
	}
	data, whole, err := w.readAll(r, packed)
	switch {
	case !whole:
		w.cannot(at.path(), TooLarge)
	case err != nil:
		w.cannot(at.path(), Malformed)
	}
	w.content(at, leaf{name: name}, data)
}

func (w *walker) tar(at spot, data []byte) {
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			w.cannot(at.path(), Malformed)
			return
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		w.add(Part{Path: at.inside(h.Name).path(), Name: h.Name, Kind: FileName, Text: h.Name})
		w.unpacked(at, h.Name, r, h.Size)
		if w.entries > w.lim.Entries || w.ctx.Err() != nil {
			return
		}
	}
}

// calendar reads iCalendar and vCard (RFC 5545, RFC 6350): lines are unfolded
// first, since folds may cut words; escapes are undone.
func (w *walker) calendar(at spot, l leaf, data []byte) {
	text := decodeText(data, l.charset)
	m := mapped{buf: make([]byte, 0, len(text))}
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '\r' && i+2 < len(text) && text[i+1] == '\n' && (text[i+2] == ' ' || text[i+2] == '\t'):
			i += 3
		case c == '\n' && i+1 < len(text) && (text[i+1] == ' ' || text[i+1] == '\t'):
			i += 2
		case c == '\\' && i+1 < len(text):
			e := text[i+1]
			if e|0x20 == 'n' {
				e = '\n'
			}
			m.writeByte(e, i)
			i += 2
		default:
			m.writeByte(c, i)
			i++
		}
	}
	w.add(Part{Path: at.path(), Kind: File, Text: string(m.buf), moves: rooted(m.moves)})
}

// rooted returns moves that begin at the first byte.
func rooted(moves []move) []move {
	if len(moves) > 0 && moves[0].out != 0 {
		return append([]move{{0, 0}}, moves...)
	}
	return moves
}
