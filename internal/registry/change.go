package registry

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// ConsentState is a consent as a person wants to see it.
type ConsentState struct {
	ID       store.ID  `json:"id"`
	Version  int       `json:"version"`
	Recorded time.Time `json:"recorded"`
	By       string    `json:"by,omitempty"`
	State    string    `json:"state"`             // as for a message of its own first purpose, unpaid
	Missing  []string  `json:"missing,omitempty"` // legal elements, by column
	Consent
}

// ConsentsOf returns the newest version of each consent of an address, in the
// order in which they were recorded.
func (r *Registry) ConsentsOf(ctx context.Context, address policy.Address) ([]ConsentState, error) {
	rows, err := rowsOf(ctx, r, &consents, address)
	if err != nil {
		return nil, err
	}
	now, name := r.opts.Now(), r.opts.Organization().Name
	states := make([]ConsentState, len(rows))
	for i := range rows {
		c := &rows[i].Row
		s := ConsentState{ID: rows[i].ID, Version: rows[i].N, Recorded: rows[i].Recorded, By: rows[i].By, Consent: *c}
		s.State = c.state(need{now, name, c.Purposes, false}).String()
		for _, d := range c.defects() {
			s.Missing = append(s.Missing, d.column)
		}
		states[i] = s
	}
	return states, nil
}

// SuppressionsOf returns the suppressions of an address, lifted and lapsed ones
// too.
func (r *Registry) SuppressionsOf(ctx context.Context, address policy.Address) ([]Suppression, error) {
	rows, err := rowsOf(ctx, r, &suppressions, address)
	if err != nil {
		return nil, err
	}
	list := make([]Suppression, len(rows))
	for i := range rows {
		list[i] = rows[i].Row
	}
	return list, nil
}

func rowsOf[T any](ctx context.Context, r *Registry, b *book[T], address policy.Address) ([]version[T], error) {
	subject, err := mailbox(address)
	if err != nil {
		return nil, err
	}
	return b.read(ctx, r.opts.Store, subject)
}

// Partner returns how a partner stands, or ErrNotFound.
func (r *Registry) Partner(ctx context.Context, name string) (PartnerState, error) {
	contracts, err := r.contractsOf(ctx, name)
	if err != nil {
		return PartnerState{}, err
	}
	if len(contracts) == 0 {
		return PartnerState{}, ErrNotFound
	}
	return partnerState(name, contracts, r.opts.Now()), nil
}

// Partners returns how every partner stands, by name.
func (r *Registry) Partners(ctx context.Context) ([]PartnerState, error) {
	all, err := partners.all(ctx, r.opts.Store)
	if err != nil {
		return nil, err
	}
	byName := map[string][]version[Contract]{}
	for _, v := range all {
		byName[v.Row.Partner] = append(byName[v.Row.Partner], v)
	}
	var states []PartnerState
	for name, contracts := range byName {
		states = append(states, partnerState(name, contracts, r.opts.Now()))
	}
	slices.SortFunc(states, func(a, b PartnerState) int { return strings.Compare(a.Partner, b.Partner) })
	return states, nil
}

// planned is what a change of rows will do, in one transaction.
type planned struct {
	r       *Registry
	o       ImportOptions
	now     time.Time
	file    string // SHA-256 of the file it comes from, "" for none
	effects store.Effects
}

func (r *Registry) plan(o ImportOptions) *planned {
	return &planned{r: r, o: o, now: r.opts.Now()}
}

// write plans the version of a row that follows old, which is nil for a new row.
func write[T any](p *planned, b *book[T], old *version[T], row T) error {
	n, event := 1, "imported"
	if old != nil {
		n = old.N + 1
	}
	if b.revoked(&row) && (old == nil || !b.revoked(&old.Row)) {
		event = "revoked"
	}
	v := version[T]{ID: p.r.ids.New(p.now), N: n, Recorded: p.now, By: p.o.By, Reason: p.o.Reason, Row: row}
	record, err := b.record(v)
	if err != nil {
		return err
	}
	p.effects.Records = append(p.effects.Records, record)
	if b.index != nil {
		p.effects.Records = append(p.effects.Records, b.index(&row)...)
	}
	p.leaf(Change{Event: event, What: b.kind, ID: v.ID, Subject: record.Subject})
	return nil
}

