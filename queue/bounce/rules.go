package bounce

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/phigate/phigate/internal/yamlfile"
)

//go:embed rules.yaml
var shipped []byte

// Shipped are the rules of this release.
var Shipped = sync.OnceValue(func() *Rules {
	rs, problems := ParseRules("rules.yaml", shipped)
	if err := problems.Err(); err != nil {
		panic("embedded rules.yaml: " + err.Error()) // a build error, found by any test
	}
	return rs
})

// Rules tell what replies are about. They never change.
type Rules struct{ rules []rule }

// rule matches a reply by its codes and its words; nil matches any.
type rule struct {
	id          string
	class       Class
	codes, text *regexp.Regexp
}

func (r rule) matches(codes, words string) bool {
	return (r.codes == nil || r.codes.MatchString(codes)) && (r.text == nil || r.text.MatchString(words))
}

// document is rules.yaml as written.
type document struct {
	Version int       `yaml:"version,required"`
	Rules   []ruleDoc `yaml:"rules,required"`
}

type ruleDoc struct {
	ID    string   `yaml:"id,required"`
	Class Class    `yaml:"class,required"`
	Match string   `yaml:"match"` // regular expression on the codes, such as ^550 5\.1\.1$
	Text  []string `yaml:"text"`  // regular expressions on the words, in lower case; any of them
}

// Words are the values of a class in rules.yaml.
func (Class) Words() []string {
	var out []string
	for _, c := range Classes() {
		out = append(out, string(c))
	}
	return out
}

func (c *Class) UnmarshalText(text []byte) error {
	if !slices.Contains(Classes(), Class(text)) {
		return fmt.Errorf("unknown value, use one of %s", strings.Join(c.Words(), ", "))
	}
	*c = Class(text)
	return nil
}

// ParseRules reads a rules.yaml with all its mistakes at once; name is how
// messages call the file. With a mistake there are no Rules.
func ParseRules(name string, data []byte) (*Rules, yamlfile.Problems) {
	var doc document
	file, problems := yamlfile.Decode(name, data, &doc)
	r := &reader{file: file, problems: problems, seen: map[string]bool{}}
	if doc.Version != 1 && file.Has("version") {
		r.bad("version", "version: unknown format", "write 1")
	}
	rs := &Rules{}
	for i, d := range doc.Rules {
		rs.rules = append(rs.rules, r.rule(fmt.Sprintf("rules[%d]", i), d))
	}
	if len(r.problems) > 0 {
		return nil, r.problems.Sorted()
	}
	return rs, nil
}

// reader turns the document into rules and collects what makes no sense.
type reader struct {
	file     *yamlfile.File
	problems yamlfile.Problems
	seen     map[string]bool
}

func (r *reader) bad(path, what, hint string) {
	if r.file.Sound(path) {
		r.problems = append(r.problems, r.file.Problem(path, what, hint))
	}
}

var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

func (r *reader) rule(path string, d ruleDoc) rule {
	if !idForm.MatchString(d.ID) && r.file.Has(path+".id") {
		r.bad(path+".id", "id: not a token", "use a-z, 0-9 and -, at most 64 characters")
	}
	if r.seen[d.ID] {
		r.bad(path+".id", "id: used before", "give each its own")
	}
	r.seen[d.ID] = true
	out := rule{id: d.ID, class: d.Class}
	if d.Match != "" {
		out.codes = r.pattern(path+".match", d.Match)
	}
	for i, text := range d.Text {
		r.pattern(fmt.Sprintf("%s.text[%d]", path, i), text)
	}
	if len(d.Text) > 0 {
		out.text, _ = regexp.Compile("(?:" + strings.Join(d.Text, ")|(?:") + ")")
	}
	if out.codes == nil && out.text == nil {
		r.bad(path, "rule: matches everything", "give it match, text or both")
	}
	return out
}

func (r *reader) pattern(path, text string) *regexp.Regexp {
	p, err := regexp.Compile(text)
	if err != nil {
		r.bad(path, "not a regular expression", "see the syntax of RE2; write it in single quotes")
	}
	return p
}
