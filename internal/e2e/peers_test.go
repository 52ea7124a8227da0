//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// The bed itself is proved first, by tools that know nothing of the gateway.

func TestResolverValidates(t *testing.T) {
	tests := []struct {
		name, rrtype string
		secure       bool
		rcode        string
	}{
		{".", "SOA", true, "NOERROR"},
		{"dane.signed.test", "MX", true, "NOERROR"},
		{"mx.dane.signed.test", "A", true, "NOERROR"},
		{"_25._tcp.mx.dane.signed.test", "TLSA", true, "NOERROR"},
		{"nothing.signed.test", "A", true, "NXDOMAIN"},
		{"web.open.test", "MX", false, "NOERROR"},
		{"broken.bogus.test", "MX", true, "NOERROR"},
		{"mx.broken.bogus.test", "A", false, "SERVFAIL"},
	}
	for _, tt := range tests {
		out, err := output("drill", "-D", "-o", "AD", tt.name, tt.rrtype, "@127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		secure := strings.Contains(strings.SplitN(out, "\n", 3)[1], " ad ")
		if secure != tt.secure || !strings.Contains(out, "rcode: "+tt.rcode) {
			t.Errorf("%s %s: secure %v\n%s", tt.name, tt.rrtype, secure, out)
		}
	}
}

// Postfix's own prober grades every recipient domain as it was meant.
func TestOracleGradesPeers(t *testing.T) {
	for _, d := range domains {
		t.Run(d.name, func(t *testing.T) {
			level := "secure"
			if strings.HasSuffix(d.name, ".signed.test") {
				level = "dane"
			}
			out, _ := output("posttls-finger", "-c", "-C", "-t", "10", "-l", level, "-F", bed.pki.roots, "-L", "summary,certmatch", d.name)
			if got := grade(out); got != d.grade {
				t.Errorf("graded %q, want %q\n%s", got, d.grade, out)
			}
		})
	}
}

// grade reads what posttls-finger found, or how it failed.
func grade(out string) string {
	for _, g := range []string{"Verified", "Untrusted", "Trusted", "Anonymous"} {
		if strings.Contains(out, g+" TLS connection established") {
			return g
		}
	}
	switch {
	case strings.Contains(out, "SSL_connect error"):
		return "failed"
	case strings.Contains(out, "lookup error"), strings.Contains(out, "not found"):
		return "unresolved"
	}
	return "none"
}

// A stock client delivers to every peer that can be reached, in clear and in TLS.
func TestSwaksDeliversDirectly(t *testing.T) {
	for _, d := range []struct{ domain, address, tls string }{
		{"dane.signed.test", postfixGood, "TLSv1.3"},
		{"expired.open.test", postfixExpired, "TLSv1.3"},
		{"web.open.test", eximGood, "TLS1.3"},
		{"self.open.test", eximSelf, "TLS1.3"},
		{"clear.open.test", openClear, ""},
	} {
		t.Run(d.domain, func(t *testing.T) {
			args := []string{"--server", d.address, "--from", "tool@clinic.test", "--to", "direct@" + d.domain, "--header", "Subject: mark-direct", "--hide-all"}
			if d.tls != "" {
				args = append(args, "--tls")
			}
			if err := command("swaks", args...); err != nil {
				t.Fatal(err)
			}
			got, err := mailbox(t.Context(), d.domain, "mark-direct", 1)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(got[0], d.tls) {
				t.Errorf("no %s in\n%s", d.tls, got[0])
			}
		})
	}
}
