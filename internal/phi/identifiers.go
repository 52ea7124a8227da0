package phi

import (
	"strings"

	"github.com/phigate/phigate/internal/phi/lexicon"
)

// ident is an identifier found in a text.
type ident struct {
	rule        rule
	start, end  uint32
	first, last int32 // tokens [first, last)
	sentence    int32
	score       float32
	patient     bool // says by itself that its owner is a patient or member
	noPatient   bool // a provider, staff, or the reader of the mail
}

// named reports an identifier that is only a name.
func (x *ident) named() bool { return x.rule == ruleNameDictionary || x.rule == ruleNameLabelled }

// maxIDs bounds the identifiers kept of one text; with so many there is no
// doubt left.
const maxIDs = 2000

// scanIDs finds the identifiers of a text: first those behind labels, then
// those that a digit, an @ or a capital betrays.
func (r *reader) scanIDs(t *text) {
	r.ids = r.ids[:0]
	for _, l := range t.labels {
		r.behindLabel(t, l)
	}
	for i := range t.tokens {
		k := &t.tokens[i]
		switch {
		case k.shape&(digits|mixed) != 0:
			r.number(t, i)
		case t.cues[i]&lexicon.Month != 0 && r.writtenMonth(t, i):
		case k.shape&title != 0:
			r.name(t, i)
		}
		if int(k.end) < len(t.src) && t.src[k.end] == '@' {
			r.email(t, i)
		}
	}
}

// writtenMonth takes a date that begins with the name of its month.
func (r *reader) writtenMonth(t *text, i int) bool {
	at := int(t.tokens[i].start)
	n := writtenDate(t.src[at:])
	if n == 0 {
		return false
	}
	r.date(t, i, at, n)
	return true
}

// add keeps an identifier unless a better one lies in the same place.
func (r *reader) add(t *text, x ident) {
	if x.end <= x.start || len(r.ids) >= maxIDs {
		return
	}
	x.first = seek(t.tokens, x.start)
	for x.last = x.first; x.last < int32(len(t.tokens)) && t.tokens[x.last].start < x.end; {
		x.last++
	}
	if x.first == x.last {
		return
	}
	x.sentence = t.tokens[x.first].sentence
	for i := range r.ids {
		o := &r.ids[i]
		if x.start < o.end && o.start < x.end {
			if x.score > o.score || x.score == o.score && x.end-x.start > o.end-o.start {
				*o = x
			}
			return
		}
	}
	r.ids = append(r.ids, x)
}

