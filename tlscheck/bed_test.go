package tlscheck

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/phigate/phigate/policy"
)

// bed is a small internet on loopback: a DNS, mail hosts and policy hosts whose
// faults are data.
type bed struct {
	t     *testing.T
	dns   *fakeDNS
	ca    *authority
	clock *fakeClock
	cache *memCache
	web   *policyHosts

	mu    sync.Mutex
	hosts map[string]string // "192.0.2.1:25" → where it really listens
	dials map[string]int
	next  byte
}

func newBed(t *testing.T) *bed {
	b := &bed{t: t, ca: newAuthority(t, "Test CA"), clock: &fakeClock{now: time.Now()},
		cache: &memCache{m: map[string]Entry{}}, hosts: map[string]string{}, dials: map[string]int{}}
	b.dns = startDNS(t)
	b.web = startPolicyHosts(t, b)
	return b
}

// checker returns a Checker of this internet.
func (b *bed) checker(change ...func(*Options)) *Checker {
	b.t.Helper()
	r, err := NewResolver([]string{b.dns.addr})
	if err != nil {
		b.t.Fatal(err)
	}
	r.(*resolver).timeout = 300 * time.Millisecond
	o := Options{Hostname: "gw.clinic.test", Resolver: r, Cache: b.cache, Clock: b.clock.Now, RootCAs: b.ca.pool(), Dial: b.dial}
	for _, f := range change {
		f(&o)
	}
	c, err := New(o)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bed) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	b.mu.Lock()
	real, ok := b.hosts[addr]
	b.dials[addr]++
	b.mu.Unlock()
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("nobody at %s", addr)}
	}
	return (&net.Dialer{}).DialContext(ctx, network, real)
}

func (b *bed) dialled(addr string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dials[addr]
}

// ip hands out an address of the documentation net.
func (b *bed) ip() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	return fmt.Sprintf("192.0.2.%d", b.next)
}

// mx starts a mail host with that name and address record. A nil certificate
// gets a good one.
func (b *bed) mx(host string, p peer) *fakeMX {
	b.t.Helper()
	ip := b.ip()
	b.dns.add(fmt.Sprintf("%s. 300 IN A %s", host, ip))
	if p.cert == nil {
		p.cert = b.ca.issue(b.t, leaf{names: []string{host}})
	}
	m := startMX(b.t, p)
	m.ip = ip
	b.mu.Lock()
	b.hosts[ip+":25"] = m.addr
	b.mu.Unlock()
	return m
}

// domain publishes MX records in this order of preference.
func (b *bed) domain(name string, hosts ...string) {
	for i, h := range hosts {
		b.dns.add(fmt.Sprintf("%s. 300 IN MX %d %s.", name, 10*(i+1), h))
	}
}

const enforce = "version: STSv1\nmode: enforce\nmax_age: 604800\n"

// sts publishes an MTA-STS policy.
func (b *bed) sts(domain, id, body string) {
	b.dns.set("_mta-sts."+domain+". TXT", fmt.Sprintf(`_mta-sts.%s. 300 IN TXT "v=STSv1; id=%s"`, domain, id))
	b.dns.set("mta-sts."+domain+". A", fmt.Sprintf("mta-sts.%s. 300 IN A %s", domain, b.web.ip))
	b.web.serve(domain, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, body)
	})
}

// tlsa publishes the digest of a certificate's key.
func (b *bed) tlsa(host string, usage int, cert *x509.Certificate) {
	d := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	b.dns.add(fmt.Sprintf("_25._tcp.%s. 300 IN TLSA %d 1 1 %s", host, usage, hex.EncodeToString(d[:])))
}

type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
}

type memCache struct {
	mu  sync.Mutex
	m   map[string]Entry
	err error // of every call, if set
}

func (c *memCache) Load(_ context.Context, domain string) (Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.m[domain]
	if !ok && c.err == nil {
		return Entry{}, ErrMiss
	}
	return e, c.err
}

func (c *memCache) Save(_ context.Context, e Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m[e.Domain] = e
	return c.err
}

func (c *memCache) List(context.Context) ([]Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Entry
	for e := range maps.Values(c.m) {
		all = append(all, e)
	}
	return all, c.err
}

