package phi

import (
	"net/netip"
	"sort"
	"strings"

	"github.com/phigate/phigate/internal/phi/lexicon"
)

// codeTerm stands for a diagnosis or procedure code among the mentions.
var codeTerm = &lexicon.Term{Kind: lexicon.Condition, Tier: lexicon.Specific}

// number looks at a token that holds digits.
func (r *reader) number(t *text, i int) {
	k := &t.tokens[i]
	at := int(k.start)
	s := t.src
	if at > 1 && strings.IndexByte("-./", s[at-1]) >= 0 && isAlnum(s[at-2]) {
		return // inside a number that began before
	}
	if k.shape&mixed != 0 {
		r.mixedToken(t, i)
		return
	}
	rest := s[at:]
	n := int(k.end) - at
	if d := dateValue(rest); d > 0 {
		r.date(t, i, at, d)
		return
	}
	switch {
	case n == 3 && grouped(rest, "- .", 3, 2, 4) > 0 && validSSN(bare(rest[:11])):
		r.add(t, ident{rule: ruleSSN, start: k.start, end: k.start + 11, score: .85})
	case r.phone(t, at), r.card(t, at, n), r.ip(t, i, at), r.ipv6(t, at):
	case n <= 2 && r.dayMonth(t, i, at):
	case n == 5 || n == 4:
		if d := ndcDashed(rest); d > 0 {
			r.code(t, ident{rule: ruleNDC, start: k.start, end: k.start + uint32(d), score: .8})
			return
		}
		fallthrough
	default:
		r.clock(t, i, at)
		r.age(t, at)
		r.street(t, i)
	}
}

func ndcDashed(s string) int {
	if n := ndcValue(s); n > 11 || n > 0 && s[4] == '-' || n > 0 && s[5] == '-' {
		return n
	}
	return 0
}

// mixedToken looks at a token of letters and digits.
func (r *reader) mixedToken(t *text, i int) {
	k := &t.tokens[i]
	s := t.src[k.start:]
	w := t.at(i)
	if k.shape&digits != 0 {
		if n := writtenDate(s); n > 0 {
			r.date(t, i, int(k.start), n)
			return
		}
	}
	switch {
	case r.ipv6(t, int(k.start)):
	case len(w) == 11 && validMBI(w), len(w) == 4 && len(s) >= 13 && s[4] == '-' && s[8] == '-' && validMBI(s[:4]+s[5:8]+s[9:13]) && (len(s) == 13 || !isAlnum(s[13])):
		n := uint32(11)
		if len(w) == 4 {
			n = 13
		}
		r.add(t, ident{rule: ruleMBI, start: k.start, end: k.start + n, score: .95, patient: true})
	case len(w) == 17 && validVIN(w):
		r.add(t, ident{rule: ruleVIN, start: k.start, end: k.end, score: .7})
	case len(w) == 9 && validDEA(w):
		r.add(t, ident{rule: ruleDEA, start: k.start, end: k.end, score: .8, noPatient: true})
	case len(w) == 32 || len(w) == 40 || len(w) == 64:
		r.doc.hexes = append(r.doc.hexes, hexToken{strings.ToLower(w), t.part, k.start, k.end})
	case len(w) == 3 && len(s) > 4 && s[3] == '.' && isDigit(w[1]):
		n := 4 + run(s[4:], isAlnum)
		if n <= 8 && r.isICD(s[:n]) {
			r.code(t, ident{rule: ruleICD, start: k.start, end: k.start + uint32(n), score: .8})
		}
	}
	r.clock(t, i, int(k.start))
	r.age(t, int(k.start))
}

func (r *reader) isICD(s string) bool {
	var b [8]byte
	n := 0
	for i := 0; i < len(s) && n < 8; i++ {
		if s[i] != '.' {
			c := s[i]
			if class[c] == classUpper {
				c |= 0x20
			}
			b[n] = c
			n++
		}
	}
	return n >= 3 && r.scanner.lx.ICD(b[:n])
}

