package tlscheck

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/policy"
)

// one publishes a.test with one host that behaves as p.
func one(t *testing.T, p peer) (*bed, *fakeMX) {
	b := newBed(t)
	b.domain("a.test", "mx.a.test")
	return b, b.mx("mx.a.test", p)
}

func TestVerifiedByWebPKI(t *testing.T) {
	b, m := one(t, peer{})
	e, err := send(t, b.checker(), "a.test", verified)
	wantAssurance(t, e, err, policy.AssuranceVerified)
	if e.Version != "TLS 1.3" || e.Leaf == "" || e.SPKI == "" || e.SNI != "mx.a.test" || e.IP != m.ip || e.Issuer == "" || e.Group == "" {
		t.Errorf("evidence lacks something: %+v", e)
	}
	if got := m.said(); !strings.HasPrefix(got, "EHLO gw.clinic.test\nSTARTTLS") {
		t.Errorf("said %q", got)
	}
}

func TestR15_CertificateMustNameTheMX(t *testing.T) {
	b := newBed(t)
	b.domain("a.test", "mx.a.test")
	for name, l := range map[string]leaf{
		"certificate-host-mismatch": {names: []string{"a.test", "other.a.test"}},
		"certificate-expired":       {names: []string{"mx.a.test"}, expired: true},
	} {
		b.dns.set("mx.a.test. A")
		b.mx("mx.a.test", peer{cert: b.ca.issue(t, l)})
		_, err := send(t, b.checker(), "a.test", verified)
		wantClass(t, err, PolicyFail)
		if got := asFailure(err).TLSRPT; got != name {
			t.Errorf("TLSRPT %q, want %q", got, name)
		}
	}
	b.dns.set("mx.a.test. A")
	b.mx("mx.a.test", peer{cert: newAuthority(t, "Nobody").issue(t, leaf{names: []string{"mx.a.test"}})})
	_, err := send(t, b.checker(), "a.test", verified)
	wantClass(t, err, PolicyFail)
	if got := asFailure(err).TLSRPT; got != "certificate-not-trusted" {
		t.Errorf("TLSRPT %q", got)
	}
}

func TestR25_OwnNameAmongMX(t *testing.T) {
	b := newBed(t)
	b.domain("a.test", "mx1.a.test", "gw.clinic.test", "mx3.a.test")
	b.mx("mx1.a.test", peer{})
	b.mx("mx3.a.test", peer{})
	p, err := b.checker().Plan(t.Context(), "a.test", verified)
	if err != nil || len(p.Targets) != 1 || p.Targets[0].MX.Host != "mx1.a.test" {
		t.Fatalf("plan %+v, %v", p, err)
	}
	b.domain("b.test", "gw.clinic.test", "mx3.a.test")
	_, err = b.checker().Plan(t.Context(), "b.test", verified)
	wantClass(t, err, Permanent)
	if asFailure(err).Enhanced != "5.4.6" {
		t.Errorf("enhanced %q", asFailure(err).Enhanced)
	}
}

func TestR25_OwnListenerAmongMX(t *testing.T) {
	b := newBed(t)
	b.domain("a.test", "mx.a.test")
	b.dns.add("mx.a.test. 300 IN A 127.0.0.9")
	for own, class := range map[string]FailureClass{
		"127.0.0.9:25": Permanent, ":25": Permanent, "127.0.0.9": Permanent,
		"127.0.0.1:25": Transport, // another address on loopback is a host like any other
		":2525":        Transport,
	} {
		_, err := send(t, b.checker(func(o *Options) { o.Own = []string{own} }), "a.test", verified)
		if ClassOf(err) != class {
			t.Errorf("own %s: %v, want %s", own, err, class)
		}
	}
}

func TestR41_NullMX(t *testing.T) {
	b := newBed(t)
	b.dns.add("a.test. 300 IN MX 0 .", "a.test. 300 IN A 192.0.2.99")
	_, err := b.checker().Posture(t.Context(), "a.test")
	wantClass(t, err, Permanent)
	if f := asFailure(err); f.Code != 556 || f.Enhanced != "5.1.10" {
		t.Errorf("reply %d %s", f.Code, f.Enhanced)
	}
	b.dns.add("b.test. 300 IN MX 0 .", "b.test. 300 IN MX 10 mx.b.test.")
	_, err = b.checker().Posture(t.Context(), "b.test")
	wantClass(t, err, Unknown)
}

func TestImplicitMXAndNoDomain(t *testing.T) {
	b := newBed(t)
	b.mx("a.test", peer{})
	e, err := send(t, b.checker(), "a.test", verified)
	wantAssurance(t, e, err, policy.AssuranceVerified)
	_, err = b.checker().Plan(t.Context(), "nosuch.test", verified)
	wantClass(t, err, Permanent)
}