// fakeDNS is a recursive resolver on loopback. Names under a signed zone come
// with AD, an answer over CNAMEs only if every name of it is.
type fakeDNS struct {
	addr string

	mu     sync.Mutex
	rrs    map[string][]dns.RR // "name. TYPE"
	signed []string
	faults map[string]fault // "name. TYPE"
	asked  map[string]int
	last   *dns.Msg // the latest query, as it came
}

// fault is how a question goes wrong.
type fault struct {
	rcode    int
	ede      uint16 // with rcode
	drop     bool
	truncate bool // over UDP
	noEDNS   bool // FORMERR to anything with an OPT record
	ad       *bool
	other    bool // answers another question
}

func startDNS(t *testing.T) *fakeDNS {
	t.Helper()
	d := &fakeDNS{rrs: map[string][]dns.RR{}, faults: map[string]fault{}, asked: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	pc, err := net.ListenPacket("udp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: l, Handler: d}, {PacketConn: pc, Handler: d}} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go s.ActivateAndServe()
		<-up
		t.Cleanup(func() { s.Shutdown() })
	}
	return d
}

func key(name string, qtype uint16) string {
	return strings.ToLower(dns.Fqdn(name)) + " " + dns.TypeToString[qtype]
}

// add publishes records, in zone-file form.
func (d *fakeDNS) add(lines ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range lines {
		rr, err := dns.NewRR(s)
		if err != nil {
			panic(err)
		}
		k := key(rr.Header().Name, rr.Header().Rrtype)
		d.rrs[k] = append(d.rrs[k], rr)
	}
}

// set replaces an RRset; without lines it is gone.
func (d *fakeDNS) set(k string, lines ...string) {
	d.mu.Lock()
	delete(d.rrs, k)
	delete(d.faults, k)
	d.mu.Unlock()
	d.add(lines...)
}

func (d *fakeDNS) sign(zones ...string) {
	d.mu.Lock()
	d.signed = append(d.signed, zones...)
	d.mu.Unlock()
}
func (d *fakeDNS) fail(k string, f fault) { d.mu.Lock(); d.faults[k] = f; d.mu.Unlock() }
func (d *fakeDNS) count(k string) int     { d.mu.Lock(); defer d.mu.Unlock(); return d.asked[k] }

// query is the latest question, as it came.
func (d *fakeDNS) query() *dns.Msg { d.mu.Lock(); defer d.mu.Unlock(); return d.last }

func (d *fakeDNS) isSigned(name string) bool {
	for _, z := range d.signed {
		if z == name || strings.HasSuffix(name, "."+z) {
			return true
		}
	}
	return false
}

func (d *fakeDNS) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := key(q.Question[0].Name, q.Question[0].Qtype)
	d.asked[k]++
	d.last = q.Copy()
	f := d.faults[k]
	m := new(dns.Msg)
	m.SetReply(q)
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	switch {
	case f.drop:
		return
	case f.noEDNS && q.IsEdns0() != nil:
		m.Rcode = dns.RcodeFormatError
	case f.rcode != 0:
		m.Rcode = f.rcode
		if f.ede != 0 {
			m.SetEdns0(ednsSize, true)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: f.ede})
		}
	case f.truncate && udp:
		m.Truncated = true
	default:
		d.answer(m)
	}
	if f.ad != nil {
		m.AuthenticatedData = *f.ad
	}
	if f.other {
		m.Question[0].Name = "other.test."
	}
	w.WriteMsg(m)
}

func (d *fakeDNS) answer(m *dns.Msg) {
	name, qtype := strings.ToLower(m.Question[0].Name), m.Question[0].Qtype
	m.AuthenticatedData = true
	for range 8 {
		m.AuthenticatedData = m.AuthenticatedData && d.isSigned(clean(name))
		m.Answer = append(m.Answer, d.rrs[key(name, qtype)]...)
		alias := d.rrs[key(name, dns.TypeCNAME)]
		if len(alias) == 0 || qtype == dns.TypeCNAME {
			break
		}
		m.Answer = append(m.Answer, alias...)
		name = alias[0].(*dns.CNAME).Target
	}
	if len(m.Answer) == 0 {
		soa, _ := dns.NewRR("test. 60 IN SOA ns.test. host.test. 1 900 900 1800 60")
		m.Ns = append(m.Ns, soa)
	}
	if !d.exists(name) {
		m.Rcode = dns.RcodeNameError
	}
}

