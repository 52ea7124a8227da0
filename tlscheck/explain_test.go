package tlscheck

import (
	"crypto/fips140"
	"crypto/tls"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/miekg/dns"

	"github.com/phigate/phigate/policy"
)

func TestExplain(t *testing.T) {
	for name, tc := range map[string]struct {
		peer                peer
		set                 func(*bed, *fakeMX)
		assurance, strength string
	}{
		"good certificate":    {peer{}, nil, "verified", "sp800-52r2"},
		"no TLS":              {peer{ehlo: []string{"SIZE 1"}}, nil, "none", "weak"},
		"weak TLS":            {peer{config: tls12(0xc009)}, nil, "verified", "weak"},
		"MTA-STS":             {peer{}, func(b *bed, _ *fakeMX) { b.sts("a.test", "1", enforce+"mx: mx.a.test\n") }, "policy", "sp800-52r2"},
		"MTA-STS, not met":    {peer{ehlo: []string{"SIZE 1"}}, func(b *bed, _ *fakeMX) { b.sts("a.test", "1", enforce+"mx: mx.a.test\n") }, "none", "unknown"},
		"MTA-STS, not listed": {peer{}, func(b *bed, _ *fakeMX) { b.sts("a.test", "1", enforce+"mx: b.test\n") }, "none", "unknown"},
		"DANE":                {peer{}, func(b *bed, m *fakeMX) { b.dns.sign("a.test"); b.tlsa("mx.a.test", usageEE, m.cert.Leaf) }, "dane", "sp800-52r2"},
		"DANE, other key":     {peer{}, func(b *bed, m *fakeMX) { b.dns.sign("a.test"); b.tlsa("mx.a.test", usageEE, b.ca.cert) }, "none", "sp800-52r2"},
		"breaks off after the certificate": {peer{config: func(c *tls.Config) {
			c.MaxVersion, c.ClientAuth = tls.VersionTLS12, tls.RequireAnyClientCert
		}}, nil, "none", "weak"},
		"down": {peer{drop: "greeting"}, nil, "verified", "unknown"},
		"DNS broken": {peer{}, func(b *bed, _ *fakeMX) {
			b.dns.fail("a.test. MX", fault{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeDNSBogus})
		}, "unknown", "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			b, m := one(t, tc.peer)
			if tc.set != nil {
				tc.set(b, m)
			}
			x, err := b.checker().Explain(t.Context(), "a.test")
			if fips140.Enabled() {
				tc.strength = strings.Replace(tc.strength, "sp800-52r2", "fips", 1)
				if name == "weak TLS" { // does not get through a handshake
					tc.assurance = "none"
				}
			}
			if x.Assurance != tc.assurance || x.Strength != tc.strength {
				t.Errorf("%s/%s, want %s/%s (%v)", x.Assurance, x.Strength, tc.assurance, tc.strength, err)
			}
			if (err != nil) != (x.Error != "") {
				t.Errorf("error %v, shown %q", err, x.Error)
			}
			var text strings.Builder
			n, err := x.WriteTo(&text)
			if err != nil || int(n) != text.Len() {
				t.Errorf("%d of %d bytes, %v", n, text.Len(), err)
			}
			for line := range strings.SplitSeq(text.String(), "\n") {
				if utf8.RuneCountInString(line) > 100 {
					t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
				}
			}
			checkExplanationJSON(t, x)
		})
	}
}

// checkExplanationJSON holds the contract that scripts read.
func checkExplanationJSON(t *testing.T, x Explanation) {
	t.Helper()
	b, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	json.Unmarshal(b, &m)
	for _, k := range []string{"domain", "assurance", "strength", "mx", "policy"} {
		if _, ok := m[k]; !ok {
			t.Errorf("no %q in %s", k, b)
		}
	}
	for _, h := range m["mx"].([]any) {
		h := h.(map[string]any)
		if h["host"] == nil || h["assurance"] == nil || len(h["why"].([]any)) == 0 {
			t.Errorf("host %v", h)
		}
		for _, w := range h["why"].([]any) {
			if w := w.(map[string]any); w["step"] == nil || w["result"] == nil || w["rfc"] == nil {
				t.Errorf("step %v", w)
			}
		}
	}
	p := m["policy"].(map[string]any)
	if p["mode"] == nil || p["id"] == nil || p["expires"] == nil {
		t.Errorf("policy %v", p)
	}
}

