package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// plan says what a verb does to one envelope, and what the audit log says of it.
type plan func(store.Envelope) (store.Change, audit.Event, error)

// change applies a plan to each selected envelope that is in the state; "" is
// ready or held.
func (q *Queue) change(ctx context.Context, s Selection, by By, in store.State, what plan) (Changed, error) {
	if s.empty() {
		return Changed{}, ErrNothingSelected
	}
	if (by.Who == "" || by.Reason == "") && !s.DryRun {
		return Changed{}, ErrNoReason
	}
	b := &bulk{q: q, by: by, progress: s.Progress}
	for e, err := range q.selected(ctx, s) {
		switch {
		case err != nil:
		case e.State == store.Leased:
			b.Busy++
		case in != "" && e.State != in:
			b.Other++
		case s.DryRun:
			b.Done++
		default:
			err = b.add(ctx, e, what)
		}
		if err != nil {
			return b.Changed, errors.Join(err, b.flush(ctx))
		}
	}
	if err := b.flush(ctx); err != nil {
		return b.Changed, err
	}
	if b.Done == 0 && b.Busy > 0 && !s.DryRun {
		return b.Changed, ErrLeased
	}
	return b.Changed, nil
}

// bulk changes envelopes in groups, a commit each: a campaign of 100,000 is some
// hundred commits.
type bulk struct {
	Changed
	q        *Queue
	by       By
	progress func(Changed)
	change   store.Change // that all of the group share
	leaves   []store.Leaf
}

const bulkSize = 256

// add makes an envelope part of the group, or changes it alone if its plan has
// something that no other shares.
func (b *bulk) add(ctx context.Context, e store.Envelope, what plan) error {
	c, event, err := what(e)
	if err != nil {
		return err
	}
	event.ID, event.Envelope, event.Recipient = e.Message.ID, e.ID, policy.Address(e.Recipient)
	event.Sender, event.Campaign = e.Message.Sender, e.Message.Campaign
	event.Who, event.Second, event.Reason = b.by.Who, b.by.Second, b.by.Reason
	if event.Code == "" {
		event.Code, event.Rule = e.Code, e.Rule
	}
	leaf := b.q.o.Leaf(event)
	if c.Update != nil {
		c.Envelopes = []store.EnvelopeID{e.ID}
		return b.commit(ctx, c, []store.Leaf{leaf})
	}
	if slices.Contains(b.change.Envelopes, e.ID) { // named twice
		return nil
	}
	b.change.To, b.change.Due = c.To, c.Due
	b.change.Envelopes, b.leaves = append(b.change.Envelopes, e.ID), append(b.leaves, leaf)
	if len(b.change.Envelopes) < bulkSize {
		return nil
	}
	return b.flush(ctx)
}

// flush commits the group. If one of it is leased or gone meanwhile, all are
// changed one by one.
func (b *bulk) flush(ctx context.Context) error {
	c, leaves := b.change, b.leaves
	b.change, b.leaves = store.Change{}, nil
	if len(c.Envelopes) == 0 {
		return nil
	}
	err := b.q.o.Store.Change(ctx, c, store.Effects{Leaves: leaves})
	if err == nil {
		b.count(len(c.Envelopes))
		return nil
	}
	if !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("queue: change: %w", err)
	}
	for i, id := range c.Envelopes {
		one := c
		one.Envelopes = []store.EnvelopeID{id}
		if err := b.commit(ctx, one, leaves[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// commit changes one envelope.
func (b *bulk) commit(ctx context.Context, c store.Change, leaves []store.Leaf) error {
	err := b.q.o.Store.Change(ctx, c, store.Effects{Leaves: leaves})
	switch {
	case errors.Is(err, store.ErrConflict):
		b.Busy++
		return nil
	case err != nil:
		return fmt.Errorf("queue: change %s: %w", string(c.Envelopes[0]), err)
	}
	b.count(1)
	return nil
}

func (b *bulk) count(n int) {
	b.Done += n
	if b.progress != nil {
		b.progress(b.Changed)
	}
}

func (s Selection) empty() bool {
	f := s.Filter
	f.After, f.Limit = "", 0
	return len(s.IDs) == 0 && f == store.Query{} && s.Before.IsZero()
}
