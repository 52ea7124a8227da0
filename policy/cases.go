package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/phigate/phigate/internal/yamlfile"
)

// Case is one test of a policy: what is given and what must come of it.
type Case struct {
	Name   string
	Sender string  // name of a sender of the policy, "" if none is given
	To     Address // "" if none is given
	Mail   string  // path of a message as the test writes it, "" if none
	Where  string  // "policy_test.yaml:4:5"

	facts  map[string]string // given facts by key
	expect expectation
}

type expectation struct {
	do, floor, code string
	rule            *string
}

// CaseResult is how a case came out.
type CaseResult struct {
	Case   Case
	Facts  Facts
	Got    Verdict
	Failed string // why it failed, "" if it passed
}

// Inspect returns the facts of a case with what is found in its mail: class,
// promotion, recipient, PHI, topic, scan, form, subject and trackers. It is
// handed the facts that sender and case give.
type Inspect func(c Case, f Facts) (Facts, error)

type casesDoc struct {
	Tests []caseDoc `yaml:"tests,required" doc:"Cases that must come out as expected before a policy takes effect."`
}

type caseDoc struct {
	Name   string    `yaml:"name,required" doc:"What the case shows, in a sentence."`
	Given  given     `yaml:"given,required" doc:"A sender, a recipient, a mail, and facts; what is left out is ordinary mail."`
	Expect expectDoc `yaml:"expect,required" doc:"The verdict; what is left out may be anything."`
}

type expectDoc struct {
	Do    word[Action]    `yaml:"do" doc:"What is done, after the predicted assurance is compared with the floor."`
	Floor word[FloorName] `yaml:"floor" doc:"The floor of a deliver."`
	Code  string          `yaml:"code" doc:"The reason code."`
	Rule  *string         `yaml:"rule" doc:"The name of the rule, \"\" for none."`
}

func (Action) words() names { return actionNames }

// given holds a sender, a recipient, a mail, and facts by their keys.
type given map[string]string

var givenOthers = []string{"sender", "to", "mail"}

