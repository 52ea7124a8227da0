package tlscheck

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/idna"
)

// maxHosts bounds how many MX hosts of a domain, and addresses of a host, are
// looked at: the DNS may list thousands.
const (
	maxHosts = 16
	maxAddrs = 8
)

// nextHop is where mail for a domain goes, before anything is said about TLS.
type nextHop struct {
	hosts  []mxHost
	secure bool     // the host names are proved: by DNSSEC, or named by the administrator
	names  []string // names of the domain itself that a DANE-TA certificate may carry
	dns    Security
	ttl    time.Duration
	why    []Reason
}

type mxHost struct {
	name string
	pref uint16
	port int
	addr netip.Addr // set if the host is given by its address
}

func (h *nextHop) note(rfc, result string, args ...any) {
	h.why = append(h.why, Reason{"MX", rfc, fmt.Sprintf(result, args...)})
}

// asciiDomain returns the A-label form under which a domain is asked for.
func asciiDomain(domain string) (string, error) {
	d := clean(domain)
	if strings.HasPrefix(d, "[") {
		return d, nil
	}
	a, err := idna.Lookup.ToASCII(d)
	if err != nil && isASCII(d) && dnsName(d) {
		a, err = d, nil // underscores and such, which IDNA refuses and the DNS takes
	}
	if err != nil || a == "" || !dnsName(a) {
		return "", &Failure{Class: Permanent, Reason: "not a domain name", RFC: "RFC 5321 §4.1.2", Code: 553, Enhanced: "5.1.2"}
	}
	return a, nil
}

func isIP(s string) bool { _, err := netip.ParseAddr(s); return err == nil }

func dnsName(s string) bool {
	_, ok := dns.IsDomainName(s)
	return ok && !strings.ContainsAny(s, " \t\\/@")
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// nextHop finds the hosts for a domain: the administrator's route, the address
// literal, or the MX records. Its error is a Failure for the whole domain.
func (c *Checker) nextHop(ctx context.Context, domain string, r *Route) (nextHop, error) {
	switch {
	case r != nil && r.Host != "":
		h := nextHop{secure: true, names: []string{clean(r.Host)}, dns: DNSSecure, ttl: maxKeep}
		h.hosts = []mxHost{{name: clean(r.Host), port: r.port(c.port)}}
		h.hosts[0].addr, _ = netip.ParseAddr(r.Host)
		h.note("", "route of the administrator to %s", r.Host)
		return h, nil
	case strings.HasPrefix(domain, "["):
		return c.literal(domain)
	}
	a, err := c.resolver.Lookup(ctx, domain, dns.TypeMX)
	if err != nil {
		return nextHop{}, err
	}
	if a.Failed() {
		return nextHop{}, &Failure{Class: Unknown, RFC: "RFC 7672 §2.1.2", TLSRPT: dnssecResult(a),
			Reason: "MX look-up is " + a.Secure.String(), Err: lookupCause(a)}
	}
	h := nextHop{secure: a.Secure == DNSSecure, dns: a.Secure, ttl: a.TTL}
	h.names = expanded(domain, cnames(a, domain))
	mxs := records[*dns.MX](a)
	if len(mxs) == 0 {
		return c.implicit(ctx, domain, a, h)
	}
	return c.explicit(h, mxs)
}

// literal is the next hop of user@[192.0.2.1]: nothing in DNS vouches for it,
// and it has no policy (RFC 8461 §2).
func (c *Checker) literal(domain string) (nextHop, error) {
	text := strings.TrimPrefix(strings.Trim(domain, "[]"), "ipv6:")
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return nextHop{}, &Failure{Class: Permanent, Reason: "not an address literal", RFC: "RFC 5321 §4.1.3", Code: 553, Enhanced: "5.1.2"}
	}
	h := nextHop{dns: DNSInsecure, ttl: maxKeep, hosts: []mxHost{{name: ip.String(), port: c.port, addr: ip}}}
	h.note("RFC 5321 §4.1.3", "address literal")
	return h, nil
}

// implicit is the domain as its own host (RFC 5321 §5.1). A name that is said
// not to exist gets one more chance, without DANE (RFC 7672 §2.2.2): careless
// servers deny the name when they lack the type.
func (c *Checker) implicit(ctx context.Context, domain string, a Answer, h nextHop) (nextHop, error) {
	if a.NXDomain() {
		addrs, err := c.addresses(ctx, domain)
		if err != nil {
			return h, err
		}
		if len(addrs.addrs) == 0 {
			return h, &Failure{Class: Permanent, Reason: "domain does not exist", RFC: "RFC 5321 §5.1", Code: 550, Enhanced: "5.1.2"}
		}
		h.secure, h.dns = false, DNSInsecure
	}
	h.hosts = []mxHost{{name: domain, port: c.port}}
	h.note("RFC 5321 §5.1", "no MX records (%s), the domain is its own host", h.dns)
	return h, nil
}

