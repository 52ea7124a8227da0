package tlscheck

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/phigate/phigate/policy"
)

// postureTimeout bounds the DNS and HTTPS part of one evaluation.
const postureTimeout = 15 * time.Second

// Reason is one step of an evaluation or a proof.
type Reason struct {
	Step   string `json:"step"`
	RFC    string `json:"rfc"` // the section that the step follows, "" if it is our own rule
	Result string `json:"result"`
}

// Posture is how well a domain can be reached, as far as can be told without
// sending. It is a prediction: only Dial proves.
type Posture struct {
	Domain string
	// Predicted is the assurance of the weakest host, to which an attacker
	// could steer; Best that of the host which serves best. Delivery passes by
	// hosts below the floor, so a floor can be met if it is not above Best.
	Predicted, Best policy.Assurance
	Strength        policy.Strength // of the weakest host, unknown unless probed
	MX              []MXPlan
	Policy          PolicyState
	Why             []Reason
	CheckedAt       time.Time
	ValidUntil      time.Time
}

// PolicyState is the MTA-STS policy that an evaluation went by; zero if none.
type PolicyState struct {
	Domain  string    `json:"domain,omitempty"`
	Mode    string    `json:"mode,omitempty"`
	ID      string    `json:"id,omitempty"`
	SHA256  string    `json:"sha256,omitempty"`
	Fetched time.Time `json:"fetched,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
}

// MXPlan is what one host must show and what it can prove.
type MXPlan struct {
	Host   string
	Pref   uint16
	Port   int
	Addrs  []netip.Addr
	SNI    string   // TLSA base domain, else the host (RFC 7672 §8.1, RFC 8461 §7.1)
	RefIDs []string // names a DANE-TA certificate may carry
	TLSA   []TLSA   // usable records

	NeedTLS  bool // clear text is out even without a floor
	NeedDANE bool // a TLSA record must match
	NeedPKIX bool // the certificate must be valid for Host (MTA-STS enforce)

	Secure    bool             // the name is proved by DNSSEC or by the administrator
	Assurance policy.Assurance // what Dial proves if all goes well, or proved in a probe
	Strength  policy.Strength  // unknown unless probed
	Skip      *Failure         // why the host is out of the question, nil if it is not
	Why       []Reason

	pins         []pin
	literal      bool // an address of the sender's choice stands for the name
	tlsaUnusable bool // TLSA records exist, and none says anything usable
	unclear      bool // more might have been proved, had all look-ups gone well
	ttl          time.Duration
}

func (m *MXPlan) note(step, rfc, result string, args ...any) {
	m.Why = append(m.Why, Reason{step, rfc, fmt.Sprintf(result, args...)})
}

// Posture predicts how a domain can be reached. What it learns is remembered
// for as long as the DNS allows, five minutes at most, so that a campaign costs
// one evaluation per domain.
//
// The error is a *Failure: Permanent if the domain takes no mail (null MX, no
// such domain, we are its MX), else why nothing can be said; the Posture then
// predicts AssuranceUnknown. Mail without a floor need not heed an Unknown one.
func (c *Checker) Posture(ctx context.Context, domain string) (Posture, error) {
	p, err := c.lookAt(ctx, domain, false)
	if err != nil || c.probe == 0 {
		return p, err
	}
	return c.probed(ctx, p)
}

// probed returns the posture corrected by a probe, from memory if there was one
// lately. Plans never see it: a delivery proves for itself.
func (c *Checker) probed(ctx context.Context, p Posture) (Posture, error) {
	release, err := c.locks.acquire(ctx, "probe "+p.Domain)
	if err != nil {
		return p, interrupted(err)
	}
	defer release()
	if q, ok := c.probes.get(p.Domain, c.now()); ok && q.CheckedAt.Equal(p.CheckedAt) {
		return q, nil
	}
	c.probeAll(ctx, c.probe, &p)
	if ctx.Err() == nil {
		c.probes.put(p.Domain, p, p.ValidUntil)
	}
	return p, nil
}

// lookAt returns the remembered evaluation of a domain or makes one. With fresh
// it remembers anew and fetches the policy again.
func (c *Checker) lookAt(ctx context.Context, domain string, fresh bool) (Posture, error) {
	name, err := asciiDomain(domain)
	if err != nil {
		return Posture{Domain: clean(domain)}, err
	}
	if o, ok := c.postures.get(name, c.now()); ok && !fresh {
		return c.result(o)
	}
	release, err := c.locks.acquire(ctx, name)
	if err != nil {
		return Posture{Domain: name}, interrupted(err)
	}
	defer release()
	if o, ok := c.postures.get(name, c.now()); ok && !fresh {
		return c.result(o)
	}
	o := c.evaluate(ctx, name, fresh)
	if ctx.Err() == nil { // else the caller's impatience, not the domain's state
		c.postures.put(name, o, o.posture.ValidUntil)
	}
	return c.result(o)
}

// result is an evaluation as the callers get it. While the resolver does not
// validate, "insecure" may mean anything, so that nothing may be predicted.
func (c *Checker) result(o outcome) (Posture, error) {
	if o.failure != nil {
		return o.posture, o.failure
	}
	if c.test.broken.Load() {
		o.posture.Predicted, o.posture.Best = policy.AssuranceUnknown, policy.AssuranceUnknown
		return o.posture, validationOff
	}
	return o.posture, nil
}

func interrupted(err error) *Failure {
	return &Failure{Class: Unknown, Reason: "took too long", Err: err}
}

// evaluate looks at a domain afresh, in bounded time.
func (c *Checker) evaluate(ctx context.Context, domain string, recheck bool) outcome {
	now := c.now()
	bounded, cancel := context.WithTimeout(ctx, postureTimeout)
	defer cancel()
	p, err := c.survey(bounded, domain, recheck)
	p.Domain, p.CheckedAt = domain, now
	if err != nil {
		f := asFailure(err)
		if bounded.Err() != nil {
			f = interrupted(err)
		}
		p.Predicted, p.Best = policy.AssuranceUnknown, policy.AssuranceUnknown
		p.ValidUntil = now.Add(failureKeep)
		return outcome{p, f}
	}
	p.rate()
	p.ValidUntil = now.Add(p.keep(now))
	return outcome{p, nil}
}

// survey asks DNS and MTA-STS about a domain and plans each of its hosts. What
// applies is the policy of the exact envelope domain, or of the administrator's
// relay (RFC 8461 §3.4); an address literal has none.
func (c *Checker) survey(ctx context.Context, domain string, recheck bool) (Posture, error) {
	var p Posture
	r := c.route(domain)
	policyDomain := domain
	if r != nil && r.Host != "" {
		policyDomain = clean(r.Host)
	}
	var hop nextHop
	var sts stsFinding
	var hopErr, stsErr error
	var wg sync.WaitGroup
	wg.Go(func() { hop, hopErr = c.nextHop(ctx, domain, r) })
	if policyDomain[0] != '[' && !isIP(policyDomain) {
		wg.Go(func() { sts, stsErr = c.sts(ctx, policyDomain, recheck) })
	}
	wg.Wait()
	p.Why = append(hop.why, sts.why...)
	if hopErr != nil {
		return p, hopErr
	}
	if stsErr != nil {
		return p, stsErr
	}
	p.Policy = sts.state(policyDomain)
	return p, c.planHosts(ctx, &p, hop, sts, r)
}

func (f stsFinding) state(domain string) PolicyState {
	if f.policy == nil {
		return PolicyState{}
	}
	return PolicyState{domain, string(f.mode), f.entry.ID, f.entry.digest(), f.entry.FetchedAt, f.entry.Expires}
}

// planHosts plans all hosts at once and then removes ourselves.
func (c *Checker) planHosts(ctx context.Context, p *Posture, hop nextHop, sts stsFinding, r *Route) error {
	p.MX = make([]MXPlan, len(hop.hosts))
	var wg sync.WaitGroup
	for i, h := range hop.hosts {
		wg.Go(func() { p.MX[i] = c.planHost(ctx, h, hop, sts, r) })
	}
	wg.Wait()
	for i := range p.MX {
		p.MX[i].ttl = min(p.MX[i].ttl, hop.ttl)
	}
	return c.dropLoops(p)
}

// dropLoops removes ourselves and every host that is not preferred to us
// (RFC 5321 §5.1), before any policy is applied (RFC 8461 §8.4).
func (c *Checker) dropLoops(p *Posture) error {
	i := slices.IndexFunc(p.MX, c.isOwn) // MX are in order of preference
	if i < 0 {
		return nil
	}
	pref := p.MX[i].Pref
	p.Why = append(p.Why, Reason{"MX", "RFC 5321 §5.1", "one of the hosts is this gateway: it and the less preferred are left out"})
	p.MX = slices.DeleteFunc(p.MX, func(m MXPlan) bool { return m.Pref >= pref })
	if len(p.MX) == 0 {
		return &Failure{Class: Permanent, Reason: "mail would loop back to this gateway", RFC: "RFC 5321 §5.1", Code: 554, Enhanced: "5.4.6"}
	}
	return nil
}

func (c *Checker) isOwn(m MXPlan) bool {
	return c.own.name(m.Host) || slices.ContainsFunc(m.Addrs, func(ip netip.Addr) bool { return c.own.addr(ip, m.Port) })
}

// planHost plans one host: addresses, DANE if the path to it is secure, MTA-STS
// match, pins, and what all that can prove.
func (c *Checker) planHost(ctx context.Context, h mxHost, hop nextHop, sts stsFinding, r *Route) MXPlan {
	m := MXPlan{Host: h.name, Pref: h.pref, Port: h.port, SNI: h.name, Secure: hop.secure, ttl: maxKeep}
	m.literal = h.addr.IsValid() && !hop.secure
	m.unclear = hop.dns == DNSUnvalidated || sts.unclear
	if r != nil && len(r.pins) > 0 {
		m.pins, m.NeedTLS = r.pins, true
	}
	if h.addr.IsValid() {
		m.Addrs, m.SNI = []netip.Addr{h.addr}, ""
	} else if err := c.planDNS(ctx, &m, hop); err != nil {
		m.Skip = asFailure(err)
		m.note("DNS", m.Skip.RFC, "%v", m.Skip)
		return m
	}
	if m.planSTS(sts); m.Skip == nil {
		m.planAssurance()
	}
	return m
}

// planDNS finds the addresses of a host and, if everything that led to it is
// secure, its TLSA records.
func (c *Checker) planDNS(ctx context.Context, m *MXPlan, hop nextHop) error {
	a, err := c.addresses(ctx, m.Host)
	if err != nil {
		return interrupted(err)
	}
	if a.secure <= DNSBogus {
		return &Failure{Class: Unknown, Reason: "address look-up is " + a.secure.String(), RFC: "RFC 7672 §2.1.2", Err: lookupCause(Answer{EDE: a.ede})}
	}
	if len(a.addrs) == 0 {
		return &Failure{Class: Transport, Reason: "host has no address", RFC: "RFC 5321 §5.1"}
	}
	m.Addrs, m.ttl = a.addrs, min(m.ttl, a.ttl)
	m.note("address", "RFC 7672 §2.2.2", "found %d, answer is %s", len(a.addrs), a.secure)
	if !hop.secure {
		m.note("DANE", "RFC 7672 §2.2.1", "does not apply: the MX answer is %s", hop.dns)
		return nil
	}
	return c.planDANE(ctx, m, a, hop)
}

func (c *Checker) planDANE(ctx context.Context, m *MXPlan, a hostAddrs, hop nextHop) error {
	port := m.Port
	if port == c.port {
		port = 25 // a test or demo may listen elsewhere; the records of MX hosts are those of port 25
	}
	f, err := c.tlsa(ctx, m.Host, port, a)
	if err != nil {
		return err
	}
	m.ttl = min(m.ttl, f.ttl)
	switch {
	case !f.present:
		m.note("DANE", "RFC 7672 §2.2", "no TLSA records, proved or not asked for")
	case len(f.records) == 0:
		m.NeedTLS, m.tlsaUnusable, m.SNI = true, true, f.base
		m.note("DANE", "RFC 7672 §2.2", "TLSA records but none usable: TLS without authentication")
	default:
		m.NeedTLS, m.NeedDANE, m.SNI, m.TLSA = true, true, f.base, f.records
		m.RefIDs = refIDs(f.base, m.Host, hop.names)
		m.note("DANE", "RFC 7672 §2.2", "TLSA records at %s, %d usable: a match is required", f.base, len(f.records))
	}
	return nil
}

// refIDs lists the names of RFC 7672 §3.2.2, each once.
func refIDs(base, host string, nextHop []string) []string {
	var out []string
	for _, n := range append([]string{base, host}, nextHop...) {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// planSTS applies the policy to one host (RFC 8461 §5): mode enforce rules out a
// host that is not listed; testing and none rule out nothing and prove nothing.
func (m *MXPlan) planSTS(sts stsFinding) {
	switch {
	case sts.policy == nil:
		return
	case !sts.enforced():
		m.note("MTA-STS", "RFC 8461 §5", "policy in mode %s adds nothing", sts.mode)
	case sts.matches(m.Host):
		m.NeedTLS, m.NeedPKIX = true, true
		m.note("MTA-STS", "RFC 8461 §4.1", "host is listed: a valid certificate for its name is required")
	default:
		m.Assurance = policy.AssuranceNone
		m.Skip = &Failure{Class: PolicyFail, Reason: "MTA-STS policy does not list this host", RFC: "RFC 8461 §4.1", TLSRPT: "validation-failure"}
		m.note("MTA-STS", "RFC 8461 §4.1", "host is not listed: never used")
	}
}

// planAssurance is what Dial will prove if the peer shows all that it should.
func (m *MXPlan) planAssurance() {
	m.Assurance = m.webPKI()
	if m.NeedDANE || len(m.pins) > 0 {
		m.Assurance = policy.AssuranceDANE
	}
	m.note("assurance", "", "%s, if the connection proves it", m.Assurance)
}

// webPKI is what a valid certificate for the host's name proves: more if the
// name itself is proved. TLSA records that exist but say nothing usable leave
// the peer unauthenticated (RFC 7672 §2.2); so does an address instead of a name.
func (m *MXPlan) webPKI() policy.Assurance {
	switch {
	case m.NeedPKIX:
		return policy.AssurancePolicy
	case m.tlsaUnusable, m.literal:
		return policy.AssuranceEncrypted
	case m.Secure:
		return policy.AssurancePolicy
	}
	return policy.AssuranceVerified
}

// rate sets the prediction from the hosts that are not ruled out. If every host
// is ruled out for good, nothing can be proved; if a retry may mend one, nothing
// is known.
func (p *Posture) rate() {
	p.Predicted, p.Best = policy.AssuranceUnknown, policy.AssuranceUnknown
	usable := slices.DeleteFunc(slices.Clone(p.MX), func(m MXPlan) bool { return m.Skip != nil })
	if len(usable) == 0 {
		if worst(skips(p.MX)).Class == PolicyFail {
			p.Predicted, p.Best = policy.AssuranceNone, policy.AssuranceNone
		}
		return
	}
	byAssurance := func(a, b MXPlan) int { return int(a.Assurance) - int(b.Assurance) }
	p.Predicted = slices.MinFunc(usable, byAssurance).Assurance
	p.Best = slices.MaxFunc(usable, byAssurance).Assurance
}

func skips(mx []MXPlan) []*Failure {
	var fs []*Failure
	for _, m := range mx {
		if m.Skip != nil {
			fs = append(fs, m.Skip)
		}
	}
	return fs
}

// keep is how long the evaluation may be remembered.
func (p *Posture) keep(now time.Time) time.Duration {
	d := maxKeep
	for _, m := range p.MX {
		d = min(d, m.ttl)
		if m.Skip != nil && m.Skip.Class == Unknown {
			d = min(d, failureKeep)
		}
	}
	d = max(d, minKeep)
	if !p.Policy.Expires.IsZero() && p.Policy.Expires.After(now) {
		d = min(d, p.Policy.Expires.Sub(now))
	}
	return d
}
