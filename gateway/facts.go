package gateway

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/phi"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/policy"
)

// reading is what one message says, before anyone asks for whom.
type reading struct {
	rules     *policy.Policy // those in force when it came; a reload does not split a message
	records   policy.Records
	sender    *policy.Sender
	msg       *mail.Message
	doc       *phi.Document
	declared  declared
	trackers  policy.Trackers
	broadcast bool

	law         [4]policy.Effective // what the law makes of it, by the band a scan finds (policy.PHI)
	part2Notice bool                // it carries the notice of 42 CFR 2.32
	footer      bool                // it has a postal address and a way to unsubscribe
}

// declared is what a message says of itself, in the words of its headers.
type declared struct {
	class, audience, remuneration, senderClass string

	segment  string
	campaign string
	language string
	wrong    []string // header fields whose value is no word, or contradicts itself
}

// decision is one recipient's facts and what follows from them.
type decision struct {
	recipient recipient
	facts     policy.Facts
	trace     policy.Trace
	verdict   policy.Verdict // settled: the predicted assurance is taken into account
	scan      phi.Result
}

// read scans a message once for all recipients.
func (g *Gateway) read(ctx context.Context, sender *policy.Sender, msg *mail.Message) reading {
	r := g.readAs(ctx, sender, msg)
	approved, err := g.registry.HostsApproved(ctx, g.foreign(r.doc.Hosts()))
	if err != nil {
		g.log.Error("records unreadable", "err", err)
		return r // its records stay unavailable
	}
	r.records = policy.RecordsOK
	if approved {
		r.trackers = policy.TrackersOK
	}
	return r
}

// readAs reads a message without asking any records.
func (g *Gateway) readAs(ctx context.Context, sender *policy.Sender, msg *mail.Message) reading {
	r := reading{rules: g.rules(), sender: sender, msg: msg,
		doc: (*g.scanner.Load())().Read(ctx, msg.Raw()), declared: declare(msg.Controls())}
	org := r.rules.Organization()
	r.part2Notice = r.doc.HasText(part2Statement)
	r.footer = r.doc.Unsubscribe() && r.doc.HasText(org.PostalAddress)
	for band := range r.law {
		r.law[band] = policy.EffectiveClass(policy.Declared{
			Organization: org.Kind, Sender: *sender,
			Class: r.declared.class, Audience: r.declared.audience, Remuneration: r.declared.remuneration, SenderClass: r.declared.senderClass,
			PHI: policy.PHI(band), PromotionalLead: r.doc.Promotional(), Part2Notice: r.part2Notice,
		})
	}
	return r
}

// foreign leaves out the portal's own host: what it learns stays here.
func (g *Gateway) foreign(hosts []string) []string {
	return slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return g.portalHost != "" && h == g.portalHost })
}

func declare(c mail.Controls) declared {
	return declared{
		class: oneClass(c.Class), audience: oneWord(c.Audience), remuneration: oneWord(c.Remuneration), senderClass: oneWord(c.SenderClass),
		segment: strings.Join(c.Segment, " "), campaign: c.Campaign, language: c.Language, wrong: c.Wrong,
	}
}

// contradiction is no value of any fact, so that it counts as the most cautious one.
const contradiction = "contradiction"

// oneWord is the one value of a header field. Two values are a contradiction,
// and so is a value that is no word: it may have been meant to be strict.
func oneWord(values []string) string {
	switch {
	case len(values) == 0:
		return ""
	case len(values) == 1 && values[0] != "":
		return values[0]
	}
	return contradiction
}

// oneClass is oneWord for classes, two of which are stricter than what an
// unknown word counts as.
func oneClass(values []string) string {
	for _, strict := range []policy.Class{policy.ClassPsychotherapy, policy.ClassPart2} {
		if slices.Contains(values, strict.String()) {
			return strict.String()
		}
	}
	return oneWord(values)
}

// decide gathers the facts of every recipient and decides. The domains are
// asked for their posture at the same time.
func (g *Gateway) decide(ctx context.Context, r reading, to []recipient) []decision {
	predicted := g.predict(ctx, to)
	r.broadcast = g.campaigns.broadcast(r, to)
	out := make([]decision, len(to))
	for i, rc := range to {
		d := decision{recipient: rc, scan: r.doc.Judge(g.judgeContext(r, rc.address))}
		d.facts = g.facts(r, rc, d.scan)
		d.facts.Assurance = predicted[rc.address.Domain()]
		d.trace = r.rules.Trace(d.facts)
		d.verdict = r.rules.Settle(d.trace.Verdict, d.facts)
		d.verdict.Recipient = rc.address
		out[i] = d
	}
	return out
}

// predictAtOnce bounds the postures looked up at once for one message.
const predictAtOnce = 32

// predictFor bounds how long the sending tool waits for them.
const predictFor = 3 * time.Second

