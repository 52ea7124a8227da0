package yamlfile_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/yamlfile"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

type colour string

func (colour) Words() []string { return []string{"red", "green"} }
func (c *colour) UnmarshalText(b []byte) error {
	if slices.Contains(c.Words(), string(b)) {
		*c = colour(b)
		return nil
	}
	return errors.New("unknown value, use one of red, green")
}

type set struct {
	List []colour
	Not  []colour `yaml:"not,required"`
}

func (s *set) Shorthand() any { return &s.List }

type sample struct {
	Version  int               `yaml:"version,required" doc:"Always 1."`
	Name     string            `yaml:"name"`
	On       bool              `yaml:"on"`
	Ratio    float64           `yaml:"ratio"`
	Wait     yamlfile.Duration `yaml:"wait"`
	Max      yamlfile.Size     `yaml:"max"`
	Networks []netip.Prefix    `yaml:"networks"`
	Colours  set               `yaml:"colours"`
	Nested   *nested           `yaml:"nested"`
	List     []nested          `yaml:"list"`
	Table    map[string]colour `yaml:"table"`
	Ignored  func()
}

type nested struct {
	Port uint16 `yaml:"port,required"`
	Host string `yaml:"host"`
}

const good = `# comment
version: 1
name: "no"
on: true
ratio: 1
wait: 1h30m
max: 25MiB
networks: [192.0.2.0/24, "2001:db8::/32"]
colours: {not: [red]}
nested: {port: 25, host: mx.example}
list:
  - port: 1
  - {port: 2}
table: {HG-C101: red}
`

func TestDecodeReadsEveryKind(t *testing.T) {
	var s sample
	file, problems := yamlfile.Decode("s.yaml", []byte(good), &s)
	if problems != nil {
		t.Fatal(problems)
	}
	if s.Version != 1 || s.Name != "no" || !s.On || s.Ratio != 1 ||
		time.Duration(s.Wait) != 90*time.Minute || s.Max != 25<<20 ||
		len(s.Networks) != 2 || s.Networks[0] != netip.MustParsePrefix("192.0.2.0/24") ||
		!slices.Equal(s.Colours.Not, []colour{"red"}) || s.Nested.Port != 25 || s.Nested.Host != "mx.example" ||
		len(s.List) != 2 || s.List[1].Port != 2 || s.Table["HG-C101"] != "red" {
		t.Errorf("got %+v, nested %+v", s, s.Nested)
	}
	for path, want := range map[string][2]int{
		"version": {2, 10}, "colours.not[0]": {9, 17}, "list[0]": {12, 5}, "list[1].port": {13, 12},
		"list[1].host": {13, 5}, "table.HG-C101": {14, 18}, "nowhere": {2, 1}, "": {2, 1},
	} {
		if line, column := file.At(path); line != want[0] || column != want[1] {
			t.Errorf("At(%q) = %d:%d, want %d:%d", path, line, column, want[0], want[1])
		}
	}
}

func TestShorthandAndDefaults(t *testing.T) {
	s := sample{Name: "default", Wait: yamlfile.Duration(time.Second)}
	if _, problems := yamlfile.Decode("s.yaml", []byte("version: 1\ncolours: [green, red]\n"), &s); problems != nil {
		t.Fatal(problems)
	}
	if s.Name != "default" || time.Duration(s.Wait) != time.Second || len(s.Colours.List) != 2 {
		t.Errorf("got %+v", s)
	}
}

