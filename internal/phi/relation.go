package phi

import (
	"sort"

	"github.com/phigate/phigate/internal/phi/extract"
	"github.com/phigate/phigate/internal/phi/lexicon"
)

// individual is whom a health fact is about.
type individual uint8

const (
	addressee individual = iota
	labelledPatient
	rowPerson
	namedPerson
	individualCount
)

var individualNames = [...]string{"addressee", "labelled patient", "table row", "named person"}

// tie says how a health fact is tied to the individual.
type tie uint8

const (
	tieNone tie = iota
	tieStatement
	tieVerb
	tieFamily
	tiePossessive
	tiePossessiveEvent
	tieNotice
	tieEvent
	tieNote
	tieAsked
	tieInvite
	tieRelation
	tieLabelled
	tieRow
	tieThird
	tieNamedPossessive
	tieDeclared
	tieSegment
	tieFormat
	tieHashed
	tieLink
)

var tieNames = [...]string{"co-occurrence", "statement to the reader", "bound second person", "bound family member", "bound second person", "bound second person",
	"personal notice", "event of the reader", "note of a clinician", "the reader's own question", "calendar invite", "care relationship", "same block", "same row", "same clause", "possessive name", "declared audience", "segment", "format", "hashed recipient", "link into a record"}

// fact is a health mention and what its sentence says about it, kept until the
// whole message is known.
type fact struct {
	who      individual
	tie      tie
	r        float32 // strength of the tie
	i        float32 // how surely somebody is identified
	zone     float32
	term     lexicon.Term
	concrete bool // names a day, a time or a value: no broadcast does
	generic  bool // its sentence speaks of people in general
	soft     bool // weaker in a text that speaks in general
}

// zoneWeight is what a zone takes from the words in it.
var zoneWeight = [...]float32{extract.Plain: 1, extract.Quoted: .8, extract.Footer: .2, extract.Nav: .2, extract.Hidden: 1}

// relate judges every health mention of a text against the reader.
func (r *reader) relate(t *text) {
	if len(r.codes) > 0 { // codes came after the words
		sort.SliceStable(t.mentions, func(i, j int) bool { return t.mentions[i].first < t.mentions[j].first })
	}
	invite := isInvite(t)
	for n := range t.mentions {
		m := &t.mentions[n]
		if m.term.Tier == lexicon.General && m.term.Kind != lexicon.Provider {
			continue
		}
		f := r.second(t, m)
		if invite && !f.generic && f.r < .9 && m.term.Tier != lexicon.Ambiguous && m.term.Tier != lexicon.General {
			f.tie, f.r, f.concrete = tieInvite, .9, true
		}
		r.keep(t, m, f)
		if m.term.Tier == lexicon.Specific || m.term.Tier == lexicon.Caring {
			r.possessives(t, m)
		}
	}
	r.meetings(t)
	r.statements(t)
	r.third(t)
	r.note(t)
}

func isInvite(t *text) bool {
	return len(t.src) > 15 && t.kind == extract.File && t.src[:15] == "BEGIN:VCALENDAR"
}

// keep records the fact with its finding.
func (r *reader) keep(t *text, m *mention, f fact) {
	s := &t.sentences[m.sentence]
	f.zone = zoneWeight[s.zone]
	f.term = *m.term
	// The name of a practice in the subject says no more than the sender's own
	// name does, unless it tells a specialty.
	plainName := m.term.Kind == lexicon.Provider && m.term.Topic == lexicon.NoTopic
	if t.kind == extract.Header && !plainName && (m.term.Tier == lexicon.Specific || m.term.Tier == lexicon.Caring || f.r >= .5) {
		r.doc.subjectPHI = true
	}
	if f.r >= .3 || m.term.Tier == lexicon.Specific || m.term.Tier == lexicon.Caring {
		r.hitMention(t, m, f)
	}
	if f.r >= .3 && len(r.doc.facts) < 2000 {
		r.doc.facts = append(r.doc.facts, f)
	}
}

