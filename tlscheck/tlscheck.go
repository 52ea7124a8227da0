// Package tlscheck says how safely a recipient's domain can be reached, and is
// the only way to open a connection that may carry health information.
//
// [Checker.Posture] predicts before a message is accepted; [Checker.Plan] lists
// the hosts that may meet a floor when it is delivered; [Checker.Dial] connects
// to one of them, negotiates STARTTLS, proves the peer on the live connection
// and only then returns a [Conn]. Prediction and proof share one plan per MX, so
// they cannot drift apart. [Checker.DialOpen] serves mail without a floor and
// returns another type, so that the two cannot be mixed up.
//
// What proves a peer, weakest first (policy.Assurance): any TLS; a WebPKI
// certificate for the MX name; that and an MX name proved by MTA-STS
// (RFC 8461), DNSSEC or the administrator's route; DANE (RFC 7672) or a pinned
// key. How strong the TLS is counts apart (policy.Strength).
//
// DNSSEC is validated by a resolver on loopback; this package reads its AD bit.
package tlscheck

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Options are what a Checker needs; Hostname, Resolver and Cache are required.
type Options struct {
	Hostname string           // our name in EHLO; an MX of this name is ourselves
	Resolver Resolver         // see NewResolver
	Cache    Cache            // where MTA-STS policies survive a restart
	Clock    func() time.Time // time.Now if nil
	RootCAs  *x509.CertPool   // the system's if nil

	Port      int // of SMTP, 25 if 0; TLSA records are those of port 25 all the same
	HTTPSPort int // of policy hosts, 443 if 0

	// Dial opens every socket, with addr an IP and port; net.Dialer if nil.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Routes []Route  // first match wins
	Own    []string // our listeners ("192.0.2.1:25", ":25", "192.0.2.1") and further names

	// Probe, if above 0, lets Posture connect to the MX hosts of a domain it has
	// not met lately, for at most this long, and so see missing STARTTLS and bad
	// certificates before the message is accepted.
	Probe time.Duration

	// Signed and Bogus are names for the hourly self-test of the resolver: one
	// that must come validated, one that must not come at all. "." and
	// "dnssec-failed.org" if empty.
	Signed, Bogus string

	Log *slog.Logger // discarded if nil
}

// Route sends a domain to a host of the administrator's, or pins keys, or both.
type Route struct {
	Domain  string   // "example.org", "*.example.org" (any depth below), "*"
	Host    string   // instead of the MX; "" keeps them
	Port    int      // of Host, Options.Port if 0; its TLSA records are looked up under this port
	PinSPKI []string // SHA-256 of acceptable public keys, hex or base64; they only add a demand

	pins []pin
}

// Checker answers for domains and connects to their hosts. It is safe for
// concurrent use.
type Checker struct {
	hostname  string
	resolver  Resolver
	cache     Cache
	now       func() time.Time
	roots     *x509.CertPool
	port      int
	httpsPort int
	dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	routes    []Route
	own       own
	probe     time.Duration
	test      selfTest
	log       *slog.Logger

	locks    locks
	fetches  chan struct{}     // one token per policy fetch under way
	backoff  *recent[struct{}] // domain and id whose fetch failed
	postures *recent[outcome]  // by domain
	probes   *recent[Posture]  // by domain; what probes found
}

// outcome is a remembered evaluation.
type outcome struct {
	posture Posture
	failure *Failure
}

// How many postures are remembered, for how long at most, and for how long one
// that failed: long enough for a campaign to ask once, short enough to notice.
const (
	keepPostures = 20000
	maxKeep      = 5 * time.Minute
	minKeep      = 5 * time.Second
	failureKeep  = 30 * time.Second
)

// New returns a Checker; nothing runs until Run. Its error names every option
// that is missing or malformed.
func New(o Options) (*Checker, error) {
	c := &Checker{
		hostname: clean(o.Hostname), resolver: o.Resolver, cache: o.Cache, now: o.Clock, roots: o.RootCAs,
		port: orPort(o.Port, 25), httpsPort: orPort(o.HTTPSPort, 443), dial: o.Dial,
		routes: append([]Route(nil), o.Routes...), probe: o.Probe, log: o.Log,
		test:     selfTest{signed: o.Signed, bogus: o.Bogus},
		locks:    locks{held: map[string]chan struct{}{}},
		fetches:  make(chan struct{}, fetchAtOnce),
		backoff:  newRecent[struct{}](keepPostures),
		postures: newRecent[outcome](keepPostures),
		probes:   newRecent[Posture](keepPostures),
	}
	var errs []error
	if c.hostname == "" || !isASCII(c.hostname) {
		errs = append(errs, errors.New("hostname: want the ASCII name of this gateway"))
	}
	if c.resolver == nil || c.cache == nil {
		errs = append(errs, errors.New("a resolver and a cache are needed"))
	}
	for i := range c.routes {
		errs = append(errs, c.routes[i].check())
	}
	var err error
	c.own, err = newOwn(c.hostname, o.Own)
	c.defaults()
	return c, errors.Join(append(errs, err)...)
}

func (c *Checker) defaults() {
	if c.now == nil {
		c.now = time.Now
	}
	if c.dial == nil {
		c.dial = (&net.Dialer{}).DialContext
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.test.signed == "" {
		c.test.signed = "."
	}
	if c.test.bogus == "" {
		c.test.bogus = "dnssec-failed.org"
	}
}

func orPort(p, otherwise int) int {
	if p == 0 {
		return otherwise
	}
	return p
}

// Run tests the resolver at once and hourly, and refreshes the kept MTA-STS
// policies that are due, until ctx is done. It returns nil then.
func (c *Checker) Run(ctx context.Context) error {
	refresh := time.NewTicker(5 * time.Minute)
	defer refresh.Stop()
	test := time.NewTicker(time.Hour)
	defer test.Stop()
	c.selfTest(ctx)
	for {
		c.refresh(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-test.C:
			c.selfTest(ctx)
		case <-refresh.C:
		}
	}
}

// connect opens one socket. The time it may take is bounded here, whatever dial
// does.
func (c *Checker) connect(ctx context.Context, network string, ip netip.Addr, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return c.dial(ctx, network, netip.AddrPortFrom(ip, uint16(port)).String())
}

func (r *Route) port(otherwise int) int { return orPort(r.Port, otherwise) }

func (r *Route) check() error {
	var errs []error
	for _, s := range r.PinSPKI {
		p, err := parsePin(s)
		errs = append(errs, err)
		r.pins = append(r.pins, p)
	}
	if r.Host == "" && len(r.pins) == 0 {
		errs = append(errs, errors.New("neither host nor pin"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("route of %s: %w", r.Domain, err)
	}
	return nil
}