func (given) JSONSchema() map[string]any {
	properties := map[string]any{}
	for _, key := range givenOthers {
		properties[key] = map[string]any{"type": "string"}
	}
	for _, f := range fields {
		properties[f.key] = map[string]any{"enum": f.names}
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

// TestSchema returns the JSON Schema of policy_test.yaml.
func TestSchema() ([]byte, error) {
	return yamlfile.Schema(casesDoc{}, "https://phigate.example/policy_test.schema.json")
}

// ParseTests reads policy_test.yaml; name is how messages call the file. It
// returns every mistake at once.
func ParseTests(name string, data []byte) ([]Case, yamlfile.Problems) {
	var doc casesDoc
	file, problems := yamlfile.Decode(name, data, &doc)
	r := &reader{file: file, problems: problems}
	out := make([]Case, len(doc.Tests))
	for i, d := range doc.Tests {
		path := fmt.Sprintf("tests[%d]", i)
		line, column := file.At(path)
		out[i] = Case{
			Name: d.Name, Sender: d.Given["sender"], To: Address(d.Given["to"]), Mail: d.Given["mail"],
			Where: fmt.Sprintf("%s:%d:%d", name, line, column),
			facts: r.given(path+".given", d.Given), expect: r.expect(path+".expect", d.Expect),
		}
	}
	if len(r.problems) > 0 {
		return nil, r.problems.Sorted()
	}
	return out, nil
}

func (r *reader) given(path string, g given) map[string]string {
	facts := map[string]string{}
	keys := append(slices.Clone(givenOthers), factKeys(fields)...)
	for key, s := range g {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		switch {
		case i >= 0:
			if _, err := fields[i].names.parse(s); err != nil {
				r.bad(path+"."+key, key+": "+err.Error(), "")
			}
			facts[key] = s
		case !slices.Contains(givenOthers, key):
			r.problems = append(r.problems, r.file.KeyProblem(path+"."+key, "given: unknown key", yamlfile.Suggest(key, keys)))
		}
	}
	return facts
}

func (r *reader) expect(path string, d expectDoc) expectation {
	e := expectation{code: d.Code, rule: d.Rule}
	if d.Do.set {
		e.do = d.Do.value.String()
	}
	if d.Floor.set {
		e.floor = d.Floor.value.String()
	}
	if e == (expectation{}) && r.file.Has(path) {
		r.bad(path, "expect: nothing to compare", "add do, code, rule or floor")
	}
	if _, known := byCode[Code(d.Code)]; d.Code != "" && !known {
		r.bad(path+".code", "code: unknown code", yamlfile.Suggest(d.Code, allCodes()))
	}
	return e
}

func allCodes() []string {
	var out []string
	for _, e := range catalogue {
		out = append(out, string(e.Code))
	}
	return out
}

// RunTests decides every case. What a case does not say is as its sender is set
// up, then as ordinary mail to the general public is: no finding, no consent
// record, a contract in force. inspect reads the mail of those cases that name
// one; with a nil inspect they fail.
func (p *Policy) RunTests(cases []Case, inspect Inspect) []CaseResult {
	out := make([]CaseResult, len(cases))
	for i, c := range cases {
		f, err := p.factsOf(c, inspect)
		out[i] = CaseResult{Case: c, Facts: f}
		if err != nil {
			out[i].Failed = err.Error()
			continue
		}
		out[i].Got = p.Settle(p.Decide(f), f)
		out[i].Failed = c.expect.compare(out[i].Got)
	}
	return out
}

// factsOf puts together the facts of a case; what the case says comes last.
func (p *Policy) factsOf(c Case, inspect Inspect) (Facts, error) {
	f := ordinary
	f.SenderClass, f.Now = p.organization.Kind, p.parsed
	if c.Sender != "" {
		s, ok := p.Sender(c.Sender)
		if !ok {
			return f, errors.New("the policy has no sender of this name")
		}
		f = s.describe(f)
	}
	if err := c.apply(&f); err != nil {
		return f, err
	}
	if c.Mail != "" {
		if inspect == nil {
			return f, errors.New("its mail cannot be read here")
		}
		found, err := inspect(c, f)
		if err != nil {
			return f, fmt.Errorf("its mail cannot be read: %w", err)
		}
		f = found
	}
	f = f.implied()
	return f, c.apply(&f)
}

// describe sets the facts that the sender's settings give. A contract is taken
// to be in force; whether it is stands in the registry.
func (s Sender) describe(f Facts) Facts {
	f.Class, f.Audience, f.Remuneration = s.Class, s.Audience, s.Remuneration
	switch s.Partner {
	case "":
		f.BAA = BAAMissing
	case "self":
		f.BAA = BAASelf
	default:
		f.BAA = BAAActive
	}
	return f
}

// implied raises the facts that others bring with them.
func (f Facts) implied() Facts {
	if f.Class.promotes() {
		f.Promotion = PromotionYes
	}
	if f.Class.discloses() || drawnFromPatients(f.Audience, f.SenderClass) {
		f.PHI = min(f.PHI, PHIMedium)
	}
	if f.Class == ClassPart2 || f.Class == ClassPsychotherapy {
		f.Topic = TopicSensitive
	}
	return f
}

func (c Case) apply(f *Facts) error {
	for key, s := range c.facts {
		if err := setFact(f, key, func() (string, error) { return s, nil }); err != nil {
			return err
		}
	}
	return nil
}

// compare says how a verdict differs from what is expected, "" if it does not.
func (e expectation) compare(got Verdict) string {
	var out []string
	differ := func(what, want, got string) {
		if want != "" && want != got {
			out = append(out, fmt.Sprintf("want %s %s, got %s", what, want, got))
		}
	}
	differ("do", e.do, got.Action.String())
	differ("floor", e.floor, got.floorText())
	differ("code", e.code, string(got.Code))
	if e.rule != nil && *e.rule != got.Rule {
		out = append(out, fmt.Sprintf("want rule %q, got %q", *e.rule, got.Rule))
	}
	return strings.Join(out, "; ")
}
