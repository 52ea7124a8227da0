// Package lexicon holds the words the PHI scanner knows: health terms, the cues
// that tie them to a person, labels of identifiers, names, ICD-10-CM codes.
//
// The lists ship compressed (see ATTRIBUTION.md) and [Load] builds compact hash
// tables from them: a [Lexicon] is about 5 MB and looking up a word allocates
// nothing. A word is known by its [Hash]; a phrase by the chain of its words'
// hashes, walked with [Lexicon.Step].
package lexicon

import (
	"bufio"
	"bytes"
	"embed"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"
)

//go:embed data/*.zst data/terms.txt
var files embed.FS

// Kind is what a health term speaks of.
type Kind uint8

// The kinds of health term. NoKind terms only carry cues or labels; Figure is a
// figure of speech that hides the health words inside it.
const (
	NoKind Kind = iota
	Figure
	Condition
	Drug
	Procedure
	Care
	Provider
	Rx
	Payment
	Result
	Body
)

var kindNames = []string{"", "none", "condition", "drug", "procedure", "care", "provider", "rx", "payment", "result", "body"}

// Tier says how surely a term is about health.
type Tier uint8

// The tiers, from sure to vague.
const (
	NoTier    Tier = iota
	Specific       // S: health and nothing else
	Caring         // C: only health care has it
	Weak           // W: care when a health sender says it
	Ambiguous      // A: also an everyday word
	General        // G: wellness and trade
)

const tierLetters = "-SCWAG"

// Topic marks the sensitive subjects.
type Topic uint8

// The topics, the surer the later. HIV holds all sexually transmitted
// infections. Talk and Rehab hang on the rest of the mail: a therapist may be
// one of the body.
const (
	NoTopic Topic = iota
	Special       // serious, not sensitive by law: cancer, dialysis, hospice
	Talk          // Mental unless the mail speaks of the body
	Rehab         // Substance unless the mail speaks of the body
	HIV
	Substance
	Mental
	Reproductive
	Genetic
)

var topicNames = []string{"", "special", "talk", "rehab", "hiv", "substance", "mental", "repro", "genetic"}

// Cue is a set of what a word or phrase tells about the sentence it stands in.
type Cue uint64

// The cues; terms.txt has the words.
const (
	You Cue = 1 << iota
	Your
	Episodic
	Status
	BindVerb
	Conditional
	Generic
	Relation
	Family
	Animal
	Promo
	Unsubscribe
	Footer
	Legal
	StaffWords
	Shop
	RolePatient
	RolePronoun
	TitleProvider
	TitlePerson
	SenderHealth
	ListPatient
	ListOpen
	Stop
	Offer
	Month
	Weekday
	Unit
	Greeting
	Street
	State
	English
	Meet
	Job
	Facility
	Clinician
	BodyCare
	Hypothetical // said of nobody in particular: if, anyone, suppose
	MadeUp       // a case that is taught, not a patient
	Self         // the writer of a quoted line
	Dose
	Billing
	TradeHard // in a sender's name: never care
	TradeSoft // in a sender's name: not care unless another word is surely of health
	SenderStrong
	Spanish
)

var cueNames = map[string]Cue{
	"cue you": You, "cue your": Your, "cue episodic": Episodic, "cue status": Status, "cue bindverb": BindVerb,
	"cue conditional": Conditional, "cue generic": Generic, "cue relation": Relation, "cue family": Family,
	"cue animal": Animal, "cue promo": Promo, "cue unsubscribe": Unsubscribe, "cue footer": Footer, "cue legal": Legal,
	"cue staffwords": StaffWords, "cue shop": Shop, "role patient": RolePatient, "role pronoun": RolePronoun,
	"title provider": TitleProvider, "title person": TitlePerson, "sender health": SenderHealth,
	"list patient": ListPatient, "list open": ListOpen,
	"cue stop": Stop, "cue offer": Offer, "cue month": Month, "cue weekday": Weekday, "cue unit": Unit, "cue greeting": Greeting,
	"cue street": Street, "cue state": State, "cue english": English, "cue meet": Meet, "cue job": Job, "cue facility": Facility, "cue clinician": Clinician, "cue bodycare": BodyCare,
	"cue hypothetical": Hypothetical, "cue madeup": MadeUp, "cue self": Self, "cue dose": Dose, "cue billing": Billing, "sender hard": TradeHard, "sender soft": TradeSoft, "sender strong": SenderStrong, "cue spanish": Spanish,
}

