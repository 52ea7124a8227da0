package phi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phigate/phigate/policy"
)

var clinic = Context{Recipient: "ann@mail.example", Declared: true}

func mailOf(subject, body string) []byte {
	return []byte("From: Valley Clinic <office@valleyclinic.example>\nTo: ann@mail.example\nSubject: " + subject + "\n\n" + body)
}

func doc(t testing.TB, body string) *Document {
	t.Helper()
	return scanner(t).Read(context.Background(), mailOf("Hello", body))
}

// TestRules gives every rule family a positive, and near misses that differ in
// one thing: a checksum, a label, a border.
func TestRules(t *testing.T) {
	for _, c := range []struct{ rule, hit, miss string }{
		{"ssn", "number 531-44-9087 on file", "number 000-44-9087 on file"},
		{"ssn", "number 531-44-9087 on file", "part 531-44-90871 in stock"},
		{"ssn-labelled", "SSN 531449087", "number 531449087"},
		{"itin", "ITIN: 912-70-1234", "ITIN: 912-66-1234"},
		{"mbi", "use 1EG4-TE5-MK73 please", "use 1EG4-TE5-MO73 please"},
		{"mbi", "use 1EG4TE5MK73 please", "use 0EG4TE5MK73 please"},
		{"mrn", "MRN 00418823", "order 00418823"},
		{"mrn", "chart #220194", "chart of 2019 sales"},
		{"dob-labelled", "DOB: 4/9/1954", "version 4/9/1954"},
		{"dob-labelled", "born on March 4, 1971", "born to run"},
		{"date-service", "seen on 2/11/2026 in clinic", "the fiscal year ends 2/11/2026"},
		{"card", "card 4539 1488 0343 6467", "card 4539 1488 0343 6468"},
		{"card", "card 4539148803436467", "card 4111111111111111"},
		{"bank-routing", "routing number 021000021", "routing number 021000022"},
		{"dea", "prescriber AB1234563", "prescriber AB1234564"},
		{"clia", "CLIA 05D0642827", "CLIA 0500642827"},
		{"vin", "vehicle 1HGCM82633A004352 now", "vehicle 1HGCM82633A004353 now"},
		{"phone", "reach him on 415-234-8821 tonight", "reach him on 800-234-8821 tonight"},
		{"fax", "fax: 415-234-8821", "phone: 415-234-8821"},
		{"email", "write to bo@mail.example soon", "write to bo at the office soon"},
		{"ip", "from 8.8.4.4 today", "version 8.8.4.4 today"},
		{"ip", "from 8.8.4.4 today", "from 10.8.4.4 today"},
		{"plan-id", "Member ID: EHP4420917", "Model: EHP4420917"},
		{"license", "driver's license D1234567", "license to operate"},
		{"address-street", "lives at 12 Elm Street now", "we sold 12 Elm Trees now"},
		{"geo-place", "he is from Fresno, CA originally", "he ran, OK then"},
		{"age-90", "a 93-year-old man", "a 63-year-old man"},
		{"name-labelled", "Patient: Finch, Harold", "Patient: ________"},
		{"name-dictionary", "with Gloria Bates there", "with Apple Watch there"},
		{"icd10", "code E11.9 noted", "code E11.Q noted"},
		{"icd10", "dx E119", "seat E119"},
		{"ndc", "took 0093-7214-01 daily", "took 0093-72145-01 daily"},
		{"loinc", "LOINC 4548-4", "LOINC 4548-5"},
		{"procedure-code", "CPT 99213", "ZIP 99213"},
		{"condition", "his pneumonia", "our pain points"},
		{"drug", "on metformin", "on mainframes"},
	} {
		for _, side := range []struct {
			text string
			want bool
		}{{c.hit, true}, {c.miss, false}} {
			got := false
			for _, f := range doc(t, "Note. "+side.text+".").Findings() {
				got = got || f.Rule == c.rule
			}
			if got != side.want {
				t.Errorf("%s in %q: %v", c.rule, side.text, got)
			}
		}
	}
}