// explicit reads the MX records, of which "." means: no mail (RFC 7505).
func (c *Checker) explicit(h nextHop, mxs []*dns.MX) (nextHop, error) {
	nulls := 0
	for _, mx := range mxs {
		if mx.Mx == "." {
			nulls++
			continue
		}
		h.hosts = append(h.hosts, mxHost{name: clean(mx.Mx), pref: mx.Preference, port: c.port})
	}
	switch {
	case nulls > 0 && len(h.hosts) > 0:
		return h, &Failure{Class: Unknown, RFC: "RFC 7505 §3", Reason: "null MX beside other MX records"}
	case nulls > 0:
		return h, &Failure{Class: Permanent, RFC: "RFC 7505 §4.2", Reason: "domain takes no mail (null MX)", Code: 556, Enhanced: "5.1.10"}
	}
	slices.SortStableFunc(h.hosts, func(a, b mxHost) int { return int(a.pref) - int(b.pref) })
	h.hosts = h.hosts[:min(len(h.hosts), maxHosts)]
	h.note("RFC 5321 §5.1", "hosts: %d, answer is %s", len(h.hosts), h.dns)
	return h, nil
}

// expanded lists a name and what its CNAMEs lead to, each once, the latter first.
func expanded(name, target string) []string {
	if name == target {
		return []string{name}
	}
	return []string{target, name}
}

// hostAddrs is the outcome of the address look-ups of one host.
type hostAddrs struct {
	addrs  []netip.Addr
	secure Security
	base   string // the name that CNAMEs lead to
	ttl    time.Duration
	ede    string
}

// addresses looks up A and AAAA of a host at the same time. One of them may
// fail if the other yields an address.
func (c *Checker) addresses(ctx context.Context, host string) (hostAddrs, error) {
	var a [2]Answer
	var errs [2]error
	var wg sync.WaitGroup
	for i, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
		wg.Go(func() { a[i], errs[i] = c.resolver.Lookup(ctx, host, t) })
	}
	wg.Wait()
	if errs[0] != nil || errs[1] != nil {
		return hostAddrs{}, cmp.Or(errs[0], errs[1])
	}
	h := hostAddrs{secure: DNSSecure, base: host, ttl: maxKeep}
	failed := false
	for _, a := range a {
		if a.Failed() {
			failed, h.ede = true, a.EDE
			continue
		}
		h.addrs = append(h.addrs, addrsOf(a)...)
		h.secure, h.ttl = min(h.secure, a.Secure), min(h.ttl, a.TTL)
		if b := cnames(a, host); b != host {
			h.base = b
		}
	}
	if failed && len(h.addrs) == 0 {
		h.secure = min(a[0].Secure, a[1].Secure)
	}
	h.addrs = h.addrs[:min(len(h.addrs), maxAddrs)]
	return h, nil
}

func addrsOf(a Answer) []netip.Addr {
	var out []netip.Addr
	for _, rr := range a.RRs {
		var ip netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			ip, _ = netip.AddrFromSlice(rr.A)
		case *dns.AAAA:
			ip, _ = netip.AddrFromSlice(rr.AAAA)
		}
		if ip.IsValid() {
			out = append(out, ip.Unmap())
		}
	}
	return out
}

// tlsaFinding is what DANE says about one host.
type tlsaFinding struct {
	base    string // owner under which records were found; also the SNI (RFC 7672 §8.1)
	records []TLSA // usable ones
	present bool   // a secure RRset exists, usable or not
	ttl     time.Duration
}

// tlsa looks for the TLSA records of a host whose name is secure. Its error is a
// Failure of that host: a look-up that fails never means "no DANE".
func (c *Checker) tlsa(ctx context.Context, host string, port int, a hostAddrs) (tlsaFinding, error) {
	bases, err := c.tlsaBases(ctx, host, a)
	if err != nil {
		return tlsaFinding{}, err
	}
	f := tlsaFinding{ttl: maxKeep}
	for _, base := range bases {
		ans, err := c.resolver.Lookup(ctx, fmt.Sprintf("_%d._tcp.%s", port, base), dns.TypeTLSA)
		if err != nil {
			return f, err
		}
		if ans.Failed() {
			return f, &Failure{Class: Unknown, RFC: "RFC 7672 §2.1.2", TLSRPT: dnssecResult(ans),
				Reason: "TLSA look-up is " + ans.Secure.String(), Err: lookupCause(ans)}
		}
		f.ttl = min(f.ttl, ans.TTL)
		if rrs := records[*dns.TLSA](ans); ans.Secure == DNSSecure && len(rrs) > 0 {
			f.base, f.records, f.present = base, usableTLSA(rrs), true
			return f, nil
		}
	}
	return f, nil
}

// tlsaBases lists the names under which TLSA records may be (RFC 7672 §2.2.2,
// §2.2.3): of a secure host its expanded name, then its own; of an insecure one
// none, since many unsigned zones cannot even answer the question, except that
// a securely published alias counts under its own name.
func (c *Checker) tlsaBases(ctx context.Context, host string, a hostAddrs) ([]string, error) {
	switch {
	case a.secure == DNSSecure:
		return expanded(host, a.base), nil
	case a.base == host:
		return nil, nil
	}
	ans, err := c.resolver.Lookup(ctx, host, dns.TypeCNAME)
	if err != nil {
		return nil, err
	}
	if ans.Failed() {
		return nil, &Failure{Class: Unknown, RFC: "RFC 7672 §2.1.2", TLSRPT: dnssecResult(ans),
			Reason: "alias look-up is " + ans.Secure.String(), Err: lookupCause(ans)}
	}
	if ans.Secure == DNSSecure && len(records[*dns.CNAME](ans)) > 0 {
		return []string{host}, nil
	}
	return nil, nil
}

func dnssecResult(a Answer) string {
	if a.Secure == DNSBogus {
		return "dnssec-invalid"
	}
	return ""
}

func lookupCause(a Answer) error {
	if a.EDE == "" {
		return nil
	}
	return fmt.Errorf("%s", a.EDE)
}
