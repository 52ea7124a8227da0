package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// An invariant is what every policy must hold: no rule may send the facts of the
// box in a way that leaks says is a leak.
type invariant struct {
	sends string // what a rule that breaks it sends, in words
	law   string
	facts box
	leaks func(Verdict) bool // among verdicts that deliver or give to the portal
}

func always(Verdict) bool         { return true }
func overSMTP(v Verdict) bool     { return v.Action == Deliver }
func overPlain(v Verdict) bool    { return v.Action == Deliver && v.Floor == FloorPlain }
func notSensitive(v Verdict) bool { return v.Action == Deliver && v.Floor != FloorSensitive }

// invariants returns them in the order in which they are explained.
func invariants() []invariant {
	phi := everything.with(iPHI, setOf(PHIHigh, PHIMedium))
	notValid := everything[iConsent] &^ setOf(ConsentValid)
	class := func(c Class) box { return phi.with(iClass, setOf(c)) }
	return []invariant{
		{"mail while the records cannot be read", "promise 3",
			everything.with(iRecords, setOf(RecordsUnavailable)), always},
		{"mail that was not scanned", "promise 3",
			everything.with(iScan, setOf(ScanUnavailable)), always},
		{"a part that could not be read, without a release", "promise 3",
			everything.with(iScan, setOf(ScanUnscannable)).with(iReleased, setOf(ReleasedNo)), always},
		{"to a person who asked for no e-mail", "45 CFR 164.522(b)",
			everything.with(iChannel, setOf(ChannelNoEmail)), always},
		{"by SMTP to a person who asked for the portal", "45 CFR 164.522(b)",
			everything.with(iChannel, setOf(ChannelPortalOnly)), overSMTP},
		{"promotion to a person who opted out", "15 USC 7704, 45 CFR 164.514(f)",
			everything.with(iPromotion, setOf(PromotionYes)).with(iOptedOut, setOf(OptedOutYes)), always},
		{"health information of a sender without a contract in force", "45 CFR 164.502(e), 164.504(e)",
			phi.with(iBAA, everything[iBAA]&^setOf(BAAActive, BAASelf)), always},
		{"marketing with health information without a valid authorization", "45 CFR 164.508(a)(3)",
			class(ClassMarketing).with(iConsent, notValid), always},
		{"psychotherapy notes without a valid authorization", "45 CFR 164.508(a)(2)",
			class(ClassPsychotherapy).with(iConsent, notValid), always},
		{"Part 2 records to others without a valid consent", "42 CFR 2.31",
			class(ClassPart2).with(iConsent, notValid).with(iRecipient, setOf(RecipientThirdParty, RecipientOrgUncovered, RecipientOrgCovered)), always},
		{"promotion with Part 2 records without a valid consent", "42 CFR 2.31",
			class(ClassPart2).with(iConsent, notValid).with(iPromotion, setOf(PromotionYes)), always},
		{"health information to an organization that is not covered", "45 CFR 164.502(e)",
			class(ClassOrgToOrg).with(iRecipient, everything[iRecipient]&^setOf(RecipientOrgCovered)), always},
		{"health information to someone else, without consent or release", "45 CFR 164.502(a)",
			phi.with(iRecipient, setOf(RecipientThirdParty, RecipientOrgUncovered)).with(iConsent, notValid).with(iReleased, setOf(ReleasedNo)), always},
		{"health information below the floor phi", "45 CFR 164.312(e)", phi, overPlain},
		{"a sensitive topic below the floor sensitive", "45 CFR 164.312(e), 42 CFR 2",
			phi.with(iTopic, setOf(TopicSensitive)), notSensitive},
		{"psychotherapy notes without a release", "45 CFR 164.508(a)(2)",
			class(ClassPsychotherapy).with(iReleased, setOf(ReleasedNo)), always},
		{"psychotherapy notes by SMTP", "45 CFR 164.508(a)(2)", class(ClassPsychotherapy), overSMTP},
	}
}

// Counterexample shows how a policy can leak.
type Counterexample struct {
	Sends   string  // what it would send, in words
	Law     string  // the rule that forbids it
	Rule    string  // the rule of the file that does, "" for an entry of transport
	Where   string  // "policy.yaml:17:5"
	Facts   Facts   // the smallest example
	Because string  // its facts that are not the ordinary ones, "phi medium, baa missing"
	Verdict Verdict // of Facts
}

func (c *Counterexample) String() string {
	if c.Rule == "" {
		return fmt.Sprintf("%s: this sends %s (%s)", c.Where, c.Sends, c.Law)
	}
	return fmt.Sprintf("%s: rule %s sends %s (%s), for example: %s", c.Where, c.Rule, c.Sends, c.Law, c.Because)
}

// Leaks proves that the policy cannot leak, or returns how it can. It walks the
// whole fact space, values that no rule tells apart as one, once as the policy
// stands and once as it will stand when every accept_risk has lapsed. Rules with
// accept_risk are exempt while they bind. Rules in mode warn or shadow count as
// absent. progress, if not nil, is told how many of the points are proved. The
// error is that of ctx.
func (p *Policy) Leaks(ctx context.Context, progress func(done, total int)) (*Counterexample, error) {
	if c := p.weakTransport(); c != nil {
		return c, nil
	}
	worlds := []world{{binds: standing}}
	if end := p.lastException(); !end.IsZero() {
		worlds = append(worlds, world{lapsed, end})
	}
	todo, done, total := invariants(), 0, 0
	for _, v := range todo {
		total += len(worlds) * v.facts.points()
	}
	for _, w := range worlds {
		for _, v := range todo {
			c, err := p.breaks(ctx, v, w)
			if c != nil || err != nil {
				return c, err
			}
			done += v.facts.points()
			if progress != nil {
				progress(done, total)
			}
		}
	}
	return nil, nil
}