// around is what stands beside a mention in its sentence.
type around struct {
	your, offer, verb, after, family, animal, conditional, generic bool
}

func look(t *text, m *mention) (a around) {
	s := &t.sentences[m.sentence]
	lo := max(s.first, m.first-7)
	for j := m.first - 1; j >= lo; j-- {
		c := t.cues[j]
		if parted(t.between(int(j), int(j)+1)) {
			break
		}
		if c&lexicon.Your != 0 {
			a.your = true
			a.offer = j > s.first && t.cues[j-1]&lexicon.Offer != 0
			break
		}
		if c&lexicon.Family != 0 && t.tokens[j].shape&possessive != 0 {
			a.family = true
			continue
		}
		a.animal = a.animal || c&lexicon.Animal != 0
		if c&lexicon.Stop != 0 {
			break
		}
	}
	if t.cues[m.first]&lexicon.Your != 0 {
		a.your = true
	}
	a.family = a.family && a.your
	a.verb = verbBefore(t, s, m)
	a.after = verbAfter(t, s, m)
	a.conditional = s.question && s.cues&lexicon.Episodic == 0
	for j := max(s.first, m.first-25); j < m.first; j++ {
		a.conditional = a.conditional || t.cues[j]&lexicon.Conditional != 0
		a.generic = a.generic || t.cues[j]&lexicon.Generic != 0
	}
	for j := m.last; j < min(s.last, m.last+5); j++ {
		a.generic = a.generic || t.cues[j]&lexicon.Generic != 0
	}
	return a
}

// parted reports a gap between two words that a phrase does not reach across.
func parted(gap string) bool {
	for i := 0; i < len(gap); i++ {
		switch gap[i] {
		case ':', ';', '(', ')', ',', '\n', '\t', '|':
			return true
		case '-':
			if i > 0 && gap[i-1] == ' ' {
				return true
			}
		}
	}
	return false
}

// verbBefore finds "you were diagnosed with …", "we saw you for …" within 14
// words before the mention.
func verbBefore(t *text, s *sentence, m *mention) bool {
	const boundary = 14
	you, verb := int32(-1), int32(-1)
	for j := max(s.first, m.first-boundary); j < m.first; j++ {
		c := t.cues[j]
		if c&lexicon.You != 0 {
			if verb >= 0 && j-verb <= 3 {
				return true
			}
			you = j
		}
		if c&lexicon.BindVerb != 0 {
			if you >= 0 && j-you <= 5 && !(weakVerb(t, j) && m.first-j > 3) {
				return true
			}
			if !weakVerb(t, j) {
				verb = j
			}
		}
	}
	return false
}

// verbAfter finds "… you asked for", "… we gave you" right behind a mention.
func verbAfter(t *text, s *sentence, m *mention) bool {
	for j := m.last; j+1 < min(s.last, m.last+5); j++ {
		a, b := t.cues[j], t.cues[j+1]
		if a&lexicon.You != 0 && b&lexicon.BindVerb != 0 && !weakVerb(t, j+1) || a&lexicon.BindVerb != 0 && b&lexicon.You != 0 && !weakVerb(t, j) {
			return true
		}
	}
	return false
}

// weakVerb reports verbs that say little by themselves: have, had, taking, use.
func weakVerb(t *text, j int32) bool {
	switch t.at(int(j)) {
	case "have", "had", "using", "requested", "registered", "received", "eligible", "qualify", "managing", "started", "due", "booked":
		return true
	}
	return false
}