func (d *fakeDNS) exists(name string) bool {
	for k, rrs := range d.rrs {
		owner, _, _ := strings.Cut(k, " ")
		if len(rrs) > 0 && (owner == name || strings.HasSuffix(owner, "."+name)) {
			return true
		}
	}
	return false
}

// authority is a CA made for one test.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newAuthority(t testing.TB, name string) *authority {
	return (*authority)(nil).sub(t, name, newKey(t))
}

// sub makes a CA below a, or a root if a is nil.
func (a *authority) sub(t testing.TB, name string, k crypto.Signer) *authority {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	parent, signer := tmpl, k
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, k.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, k}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// leaf describes a certificate to issue.
type leaf struct {
	names   []string
	expired bool
	key     crypto.Signer
	chain   []*x509.Certificate // presented behind the leaf
}

func (a *authority) issue(t testing.TB, l leaf) *tls.Certificate {
	t.Helper()
	if l.key == nil {
		l.key = newKey(t)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: l.names[0]}, DNSNames: l.names,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(900 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if l.expired {
		tmpl.NotAfter = time.Now().Add(-time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, l.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: l.key}
	c.Leaf, _ = x509.ParseCertificate(der)
	for _, x := range l.chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// peer is how a mail host behaves.
type peer struct {
	cert     *tls.Certificate
	config   func(*tls.Config)
	greeting string   // "220 …" if empty
	ehlo     []string // keywords before TLS; STARTTLS if nil
	ehloCode int      // 250 if 0
	starttls string   // reply; "220 go" if empty
	early    string   // said ahead of the STARTTLS command
	hang     string   // "greeting", "EHLO", "STARTTLS", "handshake": never answered
	drop     string   // the same: connection closed
}

// fakeMX is a scripted mail host. It takes commands, not messages.
type fakeMX struct {
	peer
	addr, ip string

	mu   sync.Mutex
	log  []string // commands, those after TLS marked "tls:"
	sni  []string
	done chan struct{}

	heard chan struct{} // closed at the first command
	once  sync.Once
}

func startMX(t *testing.T, p peer) *fakeMX {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeMX{peer: p, addr: l.Addr().String(), done: make(chan struct{}), heard: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); m.serve(c) })
		}
	})
	t.Cleanup(func() { close(m.done); l.Close(); wg.Wait() })
	return m
}

func (m *fakeMX) said() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.log, "\n")
}

// names lists the SNI of every handshake.
func (m *fakeMX) names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.sni...)
}

// stage reports whether to go on at a stage of the talk.
func (m *fakeMX) stage(name string) bool {
	if m.hang == name {
		<-m.done
	}
	return m.hang != name && m.drop != name
}

func (m *fakeMX) serve(c net.Conn) {
	go func() { <-m.done; c.Close() }()
	br := bufio.NewReader(c)
	if !m.stage("greeting") {
		return
	}
	fmt.Fprintf(c, "%s\r\n", or(m.greeting, "220 mx ready"))
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		m.mu.Lock()
		m.log = append(m.log, line)
		m.mu.Unlock()
		m.once.Do(func() { close(m.heard) })
		verb, _, _ := strings.Cut(line, " ")
		if !m.stage(verb) {
			return
		}
		switch verb {
		case "EHLO":
			m.hello(c)
		case "STARTTLS":
			fmt.Fprintf(c, "%s\r\n", or(m.starttls, "220 go"))
			if m.stage("handshake") && strings.HasPrefix(or(m.starttls, "220"), "220") {
				m.secure(c)
			}
			if !strings.HasPrefix(m.starttls, "4") && !strings.HasPrefix(m.starttls, "5") {
				return
			}
		case "QUIT":
			fmt.Fprint(c, "221 bye\r\n")
			return
		default:
			fmt.Fprint(c, "250 ok\r\n")
		}
	}
}

