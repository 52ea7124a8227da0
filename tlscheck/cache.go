package tlscheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/miekg/dns"
	"github.com/mjl-/mox/mtasts"
)

// Entry is one MTA-STS policy as it was fetched, with what the refresh knows
// about it. It is stored as it is (JSON) and judged again on every load.
type Entry struct {
	Domain      string    `json:"domain"` // the policy domain, lower case, no trailing dot
	ID          string    `json:"id"`     // of the TXT record under which Text was fetched
	Text        string    `json:"text"`   // the policy body
	FetchedAt   time.Time `json:"fetched_at"`
	Expires     time.Time `json:"expires"` // FetchedAt plus max_age; an unchanged id does not move it
	NextRefresh time.Time `json:"next_refresh"`
	LastError   string    `json:"last_error,omitempty"` // of the latest refresh, "" if it went well
}

// Cache keeps policies across restarts. A policy that cannot be read is not a
// policy that does not exist: Load returns ErrMiss only for the latter.
type Cache interface {
	Load(ctx context.Context, domain string) (Entry, error)
	Save(ctx context.Context, e Entry) error
	List(ctx context.Context) ([]Entry, error)
}

// ErrMiss is returned by a Cache's Load when it holds no entry for the domain.
var ErrMiss = errors.New("no policy kept for this domain")

var errBackingOff = errors.New("fetching this policy failed less than 5 minutes ago")

// stsFinding is what MTA-STS says about one policy domain at one moment.
type stsFinding struct {
	stsPolicy
	entry   Entry // zero if there is no policy
	unclear bool  // the record could not be looked up, and no policy is kept
	why     []Reason
}

func (f stsFinding) enforced() bool { return f.policy != nil && f.mode == mtasts.ModeEnforce }

func (f *stsFinding) note(section, result string, args ...any) {
	f.why = append(f.why, Reason{"MTA-STS", "RFC 8461 §" + section, fmt.Sprintf(result, args...)})
}

// sts discovers the policy of a domain. An unexpired policy that is kept
// survives every failure to learn a newer one: an attacker who forges the
// record, drops it or blocks HTTPS gains nothing (RFC 8461 §3.3). With recheck
// it is fetched again even if the record's id is unchanged, since some change
// the one without the other, but not within five minutes. The error is a Failure: the cache is unreadable.
func (c *Checker) sts(ctx context.Context, domain string, recheck bool) (stsFinding, error) {
	release, err := c.locks.acquire(ctx, "sts "+domain)
	if err != nil {
		return stsFinding{}, err
	}
	defer release()
	f, err := c.keptPolicy(ctx, domain)
	if err != nil {
		return f, err
	}
	id, err := c.policyID(ctx, domain, &f)
	if err != nil || id == "" {
		return f, err
	}
	if f.policy != nil && id == f.entry.ID && !(recheck && c.now().Sub(f.entry.FetchedAt) >= fetchBackoff) {
		f.note("3.3", "id %s unchanged, kept policy applies until %s", id, f.entry.Expires.Format(time.RFC3339))
		return f, nil
	}
	return c.renewed(ctx, domain, id, f), nil
}

// keptPolicy loads the unexpired policy of a domain, if there is one.
func (c *Checker) keptPolicy(ctx context.Context, domain string) (stsFinding, error) {
	e, err := c.cache.Load(ctx, domain)
	if errors.Is(err, ErrMiss) {
		return stsFinding{}, nil
	}
	if err == nil && e.Domain != domain {
		err = errors.New("entry belongs to another domain")
	}
	p, perr := parsePolicy(e.Text)
	if err == nil {
		err = perr
	}
	if err != nil {
		return stsFinding{}, &Failure{Class: Unknown, RFC: "RFC 8461 §10.2", Reason: "MTA-STS cache is unreadable", Err: err}
	}
	if !c.now().Before(e.Expires) {
		f := stsFinding{}
		f.note("3.2", "kept policy expired %s and no longer applies", e.Expires.Format(time.RFC3339))
		return f, nil
	}
	return stsFinding{stsPolicy: p, entry: e}, nil
}

// policyID looks up the id of the live policy; "" if none can be learnt, with
// the reason noted in f.
func (c *Checker) policyID(ctx context.Context, domain string, f *stsFinding) (string, error) {
	a, err := c.resolver.Lookup(ctx, "_mta-sts."+domain, dns.TypeTXT)
	if err != nil {
		return "", err
	}
	id, err := "", fmt.Errorf("record look-up failed: %s", a.EDE)
	if !a.Failed() {
		id, err = stsID(records[*dns.TXT](a))
	}
	switch {
	case err == nil:
		f.note("3.1", "record with id %s", id)
	case f.policy != nil:
		f.note("3.3", "%v; kept policy applies until %s", err, f.entry.Expires.Format(time.RFC3339))
	default:
		f.unclear = a.Failed()
		f.note("3.1", "%v", err)
	}
	return id, nil
}

