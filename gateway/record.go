package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
	"github.com/phigate/phigate/tlscheck"
)

// leaf is the audit leaf of a decision, for the transaction of its effect.
func (g *Gateway) leaf(id store.ID, s Submission, d decision, kind audit.Kind) store.Leaf {
	e := audit.Event{
		Time: d.facts.Now, ID: id, Kind: kind, Code: d.verdict.Code, Rule: d.verdict.Rule,
		Policy: g.rules().Hash(), Sender: s.Sender.Name, Partner: s.Sender.Partner, Facts: &d.facts,
		Recipient: d.recipient.address, Return: s.From, Campaign: d.facts.Campaign,
		Codes:    map[string]string{"action": d.verdict.Action.String()},
		Evidence: map[string]string{"client": s.Client.String()},
	}
	if d.verdict.Action == policy.Deliver {
		e.Codes["floor"] = d.verdict.Floor.String()
	}
	if s.TLS != nil {
		e.Codes["submission_tls"] = tls.VersionName(s.TLS.Version)
		e.Codes["submission_suite"] = tls.CipherSuiteName(s.TLS.CipherSuite)
	}
	if len(s.Data) > 0 {
		e.Codes["size"] = strconv.Itoa(len(s.Data))
		e.Codes["score"] = strconv.FormatFloat(d.scan.Score, 'f', 2, 64)
	}
	for i, p := range d.trace.Passed { // warn and shadow rules that would have decided
		e.Codes[fmt.Sprintf("passed%d", i)] = string(p.Code) + ":" + p.Mode.String()
	}
	if r := d.trace.Risk; r != nil {
		e.Evidence["accept_risk"] = r.By + ": " + r.Reason
	}
	return g.audit.Leaf(e)
}

// kindOf is the event of a decision. A delivery that is only planned is accepted.
func kindOf(a policy.Action) audit.Kind {
	switch a {
	case policy.Reject, policy.Bounce:
		return audit.Rejected
	case policy.Defer:
		return audit.Deferred
	case policy.Portal:
		return audit.Pickup
	case policy.Deliver:
		return audit.Accepted
	}
	return audit.Held
}

// envelopeLeaf is the leaf of something that happened to a queued envelope. It
// holds codes and host names of ours, never a word of a peer or a mail.
func (g *Gateway) envelopeLeaf(kind audit.Kind, e store.Envelope, code policy.Code, end ending) store.Leaf {
	codes := proofCodes(e, end.tls)
	end.codes(codes)
	return g.audit.Leaf(audit.Event{
		Time: g.clock(), ID: e.Message.ID, Envelope: e.ID, Kind: kind, Code: code, Rule: e.Rule, Policy: g.rules().Hash(),
		Sender: e.Message.Sender, Partner: e.Facts.Partner, Facts: &e.Facts, Recipient: policy.Address(e.Recipient),
		Return: policy.Address(e.Message.Return), Campaign: e.Message.Campaign,
		Codes: codes, Evidence: proofOf(end.tls, end.why),
	})
}

func proofCodes(e store.Envelope, v tlscheck.Evidence) map[string]string {
	codes := map[string]string{"attempts": strconv.Itoa(e.Attempts), "floor": e.Floor.String()}
	if v.MX == "" {
		return codes
	}
	codes["assurance"], codes["strength"] = v.Assurance.String(), v.Strength.String()
	for name, value := range map[string]string{"tls": v.Version, "suite": v.Suite, "group": v.Group, "policy_mode": v.PolicyMode} {
		if value != "" {
			codes[name] = value
		}
	}
	return codes
}

func proofOf(v tlscheck.Evidence, why string) map[string]string {
	proof := map[string]string{"why": why}
	for name, value := range map[string]string{"mx": v.MX, "ip": v.IP, "certificate": v.Leaf, "spki": v.SPKI,
		"issuer": v.Issuer, "tlsa": v.TLSA, "policy_id": v.PolicyID} {
		if value != "" {
			proof[name] = value
		}
	}
	return proof
}

// stsKind is the record kind of MTA-STS policies.
const stsKind = "sts"

// stsCache keeps MTA-STS policies in the store, so that they survive a restart.
type stsCache struct{ store store.Store }

func (c stsCache) Load(ctx context.Context, domain string) (tlscheck.Entry, error) {
	rs, err := c.store.Records(ctx, stsKind, domain)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && len(rs) == 0:
		return tlscheck.Entry{}, tlscheck.ErrMiss
	case err != nil:
		return tlscheck.Entry{}, err
	}
	var e tlscheck.Entry
	return e, json.Unmarshal(rs[0].Value, &e)
}

func (c stsCache) Save(ctx context.Context, e tlscheck.Entry) error {
	value, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return c.store.Apply(ctx, store.Effects{Records: []store.Record{{Kind: stsKind, Subject: e.Domain, Key: e.Domain, Value: value}}})
}

func (c stsCache) List(ctx context.Context) ([]tlscheck.Entry, error) {
	var out []tlscheck.Entry
	for after := ""; ; {
		page, next, err := c.store.Scan(ctx, stsKind, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			var e tlscheck.Entry
			if err := json.Unmarshal(r.Value, &e); err == nil { // a damaged entry is fetched again
				out = append(out, e)
			}
		}
		if after = next; next == "" {
			return out, nil
		}
	}
}
