// Package gateway is the whole product in one value: configuration, the SMTP
// front door, the way of a message, delivery, and the admin socket.
//
// [Open] opens a site and starts nothing; [Gateway.Listen] binds its ports;
// [Gateway.Run] serves until its context ends. The way of a message is
// [Gateway.Accept] in accept.go: read (mail.Parse, phi), facts (registry,
// tlscheck), decide (policy), plan, and one commit. The way out is attempt in
// send.go.
package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/keys"
	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/phi"
	"github.com/phigate/phigate/internal/portal"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/store/bolt"
	"github.com/phigate/phigate/policy"
	"github.com/phigate/phigate/queue"
	"github.com/phigate/phigate/tlscheck"
)

// Options are what a program may change of a site; a zero Options is right for
// production.
type Options struct {
	Log   *slog.Logger
	Clock func() time.Time
	// Dial opens TCP connections for delivery and MTA-STS; nil is the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Build names the program in audit leaves.
	Build string
	// Verb carries out commands that come through the admin socket; nil refuses them.
	Verb Verb
	// Store changes how the store is opened, for crash tests.
	Store func(bolt.Options) bolt.Options
}

// Gateway is an open site.
type Gateway struct {
	cfg   Config
	build string
	log   *slog.Logger
	clock func() time.Time
	verb  Verb

	ring     *keys.Ring
	store    store.Store
	audit    *audit.Log
	registry *registry.Registry
	tls      *tlscheck.Checker
	queue    *queue.Queue
	portal   *portal.Portal // nil if the site has none
	metrics  *metrics

	policy     atomic.Pointer[policy.Policy]
	scanner    atomic.Pointer[func() *phi.Scanner]
	cert       atomic.Pointer[tls.Certificate]
	portalCert atomic.Pointer[tls.Certificate]
	signer     atomic.Pointer[mail.Signer]
	portalHost string

	ids       store.IDs
	memory    *memory
	failures  *failures
	campaigns *campaigns
	providers *providers
	quotas    *quotas
	clients   *clients
	intake    *intake

	smtp    []bound // set by Listen
	admin   net.Listener
	site    net.Listener // portal
	returns net.Listener // bounces and complaints
	stats   net.Listener // metrics
	closers []func() error
}

// bound is a listener with its socket.
type bound struct {
	Listen
	net.Listener
}

// Open opens a site: policy, certificates, key ring, store and every room on
// top of them. It starts no goroutine of its own and binds no port. The error
// is for the operator and names file and fix.
func Open(ctx context.Context, cfg Config, o Options) (*Gateway, error) {
	g := &Gateway{
		cfg: cfg, build: o.Build, log: o.Log, clock: o.Clock, verb: o.Verb,
		memory:    newMemory(int64(cfg.Limits.Memory)),
		campaigns: newCampaigns(),
		providers: newProviders(),
		metrics:   newMetrics(),
	}
	g.clients = &clients{limit: cfg.Limits.Connections, perNetwork: cfg.Limits.PerNetwork, turned: g.metrics.turnedAway.Inc, open: map[*conn]struct{}{}}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.clock == nil {
		g.clock = time.Now
	}
	g.failures = newFailures(g.clock)
	g.intake = newIntake(g)
	if err := g.open(ctx, o); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// open opens the rooms from the bottom up.
func (g *Gateway) open(ctx context.Context, o Options) error {
	if err := g.loadFiles(); err != nil {
		return err
	}
	if err := g.openStore(o); err != nil {
		return err
	}
	if err := g.openTransport(o); err != nil {
		return err
	}
	if err := g.openPortal(); err != nil {
		return err
	}
	if err := g.quotas.load(ctx); err != nil {
		return err
	}
	return g.loadSigner(ctx)
}

// Now is the site's time.
func (g *Gateway) Now() time.Time { return g.clock() }

// Registry is what the site knows of senders, partners and recipients.
func (g *Gateway) Registry() *registry.Registry { return g.registry }

// Policy is the policy in force.
func (g *Gateway) Policy() *policy.Policy { return g.rules() }

// Audit is the site's log.
func (g *Gateway) Audit() *audit.Log { return g.audit }

// Keys is the site's key ring.
func (g *Gateway) Keys() *keys.Ring { return g.ring }

// Queue is the site's queue.
func (g *Gateway) Queue() *queue.Queue { return g.queue }

// TLS answers how safely a domain can be reached.
func (g *Gateway) TLS() *tlscheck.Checker { return g.tls }

// rules is the policy in force.
func (g *Gateway) rules() *policy.Policy { return g.policy.Load() }

// loadFiles reads policy, shaping and certificates, at start and at each reload; on an
// error what was in force stays.
func (g *Gateway) loadFiles() error {
	rules, err := LoadPolicy(g.cfg.Policy, g.clock())
	if err != nil {
		return err
	}
	leak, err := rules.Leaks(context.Background(), nil)
	if err != nil {
		return err
	}
	if leak != nil {
		return fmt.Errorf("the policy can leak: %v", leak)
	}
	cert, err := loadCertificate(g.cfg.Certificate)
	if err != nil {
		return err
	}
	portalCert, err := loadCertificate(g.cfg.Portal.Certificate)
	if err != nil {
		return err
	}
	if portalCert == nil {
		portalCert = cert
	}
	scanner, err := newScanner(rules, g.cfg.Policy)
	if err != nil {
		return err
	}
	shaping, err := loadShaping(g.cfg.Delivery.Shaping)
	if err != nil {
		return err
	}
	g.providers.reshape(shaping)
	if g.queue != nil {
		g.queue.Reshape(shaping)
	}
	g.policy.Store(rules)
	g.cert.Store(cert)
	g.portalCert.Store(portalCert)
	g.scanner.Store(&scanner)
	return nil
}

func loadCertificate(c Certificate) (*tls.Certificate, error) {
	if c.CertFile == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", c.CertFile, c.KeyFile, err)
	}
	return &cert, nil
}

