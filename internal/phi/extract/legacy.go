package extract

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// compound reads the old binary office files and .msg (MS-CFB) by their runs of
// text, which is enough to find what they say. An encrypted modern document
// hides in the same container.
func (w *walker) compound(at spot, data []byte) {
	if bytes.Contains(data, utf16le("EncryptedPackage")) || bytes.Contains(data, utf16le("EncryptionInfo")) {
		w.cannot(at.path(), Encrypted)
		return
	}
	w.runs(at, data)
}

func utf16le(s string) []byte {
	b := make([]byte, 0, 2*len(s))
	for i := 0; i < len(s); i++ {
		b = append(b, s[i], 0)
	}
	return b
}

// runs keeps every run of at least six printable characters, in single bytes
// or in UTF-16.
func (w *walker) runs(at spot, data []byte) {
	var out strings.Builder
	keep := func(run []byte) {
		if len(run) >= 6 {
			out.Write(run)
			out.WriteByte('\n')
		}
	}
	var narrow, wide []byte
	for i := 0; i < len(data); i++ {
		if printableByte(data[i]) {
			narrow = append(narrow, data[i])
		} else {
			keep(narrow)
			narrow = narrow[:0]
		}
	}
	keep(narrow)
	for i := 0; i+1 < len(data); {
		if printableByte(data[i]) && data[i+1] == 0 {
			wide = append(wide, data[i])
			i += 2
			continue
		}
		if len(wide) > 0 {
			keep(wide)
			wide = wide[:0]
			i += 2
			continue
		}
		i++
	}
	keep(wide)
	w.add(Part{Path: at.path(), Kind: File, Text: out.String()})
}

func printableByte(c byte) bool { return c >= ' ' && c < 0x7f || c == '\t' }

// rtfText strips control words (RTF 1.9.1) and keeps text, paragraphs and cells.
func rtfText(data []byte) string {
	var out strings.Builder
	depth, skip := 0, 0 // skip: depth from which a destination is dropped
	for i := 0; i < len(data); i++ {
		switch c := data[i]; c {
		case '{':
			depth++
		case '}':
			if depth == skip {
				skip = 0
			}
			depth--
		case '\r', '\n':
		case '\\':
			word, arg, n := rtfControl(data[i+1:])
			i += n
			switch {
			case word == "*" || word == "fonttbl" || word == "colortbl" || word == "stylesheet" || word == "pict" || word == "themedata":
				if skip == 0 {
					skip = depth
				}
			case skip == 0:
				out.WriteString(rtfChar(word, arg))
			}
		default:
			if skip == 0 {
				out.WriteByte(c)
			}
		}
	}
	return out.String()
}

// rtfControl reads the control word behind a backslash and returns its length.
func rtfControl(b []byte) (word string, arg int, n int) {
	if len(b) == 0 {
		return "", 0, 0
	}
	if b[0] == '\'' && len(b) >= 3 {
		hi, lo := unhex(b[1]), unhex(b[2])
		return "'", max(hi, 0)<<4 | max(lo, 0), 3
	}
	for n < len(b) && n < 32 && letter(b[n]) {
		n++
	}
	if n == 0 {
		return string(b[:1]), 0, 1
	}
	word = string(b[:n])
	sign := 1
	if n < len(b) && b[n] == '-' {
		sign = -1
		n++
	}
	for n < len(b) && b[n] >= '0' && b[n] <= '9' && arg < 1<<20 {
		arg = arg*10 + int(b[n]-'0')
		n++
	}
	if n < len(b) && b[n] == ' ' {
		n++
	}
	return word, arg * sign, n
}

func rtfChar(word string, arg int) string {
	switch word {
	case "'":
		return decodeText([]byte{byte(arg)}, "windows-1252")
	case "u":
		return string(rune(uint16(arg)))
	case "par", "line", "row", "sect", "page":
		return "\n"
	case "cell", "tab":
		return "\t"
	case "~", "_":
		return " "
	case "\\", "{", "}":
		return word
	}
	return ""
}

// tnef walks the attributes of winmail.dat (MS-OXTNEF): the body, file names
// and attached data.
func (w *walker) tnef(at spot, data []byte) {
	const attachTitle, attachData, body, mapi, attachMAPI = 0x8010, 0x800f, 0x800c, 0x9003, 0x9005
	name := "attachment"
	for b := data[min(6, len(data)):]; len(b) >= 9; {
		id := int(binary.LittleEndian.Uint16(b[1:3]))
		n := int64(binary.LittleEndian.Uint32(b[5:9]))
		if n > int64(len(b)-9) {
			w.cannot(at.path(), Malformed)
			return
		}
		value := b[9 : 9+n]
		switch id {
		case attachTitle:
			name = decodeText(bytes.TrimRight(value, "\x00"), "windows-1252")
			w.add(Part{Path: at.inside(name).path(), Name: name, Kind: FileName, Text: name})
		case attachData:
			in := at.inside(name)
			if in.archive++; w.enter(in) {
				w.content(in, leaf{name: name}, value)
			}
		case body:
			w.add(Part{Path: at.path(), Kind: Body, Text: decodeText(bytes.TrimRight(value, "\x00"), "windows-1252")})
		case mapi, attachMAPI:
			w.mapi(at, value)
		}
		b = b[min(len(b), int(9+n+2)):]
	}
}

// mapi finds the compressed RTF body (MS-OXRTFCP) among message properties and
// keeps the runs of the rest.
func (w *walker) mapi(at spot, props []byte) {
	w.runs(at, props)
	for i := 0; i+16 <= len(props); i++ {
		if string(props[i:i+4]) == "LZFu" && i >= 8 {
			if text, ok := unLZFu(props[i-8:]); ok {
				w.add(Part{Path: at.path(), Kind: Body, Text: rtfText(text)})
			}
			return
		}
	}
}

const lzfuDictionary = "{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern \\fscript \\fdecor MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx"

// unLZFu undoes MS-OXRTFCP §2.2.2.
func unLZFu(b []byte) ([]byte, bool) {
	if len(b) < 16 {
		return nil, false
	}
	size := int(binary.LittleEndian.Uint32(b[4:8]))
	if size > 8<<20 {
		return nil, false
	}
	var window [4096]byte
	at := copy(window[:], lzfuDictionary)
	out := make([]byte, 0, size)
	put := func(c byte) {
		out = append(out, c)
		window[at&4095] = c
		at++
	}
	for b = b[16:]; len(b) > 0 && len(out) < size; {
		flags := b[0]
		b = b[1:]
		for bit := 0; bit < 8 && len(out) < size; bit++ {
			if flags>>bit&1 == 0 {
				if len(b) < 1 {
					return out, true
				}
				put(b[0])
				b = b[1:]
				continue
			}
			if len(b) < 2 {
				return out, true
			}
			ref := int(b[0])<<8 | int(b[1])
			b = b[2:]
			from, n := ref>>4, ref&15+2
			if from == at&4095 {
				return out, true
			}
			for k := range n {
				put(window[(from+k)&4095])
			}
		}
	}
	return out, true
}
