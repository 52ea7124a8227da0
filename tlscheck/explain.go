package tlscheck

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/phigate/phigate/policy"
)

// Explanation is the decision tree for one domain, as `gateway tls explain`
// shows it. Its JSON is a contract.
type Explanation struct {
	Domain    string            `json:"domain"`
	Assurance string            `json:"assurance"` // of the weakest host
	Strength  string            `json:"strength"`  // of the weakest host reached
	Why       []Reason          `json:"why"`       // what holds for all hosts
	MX        []HostExplanation `json:"mx"`
	Policy    ExplainedPolicy   `json:"policy"`
	Error     string            `json:"error,omitempty"` // why nothing can be said
}

// HostExplanation is the part of one host.
type HostExplanation struct {
	Host      string   `json:"host"`
	Assurance string   `json:"assurance"`
	Strength  string   `json:"strength"`
	Why       []Reason `json:"why"`
}

// ExplainedPolicy is the MTA-STS policy, empty if there is none.
type ExplainedPolicy struct {
	Mode    string `json:"mode"`
	ID      string `json:"id"`
	Expires string `json:"expires"`
}

// probeHello is what probes offer first: a peer able to meet the shipped floor
// then does.
const probeHello = policy.StrengthSP80052r2

// explainProbe is how long Explain waits for hosts.
const explainProbe = 20 * time.Second

// Explain evaluates a domain afresh and connects to each of its hosts, sending
// nothing but EHLO, STARTTLS and QUIT. The error is that of the evaluation; the
// Explanation is filled in as far as it went.
func (c *Checker) Explain(ctx context.Context, domain string) (Explanation, error) {
	p, err := c.lookAt(ctx, domain, true)
	if err == nil {
		c.probeAll(ctx, explainProbe, &p)
	}
	x := Explanation{Domain: p.Domain, Assurance: p.Predicted.String(), Strength: p.Strength.String(), Why: p.Why, MX: []HostExplanation{}}
	if err != nil {
		x.Error = err.Error()
	}
	if p.Policy.Mode != "" {
		x.Policy = ExplainedPolicy{p.Policy.Mode, p.Policy.ID, p.Policy.Expires.UTC().Format(time.RFC3339)}
	}
	for _, m := range p.MX {
		x.MX = append(x.MX, HostExplanation{m.Host, m.Assurance.String(), m.Strength.String(), m.Why})
	}
	return x, err
}

// probeAll connects to the hosts of a posture, all at once, and replaces what
// was expected of each by what it showed. A host that is not reached keeps its
// expectation.
func (c *Checker) probeAll(ctx context.Context, wait time.Duration, p *Posture) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	p.MX = slices.Clone(p.MX) // others read the remembered ones
	var wg sync.WaitGroup
	for i := range p.MX {
		if m := &p.MX[i]; m.Skip == nil {
			wg.Go(func() { c.probeHost(ctx, Target{Domain: p.Domain, MX: *m, Floor: policy.Open, Policy: p.Policy}, m) })
		}
	}
	wg.Wait()
	p.rate()
	p.Strength = policy.StrengthUnknown
	for _, m := range p.MX {
		if m.Strength != policy.StrengthUnknown && (p.Strength == policy.StrengthUnknown || m.Strength < p.Strength) {
			p.Strength = m.Strength
		}
	}
}

func (c *Checker) probeHost(ctx context.Context, t Target, m *MXPlan) {
	t.hello = probeHello
	e, err := c.probeOnce(ctx, t)
	if ClassOf(err) == PolicyFail && !e.TLS() {
		t.hello = policy.StrengthWeak // perhaps it only knows weaker TLS
		e, err = c.probeOnce(ctx, t)
	}
	m.Why = append(slices.Clip(m.Why), e.Why...)
	switch {
	case err == nil:
		m.Assurance, m.Strength = e.Assurance, e.Strength
	case ClassOf(err) != PolicyFail:
		m.note("probe", "", "not reached: what is said of this host is a prediction")
	case m.NeedTLS:
		m.Assurance, m.Strength, m.Skip = policy.AssuranceNone, e.Strength, asFailure(err)
		m.note("probe", m.Skip.RFC, "what is demanded of this host is not met: never used")
	default:
		m.Assurance, m.Strength = max(e.Assurance, policy.AssuranceNone), max(e.Strength, policy.StrengthWeak)
	}
}

// probeOnce connects, proves and takes its leave.
func (c *Checker) probeOnce(ctx context.Context, t Target) (Evidence, error) {
	conn, e, err := c.Dial(ctx, t)
	if err != nil {
		return e, err
	}
	conn.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(conn, "QUIT\r\n")
	conn.Close()
	return e, nil
}

// WriteTo writes the explanation as text of at most 100 columns.
func (x Explanation) WriteTo(w io.Writer) (int64, error) {
	var n int64
	line := func(format string, args ...any) error {
		k, err := fmt.Fprintf(w, format+"\n", args...)
		n += int64(k)
		return err
	}
	steps := func(indent string, rs []Reason) {
		for _, r := range rs {
			for i, s := range wrap(r.Result, 100-len(indent)-36) {
				if i == 0 {
					line("%s%-12s%-24s%s", indent, r.Step, cut(r.RFC, 23), s)
				} else {
					line("%s%-36s%s", indent, "", s)
				}
			}
		}
	}
	line("%s: %s, %s", cut(x.Domain, 60), x.Assurance, x.Strength)
	if x.Error != "" {
		for _, s := range wrap(x.Error, 96) {
			line("  ! %s", s)
		}
	}
	steps("  ", x.Why)
	for _, m := range x.MX {
		line("  %s: %s, %s", cut(m.Host, 60), m.Assurance, m.Strength)
		steps("    ", m.Why)
	}
	return n, line("  %s", cut(x.meaning(), 97))
}

// meaning says what the assurance does not cover, in words for everyone.
func (x Explanation) meaning() string {
	switch x.Assurance {
	case "none":
		return "Nothing is proved: mail with health information goes to pickup."
	case "encrypted":
		return "Mail would be encrypted, to a server that nobody vouches for."
	case "verified":
		return "The server's certificate is valid; that it is the domain's server rests on unsigned DNS."
	case "policy":
		return "The domain's own policy, signed DNS or your route names the server, and its certificate is valid."
	case "dane":
		return "The server's key is the one that signed DNS or your pin names."
	}
	return "Nothing is known: mail with a floor waits, then goes to pickup."
}
