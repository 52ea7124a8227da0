package tlscheck

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/phigate/phigate/policy"
)

// signedBed is a domain in a signed zone with one host; p.cert is what the host
// shows.
func signedBed(t *testing.T, p peer) (*bed, *fakeMX) {
	b, m := one(t, p)
	b.dns.sign("a.test")
	return b, m
}

func (b *bed) stranger(names ...string) *authority { return newAuthority(b.t, "Private CA") }

func TestR26_ADCountsOnlyFromLoopback(t *testing.T) {
	r, err := NewResolver([]string{"127.0.0.1:53", "[::1]:53", "192.0.2.1:53", "[2001:db8::1]:53", "[::ffff:127.0.0.1]:53"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, true, false, false, true} {
		if s := r.(*resolver).servers[i]; s.trusted != want {
			t.Errorf("%s trusted %t", s.addr, s.trusted)
		}
	}
	for _, bad := range [][]string{nil, {"localhost:53"}, {"127.0.0.1"}, {"127.0.0.1:53", ""}} {
		if _, err := NewResolver(bad); err == nil {
			t.Errorf("%q is taken for a resolver", bad)
		}
	}
	m := new(dns.Msg)
	m.AuthenticatedData = true
	if a := read(m, false); a.Secure != DNSUnvalidated {
		t.Errorf("AD of a stranger gives %s", a.Secure)
	}
}

func TestR26_QueryAsksForValidation(t *testing.T) {
	b := newBed(t)
	b.dns.add("a.test. 300 IN A 192.0.2.1")
	c := b.checker()
	c.resolver.Lookup(t.Context(), "a.test", dns.TypeA)
	q := b.dns.query()
	if o := q.IsEdns0(); o == nil || !o.Do() || o.UDPSize() != 1232 || !q.AuthenticatedData || q.CheckingDisabled || !q.RecursionDesired {
		t.Errorf("query %v", q)
	}
}

func TestR26_FiveStates(t *testing.T) {
	b := newBed(t)
	b.dns.sign("s.test")
	b.dns.add("s.test. 300 IN A 192.0.2.1", "i.test. 300 IN A 192.0.2.1", "big.s.test. 7 IN A 192.0.2.1", "old.s.test. 300 IN A 192.0.2.1",
		"to-i.s.test. 300 IN CNAME i.test.", "other.s.test. 300 IN A 192.0.2.1")
	b.dns.fail("bogus.test. A", fault{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeSignatureExpired})
	b.dns.fail("broken.test. A", fault{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeNetworkError})
	b.dns.fail("refused.test. A", fault{rcode: dns.RcodeRefused})
	b.dns.fail("silent.test. A", fault{drop: true})
	b.dns.fail("big.s.test. A", fault{truncate: true})
	b.dns.fail("old.s.test. A", fault{noEDNS: true})
	b.dns.fail("other.s.test. A", fault{other: true})
	c := b.checker()
	for name, want := range map[string]struct {
		secure Security
		n      int
		nx     bool
	}{
		"s.test": {DNSSecure, 1, false}, "i.test": {DNSInsecure, 1, false}, "bogus.test": {DNSBogus, 0, false},
		"broken.test": {DNSIndeterminate, 0, false}, "refused.test": {DNSIndeterminate, 0, false}, "silent.test": {DNSIndeterminate, 0, false},
		"big.s.test": {DNSSecure, 1, false}, "old.s.test": {DNSSecure, 1, false}, "to-i.s.test": {DNSInsecure, 1, false},
		"none.s.test": {DNSSecure, 0, true}, "none.i.test": {DNSInsecure, 0, true}, "other.s.test": {DNSIndeterminate, 0, false},
	} {
		a, err := c.resolver.Lookup(t.Context(), name, dns.TypeA)
		if err != nil || a.Secure != want.secure || len(records[*dns.A](a)) != want.n || a.NXDomain() != want.nx {
			t.Errorf("%s: %s, %d records, NXDOMAIN %t, %v", name, a.Secure, len(a.RRs), a.NXDomain(), err)
		}
	}
}

func TestR27_FailedLookupsAreNeverNoDANE(t *testing.T) {
	servfail := fault{rcode: dns.RcodeServerFailure}
	for name, tc := range map[string]struct {
		k string
		f fault
	}{
		"MX SERVFAIL":   {"a.test. MX", servfail},
		"MX bogus":      {"a.test. MX", fault{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeDNSBogus}},
		"MX times out":  {"a.test. MX", fault{drop: true}},
		"MX refused":    {"a.test. MX", fault{rcode: dns.RcodeRefused}},
		"TLSA SERVFAIL": {"_25._tcp.mx.a.test. TLSA", servfail},
		"TLSA bogus":    {"_25._tcp.mx.a.test. TLSA", fault{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeDNSBogus}},
		"TLSA drop":     {"_25._tcp.mx.a.test. TLSA", fault{drop: true}},
		"TLSA refused":  {"_25._tcp.mx.a.test. TLSA", fault{rcode: dns.RcodeRefused}},
		"TLSA NOTIMP":   {"_25._tcp.mx.a.test. TLSA", fault{rcode: dns.RcodeNotImplemented}},
		"A SERVFAIL":    {"mx.a.test. A", servfail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, m := signedBed(t, peer{})
			b.sts("a.test", "1", enforce+"mx: mx.a.test\n") // MTA-STS is no way around it
			b.dns.fail(tc.k, tc.f)
			c := b.checker()
			for _, f := range []policy.Floor{policy.Open, verified, named} {
				_, err := send(t, c, "a.test", f)
				wantClass(t, err, Unknown)
			}
			if m.said() != "" {
				t.Errorf("connected: %q", m.said())
			}
			if p, _ := c.Posture(t.Context(), "a.test"); p.Predicted != policy.AssuranceUnknown || p.Best != policy.AssuranceUnknown {
				t.Errorf("predicted %s, best %s", p.Predicted, p.Best)
			}
		})
	}
}

