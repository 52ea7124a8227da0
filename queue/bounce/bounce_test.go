package bounce

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// labelled is one line of a corpus.
type labelled struct {
	class Class
	wire  string
	line  int
}

func corpus(t testing.TB, file string) []labelled {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var all []labelled
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		class, wire, ok := strings.Cut(line, "\t")
		var c Class
		if !ok || c.UnmarshalText([]byte(class)) != nil {
			t.Fatalf("%s:%d: not a class and a reply", file, i+1)
		}
		all = append(all, labelled{c, strings.ReplaceAll(wire, `\n`, "\n"), i + 1})
	}
	return all
}

// score counts a class: right, wrongly given, missed.
type score struct{ right, wrong, missed int }

func (s score) precision() float64 { return ratio(s.right, s.right+s.wrong) }
func (s score) recall() float64    { return ratio(s.right, s.right+s.missed) }

func ratio(n, of int) float64 {
	if of == 0 {
		return 1
	}
	return float64(n) / float64(of)
}

// judge classes every reply of a corpus and logs what came out wrong.
func judge(t *testing.T, replies []labelled) (scores map[Class]score, right int) {
	scores = map[Class]score{}
	for _, l := range replies {
		v := Shipped().Classify(Parse(l.wire))
		got, want := scores[v.Class], scores[l.class]
		if v.Class == l.class {
			got.right++
			right++
		} else {
			t.Logf("line %d: %s, want %s (rule %s)", l.line, v.Class, l.class, v.Rule)
			got.wrong++
			want.missed++
			scores[l.class] = want
		}
		scores[v.Class] = got
	}
	return scores, right
}

// The caps are what was reached; the test prints the figures. Nothing may ever
// be taken for a bad recipient that is none.
func TestCorpus(t *testing.T) {
	for _, c := range []struct {
		file                   string
		least                  int
		precision, recall, all float64 // of each class but unknown; of all together
	}{
		{"corpus.tsv", 400, 0.97, 0.95, 0.98},
		{"unseen.tsv", 50, 0.97, 0.85, 0.94},
	} {
		t.Run(c.file, func(t *testing.T) {
			replies := corpus(t, c.file)
			if len(replies) < c.least {
				t.Fatalf("%d replies", len(replies))
			}
			scores, right := judge(t, replies)
			for _, class := range Classes() {
				s := scores[class]
				t.Logf("%-14s precision %.3f recall %.3f of %d", class, s.precision(), s.recall(), s.right+s.missed)
				if class != Unknown && (s.precision() < c.precision || s.recall() < c.recall) {
					t.Errorf("%s: precision %.3f, recall %.3f", class, s.precision(), s.recall())
				}
			}
			t.Logf("all right: %.3f of %d", ratio(right, len(replies)), len(replies))
			if ratio(right, len(replies)) < c.all {
				t.Errorf("%d of %d right", right, len(replies))
			}
			if n := scores[RecipientBad].wrong; n > 0 {
				t.Errorf("%d good recipients would be suppressed", n)
			}
		})
	}
}

// Every class of RFC 3463 has a meaning of its own when the words say nothing.
func TestCodesAlone(t *testing.T) {
	for wire, want := range map[string]Class{
		"550 5.1.1": RecipientBad, "550 5.1.2": RecipientBad, "553 5.1.3": RecipientBad, "550 5.1.6": RecipientBad,
		"556 5.1.10": RecipientBad, "550 5.7.17": RecipientBad, "551": RecipientBad,
		"450 4.1.1": Temporary, "450 4.2.1": Temporary, "451": Temporary, "554 5.4.6": Temporary, "550 5.4.1": Temporary,
		"552 5.2.2": MailboxFull, "452 4.2.2": MailboxFull,
		"552 5.3.4": Content, "554 5.6.0": Content, "552 5.2.3": Content,
		"530 5.7.10": TLS, "454": TLS, "550 5.7.30": TLS,
		"550 5.7.1": Policy, "550 5.1.8": Policy, "535 5.7.8": Policy, "550 5.7.26": Policy,
		"550 5.7.28": OurReputation, "550 5.7.606": OurReputation,
		"550": Unknown, "554": Unknown, "553": Unknown, "550 5.1.0": Unknown, "": Unknown, "what": Unknown,
	} {
		if got := Shipped().Classify(Parse(wire)); got.Class != want {
			t.Errorf("%q: %s by %s, want %s", wire, got.Class, got.Rule, want)
		}
	}
}