// Label says which identifier a word announces.
type Label uint8

// The labels.
const (
	NoLabel Label = iota
	LabelMRN
	LabelPatient
	LabelDOB
	LabelPlan
	LabelAccount
	LabelSSN
	LabelITIN
	LabelRouting
	LabelFax
	LabelPhone
	LabelLicense
	LabelDEA
	LabelNPI
	LabelCLIA
	LabelVehicle
	LabelDevice
	LabelRxNumber
	LabelOther
	LabelICD
	LabelHCPCS
	LabelLOINC
	LabelSNOMED
	LabelNDC
	LabelService
	LabelPayer
	LabelAddress
	LabelPlace
	LabelAge
)

var labelNames = []string{"", "mrn", "patient", "dob", "plan", "account", "ssn", "itin", "routing", "fax", "phone", "license", "dea", "npi", "clia",
	"vehicle", "device", "rxnumber", "other", "icd", "hcpcs", "loinc", "snomed", "ndc", "service", "payer", "address", "place", "age"}

// Labels is a set of labels: a phrase may announce several ("medicare").
type Labels uint32

// Has reports whether the set holds l.
func (s Labels) Has(l Label) bool { return s&(1<<l) != 0 }

// Term is what is known of one phrase.
type Term struct {
	Kind   Kind
	Tier   Tier
	Topic  Topic
	Sender Topic // what a sender so named cares for
	Caps   bool  // only when written in capitals
	Cues   Cue
	Labels Labels
	House  uint16 // number of the condition of a house term, 0 for none
}

// Name is a set of what a word may be in a person's name.
type Name uint8

// What a word may be.
const (
	FirstName Name = 1 << iota
	LastName
	Everyday // also an ordinary word
)

// Lexicon is the loaded tables. It is immutable but for [Lexicon.Add].
type Lexicon struct {
	names words
	icd   words
	trie  trie
	terms []Term
}

// Load reads the embedded lists. It fails only when the binary is damaged.
func Load() (*Lexicon, error) {
	lx := &Lexicon{names: newWords(19), icd: newWords(17), trie: newTrie(18), terms: make([]Term, 1, 512)}
	for _, l := range []struct {
		file string
		word func(line []byte)
	}{
		{"first", func(w []byte) { lx.names.add(Hash(w), uint32(FirstName)) }},
		{"last", func(w []byte) { lx.names.add(Hash(w), uint32(LastName)) }},
		{"safe", func(w []byte) { lx.names.add(Hash(w), uint32(Everyday)) }},
		{"icd10cm", func(w []byte) { lx.icd.add(Hash(bytes.ToLower(w)), 1) }},
	} {
		if err := eachLine(l.file, l.word); err != nil {
			return nil, err
		}
	}
	if err := lx.readTerms(); err != nil {
		return nil, err
	}
	return lx, lx.readLists()
}

func eachLine(name string, f func([]byte)) error {
	packed, err := files.ReadFile("data/" + name + ".txt.zst")
	if err != nil {
		return fmt.Errorf("lexicon %s: %w", name, err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("lexicon %s: %w", name, err)
	}
	defer d.Close()
	text, err := d.DecodeAll(packed, nil)
	if err != nil {
		return fmt.Errorf("lexicon %s: %w", name, err)
	}
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		f(line)
	}
	return nil
}

// readTerms reads terms.txt, the hand-written part.
func (lx *Lexicon) readTerms() error {
	text, err := files.ReadFile("data/terms.txt")
	if err != nil {
		return fmt.Errorf("lexicon terms: %w", err)
	}
	var t Term
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			if t, err = section(strings.Trim(line, "[]")); err != nil {
				return err
			}
		default:
			for _, phrase := range strings.Split(line, ",") {
				lx.merge(phrase, t)
				if plain := unaccented.Replace(phrase); plain != phrase {
					lx.merge(plain, t) // as it is typed in a hurry
				}
			}
		}
	}
	return nil
}