func TestR27_OneBrokenHostDoesNotStopTheOthers(t *testing.T) {
	b, _ := signedBed(t, peer{})
	b.domain("a.test", "mx2.a.test")
	m2 := b.mx("mx2.a.test", peer{})
	b.tlsa("mx2.a.test", usageEE, m2.cert.Leaf)
	b.dns.fail("_25._tcp.mx.a.test. TLSA", fault{rcode: dns.RcodeServerFailure})
	e, err := send(t, b.checker(), "a.test", verified)
	wantAssurance(t, e, err, policy.AssuranceDANE)
	if e.MX != "mx2.a.test" {
		t.Errorf("went to %s", e.MX)
	}
}

func TestR28_InsecureMXGivesNoDANE(t *testing.T) {
	b := newBed(t)
	b.domain("plain.test", "mx.a.test")
	m := b.mx("mx.a.test", peer{})
	b.dns.sign("a.test")
	b.tlsa("mx.a.test", usageEE, m.cert.Leaf)
	e, err := send(t, b.checker(), "plain.test", verified)
	wantAssurance(t, e, err, policy.AssuranceVerified)
	if b.dns.count("_25._tcp.mx.a.test. TLSA") != 0 {
		t.Error("TLSA was asked for")
	}
}

func TestSecureMXWithWebPKIIsPolicy(t *testing.T) {
	b, _ := signedBed(t, peer{})
	e, err := send(t, b.checker(), "a.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
}

func TestR29_InsecureAddressMeansNoTLSAQuestion(t *testing.T) {
	b := newBed(t)
	b.domain("a.test", "mx.plain.test")
	b.dns.sign("a.test")
	b.mx("mx.plain.test", peer{})
	b.dns.fail("_25._tcp.mx.plain.test. TLSA", fault{rcode: dns.RcodeServerFailure}) // as many unsigned providers do
	e, err := send(t, b.checker(), "a.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
	if b.dns.count("_25._tcp.mx.plain.test. TLSA") != 0 {
		t.Error("TLSA was asked for")
	}
}

func TestR29_SecureAliasOfInsecureHost(t *testing.T) {
	b := newBed(t)
	b.domain("a.test", "mx.a.test")
	b.dns.sign("a.test")
	b.dns.add("mx.a.test. 300 IN CNAME host.plain.test.")
	m := b.mx("host.plain.test", peer{cert: b.ca.issue(t, leaf{names: []string{"unrelated.test"}})})
	b.tlsa("mx.a.test", usageEE, m.cert.Leaf)
	e, err := send(t, b.checker(), "a.test", daneFloor)
	wantAssurance(t, e, err, policy.AssuranceDANE)
	if e.SNI != "mx.a.test" || m.names()[0] != "mx.a.test" {
		t.Errorf("SNI %q", m.names())
	}
	if b.dns.count("_25._tcp.host.plain.test. TLSA") != 0 {
		t.Error("asked below an insecure name")
	}
}

func TestR30_SecureAliasExpandedNameFirst(t *testing.T) {
	for _, at := range []string{"host.b.test", "mx.a.test"} {
		b := newBed(t)
		b.domain("a.test", "mx.a.test")
		b.dns.sign("a.test", "b.test")
		b.dns.add("mx.a.test. 300 IN CNAME host.b.test.")
		m := b.mx("host.b.test", peer{})
		b.tlsa(at, usageEE, m.cert.Leaf)
		e, err := send(t, b.checker(), "a.test", daneFloor)
		wantAssurance(t, e, err, policy.AssuranceDANE)
		if e.SNI != at {
			t.Errorf("records at %s: SNI %s", at, e.SNI)
		}
		if n := b.dns.count("_25._tcp.mx.a.test. TLSA"); (n > 0) != (at == "mx.a.test") {
			t.Errorf("records at %s: %d questions for the original name", at, n)
		}
	}
}

func TestR30_TLSAOwnerMayBeAnAlias(t *testing.T) {
	b, m := signedBed(t, peer{})
	b.dns.sign("tlsa.test")
	d := sha256.Sum256(m.cert.Leaf.RawSubjectPublicKeyInfo)
	b.dns.add("_25._tcp.mx.a.test. 300 IN CNAME shared.tlsa.test.", "shared.tlsa.test. 300 IN TLSA 3 1 1 "+hex.EncodeToString(d[:]))
	e, err := send(t, b.checker(), "a.test", daneFloor)
	wantAssurance(t, e, err, policy.AssuranceDANE)
}

func TestR30_InsecureTLSAIsNoTLSA(t *testing.T) {
	b, _ := signedBed(t, peer{})
	d := sha256.Sum256([]byte("a key of the attacker"))
	b.dns.add("_25._tcp.mx.a.test. 300 IN CNAME shared.plain.test.", "shared.plain.test. 300 IN TLSA 3 1 1 "+hex.EncodeToString(d[:]))
	e, err := send(t, b.checker(), "a.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
}

func TestR31_UnusableRecordsMeanTLSWithoutAuthentication(t *testing.T) {
	b, _ := signedBed(t, peer{})
	b.dns.add("_25._tcp.mx.a.test. 300 IN TLSA 1 1 1 " + hex.EncodeToString(make([]byte, 32)))
	c := b.checker()
	_, err := send(t, c, "a.test", verified)
	wantClass(t, err, PolicyFail)
	e, err := send(t, c, "a.test", policy.Floor{Assurance: policy.AssuranceEncrypted, Strength: policy.StrengthBCP195})
	wantAssurance(t, e, err, policy.AssuranceEncrypted)
}

func TestR31_UsableRecordsForbidClearText(t *testing.T) {
	for name, p := range map[string]peer{"no STARTTLS": {ehlo: []string{"SIZE 1"}}, "other key": {}} {
		b, _ := signedBed(t, p)
		b.tlsa("mx.a.test", usageEE, b.ca.issue(t, leaf{names: []string{"mx.a.test"}}).Leaf)
		c := b.checker()
		for _, f := range []policy.Floor{verified, daneFloor} {
			_, err := send(t, c, "a.test", f)
			wantClass(t, err, PolicyFail)
		}
		plan, err := c.Plan(t.Context(), "a.test", policy.Open)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.DialOpen(t.Context(), plan.Targets[0]); err == nil || ClassOf(err) != PolicyFail {
			t.Errorf("%s: open mail: %v", name, err)
		}
	}
}

func TestR32_ImplicitMX(t *testing.T) {
	b := newBed(t)
	b.dns.sign("a.test", "x.test")
	m := b.mx("a.test", peer{})
	b.tlsa("a.test", usageEE, m.cert.Leaf)
	e, err := send(t, b.checker(), "a.test", daneFloor) // secure NODATA
	wantAssurance(t, e, err, policy.AssuranceDANE)

	mx := b.mx("x.test", peer{})
	b.tlsa("x.test", usageEE, mx.cert.Leaf)
	yes := true
	b.dns.fail("x.test. MX", fault{rcode: dns.RcodeNameError, ad: &yes})
	e, err = send(t, b.checker(), "x.test", verified) // denied by name
	wantAssurance(t, e, err, policy.AssuranceVerified)
}

func TestR33_Usable(t *testing.T) {
	h := func(n int) string { return hex.EncodeToString(make([]byte, n)) }
	for name, tc := range map[string]struct {
		rr   dns.TLSA
		want bool
	}{
		"3 1 1":          {dns.TLSA{Usage: 3, Selector: 1, MatchingType: 1, Certificate: h(32)}, true},
		"2 0 2":          {dns.TLSA{Usage: 2, Selector: 0, MatchingType: 2, Certificate: h(64)}, true},
		"3 0 0":          {dns.TLSA{Usage: 3, Selector: 0, MatchingType: 0, Certificate: h(9)}, true},
		"upper-case hex": {dns.TLSA{Usage: 3, Selector: 1, MatchingType: 1, Certificate: fmt.Sprintf("%064X", 0xABCDEF)}, true},
		"usage 0":        {dns.TLSA{Usage: 0, Selector: 1, MatchingType: 1, Certificate: h(32)}, false},
		"usage 1":        {dns.TLSA{Usage: 1, Selector: 1, MatchingType: 1, Certificate: h(32)}, false},
		"usage 4":        {dns.TLSA{Usage: 4, Selector: 1, MatchingType: 1, Certificate: h(32)}, false},
		"selector 2":     {dns.TLSA{Usage: 3, Selector: 2, MatchingType: 1, Certificate: h(32)}, false},
		"matching 3":     {dns.TLSA{Usage: 3, Selector: 1, MatchingType: 3, Certificate: h(32)}, false},
		"short SHA-256":  {dns.TLSA{Usage: 3, Selector: 1, MatchingType: 1, Certificate: h(31)}, false},
		"SHA-512 as 256": {dns.TLSA{Usage: 3, Selector: 1, MatchingType: 1, Certificate: h(64)}, false},
		"SHA-256 as 512": {dns.TLSA{Usage: 3, Selector: 1, MatchingType: 2, Certificate: h(32)}, false},
		"empty full":     {dns.TLSA{Usage: 3, Selector: 0, MatchingType: 0}, false},
		"odd hex":        {dns.TLSA{Usage: 3, Selector: 1, MatchingType: 1, Certificate: "abc"}, false},
	} {
		if got := len(usableTLSA([]*dns.TLSA{&tc.rr})) == 1; got != tc.want {
			t.Errorf("%s usable %t", name, got)
		}
	}
}

// pki is a root, an intermediate and a leaf for the verification table.
type pki struct {
	root, inter *authority
	leaf        *x509.Certificate
}

func newPKI(t *testing.T, l leaf) (pki, []*x509.Certificate) {
	root := newAuthority(t, "Root")
	inter := root.sub(t, "Intermediate", newKey(t))
	c := inter.issue(t, l)
	return pki{root, inter, c.Leaf}, []*x509.Certificate{c.Leaf, inter.cert, root.cert}
}

func digest(usage, selector, matching uint8, c *x509.Certificate) TLSA {
	part := c.Raw
	if selector == selectorSPKI {
		part = c.RawSubjectPublicKeyInfo
	}
	switch matching {
	case matchSHA256:
		d := sha256.Sum256(part)
		part = d[:]
	case matchSHA512:
		d := sha512.Sum512(part)
		part = d[:]
	}
	return TLSA{usage, selector, matching, part}
}

func TestR34toR38_Verification(t *testing.T) {
	good, chain := newPKI(t, leaf{names: []string{"mx.a.test", "*.wild.test"}})
	old, oldChain := newPKI(t, leaf{names: []string{"mx.a.test"}, expired: true})
	other, _ := newPKI(t, leaf{names: []string{"mx.a.test"}})
	_, elsewhere := newPKI(t, leaf{names: []string{"mx.a.test"}})
	names := []string{"mx.a.test"}
	for name, tc := range map[string]struct {
		rrs   []TLSA
		chain []*x509.Certificate
		names []string
		ok    bool
	}{
		"R34 EE key":                     {[]TLSA{digest(3, 1, 1, good.leaf)}, chain, names, true},
		"R34 EE certificate, SHA-512":    {[]TLSA{digest(3, 0, 2, good.leaf)}, chain, names, true},
		"R34 EE full certificate":        {[]TLSA{digest(3, 0, 0, good.leaf)}, chain, names, true},
		"R34 EE full key":                {[]TLSA{digest(3, 1, 0, good.leaf)}, chain, names, true},
		"R34 EE ignores the name":        {[]TLSA{digest(3, 1, 1, good.leaf)}, chain, []string{"x.test"}, true},
		"R34 EE ignores expiry":          {[]TLSA{digest(3, 1, 1, old.leaf)}, oldChain, names, true},
		"R34 EE ignores the chain":       {[]TLSA{digest(3, 1, 1, good.leaf)}, chain[:1], names, true},
		"R34 EE of an issuer":            {[]TLSA{digest(3, 1, 1, good.inter.cert)}, chain, names, false},
		"R34 EE of another":              {[]TLSA{digest(3, 1, 1, other.leaf)}, chain, names, false},
		"R35 TA root":                    {[]TLSA{digest(2, 0, 1, good.root.cert)}, chain, names, true},
		"R35 TA root key":                {[]TLSA{digest(2, 1, 1, good.root.cert)}, chain, names, true},
		"R35 TA intermediate":            {[]TLSA{digest(2, 1, 2, good.inter.cert)}, chain, names, true},
		"R35 TA chain out of order":      {[]TLSA{digest(2, 1, 1, good.root.cert)}, []*x509.Certificate{chain[0], chain[2], chain[1]}, names, true},
		"R35 TA digest, not presented":   {[]TLSA{digest(2, 0, 1, good.root.cert)}, chain[:2], names, false},
		"R35 TA full, not presented":     {[]TLSA{digest(2, 0, 0, good.root.cert)}, chain[:2], names, true},
		"R35 TA bare key, not presented": {[]TLSA{digest(2, 1, 0, good.root.cert)}, chain[:2], names, true},
		"R35 TA bare key of the issuer":  {[]TLSA{digest(2, 1, 0, good.inter.cert)}, chain[:1], names, true},
		"R35 TA bare key, wrong name":    {[]TLSA{digest(2, 1, 0, good.inter.cert)}, chain[:1], []string{"x.test"}, false},
		"R35 TA bare key of another":     {[]TLSA{digest(2, 1, 0, other.root.cert)}, chain, names, false},
		"R35 TA unused in the chain":     {[]TLSA{digest(2, 1, 1, other.root.cert)}, append(chain[:3:3], other.root.cert), names, false},
		"R35 TA expired leaf":            {[]TLSA{digest(2, 1, 1, old.root.cert)}, oldChain, names, false},
		"R35 TA leaf is no anchor":       {[]TLSA{digest(2, 1, 1, good.leaf)}, chain, names, false},
		"R35 TA gap in the chain":        {[]TLSA{digest(2, 1, 1, good.root.cert)}, []*x509.Certificate{chain[0], chain[2]}, names, false},
		"R35 TA of another CA":           {[]TLSA{digest(2, 1, 1, other.root.cert)}, elsewhere, names, false},
		"R35 TA issuer that is no CA":    {[]TLSA{digest(2, 1, 1, other.leaf)}, append(chain[:1:1], other.leaf), names, false},
		"R36 TA second name":             {[]TLSA{digest(2, 1, 1, good.root.cert)}, chain, []string{"x.test", "mx.a.test"}, true},
		"R36 TA wildcard":                {[]TLSA{digest(2, 1, 1, good.root.cert)}, chain, []string{"mx.wild.test"}, true},
		"R36 TA no such name":            {[]TLSA{digest(2, 1, 1, good.root.cert)}, chain, []string{"x.test", "a.test"}, false},
		"R36 TA no name at all":          {[]TLSA{digest(2, 1, 1, good.root.cert)}, chain, nil, false},
		"R36 TA empty name":              {[]TLSA{digest(2, 1, 1, good.root.cert)}, chain, []string{""}, false},
		"R38 one of several":             {[]TLSA{digest(3, 1, 1, other.leaf), digest(2, 1, 1, other.root.cert), digest(2, 1, 1, good.root.cert)}, chain, names, true},
		"R38 EE beside a failing TA":     {[]TLSA{digest(2, 1, 1, old.root.cert), digest(3, 1, 1, old.leaf)}, oldChain, names, true},
		"garbage full certificate":       {[]TLSA{{2, 0, 0, []byte{1, 2, 3}}}, chain, names, false},
		"garbage full key":               {[]TLSA{{2, 1, 0, []byte{1, 2, 3}}}, chain, names, false},
		"no records":                     {nil, chain, names, false},
	} {
		rr, err := verifyDANE(tc.rrs, tc.chain, tc.names, time.Now())
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && !errors.Is(err, errNoTLSAMatch) || err == nil && rr.Data == nil {
			t.Errorf("%s: record %v, %v", name, rr, err)
		}
	}
}

func TestR36_NamesOfNextHop(t *testing.T) {
	for name, tc := range map[string]struct {
		cert string
		ok   bool
	}{"TLSA base": {"mx.a.test", true}, "next-hop domain": {"a.test", true}, "alias of it": {"mail.a.test", true}, "neither": {"www.a.test", false}} {
		b := newBed(t)
		b.dns.sign("a.test")
		b.dns.add("mail.a.test. 300 IN CNAME a.test.")
		b.domain("a.test", "mx.a.test")
		ca := b.stranger()
		m := b.mx("mx.a.test", peer{cert: ca.issue(t, leaf{names: []string{tc.cert}, chain: []*x509.Certificate{ca.cert}})})
		_ = m
		b.tlsa("mx.a.test", usageTA, ca.cert)
		e, err := send(t, b.checker(), "mail.a.test", daneFloor)
		if tc.ok {
			wantAssurance(t, e, err, policy.AssuranceDANE)
		} else {
			t.Log(name)
			wantClass(t, err, PolicyFail)
		}
	}
}

func TestR37_SNIIsTheTLSABase(t *testing.T) {
	b, m := signedBed(t, peer{})
	b.tlsa("mx.a.test", usageEE, m.cert.Leaf)
	e, err := send(t, b.checker(), "a.test", daneFloor)
	wantAssurance(t, e, err, policy.AssuranceDANE)
	if m.names()[0] != "mx.a.test" || e.TLSA == "" {
		t.Errorf("SNI %q, evidence %+v", m.names(), e)
	}
}

func TestR39_DigestAgility(t *testing.T) {
	good, chain := newPKI(t, leaf{names: []string{"mx.a.test"}})
	other, _ := newPKI(t, leaf{names: []string{"mx.a.test"}})
	rr := func(t TLSA) *dns.TLSA {
		return &dns.TLSA{Usage: t.Usage, Selector: t.Selector, MatchingType: t.Matching, Certificate: hex.EncodeToString(t.Data)}
	}
	for name, tc := range map[string]struct {
		rrs  []*dns.TLSA
		kept int
		ok   bool
	}{
		"weak digest right, strong wrong":          {[]*dns.TLSA{rr(digest(3, 1, 1, good.leaf)), rr(digest(3, 1, 2, other.leaf))}, 1, false},
		"strong right, weak wrong":                 {[]*dns.TLSA{rr(digest(3, 1, 1, other.leaf)), rr(digest(3, 1, 2, good.leaf))}, 1, true},
		"full always counts":                       {[]*dns.TLSA{rr(digest(3, 1, 0, good.leaf)), rr(digest(3, 1, 2, other.leaf))}, 2, true},
		"another selector is another matter":       {[]*dns.TLSA{rr(digest(3, 0, 1, good.leaf)), rr(digest(3, 1, 2, other.leaf))}, 2, true},
		"another usage is another matter":          {[]*dns.TLSA{rr(digest(2, 1, 1, good.root.cert)), rr(digest(3, 1, 2, other.leaf))}, 2, true},
		"an unusable strong digest does not count": {[]*dns.TLSA{rr(digest(3, 1, 1, good.leaf)), {Usage: 3, Selector: 1, MatchingType: 2, Certificate: "00"}}, 1, true},
	} {
		kept := usableTLSA(tc.rrs)
		_, err := verifyDANE(kept, chain, []string{"mx.a.test"}, time.Now())
		if len(kept) != tc.kept || (err == nil) != tc.ok {
			t.Errorf("%s: kept %v, %v", name, kept, err)
		}
	}
}

func TestR19_BothMustPass(t *testing.T) {
	for name, tc := range map[string]struct {
		dane, pkix bool
	}{"both": {true, true}, "DANE fails": {false, true}, "certificate fails": {true, false}} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.domain("a.test", "mx.a.test")
			b.dns.sign("a.test")
			b.sts("a.test", "1", enforce+"mx: mx.a.test\n")
			ca := b.ca
			if !tc.pkix {
				ca = b.stranger()
			}
			m := b.mx("mx.a.test", peer{cert: ca.issue(t, leaf{names: []string{"mx.a.test"}})})
			pinned := m.cert.Leaf
			if !tc.dane {
				pinned = b.ca.cert
			}
			b.tlsa("mx.a.test", usageEE, pinned)
			e, err := send(t, b.checker(), "a.test", verified)
			if tc.dane && tc.pkix {
				wantAssurance(t, e, err, policy.AssuranceDANE)
			} else {
				wantClass(t, err, PolicyFail)
			}
		})
	}
}

