package tlscheck

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/phigate/phigate/policy"
)

func txts(ss ...string) []*dns.TXT {
	var out []*dns.TXT
	for _, s := range ss {
		out = append(out, &dns.TXT{Txt: strings.Split(s, "|")})
	}
	return out
}

func TestR1toR3_Record(t *testing.T) {
	for name, tc := range map[string]struct {
		txt []string
		id  string
	}{
		"plain":                     {[]string{"v=STSv1; id=20260101T000000"}, "20260101T000000"},
		"strings joined":            {[]string{"v=STSv1; i|d=ab|c"}, "abc"},
		"white space before ;":      {[]string{"v=STSv1 \t; id=abc;"}, "abc"},
		"no space":                  {[]string{"v=STSv1;id=abc"}, "abc"},
		"among others":              {[]string{"v=spf1 -all", "google-site=1", "v=STSv1; id=abc", "v=TLSRPTv1; rua=mailto:x"}, "abc"},
		"version not first":         {[]string{"id=abc; v=STSv1"}, ""},
		"longer version":            {[]string{"v=STSv10; id=abc"}, ""},
		"wrong case":                {[]string{"V=stsv1; id=abc"}, ""},
		"two of them":               {[]string{"v=STSv1; id=abc", "v=STSv1; id=abd"}, ""},
		"one of two malformed":      {[]string{"v=STSv1; id=abc", "v=STSv1; nonsense"}, ""},
		"no id":                     {[]string{"v=STSv1;"}, ""},
		"empty id":                  {[]string{"v=STSv1; id=;"}, ""},
		"32 characters":             {[]string{"v=STSv1; id=" + strings.Repeat("a", 32)}, strings.Repeat("a", 32)},
		"33 characters":             {[]string{"v=STSv1; id=" + strings.Repeat("a", 33)}, ""},
		"not alphanumeric":          {[]string{"v=STSv1; id=a-b"}, ""},
		"other fields in any order": {[]string{"v=STSv1; x-new=1; id=abc; y=2;"}, "abc"},
		"first duplicate wins":      {[]string{"v=STSv1; id=abc; id=def"}, "abc"},
		"later duplicate nonsense":  {[]string{"v=STSv1; id=abc; id=?!;"}, "abc"},
		"none":                      {nil, ""},
	} {
		id, err := stsID(txts(tc.txt...))
		if id != tc.id || (err == nil) != (tc.id != "") {
			t.Errorf("%s: id %q, %v, want %q", name, id, err, tc.id)
		}
	}
}

