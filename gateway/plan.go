package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// holdFor is how long a held message waits for a reviewer.
const holdFor = 72 * time.Hour

// plan is what will be committed for a message, and what will then be said.
type plan struct {
	acceptance store.Acceptance
	reply      Reply
}

// stored reports whether the plan keeps anything but audit leaves.
func (p plan) stored() bool { return len(p.acceptance.Messages)+len(p.acceptance.Pickups) > 0 }

// fate groups the decisions of one message by what is done now.
type fate struct {
	deferred, refused, discarded, held, pickup, queued []decision
}

func (f *fate) add(d decision, sender *policy.Sender) {
	switch d.verdict.Action {
	case policy.Defer:
		f.deferred = append(f.deferred, d)
	case policy.Reject, policy.Bounce:
		f.refuse(d, sender)
	case policy.Portal:
		f.pickup = append(f.pickup, d)
	case policy.Deliver:
		f.queued = append(f.queued, d)
	default:
		f.held = append(f.held, d)
	}
}

// refuse sorts a refusal by what the sender's owner wants its tool to be told.
func (f *fate) refuse(d decision, sender *policy.Sender) {
	switch sender.Refusal(d.verdict.Code) {
	case policy.RefuseHold:
		f.held = append(f.held, d)
	case policy.RefuseDiscard:
		f.discarded = append(f.discarded, d)
	default:
		f.refused = append(f.refused, d)
	}
}

// plan turns decisions into one transaction and one reply.
func (g *Gateway) plan(ctx context.Context, id store.ID, s Submission, r reading, decisions []decision) (plan, error) {
	var f fate
	for i, d := range decisions {
		decisions[i] = g.portalOrNot(d)
		g.count(decisions[i].verdict)
		f.add(decisions[i], s.Sender)
	}
	p := plan{acceptance: store.Acceptance{ID: id, Digest: digest(s)}}
	for _, d := range decisions {
		p.acceptance.Leaves = append(p.acceptance.Leaves, g.leaf(id, s, d, f.kind(d)))
	}
	p.reply = f.reply(id, len(decisions))
	if p.reply.Status != 250 || len(f.discarded) == len(decisions) {
		return p, nil
	}
	if err := g.keep(ctx, &p.acceptance, s, r, f); err != nil {
		return plan{}, err
	}
	return p, nil
}

// portalOrNot refuses a pickup where the site has no portal: nothing else is
// safe enough.
func (g *Gateway) portalOrNot(d decision) decision {
	if d.verdict.Action == policy.Portal && g.portal == nil {
		d.verdict.Action, d.verdict.Code = policy.Reject, noPortal(d.verdict.Code)
	}
	return d
}

// noPortal is the code of mail that only a pickup would have been safe enough for.
func noPortal(code policy.Code) policy.Code {
	if sensitive := policy.Code("HG-E702"); code.Expired() == sensitive {
		return sensitive
	}
	return "HG-E703"
}

// kind is the event of a decision. If one recipient's decision is deferred,
// nothing is stored and all of them are made again.
func (f *fate) kind(d decision) audit.Kind {
	if len(f.deferred) > 0 {
		return audit.Deferred
	}
	return kindOf(d.verdict.Action)
}

// reply follows from what becomes of the recipients: after DATA there is only one.
func (f *fate) reply(id store.ID, n int) Reply {
	switch {
	case len(f.deferred) > 0:
		return codeReply(f.deferred[0].verdict.Code, id)
	case len(f.refused) == n:
		return codeReply(oneCode(f.refused, "HG-R810"), id)
	case len(f.refused) > 0:
		return codeReply("HG-R811", id)
	case len(f.held) == n && oneCode(f.held, "") != "":
		return heldReply(f.held[0].verdict.Code, id)
	}
	return Reply{250, "2.0.0", "accepted", id}
}

// oneCode is the code that all share, or other.
func oneCode(ds []decision, other policy.Code) policy.Code {
	for _, d := range ds[1:] {
		if d.verdict.Code != ds[0].verdict.Code {
			return other
		}
	}
	return ds[0].verdict.Code
}

// heldReply names a hold. The code of a refusal that its sender wants held has
// a 5xx reply of its own, so the text is made here.
func heldReply(code policy.Code, id store.ID) Reply {
	return Reply{250, "2.0.0", string(code) + " accepted, held for review", id}
}

