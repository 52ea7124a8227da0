package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/phigate/phigate/internal/store"
)

// Acceptances are remembered for repeatFor, filed by windows of time so that
// the forgotten ones lie together at the left edge of the table.
const (
	repeatFor = 24 * time.Hour
	window    = 4 * time.Hour
)

func seenKey(w uint64, d digest) []byte { return join(be(w), d[:]) }

func windowOf(t time.Time) uint64 { return nanos(t) / uint64(window) }

func isUnknown(err error) bool { return errors.Is(err, store.ErrUnknown) }

// admit reports whether a call may begin: its context lives and, if it takes
// space, the disk has more than the reserve.
func (s *Store) admit(ctx context.Context, grows bool) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	if !grows || s.o.Reserve < 0 {
		return nil
	}
	left, err := free(s.dir)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	if left < s.o.Reserve {
		return fmt.Errorf("%w: the disk has %d MiB left, %d are kept in reserve", store.ErrUnavailable, left>>20, s.o.Reserve>>20)
	}
	return nil
}

// Accept implements [store.Store].
func (s *Store) Accept(ctx context.Context, a store.Acceptance) (r store.Receipt, err error) {
	if err := s.admit(ctx, true); err != nil {
		return r, err
	}
	if !a.ID.Valid() {
		return r, fmt.Errorf("%w: malformed id", store.ErrUnavailable)
	}
	d := s.index("accept", string(a.Digest[:])) // keyed: the digest alone would let one test a guess of the text
	began := windowOf(s.now().Add(-repeatFor))
	err = s.view(func(t *txn) error {
		r = t.seen(d, began)
		began = windowOf(t.now)
		return nil
	})
	if err != nil || r.Repeated {
		return r, err
	}
	p, err := s.prepare(a.Effects)
	if err != nil {
		return r, known(err)
	}
	err = s.settled(p, s.write(p.size, func(t *txn) error {
		if r = t.seen(d, began); r.Repeated { // by another session just now
			return nil
		}
		if err := s.apply(t, p); err != nil {
			return err
		}
		r = store.Receipt{ID: a.ID}
		t.put(tSeen, seenKey(windowOf(t.now), d), join(be(nanos(t.now)), []byte(a.ID)))
		return nil
	}))
	if err != nil {
		return store.Receipt{}, err
	}
	if r.Repeated {
		s.discard(p)
	}
	return r, nil
}

// seen looks an acceptance up in the windows from the given one to now.
func (t *txn) seen(d digest, from uint64) store.Receipt {
	for w := from; w <= windowOf(t.now); w++ {
		v := t.get(tSeen, seenKey(w, d))
		if len(v) != 8+idSize {
			continue
		}
		if at := fromNanos(binary.BigEndian.Uint64(v)); t.now.Sub(at) < repeatFor {
			return store.Receipt{ID: store.ID(v[8:]), Repeated: true}
		}
	}
	return store.Receipt{}
}

// prune forgets old acceptances, twice as many as a group can add, so that they
// never pile up and no commit pays for all.
func (s *Store) prune(t *txn, group int) {
	oldest := windowOf(t.now.Add(-repeatFor))
	for _, k := range t.keys(tSeen, nil, 2*group) {
		if binary.BigEndian.Uint64(k) >= oldest {
			return
		}
		t.del(tSeen, k)
	}
}
