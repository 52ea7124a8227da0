package phi

import (
	"bytes"
	"fmt"
	"math"
	"strings"

	"github.com/phigate/phigate/internal/phi/extract"
	"github.com/phigate/phigate/internal/phi/lexicon"
)

// Unscannable names a part that could not be read.
type Unscannable = extract.Unscannable

// Finding is one thing that was found. Start and End are byte offsets into the
// decoded UTF-8 text of the part. Snippet shows its surroundings with every
// value masked to its shape.
type Finding struct {
	Rule    string  `json:"rule"`
	Kind    string  `json:"kind"`
	Group   Group   `json:"group"`
	Part    string  `json:"part"`
	Start   int     `json:"start"`
	End     int     `json:"end"`
	Score   float64 `json:"score"`
	Snippet string  `json:"snippet"`
}

// Relation is the tie that decided: who, which kind of health fact, by what.
// The zero Relation means there is none.
type Relation struct {
	Individual string  `json:"individual"`
	Health     string  `json:"health"`
	By         string  `json:"by"`
	Score      float64 `json:"score"`
}

// String keeps the text of mail out of logs.
func (f Finding) String() string { return fmt.Sprintf("%s %.2f [phi]", f.Rule, f.Score) }

// hit is a finding before it is written out.
type hit struct {
	rule       rule
	part       int
	start, end uint32
	score      float32
}

const maxHits = 300

// hit records a finding once; a better score wins.
func (r *reader) hit(h hit) {
	key := uint64(h.part)<<48 ^ uint64(h.rule)<<40 ^ uint64(h.start)
	if i, ok := r.seen[key]; ok {
		r.hits[i].score = max(r.hits[i].score, h.score)
		return
	}
	if len(r.hits) < maxHits {
		r.seen[key] = int32(len(r.hits))
		r.hits = append(r.hits, h)
	}
}

// hitMention records a health mention; a code is a finding of its own.
func (r *reader) hitMention(t *text, m *mention, f fact) {
	rule := kindRule[m.term.Kind]
	switch {
	case m.term == codeTerm:
		return
	case m.term.Kind == lexicon.NoKind:
		rule = ruleRelation
	}
	score := tierWeight(m.term) * max(f.r, .15) * f.i
	r.hit(hit{rule, t.part, t.tokens[m.first].start, t.tokens[m.last-1].end, score})
}

// hitIDs records the identifiers and codes of a text.
func (r *reader) hitIDs(t *text) {
	for i := range r.ids {
		x := &r.ids[i]
		if t.kind == extract.Header && x.score >= .6 && x.rule != ruleNameAddressee {
			r.doc.subjectPHI = true
		}
		r.hit(hit{x.rule, t.part, x.start, x.end, x.score * zoneWeight[t.sentences[x.sentence].zone]})
	}
	for i := range r.codes {
		x := &r.codes[i]
		r.hit(hit{x.rule, t.part, x.start, x.end, x.score})
	}
}

// Findings returns everything found, whatever it weighs. It is made at the
// first call: most mail is judged clean and nobody asks.
func (d *Document) Findings() []Finding {
	d.once.Do(func() {
		d.findings = make([]Finding, 0, len(d.hits)+len(d.formats))
		for range d.formats {
			about := rules[ruleFormat]
			d.findings = append(d.findings, Finding{Rule: about.ID, Kind: about.Kind, Group: about.Group, Part: "message", Score: .97})
		}
		for _, h := range d.hits {
			p := &d.parts[h.part]
			about := rules[h.rule]
			start, end := p.Source(int(h.start)), p.Source(int(h.end))
			d.findings = append(d.findings, Finding{about.ID, about.Kind, about.Group, p.Path, start, max(start, end), hundredths(h.score), d.snippet(h)})
		}
	})
	return d.findings
}

// hundredths rounds a score for people.
func hundredths(s float32) float64 { return math.Round(float64(min(s, 1))*100) / 100 }

// snippet shows up to 24 bytes either side of a value. The value and every
// other one nearby are masked, so are all digits, addresses and words that are
// names.
func (d *Document) snippet(h hit) string {
	s := d.parts[h.part].Text
	lo, hi := max(0, int(h.start)-24), min(len(s), int(h.end)+24)
	for lo > 0 && lo < int(h.start) && isAlnum(s[lo-1]) { // whole words only
		lo++
	}
	for hi < len(s) && hi > int(h.end) && isAlnum(s[hi]) {
		hi--
	}
	if hi-lo > 160 {
		hi = lo + 160
	}
	out := []byte(s[lo:hi])
	mask := func(from, to int) {
		for i := max(from-lo, 0); i < min(to-lo, len(out)); i++ {
			out[i] = shapeOf(out[i])
		}
	}
	for _, o := range d.hits {
		if o.part == h.part && int(o.start) < hi && int(o.end) > lo {
			mask(int(o.start), int(o.end))
		}
	}
	d.maskWords(out)
	return strings.ToValidUTF8(string(out), "?")
}

// maskWords masks digits, capitalised names and addresses.
func (d *Document) maskWords(out []byte) {
	low := make([]byte, 0, len(out))
	for i := 0; i < len(out); {
		if !isAlnum(out[i]) && out[i] < 0x80 {
			if out[i] < ' ' {
				out[i] = ' '
			}
			i++
			continue
		}
		j, lower := i, low[:0]
		num, at := false, false
		for j < len(out) && (isAlnum(out[j]) || out[j] >= 0x80 || strings.IndexByte("@._%+", out[j]) >= 0) {
			num = num || isDigit(out[j])
			at = at || out[j] == '@'
			c := out[j]
			if class[c] == classUpper {
				c |= 0x20
			}
			lower = append(lower, c)
			j++
		}
		lower = bytes.TrimRight(lower, "._%+")
		name := class[out[i]] == classUpper && d.scanner.lx.Name(lexicon.Hash(lower))&(lexicon.FirstName|lexicon.LastName) != 0
		if num || at || name || out[i] >= 0x80 {
			for k := i; k < j; k++ {
				out[k] = shapeOf(out[k])
			}
		}
		i = j
	}
}

func shapeOf(c byte) byte {
	switch class[c] {
	case classDigit:
		return '#'
	case classUpper:
		return 'X'
	case classLetter, classHigh:
		return 'x'
	}
	return c
}