func TestDecodeNamesEveryMistake(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"unknown key", "version: 1\nnmae: x\n", `2:1: unknown key "nmae"; did you mean "name"?`},
		{"far key", "version: 1\nnested: {port: 1, zzzz: x}\n", `2:19: unknown key "zzzz"; use one of port, host`},
		{"repeated key", "version: 1\nname: a\nname: b\n", `3:1: key "name" is repeated; remove one, the first is on line 2`},
		{"missing key", "name: a\n", `1:1: key "version" is missing; add a whole number`},
		{"missing in a list", "version: 1\nlist:\n  - host: a\n", `3:5: key "port" is missing; add a whole number`},
		{"no value", "version: 1\nname:\n", `2:7: name: no value; write text or remove it`},
		{"null", "version: 1\nnetworks: [~]\n", `2:12: networks: no value; write a network such as 192.0.2.0/24 or remove it`},
		{"number for text", "version: 1\nname: 12\n", `2:7: name: want text; put it in quotes`},
		{"text for number", "version: \"1\"\n", `1:10: version: want a whole number`},
		{"fraction", "version: 1.5\n", `1:10: version: want a whole number`},
		{"octal", "version: 0x1\n", `1:10: version: want a whole number`},
		{"too large", "version: 1\nnested: {port: 65536}\n", `2:16: port: want a whole number`},
		{"not a bool", "version: 1\non: yes\n", `2:5: on: want true or false`},
		{"not a number", "version: 1\nratio: .nan\n", `2:8: ratio: want a number`},
		{"scalar for list", "version: 1\nnetworks: 192.0.2.0/24\n", `2:11: networks: want a list in [ ]`},
		{"list for scalar", "version: 1\nname: [a]\n", `2:7: name: want text`},
		{"list for block", "version: 1\nnested: [a]\n", `2:9: nested: want a block of keys`},
		{"list for table", "version: 1\ntable: [a]\n", `2:8: table: want a block of keys`},
		{"scalar for shorthand", "version: 1\ncolours: red\n", `2:10: colours: want a list in [ ]`},
		{"duration", "version: 1\nwait: 90\n", `2:7: wait: duration without a unit, write s, m or h behind the number, such as 5m`},
		{"zero duration", "version: 1\nwait: 0\n", `2:7: wait: duration without a unit, write s, m or h behind the number, such as 5m`},
		{"bad duration", "version: 1\nwait: soon\n", `2:7: wait: not a duration, write it like 90s, 5m or 72h`},
		{"negative duration", "version: 1\nwait: -5m\n", `2:7: wait: duration below zero, write it like 90s, 5m or 72h`},
		{"size", "version: 1\nmax: 25\n", `2:6: max: size without a unit, write KiB, MiB or GiB behind the number, such as 25MiB`},
		{"large size", "version: 1\nmax: 99999999999TiB\n", `2:6: max: not a size, write a whole number and a unit, such as 25MiB`},
		{"network", "version: 1\nnetworks: [secret-value]\n", `2:12: networks: want a network such as 192.0.2.0/24`},
		{"enum", "version: 1\ncolours: [blue]\n", `2:11: colours: unknown value, use one of red, green`},
		{"enum in table", "version: 1\ntable: {a: [red]}\n", `2:12: a: want one of red, green`},
		{"anchor", "version: &a 1\n", `1:10: anchors (&) are not allowed; write the value out at each place`},
		{"alias", "version: 1\nname: *a\n", `2:7: aliases (*) are not allowed; write the value out`},
		{"merge key", "version: 1\n<<: {name: a}\n", `2:1: merge keys (<<) are not allowed; write the keys out`},
		{"tag", "version: !!int 1\n", `1:10: tags (!) are not allowed; remove the tag`},
		{"complex key", "version: 1\n? name\n: a\n", `2:1: a key that is not a plain word`},
		{"directive", "%YAML 1.2\n---\nversion: 1\n", `1:1: directives are not allowed; remove the line that starts with %`},
		{"two documents", "version: 1\n---\nversion: 2\n", `3:1: a second document; keep one document in the file, without --- lines`},
		{"empty", "# nothing\n", `1:1: the file is empty`},
		{"not a block", "hello\n", `1:1: want a block of keys`},
		{"latin-1", "version: 1\nname: \xe9\n", `2:7: not UTF-8 text`},
		{"control character", "version: 1\nname: \"a\x00\"\n", `2:9: a control character, remove it`},
		{"open bracket", "version: [1\n", `1:10: not readable as YAML: sequence end token ']' not found`},
		{"deep brackets", "version: " + strings.Repeat("[", 99), `1:42: nested more than 32 deep`},
		{"deep list", strings.Repeat("- ", 99), `1:65: nested more than 32 deep`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, problems := yamlfile.Decode("s.yaml", []byte(c.file), &sample{})
			if got := problems.Error(); got != "s.yaml:"+c.want {
				t.Errorf("got  %s\nwant s.yaml:%s", got, c.want)
			}
		})
	}
}

