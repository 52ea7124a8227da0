package policy_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/configs"
	. "github.com/phigate/phigate/policy"
)

var today = time.Date(2026, 10, 1, 9, 0, 0, 0, time.UTC)

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, problems := Parse("policy.yaml", []byte(text), today)
	if problems != nil {
		t.Fatal(problems)
	}
	return p
}

func shipped(t testing.TB) *Policy { return parse(t, string(configs.Policy)) }

// without returns the shipped file with one rule taken out.
func without(t testing.TB, rule string) string {
	t.Helper()
	return edit(t, rule, func(string) string { return "" })
}

// edit returns the shipped file with the block of one rule changed.
func edit(t testing.TB, rule string, change func(string) string) string {
	t.Helper()
	text := string(configs.Policy)
	from := strings.Index(text, "  - name: "+rule+"\n")
	if from < 0 {
		t.Fatalf("no rule %s", rule)
	}
	to := from + strings.Index(text[from:], "\n\n") + 1
	return text[:from] + change(text[from:to]) + text[to:]
}

func replace(t testing.TB, old, new string) string {
	t.Helper()
	if !strings.Contains(string(configs.Policy), old) {
		t.Fatalf("%q is not in the shipped policy", old)
	}
	return strings.Replace(string(configs.Policy), old, new, 1)
}

func TestShippedFilesAreWhole(t *testing.T) {
	p := shipped(t)
	if got := p.Unreachable(); got != nil {
		t.Errorf("unreachable rules: %v", got)
	}
	if got := p.Undecided(3); len(got) > 0 {
		t.Errorf("undecided: %v", got)
	}
	cases, problems := ParseTests("policy_test.yaml", configs.PolicyTest)
	if problems != nil {
		t.Fatal(problems)
	}
	met := map[string]bool{}
	for _, r := range p.RunTests(cases, nil) {
		if r.Failed != "" {
			t.Errorf("%s: %s: %s", r.Case.Where, r.Case.Name, r.Failed)
		}
		met[r.Got.Rule] = true
	}
	if len(met) != 29 {
		t.Errorf("the cases meet %d ends of the table, want 28 rules and none", len(met))
	}
}

// With WRITE_SCHEMAS=1 the test writes the schemas instead of comparing them.
func TestSchemasAreCurrent(t *testing.T) {
	for _, c := range []struct {
		name   string
		have   []byte
		schema func() ([]byte, error)
	}{
		{"policy.schema.json", configs.PolicySchema, FileSchema},
		{"policy_test.schema.json", configs.PolicyTestSchema, TestSchema},
	} {
		want, err := c.schema()
		if err != nil {
			t.Fatal(err)
		}
		if os.Getenv("WRITE_SCHEMAS") != "" {
			if err := os.WriteFile(filepath.Join("..", "configs", c.name), want, 0o644); err != nil {
				t.Fatal(err)
			}
		} else if !bytes.Equal(c.have, want) {
			t.Errorf("configs/%s is not current: WRITE_SCHEMAS=1 go test ./policy", c.name)
		}
	}
}

// TestBadFiles reads every file of testdata/bad; its lines "#! message" are the
// mistakes that must be found, all of them and no other.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(data)) {
				if message, ok := strings.CutPrefix(line, "#! "); ok {
					want = append(want, strings.TrimSpace(message))
				}
			}
			p, problems := Parse("policy.yaml", data, today)
			if got := strings.Split(problems.Error(), "\n"); p != nil || !slices.Equal(got, want) {
				t.Errorf("got:\n#! %s\nwant:\n#! %s", strings.Join(got, "\n#! "), strings.Join(want, "\n#! "))
			}
		})
	}
}