// second judges the tie between a mention and the reader of the mail.
func (r *reader) second(t *text, m *mention) fact {
	s := &t.sentences[m.sentence]
	a := look(t, m)
	f := fact{who: addressee, i: 1, generic: a.conditional || a.generic}
	if a.animal && a.your {
		return f
	}
	dated := s.day || s.cues&lexicon.Weekday != 0
	valued := s.value && (m.term.Kind == lexicon.Result || m.term.Kind == lexicon.Body || m.term.Kind == lexicon.Procedure) || s.money && m.term.Kind == lexicon.Payment
	f.concrete = s.concrete || valued && a.your
	personal := s.cues&(lexicon.You|lexicon.Your) != 0
	bound := a.your || a.verb || a.family
	switch {
	case f.generic && !f.concrete:
		if bound {
			f.tie, f.r = tiePossessive, .3
		}
	case a.conditional:
		if bound {
			f.tie, f.r = tiePossessive, .5
		}
	case f.generic:
		if bound {
			f.tie, f.r, f.soft = tiePossessive, .8, true
		}
	case a.family:
		f.tie, f.r, f.soft = tieFamily, .95, !s.day
	case a.verb || a.after:
		f.tie, f.r, f.soft = tieVerb, .95, !s.day
	case a.your && a.offer:
		f.tie, f.r, f.soft = tiePossessive, .45, true
		if f.concrete {
			f.r = .8
		}
	case a.your && (f.concrete || dated || s.cues&lexicon.Status != 0):
		f.tie, f.r, f.soft = tiePossessiveEvent, .95, !s.day
	case a.your && m.term.Kind == lexicon.Body:
		f.tie, f.r, f.soft = tiePossessive, .45, true
	case a.your && s.cues&lexicon.Episodic != 0:
		f.tie, f.r, f.soft = tiePossessiveEvent, .9, true
	case a.your:
		f.tie, f.r, f.soft = tiePossessive, .75, true
	case s.cues&lexicon.Status != 0 && noticed(m.term) && s.cues&lexicon.Promo == 0:
		f.tie, f.r, f.soft = tieNotice, .85, true
	case r.family && s.cues&lexicon.RolePronoun != 0 && m.term.Tier == lexicon.Specific:
		f.tie, f.r, f.soft = tieFamily, .85, true
	case m.term.Tier == lexicon.Specific && m.term.Kind != lexicon.Provider && s.cues&(lexicon.Promo|lexicon.RolePatient) == 0 && (s.cues&lexicon.Clinician != 0 || s.day || measured(t, s, m)):
		f.tie, f.r, f.soft = tieNote, .7, true
	case personal && f.concrete:
		f.tie, f.r, f.soft = tieStatement, .7, true
	case personal && s.cues&lexicon.Episodic != 0:
		f.tie, f.r, f.soft = tieStatement, .65, true
	case personal:
		f.tie, f.r, f.soft = tieStatement, .35, true
	}
	return f
}

// measured reports a number right behind a mention: "psa is 6.2", "Wegovy 1 mg".
// A bound ("over 160") or an indefinite article ("an LDL of 160") make it general.
func measured(t *text, s *sentence, m *mention) bool {
	if m.first > s.first && article(t.at(int(m.first)-1)) {
		return false
	}
	for j := m.last; j < min(s.last, m.last+4); j++ {
		if parted(t.between(int(j)-1, int(j))) {
			return false
		}
		if finding(t.at(int(j))) {
			return true
		}
		if t.tokens[j].shape&digits != 0 {
			return j+1 == s.last || t.at(int(j)+1) != "year"
		}
		if bounding(t.at(int(j))) {
			return false
		}
	}
	return false
}

func article(w string) bool { return w == "a" || w == "an" || w == "A" || w == "An" || w == "any" }

// finding reports a word that stands for the value of a test.
func finding(w string) bool {
	switch w {
	case "neg", "pos", "negative", "positive", "normal", "abnormal", "elevated", "undetectable":
		return true
	}
	return false
}

func bounding(w string) bool {
	switch w {
	case "over", "under", "above", "below", "than", "between", "least", "around", "exceeds", "reaches":
		return true
	}
	return false
}

// noticed lists what a status can be told of without naming the person: "refill
// ready", "claim denied".
func noticed(t *lexicon.Term) bool {
	switch t.Kind {
	case lexicon.Rx, lexicon.Result, lexicon.Payment:
		return t.Tier == lexicon.Caring
	case lexicon.Drug, lexicon.Procedure, lexicon.Care:
		return t.Tier == lexicon.Specific || t.Tier == lexicon.Caring
	}
	return false
}