func TestDecodeDoesNotStopAtTheFirstMistake(t *testing.T) {
	file := "version: x\nnmae: a\nwait: 5\nlist: [{port: 1, port: 2}, {hots: a}]\n"
	f, problems := yamlfile.Decode("s.yaml", []byte(file), &sample{})
	var lines []int
	for _, p := range problems {
		lines = append(lines, p.Line)
	}
	if want := []int{1, 2, 3, 4, 4, 4}; !slices.Equal(lines, want) {
		t.Errorf("problems on lines %v, want %v:\n%v", lines, want, problems)
	}
	if f.Sound("list[1]") || f.Sound("") || !f.Sound("nested") {
		t.Error("Sound does not tell where the mistakes are")
	}
}

func TestMistakesNeverRepeatValues(t *testing.T) {
	const canary = "kX9secret"
	for _, file := range []string{"version: %", "wait: %", "max: %", "networks: [%]", "colours: [%]", "on: %", "ratio: %", "nested: %", "name: [%]", "name: '%", "name: \"%\\q\"", "name: {%"} {
		_, problems := yamlfile.Decode("s.yaml", []byte(strings.ReplaceAll(file, "%", canary)), &sample{})
		if problems == nil || strings.Contains(problems.Error(), canary) {
			t.Errorf("%s: got %v", file, problems)
		}
	}
}

func TestScalarsPrintAsTheyAreWritten(t *testing.T) {
	for _, text := range []string{"72h", "1h30m", "5m", "90s", "0s", "1h0m1s", "500ms"} {
		var d yamlfile.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.String() != text && text != "90s" {
			t.Errorf("%s: %v, %v", text, d, err)
		}
	}
	for text, bytes := range map[string]yamlfile.Size{"0B": 0, "1B": 1, "25MiB": 25 << 20, "8TiB": 8 << 40, "1000B": 1000} {
		var s yamlfile.Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != bytes || s.String() != text {
			t.Errorf("%s: %d, printed %v, %v", text, s, s, err)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"class", "consent", "opted_out", "HG-C101"}
	for s, want := range map[string]string{
		"clas": "class", "calss": "class", "Consent": "consent", "opted-out": "opted_out",
		"x": "", "": "", "HG-C110": "HG-C101", "something": "",
	} {
		if got := yamlfile.Nearest(s, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", s, got, want)
		}
	}
}

func TestSchemaAcceptsWhatDecodeAccepts(t *testing.T) {
	text, err := yamlfile.Schema(sample{}, "https://gateway.example/sample.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("sample.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("sample.json")
	if err != nil {
		t.Fatal(err)
	}
	for instance, ok := range map[string]bool{
		`{"version":1,"wait":"1h30m","max":"25MiB","colours":["red"],"nested":{"port":2},"table":{"x":"green"}}`: true,
		`{"version":1,"colours":{"not":["red"]}}`: true,
		`{"name":"x"}`:                        false,
		`{"version":1,"other":2}`:             false,
		`{"version":1,"wait":"90"}`:           false,
		`{"version":1,"max":"25"}`:            false,
		`{"version":1,"colours":["blue"]}`:    false,
		`{"version":1,"colours":{"no":[]}}`:   false,
		`{"version":1,"nested":{"host":"x"}}`: false,
	} {
		var v any
		if err := json.Unmarshal([]byte(instance), &v); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); (err == nil) != ok {
			t.Errorf("%s: %v", instance, err)
		}
	}
	if !strings.Contains(string(text), "Always 1.") {
		t.Error("the doc tag is not in the schema")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(good)
	f.Add("version: &a 1\n? [a]: *a\n<<: {}\n")
	f.Add("a: |\n  b\n- c\n--- !!x\n%")
	f.Fuzz(func(t *testing.T, data string) {
		var s sample
		file, problems := yamlfile.Decode("s.yaml", []byte(data), &s)
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.What == "" {
				t.Errorf("bad position or text: %+v", p)
			}
		}
		if problems == nil && !file.Has("version") {
			t.Errorf("accepted a file without a version: %q", data)
		}
	})
}
