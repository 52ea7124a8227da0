package tlscheck

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Security is what DNSSEC says about an answer. RFC 4033 §5 has four states;
// the fifth is an answer of a resolver whose word cannot be trusted.
type Security uint8

const (
	// DNSIndeterminate: no usable answer came (time-out, SERVFAIL, REFUSED,
	// malformed). It never means "there is no record" (RFC 7672 §2.1.2).
	DNSIndeterminate Security = iota
	// DNSBogus: the resolver says validation failed.
	DNSBogus
	// DNSUnvalidated: an answer, but the resolver is not on loopback or failed
	// its self-test, so that its AD bit means nothing.
	DNSUnvalidated
	// DNSInsecure: an answer from a zone that is provably unsigned.
	DNSInsecure
	// DNSSecure: validated, data and denial alike.
	DNSSecure
)

var securityNames = [...]string{"indeterminate", "bogus", "unvalidated", "insecure", "secure"}

func (s Security) String() string {
	if int(s) < len(securityNames) {
		return securityNames[s]
	}
	return fmt.Sprintf("invalid(%d)", uint8(s))
}

// Answer is the outcome of one look-up.
type Answer struct {
	RRs    []dns.RR // records of the answer section, CNAMEs that led there included
	Rcode  int      // RcodeSuccess or RcodeNameError; others give DNSIndeterminate or DNSBogus
	Secure Security
	TTL    time.Duration // how long the answer, or the denial, may be kept
	EDE    string        // extended error (RFC 8914) of a failed look-up
}

// Failed reports whether the look-up gave no answer at all.
func (a Answer) Failed() bool { return a.Secure <= DNSBogus }

// NXDomain reports whether the name is said not to exist.
func (a Answer) NXDomain() bool { return !a.Failed() && a.Rcode == dns.RcodeNameError }

// Resolver asks one question of the DNS, following CNAMEs. A failed look-up is
// an Answer, not an error: errors are for a done context.
type Resolver interface {
	Lookup(ctx context.Context, name string, qtype uint16) (Answer, error)
}

// resolver asks recursive servers with miekg/dns. It validates nothing itself:
// a server on loopback does, and says so by the AD bit (RFC 7672 §2.1.1).
type resolver struct {
	servers []server
	timeout time.Duration // per try
}

type server struct {
	addr    string
	trusted bool // on loopback: nobody else can write its AD bit
}

// ednsSize avoids IP fragments (DNS flag day 2020).
const ednsSize = 1232

// NewResolver returns the Resolver that asks servers ("127.0.0.1:53") in turn.
// Only the AD bit of servers on loopback is believed. An error names the entry
// that is not an IP address with a port; no servers at all are an error too.
func NewResolver(servers []string) (Resolver, error) {
	r := &resolver{timeout: 4 * time.Second}
	for _, s := range servers {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return nil, fmt.Errorf("resolver %q: want an IP address and a port, such as 127.0.0.1:53: %w", s, err)
		}
		r.servers = append(r.servers, server{s, ap.Addr().Unmap().IsLoopback()})
	}
	if len(r.servers) == 0 {
		return nil, errors.New("no resolver given: name one such as 127.0.0.1:53")
	}
	return r, nil
}

func (r *resolver) Lookup(ctx context.Context, name string, qtype uint16) (Answer, error) {
	var last Answer
	for _, s := range r.servers {
		last = r.ask(ctx, s, name, qtype)
		if err := ctx.Err(); err != nil {
			return Answer{EDE: "gave up waiting"}, err
		}
		// A bogus answer is final: asking elsewhere for a laxer one would be
		// shopping for a downgrade.
		if last.Secure != DNSIndeterminate {
			break
		}
	}
	return last, nil
}

// ask puts the question to one server: UDP, then TCP if truncated or lost.
func (r *resolver) ask(ctx context.Context, s server, name string, qtype uint16) Answer {
	q := question(name, qtype)
	msg, err := r.exchange(ctx, "udp", s.addr, q)
	if err == nil && (msg.Rcode == dns.RcodeFormatError || msg.Rcode == dns.RcodeNotImplemented) {
		// A server without EDNS still understands AD in a query (RFC 6840 §5.7).
		q.Extra = nil
		msg, err = r.exchange(ctx, "udp", s.addr, q)
	}
	if err != nil || msg.Truncated {
		msg, err = r.exchange(ctx, "tcp", s.addr, q)
	}
	if err != nil {
		return Answer{EDE: lookupError(err)}
	}
	return read(msg, s.trusted)
}