// icdLabelled takes a code without its dot behind a label.
func (r *reader) icdLabelled(t *text, at int) {
	s := t.src[at:]
	n := run(s, func(c byte) bool { return isAlnum(c) || c == '.' })
	for n > 0 && s[n-1] == '.' {
		n--
	}
	if n >= 3 && n <= 8 && isDigit(s[1]) && class[s[0]] == classUpper && r.isICD(s[:n]) {
		r.code(t, ident{rule: ruleICD, start: uint32(at), end: uint32(at + n), score: .9})
	}
}

// code keeps a clinical code as a mention and as a finding.
func (r *reader) code(t *text, x ident) {
	first := seek(t.tokens, x.start)
	if int(first) >= len(t.tokens) {
		return
	}
	if n := len(r.codes); n >= maxIDs || n > 0 && r.codes[n-1].start == x.start {
		return
	}
	last := first
	for int(last) < len(t.tokens) && t.tokens[last].start < x.end {
		last++
	}
	t.mentions = append(t.mentions, mention{codeTerm, first, last, t.tokens[first].sentence})
	r.codes = append(r.codes, x)
}

func (r *reader) date(t *text, i, at, n int) {
	end := uint32(at + n)
	s := &t.sentences[t.tokens[i].sentence]
	s.concrete, s.day = true, true
	x := ident{rule: ruleDate, start: uint32(at), end: end, score: .05}
	if n >= 6 && r.serviceNear(t, i) {
		x.rule, x.score = ruleDateService, .6
	}
	r.add(t, x)
}

// near returns the labels that end at most before bytes ahead of at, or begin
// at most after bytes behind it.
func near(t *text, at, before, after int, want lexicon.Label) bool {
	from := sort.Search(len(t.labels), func(i int) bool { return int(t.tokens[t.labels[i].first].start) >= at-before-40 })
	for _, l := range t.labels[from:] {
		first, end := int(t.tokens[l.first].start), int(t.tokens[l.last-1].end)
		if first > at+after {
			return false
		}
		if l.labels.Has(want) && (end <= at && at-end <= before || first > at) {
			return true
		}
	}
	return false
}

// serviceNear looks for a word of care in the 60 bytes before a date or the 30 behind it.
func (r *reader) serviceNear(t *text, i int) bool {
	return near(t, int(t.tokens[i].start), 60, 30, lexicon.LabelService)
}

// clock marks the sentence of a time of day, an amount of money or a measured
// value as concrete.
func (r *reader) clock(t *text, i, at int) {
	s := t.src
	end := int(t.tokens[i].end)
	sent := &t.sentences[t.tokens[i].sentence]
	if i > 0 && bounding(t.at(i-1)) && s[at-1] != '$' {
		return // a bound is for anybody: "over 102"
	}
	rest := s[end:]
	w := s[at:end]
	switch {
	case len(w) <= 2 && len(rest) > 2 && rest[0] == ':' && run(rest[1:], isDigit) == 2:
		sent.concrete, sent.day = true, true
	case ampm(w[run(w, isDigit):]) || ampm(strings.TrimLeft(rest[:min(len(rest), 4)], " ")):
		sent.concrete, sent.day = true, true
	case i > 0 && len(w) <= 2 && sent.cues&lexicon.Weekday != 0 && t.at(i-1) == "at":
		sent.concrete, sent.day = true, true
	case at > 0 && s[at-1] == '$':
		sent.money = true
	case i+1 < len(t.tokens) && t.cues[i+1]&lexicon.Unit != 0 && int(t.tokens[i+1].start) <= end+1:
		sent.concrete, sent.value = true, true
	case strings.HasPrefix(rest, "/") && len(w) >= 2 && len(w) <= 3 && run(rest[1:], isDigit) >= 2, strings.HasPrefix(rest, ".") && run(rest[1:], isDigit) > 0:
		sent.value = true
	case len(w) >= 2 && len(w) <= 3:
		sent.value = sent.value || !strings.HasPrefix(rest, "%") && !strings.HasPrefix(rest, " %")
	}
}

func ampm(s string) bool {
	return len(s) >= 2 && (s[0]|0x20 == 'a' || s[0]|0x20 == 'p') && (s[1]|0x20 == 'm' || s[1] == '.') && (len(s) == 2 || !isAlnum(s[2]) || s[1] == '.')
}