// meetings finds a day or hour with a named provider, or words of a meeting
// ("see you Tuesday"). From a practice whose name tells the disease any hour
// will do.
func (r *reader) meetings(t *text) {
	special := r.doc.sender.topic != lexicon.NoTopic
	for n := range t.sentences {
		s := &t.sentences[n]
		day := s.day || s.cues&lexicon.Weekday != 0 || special && s.cues&lexicon.Clinician != 0
		if !day || s.zone == extract.Footer || s.cues&(lexicon.Generic|lexicon.Conditional|lexicon.Promo) != 0 && s.cues&lexicon.Meet == 0 {
			continue
		}
		personal := s.cues&(lexicon.You|lexicon.Your|lexicon.Status) != 0
		named := s.cues&lexicon.TitleProvider != 0 || r.providerIn(t, n)
		if !(personal && named) && s.cues&lexicon.Meet == 0 && !(special && (s.day || personal || s.cues&lexicon.Clinician != 0)) {
			continue
		}
		m := mention{&lexicon.Term{Kind: lexicon.Care, Tier: lexicon.Weak}, s.first, min(s.last, s.first+1), int32(n)}
		for j := s.first; j < s.last; j++ {
			if t.cues[j]&(lexicon.TitleProvider|lexicon.Weekday|lexicon.Meet) != 0 {
				m.first, m.last = j, j+1
				break
			}
		}
		told := personal && named || s.cues&lexicon.Meet != 0
		r.keep(t, &m, fact{who: addressee, i: 1, tie: tieEvent, r: .9, concrete: s.day && told, soft: true})
	}
}

func (r *reader) providerIn(t *text, sentence int) bool {
	for i := range t.mentions {
		if m := &t.mentions[i]; m.sentence == int32(sentence) && m.term.Kind == lexicon.Provider && m.term.Tier == lexicon.Specific {
			return true
		}
	}
	return false
}

// statements finds words that make the reader a patient or member: "as a
// patient of", "we miss you".
func (r *reader) statements(t *text) {
	for n := range t.sentences {
		s := &t.sentences[n]
		if s.cues&lexicon.Relation == 0 {
			continue
		}
		for j := s.first; j < s.last; j++ {
			if t.cues[j]&lexicon.Relation == 0 {
				continue
			}
			m := mention{&lexicon.Term{Kind: lexicon.NoKind, Tier: lexicon.Weak}, j, j + 1, int32(n)}
			f := fact{who: addressee, i: 1, tie: tieRelation, r: .95, soft: true}
			for k := s.first; k < j; k++ {
				f.generic = f.generic || t.cues[k]&lexicon.Conditional != 0
			}
			if f.generic {
				f.r = .4
			}
			zone := s.zone
			if zone == extract.Footer {
				f.r = .9
			}
			s.zone = extract.Plain
			r.keep(t, &m, f)
			s.zone = zone
			break
		}
	}
}

// third ties health facts to persons other than the reader: a patient's number
// or labelled name in the same block, a name with the words of a case beside it.
func (r *reader) third(t *text) {
	if len(r.ids) == 0 || t.kind == extract.Header && len(t.mentions) == 0 {
		return
	}
	for n := range r.ids {
		x := &r.ids[n]
		switch {
		case x.noPatient || x.rule == ruleDate || x.rule == ruleURL || x.named() && t.sentences[x.sentence].cues&lexicon.MadeUp != 0:
		case x.patient:
			r.labelledFact(t, x)
		default:
			r.namedFact(t, x)
		}
	}
}

// span is the stretch of text around an identifier that counts as its block.
const blockSpan, clauseSpan = 600, 200

func distance(t *text, x *ident, m *mention) int {
	a, b := int(t.tokens[m.first].start), int(t.tokens[m.last-1].end)
	switch {
	case a >= int(x.end):
		return a - int(x.end)
	case b <= int(x.start):
		return int(x.start) - b
	}
	return 0
}

