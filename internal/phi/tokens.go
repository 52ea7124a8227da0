package phi

import (
	"slices"

	"github.com/phigate/phigate/internal/phi/extract"
	"github.com/phigate/phigate/internal/phi/lexicon"
)

// shape is what a token looks like.
type shape uint8

const (
	digits     shape = 1 << iota // begins with a digit
	mixed                        // letters and digits
	upper                        // two letters or more, all capitals
	title                        // a capital first
	possessive                   // followed by 's
)

// token is one word or number. Apostrophes inside words are dropped, so that
// "don't" is one token.
type token struct {
	word, stem uint64 // hashes; stem is without a plural ending
	start, end uint32 // in the part's text
	sentence   int32
	shape      shape
}

// sentence is a stretch of tokens that belong together: a sentence, a line of a
// list, a heading, a table row.
type sentence struct {
	first, last int32 // tokens [first, last)
	zone        extract.Zone
	cues        lexicon.Cue
	question    bool
	concrete    bool // holds a date, a time of day or a measurement with its unit
	day         bool // holds a date or a time of day
	value       bool // holds a number that may be a reading
	money       bool
}

// text is one part with what the tokenising pass found in it. It lives only
// while its part is read.
type text struct {
	part      int
	src       string
	kind      extract.Kind
	tokens    []token
	cues      []lexicon.Cue // of the phrases that begin at each token
	sentences []sentence
	mentions  []mention
	labels    []labelled
}

// mention is a health term in a text.
type mention struct {
	term        *lexicon.Term
	first, last int32 // tokens [first, last)
	sentence    int32
}

// labelled is a word that announces an identifier.
type labelled struct {
	labels lexicon.Labels
	last   int32 // token behind the label
	first  int32
}

var drStem = lexicon.Hash([]byte("dr"))

const (
	classOther = iota
	classLetter
	classUpper
	classDigit
	classHigh
	classSpace
)

var class = func() (t [256]uint8) {
	for c := range t {
		switch {
		case c >= 'a' && c <= 'z':
			t[c] = classLetter
		case c >= 'A' && c <= 'Z':
			t[c] = classUpper
		case c >= '0' && c <= '9':
			t[c] = classDigit
		case c >= 0x80:
			t[c] = classHigh
		case c <= ' ':
			t[c] = classSpace
		}
	}
	return t
}()

// tokenise fills tokens and sentences in one pass over the text.
func (t *text) tokenise() {
	s := t.src
	t.tokens, t.sentences = t.tokens[:0], t.sentences[:0]
	open := sentence{}
	for i := 0; i < len(s); {
		c := class[s[i]]
		if c == classOther || c == classSpace {
			if n := t.breakAt(i, c); n > 0 {
				t.endSentence(&open, s[i] == '?')
				i += n
				continue
			}
			i++
			continue
		}
		i = t.scanWord(i)
	}
	t.endSentence(&open, false)
}

// scanWord reads the token at i and returns where it ends.
func (t *text) scanWord(i int) int {
	s := t.src
	k := token{start: uint32(i), sentence: int32(len(t.sentences))}
	h := lexicon.Offset
	h1, h3 := h, h // hashes before the last byte and before the last three
	var h2 uint64
	n, caps, nums := 0, 0, 0
	if class[s[i]] == classUpper {
		k.shape |= title
	}
	for ; i < len(s); i++ {
		c := s[i]
		switch class[c] {
		case classUpper:
			c |= 0x20
			caps++
		case classLetter, classHigh:
		case classDigit:
			nums++
		default:
			if c == '\'' && n > 0 && i+1 < len(s) && class[s[i+1]]-1 < 2 { // a letter follows
				if s[i+1]|0x20 == 's' && (i+2 == len(s) || class[s[i+2]]%classSpace == 0) {
					k.shape |= possessive
					k.end = uint32(i)
					k.word, k.stem = h, stem(s, k.start, k.end, n, h, h1, h3)
					t.tokens = append(t.tokens, t.finish(k, n, caps, nums))
					return i + 2
				}
				continue
			}
			goto done
		}
		h3, h2, h1 = h2, h1, h
		h = (h ^ uint64(c)) * lexicon.Prime
		n++
	}
done:
	k.end = uint32(i)
	k.word, k.stem = h, stem(s, k.start, k.end, n, h, h1, h3)
	t.tokens = append(t.tokens, t.finish(k, n, caps, nums))
	return i
}