// keep adds the message with its envelopes, its pickups with their notices and
// the DSNs of those refused.
func (g *Gateway) keep(ctx context.Context, a *store.Acceptance, s Submission, r reading, f fate) error {
	now := g.clock()
	m := store.NewMessage{
		Message: store.Message{ID: a.ID, Sender: s.Sender.Name, Return: s.From.Clear(), Campaign: r.declared.campaign, Language: r.declared.language,
			Accepted: now, UTF8: s.UTF8 || r.msg.NeedsUTF8(), EightBit: s.EightBit || r.msg.EightBit(), EnvID: s.EnvID, DSNFull: s.DSNFull},
		Body: r.msg.Prepare(g.passage(s, a.ID, now)),
	}
	for _, d := range f.queued {
		e := g.envelope(a.ID, len(m.Envelopes), d, now)
		e.Floor, e.Within, e.Else = floorOf(r.rules, d.verdict), deadline(r.rules, d.verdict.Floor, now), d.verdict.Else
		e.State, e.Expires = store.Ready, now.Add(g.giveUp())
		m.Envelopes = append(m.Envelopes, e)
	}
	for _, d := range f.held {
		e := g.envelope(a.ID, len(m.Envelopes), d, now)
		e.State, e.Expires = store.Held, now.Add(holdFor)
		m.Envelopes = append(m.Envelopes, e)
	}
	var drafts []draft
	if len(m.Envelopes)+len(f.pickup) > 0 {
		drafts = append(drafts, draft{m, r.author()})
	}
	for _, d := range f.pickup {
		pickup, notice, err := g.newPickup(ctx, m.Message, d.facts, d.recipient.address, d.verdict.Code, now)
		if err != nil {
			return err
		}
		a.Pickups = append(a.Pickups, pickup)
		drafts = append(drafts, notice)
	}
	if len(f.refused) > 0 {
		dsn, err := g.dsn(m.Message, refusals(f.refused), now)
		if err != nil {
			return err
		}
		drafts = append(drafts, dsn...)
	}
	messages, err := g.sign(ctx, drafts)
	a.Messages = messages
	return err
}

func (g *Gateway) envelope(id store.ID, n int, d decision, now time.Time) store.Envelope {
	dest, _ := mail.ASCIIDomain(d.recipient.address.Domain()) // checked at RCPT
	return store.Envelope{
		ID: store.EnvelopeIDOf(id, n), Recipient: d.recipient.address.Clear(), Dest: dest, Due: now,
		Code: d.verdict.Code, Rule: d.verdict.Rule, Facts: d.facts, Else: policy.Hold,
		Notify: d.recipient.notify, ORcpt: d.recipient.orcpt,
	}
}

// floorOf is what a connection must prove for a verdict that delivers.
func floorOf(rules *policy.Policy, v policy.Verdict) policy.Floor {
	floor, _, _ := rules.Floor(v.Floor)
	return floor
}

// deadline is until when a delivery may look for a route that meets its floor,
// zero if for as long as the message lives.
func deadline(rules *policy.Policy, floor policy.FloorName, now time.Time) time.Time {
	_, within, _ := rules.Floor(floor)
	if within == 0 {
		return time.Time{}
	}
	return now.Add(within)
}

// passage is what a Received field says of how the message came.
func (g *Gateway) passage(s Submission, id store.ID, now time.Time) mail.Passage {
	protocol := "ESMTP"
	if s.UTF8 {
		protocol = "UTF8SMTP" // RFC 6531 §4.3
	}
	if s.TLS != nil {
		protocol += "S"
	}
	return mail.Passage{Hostname: g.cfg.Hostname, ID: string(id), Protocol: protocol, Now: now}
}

// draft is a message that is not signed yet, and the domain that signs it.
type draft struct {
	store.NewMessage
	domain string
}

// author is the domain of the message's From.
func (r reading) author() string {
	from, err := r.msg.From()
	if err != nil || len(from) == 0 {
		return ""
	}
	return from[0].Address.Domain()
}

// sign puts the DKIM signatures of its domain on every draft, in one batch. A
// draft of a domain without keys leaves unsigned, and is counted.
func (g *Gateway) sign(ctx context.Context, drafts []draft) ([]store.NewMessage, error) {
	signer := g.signer.Load()
	jobs := make([]mail.Job, len(drafts))
	for i, d := range drafts {
		jobs[i] = mail.Job{Domain: d.domain, Message: d.Body}
	}
	errs := signer.Sign(ctx, jobs)
	out := make([]store.NewMessage, len(drafts))
	for i, d := range drafts {
		switch {
		case errs[i] == nil:
			d.Body = jobs[i].Signed
		case errors.Is(errs[i], mail.ErrNoKey):
			g.metrics.unsigned.Inc()
		default:
			return nil, fmt.Errorf("DKIM: %w", errs[i])
		}
		d.Message.Size = len(d.Body)
		out[i] = d.NewMessage
	}
	return out, nil
}
