package gateway

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"strings"

	"github.com/phigate/phigate/internal/audit"
)

// Reload reads policy, shaping and certificates again. A policy with a mistake, one that
// could leak or one that fails its tests changes nothing: the old one stays, and
// the log says why.
func (g *Gateway) Reload(ctx context.Context) error {
	err := g.reload(ctx)
	result := "done"
	if err != nil {
		result = "refused"
		g.log.Error("reload refused, the old policy stays in force", "err", err)
	} else {
		g.log.Info("reloaded", "policy", g.rules().Hash())
	}
	g.metrics.reloads.WithLabelValues(result).Inc()
	return err
}

func (g *Gateway) reload(ctx context.Context) error {
	r, err := Check(ctx, g.cfg, g.clock(), nil)
	if err != nil {
		return err
	}
	if !r.OK {
		return errors.New(strings.Join(r.Problems, "\n"))
	}
	if err := g.loadSigner(ctx); err != nil {
		return err
	}
	if err := g.loadFiles(); err != nil {
		return err
	}
	return g.audit.Append(ctx, audit.Event{Kind: audit.Changed, Policy: g.rules().Hash(), Codes: map[string]string{"what": "policy"}})
}

// Banner is the line a starting gateway prints.
func (g *Gateway) Banner(version string) string {
	module := "not in FIPS mode"
	if fips140.Enabled() {
		module = "FIPS 140-3 module " + fips140.Version()
	}
	return fmt.Sprintf("gateway %s (%s): %s, policy %.12s, mail on %s, store %s", version, module, g.cfg.Hostname,
		g.rules().Hash(), strings.Join(g.Addresses(), " "), g.store.Durability())
}
