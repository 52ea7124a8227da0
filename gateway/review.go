package gateway

import (
	"context"
	"errors"
	"fmt"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// Correction is what a reviewer found to be otherwise than the gateway did;
// nil fields keep what the gateway found.
type Correction struct {
	Class *policy.Class
	PHI   *policy.PHI
	Scan  *policy.Scan
}

func (c Correction) apply(f *policy.Facts) {
	if c.Class != nil {
		f.Class = *c.Class
	}
	if c.PHI != nil {
		f.PHI = *c.PHI
	}
	if c.Scan != nil {
		f.Scan = *c.Scan
	}
}

// Review is a reviewer's word on a held message.
type Review struct {
	By         string
	Reason     string
	Correction Correction
}

// Errors of a release. Their texts are for the reviewer.
var (
	// ErrNotHeld is returned for an envelope that nobody holds.
	ErrNotHeld = errors.New("not held")
	// ErrReason is returned when a release names nobody or no reason.
	ErrReason = errors.New("a release needs a name and a reason")
	// ErrSecondPerson is returned when the release is on record and another
	// person has to agree (psychotherapy notes).
	ErrSecondPerson = errors.New("recorded; a second person must release it too")
	// ErrStillRefused is returned when the decision still does not send: rows 1
	// to 16 of the table cannot be overridden.
	ErrStillRefused = errors.New("cannot be released")
)

// approvalKind is the record kind of first releases where two are needed.
const approvalKind = "approval"

// twoPeople is the hold that two people must release (45 CFR 164.508(a)(2)).
const twoPeople policy.Code = "HG-H602"

// Release lets a held envelope go, if the records of now allow it: the decision
// is made again from the first rule, with released set. It returns the verdict.
func (g *Gateway) Release(ctx context.Context, id store.EnvelopeID, r Review) (policy.Verdict, error) {
	if r.By == "" || r.Reason == "" {
		return policy.Verdict{}, ErrReason
	}
	e, err := g.store.Envelope(ctx, id)
	if err != nil {
		return policy.Verdict{}, err
	}
	if e.State != store.Held {
		return policy.Verdict{}, ErrNotHeld
	}
	rules := g.rules()
	e.Facts.Partner = partnerOf(rules, e.Message.Sender)
	r.Correction.apply(&e.Facts)
	e.Facts.Released = policy.ReleasedYes
	v, facts, err := g.recheck(ctx, rules, e.Facts, policy.Address(e.Recipient))
	if err != nil {
		return v, err
	}
	e.Facts = facts
	for _, hold := range rules.Holds(facts) {
		if hold.Code == twoPeople {
			if err := g.secondPerson(ctx, e, r); err != nil {
				return v, err
			}
		}
	}
	return v, g.release(ctx, rules, e, v, r)
}

// release does what the new verdict says, in one transaction with its leaf.
func (g *Gateway) release(ctx context.Context, rules *policy.Policy, e store.Envelope, v policy.Verdict, r Review) error {
	now := g.clock()
	leaf := g.audit.Leaf(audit.Event{Time: now, ID: e.Message.ID, Envelope: e.ID, Kind: audit.Released, Code: e.Code, Rule: v.Rule,
		Policy: rules.Hash(), Sender: e.Message.Sender, Facts: &e.Facts, Recipient: policy.Address(e.Recipient),
		Who: r.By, Reason: r.Reason, Codes: map[string]string{"becomes": string(v.Code)}})
	switch v.Action {
	case policy.Deliver:
		e.Floor, e.Within, e.Else, e.Code, e.Rule = floorOf(rules, v), deadline(rules, v.Floor, now), v.Else, v.Code, v.Rule
		e.Expires = now.Add(g.giveUp())
		err := g.store.Change(ctx, store.Change{Envelopes: []store.EnvelopeID{e.ID}, To: store.Ready, Due: now, Update: &e},
			store.Effects{Leaves: []store.Leaf{leaf}})
		g.queue.Kick()
		return err
	case policy.Portal:
		return g.releaseToPortal(ctx, e, v, leaf)
	}
	entry, _ := policy.Lookup(v.Code)
	return fmt.Errorf("%w: %s %s", ErrStillRefused, v.Code, entry.Reason)
}

func (g *Gateway) releaseToPortal(ctx context.Context, e store.Envelope, v policy.Verdict, leaf store.Leaf) error {
	if g.portal == nil {
		return fmt.Errorf("%w: it may leave by pickup only, and the site has no portal", ErrStillRefused)
	}
	effects, err := g.pickupEffects(ctx, e, v.Code)
	if err != nil {
		return err
	}
	effects.Leaves = []store.Leaf{leaf, g.envelopeLeaf(audit.Pickup, e, v.Code, ending{why: "released"})}
	err = g.store.Change(ctx, store.Change{Envelopes: []store.EnvelopeID{e.ID}}, effects)
	g.queue.Kick()
	return err
}

// secondPerson returns nil if somebody else has released the envelope before;
// otherwise it records this release and says that another is needed.
func (g *Gateway) secondPerson(ctx context.Context, e store.Envelope, r Review) error {
	seen, err := g.store.Records(ctx, approvalKind, string(e.ID))
	if err != nil {
		return err
	}
	for _, a := range seen {
		if string(a.Value) != r.By {
			return nil
		}
	}
	if len(seen) > 0 {
		return ErrSecondPerson
	}
	err = g.store.Apply(ctx, store.Effects{
		Records: []store.Record{{Kind: approvalKind, Subject: string(e.ID), Key: r.By, Value: []byte(r.By)}},
		Leaves: []store.Leaf{g.audit.Leaf(audit.Event{ID: e.Message.ID, Envelope: e.ID, Kind: audit.Released, Code: twoPeople,
			Policy: g.rules().Hash(), Sender: e.Message.Sender, Recipient: policy.Address(e.Recipient), Who: r.By, Reason: r.Reason,
			Codes: map[string]string{"becomes": string(twoPeople), "release": "first"}})},
	})
	if err != nil {
		return err
	}
	return ErrSecondPerson
}

// ReadCorrection reads the corrections a reviewer names; "" keeps what was found.
func ReadCorrection(class, phi, scan string) (Correction, error) {
	var c Correction
	if class != "" {
		v, err := policy.ParseClass(class)
		if err != nil {
			return c, fmt.Errorf("class: %w", err)
		}
		c.Class = &v
	}
	if phi != "" {
		v, err := policy.ParsePHI(phi)
		if err != nil {
			return c, fmt.Errorf("phi: %w", err)
		}
		c.PHI = &v
	}
	if scan != "" {
		v, err := policy.ParseScan(scan)
		if err != nil {
			return c, fmt.Errorf("scan: %w", err)
		}
		c.Scan = &v
	}
	return c, nil
}