func (m *fakeMX) hello(c net.Conn) {
	if m.ehloCode != 0 && m.ehloCode != 250 {
		fmt.Fprintf(c, "%d no\r\n", m.ehloCode)
		return
	}
	kw := m.ehlo
	if kw == nil {
		kw = []string{"PIPELINING", "STARTTLS"}
	}
	reply := "250-mx greets you\r\n"
	for _, k := range kw {
		reply += "250-" + k + "\r\n"
	}
	io.WriteString(c, reply+"250 HELP\r\n"+m.early)
}

func (m *fakeMX) secure(c net.Conn) {
	cfg := &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		m.mu.Lock()
		m.sni = append(m.sni, h.ServerName)
		m.mu.Unlock()
		return m.cert, nil
	}}
	if m.config != nil {
		m.config(cfg)
	}
	tc := tls.Server(c, cfg)
	br := bufio.NewReader(tc)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		m.mu.Lock()
		m.log = append(m.log, "tls:"+strings.TrimSpace(line))
		m.mu.Unlock()
		fmt.Fprint(tc, "250 ok\r\n")
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// policyHosts is one HTTPS server for all policy hosts, told apart by SNI.
type policyHosts struct {
	ip string

	mu       sync.Mutex
	handlers map[string]http.HandlerFunc // by host
	certs    map[string]*tls.Certificate
	gets     map[string]int
}

func startPolicyHosts(t *testing.T, b *bed) *policyHosts {
	t.Helper()
	p := &policyHosts{ip: b.ip(), handlers: map[string]http.HandlerFunc{}, certs: map[string]*tls.Certificate{}, gets: map[string]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.hosts[p.ip+":443"] = l.Addr().String()
	s := &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)}
	go s.Serve(tls.NewListener(l, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if c := p.certs[h.ServerName]; c != nil {
			return c, nil
		}
		return b.ca.issue(t, leaf{names: []string{h.ServerName}}), nil
	}}))
	t.Cleanup(func() { s.Close() })
	return p
}

func (p *policyHosts) serve(domain string, h http.HandlerFunc) {
	p.mu.Lock()
	p.handlers["mta-sts."+domain] = h
	p.mu.Unlock()
}

func (p *policyHosts) cert(domain string, c *tls.Certificate) {
	p.mu.Lock()
	p.certs["mta-sts."+domain] = c
	p.mu.Unlock()
}

func (p *policyHosts) count(domain string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gets["mta-sts."+domain]
}

func (p *policyHosts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.gets[r.Host]++
	h := p.handlers[r.Host]
	p.mu.Unlock()
	if h == nil || r.URL.Path != "/.well-known/mta-sts.txt" && !strings.HasPrefix(r.URL.Path, "/moved") {
		http.NotFound(w, r)
		return
	}
	h(w, r)
}

var (
	verified  = policy.Floor{Assurance: policy.AssuranceVerified, Strength: policy.StrengthSP80052r2}
	named     = policy.Floor{Assurance: policy.AssurancePolicy, Strength: policy.StrengthSP80052r2}
	daneFloor = policy.Floor{Assurance: policy.AssuranceDANE, Strength: policy.StrengthSP80052r2}
)

// send plans and dials as the queue does: hosts in order, the first that meets
// the floor.
func send(t *testing.T, c *Checker, domain string, f policy.Floor) (Evidence, error) {
	t.Helper()
	p, err := c.Plan(t.Context(), domain, f)
	if err != nil {
		return Evidence{}, err
	}
	var fs []*Failure
	for _, target := range p.Targets {
		conn, e, err := c.Dial(t.Context(), target)
		if err == nil {
			conn.Close()
			return e, nil
		}
		fs = append(fs, asFailure(err))
	}
	return Evidence{}, worst(fs)
}

func wantAssurance(t *testing.T, e Evidence, err error, want policy.Assurance) {
	t.Helper()
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	if e.Assurance != want {
		t.Fatalf("assurance %s, want %s: %+v", e.Assurance, want, e.Why)
	}
}

func wantClass(t *testing.T, err error, want FailureClass) {
	t.Helper()
	if err == nil {
		t.Fatalf("no failure, want %s", want)
	}
	if ClassOf(err) != want {
		t.Fatalf("class %s (%v), want %s", ClassOf(err), err, want)
	}
}