// A report may give the status and nothing else (RFC 3464 §2.3.4).
func TestStatusOnly(t *testing.T) {
	for status, want := range map[string]Class{"5.1.1": RecipientBad, "4.1.1": Temporary, "5.2.2": MailboxFull, "5.0.0": Unknown} {
		if got := Shipped().Classify(Reply{Enhanced: status}); got.Class != want {
			t.Errorf("%s: %s, want %s", status, got.Class, want)
		}
	}
}

// A mailbox may be called anything.
func TestAddressesAreNotWords(t *testing.T) {
	for _, name := range []string{"spam", "mailbox.full", "spamhaus", "dmarc", "user-unknown", "starttls", `"over quota"`} {
		for _, form := range []string{"<%s@clinic.example>: refused", "%s@clinic.example refused", "(%s@clinic.example) refused"} {
			wire := "550 " + fmt.Sprintf(form, name)
			if strings.Contains(name, " ") && !strings.Contains(form, "<") {
				continue // a quoted name outside brackets is no address to anybody
			}
			if got := Shipped().Classify(Parse(wire)); got.Class != Unknown {
				t.Errorf("%s: %s by %s", wire, got.Class, got.Rule)
			}
		}
	}
}

func TestParse(t *testing.T) {
	for wire, want := range map[string]Reply{
		"550 5.1.1 no":                     {550, "5.1.1", "no"},
		"550-5.1.1 no\n550 5.1.1 such":     {550, "5.1.1", "no such"},
		"550 sorry, no mailbox (#5.1.1)":   {550, "5.1.1", "sorry, no mailbox (#5.1.1)"},
		"550 #5.1.0 Address rejected.":     {550, "5.1.0", "Address rejected."},
		"421 [192.0.2.1] 4.7.0 is no code": {421, "", "[192.0.2.1] 4.7.0 is no code"},
		"no reply":                         {0, "", "no reply"},
		"5.2.2 full":                       {0, "5.2.2", "full"},
		"250":                              {250, "", ""},
		"5500 no":                          {0, "", "5500 no"},
	} {
		got := Parse(wire)
		got.Text = strings.Join(strings.Fields(got.Text), " ")
		if got != want {
			t.Errorf("%q: code %d, enhanced %s, text %q", wire, got.Code, got.Enhanced, got.Text)
		}
	}
}

// What a server said may repeat an address or the mail: it never comes out.
func TestRepliesPrintCodes(t *testing.T) {
	r := Parse("550 5.1.1 <patient@clinic.example> canary")
	out := fmt.Sprintf("%v %+v %#v %s %q %d %x", r, r, r, r, r, r, r)
	j, err := json.Marshal(map[string]any{"r": r, "p": &r})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{out, string(j), fmt.Sprint([]Reply{r})} {
		if strings.Contains(s, "canary") || strings.Contains(s, "patient") || !strings.Contains(s, "550 5.1.1") {
			t.Errorf("prints %s", s)
		}
	}
}

func TestRulesWithMistakes(t *testing.T) {
	text := `version: 2
rules:
- {id: "A b", class: policy, match: '('}
- {id: twice, class: content, text: [x, '[']}
- {id: twice, class: nonsense, text: [x]}
- {id: all, class: tls}
`
	rules, problems := ParseRules("r.yaml", []byte(text))
	if rules != nil {
		t.Error("rules with mistakes came back")
	}
	got := problems.Err().Error()
	for _, want := range []string{"r.yaml:1:", "r.yaml:3:", "r.yaml:4:", "r.yaml:5:", "r.yaml:6:", "unknown format", "not a token",
		"not a regular expression", "used before", "unknown value", "matches everything"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

func FuzzClassify(f *testing.F) {
	for _, l := range corpus(f, "corpus.tsv")[:20] {
		f.Add(l.wire)
	}
	f.Add("(#5.1.1)(#5.1.1)\n550-5.1.1\n\x00<@>")
	known := map[Class]bool{}
	for _, c := range Classes() {
		known[c] = true
	}
	f.Fuzz(func(t *testing.T, wire string) {
		r := Parse(wire)
		v := Shipped().Classify(r)
		if !known[v.Class] {
			t.Errorf("class %q", v.Class)
		}
		if v.Class == RecipientBad && strings.HasPrefix(wire, "4") && r.Code/100 == 4 {
			t.Error("a temporary reply for good")
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	replies := corpus(b, "corpus.tsv")
	for i := 0; b.Loop(); i++ {
		Shipped().Classify(Parse(replies[i%len(replies)].wire))
	}
}