var unaccented = strings.NewReplacer("á", "a", "é", "e", "í", "i", "ó", "o", "ú", "u", "ñ", "n", "ü", "u")

// section reads a heading such as "condition S mental caps" or "cue your".
func section(head string) (Term, error) {
	if c, ok := cueNames[head]; ok {
		return Term{Cues: c}, nil
	}
	f := strings.Fields(head)
	switch {
	case f[0] == "label":
		if l := index(labelNames, f[1]); l > 0 {
			return Term{Labels: 1 << l}, nil
		}
	case f[0] == "sender":
		if t := index(topicNames, f[1]); t > 0 {
			return Term{Sender: Topic(t)}, nil
		}
	case index(kindNames, f[0]) > 0:
		t := Term{Kind: Kind(index(kindNames, f[0]))}
		for _, w := range f[1:] {
			switch {
			case w == "caps":
				t.Caps = true
			case len(w) == 1:
				t.Tier = Tier(strings.Index(tierLetters, w))
			case w == "none":
				t.Kind = Figure
			default:
				t.Topic = Topic(index(topicNames, w))
			}
		}
		return t, nil
	}
	return Term{}, fmt.Errorf("lexicon terms: unknown section %q", head)
}

func index(list []string, s string) int {
	for i, v := range list {
		if v == s {
			return i
		}
	}
	return 0
}

// merge adds what t says to what is known of the phrase.
func (lx *Lexicon) merge(phrase string, t Term) {
	key, ok := phraseKey(phrase)
	if !ok {
		return
	}
	have := lx.terms[lx.trie.get(key)]
	if t.Kind != NoKind {
		have.Kind, have.Tier, have.Topic, have.Caps, have.House = t.Kind, t.Tier, t.Topic, t.Caps, t.House
	}
	if t.Sender != NoTopic {
		have.Sender = t.Sender
	}
	have.Cues |= t.Cues
	have.Labels |= t.Labels
	lx.set(phrase, have)
}

func (lx *Lexicon) set(phrase string, t Term) {
	n := 0
	for n < len(lx.terms) && lx.terms[n] != t {
		n++
	}
	if n == len(lx.terms) {
		lx.terms = append(lx.terms, t)
	}
	lx.trie.add(phrase, uint32(n))
}

// Add teaches one more phrase, or another meaning of a known one. It must not
// run beside lookups.
func (lx *Lexicon) Add(phrase string, t Term) { lx.merge(phrase, t) }

// readLists adds the public lists where the hand-written part says nothing.
func (lx *Lexicon) readLists() error {
	add := func(kind Kind, tier func(string) Tier) func([]byte) {
		return func(line []byte) {
			phrase := string(line)
			key, ok := phraseKey(phrase)
			if !ok || lx.terms[lx.trie.get(key)].Kind != NoKind {
				return
			}
			lx.merge(phrase, Term{Kind: kind, Tier: tier(phrase), Topic: topicOf(phrase)})
		}
	}
	for _, l := range []struct {
		file string
		kind Kind
		tier func(string) Tier
	}{
		{"disease", Condition, conditionTier},
		{"topic", Condition, conditionTier},
		{"ingredient", Drug, lx.drugTier},
		{"brand", Drug, lx.drugTier},
	} {
		if err := eachLine(l.file, add(l.kind, l.tier)); err != nil {
			return err
		}
	}
	return nil
}

var clinicalSuffix = []string{"itis", "emia", "osis", "oma", "pathy", "uria", "algia", "plegia", "rrhea", "penia", "trophy", "ectasia", "sclerosis", "megaly", "oidism"}

// conditionTier trusts phrases and clinical endings; other single words of the
// disease lists are too often everyday words.
func conditionTier(phrase string) Tier {
	if strings.ContainsAny(phrase, " -") {
		return Specific
	}
	if len(phrase) > 7 {
		for _, s := range clinicalSuffix {
			if strings.HasSuffix(phrase, s) {
				return Specific
			}
		}
	}
	return Ambiguous
}