// openStore opens keys, store, audit log and registry, in this order.
func (g *Gateway) openStore(o Options) error {
	root, err := openRoot(g.cfg.Keys.Root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(g.cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if g.ring, err = keys.Open(filepath.Join(g.cfg.Data, "keys"), root, g.clock); err != nil {
		return fmt.Errorf("key ring: %w", err)
	}
	options := bolt.Options{Sealer: g.ring, Hash: audit.Hash, Clock: g.clock, Log: g.log}
	if o.Store != nil {
		options = o.Store(options)
	}
	if g.store, err = bolt.Open(g.cfg.Data, options); err != nil {
		return err
	}
	g.closers = append(g.closers, g.store.Close)
	g.quotas = newQuotas(g.store, g.clock)
	return g.openRecords()
}

func openRoot(r RootKey) (keys.Root, error) {
	switch {
	case r.Credential != "":
		return keys.CredentialRoot(r.Credential)
	case r.Passphrase != "":
		return keys.PassphraseRoot(r.Passphrase)
	}
	return keys.FileRoot(r.File)
}

func (g *Gateway) openTransport(o Options) error {
	roots, err := rootCAs(g.cfg.Delivery.ExtraRoots)
	if err != nil {
		return err
	}
	resolver, err := tlscheck.NewResolver(g.cfg.Delivery.Resolver)
	if err != nil {
		return fmt.Errorf("delivery.resolver: %w", err)
	}
	var own []string
	for _, l := range g.cfg.Listen {
		own = append(own, l.Address)
	}
	if a := g.cfg.Bounces.Address; a != "" {
		own = append(own, a)
	}
	g.tls, err = tlscheck.New(tlscheck.Options{
		Hostname: g.cfg.Hostname, Resolver: resolver, Cache: stsCache{g.store}, Clock: g.clock, RootCAs: roots,
		Port: g.cfg.Delivery.Port, Dial: o.Dial, Routes: routes(g.cfg.Delivery.Routes), Own: own, Log: g.log,
	})
	if err != nil {
		return fmt.Errorf("delivery: %w", err)
	}
	g.queue, err = g.newQueue()
	return err
}

// rootCAs is the system's trust with the site's own additions.
func rootCAs(extra string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if extra == "" {
		return pool, nil
	}
	pem, err := os.ReadFile(extra)
	if err != nil {
		return nil, fmt.Errorf("delivery.extra_roots_file: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("delivery.extra_roots_file: %s holds no PEM certificate", extra)
	}
	return pool, nil
}

func routes(rs []Route) []tlscheck.Route {
	var out []tlscheck.Route
	for _, r := range rs {
		out = append(out, tlscheck.Route{Domain: r.Domain, Host: r.Host, Port: r.Port, PinSPKI: r.Pin.SPKI})
	}
	return out
}

// openPortal makes the pickup site, if the configuration has one.
func (g *Gateway) openPortal() error {
	if g.cfg.Portal.Address == "" {
		return nil
	}
	u, err := url.Parse(g.cfg.Portal.URL)
	if err != nil {
		return fmt.Errorf("portal.url: %w", err)
	}
	g.portalHost = u.Hostname()
	g.portal, err = g.newPortal()
	return err
}

// Close closes what Open opened. Run must have returned.
func (g *Gateway) Close() error {
	var errs []error
	for i := len(g.closers) - 1; i >= 0; i-- {
		errs = append(errs, g.closers[i]())
	}
	g.closers = nil
	return errors.Join(errs...)
}

// LoadPolicy reads a policy file with all its mistakes at once.
func LoadPolicy(path string, now time.Time) (*policy.Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the policy: %w", err)
	}
	p, problems := policy.Parse(path, data, now)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return p, nil
}

// newScanner prepares the scanner that the policy asks for; its tables are
// loaded at the first use.
func newScanner(rules *policy.Policy, policyPath string) (func() *phi.Scanner, error) {
	d := rules.Detection()
	o := phi.Options{Medium: d.Medium, High: d.High, CareRelationship: d.CareRelationship}
	if file := d.TermsFile; file != "" {
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(policyPath), file)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("detection.terms_file: %w", err)
		}
		if o.Terms, err = phi.ReadTerms(file, data); err != nil {
			return nil, err
		}
	}
	return sync.OnceValue(func() *phi.Scanner {
		s, err := phi.New(o)
		if err != nil {
			panic("embedded lexicons damaged") // a build error, found by any test
		}
		return s
	}), nil
}

// quiet swallows what servers of libraries log: peers' texts and panic values,
// which may be mail.
var quiet = log.New(io.Discard, "", 0)

// IsPolicyFile reports whether a file looks like a policy.yaml rather than a
// gateway.yaml, so that commands about the policy alone take either.
func IsPolicyFile(path string) bool {
	data, err := os.ReadFile(path)
	return err == nil && bytes.Contains(append([]byte{'\n'}, data...), []byte("\nrules:"))
}
