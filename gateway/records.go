package gateway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/keys"
	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// openRecords opens audit log and registry on top of the store.
func (g *Gateway) openRecords() (err error) {
	g.audit, err = audit.Open(audit.Options{
		Store: g.store, Sealer: g.ring, Dir: filepath.Join(g.cfg.Data, "checkpoints"), Origin: g.cfg.Hostname,
		Build: g.build, Clock: g.clock, Log: g.log,
	})
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	g.registry = registry.New(registry.Options{
		Store: watched{g}, Now: g.clock, Leaf: g.recordLeaf,
		Organization: func() policy.Organization { return g.rules().Organization() },
	})
	return nil
}

// recordLeaf is the leaf of a change of records.
func (g *Gateway) recordLeaf(c registry.Change) store.Leaf {
	e := audit.Event{Time: c.Time, Kind: audit.Kind(c.Event), ID: c.ID, Who: c.By, Reason: c.Reason, Policy: g.rules().Hash(),
		Codes: map[string]string{"what": string(c.What)}}
	switch {
	case c.What == registry.Consents || c.What == registry.Suppressions:
		e.Recipient = policy.Address(c.Subject)
	case c.Subject != "":
		e.Codes["subject"] = c.Subject
	}
	if c.File != "" {
		e.Codes["file"] = c.File
		for name, n := range map[string]int{"rows": c.Counts.Rows, "added": c.Counts.Added, "changed": c.Counts.Changed,
			"unchanged": c.Counts.Unchanged, "defective": c.Counts.Defective} {
			e.Codes[name] = fmt.Sprint(n)
		}
	}
	return g.audit.Leaf(e)
}

// watched is the store as the registry sees it. After each change of records it
// pulls the unread pickups that the records no longer allow: revocation wins.
type watched struct{ g *Gateway }

func (w watched) Records(ctx context.Context, kind, subject string) ([]store.Record, error) {
	return w.g.store.Records(ctx, kind, subject)
}

func (w watched) Scan(ctx context.Context, kind, after string, limit int) ([]store.Record, string, error) {
	return w.g.store.Scan(ctx, kind, after, limit)
}

func (w watched) Apply(ctx context.Context, e store.Effects) error {
	if err := w.g.store.Apply(ctx, e); err != nil {
		return err
	}
	if w.g.portal != nil {
		w.g.pull(ctx, concerned(e.Records))
	}
	return nil
}

// fewAddresses is up to how many are looked up one by one; beyond, one pass
// over all pickups is cheaper.
const fewAddresses = 100

// concerned lists whose pickups a change of records may touch; nil is anybody's.
func concerned(records []store.Record) []string {
	out := []string{}
	for _, r := range records {
		switch registry.Kind(r.Kind) {
		case registry.Consents, registry.Suppressions:
			out = append(out, r.Subject)
		case registry.Partners:
			return nil
		}
	}
	if len(out) > fewAddresses {
		return nil
	}
	return out
}

// pull recalls the unread pickups of some recipients (nil: of all) that would be
// refused today. It is done after the change is durable; what it could not reach
// is logged and is pulled by the next change, or expires.
func (g *Gateway) pull(ctx context.Context, recipients []string) {
	if recipients == nil {
		g.pullOf(ctx, store.PickupQuery{})
		return
	}
	for _, r := range recipients {
		g.pullOf(ctx, store.PickupQuery{Recipient: r})
	}
}

func (g *Gateway) pullOf(ctx context.Context, q store.PickupQuery) {
	for {
		page, err := g.store.Pickups(ctx, q)
		if err != nil {
			g.log.Error("pickups could not be looked through", "err", err)
			return
		}
		if len(page) == 0 {
			return
		}
		for _, p := range page {
			q.After = p.ID
			g.pullOne(ctx, p)
		}
	}
}

func (g *Gateway) pullOne(ctx context.Context, p store.Pickup) {
	if err := g.recallIfRefused(ctx, p); err != nil {
		g.log.Error("pickup not looked at again", "pickup", p.ID, "err", err)
	}
}