// seek returns the first token that ends behind at.
func seek(tokens []token, at uint32) int32 {
	lo, hi := 0, len(tokens)
	for lo < hi {
		m := (lo + hi) / 2
		if tokens[m].end <= at {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return int32(lo)
}

// byLabel says what to look for behind each label.
var byLabel = [...]struct {
	label   lexicon.Label
	rule    rule
	value   func(s string) int // length of the value at the start of s, 0 if none
	score   float32
	patient bool
}{
	{lexicon.LabelMRN, ruleMRN, idValue, .9, true},
	{lexicon.LabelDOB, ruleDOB, dateValue, .9, true},
	{lexicon.LabelSSN, ruleSSNLabelled, ssnValue, .85, false},
	{lexicon.LabelITIN, ruleITIN, itinValue, .85, false},
	{lexicon.LabelRouting, ruleRouting, abaValue, .85, false},
	{lexicon.LabelFax, ruleFax, labelledPhone, .6, false},
	{lexicon.LabelPhone, rulePhone, labelledPhone, .45, false},
	{lexicon.LabelDEA, ruleDEA, deaValue, .8, false},
	{lexicon.LabelNPI, ruleNPI, npiValue, .8, false},
	{lexicon.LabelCLIA, ruleCLIA, cliaValue, .8, false},
	{lexicon.LabelPlan, rulePlanID, idValue, .75, false},
	{lexicon.LabelAccount, ruleAccount, idValue, .7, false},
	{lexicon.LabelLicense, ruleLicense, idValue, .7, false},
	{lexicon.LabelVehicle, rulePlate, plateValue, .7, false},
	{lexicon.LabelDevice, ruleDevice, idValue, .7, false},
	{lexicon.LabelRxNumber, ruleRxNumber, numberValue, .8, true},
	{lexicon.LabelOther, ruleOtherID, idValue, .7, false},
	{lexicon.LabelICD, ruleICD, nil, .9, false},
	{lexicon.LabelHCPCS, ruleHCPCS, hcpcsValue, .9, false},
	{lexicon.LabelNDC, ruleNDC, ndcValue, .9, false},
	{lexicon.LabelLOINC, ruleLOINC, loincValue, .9, false},
	{lexicon.LabelSNOMED, ruleSNOMED, snomedValue, .9, false},
}

// behindLabel reads the value that a label announces.
func (r *reader) behindLabel(t *text, l labelled) {
	end := int(t.tokens[l.last-1].end)
	at, strong := valueStart(t.src, end)
	if at < 0 {
		return
	}
	if l.labels.Has(lexicon.LabelPatient) {
		r.labelledName(t, at, strong)
	}
	if l.labels.Has(lexicon.LabelAge) {
		r.age(t, at)
	}
	for i := range byLabel {
		b := &byLabel[i]
		if !l.labels.Has(b.label) {
			continue
		}
		if b.value == nil {
			r.icdLabelled(t, at)
			continue
		}
		n := b.value(t.src[at:])
		if n == 0 && b.rule == ruleDOB {
			at, n = within(t.src, at, 30, b.value)
		}
		if n == 0 || n == 4 && !strong && (t.src[at:at+2] == "19" || t.src[at:at+2] == "20") && b.rule != ruleSSNLabelled {
			continue // nothing, or a year
		}
		x := ident{rule: b.rule, start: uint32(at), end: uint32(at + n), score: b.score, patient: b.patient}
		x.noPatient = b.rule == ruleDEA || b.rule == ruleNPI || b.rule == ruleCLIA
		if b.rule == ruleNPI && !validNPI(t.src[at:at+n]) {
			x.score = .5
		}
		if b.rule == rulePlanID {
			x.patient = r.payerNear(t, int(l.first), 150) || paymentNear(t, at, 150)
		}
		if b.rule >= ruleICD {
			r.code(t, x)
			return
		}
		r.add(t, x)
		return
	}
}

// paymentNear reports whether care is paid for within n bytes of at.
func paymentNear(t *text, at, n int) bool {
	for _, m := range t.around(at, at, n) {
		if m.term.Kind == lexicon.Payment && m.term.Tier == lexicon.Caring {
			return true
		}
	}
	return false
}

// valueStart skips what may stand between a label and its value: separators
// and the words is, was, no, number, of. strong means a colon, # or the like.
func valueStart(s string, i int) (at int, strong bool) {
	for n := 0; i < len(s) && n < 24; n++ {
		switch c := s[i]; {
		case c == ':' || c == '#' || c == '=':
			strong = true
			i++
		case c == ' ' || c == '-' || c == '.' || c == '\t' || c == '(' || c == ',' || c == '\'' || c == '"' || c == '/' && strong:
			i++
		case c == 's' && i > 0 && s[i-1] == '\'':
			i++
		default:
			if w := filler(s[i:]); w > 0 {
				i += w
				continue
			}
			return i, strong
		}
	}
	if i >= len(s) {
		return -1, false
	}
	return i, strong
}

func filler(s string) int {
	for _, w := range []string{"is ", "was ", "no. ", "no ", "number ", "num ", "id ", "of ", "on ", "ending in ", "are ", "code "} {
		if len(s) > len(w) && strings.EqualFold(s[:len(w)], w) {
			return len(w)
		}
	}
	return 0
}

// within looks for a value in the next n bytes of the line.
func within(s string, at, n int, value func(string) int) (int, int) {
	for i := at; i < len(s) && i < at+n && s[i] != '\n'; i++ {
		if class[s[i]] == classDigit || class[s[i]] == classUpper {
			if k := value(s[i:]); k > 0 {
				return i, k
			}
		}
	}
	return at, 0
}

// run measures the characters of s that keep accepts.
func run(s string, keep func(c byte) bool) int {
	i := 0
	for i < len(s) && keep(s[i]) {
		i++
	}
	return i
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlnum(c byte) bool {
	k := class[c]
	return k == classDigit || k == classUpper || k == classLetter
}

// idValue is letters and digits with inner dashes, at least four digits in all
// and at most 24 characters, not a date.
func idValue(s string) int {
	n := run(s, func(c byte) bool { return isAlnum(c) || c == '-' || c == '_' })
	for n > 0 && !isAlnum(s[n-1]) {
		n--
	}
	num := 0
	for i := 0; i < n; i++ {
		if isDigit(s[i]) {
			num++
		}
	}
	if n < 4 || n > 24 || num < 3 || num*3 < n || dateValue(s) > 0 || strings.Count(s[:n], "-") >= 3 || phoneValue(s) > 0 && strings.IndexByte(s[:n], '-') > 0 {
		return 0
	}
	return n
}

func numberValue(s string) int {
	n := run(s, func(c byte) bool { return isDigit(c) || c == '-' })
	for n > 0 && s[n-1] == '-' {
		n--
	}
	if n < 5 || n > 14 || n < len(s) && isAlnum(s[n]) || dateValue(s) > 0 {
		return 0
	}
	return n
}

func plateValue(s string) int {
	n := run(s, func(c byte) bool { return isDigit(c) || class[c] == classUpper || c == '-' })
	if n < 5 || n > 8 || strings.IndexFunc(s[:n], func(c rune) bool { return c >= '0' && c <= '9' }) < 0 {
		if n == 17 && validVIN(s[:n]) {
			return n
		}
		return 0
	}
	return n
}

// bare returns the digits of s[:n].
func bare(s string) string {
	if run(s, isDigit) == len(s) {
		return s
	}
	return strings.Map(func(c rune) rune {
		if c < '0' || c > '9' {
			return -1
		}
		return c
	}, s)
}

// grouped matches digit groups of the given lengths with one separator between
// them, the same each time, and returns the length; no digit may follow.
func grouped(s string, sep string, sizes ...int) int {
	i := 0
	var used byte
	for g, size := range sizes {
		if g > 0 {
			if i >= len(s) || strings.IndexByte(sep, s[i]) < 0 || used != 0 && s[i] != used {
				return 0
			}
			used = s[i]
			i++
		}
		if i+size > len(s) || run(s[i:i+size], isDigit) != size {
			return 0
		}
		i += size
	}
	if i < len(s) && isAlnum(s[i]) {
		return 0
	}
	return i
}

func ssnValue(s string) int {
	if n := max(grouped(s, "- .", 3, 2, 4), grouped(s, "", 9)); n > 0 {
		return n // behind its label a mistyped number is one too
	}
	i := run(s, func(c byte) bool { return c == '*' || c == 'x' || c == 'X' || c == '-' })
	if n := grouped(s[i:], "", 4); n > 0 {
		return i + n
	}
	return 0
}

func itinValue(s string) int {
	for _, n := range []int{grouped(s, "- ", 3, 2, 4), grouped(s, "", 9)} {
		if n > 0 && validITIN(bare(s[:n])) {
			return n
		}
	}
	return 0
}

func abaValue(s string) int {
	if n := grouped(s, "", 9); n > 0 && validABA(s[:n]) {
		return n
	}
	return 0
}

func npiValue(s string) int { return grouped(s, "", 10) }

func deaValue(s string) int {
	if len(s) >= 9 && validDEA(s[:9]) && (len(s) == 9 || !isAlnum(s[9])) {
		return 9
	}
	return 0
}

func cliaValue(s string) int {
	if len(s) >= 10 && run(s, isDigit) == 2 && s[2] == 'D' && run(s[3:], isDigit) == 7 {
		return 10
	}
	return 0
}

func hcpcsValue(s string) int {
	n := run(s, isAlnum)
	switch {
	case n == 5 && run(s[1:5], isDigit) == 4 && (isDigit(s[0]) || class[s[0]] == classUpper),
		n == 5 && run(s, isDigit) == 4 && class[s[4]] == classUpper,
		n == 3 && run(s, isDigit) == 3:
		return n
	}
	return 0
}

func ndcValue(s string) int {
	for _, g := range [][3]int{{4, 4, 2}, {5, 3, 2}, {5, 4, 1}, {5, 4, 2}} {
		if n := grouped(s, "-", g[0], g[1], g[2]); n > 0 {
			return n
		}
	}
	return grouped(s, "", 11)
}

func loincValue(s string) int {
	n := run(s, isDigit)
	if n > 0 && n+1 < len(s) && s[n] == '-' && isDigit(s[n+1]) && validLOINC(s[:n+2]) {
		return n + 2
	}
	return 0
}

func snomedValue(s string) int {
	if n := run(s, isDigit); validSNOMED(s[:n]) {
		return n
	}
	return 0
}

// phoneValue is a North American number; toll-free and 555-01xx do not count.
func phoneValue(s string) int {
	i := 0
	if strings.HasPrefix(s, "+1") {
		i = 2
	} else if len(s) > 1 && s[0] == '1' && (s[1] == '-' || s[1] == ' ' || s[1] == '.' || s[1] == '(') {
		i = 1
	}
	sep := func() {
		if i < len(s) && (s[i] == ' ' || s[i] == '-' || s[i] == '.') {
			i++
		}
	}
	sep()
	open := i < len(s) && s[i] == '('
	if open {
		i++
	}
	if i+3 > len(s) || s[i] < '2' || s[i] == '8' && s[i+1] == s[i+2] || run(s[i:i+3], isDigit) != 3 {
		return 0
	}
	i += 3
	if open {
		if i >= len(s) || s[i] != ')' {
			return 0
		}
		i++
	}
	sep()
	if i < len(s) && s[i] == ' ' {
		i++
	}
	if i+3 > len(s) || s[i] < '2' || run(s[i:i+3], isDigit) != 3 {
		return 0
	}
	exchange := s[i : i+3]
	i += 3
	sep()
	if i+4 > len(s) || run(s[i:i+4], isDigit) != 4 || i+4 < len(s) && isDigit(s[i+4]) {
		return 0
	}
	if exchange == "555" && s[i:i+2] == "01" {
		return 0
	}
	return i + 4
}

// labelledPhone is any number behind a telephone label: seven to fifteen digits
// in groups (ITU-T E.164 allows fifteen). Toll-free numbers belong to firms.
func labelledPhone(s string) int {
	n := run(s, func(c byte) bool { return isDigit(c) || strings.IndexByte(" -.()+/", c) >= 0 })
	for n > 0 && !isDigit(s[n-1]) {
		n--
	}
	d := bare(s[:n])
	if len(d) < 7 || len(d) > 15 || n < len(s) && isAlnum(s[n]) || dateValue(s) > 0 {
		return 0
	}
	d = strings.TrimPrefix(d, "1")
	if len(d) == 10 && d[0] == '8' && d[1] == d[2] {
		return 0
	}
	return n
}

// dateValue is a full date: numbers, or with the name of a month.
func dateValue(s string) int {
	for _, sep := range []byte{'/', '-', '.'} {
		if n := numericDate(s, sep); n > 0 {
			return n
		}
	}
	return writtenDate(s)
}

func numericDate(s string, sep byte) int {
	var part, size [3]int
	i := 0
	for p := range part {
		if p > 0 {
			if i >= len(s) || s[i] != sep {
				return 0
			}
			i++
		}
		for i < len(s) && isDigit(s[i]) && size[p] < 4 {
			part[p] = part[p]*10 + int(s[i]-'0')
			size[p]++
			i++
		}
		if size[p] == 0 {
			return 0
		}
	}
	if i < len(s) && isDigit(s[i]) {
		return 0
	}
	y, m, d, ys := part[2], part[0], part[1], size[2]
	if size[0] == 4 {
		y, m, d, ys = part[0], part[1], part[2], 4
	}
	if m > 12 && d <= 12 {
		m, d = d, m
	}
	if m < 1 || m > 12 || d < 1 || d > 31 || ys != 2 && (ys != 4 || y < 1880 || y > 2100) {
		return 0
	}
	return i
}

var months = []string{"january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"}

// monthName is the length of a month's name or its first three letters.
func monthName(s string) int {
	n := run(s, func(c byte) bool { return class[c] == classLetter || class[c] == classUpper })
	if n < 3 || n > 9 {
		return 0
	}
	for _, m := range months {
		if n <= len(m) && strings.EqualFold(s[:n], m[:n]) && (n == 3 || n == len(m) || n == 4) {
			if n < len(s) && s[n] == '.' {
				return n + 1
			}
			return n
		}
	}
	return 0
}

// writtenDate is "March 4, 2026", "Mar 4th 2026", "4 March 2026"; the year may
// be missing.
func writtenDate(s string) int {
	blank := func(i int) int { return i + run(s[i:], func(c byte) bool { return c == ' ' || c == ',' || c == '-' }) }
	day := func(i int) int {
		n := run(s[i:], isDigit)
		if n < 1 || n > 2 {
			return 0
		}
		i += n
		for _, o := range []string{"st", "nd", "rd", "th"} {
			if strings.HasPrefix(s[i:], o) {
				return i + 2
			}
		}
		if i < len(s) && (isAlnum(s[i]) || s[i] == ':' || s[i] == '%') {
			return 0
		}
		return i
	}
	end := 0
	if m := monthName(s); m > 0 {
		end = day(blank(m))
	} else if len(s) > 0 && isDigit(s[0]) {
		if d := day(0); d > 0 {
			i := blank(d)
			if strings.HasPrefix(s[i:], "of ") {
				i += 3
			}
			if m := monthName(s[i:]); m > 0 {
				end = i + m
			}
		}
	}
	if end == 0 {
		return 0
	}
	if y := blank(end); run(s[y:], isDigit) == 4 && (s[y] == '1' || s[y] == '2') {
		return y + 4
	}
	return end
}