func TestParsedSettings(t *testing.T) {
	p := parse(t, replace(t, "on_refusal: {default: hard}", "on_refusal: {default: hold, HG-C101: discard_with_report}"))
	o := p.Organization()
	if o.Name != "Valley Clinic" || o.Kind != SenderCoveredEntity || !slices.Equal(o.Domains, []string{"valleyclinic.example"}) {
		t.Errorf("organization %+v", o)
	}
	if d := p.Detection(); d != (Detection{Medium: 0.60, High: 0.85, CareRelationship: true}) {
		t.Errorf("detection %+v", d)
	}
	floor, within, otherwise := p.Floor(FloorSensitive)
	if floor != (Floor{AssurancePolicy, StrengthSP80052r2}) || within != time.Hour || otherwise != Portal {
		t.Errorf("sensitive: %v %v %v", floor, within, otherwise)
	}
	if floor, _, otherwise := p.Floor(FloorPlain); floor != Open || otherwise != Bounce {
		t.Errorf("plain: %v %v", floor, otherwise)
	}
	if floor, _, _ := p.Floor(99); !floor.Met(AssuranceDANE, StrengthFIPS) || floor.Met(AssurancePolicy, StrengthFIPS) {
		t.Errorf("an unknown floor is %v, want the strictest", floor)
	}
	s, ok := p.SenderByLogin("mailer-a")
	if !ok || s.Partner != "acme-mailer" || s.Class != ClassMarketing || s.Remuneration != RemunerationNone {
		t.Errorf("sender %+v", s)
	}
	if s.Refusal("HG-C101") != RefuseDiscard || s.Refusal("HG-K101") != RefuseHold || (Sender{}).Refusal("HG-K101") != RefuseHard {
		t.Error("on_refusal is not by code, then default, then hard")
	}
	if at := p.SendersAt(netip.MustParseAddr("::ffff:192.0.2.9")); len(at) != 1 || at[0].Name != "mailer-a" {
		t.Errorf("senders at 192.0.2.9: %v", at)
	}
	if at := p.SendersAt(netip.MustParseAddr("198.51.100.1")); at != nil {
		t.Errorf("senders elsewhere: %v", at)
	}
	if _, ok := p.SenderByLogin(""); ok {
		t.Error("an empty login is somebody")
	}
	if len(p.Hash()) != 64 || p.Hash() == shipped(t).Hash() {
		t.Error("the hash does not tell files apart")
	}
}

func TestSenderMayUse(t *testing.T) {
	s := Sender{From: []string{"*@clinic.example", "one@other.example"}}
	for a, want := range map[Address]bool{
		"news@clinic.example": true, "News@Clinic.EXAMPLE": true, "one@other.example": true,
		"two@other.example": false, "news@sub.clinic.example": false, "news@clinic.example.evil.test": false,
		"": false, "@clinic.example": false, "clinic.example": false, "*": false,
		"evil@evil.test@clinic.example": true, // the last @ separates (RFC 5321 §4.1.2 quotes the others)
	} {
		if got := s.MayUse(a); got != want {
			t.Errorf("MayUse(%s) = %v", a.Clear(), got)
		}
	}
}

func TestZeroPolicyHolds(t *testing.T) {
	if v := new(Policy).Decide(Facts{}); v.Action != Hold || v.Code != "HG-H600" || v.Rule != "" {
		t.Errorf("got %s", v.Line())
	}
	f := mild()
	f.Class = 99
	if v := shipped(t).Decide(f); v.Action != Hold {
		t.Errorf("a value that no enum has: %s", v.Line())
	}
}

// mild are facts that the shipped table delivers as plain mail.
func mild() Facts {
	return Facts{
		Records: RecordsOK, SenderClass: SenderNonHealth, BAA: BAASelf, Class: ClassTransactional, Audience: AudiencePublic,
		Remuneration: RemunerationNone, Promotion: PromotionNo, Recipient: RecipientIndividual, Channel: ChannelOpen,
		OptedOut: OptedOutNo, Address: AddressConfirmed, Consent: ConsentNone, PHI: PHINone, Topic: TopicGeneral,
		Scan: ScanComplete, Form: FormOK, Subject: SubjectClean, Trackers: TrackersOK,
	}
}

func TestSettleTakesTheElse(t *testing.T) {
	p := shipped(t)
	bouncing := parse(t, replace(t, "within: 1h, otherwise: portal}\n  sensitive", "within: 1h, otherwise: bounce}\n  sensitive"))
	holding := parse(t, replace(t, "within: 1h, otherwise: portal}\n  sensitive", "within: 1h, otherwise: hold}\n  sensitive"))
	for _, c := range []struct {
		p         *Policy
		phi       PHI
		topic     Topic
		assurance Assurance
		action    Action
		code      Code
	}{
		{p, PHIHigh, TopicGeneral, AssuranceUnknown, Deliver, "HG-D703"},
		{p, PHIHigh, TopicGeneral, AssuranceNone, Portal, "HG-L703"},
		{p, PHIHigh, TopicGeneral, AssuranceEncrypted, Portal, "HG-L703"},
		{p, PHIHigh, TopicGeneral, AssuranceVerified, Deliver, "HG-D703"},
		{p, PHIHigh, TopicSensitive, AssuranceVerified, Portal, "HG-L702"},
		{p, PHIHigh, TopicSensitive, AssurancePolicy, Deliver, "HG-D702"},
		{p, PHINone, TopicGeneral, AssuranceNone, Deliver, "HG-D704"},
		{bouncing, PHIHigh, TopicGeneral, AssuranceNone, Bounce, "HG-E703"},
		{holding, PHIHigh, TopicGeneral, AssuranceNone, Hold, "HG-E703"},
	} {
		f := mild()
		f.PHI, f.Topic, f.Assurance = c.phi, c.topic, c.assurance
		if v := c.p.Settle(c.p.Decide(f), f); v.Action != c.action || v.Code != c.code {
			t.Errorf("%v %v %v: got %s", c.phi, c.topic, c.assurance, v.Line())
		}
	}
}

