package fakenet

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// Domain is a mail domain to be added. The zero value of every field is the
// ordinary case: one MX with a valid certificate, in an unsigned zone without
// MTA-STS.
type Domain struct {
	Name string

	// MX are the names of its mail servers, the preferred first; empty is
	// "mx.<Name>". A server that exists already is shared and keeps its own
	// certificate and faults.
	MX       []string
	NullMX   bool // "MX 0 .", takes no mail (RFC 7505)
	Implicit bool // no MX record: the domain's own address counts (RFC 5321 §5.1)

	Signed bool // DNSSEC: answers carry AD
	TLSA   bool // publish "3 1 1" of each server's key; counts only when Signed (RFC 7672 §2.2)
	STS    *STS // nil has no MTA-STS record

	Cert   Cert
	Key    Key
	MinTLS uint16   // crypto/tls version; 0 is 1.2
	MaxTLS uint16   // 0 is 1.3
	Suites []uint16 // of TLS 1.2 and below; empty is Go's choice

	EHLO    []string // keywords in place of the usual; what is here is written as it stands
	MaxSize int      // octets of a message; 0 is 50 MiB
	Discard bool     // count messages and keep nothing: a sink for benchmarks
	Faults  Faults
}

// Cert is the kind of certificate a mail server or policy host shows.
type Cert uint8

const (
	Valid      Cert = iota // signed by the net's authority for the right name
	SelfSigned             // right name, signed by nobody
	WrongName              // well signed, for another name
	Expired                // well signed, ended yesterday
	None                   // STARTTLS is not offered
)

// Key is the kind of key in the certificate.
type Key uint8

const (
	P256    Key = iota // cheap, the default
	RSA2048            // what most real servers have
	RSA1024            // below every floor (NIST SP 800-52r2)
)

// Add puts a domain into the net and returns its first mail server, nil for a
// NullMX. A Domain that cannot be added is a mistake of the caller: Add panics.
func (n *Net) Add(d Domain) *Host {
	d.Name = canonical(d.Name)
	n.dns.zone(d.Name, d.Signed)
	if d.NullMX {
		n.must(n.Record(d.Signed, d.Name+". MX 0 ."))
		return nil
	}
	names := d.servers()
	var first *Host
	for i, name := range names {
		h := n.server(name, d)
		h.serves(d.Name)
		if !d.Implicit {
			n.must(n.Record(d.Signed, fmt.Sprintf("%s. MX %d %s.", d.Name, 10*(i+1), name)))
		}
		if first == nil {
			first = h
		}
	}
	if d.STS != nil {
		n.SetSTS(d.Name, d.STS)
	}
	return first
}

func (d Domain) servers() []string {
	switch {
	case d.Implicit:
		return []string{d.Name}
	case len(d.MX) == 0:
		return []string{"mx." + d.Name}
	}
	names := make([]string, len(d.MX))
	for i, name := range d.MX {
		names[i] = canonical(name)
	}
	return names
}

// server returns the mail server of that name, started and published if new.
func (n *Net) server(name string, d Domain) *Host {
	if h := n.Host(name); h != nil {
		return h
	}
	h, err := listenSMTP(name, n.address(), n.opts.SMTPPort, d, n.ca)
	n.must(err)
	n.mu.Lock()
	n.hosts[name], n.byIP[h.IP] = h, h
	n.mu.Unlock()
	n.must(n.Record(d.Signed, fmt.Sprintf("%s. A %s", name, h.IP)))
	if d.TLSA {
		sum := sha256.Sum256(h.leaf.RawSubjectPublicKeyInfo)
		n.must(n.Record(d.Signed, fmt.Sprintf("_25._tcp.%s. TLSA 3 1 1 %x", name, sum)))
	}
	return h
}

// STS is an MTA-STS policy and the host that serves it (RFC 8461).
type STS struct {
	Mode   string   // enforce, testing, none
	MaxAge int      // seconds; 0 is a day
	MX     []string // patterns; empty lists the domain's own servers
	ID     string   // of the TXT record; empty is "1"

	Body        string // in place of the policy made from the fields above
	Status      int    // 0 is 200
	ContentType string // empty is text/plain
	Location    string // with a Status of 3xx
	Cert        Cert   // of the policy host; None refuses the connection
}

func (s *STS) text(patterns []string) string {
	if s.Body != "" {
		return s.Body
	}
	age := s.MaxAge
	if age == 0 {
		age = 86400
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version: STSv1\r\nmode: %s\r\n", s.Mode)
	for _, mx := range patterns {
		fmt.Fprintf(&b, "mx: %s\r\n", mx)
	}
	fmt.Fprintf(&b, "max_age: %d\r\n", age)
	return b.String()
}

// SetSTS changes the MTA-STS policy of a domain while it is in use; nil takes
// the record and the policy away. Call it after Add, or let Add do it.
func (n *Net) SetSTS(domain string, s *STS) {
	domain = canonical(domain)
	label, host := "_mta-sts."+domain, "mta-sts."+domain
	n.dns.remove(label, "TXT")
	n.dns.remove(host, "A")
	if s == nil {
		n.https.remove(host)
		return
	}
	id := s.ID
	if id == "" {
		id = "1"
	}
	signed := n.dns.signed(domain)
	n.must(n.Record(signed, fmt.Sprintf("%s. TXT \"v=STSv1; id=%s;\"", label, id)))
	n.must(n.Record(signed, fmt.Sprintf("%s. A %s", host, n.https.ip)))
	patterns := s.MX
	if len(patterns) == 0 {
		patterns = n.dns.servers(domain)
	}
	n.must(n.https.put(host, s.Cert, page{s, s.text(patterns)}))
}

// must panics: what Add is given is written by a programmer, not by a user.
func (n *Net) must(err error) {
	if err != nil {
		panic("fakenet: " + err.Error())
	}
}
