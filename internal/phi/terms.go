package phi

import (
	"errors"
	"fmt"
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
}

// teach adds the house terms to the lexicon.
func (t *Terms) teach(lx *lexicon.Lexicon) {
	if t == nil {
		return
	}
	for _, h := range t.list {
		lx.Add(h.phrase, h.term)
	}
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
}

// ReadTerms reads terms.yaml. Its errors name file, line and column of every
// mistake and never repeat a term.
func ReadTerms(name string, data []byte) (*Terms, error) {
	var f termsFile
	file, problems := yamlfile.Decode(name, data, &f)
	t := &Terms{}
	for i, e := range f.Terms {
		path := fmt.Sprintf("terms[%d].term", i)
		switch n := len(strings.Fields(e.Term)); {
		case !file.Sound(path):
		case n == 0 || len(e.Term) < 3:
			problems = append(problems, file.Problem(path, "the term is too short", "write a word of three letters or more"))
		case n > 8:
			problems = append(problems, file.Problem(path, "the term is too long", "write a phrase of at most eight words"))
		default:
			term := e.Tier.term
			term.Topic = e.Sensitivity.topic
			t.list = append(t.list, houseTerm{e.Term, term})
		}
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return t, nil
}