func TestR11toR13_Policy(t *testing.T) {
	year := time.Duration(maxAge) * time.Second
	for name, tc := range map[string]struct {
		body string
		mode string // "" is invalid
		age  time.Duration
		yes  string // hosts that match, blank-separated
		no   string
	}{
		"LF":                   {"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 60\n", "enforce", time.Minute, "a.test A.TEST", "b.test x.a.test"},
		"CRLF":                 {"version: STSv1\r\nmode: enforce\r\nmx: a.test\r\nmax_age: 60\r\n", "enforce", time.Minute, "a.test", ""},
		"no end of line":       {"version: STSv1\nmode: testing\nmx: a.test\nmax_age: 60", "testing", time.Minute, "a.test", ""},
		"blank lines":          {"\nversion: STSv1\n\nmode: enforce\n \nmx: a.test\nmax_age: 60\n\n\n", "enforce", time.Minute, "a.test", ""},
		"no blank":             {"version:STSv1\nmode:enforce\nmx:a.test\nmax_age:60\n", "enforce", time.Minute, "a.test", ""},
		"unknown field":        {"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 60\nx-more: some thing\n", "enforce", time.Minute, "a.test", ""},
		"wildcard":             {"version: STSv1\nmode: enforce\nmx: *.mx.test\nmax_age: 60\n", "enforce", time.Minute, "a.mx.test", "mx.test a.b.mx.test amx.test"},
		"several mx":           {"version: STSv1\nmode: enforce\nmx: a.test\nmx: b.test\nmax_age: 60\n", "enforce", time.Minute, "a.test b.test", ""},
		"none without mx":      {"version: STSv1\nmode: none\nmax_age: 60\n", "none", time.Minute, "", "a.test"},
		"first duplicate wins": {"version: STSv1\nmode: enforce\nmode: none\nmx: a.test\nmax_age: 60\nmax_age: 1\n", "enforce", time.Minute, "a.test", ""},
		"nonsense duplicate":   {"version: STSv1\nmode: enforce\nmode: what\nmx: a.test\nmax_age: 60\nmax_age: x\n", "enforce", time.Minute, "a.test", ""},
		"max_age capped":       {"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 31557601\n", "enforce", year, "a.test", ""},
		"max_age over 2^31":    {"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 9999999999\n", "enforce", year, "a.test", ""},
		"max_age of 11 digits": {"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 10000000000\n", "", 0, "", ""},
		"max_age negative":     {"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: -1\n", "", 0, "", ""},
		"max_age of words":     {"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: one day\n", "", 0, "", ""},
		"no max_age":           {"version: STSv1\nmode: enforce\nmx: a.test\n", "", 0, "", ""},
		"no version":           {"mode: enforce\nmx: a.test\nmax_age: 60\n", "", 0, "", ""},
		"other version":        {"version: STSv2\nmode: enforce\nmx: a.test\nmax_age: 60\n", "", 0, "", ""},
		"no mode":              {"version: STSv1\nmx: a.test\nmax_age: 60\n", "", 0, "", ""},
		"other mode":           {"version: STSv1\nmode: enforced\nmx: a.test\nmax_age: 60\n", "", 0, "", ""},
		"no mx":                {"version: STSv1\nmode: enforce\nmax_age: 60\n", "", 0, "", ""},
		"mx with trailing dot": {"version: STSv1\nmode: enforce\nmx: a.test.\nmax_age: 60\n", "enforce", time.Minute, "a.test", ""},
		"mx with two dots":     {"version: STSv1\nmode: enforce\nmx: a.test..\nmax_age: 60\n", "", 0, "", ""},
		"mx *":                 {"version: STSv1\nmode: enforce\nmx: *\nmax_age: 60\n", "", 0, "", ""},
		"mx mx*.test":          {"version: STSv1\nmode: enforce\nmx: mx*.test\nmax_age: 60\n", "", 0, "", ""},
		"mx a.*.test":          {"version: STSv1\nmode: enforce\nmx: a.*.test\nmax_age: 60\n", "", 0, "", ""},
		"mx .test":             {"version: STSv1\nmode: enforce\nmx: .test\nmax_age: 60\n", "", 0, "", ""},
		"mx IPv4":              {"version: STSv1\nmode: enforce\nmx: 192.0.2.1\nmax_age: 60\n", "", 0, "", ""},
		"mx IPv6":              {"version: STSv1\nmode: enforce\nmx: 2001:db8::1\nmax_age: 60\n", "", 0, "", ""},
		"mx U-label":           {"version: STSv1\nmode: enforce\nmx: bücher.test\nmax_age: 60\n", "", 0, "", ""},
		"mx A-label":           {"version: STSv1\nmode: enforce\nmx: xn--bcher-kva.test\nmax_age: 60\n", "enforce", time.Minute, "xn--bcher-kva.test", ""},
		"HTML":                 {"<html><body>Not found</body></html>", "", 0, "", ""},
		"NUL":                  {"version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 60\n\x00", "", 0, "", ""},
		"empty":                {"", "", 0, "", ""},
	} {
		p, err := parsePolicy(tc.body)
		if (err == nil) != (tc.mode != "") || string(p.mode) != tc.mode || p.maxAge != tc.age {
			t.Errorf("%s: mode %q age %s, %v", name, p.mode, p.maxAge, err)
			continue
		}
		for _, h := range strings.Fields(tc.yes) {
			if !p.matches(h) {
				t.Errorf("%s: %s does not match", name, h)
			}
		}
		for _, h := range strings.Fields(tc.no) {
			if p.matches(h) {
				t.Errorf("%s: %s matches", name, h)
			}
		}
	}
}

// listed is a domain with a policy that lists its only host.
func listed(t *testing.T, p peer) *bed {
	b, _ := one(t, p)
	b.sts("a.test", "1", enforce+"mx: mx.a.test\n")
	return b
}

