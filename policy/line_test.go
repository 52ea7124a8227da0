package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	. "github.com/phigate/phigate/policy"
)

func TestFactsLine(t *testing.T) {
	const line = `{"class":"marketing","phi":"high","consent":"expired","baa":"active","channel":"open","opted_out":"no","records":"ok","scan":"complete"}`
	f, err := ParseFactsLine([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	want := Facts{Records: RecordsOK, BAA: BAAActive, Consent: ConsentExpired, Channel: ChannelOpen, OptedOut: OptedOutNo, Scan: ScanComplete}
	if f != want {
		t.Errorf("got %s", f.Line())
	}
	const verdict = `{"action":"reject","floor":"","else":"","code":"HG-C101","rule":"marketing-needs-authorization","reply":"550 5.7.1 HG-C101 no valid authorization"}`
	if got := string(shipped(t).Decide(f).Line()); got != verdict {
		t.Errorf("got  %s\nwant %s", got, verdict)
	}
	if f, err := ParseFactsLine([]byte(" { } ")); err != nil || f != (Facts{}) {
		t.Errorf("empty object: %s, %v", f.Line(), err)
	}
}

func TestVerdictLines(t *testing.T) {
	p := shipped(t)
	for _, c := range []struct {
		change func(*Facts)
		want   string
	}{
		{func(f *Facts) { f.PHI = PHIMedium },
			`{"action":"deliver","floor":"phi","else":"portal","code":"HG-D703","rule":"phi","reply":"250 2.0.0 accepted"}`},
		{func(f *Facts) { f.PHI, f.Topic = PHIMedium, TopicSensitive },
			`{"action":"deliver","floor":"sensitive","else":"portal","code":"HG-D702","rule":"sensitive","reply":"250 2.0.0 accepted"}`},
		{func(f *Facts) {},
			`{"action":"deliver","floor":"plain","else":"","code":"HG-D704","rule":"no-phi","reply":"250 2.0.0 accepted"}`},
		{func(f *Facts) { f.Channel = ChannelPortalOnly },
			`{"action":"portal","floor":"","else":"","code":"HG-L701","rule":"portal-only","reply":"250 2.0.0 accepted"}`},
		{func(f *Facts) { f.Scan = ScanUnscannable; f.SenderClass = SenderPlan },
			`{"action":"hold","floor":"","else":"","code":"HG-H603","rule":"unscannable","reply":"250 2.0.0 HG-H603 accepted, held for review"}`},
		{func(f *Facts) { f.Class, f.PHI = ClassGeneralCommercial, PHIHigh },
			`{"action":"hold","floor":"","else":"","code":"HG-H600","rule":"","reply":"250 2.0.0 HG-H600 accepted, held for review"}`},
		{func(f *Facts) { f.Records = RecordsUnavailable },
			`{"action":"defer","floor":"","else":"","code":"HG-S901","rule":"records-readable","reply":"451 4.3.0 HG-S901 policy data unavailable, retry"}`},
	} {
		f := mild()
		c.change(&f)
		if got := string(p.Decide(f).Line()); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	if got := (Verdict{}).Reply(); !strings.HasPrefix(got, "250 2.0.0") || (Verdict{}).Action != Hold {
		t.Errorf("zero verdict: %q", got)
	}
	if got := (Verdict{Action: Reject}).Reply(); !strings.HasPrefix(got, "451 ") {
		t.Errorf("a reject without a code must not be final: %q", got)
	}
}

func TestBadFactsLines(t *testing.T) {
	for line, want := range map[string]string{
		`{"clas":"marketing"}`:                   `unknown fact "clas"; did you mean "class"?`,
		`{"class":"marketing","class":"refill"}`: `fact "class" named twice`,
		`{"Class":"marketing"}`:                  `unknown fact "Class"; did you mean "class"?`,
		`{"class":"secret"}`:                     `class: unknown value, use one of marketing, psychotherapy, part2, general_commercial, fundraising, refill, treatment_ops, transactional, org_to_org, access_request`,
		`{"class":null}`:                         `class: not a string`,
		`{"phi":["high"]}`:                       `phi: not a string`,
		`{"phi":1}`:                              `phi: not a string`,
		`{"phi":""}`:                             `phi: unknown value, use one of high, medium, low, none`,
		`[]`:                                     `not a JSON object of facts`,
		`"phi"`:                                  `not a JSON object of facts`,
		`null`:                                   `not a JSON object of facts`,
		`{"phi":"high"`:                          `not a JSON object of facts`,
		`{"phi" "high"}`:                         `phi: not a string`,
		`{"phi":"high",}`:                        `not a JSON object of facts`,
		`{"phi":"high"} {}`:                      `text behind the JSON object`,
		`{"phi":"high"}x`:                        `text behind the JSON object`,
		"{\"phi\":\"\xff\"}":                     `not UTF-8 text`,
	} {
		_, err := ParseFactsLine([]byte(line))
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", line, err, want)
		}
	}
}

func TestReadFactsNamesTheBadLine(t *testing.T) {
	stream := "{\"records\":\"ok\"}\n\n   \n{\"records\":\"ok\"}\r\n{\"records\":\"on\"}\n{}\n"
	var got []string
	for f, err := range ReadFacts(strings.NewReader(stream)) {
		if err != nil {
			got = append(got, err.Error())
		} else {
			got = append(got, f.Records.String())
		}
	}
	if want := []string{"ok", "ok", "line 5: records: unknown value, use one of unavailable, ok"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	for _, err := range ReadFacts(strings.NewReader("{}\n" + strings.Repeat("x", 1<<20))) {
		if err != nil && !strings.HasPrefix(err.Error(), "line 2: ") {
			t.Errorf("a long line: %v", err)
		}
	}
}

func TestFactsLineRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 1000 {
		f := draw(r)
		if g, err := ParseFactsLine(f.Line()); err != nil || g != f {
			t.Fatalf("%s: %s, %v", f.Line(), g.Line(), err)
		}
	}
}

func FuzzParseFactsLine(f *testing.F) {
	f.Add([]byte(`{"class":"marketing","phi":"high"}`))
	f.Add([]byte(`{"class":"marketing","\u0063lass":"refill"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		facts, err := ParseFactsLine(line)
		if err != nil {
			return
		}
		if !json.Valid(line) {
			t.Errorf("accepted what is not JSON: %q", line)
		}
		if again, err := ParseFactsLine(facts.Line()); err != nil || again != facts {
			t.Errorf("%q does not come back", line)
		}
	})
}

func TestCatalogue(t *testing.T) {
	seen := map[Code]bool{}
	for _, e := range Catalogue() {
		if seen[e.Code] || e.Reason == "" || e.NextSender == "" || e.NextStaff == "" || e.Text == "" {
			t.Errorf("%s: twice, or something missing: %+v", e.Code, e)
		}
		seen[e.Code] = true
		if class := e.SMTP / 100; fmt.Sprint(class) != e.Enhanced[:1] {
			t.Errorf("%s: reply %d with status %s (RFC 2034 §4)", e.Code, e.SMTP, e.Enhanced)
		}
		if smtp, enhanced, text := Reply(e.Code); e.Reply() != fmt.Sprintf("%d %s %s", smtp, enhanced, text) {
			t.Errorf("%s: Reply and Catalogue differ", e.Code)
		}
		if e.SMTP >= 400 && !strings.HasPrefix(e.Text, string(e.Code)+" ") {
			t.Errorf("%s: a refusal names its code, got %q", e.Code, e.Text)
		}
	}
	for _, c := range []Code{"HG-R801", "HG-R802", "HG-R803", "HG-R810", "HG-R811", "HG-S901", "HG-S902", "HG-K101", "HG-K102", "HG-O201", "HG-B301", "HG-B302",
		"HG-C101", "HG-C102", "HG-C105", "HG-C106", "HG-F402", "HG-N501", "HG-M401", "HG-T404", "HG-U405", "HG-P403",
		"HG-H600", "HG-H601", "HG-H602", "HG-H603", "HG-H604", "HG-H605", "HG-D701", "HG-D702", "HG-D703", "HG-D704",
		"HG-L701", "HG-L702", "HG-L703", "HG-L704", "HG-L705", "HG-E600", "HG-E601", "HG-E602", "HG-E603", "HG-E604", "HG-E605", "HG-E702", "HG-E703", "HG-E704"} {
		if _, ok := Lookup(c); !ok {
			t.Errorf("%s is not in the catalogue", c)
		}
	}
	if smtp, _, _ := Reply("HG-X999"); smtp != 451 {
		t.Errorf("unknown code: %d, want 451", smtp)
	}
	for from, want := range map[Code]Code{"HG-H603": "HG-E603", "HG-D702": "HG-E702", "HG-L703": "HG-E703", "HG-D704": "HG-E704", "HG-K101": "HG-K101", "": ""} {
		if got := from.Expired(); got != want {
			t.Errorf("%s expires as %s, want %s", from, got, want)
		}
	}
}
