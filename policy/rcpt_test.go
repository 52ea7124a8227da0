package policy_test

import (
	"math/rand/v2"
	"testing"

	. "github.com/phigate/phigate/policy"
)

// atRCPT are the facts when RCPT TO is spoken, with records that say nothing bad.
func atRCPT(s Sender, organization SenderClass) Facts {
	e, m := EffectiveClass(Declared{Organization: organization, Sender: s, PHI: PHINone}), mild()
	return Facts{
		SenderClass: e.SenderClass, Class: s.Class, Audience: e.Audience, Remuneration: e.Remuneration, Promotion: e.Promotion, PHI: e.PHI,
		Records: m.Records, BAA: m.BAA, Recipient: m.Recipient, Channel: m.Channel, OptedOut: m.OptedOut, Address: m.Address,
	}
}

func TestAtRCPT(t *testing.T) {
	p := shipped(t)
	campaign := Sender{Class: ClassMarketing, Audience: AudiencePatients, Remuneration: RemunerationNone}
	public := Sender{Class: ClassMarketing, Audience: AudiencePublic, Remuneration: RemunerationNone}
	reminder := Sender{Class: ClassTransactional, Audience: AudiencePatients, Remuneration: RemunerationNone}
	noConsent := PendingAtRCPT &^ PendingConsent
	for _, c := range []struct {
		name   string
		sender Sender
		open   Pending
		change func(*Facts)
		code   Code // "" if not refused
	}{
		{"campaign to a patient without any consent", campaign, noConsent, nil, "HG-C101"},
		{"campaign to a patient with some consent", campaign, PendingAtRCPT, nil, ""},
		{"campaign of a vendor without BAA", campaign, PendingAtRCPT, func(f *Facts) { f.BAA = BAAExpired }, "HG-B301"},
		{"the same to the public: the mail may hold no PHI", public, PendingAtRCPT, func(f *Facts) { f.BAA = BAAExpired }, ""},
		{"campaign to one who opted out", public, PendingAtRCPT, func(f *Facts) { f.OptedOut = OptedOutYes }, "HG-O201"},
		{"reminder to one who opted out: may not be promotion", reminder, PendingAtRCPT, func(f *Facts) { f.OptedOut = OptedOutYes }, ""},
		{"no e-mail", reminder, PendingAtRCPT, func(f *Facts) { f.Channel = ChannelNoEmail }, "HG-K101"},
		{"bounced before", reminder, PendingAtRCPT, func(f *Facts) { f.Address = AddressUndeliverable }, "HG-K102"},
		{"records unreadable", reminder, PendingAtRCPT, func(f *Facts) { f.Records = RecordsUnavailable }, "HG-S901"},
		{"reminder", reminder, noConsent, nil, ""},
		{"nothing open", campaign, 0, func(f *Facts) { f.Scan, f.Form, f.Subject, f.Trackers = ScanComplete, FormOK, SubjectClean, TrackersOK }, "HG-C101"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := atRCPT(c.sender, SenderCoveredEntity)
			if c.change != nil {
				c.change(&f)
			}
			v, refuse := p.AtRCPT(f, c.open)
			if refuse != (c.code != "") || refuse && v.Code != c.code {
				t.Errorf("refuse %v: %s", refuse, v.Line())
			}
		})
	}
}

func TestAtRCPTWaitsForWhatASettingMayBecome(t *testing.T) {
	for _, when := range []string{`promotion: ["no"]`, "audience: [public]", "remuneration: [none]", "phi: [none]", "class: [transactional]", "sender_class: [non_health]", "recipient: [individual]", "trackers: [ok]"} {
		p := parse(t, `version: 1
organization: {name: a, kind: plan, domains: [a.example]}
rules:
  - {name: narrow, when: {`+when+`}, do: reject, code: HG-K101}
  - {name: rest, when: {}, do: hold, code: HG-H600}
`)
		f := atRCPT(Sender{Class: ClassTransactional, Audience: AudiencePublic, Remuneration: RemunerationNone}, SenderNonHealth)
		if _, refuse := p.AtRCPT(f, PendingAtRCPT); refuse {
			t.Errorf("%s: refused, though a message may change it", when)
		}
		f.Scan, f.Trackers = ScanComplete, TrackersOK
		if v, refuse := p.AtRCPT(f, 0); !refuse || v.Rule != "narrow" {
			t.Errorf("%s: not refused, though nothing is open: %s", when, v.Line())
		}
	}
}

// What is refused at RCPT must be refused whatever message follows: headers and
// content are drawn at random and go the way of a real one.
func TestAtRCPTRefusesOnlyWhatEveryMessageWouldMeet(t *testing.T) {
	p := shipped(t)
	r := rand.New(rand.NewPCG(7, 8))
	refused := 0
	for range 2000 {
		organization := any1(r, SenderNonHealth)
		s := Sender{Class: any1(r, ClassAccessRequest), Audience: any1(r, AudiencePublic), Remuneration: any1(r, RemunerationNone)}
		f := atRCPT(s, organization)
		f.BAA, f.Channel, f.OptedOut, f.Address = any1(r, BAASelf), likely(r, ChannelOpen), any1(r, OptedOutNo), likely(r, AddressConfirmed)
		open := PendingAtRCPT
		if r.IntN(2) == 0 {
			open &^= PendingConsent
		}
		if _, refuse := p.AtRCPT(f, open); !refuse {
			continue
		}
		refused++
		for range 100 {
			if g := message(r, f, s, organization, open); p.Decide(g).Action != Reject {
				t.Fatalf("refused at RCPT:\n%s\nbut this message is not:\n%s", f.Line(), g.Line())
			}
		}
	}
	if refused < 200 {
		t.Errorf("only %d refused: the test says little", refused)
	}
}

// message draws what a message may make of the facts at RCPT.
func message(r *rand.Rand, f Facts, s Sender, organization SenderClass, open Pending) Facts {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	e := EffectiveClass(Declared{
		Organization: organization, Sender: s,
		Class:        pick("", any1(r, ClassAccessRequest).String(), "?"),
		Audience:     pick("", any1(r, AudiencePublic).String(), "?"),
		Remuneration: pick("", any1(r, RemunerationNone).String()),
		SenderClass:  pick("", any1(r, SenderNonHealth).String()),
		PHI:          any1(r, PHINone), PromotionalLead: r.IntN(4) == 0, Part2Notice: r.IntN(8) == 0,
	})
	f.SenderClass, f.Class, f.Audience, f.Remuneration, f.Promotion, f.PHI = e.SenderClass, e.Class, e.Audience, e.Remuneration, e.Promotion, e.PHI
	f.Topic, f.Form, f.Subject, f.Trackers = any1(r, TopicGeneral), any1(r, FormOK), any1(r, SubjectClean), any1(r, TrackersOK)
	if f.Class == ClassPart2 || f.Class == ClassPsychotherapy {
		f.Topic = TopicSensitive
	}
	f.Scan = ScanUnscannable + Scan(r.IntN(2))
	if r.IntN(3) == 0 {
		f.Recipient = RecipientThirdParty
	}
	if open&PendingConsent != 0 {
		f.Consent = any1(r, ConsentValid)
	}
	return f
}

func BenchmarkAtRCPT(b *testing.B) {
	p := shipped(b)
	f := atRCPT(Sender{Class: ClassMarketing, Audience: AudiencePatients, Remuneration: RemunerationNone}, SenderCoveredEntity)
	b.ReportAllocs()
	for b.Loop() {
		p.AtRCPT(f, PendingAtRCPT&^PendingConsent)
	}
}
