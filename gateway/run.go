package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/sync/errgroup"
)

// drainFor is how long a stopping gateway waits for open conversations and
// deliveries; what is not finished is still queued.
const drainFor = 20 * time.Second

// Listen binds every port of the site. A busy port or an unreadable socket is
// an error, and then none is bound.
func (g *Gateway) Listen() (err error) {
	defer func() {
		if err != nil {
			g.unbind()
		}
	}()
	for _, l := range g.cfg.Listen {
		n, err := net.Listen("tcp", l.Address)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", l.Address, err)
		}
		g.smtp = append(g.smtp, bound{l, n})
	}
	for _, p := range []struct {
		addr string
		into *net.Listener
	}{{g.cfg.Portal.Address, &g.site}, {g.cfg.Metrics.Address, &g.stats}, {g.cfg.Bounces.Address, &g.returns}} {
		if p.addr == "" {
			continue
		}
		if *p.into, err = net.Listen("tcp", p.addr); err != nil {
			return fmt.Errorf("listen on %s: %w", p.addr, err)
		}
	}
	g.admin, err = adminListener(g.cfg.AdminSocket)
	return err
}

func (g *Gateway) unbind() {
	for _, l := range g.smtp {
		l.Listener.Close()
	}
	for _, l := range []net.Listener{g.site, g.stats, g.returns, g.admin} {
		if l != nil {
			l.Close()
		}
	}
}

// Addresses are the SMTP addresses that Listen bound, in the order of the file;
// that for bounces, if there is one, is the last.
func (g *Gateway) Addresses() []string {
	var out []string
	for _, l := range g.smtp {
		out = append(out, l.Addr().String())
	}
	if g.returns != nil {
		out = append(out, g.returns.Addr().String())
	}
	return out
}

// Run serves until ctx ends, then drains and returns. All goroutines of the
// gateway live and end here; the first that fails ends all.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.unbind()
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range g.smtp {
		group.Go(func() error { return g.serveSMTP(ctx, l) })
	}
	group.Go(func() error { return g.queue.Run(ctx) })
	group.Go(func() error { return g.tls.Run(ctx) })
	group.Go(func() error { return g.audit.Run(ctx) })
	group.Go(func() error { return g.keepQuotas(ctx) })
	group.Go(func() error { return g.serveAdmin(ctx) })
	if g.stats != nil {
		group.Go(func() error {
			return serveUntil(ctx, &http.Server{Handler: g.metrics.handler(g), ErrorLog: quiet}, g.stats, time.Second)
		})
	}
	if g.returns != nil {
		group.Go(func() error { return g.serveReturns(ctx) })
	}
	if g.portal != nil {
		group.Go(func() error { return g.servePortal(ctx) })
		group.Go(func() error { return g.portal.Run(ctx) })
	}
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// requestContext bounds the work for one command of a client. It does not end
// with Run: an accepted message is finished while draining.
func (g *Gateway) requestContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Duration(g.cfg.Limits.Timeout))
}

func (g *Gateway) serveSMTP(ctx context.Context, l bound) error {
	server := g.frontDoor(l.Listen)
	var n net.Listener = &listener{Listener: l.Listener, clients: g.clients,
		busy:  fmt.Sprintf("421 4.3.2 %s too many connections, retry in a minute\r\n", g.cfg.Hostname),
		crowd: fmt.Sprintf("421 4.7.0 %s too many connections from your network, close some first\r\n", g.cfg.Hostname)}
	if l.TLS == TLSImplicit {
		n = tls.NewListener(n, g.serverTLS())
	}
	return serveMail(ctx, server, n, g.clients)
}

// serveMail serves SMTP until ctx ends, then lets conversations end for a while.
func serveMail(ctx context.Context, server *smtp.Server, n net.Listener, clients *clients) error {
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(n) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	clients.drain()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		server.Close()
	}
	return nil
}

func (g *Gateway) servePortal(ctx context.Context) error {
	srv := &http.Server{Handler: g.stillAllowed(g.portal.Handler()), ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	if g.cfg.Portal.plain() {
		return serveUntil(ctx, srv, g.site, drainFor)
	}
	srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return g.portalCert.Load(), nil
	}}
	return serveUntil(ctx, srv, tls.NewListener(g.site, srv.TLSConfig), drainFor)
}

// serveUntil serves HTTP until ctx ends, then lets requests finish for a while.
func serveUntil(ctx context.Context, srv *http.Server, l net.Listener, grace time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		srv.Close()
	}
	return nil
}

// Idle returns when nothing is being sent and nothing is due, so that a demo or
// a test can look at the ends.
func (g *Gateway) Idle(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		idle, err := g.idle(ctx)
		if idle || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// idle looks twice: mail that was due at the first look and leased when Due was
// asked has added its leaf by the second, or is leased still.
func (g *Gateway) idle(ctx context.Context) (bool, error) {
	before, err := g.store.Stats(ctx)
	if err != nil || before.Leased > 0 {
		return false, err
	}
	due, err := g.store.Due(ctx, g.clock(), 1)
	if err != nil || len(due) > 0 {
		return false, err
	}
	after, err := g.store.Stats(ctx)
	return after.Leased == 0 && after.Leaves == before.Leaves, err
}