func (t *text) finish(k token, n, caps, nums int) token {
	if class[t.src[k.start]] == classDigit {
		k.shape |= digits
	}
	if nums > 0 && nums < n {
		k.shape |= mixed
	}
	if caps == n && n > 1 {
		k.shape |= upper
	}
	return k
}

// stem takes the plural ending off, as [lexicon.Stem] does, from the hashes of
// the shorter prefixes.
func stem(s string, start, end uint32, n int, h, h1, h3 uint64) uint64 {
	if n <= 3 || s[end-1]|0x20 != 's' {
		return h
	}
	switch s[end-2] | 0x20 {
	case 's', 'u', 'i':
		return h
	case 'e':
		if s[end-3]|0x20 == 'i' && n > 4 {
			return (h3 ^ 'y') * lexicon.Prime
		}
	}
	return h1
}

// breakAt says whether a sentence ends at the separator s[i], and how many
// bytes to skip then.
func (t *text) breakAt(i int, c uint8) int {
	s := t.src
	switch s[i] {
	case '\n':
		if t.lineEnds(i) {
			return 1
		}
	case '.', '!', '?':
		if i+1 == len(s) || class[s[i+1]] == classSpace || s[i+1] == '"' || s[i+1] == '<' {
			if s[i] == '.' && t.abbreviation() {
				return 0
			}
			return 1
		}
	case ';':
		return 1
	}
	return 0
}

// lineEnds tells a line that ends its sentence from one that was only wrapped:
// it is short, or an empty line, a list item, a label or a quote mark follows.
func (t *text) lineEnds(i int) bool {
	s := t.src
	if t.kind != extract.Body {
		return true
	}
	start := i
	for start > 0 && s[start-1] != '\n' && i-start < 50 {
		start--
	}
	if i-start < 45 {
		return true
	}
	j := i + 1
	for j < len(s) && (s[j] == ' ' || s[j] == '\t' || s[j] == '\r') {
		j++
	}
	if j >= len(s) {
		return true
	}
	switch s[j] {
	case '\n', '-', '*', '>', '|', '#', '+', '_', '=':
		return true
	}
	return false
}

// abbreviation reports whether the last token is one that a point belongs to.
func (t *text) abbreviation() bool {
	if len(t.tokens) == 0 {
		return false
	}
	k := t.tokens[len(t.tokens)-1]
	w := t.src[k.start:k.end]
	switch w {
	case "Dr", "Mr", "Mrs", "Ms", "St", "No", "no", "vs", "Prof", "Jr", "Sr", "approx", "Rx", "Pt", "pt", "e", "i":
		return true
	}
	return len(w) == 1 && k.shape&title != 0
}

func (t *text) endSentence(open *sentence, question bool) {
	n := int32(len(t.tokens))
	if n == open.first {
		return
	}
	open.last, open.question = n, question
	t.sentences = append(t.sentences, *open)
	*open = sentence{first: n}
}

// match runs the phrases over the tokens: cues per token and sentence, health
// mentions (the longest wins and hides those inside it), labels.
func (t *text) match(lx *lexicon.Lexicon) {
	if cap(t.cues) < len(t.tokens) {
		t.cues = make([]lexicon.Cue, len(t.tokens), len(t.tokens)*2)
	}
	t.cues = t.cues[:len(t.tokens)]
	t.mentions, t.labels = t.mentions[:0], t.labels[:0]
	for i := range t.tokens {
		t.cues[i] = 0
		if !lx.First(t.tokens[i].stem) {
			continue
		}
		if best, end := t.longest(lx, i); best != nil {
			t.mention(mention{best, int32(i), int32(end), t.tokens[i].sentence})
		}
	}
	t.mentions = slices.DeleteFunc(t.mentions, func(m mention) bool { return m.term.Kind == lexicon.Figure })
}