// One host with DANE, one without: DANE where it applies, else the certificate.
func TestR19_PerHost(t *testing.T) {
	b := newBed(t)
	b.domain("a.test", "mx1.a.test", "mx2.plain.test")
	b.dns.sign("a.test")
	m := b.mx("mx1.a.test", peer{cert: b.stranger().issue(t, leaf{names: []string{"mx1.a.test"}})})
	b.mx("mx2.plain.test", peer{})
	b.tlsa("mx1.a.test", usageEE, m.cert.Leaf)
	c := b.checker()
	p, err := c.Posture(t.Context(), "a.test")
	if err != nil || p.Predicted != policy.AssurancePolicy || p.Best != policy.AssuranceDANE {
		t.Fatalf("predicted %s, best %s, %v", p.Predicted, p.Best, err)
	}
	e, err := send(t, c, "a.test", daneFloor)
	wantAssurance(t, e, err, policy.AssuranceDANE)
	b.dns.set("_25._tcp.mx1.a.test. TLSA")
	_, err = c.Plan(t.Context(), "a.test", daneFloor)
	if err != nil {
		t.Errorf("the remembered plan is gone: %v", err)
	}
	e, err = send(t, b.checker(), "a.test", verified) // mx1 no longer proves anything, mx2 does
	wantAssurance(t, e, err, policy.AssurancePolicy)
	if e.MX != "mx2.plain.test" {
		t.Errorf("went to %s", e.MX)
	}
}