const unencrypted = `  - name: access-unencrypted
    when: {class: [access_request], unencrypted: [accepted]}
    do: deliver
    floor: plain
    code: HG-D701
    accept_risk: {by: "J. Doe, privacy officer", reason: "patients ask for it", until: 2026-12-31}

`

// withException is the shipped policy with its row 26 switched on.
func withException(t testing.TB) string {
	return edit(t, "sensitive", func(s string) string { return unencrypted + s })
}

func TestAcceptedRiskLapses(t *testing.T) {
	p := parse(t, withException(t))
	f := mild()
	f.Class, f.PHI, f.Unencrypted = ClassAccessRequest, PHIHigh, UnencryptedAccepted
	for now, rule := range map[time.Time]string{
		{}: "access-unencrypted",
		time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC): "access-unencrypted",
		time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC):      "phi",
	} {
		f.Now = now
		tr := p.Trace(f)
		if p.Decide(f).Rule != rule || tr.Verdict.Rule != rule || (tr.Risk != nil) != (rule == "access-unencrypted") {
			t.Errorf("at %v: rule %q, risk %v", now, tr.Verdict.Rule, tr.Risk)
		}
	}
	_, problems := Parse("policy.yaml", []byte(withException(t)), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
	if len(problems) != 1 || !strings.Contains(problems.Error(), "until: the exception has lapsed") {
		t.Errorf("a day late: %v", problems)
	}
}

func TestTraceTellsWhatNearlyDecided(t *testing.T) {
	p := shipped(t)
	f := mild()
	f.Class, f.PHI, f.Promotion = ClassGeneralCommercial, PHILow, PromotionYes
	tr := p.Trace(f)
	if want := []Passed{{"commercial-low-signal", "HG-H601", Warn}}; !slices.Equal(tr.Passed, want) {
		t.Errorf("passed over: %v", tr.Passed)
	}
	if want := []Near{{"opted-out", "HG-O201", "opted_out"}, {"footer", "HG-M401", "form"}}; !slices.Equal(tr.Nearly[:1], want[:1]) || !slices.Contains(tr.Nearly, want[1]) {
		t.Errorf("nearly: %v", tr.Nearly)
	}
	if tr.Verdict != p.Decide(f) {
		t.Error("Trace and Decide differ")
	}
}

func TestHoldsShowsAllThatAReleasePassesOver(t *testing.T) {
	f := mild()
	f.PHI, f.Scan, f.Recipient, f.Released = PHIHigh, ScanUnscannable, RecipientThirdParty, ReleasedYes
	var codes []Code
	for _, v := range shipped(t).Holds(f) {
		codes = append(codes, v.Code)
	}
	if want := []Code{"HG-H603", "HG-H605"}; !slices.Equal(codes, want) {
		t.Errorf("got %v, want %v", codes, want)
	}
}

func BenchmarkDecide(b *testing.B) {
	p, f := shipped(b), mild()
	b.ReportAllocs()
	for b.Loop() {
		p.Decide(f)
	}
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		shipped(b)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(configs.Policy)
	f.Add([]byte("version: 1\norganization: {name: a, kind: plan, domains: [a.example]}\nrules: [{name: a, when: {}, do: hold, code: HG-H600}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, problems := Parse("policy.yaml", data, today)
		if (p == nil) != (len(problems) > 0) {
			t.Fatalf("policy %v with problems %v", p != nil, problems)
		}
		if p != nil && p.Trace(mild()).Verdict != p.Decide(mild()) {
			t.Error("Trace and Decide differ")
		}
	})
}
