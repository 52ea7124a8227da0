package portal

import (
	"mime"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// harmless are the types a download may say it is. All others are just bytes:
// a type is the sender's word, and some make a browser do things.
var harmless = map[string]bool{
	"application/pdf": true, "application/rtf": true, "application/msword": true, "application/vnd.ms-excel": true,
	"application/vnd.openxmlformats-officedocument.wordprocessingml.document":   true,
	"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet":         true,
	"application/vnd.openxmlformats-officedocument.presentationml.presentation": true,
	"application/vnd.oasis.opendocument.text":                                   true, "application/vnd.oasis.opendocument.spreadsheet": true,
	"application/dicom": true, "message/rfc822": true,
	"image/png": true, "image/jpeg": true, "image/gif": true, "image/webp": true, "image/tiff": true,
	"text/plain": true, "text/csv": true, "text/calendar": true, "audio/mpeg": true, "video/mp4": true,
}

func safeType(kind string) string {
	kind, _, err := mime.ParseMediaType(kind)
	if err != nil || !harmless[kind] {
		return "application/octet-stream"
	}
	return kind
}

const maxName = 100 // runes of a file name

// safeName makes a name that can be shown and saved: no folders, no control or
// direction characters (which make "fdp.exe" look like "exe.pdf"), not hidden.
func safeName(name string, n int) string {
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r), strings.ContainsRune(`"*:<>?|`, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	name = strings.Trim(name, ". ")
	if runes := []rune(name); len(runes) > maxName {
		name = string(runes[:maxName/2]) + "…" + string(runes[len(runes)-maxName/2+1:]) // the end has the extension
	}
	if name == "" {
		return "file-" + strconv.Itoa(n)
	}
	return name
}

// disposition is a Content-Disposition that saves under name (RFC 6266 §5 and
// appendix D: an ASCII form for old browsers beside the real one).
func disposition(name string) string {
	plain := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' || r == '%' {
			return '_'
		}
		return r
	}, name)
	d := `attachment; filename="` + plain + `"`
	if plain != name {
		d += "; filename*=UTF-8''" + strings.ReplaceAll(url.QueryEscape(name), "+", "%20")
	}
	return d
}