// around returns the mentions within span bytes of t.src[start:end].
func (t *text) around(start, end, span int) []mention {
	lo := sort.Search(len(t.mentions), func(i int) bool { return int(t.tokens[t.mentions[i].last-1].end) >= start-span })
	hi := lo + sort.Search(len(t.mentions)-lo, func(i int) bool { return int(t.tokens[t.mentions[lo+i].first].start) > end+span })
	return t.mentions[lo:min(hi, lo+400)]
}

// nearest returns the strongest mention within span of x, the nearer the better.
func nearest(t *text, x *ident, span int) *mention {
	var best *mention
	rank := func(m *mention) int {
		w := 0
		switch m.term.Tier {
		case lexicon.Specific:
			w = 3
			if m.term.Kind == lexicon.Provider {
				w = 1
			}
		case lexicon.Caring:
			w = 2
		}
		return w
	}
	bestRank, bestDistance := 0, 0
	near := t.around(int(x.start), int(x.end), span)
	for i := range near {
		m := &near[i]
		w := rank(m)
		if w == 0 {
			continue
		}
		d := distance(t, x, m)
		if w > bestRank || w == bestRank && d < bestDistance {
			best, bestRank, bestDistance = m, w, d
		}
	}
	return best
}

// labelledFact ties what stands nearest to the identifier of a patient.
func (r *reader) labelledFact(t *text, x *ident) {
	r.persons[t.src[x.start:x.end]] = true
	m := nearest(t, x, blockSpan)
	r.doc.gate = r.doc.gate || (x.rule == ruleMRN || x.rule == ruleMBI) && r.nameNear(t, x)
	if m == nil {
		s := &t.sentences[x.sentence]
		if x.rule == ruleMRN || x.rule == ruleMBI || x.rule == rulePlanID || x.rule == ruleDOB && s.cues&lexicon.RolePatient != 0 && r.nameNear(t, x) {
			r.keep(t, &mention{&lexicon.Term{Kind: lexicon.Care, Tier: lexicon.Caring}, x.first, x.last, x.sentence}, fact{who: labelledPatient, i: .95, tie: tieLabelled, r: .85, concrete: true})
		}
		return
	}
	tied := float32(1)
	switch {
	case x.rule == ruleNameLabelled && x.score < .9:
		tied = .85
	case x.rule == ruleDOB || x.rule == ruleNameLabelled:
		tied = .95
	}
	r.keep(t, m, fact{who: labelledPatient, i: .95, tie: tieLabelled, r: tied, concrete: true})
}

// nameNear reports a name that is no provider's within 150 bytes of x.
func (r *reader) nameNear(t *text, x *ident) bool {
	for i := range r.ids {
		o := &r.ids[i]
		if (o.rule == ruleNameLabelled || o.rule == ruleNameDictionary) && !o.noPatient && o.start < x.end+150 && x.start < o.end+150 {
			return true
		}
	}
	return false
}

// namedFact needs words of a case around the identifier; a name alone near a
// health word is a press release.
func (r *reader) namedFact(t *text, x *ident) {
	if x.score <= .1 || t.sentences[x.sentence].zone == extract.Footer || t.sentences[x.sentence].zone == extract.Nav {
		return
	}
	m := nearest(t, x, clauseSpan)
	if m == nil || m.term.Kind == lexicon.Provider {
		return
	}
	if x.rule == ruleNameDictionary && r.inMention(t, x.first) {
		return // Rocky Mountain spotted fever
	}
	f := fact{who: namedPerson, i: .75, tie: tieThird, soft: true}
	switch x.rule {
	case ruleNameDictionary:
	case ruleDateService, ruleAge90, ruleGeoPlace, ruleGeoZIP, ruleFacility:
		if t.sentences[x.sentence].cues&(lexicon.You|lexicon.Your) != 0 {
			return // the reader's own day
		}
		f.i = .7
		if x.rule == ruleFacility {
			f.i = .6 // a place of care alone tells of many
		}
	default:
		if x.score < .6 {
			f.i = .65
		}
	}
	f.r = r.caseStrength(t, x, m)
	if x.rule == ruleNameDictionary && t.tokens[x.last-1].shape&possessive != 0 && m.first-x.last <= 4 && m.first >= x.last {
		f.tie, f.r = tieNamedPossessive, max(f.r, .9)
	}
	if f.r == 0 {
		return
	}
	f.soft = f.r < .9
	r.persons[t.src[x.start:x.end]] = true
	r.keep(t, m, f)
}