// mention keeps a term. Of two that overlap the longer wins, of two as long the
// surer: "your physical therapist" is a therapist, not an annual physical.
func (t *text) mention(m mention) {
	n := len(t.mentions)
	if n == 0 || m.first >= t.mentions[n-1].last {
		t.mentions = append(t.mentions, m)
		return
	}
	old := &t.mentions[n-1]
	a, b := m.last-m.first, old.last-old.first
	if a > b || a == b && m.term.Kind != lexicon.Figure && (old.term.Kind == lexicon.Figure || m.term.Tier < old.term.Tier) {
		*old = m
	}
}

// longest walks every phrase that begins at token i, notes cues and labels and
// returns the longest health term.
func (t *text) longest(lx *lexicon.Lexicon, i int) (best *lexicon.Term, end int) {
	var state uint64
	last := t.sentences[t.tokens[i].sentence].last
	var labels lexicon.Labels
	labelEnd := 0
	for j, on := i, true; on && j < int(last); j++ {
		var n int
		state, n, on = lx.Step(state, t.tokens[j].stem)
		if n == 0 {
			continue
		}
		term := lx.Term(n)
		if term.Caps && t.tokens[i].shape&upper == 0 {
			continue
		}
		cues := term.Cues
		if cues&lexicon.TitleProvider != 0 && t.tokens[i].end-t.tokens[i].start <= 3 && t.tokens[i].shape&upper == 0 && t.tokens[i].stem != drStem {
			cues &^= lexicon.TitleProvider // "do" is no D.O.
		}
		t.cues[i] |= cues
		t.sentences[t.tokens[i].sentence].cues |= cues
		if term.Labels != 0 {
			labels, labelEnd = term.Labels, j+1
		}
		if term.Kind != lexicon.NoKind {
			best, end = term, j+1
		}
	}
	if labels != 0 {
		t.labels = append(t.labels, labelled{labels, int32(labelEnd), int32(i)})
	}
	return best, end
}

// zone gives each sentence the zone it lies in: by the marks of its part, and
// in plain text by quote marks and by the phrases that open a footer.
func (t *text) zone(marks []extract.Mark) {
	footer := false
	for i := range t.sentences {
		s := &t.sentences[i]
		at := t.tokens[s.first].start
		for _, m := range marks {
			if m.Start <= at && at < m.End && (s.zone == extract.Plain || m.Zone == extract.Footer) {
				s.zone = m.Zone
			}
		}
		if t.kind == extract.Body && t.quoted(int(at)) {
			s.zone = extract.Quoted
		}
		if s.cues&(lexicon.Footer|lexicon.Legal|lexicon.Unsubscribe) != 0 && t.kind == extract.Body {
			footer = footer || i*3 >= len(t.sentences) && s.cues&lexicon.Legal == 0
			s.zone = extract.Footer
		} else if footer && s.zone == extract.Plain {
			s.zone = extract.Footer
		}
	}
}

// quoted reports whether the line of s[at] begins with a quote mark.
func (t *text) quoted(at int) bool {
	i := at
	for i > 0 && t.src[i-1] != '\n' && at-i < 400 {
		i--
	}
	for i < at && (t.src[i] == ' ' || t.src[i] == '\t') {
		i++
	}
	return t.src[i] == '>'
}

// between returns the text from the end of one token to the start of another.
func (t *text) between(a, b int) string { return t.src[t.tokens[a].end:t.tokens[b].start] }

// at returns token i as it was written.
func (t *text) at(i int) string { return t.src[t.tokens[i].start:t.tokens[i].end] }