func TestR40_DANERequiredAndUnavailable(t *testing.T) {
	b, _ := signedBed(t, peer{})
	_, err := send(t, b.checker(), "a.test", daneFloor)
	wantClass(t, err, PolicyFail)
}

func TestSelfTest(t *testing.T) {
	for name, tc := range map[string]struct {
		set    func(*bed)
		broken bool
	}{
		"validates": {func(b *bed) {
			b.dns.sign("signed.test")
			b.dns.fail("bogus.test. A", fault{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeDNSBogus})
		}, false},
		"no AD on signed":      {func(b *bed) {}, true},
		"bogus is answered":    {func(b *bed) { b.dns.sign("signed.test"); b.dns.add("bogus.test. 300 IN A 192.0.2.1") }, true},
		"network without them": {func(b *bed) { b.dns.set("signed.test. SOA") }, false},
		"no network":           {func(b *bed) { b.dns.fail("signed.test. SOA", fault{rcode: dns.RcodeServerFailure}) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := one(t, peer{})
			b.dns.add("signed.test. 300 IN SOA ns.test. h.test. 1 1 1 1 1")
			tc.set(b)
			c := b.checker(func(o *Options) { o.Signed, o.Bogus = "signed.test", "bogus.test" })
			c.selfTest(t.Context())
			p, err := c.Posture(t.Context(), "a.test")
			if broken := p.Predicted == policy.AssuranceUnknown; broken != tc.broken || broken && ClassOf(err) != Unknown {
				t.Errorf("predicted %s, %v", p.Predicted, err)
			}
			if _, err := c.Plan(t.Context(), "a.test", verified); (err != nil) != tc.broken {
				t.Errorf("plan with floor: %v", err)
			}
			if _, err := c.Plan(t.Context(), "a.test", policy.Open); err != nil {
				t.Errorf("plan without floor: %v", err)
			}
		})
	}
}