// recallIfRefused recalls an unread pickup that would be refused today.
func (g *Gateway) recallIfRefused(ctx context.Context, p store.Pickup) error {
	rules, f := g.rules(), p.Facts
	f.Partner = partnerOf(rules, p.Sender)
	v, _, err := g.recheck(ctx, rules, f, policy.Address(p.Recipient))
	if err != nil || v.Action != policy.Reject {
		return err
	}
	_, err = g.portal.RecallIfUnread(ctx, p.ID, "", string(v.Code))
	return err
}

// dkimKind is the record kind of DKIM keys.
const dkimKind = "dkim"

// loadSigner reads the DKIM keys.
func (g *Gateway) loadSigner(ctx context.Context) error {
	ks, err := g.DKIMKeys(ctx)
	if err != nil {
		return fmt.Errorf("DKIM keys: %w", err)
	}
	signer, err := mail.NewSigner(g.clock, ks...)
	if err != nil {
		return err
	}
	g.signer.Store(signer)
	return nil
}

// DKIMKeys lists the DKIM keys of all domains.
func (g *Gateway) DKIMKeys(ctx context.Context) ([]mail.Key, error) {
	var out []mail.Key
	for after := ""; ; {
		page, next, err := g.store.Scan(ctx, dkimKind, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			k, err := mail.ParseKey(r.Subject, r.Key, r.Value)
			if err != nil {
				return nil, fmt.Errorf("selector %s of %s: %w", r.Key, r.Subject, err)
			}
			out = append(out, k)
		}
		if after = next; next == "" {
			return out, nil
		}
	}
}

// NewDKIM makes an RSA-2048 and an Ed25519 key for a domain. The old ones sign
// no more, but their public halves must stay published while mail they signed
// is under way.
func (g *Gateway) NewDKIM(ctx context.Context, domain, prefix, who string) ([]mail.Key, error) {
	domain, err := mail.ASCIIDomain(domain)
	if err != nil {
		return nil, err
	}
	old, err := g.DKIMKeys(ctx)
	if err != nil {
		return nil, err
	}
	var e store.Effects
	for _, k := range old {
		if k.Domain == domain {
			e.Records = append(e.Records, store.Record{Kind: dkimKind, Subject: domain, Key: k.Selector, Delete: true})
		}
	}
	var out []mail.Key
	for _, kind := range []struct {
		algorithm mail.Algorithm
		suffix    string
	}{{mail.RSA, "r"}, {mail.Ed25519, "e"}} {
		k, err := mail.NewKey(kind.algorithm, domain, prefix+kind.suffix)
		if err != nil {
			return nil, err
		}
		pem, err := k.MarshalPEM()
		if err != nil {
			return nil, err
		}
		e.Records = append(e.Records, store.Record{Kind: dkimKind, Subject: domain, Key: k.Selector, Value: pem})
		out = append(out, k)
	}
	e.Leaves = []store.Leaf{g.audit.Leaf(audit.Event{Kind: audit.Changed, Who: who, Policy: g.rules().Hash(),
		Codes: map[string]string{"what": "dkim", "domain": domain, "selector": prefix}})}
	if err := g.store.Apply(ctx, e); err != nil {
		return nil, err
	}
	return out, g.loadSigner(ctx)
}

// RotateRoot wraps all keys under the root key in a file, which is made unless
// it exists. The configuration must name it from then on.
func (g *Gateway) RotateRoot(ctx context.Context, path, who string) error {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := keys.CreateRoot(path); err != nil {
			return err
		}
	}
	root, err := keys.FileRoot(path)
	if err != nil {
		return err
	}
	if err := g.ring.Rotate(ctx, root); err != nil {
		return err
	}
	return g.audit.Append(ctx, audit.Event{Kind: audit.Changed, Who: who, Policy: g.rules().Hash(), Codes: map[string]string{"what": "root_key"}})
}

// DestroyEpoch shreds the mail of a day that is over. It is on record before it
// is done, for afterwards nothing else can tell.
func (g *Gateway) DestroyEpoch(ctx context.Context, e keys.Epoch, who string) error {
	err := g.audit.Append(ctx, audit.Event{Kind: audit.Changed, Who: who, Policy: g.rules().Hash(),
		Codes: map[string]string{"what": "epoch_destroyed", "epoch": e.String()}})
	if err != nil {
		return err
	}
	return g.ring.Destroy(e)
}