func TestExplainSeesTheWeakestHost(t *testing.T) {
	b, _ := one(t, peer{})
	b.domain("a.test", "mx2.a.test")
	b.mx("mx2.a.test", peer{ehlo: []string{"SIZE 1"}})
	x, err := b.checker().Explain(t.Context(), "a.test")
	if err != nil || x.Assurance != "none" || x.MX[0].Assurance != "verified" {
		t.Errorf("%+v, %v", x, err)
	}
}

func TestExplanationTextIsPrintable(t *testing.T) {
	x := Explanation{Domain: strings.Repeat("d", 300), Why: []Reason{{"step", "RFC 1", "evil\x1b[2J" + strings.Repeat("w", 300) + "\x07 \n line"}},
		MX: []HostExplanation{{Host: "h\x1b]0;x", Why: []Reason{{"s", "r", ""}}}}, Error: strings.Repeat("e ", 200)}
	var text strings.Builder
	x.WriteTo(&text)
	if strings.ContainsAny(text.String(), "\x1b\x07") {
		t.Errorf("%q", text.String())
	}
	for line := range strings.SplitSeq(text.String(), "\n") {
		if utf8.RuneCountInString(line) > 100 {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
		}
	}
}

func TestProbeCorrectsThePrediction(t *testing.T) {
	for name, tc := range map[string]struct {
		peer peer
		want policy.Assurance
	}{
		"fine":            {peer{}, policy.AssuranceVerified},
		"no STARTTLS":     {peer{ehlo: []string{"SIZE 1"}}, policy.AssuranceNone},
		"bad certificate": {peer{cert: newAuthority(t, "Nobody").issue(t, leaf{names: []string{"mx.a.test"}})}, policy.AssuranceEncrypted},
		"down":            {peer{drop: "greeting"}, policy.AssuranceVerified}, // may be back in a minute
		"hangs":           {peer{hang: "EHLO"}, policy.AssuranceVerified},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, m := one(t, tc.peer)
			c := b.checker(func(o *Options) { o.Probe = 300 * time.Millisecond })
			for range 3 {
				p, err := c.Posture(t.Context(), "a.test")
				if err != nil || p.Best != tc.want {
					t.Fatalf("predicted %s, %v", p.Best, err)
				}
			}
			if n := b.dialled(m.ip + ":25"); n > 2 {
				t.Errorf("connected %d times", n)
			}
			if strings.Contains(m.said(), "MAIL") {
				t.Error("a transaction was begun")
			}
		})
	}
}

func BenchmarkPostureRemembered(b *testing.B) {
	c, err := New(Options{Hostname: "gw.test", Cache: &memCache{m: map[string]Entry{}},
		Resolver: answers(func(name string, qtype uint16) Answer {
			a := Answer{Secure: DNSInsecure, TTL: time.Hour}
			switch qtype {
			case dns.TypeMX:
				a.RRs = []dns.RR{&dns.MX{Mx: "mx." + name + "."}}
			case dns.TypeA:
				a.RRs = []dns.RR{&dns.A{A: []byte{192, 0, 2, 1}}}
			}
			return a
		})})
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Posture(b.Context(), "a.test"); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "postures/s")
}

func BenchmarkPostureFresh(b *testing.B) {
	c, err := New(Options{Hostname: "gw.test", Cache: &memCache{m: map[string]Entry{}},
		Resolver: answers(func(name string, qtype uint16) Answer {
			a := Answer{Secure: DNSInsecure, TTL: time.Hour}
			if qtype == dns.TypeA {
				a.RRs = []dns.RR{&dns.A{A: []byte{192, 0, 2, 1}}}
			}
			return a
		})})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.lookAt(b.Context(), "a.test", true); err != nil {
			b.Error(err)
		}
	}
}