func TestUnvalidatedResolverProvesNoDANE(t *testing.T) {
	b, m := signedBed(t, peer{})
	b.tlsa("mx.a.test", usageEE, m.cert.Leaf)
	c := b.checker()
	c.resolver.(*resolver).servers[0].trusted = false // as if it were on another machine
	_, err := c.Plan(t.Context(), "a.test", daneFloor)
	wantClass(t, err, Unknown)
	e, err := send(t, c, "a.test", verified)
	wantAssurance(t, e, err, policy.AssuranceVerified)
}

func TestPins(t *testing.T) {
	b, m := one(t, peer{cert: newAuthority(t, "Private").issue(t, leaf{names: []string{"x.test"}})})
	d := sha256.Sum256(m.cert.Leaf.RawSubjectPublicKeyInfo)
	right, wrong := hex.EncodeToString(d[:]), hex.EncodeToString(make([]byte, 32))
	with := func(pins ...string) *Checker {
		return b.checker(func(o *Options) { o.Routes = []Route{{Domain: "*.test", PinSPKI: pins}} })
	}
	e, err := send(t, with(wrong, right), "a.test", daneFloor)
	wantAssurance(t, e, err, policy.AssuranceDANE)
	_, err = send(t, with(wrong), "a.test", policy.Floor{Assurance: policy.AssuranceEncrypted, Strength: policy.StrengthWeak})
	wantClass(t, err, PolicyFail)
	p, err := with(wrong).Plan(t.Context(), "a.test", policy.Open)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.checker().DialOpen(t.Context(), p.Targets[0]); ClassOf(err) != PolicyFail || err == nil {
		t.Errorf("a pin does not bind mail without a floor: %v", err)
	}
	_, err = New(Options{Hostname: "gw.test", Cache: b.cache, Resolver: answers(nil), Routes: []Route{{Domain: "a.test", PinSPKI: []string{"zz"}}, {Domain: "b.test"}}})
	if err == nil {
		t.Error("a malformed pin and an empty route are taken")
	}
}

