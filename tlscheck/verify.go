package tlscheck

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/phigate/phigate/policy"
)

// Evidence is what a connection proved, for the record. It names hosts and keys,
// never people or their mail.
type Evidence struct {
	Domain     string           `json:"domain"`
	MX         string           `json:"mx"`
	IP         string           `json:"ip,omitempty"`
	Assurance  policy.Assurance `json:"-"`
	Strength   policy.Strength  `json:"-"`
	Version    string           `json:"version,omitempty"` // "TLS 1.3"
	Suite      string           `json:"suite,omitempty"`
	Group      string           `json:"group,omitempty"`
	Leaf       string           `json:"leaf_sha256,omitempty"` // hex, of the certificate
	SPKI       string           `json:"spki_sha256,omitempty"` // hex, of its public key
	Issuer     string           `json:"issuer,omitempty"`
	SNI        string           `json:"sni,omitempty"`
	TLSA       string           `json:"tlsa,omitempty"` // the record that matched
	PolicyID   string           `json:"policy_id,omitempty"`
	PolicyMode string           `json:"policy_mode,omitempty"`
	Why        []Reason         `json:"why,omitempty"`
}

func (e *Evidence) note(step, rfc, result string, args ...any) {
	e.Why = append(e.Why, Reason{step, rfc, fmt.Sprintf(result, args...)})
}

// TLS reports whether the connection is encrypted at all.
func (e Evidence) TLS() bool { return e.Version != "" }

// record notes what was negotiated.
func (e *Evidence) record(cs tls.ConnectionState) {
	e.Version, e.Suite = tls.VersionName(cs.Version), tls.CipherSuiteName(cs.CipherSuite)
	if cs.CurveID != 0 {
		e.Group = cs.CurveID.String()
	}
	if len(cs.PeerCertificates) == 0 {
		return
	}
	leaf := cs.PeerCertificates[0]
	cert, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	e.Leaf, e.SPKI, e.Issuer = hex.EncodeToString(cert[:]), hex.EncodeToString(key[:]), leaf.Issuer.String()
}

// prove judges a finished handshake against the target. It fills e with what was
// proved whatever comes of it, and returns the Failure that forbids using the
// connection, if any: a demand of DANE, MTA-STS or a pin that is not met, or
// less than the floor.
func (c *Checker) prove(t Target, cs tls.ConnectionState, e *Evidence) *Failure {
	e.record(cs)
	if len(cs.PeerCertificates) == 0 {
		return &Failure{Class: PolicyFail, Reason: "peer showed no certificate", TLSRPT: "validation-failure"}
	}
	e.Strength = strength(cs)
	e.note("strength", "RFC 9325 §4", "%s: %s, %s, %s", e.Strength, e.Version, e.Suite, e.Group)
	pkix := c.provePKIX(t, cs, e)
	dane := c.proveDANE(t, cs, e)
	pin := provePin(t, cs, e)
	e.Assurance = proved(t.MX, pkix == nil, dane == nil, pin == nil)
	e.note("proved", "", "%s", e.Assurance)
	switch {
	case t.MX.NeedDANE && dane != nil:
		return dane
	case t.MX.NeedPKIX && pkix != nil:
		return pkix
	case pin != nil:
		return pin
	case t.Floor.Met(e.Assurance, e.Strength):
		return nil
	case e.Assurance < t.Floor.Max(policy.Open).Assurance && pkix != nil:
		return pkix
	}
	return &Failure{Class: PolicyFail, TLSRPT: "validation-failure",
		Reason: fmt.Sprintf("connection proves %s/%s, the floor is %s", e.Assurance, e.Strength, t.Floor)}
}

// proved is the assurance of a connection on which these checks passed.
func proved(m MXPlan, pkix, dane, pin bool) policy.Assurance {
	switch {
	case dane && m.NeedDANE, pin && len(m.pins) > 0:
		return policy.AssuranceDANE
	case pkix:
		return m.webPKI()
	}
	return policy.AssuranceEncrypted
}

// provePKIX checks the chain for the name of the MX host, which is the name
// MTA-STS wants too: not any name its policy lists (RFC 8461 §4.2).
func (c *Checker) provePKIX(t Target, cs tls.ConnectionState, e *Evidence) *Failure {
	o := x509.VerifyOptions{Roots: c.roots, Intermediates: x509.NewCertPool(), CurrentTime: c.now(), DNSName: t.MX.Host}
	for _, cert := range cs.PeerCertificates[1:] {
		o.Intermediates.AddCert(cert)
	}
	_, err := cs.PeerCertificates[0].Verify(o)
	if t.MX.Host == "" { // x509 would check no name at all
		err = errNoName
	}
	if err == nil {
		e.note("certificate", "RFC 8461 §4.2", "valid for %s", t.MX.Host)
		return nil
	}
	e.note("certificate", "RFC 8461 §4.2", "not valid for %s: %v", t.MX.Host, err)
	return &Failure{Class: PolicyFail, Reason: "certificate is not valid for " + t.MX.Host, RFC: "RFC 8461 §4.2", TLSRPT: certificateResult(err), Err: err}
}

// certificateResult names a verification error as RFC 8460 §4.3.2 does.
func certificateResult(err error) string {
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, new(x509.HostnameError)):
		return "certificate-host-mismatch"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "certificate-expired"
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "certificate-not-trusted"
	}
	return "validation-failure"
}

func (c *Checker) proveDANE(t Target, cs tls.ConnectionState, e *Evidence) *Failure {
	if !t.MX.NeedDANE {
		return nil
	}
	rr, err := verifyDANE(t.MX.TLSA, cs.PeerCertificates, t.MX.RefIDs, c.now())
	if err == nil {
		e.TLSA = rr.String()
		e.note("DANE", "RFC 7672 §3.1", "matches %s", rr)
		return nil
	}
	e.note("DANE", "RFC 7672 §3.1", "%v", err)
	return &Failure{Class: PolicyFail, Reason: "DANE validation failed", RFC: "RFC 7672 §2.2", TLSRPT: "validation-failure", Err: err}
}

func provePin(t Target, cs tls.ConnectionState, e *Evidence) *Failure {
	if len(t.MX.pins) == 0 {
		return nil
	}
	if pinned(t.MX.pins, cs.PeerCertificates[0]) {
		e.note("pin", "", "the key is one the administrator pinned")
		return nil
	}
	e.note("pin", "", "the key is none of those the administrator pinned")
	return &Failure{Class: PolicyFail, Reason: "key is not one of the pinned ones", TLSRPT: "validation-failure"}
}