// drugTier trusts names of two words and single words that are neither a
// person's name nor in the list of everyday words.
func (lx *Lexicon) drugTier(phrase string) Tier {
	if len(phrase) < 6 {
		return Ambiguous
	}
	if lx.names.get(Hash([]byte(phrase))) != 0 || !strings.Contains(phrase, " ") && len(phrase) < 7 {
		return Ambiguous
	}
	if first, _, two := strings.Cut(phrase, " "); two && Name(lx.names.get(Hash([]byte(first))))&Everyday != 0 {
		return Ambiguous
	}
	return Specific
}

var topicStems = []struct {
	stem  string
	topic Topic
}{
	{"hiv", HIV}, {"immunodeficiency virus", HIV}, {"syphil", HIV}, {"gonorr", HIV}, {"chlamyd", HIV}, {"herpes genit", HIV},
	{"alcohol", Substance}, {"cocaine", Substance}, {"opioid", Substance}, {"opiate", Substance}, {"heroin", Substance}, {"drug depend", Substance}, {"drug abuse", Substance}, {"substance", Substance}, {"amphetamine", Substance}, {"cannabis", Substance},
	{"depress", Mental}, {"anxiety", Mental}, {"schizo", Mental}, {"bipolar", Mental}, {"psycho", Mental}, {"phobia", Mental}, {"anorexia nervosa", Mental}, {"bulimia", Mental}, {"mental", Mental}, {"personality disorder", Mental}, {"suicid", Mental},
	{"pregnan", Reproductive}, {"infertil", Reproductive}, {"abortion", Reproductive}, {"uter", Reproductive}, {"ovarian", Reproductive}, {"placent", Reproductive}, {"eclampsia", Reproductive}, {"estradiol", Reproductive}, {"gestrel", Reproductive},
	{"hereditary", Genetic}, {"genetic", Genetic}, {"familial", Genetic}, {"buprenorphine", Substance}, {"naltrexone", Substance}, {"methadone", Substance},
}

// topicOf finds the sensitive subject of a list entry by the stems its words
// begin with: nonalcoholic is not alcoholic.
func topicOf(phrase string) Topic {
	for _, s := range topicStems {
		if strings.Contains(" "+phrase, " "+s.stem) {
			return s.topic
		}
	}
	return NoTopic
}

// ICD reports whether code, in lower case without its dot, is a billable
// ICD-10-CM code.
func (lx *Lexicon) ICD(code []byte) bool { return lx.icd.get(Hash(code)) != 0 }

// Name returns what the word with hash h may be in a name.
func (lx *Lexicon) Name(h uint64) Name { return Name(lx.names.get(h)) }

// Common reports a word that ordinary mail is full of, or a person's name, and
// that the shipped lists do not know as a sure health term.
func (lx *Lexicon) Common(word string) bool {
	key, ok := phraseKey(word)
	if !ok {
		return false
	}
	if t := lx.terms[lx.trie.get(key)]; t.Tier == Specific || t.Tier == Caring {
		return false
	} else if t.Tier != NoTier || t.Cues != 0 || t.Kind == Figure {
		return true
	}
	return lx.Name(Hash([]byte(strings.ToLower(word)))) != 0
}

// Stems returns the stems of the words of a phrase, as the scanner sees them.
func Stems(phrase string) []uint64 { return phraseWords(phrase) }

// Step walks one word down the phrases: from the state of the words before
// (0 at the start) to the next state. term is nonzero where a phrase ends;
// on says whether longer phrases go on from here.
func (lx *Lexicon) Step(state, word uint64) (next uint64, term int, on bool) {
	return lx.trie.step(state, word)
}

// First reports whether any phrase begins with the word: a quick filter.
func (lx *Lexicon) First(word uint64) bool { return lx.trie.first(word) }

// Term returns the term that [Lexicon.Step] numbered.
func (lx *Lexicon) Term(n int) *Term { return &lx.terms[n] }
