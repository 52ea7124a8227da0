package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/phigate/phigate/internal/keys"
	"github.com/phigate/phigate/policy"
)

// CheckReport is what "gateway check" found. A site with problems does not
// start, or must not; warnings are worth a look.
type CheckReport struct {
	OK       bool     `json:"ok"`
	Problems []string `json:"problems"`
	Warnings []string `json:"warnings"`
	Tests    int      `json:"tests"`
	Rules    int      `json:"rules"`
}

func (r *CheckReport) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

func (r *CheckReport) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// Check reads everything a site is made of and says all that is wrong with it:
// files, keys, certificates, policy tests, and whether the policy can leak.
// progress is told how far the proof is.
func Check(ctx context.Context, cfg Config, now time.Time, progress func(done, total int)) (CheckReport, error) {
	r := CheckReport{Problems: []string{}, Warnings: []string{}}
	r.files(cfg, now)
	rules, err := LoadPolicy(cfg.Policy, now)
	if err != nil {
		r.problem("%v", err)
	} else if err := r.policy(ctx, cfg, rules, progress); err != nil {
		return r, err
	}
	r.OK = len(r.Problems) == 0
	return r, nil
}

// files checks what the configuration names.
func (r *CheckReport) files(cfg Config, now time.Time) {
	r.rootKey(cfg)
	for _, c := range []Certificate{cfg.Certificate, cfg.Portal.Certificate} {
		r.certificate(c, now)
	}
	if _, err := rootCAs(cfg.Delivery.ExtraRoots); err != nil {
		r.problem("%v", err)
	}
	if _, err := loadShaping(cfg.Delivery.Shaping); err != nil {
		r.problem("%v", err)
	}
	if cfg.Portal.Address == "" {
		r.warn("no portal is configured: mail that cannot leave safely will be refused (HG-E702, HG-E703)")
	}
}

// rootKey checks that the root key can be read and opens the key ring there is.
func (r *CheckReport) rootKey(cfg Config) {
	root, err := openRoot(cfg.Keys.Root)
	if err == nil {
		err = keys.Check(filepath.Join(cfg.Data, "keys"), root)
	}
	if err != nil {
		r.problem("%v", err)
	}
}

// certificateWarning is how long before its end a certificate is worth a warning.
const certificateWarning = 21 * 24 * time.Hour

func (r *CheckReport) certificate(c Certificate, now time.Time) {
	cert, err := loadCertificate(c)
	if err != nil {
		r.problem("%v", err)
	}
	if err != nil || cert == nil {
		return
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	switch {
	case err != nil:
		r.problem("certificate %s: %v", c.CertFile, err)
	case now.After(leaf.NotAfter):
		r.problem("certificate %s expired on %s", c.CertFile, leaf.NotAfter.Format(time.DateOnly))
	case now.After(leaf.NotAfter.Add(-certificateWarning)):
		r.warn("certificate %s expires on %s", c.CertFile, leaf.NotAfter.Format(time.DateOnly))
	}
}

// policy checks the rules: promise 9, then the site's own tests.
func (r *CheckReport) policy(ctx context.Context, cfg Config, rules *policy.Policy, progress func(done, total int)) error {
	leak, err := rules.Leaks(ctx, progress)
	if err != nil {
		return err
	}
	if leak != nil {
		r.problem("%v", leak)
	}
	for _, name := range rules.Unreachable() {
		r.warn("%s: rule %s can never match; the rules above it take all its mail", cfg.Policy, name)
	}
	for _, facts := range rules.Undecided(3) {
		r.warn("%s: no rule decides %s; such mail is held (HG-H600)", cfg.Policy, facts)
	}
	for _, s := range rules.Senders() {
		if s.StripTrackers {
			r.warn("sender %s: strip_trackers does not remove anything yet; its mail with unapproved hosts is refused (HG-T404)", s.Name)
		}
		if s.VERP && cfg.Bounces.Domain == "" {
			r.warn("sender %s: verp needs bounces.domain and bounces.address in gateway.yaml; its mail keeps its own return path", s.Name)
		}
		if s.Class == policy.ClassRefill {
			r.warn("sender %s: class refill states that its lists hold drugs current or lapsed by at most 90 days (45 CFR 164.501)", s.Name)
		}
	}
	inspect, err := Inspector(rules, cfg.Policy)
	if err != nil {
		r.problem("%v", err)
		return nil
	}
	r.tests(filepath.Join(filepath.Dir(cfg.Policy), "policy_test.yaml"), rules, inspect)
	return nil
}

func (r *CheckReport) tests(path string, rules *policy.Policy, inspect policy.Inspect) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		r.warn("%s: the policy has no tests", path)
		return
	}
	if err != nil {
		r.problem("%v", err)
		return
	}
	cases, problems := policy.ParseTests(path, data)
	if err := problems.Err(); err != nil {
		r.problem("%v", err)
		return
	}
	for _, c := range rules.RunTests(cases, inspect) {
		r.Tests++
		if c.Failed != "" {
			r.problem("%s: test %q: %s", c.Case.Where, c.Case.Name, c.Failed)
		}
	}
}

// Inspector reads the mails that policy tests name, relative to the folder of
// the policy, as the gateway reads mail.
func Inspector(rules *policy.Policy, policyPath string) (policy.Inspect, error) {
	scanner, err := newScanner(rules, policyPath)
	if err != nil {
		return nil, err
	}
	g := &Gateway{}
	g.scanner.Store(&scanner)
	g.policy.Store(rules)
	return func(c policy.Case, f policy.Facts) (policy.Facts, error) {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(policyPath), c.Mail))
		if err != nil {
			return f, err
		}
		return g.inspect(c, f, data)
	}, nil
}

// inspect replaces those of the given facts that depend on the message.
func (g *Gateway) inspect(c policy.Case, f policy.Facts, data []byte) (policy.Facts, error) {
	msg, err := lenient(data)
	if err != nil {
		return f, err
	}
	sender, ok := g.rules().Sender(c.Sender)
	if !ok {
		return f, errNoSender
	}
	r := g.readAs(context.Background(), &sender, msg)
	scan := r.doc.Judge(g.judgeContext(r, c.To))
	found := r.facts(scan, f.Now)
	found.Records, found.Trackers = f.Records, f.Trackers // of records, as all that follows
	found.BAA, found.Channel, found.Address, found.Unencrypted = f.BAA, f.Channel, f.Address, f.Unencrypted
	found.OptedOut, found.Consent, found.Released, found.Assurance = f.OptedOut, f.Consent, f.Released, f.Assurance
	found.Recipient = f.Recipient
	if f.Recipient == policy.RecipientIndividual && scan.People >= 2 {
		found.Recipient = policy.RecipientThirdParty
	}
	found.Form = r.form(found)
	return found, nil
}