func TestEveryRuleIsDescribed(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rules() {
		if r.ID == "" || r.Kind == "" || !strings.HasSuffix(r.About, ".") || seen[r.ID] {
			t.Errorf("rule %+v", r)
		}
		seen[r.ID] = true
	}
}

// TestSnippetsShowNoValue plants values and looks for them in all that is printed.
func TestSnippetsShowNoValue(t *testing.T) {
	values := []string{"531-44-9087", "Gloria", "Bates", "00418823", "gbates@mail.example", "415-234-8821", "sepsis", "4/9/1954"}
	d := doc(t, "Patient Gloria Bates, DOB 4/9/1954, SSN 531-44-9087, MRN 00418823, gbates@mail.example, 415-234-8821, has sepsis.")
	r := d.Judge(clinic)
	if r.Band != policy.PHIHigh {
		t.Errorf("band %v", r.Band)
	}
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	text := string(out) + fmt.Sprintf("%v %+v %s", d, d, d)
	for _, f := range r.Findings {
		text += fmt.Sprint(f)
	}
	for _, v := range values {
		if strings.Contains(text, v) {
			t.Errorf("%q is readable", v)
		}
	}
}

// TestOffsets checks that findings point at what they found, in bytes.
func TestOffsets(t *testing.T) {
	const body = "Señor café. Your A1C was 8.2; MRN 00418823."
	for _, f := range doc(t, body).Findings() {
		if f.Rule == "mrn" && (f.Part != "1" || body[f.Start:f.End] != "00418823") {
			t.Errorf("mrn at %q of part %s", body[f.Start:f.End], f.Part)
		}
	}
}

// TestContext holds what the recipient, the audience and the sender change.
func TestContext(t *testing.T) {
	public, patients, staff := policy.AudiencePublic, policy.AudiencePatients, policy.AudienceStaff
	yours := doc(t, "Hi Ann, your thyroid panel results are ready.")
	news := doc(t, "Our new address is 14 Oak Avenue.")
	for _, c := range []struct {
		name string
		d    *Document
		c    Context
		phi  bool
	}{
		{"one person", yours, clinic, true},
		{"role address", yours, Context{Recipient: "marketing@agency.example", Declared: true}, false},
		{"own domain", yours, Context{Recipient: "lee@valleyclinic.example", Declared: true}, true},
		{"staff of the own domain", yours, Context{Recipient: "lee@valleyclinic.example", Declared: true, Staff: true}, false},
		{"staff", yours, Context{Recipient: "lee@mail.example", Declared: true, Staff: true}, false},
		{"no health business", yours, Context{Recipient: "ann@mail.example", Declared: true, SenderClass: policy.SenderNonHealth}, false},
		{"nothing declared", news, clinic, false},
		{"public", news, Context{Recipient: "ann@mail.example", Declared: true, Audience: &public}, false},
		{"patients", news, Context{Recipient: "ann@mail.example", Declared: true, Audience: &patients}, true},
		{"patients of no health business", news, Context{Recipient: "ann@mail.example", Declared: true, Audience: &patients, SenderClass: policy.SenderNonHealth}, false},
		{"staff audience", news, Context{Recipient: "ann@mail.example", Declared: true, Audience: &staff}, false},
		{"patient segment", news, Context{Recipient: "ann@mail.example", Declared: true, Segment: "active-patients"}, true},
		{"condition segment", news, Context{Recipient: "ann@mail.example", Declared: true, Segment: "hypertension"}, true},
		{"open segment", news, Context{Recipient: "ann@mail.example", Declared: true, Segment: "newsletter"}, false},
	} {
		if got := c.d.Judge(c.c); (got.Band <= policy.PHIMedium) != c.phi {
			t.Errorf("%s: %v %.2f %+v %v", c.name, got.Band, got.Score, got.Relation, got.Negative)
		}
	}
}

