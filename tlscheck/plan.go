package tlscheck

import (
	"context"
	"crypto/fips140"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/phigate/phigate/policy"
)

// Plan lists the hosts that may meet a floor, in the order to try them.
type Plan struct {
	Domain  string
	Floor   policy.Floor
	Posture Posture // what the plan was made from
	Targets []Target
}

// Target is one host and the floor it must meet; Dial takes it as it is.
type Target struct {
	Domain string // the recipient domain: connections are never shared between domains
	MX     MXPlan
	Floor  policy.Floor
	Policy PolicyState

	hello policy.Strength // a probe offers what this asks for, whatever the floor
}

// Key names what a connection to the target has proved: two targets with the
// same key may share one, if the address is the same too.
func (t Target) Key() string {
	b, _ := json.Marshal([]any{t.Domain, t.MX.Host, t.MX.Port, t.MX.SNI, t.MX.RefIDs, t.MX.TLSA,
		t.MX.NeedTLS, t.MX.NeedDANE, t.MX.NeedPKIX, t.MX.Secure, t.MX.tlsaUnusable, t.MX.literal, t.MX.pins, t.Floor, t.Policy.SHA256})
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

// Plan evaluates a domain for delivery at a floor. Every target of the plan
// additionally demands what live policies demand (DANE, MTA-STS enforce), also
// without a floor. The error is a *Failure if no host is left: PolicyFail if
// none can meet the floor, Unknown or Transport if a later try may find one. A
// PolicyFail never rests on what was only remembered (RFC 8461 §5.1).
func (c *Checker) Plan(ctx context.Context, domain string, f policy.Floor) (*Plan, error) {
	return c.plan(ctx, domain, f, false)
}

// Recheck plans again from nothing: DNS is asked, and the MTA-STS policy fetched
// (at most every five minutes), even if neither seems to have changed. It must
// be called before a PolicyFail that Dial gave for every host is taken as final
// (RFC 8461 §5.1).
// changed reports whether there is a reason to try the new plan.
func (c *Checker) Recheck(ctx context.Context, old *Plan) (p *Plan, changed bool, err error) {
	p, err = c.plan(ctx, old.Domain, old.Floor, true)
	if err != nil {
		return nil, false, err
	}
	key := func(t Target) string { return t.Key() }
	return p, !sameSet(mapped(p.Targets, key), mapped(old.Targets, key)), nil
}

func mapped[T, U any](in []T, f func(T) U) []U {
	var out []U
	for _, t := range in {
		out = append(out, f(t))
	}
	return out
}

func sameSet(a, b []string) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func (c *Checker) plan(ctx context.Context, domain string, f policy.Floor, fresh bool) (*Plan, error) {
	f = f.Max(policy.Open) // spelled out: zero parts become the strictest
	p, err := c.lookAt(ctx, domain, fresh)
	if errors.Is(err, validationOff) && f.IsOpen() {
		err = nil // mail without a floor never asked what is proved
	}
	if err != nil {
		return nil, err
	}
	plan := &Plan{Domain: p.Domain, Floor: f, Posture: p}
	var fs []*Failure
	for _, m := range p.MX {
		if fail := m.unfit(f); fail != nil {
			fs = append(fs, fail)
			continue
		}
		plan.Targets = append(plan.Targets, Target{Domain: p.Domain, MX: m, Floor: f, Policy: p.Policy})
	}
	if len(plan.Targets) == 0 {
		if w := worst(fs); w.Class != PolicyFail || fresh || c.now().Sub(p.CheckedAt) < failureKeep {
			return nil, w
		}
		return c.plan(ctx, domain, f, true)
	}
	inOrder(plan.Targets)
	return plan, nil
}

// unfit is why a host cannot meet the floor, nil if it may.
func (m *MXPlan) unfit(f policy.Floor) *Failure {
	switch {
	case m.Skip != nil:
		return m.Skip
	case f.Strength == policy.StrengthFIPS && !fips140.Enabled():
		return &Failure{Class: PolicyFail, Reason: "the floor asks for FIPS 140, and this gateway does not run in that mode"}
	case m.Assurance >= f.Assurance:
		return nil
	case m.unclear:
		return &Failure{Class: Unknown, Reason: "host may meet the floor, but a look-up failed or is not validated", RFC: "RFC 7672 §2.1.2"}
	}
	return &Failure{Class: PolicyFail, Reason: "host can prove no more than " + m.Assurance.String()}
}

// inOrder sorts by preference and mixes equals (RFC 5321 §5.1).
func inOrder(ts []Target) {
	rand.Shuffle(len(ts), func(i, j int) { ts[i], ts[j] = ts[j], ts[i] })
	slices.SortStableFunc(ts, func(a, b Target) int { return int(a.MX.Pref) - int(b.MX.Pref) })
}
