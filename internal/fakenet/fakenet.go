// Package fakenet is a little internet on loopback: a DNS server, recipient
// mail servers and MTA-STS policy hosts, whose faults are data.
//
// [Start] opens it, [Net.Add] puts a mail domain into it and returns the
// [Host] that receives its mail, and the rest of the program is pointed at it
// with [Net.Resolver], [Net.Dial] and [Net.Roots]:
//
//	n, err := fakenet.Start(ctx, fakenet.Options{})
//	mx := n.Add(fakenet.Domain{Name: "patient.example", STS: &fakenet.STS{Mode: "enforce"}})
//	mx.Set(fakenet.Faults{Greylist: 1})
//	…
//	got, err := mx.Wait(ctx, 1)
//
// Names resolve to addresses of 198.18.0.0/15, which no real network routes
// (RFC 2544), and only Dial knows which loopback port stands behind them. A
// caller that forgets the hook reaches nobody, real or fake.
//
// Its users are `gateway demo`, the story tests and the benchmarks; nothing in
// it knows the gateway.
package fakenet

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options of a Net. The zero value is good for tests and the demo.
type Options struct {
	// Clock tells the time that certificates are valid at; nil is time.Now.
	Clock func() time.Time

	// SMTPPort, when not 0, gives each mail server a loopback address of its
	// own (127.77.x.y, which Linux has without being asked) and this port, so
	// that another process reaches it through the resolver alone, without Dial.
	SMTPPort int

	// HTTPSPort is the same for MTA-STS policy hosts. Their port is always 443
	// to a client (RFC 8461 §3.3), so only a privileged process can set it.
	HTTPSPort int
}

// Net is a running fake internet. It is safe for use by many goroutines.
type Net struct {
	opts  Options
	ca    *authority
	dns   *nameServer
	https *policyServer

	mu    sync.Mutex
	hosts map[string]*Host // by host name
	byIP  map[string]*Host
	last  uint16 // addresses handed out so far
}

// Start opens the DNS server and the policy host on loopback. Close ends all
// that Start and Add began.
func Start(ctx context.Context, o Options) (*Net, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	ca, err := newAuthority(o.Clock)
	if err != nil {
		return nil, err
	}
	n := &Net{opts: o, ca: ca, hosts: map[string]*Host{}, byIP: map[string]*Host{}}
	if n.dns, err = listenDNS(ctx); err != nil {
		return nil, err
	}
	if n.https, err = listenPolicies(ctx, ca, n.address(), o.HTTPSPort); err != nil {
		return nil, errors.Join(err, n.dns.close())
	}
	return n, nil
}

// Close ends every server and connection and waits for their goroutines.
func (n *Net) Close() error {
	err := errors.Join(n.dns.close(), n.https.close())
	for _, h := range n.Hosts() {
		err = errors.Join(err, h.close())
	}
	return err
}

// Resolver is the address of the DNS server, "127.0.0.1:port", UDP and TCP. It
// answers as a validating resolver does: with AD for what is signed.
func (n *Net) Resolver() string { return n.dns.addr }

// Roots holds the authority that signed every Valid certificate.
func (n *Net) Roots() *x509.CertPool { return n.ca.pool }

// RootsPEM is the same as a PEM file.
func (n *Net) RootsPEM() []byte { return n.ca.pem }

// Hosts lists the mail servers, in no order.
func (n *Net) Hosts() []*Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	hosts := make([]*Host, 0, len(n.hosts))
	for _, h := range n.hosts {
		hosts = append(hosts, h)
	}
	return hosts
}

// Host returns the mail server of that name, or nil.
func (n *Net) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[canonical(name)]
}

// Mailbox returns what arrived for an address, over all mail servers.
func (n *Net) Mailbox(address string) []Message {
	var box []Message
	for _, h := range n.Hosts() {
		for _, m := range h.Messages() {
			if m.isFor(address) {
				box = append(box, m)
			}
		}
	}
	return box
}

// Cleartext returns every byte that passed a mail server outside TLS, both ways.
func (n *Net) Cleartext() []byte {
	var all []byte
	for _, h := range n.Hosts() {
		all = append(all, h.Cleartext()...)
	}
	return all
}

// Dial opens a connection as net.Dialer does, but inside this net. The host of
// addr is a name or an address from the DNS server; port 443 is the policy
// host and any other port the mail server. What is not in the net refuses.
func (n *Net) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	real := n.behind(canonical(host), port)
	if real == "" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", real)
}

// behind returns the loopback address that stands behind a name and port.
func (n *Net) behind(host, port string) string {
	if port == "443" {
		if host == n.https.ip || n.https.has(host) {
			return n.https.addr
		}
		return ""
	}
	n.mu.Lock()
	h := n.hosts[host]
	if h == nil {
		h = n.byIP[host]
	}
	n.mu.Unlock()
	if h == nil || h.plan().Down {
		return ""
	}
	return h.addr
}

// address hands out the next address for a server.
func (n *Net) address() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last++
	hi, lo := n.last/250, n.last%250+1
	if n.opts.SMTPPort != 0 {
		return fmt.Sprintf("127.77.%d.%d", hi, lo)
	}
	return fmt.Sprintf("198.18.%d.%d", hi, lo)
}

// Record adds resource records in zone-file form, such as
// "p1._domainkey.clinic.example. TXT \"v=DKIM1; …\"". Signed ones carry AD.
func (n *Net) Record(signed bool, lines ...string) error {
	return n.dns.parse(signed, strings.Join(lines, "\n"))
}

// SetDNS makes the DNS server answer a name and type ("MX", "A", "TXT",
// "TLSA") with a fault, or well again with DNSFault zero. The type "*" is all.
func (n *Net) SetDNS(name, rrtype string, f DNSFault) { n.dns.fault(name, rrtype, f) }

// Lookups says how often a name and type was asked for.
func (n *Net) Lookups(name, rrtype string) int { return n.dns.asked(name, rrtype) }

// canonical is the form in which names are compared (RFC 4343).
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