// caseStrength counts the signs that the text around x tells of one patient.
func (r *reader) caseStrength(t *text, x *ident, m *mention) float32 {
	lo, hi := int(min(x.start, t.tokens[m.first].start))-100, int(max(x.end, t.tokens[m.last-1].end))+100
	roles, pronouns, others := 0, 0, 0
	for j := seek(t.tokens, uint32(max(0, lo))); int(j) < len(t.tokens) && int(t.tokens[j].start) < hi; j++ {
		c := t.cues[j]
		if c&lexicon.RolePatient != 0 {
			roles++
		}
		if c&lexicon.RolePronoun != 0 {
			pronouns++
		}
	}
	for i := range r.ids {
		if o := &r.ids[i]; o != x && !o.noPatient && int(o.start) >= lo && int(o.end) <= hi {
			others++
		}
	}
	n := roles*2 + min(pronouns, 2) + others*2
	if inBed(t, x) {
		n += 2
	}
	if x.rule == ruleNameDictionary && r.doc.sender.topic != lexicon.NoTopic {
		n++
	}
	if x.rule == ruleNameDictionary && (x.score > .4 || t.sentences[x.sentence].concrete) {
		n++ // Mr. Moss, Dan K.: how staff write of patients
	}
	strong := x.score >= .7 && x.rule != ruleDateService
	if strong {
		n++
	}
	switch {
	case roles > 0 && n >= 4:
		return .95
	case n >= 3:
		return .9
	case n >= 2:
		return .85
	case n == 1 && m.sentence == x.sentence && (strong || m.term.Kind != lexicon.Procedure):
		return .82
	case m.sentence == x.sentence:
		return .5
	}
	return 0
}

// inBed reports a number of a room or bed right behind a name: "Ms. Finley in 220".
func inBed(t *text, x *ident) bool {
	if int(x.last)+1 >= len(t.tokens) || t.tokens[x.last].sentence != x.sentence {
		return false
	}
	switch t.at(int(x.last)) {
	case "in", "room", "rm", "bed":
		k := &t.tokens[x.last+1]
		return k.shape&digits != 0 && k.end-k.start <= 4
	}
	return false
}

// possessives ties "Mia's strep test" to Mia: a first name alone, a health fact
// right behind it.
func (r *reader) possessives(t *text, m *mention) {
	s := &t.sentences[m.sentence]
	for j := m.first - 1; j >= max(s.first, m.first-3); j-- {
		k := &t.tokens[j]
		if k.shape&possessive != 0 && k.shape&title != 0 && r.lexName(t, int(j))&lexicon.FirstName != 0 && r.lexName(t, int(j))&lexicon.Everyday == 0 && t.cues[j]&(lexicon.Family|lexicon.Animal|lexicon.Generic|lexicon.Weekday|lexicon.Month) == 0 && !r.inMention(t, j) {
			r.persons[t.at(int(j))] = true
			r.keep(t, m, fact{who: namedPerson, i: .75, tie: tieNamedPossessive, r: .9, soft: true})
			return
		}
		if t.cues[j]&lexicon.Stop != 0 {
			return
		}
	}
}

func (r *reader) inMention(t *text, token int32) bool {
	i := sort.Search(len(t.mentions), func(i int) bool { return t.mentions[i].first > token })
	return i > 0 && t.mentions[i-1].last > token
}
