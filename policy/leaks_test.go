package policy_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	. "github.com/phigate/phigate/policy"
)

// leak states promise 9 a second time: why a verdict for these facts leaks, ""
// if it does not.
func leak(f Facts, v Verdict) string {
	smtp, page := v.Action == Deliver, v.Action == Portal
	phi := f.PHI == PHIMedium || f.PHI == PHIHigh
	valid, released := f.Consent == ConsentValid, f.Released == ReleasedYes
	switch {
	case !smtp && !page:
		return ""
	case f.Records == RecordsUnavailable:
		return "records"
	case f.Scan == ScanUnavailable, f.Scan == ScanUnscannable && !released:
		return "scan"
	case f.Channel == ChannelNoEmail, f.Channel == ChannelPortalOnly && smtp:
		return "channel"
	case f.Promotion == PromotionYes && f.OptedOut == OptedOutYes:
		return "opt-out"
	case !phi:
		return ""
	case f.BAA != BAAActive && f.BAA != BAASelf:
		return "baa"
	case f.Class == ClassMarketing && !valid, f.Class == ClassPsychotherapy && !valid:
		return "authorization"
	case f.Class == ClassPart2 && !valid && (f.Promotion == PromotionYes || f.Recipient != RecipientIndividual && f.Recipient != RecipientRepresentative):
		return "part2"
	case f.Class == ClassOrgToOrg && f.Recipient != RecipientOrgCovered:
		return "organization"
	case (f.Recipient == RecipientThirdParty || f.Recipient == RecipientOrgUncovered) && !valid && !released:
		return "third party"
	case smtp && v.Floor == FloorPlain, smtp && f.Topic == TopicSensitive && v.Floor != FloorSensitive:
		return "floor"
	case f.Class == ClassPsychotherapy && (!released || smtp):
		return "psychotherapy"
	}
	return ""
}