// world is a time at which some rules bind.
type world struct {
	binds func(*rule) bool
	from  time.Time // zero for now
}

// bound returns the rules that bind.
func (p *Policy) bound(binds func(*rule) bool) []*rule {
	out := make([]*rule, 0, len(p.rules))
	for i := range p.rules {
		if binds(&p.rules[i]) {
			out = append(out, &p.rules[i])
		}
	}
	return out
}

func standing(r *rule) bool { return r.mode == Enforce }
func lapsed(r *rule) bool   { return r.mode == Enforce && r.risk == nil }

// lastException returns when the last accept_risk lapses, zero if there is none.
func (p *Policy) lastException() (end time.Time) {
	for _, r := range p.rules {
		if r.risk != nil && r.risk.Until.After(end) {
			end = r.risk.Until
		}
	}
	return end
}

// examples is among how many leaks of one rule the smallest is looked for.
const examples = 1000

// breaks returns the smallest example of the policy breaking an invariant.
func (p *Policy) breaks(ctx context.Context, v invariant, w world) (*Counterexample, error) {
	worst, facts, least := (*rule)(nil), Facts{}, matched+1
	bound := p.bound(w.binds)
	for i, r := range bound {
		if r.risk != nil || !v.breaks(r.verdict) {
			continue
		}
		n := 0
		for part := range reaches(v.facts, bound[:i], r) {
			if f, unusual := part.plainest(); unusual < least {
				worst, facts, least = r, f, unusual
			}
			if n++; n == examples || ctx.Err() != nil {
				break
			}
		}
	}
	if worst == nil || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	because := facts.unusual()
	if facts.Now = w.from; !w.from.IsZero() {
		because += ", once accept_risk has lapsed"
	}
	return &Counterexample{
		Sends: v.sends, Law: v.law, Rule: worst.name, Where: p.where(worst.line, worst.column),
		Facts: facts, Because: because, Verdict: worst.verdict,
	}, nil
}

func (v invariant) breaks(d Verdict) bool {
	return (d.Action == Deliver || d.Action == Portal) && v.leaks(d)
}

func (p *Policy) where(line, column int) string {
	return fmt.Sprintf("%s:%d:%d", p.file, line, column)
}

// weakTransport returns an entry of transport that would let health information
// travel unproved, whatever the rules say.
func (p *Policy) weakTransport() *Counterexample {
	for _, least := range []struct {
		name FloorName
		at   Assurance
	}{{FloorPHI, AssuranceVerified}, {FloorSensitive, AssurancePolicy}} {
		floor, _, _ := p.Floor(least.name)
		if floor.strict().Assurance < least.at {
			at := p.transport[least.name]
			return &Counterexample{
				Sends: fmt.Sprintf("mail of floor %v over connections below %v", least.name, least.at),
				Law:   "45 CFR 164.312(e)", Where: p.where(at.line, at.column),
			}
		}
	}
	return nil
}

// ordinary are the facts of mail that is nothing special, with which examples
// and policy tests begin.
var ordinary = Facts{
	Records: RecordsOK, SenderClass: SenderCoveredEntity, BAA: BAAActive, Class: ClassTransactional,
	Audience: AudiencePublic, Remuneration: RemunerationNone, Promotion: PromotionNo,
	Recipient: RecipientIndividual, Channel: ChannelOpen, OptedOut: OptedOutNo, Address: AddressConfirmed,
	Consent: ConsentNone, Unencrypted: UnencryptedNo, PHI: PHINone, Topic: TopicGeneral, Scan: ScanComplete,
	Form: FormOK, Subject: SubjectClean, Trackers: TrackersOK, Released: ReleasedNo,
}

// plainest returns the point of the box with the most ordinary facts, otherwise
// mildest ones, and how many are not ordinary.
func (b box) plainest() (Facts, int) {
	pt, unusual := ordinary.point(), 0
	for i, s := range b {
		if s.has(pt[i]) {
			continue
		}
		unusual++
		for v := range uint8(16) {
			if s.has(v) {
				pt[i] = v
			}
		}
	}
	return pt.facts(), unusual
}

// unusual names the facts that are not ordinary.
func (f Facts) unusual() string {
	var out []string
	pt, plain := f.point(), ordinary.point()
	for i, v := range pt {
		if v != plain[i] {
			out = append(out, fields[i].key+" "+fields[i].names.text(v))
		}
	}
	if len(out) == 0 {
		return "any mail"
	}
	return strings.Join(out, ", ")
}

// Unreachable returns the names of the rules that no facts reach, since rules
// above take them all. A warn or shadow rule is judged as if it were enforced.
func (p *Policy) Unreachable() []string {
	var out []string
	var above []*rule
	for i := range p.rules {
		r := &p.rules[i]
		if !occurs(reaches(everything, above, r)) {
			out = append(out, r.name)
		}
		if standing(r) {
			above = append(above, r)
		}
	}
	return out
}

// Undecided returns up to limit examples of facts that can occur and that no
// rule matches, the plainest first, each as the facts that are not ordinary.
// Such mail is held.
func (p *Policy) Undecided(limit int) []string {
	least := map[string]int{}
	for _, b := range consistent(everything) {
		for part := range reaches(b, p.bound(standing), nil) {
			f, unusual := part.plainest()
			least[f.unusual()] = unusual
		}
	}
	out := make([]string, 0, len(least))
	for words := range least {
		out = append(out, words)
	}
	slices.SortFunc(out, func(a, b string) int {
		if least[a] != least[b] {
			return least[a] - least[b]
		}
		return strings.Compare(a, b)
	})
	return out[:min(limit, len(out))]
}
