package tlscheck

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"slices"

	"github.com/phigate/phigate/policy"
)

// suiteGrades grades the suites worth offering; any other is weak. RFC 9325
// §4.2 asks for ECDHE with AES-GCM or ChaCha20; SP 800-52r2 §3.3.1 knows only
// the AES ones. CBC suites are weak here although RFC 9325 only advises against.
var suiteGrades = map[uint16]policy.Strength{
	tls.TLS_AES_128_GCM_SHA256:       policy.StrengthSP80052r2,
	tls.TLS_AES_256_GCM_SHA384:       policy.StrengthSP80052r2,
	tls.TLS_CHACHA20_POLY1305_SHA256: policy.StrengthBCP195,

	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       policy.StrengthSP80052r2,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       policy.StrengthSP80052r2,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         policy.StrengthSP80052r2,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         policy.StrengthSP80052r2,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: policy.StrengthBCP195,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   policy.StrengthBCP195,
}

// groupGrades grades key exchanges. The hybrids are approved because one of
// their halves is (SP 800-56C r2 §2); X25519 alone is not (SP 800-186).
var groupGrades = map[tls.CurveID]policy.Strength{
	tls.X25519MLKEM768:     policy.StrengthSP80052r2,
	tls.SecP256r1MLKEM768:  policy.StrengthSP80052r2,
	tls.SecP384r1MLKEM1024: policy.StrengthSP80052r2,
	tls.CurveP256:          policy.StrengthSP80052r2,
	tls.CurveP384:          policy.StrengthSP80052r2,
	tls.CurveP521:          policy.StrengthSP80052r2,
	tls.X25519:             policy.StrengthBCP195,
}

// strength grades a live connection: its weakest part counts. crypto/tls checks
// none of this for us: it takes RSA-1024 leaves, even in FIPS mode, on every
// connection that verifies for itself.
func strength(cs tls.ConnectionState) policy.Strength {
	if len(cs.PeerCertificates) == 0 || cs.Version < tls.VersionTLS12 {
		return policy.StrengthWeak
	}
	s := min(grade(suiteGrades, cs.CipherSuite), leafStrength(cs.PeerCertificates[0]))
	if cs.HandshakeComplete || cs.CurveID != 0 { // in the middle of TLS 1.2 it is not settled yet
		s = min(s, grade(groupGrades, cs.CurveID))
	}
	if s == policy.StrengthSP80052r2 && fips140.Enabled() {
		return policy.StrengthFIPS
	}
	return s
}

func grade[K comparable](table map[K]policy.Strength, k K) policy.Strength {
	if s, ok := table[k]; ok {
		return s
	}
	return policy.StrengthWeak
}

// leafStrength grades the key and the signature of the peer's certificate
// (RFC 9325 §4.5; SP 800-52r2 §3.2.1).
func leafStrength(c *x509.Certificate) policy.Strength {
	switch c.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.UnknownSignatureAlgorithm:
		return policy.StrengthWeak
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return policy.StrengthSP80052r2
		}
	case *ecdsa.PublicKey:
		if slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, k.Curve) {
			return policy.StrengthSP80052r2
		}
	case ed25519.PublicKey:
		return policy.StrengthBCP195
	}
	return policy.StrengthWeak
}

// offer restricts what the client hello offers to what the floor's strength can
// accept, so that a peer that could do better is made to. TLS 1.3 suites cannot
// be chosen (crypto/tls); what comes of them is graded afterwards.
func offer(cfg *tls.Config, floor policy.Strength) {
	cfg.MinVersion = tls.VersionTLS12
	if floor == policy.StrengthWeak {
		return
	}
	if floor == policy.StrengthUnknown {
		floor = policy.StrengthFIPS
	}
	want := min(floor, policy.StrengthSP80052r2)
	for _, s := range tls.CipherSuites() {
		if slices.Contains(s.SupportedVersions, uint16(tls.VersionTLS12)) {
			if grade(suiteGrades, s.ID) >= want {
				cfg.CipherSuites = append(cfg.CipherSuites, s.ID)
			}
		}
	}
	for _, g := range []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024,
		tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521} {
		if grade(groupGrades, g) >= want {
			cfg.CurvePreferences = append(cfg.CurvePreferences, g)
		}
	}
}
