package tlscheck

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// TLSA is one usable TLSA record (RFC 6698 §2.1), its data decoded.
type TLSA struct {
	Usage    uint8  `json:"usage"`    // 2 DANE-TA or 3 DANE-EE
	Selector uint8  `json:"selector"` // 0 certificate, 1 public key
	Matching uint8  `json:"matching"` // 0 all of it, 1 SHA-256, 2 SHA-512
	Data     []byte `json:"data"`
}

const (
	usageTA = 2
	usageEE = 3

	selectorCert = 0
	selectorSPKI = 1

	matchFull   = 0
	matchSHA256 = 1
	matchSHA512 = 2
)

// String is the record in zone-file form, long data cut.
func (t TLSA) String() string {
	d := hex.EncodeToString(t.Data)
	if len(d) > 16 {
		d = d[:16] + "…"
	}
	return fmt.Sprintf("%d %d %d %s", t.Usage, t.Selector, t.Matching, d)
}

// usable reports whether SMTP may use the record (RFC 7672 §3.1.3: usages 0 and
// 1 never; unknown numbers and wrong lengths never).
func (t TLSA) usable() bool {
	if t.Usage != usageTA && t.Usage != usageEE || t.Selector > selectorSPKI {
		return false
	}
	switch t.Matching {
	case matchFull:
		return len(t.Data) > 0
	case matchSHA256:
		return len(t.Data) == sha256.Size
	case matchSHA512:
		return len(t.Data) == sha512.Size
	}
	return false
}

// usableTLSA decodes a TLSA RRset and keeps what may be used: usable records,
// and of several digests for one (usage, selector) only the strongest
// (RFC 7671 §9). Records with the full data always count.
func usableTLSA(rrs []*dns.TLSA) []TLSA {
	type group struct{ usage, selector uint8 }
	strongest := map[group]uint8{}
	var all []TLSA
	for _, rr := range rrs {
		data, err := hex.DecodeString(rr.Certificate)
		t := TLSA{rr.Usage, rr.Selector, rr.MatchingType, data}
		if err != nil || !t.usable() {
			continue
		}
		g := group{t.Usage, t.Selector}
		strongest[g] = max(strongest[g], t.Matching)
		all = append(all, t)
	}
	var kept []TLSA
	for _, t := range all {
		if t.Matching == matchFull || t.Matching == strongest[group{t.Usage, t.Selector}] {
			kept = append(kept, t)
		}
	}
	return kept
}

// matches reports whether the record names this certificate.
func (t TLSA) matches(c *x509.Certificate) bool {
	part := c.Raw
	if t.Selector == selectorSPKI {
		part = c.RawSubjectPublicKeyInfo
	}
	switch t.Matching {
	case matchSHA256:
		d := sha256.Sum256(part)
		part = d[:]
	case matchSHA512:
		d := sha512.Sum512(part)
		part = d[:]
	}
	return bytes.Equal(part, t.Data)
}

var errNoTLSAMatch = errors.New("no TLSA record matches the certificate")

// verifyDANE checks a presented chain against TLSA records; one match suffices.
// names are those a DANE-TA certificate may carry (RFC 7672 §3.2.2). It returns
// the record that matched.
func verifyDANE(rrs []TLSA, chain []*x509.Certificate, names []string, now time.Time) (TLSA, error) {
	var errs []error
	for _, t := range rrs {
		// DANE-EE binds the key by DNSSEC alone: names, dates and issuers in
		// the certificate are ignored (RFC 7672 §3.1.1).
		if t.Usage == usageEE && t.matches(chain[0]) {
			return t, nil
		}
		if t.Usage == usageTA {
			err := verifyTA(t, chain, names, now)
			if err == nil {
				return t, nil
			}
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return TLSA{}, fmt.Errorf("%w: %w", errNoTLSAMatch, errs[0])
	}
	return TLSA{}, errNoTLSAMatch
}

var (
	errNoAnchor = errors.New("trust anchor of the TLSA record is not in the chain")
	errNoName   = errors.New("no name that the certificate may carry is known")
)

// verifyTA builds a path from the leaf to the anchor that t names
// (RFC 7672 §3.1.2): signatures, dates, path length, CA bits, key usage, name.
func verifyTA(t TLSA, chain []*x509.Certificate, names []string, now time.Time) error {
	roots := anchors(t, chain)
	if len(roots) == 0 {
		return errNoAnchor
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, r := range roots {
		o.Roots.AddCert(r)
	}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	err := errNoName
	for _, o.DNSName = range names {
		if o.DNSName == "" { // x509 would check no name at all
			continue
		}
		if _, err = chain[0].Verify(o); err == nil {
			return nil
		}
	}
	return err
}

// anchors returns the certificates that t makes trust anchors: issuers in the
// chain that it matches, the certificate it holds in full, and those signed by
// the bare key it holds in full. The leaf itself is no anchor.
func anchors(t TLSA, chain []*x509.Certificate) []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range chain[1:] {
		if t.matches(c) {
			out = append(out, c)
		}
	}
	if t.Matching != matchFull || len(out) > 0 {
		return out
	}
	if t.Selector == selectorCert {
		if c, err := x509.ParseCertificate(t.Data); err == nil {
			out = append(out, c)
		}
		return out
	}
	if c := signedByKey(t.Data, chain); c != nil {
		out = append(out, c)
	}
	return out
}

// signedByKey returns the certificate of the chain that the bare public key has
// signed: with it as root, the path ends where the anchor's signature begins.
func signedByKey(spki []byte, chain []*x509.Certificate) *x509.Certificate {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil
	}
	issuer := &x509.Certificate{PublicKey: key}
	for _, c := range chain {
		if issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			return c
		}
	}
	return nil
}
