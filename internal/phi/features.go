package phi

import (
	"math/bits"
	"slices"
	"strings"

	"github.com/phigate/phigate/internal/phi/extract"
	"github.com/phigate/phigate/internal/phi/lexicon"
)

// tally counts over the texts of a message.
type tally struct {
	sentences, generic int
	animals, jobs      int
	words, english     int
	clinician          int // sentences in the voice of somebody who treats
	longest            int // words of the longest text of the mail itself
	promoSubject       bool
	promoLead          int
	vector             [64]int   // how many shingles have each bit
	lanes              [8]uint64 // the last of them, a byte for each bit
	shingles           int
	shingle            [2]uint64
}

// countText gathers what the message as a whole is like.
func (r *reader) countText(t *text, p *extract.Part) {
	c := &r.count
	d := r.doc
	if p.Kind != extract.File {
		d.unfilled = d.unfilled || mergeTag(t.src) >= 0
		d.proof = d.proof || strings.Contains(t.src, "orem ipsum")
	}
	if p.Kind == extract.Header {
		d.proof = d.proof || p.Path == "Subject" && proofSubject(t.src)
		for i := range t.sentences {
			c.promoSubject = c.promoSubject || p.Path == "Subject" && t.sentences[i].cues&lexicon.Promo != 0 && promoting(t)
		}
		return
	}
	if p.Kind != extract.Body && p.Kind != extract.File {
		return
	}
	for i := range t.sentences {
		s := &t.sentences[i]
		if s.cues&lexicon.Unsubscribe != 0 {
			d.unsubscribe = true
		}
		if s.last-s.first < 3 || s.zone == extract.Footer || s.zone == extract.Nav {
			continue
		}
		c.sentences++
		if s.cues&lexicon.Clinician != 0 {
			c.clinician++
		}
		if s.cues&(lexicon.Generic|lexicon.Conditional) != 0 || s.question {
			c.generic++
		}
	}
	for i := range t.tokens {
		if t.cues[i]&lexicon.Family != 0 && i > 0 && t.cues[i-1]&lexicon.Your != 0 {
			r.family = true
		}
		if t.cues[i]&lexicon.Animal != 0 {
			c.animals++
		}
		if t.cues[i]&lexicon.Job != 0 {
			c.jobs++
		}
		d.bodily = d.bodily || t.cues[i]&lexicon.BodyCare != 0
		if t.cues[i]&lexicon.English != 0 {
			c.english++
		}
		if i < 60 && t.cues[i]&lexicon.Promo != 0 {
			c.promoLead++
		}
		r.shingle(t, i)
	}
	c.words += len(t.tokens)
	if p.Kind == extract.Body {
		c.longest = max(c.longest, len(t.tokens))
		d.texts = append(d.texts, t.src)
	}
}

// promoting asks for more than one weak word: "free", "off" and "save" occur in
// ordinary subjects.
func promoting(t *text) bool {
	n := 0
	for i := range t.tokens {
		if t.cues[i]&lexicon.Promo != 0 {
			n++
		}
	}
	return n >= 2 || strings.Contains(t.src, "%") && n >= 1 || strings.Contains(strings.ToLower(t.src), "sale")
}

// shingle folds three words into the SimHash (Charikar 2002). Numbers and names
// are left out, so that merge slots do not change it.
func (r *reader) shingle(t *text, i int) {
	k := &t.tokens[i]
	if k.shape&(digits|mixed) != 0 || k.shape&title != 0 && r.lexName(t, i)&lexicon.Everyday == 0 && r.lexName(t, i) != 0 {
		return
	}
	c := &r.count
	h := k.word*lexicon.Prime ^ bits.RotateLeft64(c.shingle[0], 21) ^ bits.RotateLeft64(c.shingle[1], 42)
	c.shingle[1], c.shingle[0] = c.shingle[0], k.word
	h ^= h >> 31
	h *= 0x9e3779b97f4a7c15
	if h>>60 > 3 {
		return // a quarter of the shingles, chosen by what they are, is enough
	}
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 32
	for b := range c.lanes {
		c.lanes[b] += spread[h>>(8*b)&255]
	}
	if c.shingles++; c.shingles%255 == 0 {
		c.settle()
	}
}