// dayMonth takes "08/22" as a date where a word of care stands beside it.
func (r *reader) dayMonth(t *text, i, at int) bool {
	s := t.src[at:]
	n := run(s, isDigit)
	if n >= len(s) || s[n] != '/' {
		return false
	}
	m := run(s[n+1:], isDigit)
	if m < 1 || m > 2 || n+1+m < len(s) && (s[n+1+m] == '/' || isAlnum(s[n+1+m])) {
		return false
	}
	month, day := atoi(s[:n]), atoi(s[n+1:n+1+m])
	if month < 1 || month > 12 || day < 1 || day > 31 {
		return false
	}
	if !r.serviceNear(t, i) {
		if i > 0 && dayAhead(t.at(i-1)) {
			t.sentences[t.tokens[i].sentence].day = true
		}
		return false
	}
	t.sentences[t.tokens[i].sentence].day = true
	r.add(t, ident{rule: ruleDateService, start: uint32(at), end: uint32(at + n + 1 + m), score: .5})
	return true
}

// dayAhead reports a word that makes the "4/30" behind it a day.
func dayAhead(w string) bool {
	switch strings.ToLower(w) {
	case "by", "on", "until", "till", "thru", "through", "from", "starting", "before", "after", "for", "is", "since",
		"mon", "tue", "wed", "thu", "fri", "sat", "sun", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday":
		return true
	}
	return false
}

func atoi(s string) (n int) {
	for i := 0; i < len(s); i++ {
		n = n*10 + int(s[i]-'0')
	}
	return n
}

func (r *reader) ipv6(t *text, at int) bool {
	s := t.src[at:]
	n := run(s[:min(len(s), 45)], func(c byte) bool { return unhexDigit(c) || c == ':' })
	if n < 15 || strings.Count(s[:n], ":") < 5 {
		return false
	}
	a, err := netip.ParseAddr(strings.TrimRight(s[:n], ":"))
	if err != nil || !a.IsGlobalUnicast() {
		return false
	}
	r.add(t, ident{rule: ruleIP, start: uint32(at), end: uint32(at + n), score: .4})
	return true
}