// renewed fetches the policy that id announces; if that fails, what was kept
// still applies.
func (c *Checker) renewed(ctx context.Context, domain, id string, f stsFinding) stsFinding {
	e, p, err := c.renew(ctx, domain, id, f.entry)
	if err == nil {
		f.stsPolicy, f.entry = p, e
		f.note("3.3", "policy fetched, mode %s, lives until %s", p.mode, e.Expires.Format(time.RFC3339))
		return f
	}
	if f.policy != nil {
		f.note("3.3", "fetch failed (%v); kept policy applies until %s", err, f.entry.Expires.Format(time.RFC3339))
	} else {
		f.note("3.3", "fetch failed (%v) and no policy is kept: as if the domain had none", err)
	}
	return f
}

// renew fetches, checks and keeps a policy. After a failure it does not ask
// again for the same id for five minutes.
func (c *Checker) renew(ctx context.Context, domain, id string, old Entry) (Entry, stsPolicy, error) {
	now := c.now()
	key := domain + " " + id
	if _, failed := c.backoff.get(key, now); failed {
		return Entry{}, stsPolicy{}, errBackingOff
	}
	body, err := c.fetch(ctx, domain)
	var p stsPolicy
	if err == nil {
		p, err = parsePolicy(body)
	}
	if err != nil {
		c.backoff.put(key, struct{}{}, now.Add(fetchBackoff))
		return Entry{}, stsPolicy{}, errors.Join(err, c.keepFailure(ctx, old, err))
	}
	e := Entry{Domain: domain, ID: id, Text: body, FetchedAt: now, Expires: now.Add(p.maxAge), NextRefresh: now.Add(refreshAfter(p.maxAge))}
	if err := c.cache.Save(ctx, e); err != nil {
		// It applies now; only the next start will not know it.
		c.log.Error("MTA-STS policy could not be kept", "domain", domain, "err", err)
	}
	return e, p, nil
}

// keepFailure notes a failed refresh with the policy that it was to replace.
func (c *Checker) keepFailure(ctx context.Context, old Entry, cause error) error {
	if old.Text == "" {
		return nil
	}
	old.LastError = cause.Error()
	old.NextRefresh = c.now().Add(fetchBackoff)
	return c.cache.Save(ctx, old)
}

// refreshAfter is a day or a third of the policy's life, since lives of a day
// exist; a tenth of it at random, so that not all are due at once.
func refreshAfter(life time.Duration) time.Duration {
	d := min(24*time.Hour, life/3)
	return d - rand.N(d/10+1)
}

// refresh fetches again every kept policy that is due. One failure stops none
// of the others; each is logged, unless the policy asks for nothing.
func (c *Checker) refresh(ctx context.Context) {
	entries, err := c.cache.List(ctx)
	if err != nil {
		c.log.Error("MTA-STS cache is unreadable", "err", err)
		return
	}
	for _, e := range entries {
		if now := c.now(); now.Before(e.NextRefresh) || !now.Before(e.Expires) {
			continue
		}
		if err := c.refreshOne(ctx, e.Domain); err != nil && ctx.Err() == nil {
			c.log.Warn("MTA-STS policy could not be refreshed", "domain", e.Domain, "expires", e.Expires, "err", err)
		}
	}
}

func (c *Checker) refreshOne(ctx context.Context, domain string) error {
	release, err := c.locks.acquire(ctx, "sts "+domain)
	if err != nil {
		return err
	}
	defer release()
	f, err := c.keptPolicy(ctx, domain)
	if err != nil || f.policy == nil {
		return err
	}
	id, err := c.policyID(ctx, domain, &f)
	if err != nil {
		return err
	}
	if id == "" {
		id = f.entry.ID
	}
	if _, _, err = c.renew(ctx, domain, id, f.entry); f.mode == mtasts.ModeNone {
		return nil
	}
	return err
}

// digest is the SHA-256 of the policy text in hex, for the record.
func (e Entry) digest() string {
	if e.Text == "" {
		return ""
	}
	d := sha256.Sum256([]byte(e.Text))
	return hex.EncodeToString(d[:])
}