func leaks(t testing.TB, p *Policy) *Counterexample {
	t.Helper()
	c, err := p.Leaks(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c != nil && c.Rule != "" && leak(c.Facts, p.Decide(c.Facts)) == "" {
		t.Errorf("the counterexample is none: %v\n%s", c, c.Facts.Line())
	}
	return c
}

// Each protecting rule is taken out in turn: the leak must be found and named.
func TestLeaksFindsAMissingRule(t *testing.T) {
	for rule, want := range map[string]string{
		"records-readable":                  "rule no-phi sends mail while the records cannot be read (promise 3), for example: records unavailable",
		"no-email":                          "rule no-phi sends to a person who asked for no e-mail (45 CFR 164.522(b)), for example: channel no_email",
		"opted-out":                         "rule no-phi sends promotion to a person who opted out (15 USC 7704, 45 CFR 164.514(f)), for example: promotion yes, opted_out yes",
		"undeliverable":                     "",
		"scanner-up":                        "rule no-phi sends mail that was not scanned (promise 3), for example: scan unavailable",
		"sender-needs-baa":                  "rule phi sends health information of a sender without a contract in force (45 CFR 164.502(e), 164.504(e)), for example: baa no_transmit, phi medium",
		"psychotherapy-needs-authorization": "rule psychotherapy-portal sends psychotherapy notes without a valid authorization (45 CFR 164.508(a)(2)), for example: class psychotherapy, phi medium, released yes",
		"part2-third-party":                 "rule portal-only sends Part 2 records to others without a valid consent (42 CFR 2.31), for example: class part2, recipient org_covered, channel portal_only, phi medium",
		"part2-promotion":                   "rule portal-only sends promotion with Part 2 records without a valid consent (42 CFR 2.31), for example: class part2, promotion yes, channel portal_only, phi medium",
		"marketing-needs-authorization":     "rule phi sends marketing with health information without a valid authorization (45 CFR 164.508(a)(3)), for example: class marketing, phi medium",
		"authorization-covers-campaign":     "rule phi sends marketing with health information without a valid authorization (45 CFR 164.508(a)(3)), for example: class marketing, consent outside, phi medium",
		"organization-covered":              "rule phi sends health information to an organization that is not covered (45 CFR 164.502(e)), for example: class org_to_org, phi medium",
		"fundraising-data":                  "",
		"part2-notice":                      "",
		"footer":                            "",
		"trackers":                          "",
		"unscannable-other":                 "",
		"unscannable":                       "rule no-phi sends a part that could not be read, without a release (promise 3), for example: scan unscannable",
		"not-the-patient":                   "rule phi sends health information to someone else, without consent or release (45 CFR 164.502(a)), for example: recipient org_uncovered, phi medium",
		"address-disputed":                  "",
		"sensitive-unverified":              "",
		"psychotherapy-release":             "rule psychotherapy-portal sends psychotherapy notes without a release (45 CFR 164.508(a)(2)), for example: class psychotherapy, consent valid, phi medium",
		"psychotherapy-portal":              "",
		"portal-only":                       "rule no-phi sends by SMTP to a person who asked for the portal (45 CFR 164.522(b)), for example: channel portal_only",
		"subject-phi":                       "",
		"sensitive":                         "rule phi sends a sensitive topic below the floor sensitive (45 CFR 164.312(e), 42 CFR 2), for example: phi medium, topic sensitive",
		"phi":                               "",
		"commercial-low-signal":             "",
		"no-phi":                            "",
	} {
		t.Run(rule, func(t *testing.T) {
			got := ""
			if c := leaks(t, parse(t, without(t, rule))); c != nil {
				_, got, _ = strings.Cut(c.String(), ": ")
			}
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestLeaksFindsAWeakenedRule(t *testing.T) {
	swap := func(rule, old, new string) string {
		return edit(t, rule, func(s string) string {
			if !strings.Contains(s, old) {
				t.Fatalf("%q is not in rule %s", old, rule)
			}
			return strings.Replace(s, old, new, 1)
		})
	}
	for name, c := range map[string]struct{ file, want string }{
		"warn":             {swap("sender-needs-baa", "    code: HG-B301\n", "    code: HG-B301\n    mode: warn\n"), "without a contract"},
		"shadow":           {swap("no-email", "    code: HG-K101\n", "    code: HG-K101\n    mode: shadow\n"), "no e-mail"},
		"a value left out": {swap("sender-needs-baa", "no_transmit", "expired"), ""},
		"one value fewer":  {swap("sender-needs-baa", ", no_transmit", ""), "baa no_transmit"},
		"low floor":        {swap("phi", "floor: phi", "floor: plain"), "below the floor phi"},
		"low sensitive":    {swap("sensitive", "floor: sensitive", "floor: phi"), "below the floor sensitive"},
		"session notes":    {swap("psychotherapy-portal", "{class: [psychotherapy]}\n    do: portal\n    code: HG-L705", "{class: [psychotherapy], channel: [open]}\n    do: deliver\n    floor: sensitive\n    code: HG-D702"), "psychotherapy notes by SMTP"},
		"weak phi":         {replace(t, "{assurance: verified,", "{assurance: encrypted,"), ": this sends mail of floor phi over connections below verified"},
		"weak sensitive":   {replace(t, "{assurance: policy, ", "{assurance: verified, "), "this sends mail of floor sensitive over connections below policy"},
		"open phi":         {replace(t, "{assurance: verified, strength: sp800-52r2,", "{assurance: opportunistic,"), "below verified"},
		"exception":        {strings.Replace(withException(t), "    accept_risk", "    # accept_risk", 1), "rule access-unencrypted sends health information below the floor phi"},
		"accepted":         {withException(t), ""},
		// While the exception binds, it hides what is wrong below it.
		"behind an exception": {strings.Replace(withException(t), "    floor: phi\n", "    floor: plain\n", 1), "rule phi sends"},
	} {
		t.Run(name, func(t *testing.T) {
			p, problems := Parse("policy.yaml", []byte(c.file), today)
			if name == "a value left out" {
				if problems == nil || !strings.Contains(problems.Error(), "value named twice") {
					t.Errorf("got %v", problems)
				}
				return
			}
			if problems != nil {
				t.Fatal(problems)
			}
			got := ""
			if found := leaks(t, p); found != nil {
				got = found.String()
			}
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// What hides behind a rule with accept_risk must be safe when it lapses.
func TestLeaksLooksBehindTheEndOfAnException(t *testing.T) {
	file := edit(t, "phi", func(s string) string {
		exempt := strings.Replace(s, "name: phi", "name: phi-at-risk", 1) + "    accept_risk: {by: a, reason: b, until: 2026-12-31}\n"
		return exempt + strings.Replace(s, "floor: phi", "floor: plain", 1)
	})
	if c := leaks(t, parse(t, file)); c == nil || c.Rule != "phi" || !strings.HasSuffix(c.String(), "phi medium, once accept_risk has lapsed") {
		t.Errorf("got %v", c)
	}
}

// Random policies are searched by chance as well: where chance finds a leak, the
// proof must have found one; what the proof finds is checked by leaks itself.
func TestLeaksMissesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	found := 0
	for range 80 {
		file := randomPolicy(r)
		p := parse(t, file)
		c := leaks(t, p)
		for range 2000 {
			f := draw(r)
			if why := leak(f, p.Decide(f)); why != "" && c == nil {
				t.Fatalf("missed a leak (%s): %s\n%s", why, f.Line(), file)
			}
		}
		if c != nil {
			found++
		}
	}
	if found < 10 || found > 75 {
		t.Errorf("%d of 80 random policies leak: the test says little", found)
	}
}

// randomPolicy writes rules that refuse a few combinations and send the rest.
func randomPolicy(r *rand.Rand) string {
	conditions := []string{
		"records: [unavailable]", "channel: [no_email]", "scan: [unavailable]", `scan: [unscannable], released: ["no"]`, `promotion: ["yes"], opted_out: ["yes"]`,
		"phi: [medium, high], baa: {not: [active, self]}", "class: [marketing, psychotherapy, part2], consent: {not: [valid]}", "class: [org_to_org], recipient: {not: [org_covered]}",
		"recipient: [third_party, org_uncovered], consent: {not: [valid]}", "channel: [portal_only]", "class: [psychotherapy]", "phi: [high]", "topic: [sensitive]",
	}
	var b strings.Builder
	b.WriteString("version: 1\norganization: {name: a, kind: plan, domains: [a.example]}\nrules:\n")
	for i, when := range conditions {
		if r.IntN(12) > 0 {
			fmt.Fprintf(&b, "  - {name: r%d, when: {%s}, do: hold, code: HG-H600}\n", i, when)
		}
	}
	b.WriteString("  - {name: phi, when: {phi: [medium, high]}, do: deliver, floor: phi, code: HG-D703}\n")
	b.WriteString("  - {name: rest, when: {}, do: deliver, floor: plain, code: HG-D704}\n")
	return b.String()
}

func TestLeaksReportsProgressAndStops(t *testing.T) {
	p := shipped(t)
	last, whole := 0, 0
	if c, err := p.Leaks(context.Background(), func(done, total int) { last, whole = done, total }); c != nil || err != nil {
		t.Fatal(c, err)
	}
	if last != whole || whole == 0 {
		t.Errorf("proved %d of %d points", last, whole)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Leaks(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestUnreachableAndUndecided(t *testing.T) {
	p := parse(t, `version: 1
organization: {name: a, kind: plan, domains: [a.example]}
rules:
  - {name: high, when: {phi: [high, medium]}, do: hold, code: HG-H600}
  - {name: never, when: {phi: [high], class: [refill]}, do: reject, code: HG-K101}
  - {name: warned, when: {phi: [low]}, do: hold, code: HG-H601, mode: warn}
  - {name: also-never, when: {phi: [medium]}, do: hold, code: HG-H601, mode: shadow}
`)
	if got := fmt.Sprint(p.Unreachable()); got != "[never also-never]" {
		t.Errorf("unreachable: %s", got)
	}
	if got := fmt.Sprintf("%q", p.Undecided(2)); got != `["any mail" "class org_to_org"]` {
		t.Errorf("undecided: %s", got)
	}
}

func BenchmarkLeaks(b *testing.B) {
	p := shipped(b)
	for b.Loop() {
		leaks(b, p)
	}
}