func unhexDigit(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

func (r *reader) phone(t *text, at int) bool {
	start := at
	if at > 0 && t.src[at-1] == '(' {
		start--
	}
	if start > 0 && t.src[start-1] == '+' {
		start--
	}
	n := phoneValue(t.src[start:])
	if n == 0 {
		return false
	}
	if n == 10 && strings.IndexFunc(t.src[start:start+n], func(c rune) bool { return c < '0' || c > '9' }) < 0 && !r.labelNear(t, at, lexicon.LabelPhone, 20) {
		return true // ten bare digits are any number
	}
	x := ident{rule: rulePhone, start: uint32(start), end: uint32(start + n), score: .5}
	if r.labelNear(t, at, lexicon.LabelFax, 12) {
		x.rule = ruleFax
	}
	r.add(t, x)
	return true
}

// labelNear reports whether the label stands within n bytes before at.
func (r *reader) labelNear(t *text, at int, want lexicon.Label, n int) bool {
	return near(t, at, n, 0, want)
}

// payerNear reports whether a health plan is named within n bytes of token i.
func (r *reader) payerNear(t *text, i, n int) bool {
	return near(t, int(t.tokens[i].start)+1, n, n, lexicon.LabelPayer)
}

func (r *reader) card(t *text, at, n int) bool {
	s := t.src[at:]
	size := 0
	switch {
	case n >= 13 && n <= 19:
		size = n
	case n == 4:
		size = max(grouped(s, " -", 4, 4, 4, 4), grouped(s, " -", 4, 6, 5), grouped(s, " -", 4, 6, 4), grouped(s, " -", 4, 4, 4, 4, 3))
	}
	if size == 0 || !validCard(bare(s[:size])) {
		return false
	}
	r.add(t, ident{rule: ruleCard, start: uint32(at), end: uint32(at + size), score: .7})
	return true
}

func (r *reader) ip(t *text, i, at int) bool {
	s := t.src[at:]
	n, part := 0, 0
	var b [4]int
	for part = range 4 {
		if part > 0 {
			if n >= len(s) || s[n] != '.' {
				return false
			}
			n++
		}
		d := run(s[n:], isDigit)
		if d < 1 || d > 3 {
			return false
		}
		for _, c := range []byte(s[n : n+d]) {
			b[part] = b[part]*10 + int(c-'0')
		}
		if b[part] > 255 {
			return false
		}
		n += d
	}
	if n < len(s) && (isAlnum(s[n]) || s[n] == '.' && n+1 < len(s) && isDigit(s[n+1])) {
		return false
	}
	private := b[0] == 10 || b[0] == 127 || b[0] == 0 || b[0] == 192 && b[1] == 168 || b[0] == 172 && b[1]&0xf0 == 16 || b[0] == 169 && b[1] == 254
	if i > 0 && private && b[0] != 127 && b[0] != 0 {
		w := strings.ToLower(t.at(i - 1))
		private = w != "address" && w != "ip" // said to be somebody's
	}
	if i > 0 {
		switch strings.ToLower(t.at(i - 1)) {
		case "v", "version", "ver", "build", "release", "section":
			private = true
		}
	}
	if !private {
		r.add(t, ident{rule: ruleIP, start: uint32(at), end: uint32(at + n), score: .4})
	}
	return true
}

// age keeps ages of 90 and more; a younger one is a hint that the text speaks
// of one person.
func (r *reader) age(t *text, at int) {
	s := t.src[at:]
	n := run(s, isDigit)
	if n < 1 || n > 3 {
		return
	}
	v := 0
	for _, c := range []byte(s[:n]) {
		v = v*10 + int(c-'0')
	}
	rest := strings.TrimLeft(s[n:min(len(s), n+14)], " -")
	aged := false
	for _, w := range []string{"year", "yr", "y/o", "yo ", "yo,", "yof", "yom", "y.o"} {
		aged = aged || strings.HasPrefix(rest, w)
	}
	if (aged || r.labelNear(t, at, lexicon.LabelAge, 6)) && v >= 90 && v < 125 {
		r.add(t, ident{rule: ruleAge90, start: uint32(at), end: uint32(at + n), score: .5})
	}
}

// street matches a house number, one to four words and a street suffix, with
// the unit, town and ZIP code that follow.
func (r *reader) street(t *text, i int) {
	if t.tokens[i].end-t.tokens[i].start > 6 {
		return
	}
	last := int(t.sentences[t.tokens[i].sentence].last)
	for j := i + 1; j < last && j <= i+5; j++ {
		k := &t.tokens[j]
		if sep := t.between(j-1, j); sep != " " && sep != ". " {
			return
		}
		if k.shape&(title|digits) == 0 {
			return
		}
		if j > i+1 && t.cues[j]&lexicon.Street != 0 {
			x := ident{rule: ruleAddressStreet, start: t.tokens[i].start, end: k.end, score: .5}
			r.add(t, x)
			return
		}
	}
}

// place matches "Town, ST" and "ST 12345".
func (r *reader) place(t *text, i int) {
	k := &t.tokens[i]
	w := t.at(i)
	state := len(w) == 2 && k.shape&upper != 0 && strings.Contains(states, w+" ")
	full := t.cues[i]&lexicon.State != 0
	if !state && !full {
		if i > 0 && near(t, int(k.start), 1, 0, lexicon.LabelPlace) && longLabel(t, int(k.start)) {
			last := i
			for last+1 < len(t.tokens) && last < i+2 && t.tokens[last+1].shape&title != 0 && t.between(last, last+1) == " " {
				last++
			}
			r.add(t, ident{rule: ruleGeoPlace, start: k.start, end: t.tokens[last].end, score: .4})
		}
		return
	}
	if i+1 < len(t.tokens) && state {
		next := &t.tokens[i+1]
		if next.end-next.start == 5 && next.shape == digits && t.between(i, i+1) == " " {
			r.add(t, ident{rule: ruleGeoZIP, start: k.start, end: next.end, score: .4})
		}
	}
	if i > 0 && t.between(i-1, i) == ", " && t.tokens[i-1].shape&title != 0 {
		first := i - 1
		for first > 0 && i-first < 3 && t.tokens[first-1].shape&title != 0 && t.between(first-1, first) == " " && t.cues[first-1]&lexicon.Street == 0 {
			first--
		}
		r.add(t, ident{rule: ruleGeoPlace, start: t.tokens[first].start, end: k.end, score: .3})
	}
}

// facility takes "at Boston General Hospital", "seen at our Chicago clinic": a
// capitalised name that ends in a word for a facility, behind at, to, from, in.
func (r *reader) facility(t *text, i int) {
	if i == 0 || t.cues[i-1]&lexicon.Stop == 0 && t.at(i-1) != "our" && t.at(i-1) != "the" {
		return
	}
	last := int(t.sentences[t.tokens[i].sentence].last)
	for j := i; j < last && j < i+6; j++ {
		k := &t.tokens[j]
		if j > i && t.cues[j]&lexicon.Facility != 0 {
			r.add(t, ident{rule: ruleFacility, start: t.tokens[i].start, end: k.end, score: .35})
			return
		}
		if k.shape&title == 0 && t.at(j) != "of" && t.at(j) != "and" || j > i && len(t.between(j-1, j)) > 3 {
			return
		}
	}
}

// longLabel reports that the place label before at says where somebody lives,
// not merely "in" or "at".
func longLabel(t *text, at int) bool {
	for i := len(t.labels) - 1; i >= 0; i-- {
		l := t.labels[i]
		if end := int(t.tokens[l.last-1].end); end <= at && at-end <= 1 {
			return l.last-l.first >= 2
		}
	}
	return false
}

const states = "AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR PA RI SC SD TN TX UT VT VA WA WV WI WY DC PR "

// email keeps an address; the reader's and the sender's own are weak.
func (r *reader) email(t *text, i int) {
	s := t.src
	at := int(t.tokens[i].end)
	start, end := at, at+1
	for start > 0 && (isAlnum(s[start-1]) || strings.IndexByte("._%+-'", s[start-1]) >= 0) {
		start--
	}
	for end < len(s) && (isAlnum(s[end]) || s[end] == '.' || s[end] == '-') {
		end++
	}
	for end > at && (s[end-1] == '.' || s[end-1] == '-') {
		end--
	}
	if start == at || strings.IndexByte(s[at:end], '.') < 0 {
		return
	}
	x := ident{rule: ruleEmail, start: uint32(start), end: uint32(end), score: .5}
	if r.own[strings.ToLower(s[start:end])] || r.ownDomain != "" && strings.HasSuffix(strings.ToLower(s[start:end]), "@"+r.ownDomain) {
		x.score = .1
	}
	r.add(t, x)
}

// name looks for a person at a capitalised token: First Last, First M. Last,
// Mr. Last. A title such as Dr or RN beside it makes a provider.
func (r *reader) name(t *text, i int) {
	r.place(t, i)
	r.facility(t, i)
	k := &t.tokens[i]
	if t.cues[i]&lexicon.TitlePerson != 0 && i+1 < len(t.tokens) && t.tokens[i+1].shape&title != 0 && gapOne(t.between(i, i+1)) {
		if n := r.lexName(t, i+1); n&lexicon.LastName != 0 || t.tokens[i+1].end-t.tokens[i+1].start > 2 {
			end := i + 1
			for end+1 < len(t.tokens) && end < i+3 && t.tokens[end+1].shape&title != 0 && gapOne(t.between(end, end+1)) && r.lexName(t, end+1)&lexicon.LastName != 0 {
				end++
			}
			r.add(t, ident{rule: ruleNameDictionary, start: k.start, end: t.tokens[end].end, score: .5})
		}
		return
	}
	if i > 0 && t.cues[i-1]&lexicon.Greeting != 0 && t.tokens[i-1].sentence == k.sentence && r.lexName(t, i) != 0 {
		end := k.end
		if i+1 < len(t.tokens) && t.between(i, i+1) == " " && r.lexName(t, i+1)&lexicon.LastName != 0 {
			end = t.tokens[i+1].end
		}
		r.doc.greeted = true
		r.add(t, ident{rule: ruleNameAddressee, start: k.start, end: end, score: .6, noPatient: true})
		return
	}
	if r.lexName(t, i)&lexicon.FirstName == 0 || i+1 >= len(t.tokens) {
		return
	}
	j := i + 1
	if r.initial(t, i) {
		return
	}
	if t.tokens[j].end-t.tokens[j].start == 1 && t.tokens[j].shape&title != 0 && j+1 < len(t.tokens) && gapOne(t.between(i, j)) {
		j++
	}
	if t.tokens[j].shape&title == 0 || !gapOne(t.between(j-1, j)) || t.tokens[j].sentence != k.sentence {
		return
	}
	last := r.lexName(t, j)
	if last&(lexicon.LastName|lexicon.FirstName) == 0 || last&lexicon.Everyday != 0 && r.lexName(t, i)&lexicon.Everyday != 0 {
		return
	}
	if last&lexicon.LastName == 0 && t.cues[j] != 0 {
		return
	}
	end := j
	if end+1 < len(t.tokens) && t.tokens[end+1].shape&title != 0 && r.lexName(t, end+1)&lexicon.LastName != 0 && t.between(end, end+1) == " " && r.lexName(t, end+1)&lexicon.Everyday == 0 {
		end++
	}
	x := ident{rule: ruleNameDictionary, start: k.start, end: t.tokens[end].end, score: .4}
	x.noPatient = i > 0 && t.cues[i-1]&lexicon.TitleProvider != 0 || end+1 < len(t.tokens) && t.cues[end+1]&lexicon.TitleProvider != 0 && gapOne(strings.TrimLeft(t.between(end, end+1), ","))
	r.add(t, x)
}

// initial takes "Dan K.", the way staff write of a patient.
func (r *reader) initial(t *text, i int) bool {
	j := i + 1
	k := &t.tokens[j]
	if k.end-k.start != 1 || k.shape&title == 0 || t.between(i, j) != " " || t.at(j) == "I" {
		return false
	}
	if j+1 < len(t.tokens) && t.tokens[j+1].shape&title != 0 && gapOne(t.between(j, j+1)) && r.lexName(t, j+1) != 0 && t.tokens[j+1].sentence == k.sentence {
		return false // First M. Last
	}
	if int(k.end) < len(t.src) && t.src[k.end] != '.' && t.src[k.end] != ',' && t.src[k.end] != ' ' && t.src[k.end] != '\'' {
		return false
	}
	x := ident{rule: ruleNameDictionary, start: t.tokens[i].start, end: k.end, score: .45}
	x.noPatient = i > 0 && t.cues[i-1]&lexicon.TitleProvider != 0
	r.add(t, x)
	return true
}

func gapOne(s string) bool { return s == " " || s == ". " }

func (r *reader) lexName(t *text, i int) lexicon.Name {
	k := &t.tokens[i]
	if k.shape&title == 0 || k.shape&(digits|mixed) != 0 {
		return 0
	}
	return r.scanner.lx.Name(k.word)
}

// labelledName takes the one to four capitalised words behind a patient label.
// Without a colon or the like the first word must be a known first name.
func (r *reader) labelledName(t *text, at int, strong bool) {
	first := int(seek(t.tokens, uint32(at)))
	if first >= len(t.tokens) || int(t.tokens[first].start) != at {
		return
	}
	if !strong && r.lexName(t, first)&lexicon.FirstName == 0 {
		return
	}
	known, n := false, 0
	last := first
	for i := first; i < len(t.tokens) && n < 4; i++ {
		k := &t.tokens[i]
		if k.shape&title == 0 || k.shape&digits != 0 || i > first && !nameGap(t.between(i-1, i)) || t.cues[i]&(lexicon.RolePatient|lexicon.BindVerb) != 0 {
			break
		}
		known = known || r.lexName(t, i)&(lexicon.FirstName|lexicon.LastName) != 0
		last = i
		n++
		if k.shape&possessive != 0 {
			break
		}
	}
	if n >= 1 && (strong || n >= 2) && (known || n >= 2) && t.cues[first]&(lexicon.Your|lexicon.You|lexicon.Conditional) == 0 && !(n == 1 && !known) {
		score := float32(.9)
		if !strong {
			score = .7 // "Member Kim Boyle": clubs have members too
		}
		r.add(t, ident{rule: ruleNameLabelled, start: t.tokens[first].start, end: t.tokens[last].end, score: score, patient: true})
	}
}

func nameGap(s string) bool { return s == " " || s == ", " || s == ". " || s == "," || s == "-" }
