package fakenet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// DNSFault is what is wrong with the answers for a name.
type DNSFault uint8

const (
	NoFault  DNSFault = iota
	ServFail          // the resolver could not find out
	Bogus             // SERVFAIL with EDE 6, as a validator says of a broken signature (RFC 8914)
	Timeout           // no answer at all
	Refused           // REFUSED
	Gone              // NXDOMAIN, whatever is there
	Unsigned          // the right answer, without AD
)

// nameServer plays a validating resolver that knows one small world.
type nameServer struct {
	addr     string
	udp, tcp *dns.Server
	done     sync.WaitGroup

	mu      sync.Mutex
	zones   map[string]bool // apex → signed
	records map[string][]record
	faults  map[question]DNSFault
	counts  map[question]int
}

// record is a resource record and whether a signature covers it.
type record struct {
	dns.RR
	signed bool
}

type question struct{ name, rrtype string }

func listenDNS(ctx context.Context) (*nameServer, error) {
	udp, tcp, err := bothPorts(ctx)
	if err != nil {
		return nil, fmt.Errorf("fakenet: DNS: %w", err)
	}
	s := &nameServer{
		addr:    tcp.Addr().String(),
		zones:   map[string]bool{"": true},
		records: map[string][]record{},
		faults:  map[question]DNSFault{},
		counts:  map[question]int{},
	}
	s.udp = &dns.Server{PacketConn: udp, Handler: s}
	s.tcp = &dns.Server{Listener: tcp, Handler: s}
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		s.done.Go(func() { _ = srv.ActivateAndServe() })
		<-started // Shutdown fails on a server that has not begun
	}
	return s, nil
}

// bothPorts opens one port number for UDP and TCP.
func bothPorts(ctx context.Context) (udp net.PacketConn, tcp net.Listener, err error) {
	var lc net.ListenConfig
	for range 20 { // another process may hold the number for the other protocol
		if tcp, err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return nil, nil, err
		}
		if udp, err = lc.ListenPacket(ctx, "udp", tcp.Addr().String()); err == nil {
			return udp, tcp, nil
		}
		tcp.Close()
	}
	return nil, nil, err
}

func (s *nameServer) close() error {
	err := errors.Join(s.udp.Shutdown(), s.tcp.Shutdown())
	s.done.Wait()
	return err
}

func (s *nameServer) zone(apex string, signed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zones[apex] = signed
}

// signed reports whether the zone that a name lies in is signed.
func (s *nameServer) signed(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zones[s.apex(name)]
}

// apex is the closest zone above a name; the root is always there.
func (s *nameServer) apex(name string) string {
	for {
		if _, ok := s.zones[name]; ok {
			return name
		}
		_, name, _ = strings.Cut(name, ".")
	}
}

func (s *nameServer) parse(signed bool, text string) error {
	zp := dns.NewZoneParser(strings.NewReader(text), ".", "")
	zp.SetDefaultTTL(300)
	s.mu.Lock()
	defer s.mu.Unlock()
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		name := canonical(rr.Header().Name)
		s.records[name] = append(s.records[name], record{rr, signed})
	}
	return zp.Err()
}

func (s *nameServer) remove(name, rrtype string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keep []record
	for _, r := range s.records[name] {
		if dns.TypeToString[r.Header().Rrtype] != rrtype {
			keep = append(keep, r)
		}
	}
	if s.records[name] = keep; keep == nil {
		delete(s.records, name)
	}
}

// servers lists the names of a domain's MX records, or the domain itself.
func (s *nameServer) servers(domain string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, r := range s.records[domain] {
		if mx, ok := r.RR.(*dns.MX); ok {
			names = append(names, canonical(mx.Mx))
		}
	}
	if names == nil {
		names = []string{domain}
	}
	return names
}

func (s *nameServer) fault(name, rrtype string, f DNSFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[question{canonical(name), rrtype}] = f
}

func (s *nameServer) asked(name, rrtype string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[question{canonical(name), rrtype}]
}

// ServeDNS implements dns.Handler.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	reply := s.reply(req)
	if reply == nil {
		return
	}
	if _, ok := w.LocalAddr().(*net.UDPAddr); ok {
		size := uint16(dns.MinMsgSize)
		if opt := req.IsEdns0(); opt != nil {
			size = max(size, opt.UDPSize())
		}
		reply.Truncate(int(size))
	}
	_ = w.WriteMsg(reply)
}

// reply answers a query; nil is a timeout.
func (s *nameServer) reply(req *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(req)
	m.RecursionAvailable = true
	if opt := req.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	if len(req.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		return m
	}
	q := question{canonical(req.Question[0].Name), dns.TypeToString[req.Question[0].Qtype]}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[q]++
	secure := s.resolve(m, q)
	switch s.faultOf(q) {
	case Timeout:
		return nil
	case ServFail:
		empty(m, dns.RcodeServerFailure)
	case Bogus:
		if !req.CheckingDisabled {
			empty(m, dns.RcodeServerFailure)
			explain(m, dns.ExtendedErrorCodeDNSBogus)
		}
		secure = false
	case Refused:
		empty(m, dns.RcodeRefused)
	case Gone:
		empty(m, dns.RcodeNameError)
	case Unsigned:
		secure = false
	}
	failed := m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	asks := req.AuthenticatedData || (req.IsEdns0() != nil && req.IsEdns0().Do())
	// RFC 6840 §5.8: AD only for a client that asks, and not when it does the checking.
	m.AuthenticatedData = secure && asks && !failed && !req.CheckingDisabled
	return m
}

func (s *nameServer) faultOf(q question) DNSFault {
	if f := s.faults[q]; f != NoFault {
		return f
	}
	return s.faults[question{q.name, "*"}]
}

// resolve fills in the answer and reports whether all of it is signed.
func (s *nameServer) resolve(m *dns.Msg, q question) (secure bool) {
	secure, name := true, q.name
	for range 8 { // no chain of aliases is longer here
		found, alias := false, ""
		for _, r := range s.records[name] {
			switch t := dns.TypeToString[r.Header().Rrtype]; {
			case t == q.rrtype || q.rrtype == "ANY":
				found = true
			case t == "CNAME":
				alias = canonical(r.RR.(*dns.CNAME).Target)
			default:
				continue
			}
			m.Answer = append(m.Answer, dns.Copy(r.RR))
			secure = secure && r.signed
		}
		if found {
			return secure
		}
		if alias == "" {
			break
		}
		name = alias
	}
	return s.deny(m, name) && secure
}

// deny makes a NODATA or NXDOMAIN answer (RFC 2308 §2).
func (s *nameServer) deny(m *dns.Msg, name string) (secure bool) {
	if !s.exists(name) {
		m.Rcode = dns.RcodeNameError
	}
	apex := s.apex(name)
	m.Ns = append(m.Ns, &dns.SOA{
		Hdr:    dns.RR_Header{Name: dns.Fqdn(apex), Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
		Ns:     "ns.invalid.",
		Mbox:   "hostmaster.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 60,
	})
	return s.zones[apex]
}

// exists reports whether a name has records or names below it (RFC 8020).
func (s *nameServer) exists(name string) bool {
	if _, ok := s.zones[name]; ok {
		return true
	}
	for owner := range s.records {
		if owner == name || strings.HasSuffix(owner, "."+name) {
			return true
		}
	}
	return false
}

func empty(m *dns.Msg, rcode int) { m.Rcode, m.Answer, m.Ns = rcode, nil, nil }

// explain adds an Extended DNS Error (RFC 8914) if the client speaks EDNS.
func explain(m *dns.Msg, code uint16) {
	if opt := m.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code})
	}
}