func TestR14_PolicyRaisesAssurance(t *testing.T) {
	b := listed(t, peer{})
	e, err := send(t, b.checker(), "a.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
	if e.PolicyID != "1" || e.PolicyMode != "enforce" {
		t.Errorf("evidence %+v", e)
	}
}

func TestR14_RecordNameMustMatch(t *testing.T) {
	b, _ := one(t, peer{})
	b.sts("a.test", "1", enforce+"mx: other.a.test\nmx: *.mx.a.test\n")
	c := b.checker()
	for _, f := range []policy.Floor{policy.Open, verified, named} { // never delivered to, floor or not
		_, err := send(t, c, "a.test", f)
		wantClass(t, err, PolicyFail)
	}
	p, err := c.Posture(t.Context(), "a.test")
	if err != nil || p.Best != policy.AssuranceNone {
		t.Errorf("predicted %s, %v", p.Best, err)
	}
}

func TestR14_ImplicitMXMatchesTheDomain(t *testing.T) {
	b := newBed(t)
	b.mx("a.test", peer{})
	b.sts("a.test", "1", enforce+"mx: a.test\n")
	e, err := send(t, b.checker(), "a.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
}

func TestR4_PolicyDomainIsTheEnvelopeDomain(t *testing.T) {
	b := newBed(t)
	b.dns.add("sub.a.test. 300 IN CNAME real.test.", "real.test. 300 IN MX 10 mx.real.test.")
	b.mx("mx.real.test", peer{})
	for _, d := range []string{"a.test", "real.test", "mx.real.test"} {
		b.sts(d, "1", enforce+"mx: nowhere.test\n")
	}
	e, err := send(t, b.checker(), "sub.a.test", verified)
	wantAssurance(t, e, err, policy.AssuranceVerified)
	if b.dns.count("_mta-sts.sub.a.test. TXT") == 0 {
		t.Error("the policy of the domain itself was not asked for")
	}
}

func TestR4_SmarthostHasItsOwnPolicy(t *testing.T) {
	b := newBed(t)
	b.domain("a.test", "mx.a.test")
	b.sts("a.test", "1", enforce+"mx: mx.a.test\n")
	b.mx("relay.test", peer{})
	c := b.checker(func(o *Options) { o.Routes = []Route{{Domain: "a.test", Host: "relay.test"}} })
	e, err := send(t, c, "a.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
	if e.MX != "relay.test" || e.PolicyID != "" {
		t.Errorf("evidence %+v", e)
	}
	b.sts("relay.test", "9", enforce+"mx: elsewhere.test\n")
	_, err = send(t, b.checker(func(o *Options) { o.Routes = []Route{{Domain: "*", Host: "relay.test"}} }), "a.test", verified)
	wantClass(t, err, PolicyFail)
}

// Each way in which getting a policy can fail.
func TestR5toR10_Fetch(t *testing.T) {
	text := func(status int, ct, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ct)
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	good := enforce + "mx: mx.a.test\n"
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		change  func(*bed)
		ok      bool
	}{
		"R5 good":                {handler: text(200, "text/plain", good), ok: true},
		"R7 parameters and case": {handler: text(200, "Text/Plain; charset=utf-8", good), ok: true},
		"R7 bad parameter":       {handler: text(200, "text/plain; ;", good), ok: true},
		"R7 html":                {handler: text(200, "text/html", good)},
		"R7 no type": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			io.WriteString(w, good)
		}},
		"R6 204": {handler: text(204, "text/plain", "")},
		"R6 404": {handler: text(404, "text/plain", good)},
		"R6 500": {handler: text(500, "text/plain", good)},
		"R6 redirect": {handler: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/moved" {
				text(200, "text/plain", good)(w, r)
				return
			}
			http.Redirect(w, r, "/moved", http.StatusFound)
		}},
		"R8 64 KiB":        {handler: text(200, "text/plain", good+"x: "+strings.Repeat("y", fetchLimit-len(good)-4)+"\n"), ok: true},
		"R8 one more":      {handler: text(200, "text/plain", good+"x: "+strings.Repeat("y", fetchLimit-len(good)-3)+"\n")},
		"R11 invalid body": {handler: text(200, "text/plain", "version: STSv1\n")},
		"R5 wrong name": {handler: text(200, "text/plain", good), change: func(b *bed) {
			b.web.cert("a.test", b.ca.issue(t, leaf{names: []string{"a.test"}}))
		}},
		"R5 expired": {handler: text(200, "text/plain", good), change: func(b *bed) {
			b.web.cert("a.test", b.ca.issue(t, leaf{names: []string{"mta-sts.a.test"}, expired: true}))
		}},
		"R5 untrusted": {handler: text(200, "text/plain", good), change: func(b *bed) {
			b.web.cert("a.test", newAuthority(t, "Nobody").issue(t, leaf{names: []string{"mta-sts.a.test"}}))
		}},
		"R5 whole wildcard": {handler: text(200, "text/plain", good), ok: true, change: func(b *bed) {
			b.web.cert("a.test", b.ca.issue(t, leaf{names: []string{"*.a.test"}}))
		}},
		"R5 part wildcard": {handler: text(200, "text/plain", good), change: func(b *bed) {
			b.web.cert("a.test", b.ca.issue(t, leaf{names: []string{"mta-*.a.test"}}))
		}},
		"R10 address bogus": {handler: text(200, "text/plain", good), change: func(b *bed) {
			for _, q := range []string{"A", "AAAA"} {
				b.dns.fail("mta-sts.a.test. "+q, fault{rcode: dns.RcodeServerFailure, ede: dns.ExtendedErrorCodeDNSBogus})
			}
		}},
		"no address": {change: func(b *bed) { b.dns.set("mta-sts.a.test. A") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
			b := listed(t, peer{})
			if tc.handler != nil {
				b.web.serve("a.test", tc.handler)
			}
			if tc.change != nil {
				tc.change(b)
			}
			e, err := send(t, b.checker(), "a.test", verified)
			if tc.ok {
				wantAssurance(t, e, err, policy.AssurancePolicy)
				return
			}
			// R22: no policy known is as if there were none, never "valid".
			wantAssurance(t, e, err, policy.AssuranceVerified)
		})
	}
}

