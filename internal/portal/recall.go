package portal

import (
	"context"
	"errors"
	"slices"

	"github.com/phigate/phigate/internal/store"
)

// Recall takes a message back: from now on nobody can open it, and its key is
// destroyed. What was read or downloaded before stays with who has it. A
// message that is over already is left as it is. by and reason go into the
// audit leaf.
func (p *Portal) Recall(ctx context.Context, id store.ID, by, reason string) error {
	_, err := p.end(ctx, id, Event{State: store.Recalled, By: by, Reason: reason}, func(entry) bool { return true })
	return err
}

// RecallIfUnread recalls a message unless somebody has read it already, and
// reports whether it did.
func (p *Portal) RecallIfUnread(ctx context.Context, id store.ID, by, reason string) (bool, error) {
	return p.end(ctx, id, Event{State: store.Recalled, By: by, Reason: reason}, entry.unread)
}

// RecallUnread recalls all messages to these recipients that nobody has read,
// when a consent is revoked or an address disputed. It returns how many; on an
// error the others were tried all the same.
func (p *Portal) RecallUnread(ctx context.Context, by, reason string, recipients ...string) (int, error) {
	recalled := 0
	var errs []error
	for _, recipient := range recipients {
		for pick, err := range p.all(ctx, store.PickupQuery{Recipient: recipient}) {
			var done bool
			if err == nil {
				done, err = p.end(ctx, pick.ID, Event{State: store.Recalled, By: by, Reason: reason}, entry.unread)
			}
			if done {
				recalled++
			}
			errs = append(errs, err)
		}
	}
	return recalled, errors.Join(errs...)
}

func (e entry) unread() bool { return slices.Index(way, e.State) < slices.Index(way, store.Released) }

// sweep ends all pickups whose time is over.
func (p *Portal) sweep(ctx context.Context) error {
	var errs []error
	now := p.o.Clock()
	for pick, err := range p.all(ctx, store.PickupQuery{ExpiresBy: now}) {
		if err == nil && !pick.State.Over() {
			_, err = p.end(ctx, pick.ID, Event{State: store.Expired}, func(e entry) bool { return e.over(now) })
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// end takes a pickup that is not over, and that want still wants, to its last
// state, and reports whether it did.
func (p *Portal) end(ctx context.Context, id store.ID, ev Event, want func(entry) bool) (done bool, err error) {
	err = p.change(ctx, id, func(e *entry) (store.Effects, error) {
		if done = !e.State.Over() && want(*e); !done {
			return store.Effects{}, errUnchanged
		}
		e.memory = memory{Link: e.Link, Lang: e.Lang} // all that is needed to say kindly that it is over
		return store.Effects{Leaves: []store.Leaf{p.advance(e, ev)}}, nil
	})
	return done && err == nil, err
}

// all pages through the pickups of a query. An error ends it.
func (p *Portal) all(ctx context.Context, q store.PickupQuery) func(yield func(store.Pickup, error) bool) {
	return func(yield func(store.Pickup, error) bool) {
		for {
			page, err := p.o.Store.Pickups(ctx, q)
			if err != nil {
				yield(store.Pickup{}, err)
				return
			}
			for _, pick := range page {
				if !yield(pick, nil) {
					return
				}
				q.After = pick.ID
			}
			if len(page) == 0 {
				return
			}
		}
	}
}