func TestPublicAudienceDoesNotHideAFact(t *testing.T) {
	public := policy.AudiencePublic
	c := clinic
	c.Audience = &public
	for _, body := range []string{
		"Your appointment with Dr. Lee in oncology is Tuesday, March 3, 2026 at 10:30.",
		"Patient: Harold Finch, DOB 4/9/1954, diagnosed with leukemia.",
	} {
		if r := doc(t, body).Judge(c); r.Band > policy.PHIMedium {
			t.Errorf("%q: %v %.2f", body, r.Band, r.Score)
		}
	}
}

func TestCareRelationshipSwitch(t *testing.T) {
	off, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	raw := mailOf("You have a new test result", "A new test result is available in your portal. Log in to view it.")
	if r := scanner(t).Read(context.Background(), raw).Judge(clinic); r.Band != policy.PHIMedium {
		t.Errorf("on: %v %.2f", r.Band, r.Score)
	}
	if r := off.Read(context.Background(), raw).Judge(clinic); r.Band != policy.PHILow {
		t.Errorf("off: %v %.2f", r.Band, r.Score)
	}
}

func TestGates(t *testing.T) {
	rows := "email,a1c\n"
	for i := range 12 {
		rows += fmt.Sprintf("p%d@mail.example,%d.1\n", i, 5+i%4)
	}
	for name, raw := range map[string]string{
		"rows": "Content-Type: text/csv; name=a.csv\n\n" + rows,
		"hl7":  "Subject: x\n\nMSH|^~\\&|LAB|X\rPID|1||123||DOE^JANE\rOBX|1",
		"fhir": "Content-Type: application/json; name=a.json\n\n{\"resourceType\": \"Patient\", \"id\": \"1\"}",
		"mrn":  "Subject: x\n\nGloria Bates, MRN 00418823, please call.",
	} {
		r := scanner(t).Read(context.Background(), []byte("From: a@clinic.example\nTo: b@mail.example\n"+raw)).Judge(clinic)
		if r.Band != policy.PHIHigh {
			t.Errorf("%s: %v %.2f", name, r.Band, r.Score)
		}
	}
}

func TestHashedRecipient(t *testing.T) {
	sum := sha256.Sum256([]byte("ann@mail.example"))
	d := doc(t, "Segment for your diabetes: "+hex.EncodeToString(sum[:]))
	if r := d.Judge(clinic); r.Relation.By != "hashed recipient" && r.Band > policy.PHIMedium {
		t.Errorf("%+v", r.Relation)
	}
	if d.hashed("bob@mail.example") || !d.hashed("Ann@Mail.example") {
		t.Error("the hash is tied to the wrong address")
	}
}

func TestTopicAndSubject(t *testing.T) {
	s := scanner(t)
	hiv := s.Read(context.Background(), mailOf("Your HIV test", "")).Judge(clinic)
	if hiv.Band > policy.PHIMedium || hiv.Topic != policy.TopicSensitive || hiv.Subject != policy.SubjectPHI {
		t.Errorf("hiv subject: %+v", hiv)
	}
	plain := s.Read(context.Background(), mailOf("Hello", "Your knee surgery is on 3/4/2026 at 9:00.")).Judge(clinic)
	if plain.Band > policy.PHIMedium || plain.Topic != policy.TopicGeneral || plain.Subject != policy.SubjectClean {
		t.Errorf("knee: %+v", plain)
	}
	clinic.Segment = "hiv-program"
	declared := s.Read(context.Background(), mailOf("Hello", "Your knee surgery is on 3/4/2026 at 9:00.")).Judge(clinic)
	if declared.Topic != policy.TopicSensitive {
		t.Errorf("a sensitive segment with another text: %+v", declared)
	}
}

