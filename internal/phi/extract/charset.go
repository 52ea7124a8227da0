package extract

import (
	"bytes"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/net/html/charset"
)

// decodeText turns bytes into UTF-8: by what they are where that is plain
// (byte order mark, zero bytes, valid UTF-8), else by what they claim to be,
// else as windows-1252, the usual lie.
func decodeText(data []byte, label string) string {
	label = strings.ToLower(strings.TrimSpace(label))
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return string(bytes.ToValidUTF8(data[3:], []byte("�")))
	case bytes.HasPrefix(data, []byte("\xff\xfe")):
		return decodeUTF16(data[2:], false)
	case bytes.HasPrefix(data, []byte("\xfe\xff")):
		return decodeUTF16(data[2:], true)
	}
	if big, ok := looksUTF16(data); ok {
		return decodeUTF16(data, big)
	}
	if label == "utf-7" || label == "unicode-1-1-utf-7" {
		return decodeUTF7(data)
	}
	if shifted(label) || !utf8.Valid(data) {
		return decodeLabel(data, label)
	}
	return string(data)
}

// shifted reports charsets whose bytes are ASCII and yet mean something else.
func shifted(label string) bool {
	return strings.HasPrefix(label, "iso-2022-") || label == "hz-gb-2312"
}

func decodeLabel(data []byte, label string) string {
	enc, name := charset.Lookup(label)
	if enc == nil || name == "utf-8" || strings.HasPrefix(name, "utf-16") || name == "replacement" {
		enc, _ = charset.Lookup("windows-1252")
	}
	out, err := enc.NewDecoder().Bytes(data)
	if err != nil {
		return string(bytes.ToValidUTF8(data, []byte("�")))
	}
	return string(out)
}

// looksUTF16 tells UTF-16 of mostly Latin text by where its zero bytes are.
func looksUTF16(data []byte) (big, ok bool) {
	n := min(len(data), 512) &^ 1
	if n < 4 {
		return false, false
	}
	var even, odd int
	for i := 0; i < n; i += 2 {
		if data[i] == 0 {
			even++
		}
		if data[i+1] == 0 {
			odd++
		}
	}
	half := n / 2
	switch {
	case odd*10 >= half*7 && even*10 < half:
		return false, true
	case even*10 >= half*7 && odd*10 < half:
		return true, true
	}
	return false, false
}

func decodeUTF16(data []byte, big bool) string {
	u := make([]uint16, 0, len(data)/2)
	for i := 0; i+1 < len(data); i += 2 {
		lo, hi := data[i], data[i+1]
		if big {
			lo, hi = hi, lo
		}
		u = append(u, uint16(hi)<<8|uint16(lo))
	}
	return string(utf16.Decode(u))
}

// decodeUTF7 undoes RFC 2152.
func decodeUTF7(data []byte) string {
	var out strings.Builder
	for len(data) > 0 {
		i := bytes.IndexByte(data, '+')
		if i < 0 {
			break
		}
		out.Write(data[:i])
		data = data[i+1:]
		j := 0
		for j < len(data) && base64Value[data[j]] {
			j++
		}
		if j == 0 {
			out.WriteByte('+')
		} else {
			out.WriteString(decodeUTF16(unbase64(data[:j]), true))
		}
		data = data[j:]
		if len(data) > 0 && data[0] == '-' {
			data = data[1:]
		}
	}
	out.Write(data)
	return out.String()
}