func TestR42_NothingLearntBeforeTLSIsKept(t *testing.T) {
	b, m := one(t, peer{ehlo: []string{"STARTTLS", "SIZE 1"}})
	c := b.checker()
	p, err := c.Plan(t.Context(), "a.test", verified)
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := c.Dial(t.Context(), p.Targets[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := make([]byte, len(syntheticGreeting))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != syntheticGreeting {
		t.Fatalf("first read %q, %v", got, err)
	}
	io.WriteString(conn, "EHLO again\r\n")
	if _, err := io.ReadFull(conn, got[:6]); err != nil || string(got[:6]) != "250 ok" {
		t.Fatalf("read %q, %v", got, err)
	}
	if !strings.HasSuffix(m.said(), "tls:EHLO again") {
		t.Errorf("said %q", m.said())
	}
}

// Every way to have no proper TLS, and what becomes of mail with a floor and
// without.
func TestR43_NeverClearTextWithFloor(t *testing.T) {
	for name, tc := range map[string]struct {
		peer   peer
		class  FailureClass
		noOpen bool // not even mail without a floor can go
	}{
		"not offered":       {peer{ehlo: []string{"SIZE 1000"}}, PolicyFail, false},
		"EHLO unknown":      {peer{ehloCode: 502}, PolicyFail, false},
		"refused for good":  {peer{starttls: "502 no"}, PolicyFail, false},
		"refused for now":   {peer{starttls: "454 not now"}, Transport, false},
		"drop at STARTTLS":  {peer{drop: "STARTTLS"}, Transport, false},
		"drop in handshake": {peer{drop: "handshake"}, Transport, false},
		"not TLS":           {peer{starttls: "220 go\r\nnot TLS at all, is it", drop: "handshake"}, PolicyFail, false},
		"TLS 1.1":           {peer{config: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }}, PolicyFail, false},
		"no common suite": {peer{config: func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
		}}, PolicyFail, false},
		"breaks off after the certificate": {peer{config: func(c *tls.Config) {
			c.MaxVersion, c.ClientAuth = tls.VersionTLS12, tls.RequireAnyClientCert
		}}, PolicyFail, false},
		"greeting 554": {peer{greeting: "554 go away"}, Transport, true},
		"greeting 421": {peer{greeting: "421 busy"}, Transport, true},
		"EHLO 421":     {peer{ehloCode: 421}, Transport, true},
		"EHLO dropped": {peer{drop: "EHLO"}, Transport, true},
		"no SMTP":      {peer{greeting: "HTTP/1.1 400 Bad Request"}, Transport, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, m := one(t, tc.peer)
			c := b.checker()
			_, err := send(t, c, "a.test", verified)
			wantClass(t, err, tc.class)
			if strings.Contains(m.said(), "MAIL") {
				t.Error("a transaction was begun")
			}
			p, err := c.Plan(t.Context(), "a.test", policy.Open)
			if err != nil {
				t.Fatal(err)
			}
			conn, e, err := c.DialOpen(t.Context(), p.Targets[0])
			if tc.noOpen {
				wantClass(t, err, tc.class)
				return
			}
			if err != nil {
				t.Fatalf("open mail refused: %v", err)
			}
			defer conn.Close()
			if e.TLS() || e.Assurance != policy.AssuranceNone {
				t.Errorf("evidence %+v", e)
			}
		})
	}
}