func TestFeatures(t *testing.T) {
	s := scanner(t)
	d := s.Read(context.Background(), mailOf("Flash sale: 30% off", "Shop now.\n12 Main St,\n Springfield, IL 62701.\nUnsubscribe: https://u.example/x"))
	if !d.Promotional() || !d.Unsubscribe() || !d.HasText("12 main st, springfield il 62701") || d.HasText("13 Main St") || len(d.Hosts()) != 1 {
		t.Errorf("promotional %v, unsubscribe %v, hosts %v", d.Promotional(), d.Unsubscribe(), d.Hosts())
	}
	if d := doc(t, "Your visit summary is attached."); d.Promotional() || d.Unsubscribe() {
		t.Error("a plain letter looks like bulk mail")
	}
	if !doc(t, "Last year we treated you for breast cancer. Please give.").FundraisingExceeded() || doc(t, "Help us fight cancer. Please give.").FundraisingExceeded() {
		t.Error("fundraising")
	}
	a, b := doc(t, "Hi Ann, your visit on 3/4/2026 is confirmed. Bring your card and arrive early please."), doc(t, "Hi Robert, your visit on 9/1/2026 is confirmed. Bring your card and arrive early please.")
	if a.SimHash() != b.SimHash() {
		t.Error("merge slots change the SimHash")
	}
}