// spread holds each byte with its bits apart, a lane of eight bits for each.
var spread = func() (t [256]uint64) {
	for v := range t {
		for b := range 8 {
			t[v] |= uint64(v>>b&1) << (8 * b)
		}
	}
	return t
}()

// settle moves what the lanes counted before one of them runs over.
func (c *tally) settle() {
	for b := range c.vector {
		c.vector[b] += int(c.lanes[b/8] >> (b % 8 * 8) & 255)
	}
	clear(c.lanes[:])
}

// finish draws the conclusions that need the whole message.
func (r *reader) finish() {
	c, d := &r.count, r.doc
	d.general = c.sentences >= 8 && c.generic*100 >= c.sentences*30 || c.sentences >= 3 && c.generic*100 >= c.sentences*60
	d.animals = d.sender.animals || c.animals >= 3 && !d.sender.health
	d.employment = c.jobs >= 2
	d.promotional = c.promoSubject || c.promoLead >= 3
	if len(r.msg.Fields("List-Unsubscribe")) > 0 {
		d.unsubscribe = true
	}
	d.note = c.longest <= maxNoteWords && !d.promotional && c.jobs == 0
	r.noteFact()
	if c.words >= 20 && c.english*100 < c.words*8 {
		d.language = "other"
	} else {
		d.language = "en"
	}
	c.settle()
	for b := range 64 {
		if 2*c.vector[b] > c.shingles {
			d.simhash |= 1 << b
		}
	}
	d.people = max(len(r.persons), d.rows, d.visible)
	for _, f := range d.facts {
		t := f.term.Kind
		if f.r >= .5 && f.term.Tier == lexicon.Specific && (t == lexicon.Condition || t == lexicon.Drug || t == lexicon.Procedure || t == lexicon.Result) {
			d.fundraising = true
		}
	}
	d.parts, d.hits = r.msg.Parts, slices.Clone(r.hits)
}

// Hosts returns the hosts of links and images, in lower case, each once.
func (d *Document) Hosts() []string { return d.hosts }

// Promotional reports a subject or an opening that sells (16 CFR 316.3: such
// mail is commercial whatever else it holds).
func (d *Document) Promotional() bool { return d.promotional }

// Unsubscribe reports a List-Unsubscribe field or words or links to opt out by.
func (d *Document) Unsubscribe() bool { return d.unsubscribe }

// FundraisingExceeded reports facts of diagnosis or treatment about somebody,
// which a fundraising letter may not use (45 CFR 164.514(f)(1)).
func (d *Document) FundraisingExceeded() bool { return d.fundraising }

// SimHash returns the SimHash of the text without numbers and names; the same
// letter to many people differs in few bits.
func (d *Document) SimHash() uint64 { return d.simhash }

// HasText reports whether the mail's own text holds s, without regard to case,
// punctuation and line breaks: a postal address, a required statement.
func (d *Document) HasText(s string) bool {
	want := plainWords(s)
	if want == "" {
		return false
	}
	for _, t := range d.texts {
		if strings.Contains(" "+plainWords(t)+" ", " "+want+" ") {
			return true
		}
	}
	return false
}

// plainWords returns the words of s in lower case, a space apart.
func plainWords(s string) string {
	var out strings.Builder
	gap := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch class[c] {
		case classUpper:
			c |= 0x20
			fallthrough
		case classLetter, classDigit, classHigh:
			if gap && out.Len() > 0 {
				out.WriteByte(' ')
			}
			gap = false
			out.WriteByte(c)
		default:
			gap = c != '\'' || gap
		}
	}
	return out.String()
}