func TestR43_OpenMailPrefersTLS(t *testing.T) {
	b, _ := one(t, peer{cert: newAuthority(t, "Nobody").issue(t, leaf{names: []string{"wrong.test"}})})
	c := b.checker()
	p, _ := c.Plan(t.Context(), "a.test", policy.Open)
	conn, e, err := c.DialOpen(t.Context(), p.Targets[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !e.TLS() || e.Assurance != policy.AssuranceEncrypted {
		t.Errorf("evidence %+v", e)
	}
}

func TestDialOpenRefusesFloor(t *testing.T) {
	b, m := one(t, peer{})
	c := b.checker()
	p, _ := c.Plan(t.Context(), "a.test", verified)
	if _, _, err := c.DialOpen(t.Context(), p.Targets[0]); ClassOf(err) != PolicyFail {
		t.Errorf("error %v", err)
	}
	if _, _, err := c.DialOpen(t.Context(), Target{MX: p.Targets[0].MX}); ClassOf(err) != PolicyFail {
		t.Errorf("zero floor: %v", err)
	}
	if m.said() != "" {
		t.Errorf("connected all the same: %q", m.said())
	}
}

func TestR44_InjectedBytes(t *testing.T) {
	for name, p := range map[string]peer{
		"behind the 220":   {starttls: "220 go\r\n250-mx\r\n250 AUTH PLAIN"},
		"ahead of command": {early: "220 go\r\n"},
	} {
		b, m := one(t, p)
		_, err := send(t, b.checker(), "a.test", verified)
		wantClass(t, err, PolicyFail)
		if !strings.Contains(err.Error(), "injection") {
			t.Errorf("%s: %v", name, err)
		}
		if len(m.names()) > 0 {
			t.Errorf("%s: handshake was begun", name)
		}
	}
}

func TestR45_KeywordsWithoutCase(t *testing.T) {
	b, _ := one(t, peer{ehlo: []string{"size 1", "StartTls"}})
	e, err := send(t, b.checker(), "a.test", verified)
	wantAssurance(t, e, err, policy.AssuranceVerified)
}

func TestHangingPeersAreBounded(t *testing.T) {
	for _, stage := range []string{"greeting", "EHLO", "STARTTLS", "handshake"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			b, _ := one(t, peer{hang: stage})
			c := b.checker()
			p, err := c.Plan(t.Context(), "a.test", verified)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			defer cancel()
			start := time.Now()
			_, _, err = c.Dial(ctx, p.Targets[0])
			wantClass(t, err, Transport)
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

func TestCancelledDialEndsAtOnce(t *testing.T) {
	b, m := one(t, peer{hang: "EHLO"})
	c := b.checker()
	p, _ := c.Plan(t.Context(), "a.test", verified)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() { _, _, err := c.Dial(ctx, p.Targets[0]); got <- err }()
	<-m.heard
	cancel()
	wantClass(t, <-got, Transport)
}

// inMode is what a strength comes to in FIPS mode: the approved ones count for
// more, the others do not get through a handshake, except that nobody but us
// minds the key of the certificate.
func inMode(s policy.Strength, key bool) policy.Strength {
	switch {
	case !fips140.Enabled() || key && s < policy.StrengthSP80052r2:
		return s
	case s == policy.StrengthSP80052r2:
		return policy.StrengthFIPS
	}
	return policy.StrengthUnknown
}

func tls12(suite uint16) func(*tls.Config) {
	return func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{suite} }
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	if bits < 1024 {
		t.Fatal("too small")
	}
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What a peer can do, and the strongest strength a floor may ask of it.
func TestR49toR51_StrengthOfTheLiveConnection(t *testing.T) {
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	only := func(g ...tls.CurveID) func(*tls.Config) {
		return func(c *tls.Config) { c.CurvePreferences = g }
	}
	for name, tc := range map[string]struct {
		leaf   leaf
		config func(*tls.Config)
		want   policy.Strength // of a gateway outside FIPS mode
	}{
		"Go default":     {leaf{}, nil, policy.StrengthSP80052r2},
		"P-384":          {leaf{}, only(tls.CurveP384), policy.StrengthSP80052r2},
		"hybrid":         {leaf{}, only(tls.X25519MLKEM768), policy.StrengthSP80052r2},
		"prefers X25519": {leaf{}, only(tls.X25519, tls.CurveP256), policy.StrengthSP80052r2},
		"X25519 alone":   {leaf{}, only(tls.X25519), policy.StrengthBCP195},
		"TLS 1.2 GCM":    {leaf{}, tls12(tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384), policy.StrengthSP80052r2},
		"TLS 1.2, X25519": {leaf{}, func(c *tls.Config) {
			c.MaxVersion, c.CurvePreferences = tls.VersionTLS12, []tls.CurveID{tls.X25519}
		}, policy.StrengthBCP195},
		"TLS 1.2 ChaCha":    {leaf{}, tls12(tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256), policy.StrengthBCP195},
		"TLS 1.2 CBC":       {leaf{}, tls12(tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA), policy.StrengthWeak},
		"RSA 2048":          {leaf{key: rsaKey(t, 2048)}, nil, policy.StrengthSP80052r2},
		"RSA 1024":          {leaf{key: rsaKey(t, 1024)}, nil, policy.StrengthWeak},
		"RSA 1024, TLS 1.2": {leaf{key: rsaKey(t, 1024)}, tls12(tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256), policy.StrengthWeak},
		"P-224":             {leaf{key: p224}, tls12(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), policy.StrengthWeak},
		"Ed25519":           {leaf{key: ed}, nil, policy.StrengthBCP195},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.domain("a.test", "mx.a.test")
			tc.leaf.names = []string{"mx.a.test"}
			b.mx("mx.a.test", peer{cert: b.ca.issue(t, tc.leaf), config: tc.config})
			c := b.checker()
			tc.want = inMode(tc.want, tc.leaf.key != nil)
			for s := policy.StrengthWeak; s <= policy.StrengthSP80052r2; s++ {
				e, err := send(t, c, "a.test", policy.Floor{Assurance: policy.AssuranceEncrypted, Strength: s})
				if s > tc.want {
					wantClass(t, err, PolicyFail)
				} else if err != nil && name != "P-224" { // P-224 no longer gets through a handshake
					t.Errorf("floor %s refused: %v", s, err)
				} else if err == nil && (e.Strength < s || e.Strength > tc.want || e.Group == "") {
					t.Errorf("floor %s met by %s with group %q", s, e.Strength, e.Group)
				}
			}
		})
	}
}

func TestR49_CBCIsNotOfferedWithFloor(t *testing.T) {
	for _, s := range []policy.Strength{policy.StrengthUnknown, policy.StrengthBCP195, policy.StrengthSP80052r2, policy.StrengthFIPS} {
		cfg := &tls.Config{}
		offer(cfg, s)
		if len(cfg.CipherSuites) == 0 || len(cfg.CurvePreferences) == 0 || cfg.MinVersion != tls.VersionTLS12 {
			t.Fatalf("%s: offers anything: %+v", s, cfg)
		}
		for _, id := range cfg.CipherSuites {
			if name := tls.CipherSuiteName(id); strings.Contains(name, "CBC") || !strings.Contains(name, "ECDHE") {
				t.Errorf("%s offers %s", s, name)
			}
		}
	}
}

func TestR53_NoResumption(t *testing.T) {
	b, m := one(t, peer{})
	c := b.checker()
	for range 2 {
		e, err := send(t, c, "a.test", verified)
		wantAssurance(t, e, err, policy.AssuranceVerified)
		if e.Leaf == "" {
			t.Error("no certificate was seen")
		}
	}
	if len(m.names()) != 2 {
		t.Errorf("%d full handshakes, want 2", len(m.names()))
	}
}

func TestZeroFloorIsTheStrictest(t *testing.T) {
	b, m := one(t, peer{})
	b.dns.sign("a.test")
	b.tlsa("mx.a.test", usageEE, m.cert.Leaf)
	e, err := send(t, b.checker(), "a.test", policy.Floor{})
	if fips140.Enabled() {
		wantAssurance(t, e, err, policy.AssuranceDANE)
		return
	}
	wantClass(t, err, PolicyFail)
	if !strings.Contains(err.Error(), "FIPS") || m.said() != "" {
		t.Errorf("%v", err)
	}
}

func TestZeroConnRefuses(t *testing.T) {
	var c Conn
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("zero Conn takes bytes")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("zero Conn gives bytes")
	}
	if c.Close() == nil || c.SetDeadline(time.Now()) == nil || c.LocalAddr() != nil || c.RemoteAddr() != nil {
		t.Error("zero Conn pretends to be one")
	}
}

func TestSeveralAddresses(t *testing.T) {
	b := newBed(t)
	b.domain("a.test", "mx.a.test")
	b.dns.add("mx.a.test. 300 IN A 192.0.2.200") // nobody there
	b.mx("mx.a.test", peer{cert: newAuthority(t, "Nobody").issue(t, leaf{names: []string{"mx.a.test"}})})
	_, err := send(t, b.checker(), "a.test", verified)
	wantClass(t, err, Transport) // one address may be back tomorrow
	b.mx("mx.a.test", peer{})
	e, err := send(t, b.checker(), "a.test", verified)
	wantAssurance(t, e, err, policy.AssuranceVerified)
}

func TestAddressLiteral(t *testing.T) {
	b := newBed(t)
	m := b.mx("mx.a.test", peer{})
	c := b.checker()
	_, err := c.Plan(t.Context(), "["+m.ip+"]", verified)
	wantClass(t, err, PolicyFail)
	e, err := send(t, c, "["+m.ip+"]", policy.Floor{Assurance: policy.AssuranceEncrypted, Strength: policy.StrengthBCP195})
	wantAssurance(t, e, err, policy.AssuranceEncrypted)
	if len(m.names()) != 1 || m.names()[0] != "" || b.dns.count("_mta-sts.["+m.ip+"]. TXT") != 0 {
		t.Errorf("a name was used for an address: SNI %q", m.names())
	}
	_, err = c.Plan(t.Context(), "[nonsense]", policy.Open)
	wantClass(t, err, Permanent)
}