func TestScanFact(t *testing.T) {
	s := scanner(t)
	for raw, want := range map[string]policy.Scan{
		"Subject: x\n\nhello there":                                          policy.ScanComplete,
		"Subject: x\n\n-----BEGIN PGP MESSAGE-----\n":                        policy.ScanUnscannable,
		"Content-Type: multipart/mixed; boundary=q\n\nhello there, unclosed": policy.ScanComplete,
	} {
		if r := s.Read(context.Background(), []byte(raw)).Judge(clinic); r.Scan != want {
			t.Errorf("%q: %v", raw, r.Scan)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if r := s.Read(ctx, []byte("Subject: x\n\nhello")).Judge(clinic); r.Scan != policy.ScanUnavailable {
		t.Errorf("cancelled: %v", r.Scan)
	}
}

func TestHouseTerms(t *testing.T) {
	terms, err := ReadTerms("terms.yaml", []byte("terms:\n  - {term: Project Sunrise, tier: S, sensitivity: substance}\n  - {term: migraine, tier: none}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Terms: terms, CareRelationship: true})
	if err != nil {
		t.Fatal(err)
	}
	judge := func(body string) Result {
		return s.Read(context.Background(), mailOf("Hello", body)).Judge(clinic)
	}
	if r := judge("Your Project Sunrise record has been updated."); r.Band > policy.PHIMedium || r.Topic != policy.TopicSensitive {
		t.Errorf("house term: %+v", r)
	}
	if r := judge("Your migraine cocktail recipe is here."); r.Band <= policy.PHIMedium {
		t.Errorf("allow-list: %+v", r)
	}
	_, err = ReadTerms("terms.yaml", []byte("terms:\n  - {term: x, tier: S}\n  - {term: gout, tier: Q}\n  - {trem: gout}\n"))
	if err == nil || strings.Count(err.Error(), "terms.yaml:") < 3 || strings.Contains(err.Error(), "gout") {
		t.Errorf("mistakes: %v", err)
	}
}

// TestHouseTermsInContext gives needs and unless both sides.
func TestHouseTermsInContext(t *testing.T) {
	terms, err := ReadTerms("terms.yaml", []byte("terms:\n  - {term: sunrise, tier: S, needs: [program, care group], unless: [yoga]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Terms: terms, CareRelationship: true})
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]bool{
		"Your Sunrise program record has been updated.":      true,
		"Your Sunrise care group record has been updated.":   true,
		"Your sunrise record has been updated.":              false,
		"Your Sunrise yoga program record has been updated.": false,
	} {
		d := s.Read(context.Background(), mailOf("Hello", body))
		got := false
		for _, f := range d.Findings() {
			got = got || f.Rule == "condition"
		}
		if got != want {
			t.Errorf("%q: %v", body, got)
		}
	}
}

// TestTermLinter refuses what would hold ordinary mail.
func TestTermLinter(t *testing.T) {
	for entry, refused := range map[string]bool{
		"{term: summer, tier: S}": true, "{term: maria, tier: S}": true, "{term: summer, tier: A}": false,
		"{term: summer, tier: S, needs: [camp]}": false, "{term: summer steps, tier: S}": false, "{term: gout, tier: S}": false,
		"{term: zolvexin, tier: S}": false, "{term: zolvexin, tier: S, needs: ['']}": true,
	} {
		_, err := ReadTerms("terms.yaml", []byte("terms:\n  - "+entry+"\n"))
		if (err != nil) != refused || err != nil && !strings.Contains(err.Error(), "terms.yaml:2:") {
			t.Errorf("%s: %v", entry, err)
		}
	}
}

// TestExplanation looks for planted values in the text shown, and for what
// would have changed the verdict.
func TestExplanation(t *testing.T) {
	d := doc(t, "Hi Gloria, your sepsis visit with MRN 00418823 is on 3/4/2026 at 9:00.")
	e := d.Explain(clinic)
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"Gloria", "sepsis", "00418823", "3/4/2026"} {
		if strings.Contains(string(out), v) {
			t.Errorf("%q is readable in %s", v, out)
		}
	}
	if len(e.Texts) != 1 || !strings.Contains(e.Texts[0].Text, "[condition xxxxxx]") || !strings.Contains(e.Texts[0].Text, "[mrn ########]") {
		t.Errorf("%s", out)
	}
	d = doc(t, "Your thyroid panel results are ready.")
	changed := map[string]bool{}
	for _, c := range d.Explain(clinic).Changes {
		changed[c.If] = c.PHI > policy.PHIMedium
	}
	if !changed["the recipient were staff"] || !changed["the sender were no health business"] || changed["the audience were patients"] {
		t.Errorf("changes %v", changed)
	}
}

// TestScannerIsShared runs readers side by side; the race detector watches.
func TestScannerIsShared(t *testing.T) {
	s := scanner(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				d := s.Read(context.Background(), mailOf("Hello", fmt.Sprintf("Your A1C was %d.2 on 3/%d/2026.", 5+i%4, i+1)))
				if r := d.Judge(clinic); r.Band > policy.PHIMedium || len(d.Findings()) == 0 {
					t.Errorf("%v %.2f", r.Band, r.Score)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzRead(f *testing.F) {
	for _, m := range readCorpus(f, "testdata/second.txt")[:8] {
		f.Add([]byte(m.raw))
	}
	f.Add([]byte("Subject: SSN 1\n\nMRN: , DOB Mar 31st\nname,dx\n\"a"))
	s := scanner(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := s.Read(context.Background(), raw)
		for _, u := range d.unscannable {
			if u.Part == "message" && u.Reason == "malformed" {
				t.Fatal("the reader panicked")
			}
		}
		r := d.Judge(clinic)
		if !(r.Score >= 0 && r.Score <= 1) {
			t.Fatalf("score %v", r.Score)
		}
		for _, f := range d.Findings() {
			if f.Start < 0 || f.End < f.Start || f.Score < 0 || f.Score > 1 {
				t.Fatalf("finding %+v", f)
			}
		}
	})
}

// TestTimeIsLinear feeds 256 KB of what each loop likes least; a quadratic
// one would take minutes.
func TestTimeIsLinear(t *testing.T) {
	s := scanner(t)
	for name, unit := range map[string]string{
		"phones": "call 415 234 8821 ", "labels": "MRN member id: account no ", "numbers": "12 34-5 6789 ", "mentions": "diabetes asthma E11.9 ", "names": "Gloria Bates ",
		"letters": "a b c d e f ", "tabs": "name\temail\tdx\n", "quotes": "> > > x\n", "plans": "member id EHP4420917 copay ", "your": "your your your ", "zones": "<div class=footer>x</div>", "tags": "<b><i><u>", "entities": "&amp;&#8203;", "merge": "{{ [[ << ",
		"emails": "a.a.a.a.a@", "dates": "Mar 3 DOB Mar ", "codes": "E11.9 ", "possessives": "Mia's Mia's ",
	} {
		start := time.Now()
		s.Read(context.Background(), []byte("Content-Type: text/"+map[bool]string{true: "html", false: "plain"}[unit[0] == '<' || unit[0] == '&']+"\n\n"+strings.Repeat(unit, 1<<18/len(unit)))).Judge(clinic)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s: %v", name, d)
		} else {
			t.Logf("%s: %v", name, d.Round(time.Millisecond))
		}
	}
}