// personalPath lists path words that lead into a patient's own records.
var personalPath = []string{"/patient", "/results", "/result/", "/labs/", "/rx/", "/refill", "/mrn", "/appointment", "/chart", "/records", "/visit", "/test-results", "/encounter", "/claims/", "/eob/", "mrn=", "patient=", "patientid=", "patient_id=", "rx=", "memberid=", "member_id="}

// links looks at the targets of links: what they name, and campaign tags.
func (r *reader) links(part int, p *extract.Part) {
	at, last := 0, ""
	for _, line := range strings.Split(p.Text, "\n") {
		lower := strings.ToLower(line)
		if strings.Contains(lower, "unsubscribe") || strings.Contains(lower, "optout") || strings.Contains(lower, "opt-out") || strings.Contains(lower, "preferences") {
			r.doc.unsubscribe = true
		}
		if i := strings.IndexByte(lower, '?'); i >= 0 && lower[i:] != last {
			last = lower[i:]
			for _, kv := range strings.Split(lower[i+1:], "&") {
				k, v, _ := strings.Cut(kv, "=")
				if strings.HasPrefix(k, "utm_") || k == "list" || k == "segment" || k == "campaign" || k == "tag" {
					r.doc.segment.read(r.scanner.lx, v)
				}
			}
		}
		num := 0
		for i := 0; i < len(lower); i++ {
			if isDigit(lower[i]) {
				num++
			}
		}
		for _, w := range personalPath {
			if num < 3 {
				break
			}
			if i := strings.Index(lower, w); i >= 0 && idBehind(lower[i+len(w):]) {
				f := fact{who: addressee, i: 1, tie: tieLink, r: .85, zone: 1, concrete: true, term: lexicon.Term{Kind: lexicon.Care, Tier: lexicon.Caring}}
				r.hit(hit{ruleURL, part, uint32(at), uint32(at + len(line)), .7})
				r.doc.facts = append(r.doc.facts, f)
				break
			}
		}
		at += len(line) + 1
		if len(r.doc.facts) > 1000 {
			return
		}
	}
}

// idBehind reports a path or query value with digits in it.
func idBehind(s string) bool {
	s = strings.TrimLeft(s, "s/=-")
	n := run(s, func(c byte) bool { return isAlnum(c) || c == '-' || c == '_' })
	num := 0
	for i := 0; i < n; i++ {
		if isDigit(s[i]) {
			num++
		}
	}
	if n >= 4 && num >= 3 {
		return true
	}
	if n < len(s) && s[n] == '/' {
		return idBehind(s[n+1:])
	}
	return false
}

// segment is what tags, list names and campaign parameters say about the list.
type segment struct {
	patients, open bool
	topic          lexicon.Topic
	health         float32 // weight of the health words in it
}

// read adds what one tag says.
func (g *segment) read(lx *lexicon.Lexicon, tag string) {
	if len(tag) > 4000 {
		tag = tag[:4000]
	}
	t := text{src: tag}
	t.tokenise()
	if len(t.tokens) == 0 {
		return
	}
	t.match(lx)
	for i := range t.tokens {
		g.patients = g.patients || t.cues[i]&lexicon.ListPatient != 0
		g.open = g.open || t.cues[i]&lexicon.ListOpen != 0
	}
	for i := range t.mentions {
		m := t.mentions[i].term
		if m.Tier == lexicon.Specific || m.Tier == lexicon.Caring {
			g.health = max(g.health, tierWeight(m))
			g.topic = max(g.topic, m.Topic)
		}
	}
}

// sensitive drops topics that no law singles out, and settles those that hang on
// the rest of the mail.
func (d *Document) sensitive(t lexicon.Topic) lexicon.Topic {
	switch {
	case t == lexicon.Special, d.bodily && (t == lexicon.Talk || t == lexicon.Rehab):
		return lexicon.NoTopic
	case t == lexicon.Talk:
		return lexicon.Mental
	case t == lexicon.Rehab:
		return lexicon.Substance
	}
	return t
}