func TestRouteWithPort(t *testing.T) {
	b := newBed(t)
	m := b.mx("relay.test", peer{})
	b.hosts[m.ip+":587"] = m.addr
	c := b.checker(func(o *Options) { o.Routes = []Route{{Domain: "*.partner.test", Host: "relay.test", Port: 587}} })
	e, err := send(t, c, "deep.sub.partner.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
	if b.dialled(m.ip+":587") != 1 {
		t.Error("not sent to the port of the route")
	}
	if r := c.route("partner.test"); r != nil {
		t.Error("*.partner.test covers partner.test")
	}
}

func TestRouteToAnAddress(t *testing.T) {
	b := newBed(t)
	m := b.mx("relay.test", peer{})
	pin := sha256.Sum256(m.cert.Leaf.RawSubjectPublicKeyInfo)
	r := Route{Domain: "*", Host: m.ip}
	with := func(r Route) *Checker { return b.checker(func(o *Options) { o.Routes = []Route{r} }) }
	_, err := send(t, with(r), "a.test", verified) // the certificate names a host, not the address
	wantClass(t, err, PolicyFail)
	r.PinSPKI = []string{hex.EncodeToString(pin[:])}
	e, err := send(t, with(r), "a.test", daneFloor)
	wantAssurance(t, e, err, policy.AssuranceDANE)
}

func FuzzTLSA(f *testing.F) {
	f.Add(uint8(3), uint8(1), uint8(1), "00")
	f.Add(uint8(2), uint8(1), uint8(0), "3059301306072a8648ce3d020106082a8648ce3d03010703420004")
	ca := newAuthority(f, "Fuzz CA")
	f.Fuzz(func(t *testing.T, usage, selector, matching uint8, data string) {
		kept := usableTLSA([]*dns.TLSA{{Usage: usage, Selector: selector, MatchingType: matching, Certificate: data}})
		if len(kept) == 1 && (kept[0].Usage < 2 || kept[0].Usage > 3) {
			t.Errorf("kept %v", kept)
		}
		if _, err := verifyDANE(kept, []*x509.Certificate{ca.cert, ca.cert}, []string{"a.test"}, time.Now()); err == nil {
			t.Error("made-up record verified")
		}
	})
}