// leaf plans an audit leaf; what is common to all of them is filled in.
func (p *planned) leaf(c Change) {
	c.Time, c.By, c.Reason, c.File = p.now, p.o.By, p.o.Reason, p.file
	p.effects.Leaves = append(p.effects.Leaves, p.r.opts.Leaf(c))
}

// RevokeConsents revokes, from now on, every consent of an address of one type,
// of all types if it is "". It returns how many were revoked; ErrNotFound if
// there was none to revoke.
func (r *Registry) RevokeConsents(ctx context.Context, address policy.Address, kind, by, reason string) (int, error) {
	return changeOf(ctx, r, &consents, address, by, reason, func(c *Consent, now time.Time) bool {
		if (kind != "" && c.Type != kind) || !c.RevokedAt.IsZero() {
			return false
		}
		c.RevokedAt = now
		return true
	})
}

// LiftSuppressions takes back the suppressions of an address for one reason of
// the table. It returns how many; ErrNotFound if there was none.
func (r *Registry) LiftSuppressions(ctx context.Context, address policy.Address, kind, by, reason string) (int, error) {
	return changeOf(ctx, r, &suppressions, address, by, reason, func(s *Suppression, now time.Time) bool {
		if s.Reason != kind || !s.inForce(now) {
			return false
		}
		s.Lifted = now
		return true
	})
}

// TerminateContracts ends every contract of a partner from now on. It returns
// how many; ErrNotFound if there was none to end.
func (r *Registry) TerminateContracts(ctx context.Context, partner, by, reason string) (int, error) {
	return change(ctx, r, &partners, partner, by, reason, func(c *Contract, now time.Time) bool {
		if over(c.TerminatedAt, now) || over(c.ExpiresAt, now) {
			return false
		}
		c.TerminatedAt = now.Add(-time.Second) // an end still belongs to the contract
		return true
	})
}

// changeOf is change for the rows of an address.
func changeOf[T any](ctx context.Context, r *Registry, b *book[T], address policy.Address, by, reason string, alter func(*T, time.Time) bool) (int, error) {
	subject, err := mailbox(address)
	if err != nil {
		return 0, err
	}
	return change(ctx, r, b, subject, by, reason, alter)
}

// change writes a new version of each row of a subject that alter changes.
func change[T any](ctx context.Context, r *Registry, b *book[T], subject, by, reason string, alter func(*T, time.Time) bool) (int, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	rows, err := b.read(ctx, r.opts.Store, subject)
	if err != nil {
		return 0, err
	}
	p := r.plan(ImportOptions{By: by, Reason: reason})
	n := 0
	for i := range rows {
		value := rows[i].Row
		if !alter(&value, p.now.UTC().Truncate(time.Second)) {
			continue
		}
		n++
		if err := write(p, b, &rows[i], value); err != nil {
			return 0, err
		}
	}
	if n == 0 {
		return 0, ErrNotFound
	}
	return n, r.apply(ctx, p.effects)
}

// Suppressed returns the effects of a new suppression, for a transaction that
// another room commits: a hard bounce, a complaint, a click on unsubscribe. Its
// address must be one that mail can be sent to, else ErrAddress.
func (r *Registry) Suppressed(s Suppression, by string) (store.Effects, error) {
	subject, err := mailbox(s.Address)
	if err != nil {
		return store.Effects{}, err
	}
	s.Address = policy.Address(subject)
	s.At = s.At.UTC().Truncate(time.Second)
	p := r.plan(ImportOptions{By: by})
	err = write(p, &suppressions, nil, s)
	return p.effects, err
}

// Confirmed returns the record that a finished pickup has proved an address,
// for the transaction that finishes it.
func (r *Registry) Confirmed(address policy.Address) (store.Record, error) {
	subject, err := mailbox(address)
	if err != nil {
		return store.Record{}, err
	}
	return store.Record{Kind: string(confirmed), Subject: subject, Key: "pickup", Value: []byte(r.opts.Now().UTC().Format(time.RFC3339))}, nil
}
