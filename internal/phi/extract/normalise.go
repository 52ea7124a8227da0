package extract

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalise folds what looks alike into what it looks like: compatibility
// forms (NFKC), accents, look-alike letters of other scripts beside Latin ones;
// it drops characters that nobody sees and joins letters that are s p a c e d.
func normalise(p *Part) {
	if !ascii(p.Text) {
		p.apply(fold(p.Text))
	}
	if at, _ := spaced(p.Text); at >= 0 {
		p.apply(joinSpaced(p.Text))
	}
}

// apply replaces the text by m, which was made from it.
func (p *Part) apply(m mapped) {
	moves := m.moves
	if len(moves) == 0 || moves[0].out != 0 {
		moves = append([]move{{0, 0}}, moves...)
	}
	for i := range p.Marks {
		p.Marks[i].Start = uint32(target(moves, int(p.Marks[i].Start)))
		p.Marks[i].End = uint32(target(moves, int(p.Marks[i].End)))
	}
	p.moves = compose(p.moves, moves)
	p.Text = string(m.buf)
}

// target is the inverse of source, for moves whose sources rise.
func target(moves []move, src int) int {
	at := 0
	for _, m := range moves {
		if int(m.src) > src {
			break
		}
		at = int(m.out) + src - int(m.src)
	}
	return at
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func fold(s string) mapped {
	m := mapped{buf: make([]byte, 0, len(s))}
	for i := 0; i < len(s); {
		j := i
		for j < len(s) && s[j] < utf8.RuneSelf {
			j++
		}
		if j > i {
			m.writeString(s[i:j], i)
			i = j
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		m.writeString(foldRune(r, s[i:i+n], latinBeside(s, i, i+n)), i)
		i += n
	}
	return m
}

// latinBeside reports whether an ASCII letter or digit stands in the same word
// as s[i:j]: a whole Cyrillic word stays Cyrillic.
func latinBeside(s string, i, j int) bool {
	for k := i; k > 0; {
		r, n := utf8.DecodeLastRuneInString(s[:k])
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !invisible(r) {
			break
		}
		if r < utf8.RuneSelf {
			return true
		}
		k -= n
	}
	for k := j; k < len(s); {
		r, n := utf8.DecodeRuneInString(s[k:])
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !invisible(r) {
			break
		}
		if r < utf8.RuneSelf {
			return true
		}
		k += n
	}
	return false
}

func foldRune(r rune, as string, latin bool) string {
	switch {
	case r == '‘' || r == '’' || r == 'ʼ' || r == '′' || r == '＇':
		return "'"
	case r == '“' || r == '”' || r == '„' || r == '«' || r == '»':
		return `"`
	case r >= '‐' && r <= '―' || r == '−' || r == '﹘' || r == '－':
		return "-"
	case r == '…':
		return "..."
	case invisible(r):
		return ""
	case unicode.IsSpace(r):
		return " "
	}
	if latin {
		if t, ok := lookalike[r]; ok {
			return t
		}
	}
	if bullet(r) {
		return "*"
	}
	if !unicode.In(r, unicode.L, unicode.M, unicode.N) {
		return " "
	}
	if r >= 0x0370 && r < 0x1E00 {
		return as // scripts that do not fold
	}
	t := norm.NFKD.String(as)
	if t == as {
		return as
	}
	out := make([]byte, 0, len(t))
	for _, c := range t {
		if !unicode.Is(unicode.Mn, c) {
			out = utf8.AppendRune(out, c)
		}
	}
	return string(out)
}

func bullet(r rune) bool {
	switch r {
	case '•', '·', '▪', '▸', '►', '●', '○', '■', '✓', '✔', '➤', '◦', '‣':
		return true
	}
	return false
}

// invisible reports characters that take no room on the page: zero-width
// spaces and joiners, soft hyphens, bidi controls, variation selectors, tags.
func invisible(r rune) bool {
	switch {
	case r == 0xAD, r == 0x034F, r == 0x061C, r == 0x115F, r == 0x1160, r == 0x180E, r == 0x3164, r == 0xFEFF, r == 0xFFA0:
		return true
	case r >= 0x200B && r <= 0x200F, r >= 0x202A && r <= 0x202E, r >= 0x2060 && r <= 0x206F:
		return true
	case r >= 0xFE00 && r <= 0xFE0F, r >= 0xE0000 && r <= 0xE0FFF:
		return true
	}
	return false
}

// lookalike maps letters of other scripts to the Latin letter they imitate
// (after the confusables of Unicode TS #39).
var lookalike = map[rune]string{
	'а': "a", 'А': "A", 'в': "b", 'В': "B", 'с': "c", 'С': "C", 'ԁ': "d", 'е': "e", 'Е': "E", 'ё': "e", 'һ': "h", 'Н': "H", 'н': "h",
	'і': "i", 'І': "I", 'ї': "i", 'ј': "j", 'Ј': "J", 'к': "k", 'К': "K", 'ӏ': "l", 'Ӏ': "l", 'м': "m", 'М': "M", 'п': "n", 'о': "o",
	'О': "O", 'р': "p", 'Р': "P", 'ԛ': "q", 'г': "r", 'ѕ': "s", 'Ѕ': "S", 'т': "t", 'Т': "T", 'ц': "u", 'ѵ': "v", 'ѡ': "w", 'ԝ': "w",
	'х': "x", 'Х': "X", 'у': "y", 'У': "Y", 'ү': "y", 'з': "3", 'З': "3",
	'α': "a", 'Α': "A", 'β': "b", 'Β': "B", 'ϲ': "c", 'ε': "e", 'Ε': "E", 'η': "n", 'Η': "H", 'ι': "i", 'Ι': "I", 'κ': "k", 'Κ': "K",
	'Μ': "M", 'ν': "v", 'Ν': "N", 'ο': "o", 'Ο': "O", 'ρ': "p", 'Ρ': "P", 'τ': "t", 'Τ': "T", 'υ': "u", 'Υ': "Y", 'χ': "x", 'Χ': "X",
	'ω': "w", 'Ζ': "Z", 'γ': "y", 'σ': "o",
	'ı': "i", 'ɩ': "i", 'ɑ': "a", 'ɡ': "g", 'ɪ': "i", 'ʏ': "y", 'ᴄ': "c", 'ᴏ': "o", 'ᴛ': "t", 'ᴜ': "u", 'ᴠ': "v", 'ᴡ': "w", 'ᴢ': "z",
	'ո': "n", 'օ': "o", 'ս': "u", 'հ': "h", 'ց': "g", 'զ': "q",
}

// spaced returns where a run of at least four letters stands, each alone and a
// space apart, and where it ends; -1 if nowhere.
func spaced(s string) (start, end int) {
	for i := 0; i+6 < len(s); i++ {
		if s[i+1] != ' ' || s[i+3] != ' ' || !alone(s, i) { // most bytes end here
			continue
		}
		start = i
		for i+2 < len(s) && s[i+1] == ' ' && alone(s, i+2) {
			i += 2
		}
		if i-start >= 6 {
			return start, i + 1
		}
	}
	return -1, -1
}

// alone reports whether s[i] is a letter with no letter or digit beside it.
func alone(s string, i int) bool {
	return letter(s[i]) && (i == 0 || !wordByte(s[i-1])) && (i+1 == len(s) || !wordByte(s[i+1]))
}

func wordByte(c byte) bool { return letter(c) || c >= '0' && c <= '9' }

func joinSpaced(s string) mapped {
	m := mapped{buf: make([]byte, 0, len(s))}
	i := 0
	for {
		start, end := spaced(s[i:])
		if start < 0 {
			break
		}
		m.writeString(s[i:i+start], i)
		for k := i + start; k < i+end; k += 2 {
			m.writeByte(s[k], k)
		}
		i += end
	}
	m.writeString(s[i:], i)
	return m
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