// predict asks how safely each recipient's domain can be reached. What is not
// known stays unknown; delivery proves it in any case.
func (g *Gateway) predict(ctx context.Context, to []recipient) map[string]policy.Assurance {
	ctx, cancel := context.WithTimeout(ctx, predictFor)
	defer cancel()
	domains := make([]string, len(to))
	for i, rc := range to {
		domains[i] = rc.address.Domain()
	}
	slices.Sort(domains)
	domains = slices.Compact(domains)
	found := make([]policy.Assurance, len(domains))
	var group errgroup.Group
	group.SetLimit(predictAtOnce)
	for i, domain := range domains {
		group.Go(func() error {
			if p, err := g.tls.Posture(ctx, domain); err == nil {
				g.providers.learn(p)
				found[i] = p.Best // delivery passes by hosts below the floor
			}
			return nil
		})
	}
	group.Wait()
	out := make(map[string]policy.Assurance, len(domains))
	for i, domain := range domains {
		out[domain] = found[i]
	}
	return out
}

// judgeContext is what the scan must know of the recipient. Audience and sender
// class do not depend on what it finds.
func (g *Gateway) judgeContext(r reading, to policy.Address) phi.Context {
	e := &r.law[policy.PHINone]
	return phi.Context{
		Recipient: to, Staff: owns(r.rules.Organization(), to.Domain()),
		Audience: &e.Audience, Declared: true, SenderClass: e.SenderClass,
		Segment: r.declared.segment, Campaign: r.declared.campaign, Broadcast: r.broadcast,
	}
}

// describe is the registry's answer about one recipient.
func (g *Gateway) describe(ctx context.Context, s *policy.Sender, to policy.Address) (registry.Description, error) {
	return g.registry.Describe(ctx, s.Partner, to)
}

// knownFacts are the facts that are settled before the message is read. An
// unreadable registry leaves records unavailable, and everything waits.
func (g *Gateway) knownFacts(s *policy.Sender, about registry.Description, err error) policy.Facts {
	e := policy.EffectiveClass(policy.Declared{Organization: g.rules().Organization().Kind, Sender: *s, PHI: policy.PHINone})
	f := policy.Facts{Now: g.clock(), Class: s.Class, Audience: s.Audience, Remuneration: s.Remuneration,
		SenderClass: e.SenderClass, Promotion: e.Promotion, PHI: e.PHI, Partner: s.Partner}
	if err != nil {
		g.log.Error("records unreadable", "err", err)
		return f
	}
	return about.Facts(f, false)
}

// facts are all facts about one recipient of a message that was read.
func (g *Gateway) facts(r reading, rc recipient, scan phi.Result) policy.Facts {
	f := rc.about.Facts(r.facts(scan, g.clock()), scan.People >= 2)
	f.Records = min(f.Records, r.records)
	f.Form = r.form(f)
	return f
}

// facts are those that the message alone gives.
func (r reading) facts(scan phi.Result, now time.Time) policy.Facts {
	e := &r.law[scan.Band]
	f := policy.Facts{
		Now: now, Records: r.records, SenderClass: e.SenderClass, Class: e.Class, Audience: e.Audience,
		Remuneration: e.Remuneration, Promotion: e.Promotion, PHI: e.PHI,
		Topic: scan.Topic, Scan: scan.Scan, Subject: scan.Subject, Trackers: r.trackers,
		Campaign: r.declared.campaign, Partner: r.sender.Partner,
	}
	if f.Class == policy.ClassPart2 || f.Class == policy.ClassPsychotherapy {
		f.Topic = policy.TopicSensitive
	}
	return f
}

// form is the worst of what the text lacks: fundraising (45 CFR 164.514(f)),
// notice (42 CFR 2.32), footer (15 USC 7704, RFC 8058).
func (r reading) form(f policy.Facts) policy.Form {
	switch {
	case f.Class == policy.ClassFundraising && r.doc.FundraisingExceeded():
		return policy.FormFundraisingExceeded
	case f.Class == policy.ClassPart2 && !r.part2Notice && !isPatient(f.Recipient):
		return policy.FormNoticeMissing
	case f.Promotion == policy.PromotionYes && !r.footer:
		return policy.FormFooterMissing
	}
	return policy.FormOK
}

func isPatient(r policy.Recipient) bool {
	return r == policy.RecipientIndividual || r == policy.RecipientRepresentative
}

// owns reports whether a domain or host is the organization's or below one.
func owns(org policy.Organization, host string) bool {
	host = strings.ToLower(host)
	return slices.ContainsFunc(org.Domains, func(d string) bool { return host == d || strings.HasSuffix(host, "."+d) })
}

// part2Statement is statement 2 of 42 CFR 2.32(a), verbatim.
const part2Statement = "42 CFR part 2 prohibits unauthorized use or disclosure of these records."