func TestR9_FiveMinutesAfterAFailure(t *testing.T) {
	b := listed(t, peer{})
	b.web.serve("a.test", http.NotFound)
	c := b.checker()
	ask := func() int { c.lookAt(t.Context(), "a.test", true); return b.web.count("a.test") }
	if n := ask(); n != 1 {
		t.Fatalf("%d GETs", n)
	}
	b.clock.advance(5*time.Minute - time.Second)
	if n := ask(); n != 1 {
		t.Errorf("%d GETs within five minutes", n)
	}
	b.sts("a.test", "2", enforce+"mx: mx.a.test\n") // another id has its own wait
	if n := ask(); n != 2 {
		t.Errorf("%d GETs with a new id", n)
	}
	b.web.serve("a.test", http.NotFound)
	b.clock.advance(5 * time.Minute)
	if n := ask(); n != 3 {
		t.Errorf("%d GETs five minutes later", n)
	}
}

func TestR17_TestingAndNoneNeitherProveNorForbid(t *testing.T) {
	for _, mode := range []string{"testing", "none"} {
		b, _ := one(t, peer{})
		b.sts("a.test", "1", "version: STSv1\nmode: "+mode+"\nmax_age: 86400\nmx: elsewhere.test\n")
		e, err := send(t, b.checker(), "a.test", verified)
		wantAssurance(t, e, err, policy.AssuranceVerified)
		_, err = send(t, b.checker(), "a.test", named)
		wantClass(t, err, PolicyFail)
	}
}