func question(name string, qtype uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(ednsSize, true)
	q.AuthenticatedData = true
	q.CheckingDisabled = false // with CD set a bogus answer would come as data
	return q
}

var errOther = errors.New("reply to another question")

func (r *resolver) exchange(ctx context.Context, network, addr string, q *dns.Msg) (*dns.Msg, error) {
	c := &dns.Client{Net: network, Timeout: r.timeout}
	msg, _, err := c.ExchangeContext(ctx, q, addr)
	if err != nil {
		return nil, err
	}
	if !msg.Response || len(msg.Question) != 1 || msg.Question[0].Qtype != q.Question[0].Qtype ||
		!strings.EqualFold(msg.Question[0].Name, q.Question[0].Name) {
		return nil, errOther
	}
	return msg, nil
}

func lookupError(err error) string {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return "no reply in time"
	}
	return err.Error()
}

// read turns a reply into an Answer; trusted says whether its AD bit counts.
func read(msg *dns.Msg, trusted bool) Answer {
	if msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError {
		return failed(msg)
	}
	a := Answer{RRs: msg.Answer, Rcode: msg.Rcode, Secure: DNSUnvalidated, TTL: ttl(msg)}
	switch {
	case trusted && msg.AuthenticatedData:
		a.Secure = DNSSecure
	case trusted:
		a.Secure = DNSInsecure
	}
	return a
}

// failed reads the extended error to tell bogus from broken (RFC 8914 §4).
func failed(msg *dns.Msg) Answer {
	a := Answer{Rcode: msg.Rcode, EDE: dns.RcodeToString[msg.Rcode]}
	opt := msg.IsEdns0()
	if opt == nil {
		return a
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			a.EDE += " (" + dns.ExtendedErrorCodeToString[e.InfoCode] + ")"
			if dnssecError(e.InfoCode) {
				a.Secure = DNSBogus
			}
		}
	}
	return a
}

func dnssecError(code uint16) bool {
	switch code {
	case dns.ExtendedErrorCodeDNSBogus, dns.ExtendedErrorCodeSignatureExpired,
		dns.ExtendedErrorCodeSignatureNotYetValid, dns.ExtendedErrorCodeDNSKEYMissing,
		dns.ExtendedErrorCodeRRSIGsMissing, dns.ExtendedErrorCodeNoZoneKeyBitSet,
		dns.ExtendedErrorCodeNSECMissing, dns.ExtendedErrorCodeSignatureExpiredBeforeValid:
		return true
	}
	return false
}

// ttl is the shortest TTL of the answer, or the negative TTL of RFC 2308 §5.
func ttl(msg *dns.Msg) time.Duration {
	least, found := uint32(0), false
	note := func(t uint32) {
		if !found || t < least {
			least, found = t, true
		}
	}
	for _, rr := range msg.Answer {
		note(rr.Header().Ttl)
	}
	for _, rr := range msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok && len(msg.Answer) == 0 {
			note(min(soa.Hdr.Ttl, soa.Minttl))
		}
	}
	return time.Duration(least) * time.Second
}

// records returns those of type T in a, in the order they came.
func records[T dns.RR](a Answer) []T {
	var out []T
	for _, rr := range a.RRs {
		if t, ok := rr.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// cnames reports the name that a's CNAMEs lead to from name, name itself if
// there are none.
func cnames(a Answer, name string) string {
	links := map[string]string{}
	for _, c := range records[*dns.CNAME](a) {
		links[clean(c.Hdr.Name)] = clean(c.Target)
	}
	for range len(links) { // a loop ends after as many steps as there are links
		next, ok := links[name]
		if !ok {
			break
		}
		name = next
	}
	return name
}

// clean is the one spelling of a DNS name here: lower case, no trailing dot.
func clean(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
