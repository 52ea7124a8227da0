package phi

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/phigate/phigate/internal/phi/lexicon"
	"github.com/phigate/phigate/internal/yamlfile"
)

// Terms are an organization's own words: products and brands that are not
// health information, and names of programs that are.
type Terms struct{ list []houseTerm }

type houseTerm struct {
	phrase string
	term   lexicon.Term
	when   condition
}

// condition limits a house term by the other words of its sentence. The zero
// condition always holds.
type condition struct {
	needs, unless [][]uint64 // phrases as stems
}

// teach adds the house terms to the lexicon and returns the conditions that
// [lexicon.Term.House] counts, from 1.
func (t *Terms) teach(lx *lexicon.Lexicon) (list []condition) {
	if t == nil {
		return nil
	}
	for _, h := range t.list {
		if len(h.when.needs)+len(h.when.unless) > 0 {
			list = append(list, h.when)
			h.term.House = uint16(len(list))
		}
		lx.Add(h.phrase, h.term)
	}
	return list
}

// condition drops the house terms whose sentence does not fit.
func (t *text) condition(list []condition) {
	if len(list) == 0 {
		return
	}
	t.mentions = slices.DeleteFunc(t.mentions, func(m mention) bool {
		return m.term.House > 0 && !t.fits(&m, &list[m.term.House-1])
	})
}

func (t *text) fits(m *mention, c *condition) bool {
	has := func(phrase []uint64) bool { return t.says(m, phrase) }
	return (len(c.needs) == 0 || slices.ContainsFunc(c.needs, has)) && !slices.ContainsFunc(c.unless, has)
}

// says reports whether the sentence of m holds the phrase outside m.
func (t *text) says(m *mention, phrase []uint64) bool {
	s := &t.sentences[m.sentence]
	for i := s.first; i+int32(len(phrase)) <= s.last; i++ {
		if i < m.last && i+int32(len(phrase)) > m.first {
			continue
		}
		n := 0
		for n < len(phrase) && t.tokens[int(i)+n].stem == phrase[n] {
			n++
		}
		if n == len(phrase) {
			return true
		}
	}
	return false
}

// Format keeps the terms, which may name programs of care, out of logs.
func (t *Terms) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[terms]") }

// sensitivity is a word of terms.yaml for one of the sensitive topics.
type sensitivity struct{ topic lexicon.Topic }

var topicWords = []string{"none", "hiv", "substance", "mental", "reproductive", "genetic"}

var topics = []lexicon.Topic{lexicon.NoTopic, lexicon.HIV, lexicon.Substance, lexicon.Mental, lexicon.Reproductive, lexicon.Genetic}

// Words lists the values for schema and messages.
func (sensitivity) Words() []string { return topicWords }

// UnmarshalText reads one of Words.
func (s *sensitivity) UnmarshalText(b []byte) error {
	for i, w := range topicWords {
		if w == string(b) {
			s.topic = topics[i]
			return nil
		}
	}
	return errors.New("unknown sensitivity, use one of " + strings.Join(topicWords, ", "))
}

// tier is a word of terms.yaml: how surely a term is about health. none puts it
// on the allow-list.
type tier struct{ term lexicon.Term }

var tierWords = []string{"S", "A", "G", "none"}

var tierTerms = []lexicon.Term{
	{Kind: lexicon.Condition, Tier: lexicon.Specific}, {Kind: lexicon.Condition, Tier: lexicon.Ambiguous},
	{Kind: lexicon.Condition, Tier: lexicon.General}, {Kind: lexicon.Figure},
}

// Words lists the values for schema and messages.
func (tier) Words() []string { return tierWords }

// UnmarshalText reads one of Words.
func (t *tier) UnmarshalText(b []byte) error {
	for i, w := range tierWords {
		if w == string(b) {
			t.term = tierTerms[i]
			return nil
		}
	}
	return errors.New("unknown tier, use one of " + strings.Join(tierWords, ", "))
}

type termsFile struct {
	Terms []termEntry `yaml:"terms,required" doc:"House terms; they win over the shipped lists."`
}

type termEntry struct {
	Term        string      `yaml:"term,required" doc:"The word or phrase; case and plural s do not matter."`
	Tier        tier        `yaml:"tier,required" doc:"S: health and nothing else; A: also an everyday word; G: general wellness; none: not health, the allow-list."`
	Sensitivity sensitivity `yaml:"sensitivity" doc:"none, or the law that singles the term out."`
	Needs       []string    `yaml:"needs" doc:"The term counts only beside one of these words in its sentence."`
	Unless      []string    `yaml:"unless" doc:"The term does not count beside any of these words in its sentence."`
}

const maxHouseTerms = 10000

// ReadTerms reads terms.yaml. Its errors name file, line and column of every
// mistake and never repeat a term. A single everyday word may not be a sure
// sign of health, unless needs narrows it: it would hold ordinary mail.
func ReadTerms(name string, data []byte) (*Terms, error) {
	var f termsFile
	file, problems := yamlfile.Decode(name, data, &f)
	if len(f.Terms) > maxHouseTerms {
		problems = append(problems, file.Problem("terms", "too many terms", fmt.Sprintf("keep to %d", maxHouseTerms)))
		return nil, problems.Err()
	}
	words, err := lexicon.Load()
	if err != nil {
		return nil, fmt.Errorf("phi: %w", err)
	}
	t := &Terms{}
	for i := range f.Terms {
		e := &f.Terms[i]
		path := fmt.Sprintf("terms[%d].term", i)
		if !file.Sound(path) {
			continue
		}
		if what, hint := e.wrong(words); what != "" {
			problems = append(problems, file.Problem(path, what, hint))
			continue
		}
		term := e.Tier.term
		term.Topic = e.Sensitivity.topic
		h := houseTerm{phrase: e.Term, term: term}
		h.when.needs, problems = phrases(file, problems, fmt.Sprintf("terms[%d].needs", i), e.Needs)
		h.when.unless, problems = phrases(file, problems, fmt.Sprintf("terms[%d].unless", i), e.Unless)
		t.list = append(t.list, h)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return t, nil
}

// wrong says what speaks against a term, and what to write instead.
func (e *termEntry) wrong(words *lexicon.Lexicon) (what, hint string) {
	switch n := len(strings.Fields(e.Term)); {
	case n == 0 || len(e.Term) < 3:
		return "the term is too short", "write a word of three letters or more"
	case n > 8:
		return "the term is too long", "write a phrase of at most eight words"
	case n == 1 && e.Tier.term.Tier == lexicon.Specific && len(e.Needs) == 0 && words.Common(e.Term):
		return "the term is an everyday word and would hold ordinary mail", "use tier A, a longer phrase, or needs"
	}
	return "", ""
}

// phrases turns the words of needs or unless into stems.
func phrases(file *yamlfile.File, problems yamlfile.Problems, path string, list []string) ([][]uint64, yamlfile.Problems) {
	var out [][]uint64
	for i, p := range list {
		stems := lexicon.Stems(p)
		if n := len(stems); n == 0 || n > 8 {
			problems = append(problems, file.Problem(fmt.Sprintf("%s[%d]", path, i), "not a word or short phrase", "write one to eight words"))
			continue
		}
		out = append(out, stems)
	}
	return out, problems
}