func TestR17_EnforceHoldsForMailWithoutFloor(t *testing.T) {
	for name, p := range map[string]peer{
		"no STARTTLS":     {ehlo: []string{"SIZE 1"}},
		"bad certificate": {cert: newAuthority(t, "Nobody").issue(t, leaf{names: []string{"mx.a.test"}})},
	} {
		b := listed(t, p)
		c := b.checker()
		plan, err := c.Plan(t.Context(), "a.test", policy.Open)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = c.DialOpen(t.Context(), plan.Targets[0]); ClassOf(err) != PolicyFail {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestR18_RecheckFindsANewPolicy(t *testing.T) {
	for name, id := range map[string]string{"new id": "2", "policy changed, id not": "1"} {
		t.Run(name, func(t *testing.T) {
			b, _ := one(t, peer{})
			b.sts("a.test", "1", enforce+"mx: old.a.test\nmx: dead.a.test\n")
			b.domain("a.test", "dead.a.test")
			b.dns.add("dead.a.test. 300 IN A 192.0.2.250")
			c := b.checker()
			old, err := c.Plan(t.Context(), "a.test", named)
			if err != nil || len(old.Targets) != 1 {
				t.Fatalf("%+v, %v", old, err)
			}
			if p, changed, err := c.Recheck(t.Context(), old); changed || err != nil {
				t.Fatalf("changed without a change: %+v, %v", p, err)
			}
			if n := b.web.count("a.test"); n != 1 {
				t.Errorf("%d GETs within five minutes", n)
			}
			b.clock.advance(fetchBackoff)
			b.sts("a.test", id, enforce+"mx: mx.a.test\n")
			p, changed, err := c.Recheck(t.Context(), old)
			if err != nil || !changed || len(p.Targets) != 1 || p.Targets[0].MX.Host != "mx.a.test" {
				t.Errorf("plan %+v, changed %t, %v", p, changed, err)
			}
		})
	}
}

// A plan that no host is left for is made from fresh answers.
func TestR18_PlanItselfRechecks(t *testing.T) {
	b, _ := one(t, peer{})
	b.sts("a.test", "1", enforce+"mx: old.a.test\n")
	c := b.checker()
	_, err := c.Plan(t.Context(), "a.test", named)
	wantClass(t, err, PolicyFail)
	if n := b.web.count("a.test"); n != 1 {
		t.Errorf("%d GETs at once", n)
	}
	b.sts("a.test", "2", enforce+"mx: mx.a.test\n")
	b.clock.advance(failureKeep) // the plan is still remembered
	e, err := send(t, c, "a.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
}

// R20 and R18: what an attacker on the path can do to a known policy.
func TestR20_KeptPolicySurvivesEveryFailure(t *testing.T) {
	for name, attack := range map[string]func(*bed){
		"record gone":      func(b *bed) { b.dns.set("_mta-sts.a.test. TXT") },
		"record SERVFAIL":  func(b *bed) { b.dns.fail("_mta-sts.a.test. TXT", fault{rcode: dns.RcodeServerFailure}) },
		"record times out": func(b *bed) { b.dns.fail("_mta-sts.a.test. TXT", fault{drop: true}) },
		"record doubled":   func(b *bed) { b.dns.add(`_mta-sts.a.test. 300 IN TXT "v=STSv1; id=7"`) },
		"record malformed": func(b *bed) { b.dns.set("_mta-sts.a.test. TXT", `_mta-sts.a.test. 300 IN TXT "v=STSv1; id=?"`) },
		"new id, HTTPS blocked": func(b *bed) {
			b.sts("a.test", "2", "")
			b.dns.set("mta-sts.a.test. A", "mta-sts.a.test. 300 IN A 192.0.2.251")
		},
		"new id, host gone": func(b *bed) { b.sts("a.test", "2", ""); b.dns.set("mta-sts.a.test. A") },
		"new id, bad cert": func(b *bed) {
			b.sts("a.test", "2", "")
			b.web.cert("a.test", newAuthority(b.t, "Evil").issue(b.t, leaf{names: []string{"mta-sts.a.test"}}))
		},
		"new id, 404":            func(b *bed) { b.sts("a.test", "2", ""); b.web.serve("a.test", http.NotFound) },
		"new id, invalid policy": func(b *bed) { b.sts("a.test", "2", "version: STSv1\nmode: none\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := listed(t, peer{})
			e, err := send(t, b.checker(), "a.test", named)
			wantAssurance(t, e, err, policy.AssurancePolicy)
			attack(b)
			// The attacker's MX, with a certificate of its own that is good.
			b.dns.set("a.test. MX", "a.test. 300 IN MX 10 mx.evil.test.")
			b.mx("mx.evil.test", peer{})
			c := b.checker() // R24: as after a restart
			_, err = send(t, c, "a.test", verified)
			wantClass(t, err, PolicyFail)
			b.dns.set("a.test. MX", "a.test. 300 IN MX 10 mx.a.test.")
			e, err = send(t, b.checker(), "a.test", named)
			wantAssurance(t, e, err, policy.AssurancePolicy)
			// It lives as long as it said, not longer.
			b.clock.advance(604800*time.Second + time.Second)
			e, err = send(t, b.checker(func(o *Options) { o.Clock = b.clock.Now }), "a.test", verified)
			wantAssurance(t, e, err, policy.AssuranceVerified)
		})
	}
}

func TestR21_UnchangedIDDoesNotExtendLife(t *testing.T) {
	b := listed(t, peer{})
	c := b.checker()
	c.Posture(t.Context(), "a.test")
	expires := b.cache.m["a.test"].Expires
	b.clock.advance(24 * time.Hour)
	p, err := c.Posture(t.Context(), "a.test")
	if err != nil || !p.Policy.Expires.Equal(expires) || b.web.count("a.test") != 1 {
		t.Errorf("expires %s, want %s; %d GETs; %v", p.Policy.Expires, expires, b.web.count("a.test"), err)
	}
	if err := c.refreshOne(t.Context(), "a.test"); err != nil {
		t.Fatal(err)
	}
	if got := b.cache.m["a.test"].Expires; !got.Equal(expires.Add(24 * time.Hour)) {
		t.Errorf("a fetch does: %s", got)
	}
}

func TestR21_ZeroMaxAgeHoldsOnlyNow(t *testing.T) {
	b, _ := one(t, peer{})
	b.sts("a.test", "1", "version: STSv1\nmode: enforce\nmax_age: 0\nmx: mx.a.test\n")
	e, err := send(t, b.checker(), "a.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
}

func TestR23_Refresh(t *testing.T) {
	b := listed(t, peer{})
	c := b.checker()
	c.Posture(t.Context(), "a.test")
	c.refresh(t.Context())
	if n := b.web.count("a.test"); n != 1 {
		t.Fatalf("%d GETs, none was due", n)
	}
	b.clock.advance(24 * time.Hour)
	c.refresh(t.Context())
	if n := b.web.count("a.test"); n != 2 {
		t.Errorf("%d GETs after a day", n)
	}
	b.web.serve("a.test", http.NotFound)
	b.clock.advance(24 * time.Hour)
	c.refresh(t.Context())
	if e := b.cache.m["a.test"]; e.LastError == "" || e.Text == "" || !e.NextRefresh.After(b.clock.Now()) {
		t.Errorf("entry after a failed refresh: %+v", e)
	}
	b.clock.advance(1000 * time.Hour)
	c.refresh(t.Context())
	if n := b.web.count("a.test"); n != 3 {
		t.Errorf("%d GETs, an expired policy is not refreshed", n)
	}
	for _, life := range []time.Duration{0, time.Minute, 86400 * time.Second, 365 * 24 * time.Hour} {
		if d := refreshAfter(life); d > life/3 || d > 24*time.Hour || d < min(life/3, 24*time.Hour)*8/10 {
			t.Errorf("policy of %s is refreshed after %s", life, d)
		}
	}
}

// Run refreshes without being asked, and stops when told.
func TestR23_RunRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := &memCache{m: map[string]Entry{}}
		now := time.Now()
		cache.m["a.test"] = Entry{Domain: "a.test", ID: "1", Text: enforce + "mx: a.test\n", FetchedAt: now, Expires: now.Add(72 * time.Hour), NextRefresh: now.Add(24 * time.Hour)}
		var dialled atomic.Int32
		c, err := New(Options{Hostname: "gw.test", Cache: cache,
			Resolver: answers(func(_ string, qtype uint16) Answer {
				if qtype == dns.TypeA {
					return Answer{Secure: DNSInsecure, RRs: []dns.RR{&dns.A{A: net.IPv4(192, 0, 2, 1)}}}
				}
				return Answer{Secure: DNSInsecure}
			}),
			Dial: func(context.Context, string, string) (net.Conn, error) { dialled.Add(1); return nil, errors.New("no") }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if dialled.Load() != 0 {
			t.Errorf("dialled %d times before it was due", dialled.Load())
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if dialled.Load() == 0 {
			t.Error("was not refreshed")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// answers is a Resolver made of a function.
type answers func(name string, qtype uint16) Answer

func (f answers) Lookup(_ context.Context, name string, qtype uint16) (Answer, error) {
	return f(name, qtype), nil
}

func TestR24_UnreadableCacheIsNotAMiss(t *testing.T) {
	for name, spoil := range map[string]func(*memCache){
		"error": func(c *memCache) { c.err = errors.New("disk on fire") },
		"corrupt": func(c *memCache) {
			c.m["a.test"] = Entry{Domain: "a.test", ID: "1", Text: "gibberish", Expires: time.Now().Add(time.Hour)}
		},
		"other domain": func(c *memCache) {
			c.m["a.test"] = Entry{Domain: "b.test", ID: "1", Text: enforce + "mx: b.test\n", Expires: time.Now().Add(time.Hour)}
		},
	} {
		b := listed(t, peer{})
		spoil(b.cache)
		c := b.checker()
		p, err := c.Posture(t.Context(), "a.test")
		if ClassOf(err) != Unknown || err == nil || p.Predicted != policy.AssuranceUnknown {
			t.Errorf("%s: %s, %v", name, p.Predicted, err)
		}
		_, err = c.Plan(t.Context(), "a.test", verified)
		if err == nil || ClassOf(err) != Unknown {
			t.Errorf("%s: planned: %v", name, err)
		}
	}
}

func TestUnclearRecordMakesUnknownNotPolicyFail(t *testing.T) {
	b := listed(t, peer{})
	b.dns.fail("_mta-sts.a.test. TXT", fault{rcode: dns.RcodeServerFailure})
	c := b.checker()
	_, err := c.Plan(t.Context(), "a.test", named) // may be fine in an hour
	wantClass(t, err, Unknown)
	e, err := send(t, c, "a.test", verified)
	wantAssurance(t, e, err, policy.AssuranceVerified)
}

func TestCampaignCostsOneEvaluation(t *testing.T) {
	b := listed(t, peer{})
	c := b.checker()
	errs := make(chan error, 50)
	for range cap(errs) {
		go func() { _, err := c.Posture(context.Background(), "A.Test."); errs <- err }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n, m := b.dns.count("a.test. MX"), b.web.count("a.test"); n != 1 || m != 1 {
		t.Errorf("%d MX look-ups and %d GETs", n, m)
	}
	b.clock.advance(maxKeep + time.Second)
	c.Posture(t.Context(), "a.test")
	if n := b.dns.count("a.test. MX"); n != 2 {
		t.Errorf("%d MX look-ups, one was due", n)
	}
}

func TestPoliciesOfDomainsDoNotMix(t *testing.T) {
	b := listed(t, peer{})
	b.domain("b.test", "mx.a.test") // same host, no policy
	c := b.checker()
	e, err := send(t, c, "a.test", named)
	wantAssurance(t, e, err, policy.AssurancePolicy)
	e, err = send(t, c, "b.test", verified)
	wantAssurance(t, e, err, policy.AssuranceVerified)
	p, _ := c.Plan(t.Context(), "a.test", verified)
	q, _ := c.Plan(t.Context(), "b.test", verified)
	if p.Targets[0].Key() == q.Targets[0].Key() {
		t.Error("two domains would share a connection")
	}
	if r, _ := c.Plan(t.Context(), "a.test", verified); r.Targets[0].Key() != p.Targets[0].Key() {
		t.Error("one domain would not")
	}
	if r, _ := c.Plan(t.Context(), "a.test", named); r.Targets[0].Key() == p.Targets[0].Key() {
		t.Error("two floors would")
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("v=STSv1; id=abc;")
	f.Add("v=STSv1 ;id=a;id=b; x=y")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := stsID(txts(s))
		if err == nil && (len(id) < 1 || len(id) > 32 || strings.ContainsFunc(id, func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		})) {
			t.Errorf("id %q", id)
		}
	})
}

func FuzzPolicy(f *testing.F) {
	f.Add(enforce + "mx: *.a.test\nmx: b.test\n")
	f.Add("version: STSv1\r\nmode: none\r\nmax_age: 9999999999\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePolicy(s)
		if err != nil {
			return
		}
		if p.maxAge < 0 || p.maxAge > maxAge*time.Second {
			t.Errorf("life %s", p.maxAge)
		}
		if p.mode != "none" && len(p.policy.MX) == 0 {
			t.Error("no mx")
		}
		if p.matches("") || p.matches("unlisted.invalid.example") && !strings.Contains(strings.ToLower(s), "example") {
			t.Error("matches anything")
		}
		if again, err := normalPolicy(s); err != nil {
			t.Errorf("%q: %v", again, err)
		}
	})
}
