package bolt

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/phigate/phigate/internal/store"
)

// A group is what one transaction commits: at most so many operations and bytes.
const (
	groupOps   = 256
	groupBytes = 8 << 20
)

// op is one caller's part of a group. run may be called more than once, and must
// then start over; what it gives out besides its error counts only if that is nil.
type op struct {
	run  func(*txn) error
	size int // about how many bytes it writes
	err  error
	turn chan bool // false: done; true: lead the next group
}

// line is where operations wait for the writer. There is no writer goroutine:
// of the callers that wait, one leads. It commits all that wait as one
// transaction, then hands the lead to the first who came meanwhile. So groups
// grow with the load, and an idle store commits at once.
type line struct {
	mu      sync.Mutex
	waiting []*op // guarded by mu
	led     bool  // guarded by mu: somebody leads
}

// join enters the line and reports whether the caller leads now.
func (l *line) join(o *op) (lead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, o)
	lead = !l.led
	l.led = true
	return lead
}

// group takes the next operations out of the line.
func (l *line) group() []*op {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for n < len(l.waiting) && n < groupOps && (n == 0 || size < groupBytes) {
		size += l.waiting[n].size
		n++
	}
	g := append([]*op(nil), l.waiting[:n]...)
	l.waiting = append(l.waiting[:0:0], l.waiting[n:]...)
	return g
}

// pass hands the lead on.
func (l *line) pass() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.led = len(l.waiting) > 0; l.led {
		l.waiting[0].turn <- true
	}
}

// write runs an operation in a transaction of its group and returns when that is
// on the disk. It does not stop for a context: an operation in the line is
// committed or refused, never forgotten.
func (s *Store) write(size int, run func(*txn) error) error {
	o := &op{run: run, size: size, turn: make(chan bool, 1)}
	if s.line.join(o) || <-o.turn {
		g := s.line.group()
		s.commit(g)
		for _, other := range g {
			if other != o {
				other.turn <- false
			}
		}
		s.line.pass()
	}
	return known(o.err)
}

// commit gives every operation of the group its outcome. One that fails leaves
// nothing behind: if it had changed something, the rest starts over without it.
func (s *Store) commit(g []*op) {
	for len(g) > 0 {
		failed, err := s.try(g)
		if failed < 0 {
			for _, o := range g {
				if o.err == nil || err != nil {
					o.err = err
				}
			}
			return
		}
		g[failed].err = err
		g = append(append([]*op(nil), g[:failed]...), g[failed+1:]...)
	}
}

// try runs and commits the group. failed is the operation that must be left out,
// -1 if the outcome err is everybody's.
func (s *Store) try(g []*op) (failed int, err error) {
	if err := s.reopen(); err != nil {
		return -1, err
	}
	s.mu.RLock()
	gone, failed, err := s.transact(g)
	unknown := errors.Is(err, store.ErrUnknown)
	if unknown {
		s.suspect.Store(true)
	}
	s.mu.RUnlock()
	if unknown {
		s.o.Log.Error("store: a commit failed, reopening before the next", "cause", err)
		if err := s.reopen(); err != nil {
			s.o.Log.Error("store: cannot reopen", "cause", err)
		}
	}
	s.bodies.removeAll(gone)
	for _, o := range g {
		s.used(o.size)
	}
	return failed, err
}

// mappedMax is about how many bytes of the file may count as ours in memory;
// faultAround is what the system maps when one page is touched.
const (
	mappedMax   = 32 << 20
	faultAround = 64 << 10
)

// used counts that n bytes somewhere in the file were touched, and from time to
// time gives the pages back.
func (s *Store) used(n int) {
	if s.touched.Add(int64(n+faultAround)) < mappedMax {
		return
	}
	s.touched.Store(0)
	s.view(func(t *txn) error {
		unmap(s.db, t.tx.Size())
		return nil
	})
}

// transact is one transaction. An error after which it is not known whether it
// counts wraps ErrUnknown.
func (s *Store) transact(g []*op) (gone []store.ID, failed int, err error) {
	failed = -1
	defer guard(&err, store.ErrUnknown)()
	if s.db == nil {
		return nil, failed, errClosed
	}
	tx, err := s.db.Begin(true)
	if err != nil {
		return nil, failed, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	defer tx.Rollback() // says ErrTxClosed after a commit
	t := &txn{tx: tx, now: s.now()}
	for i, o := range g {
		before := t.writes
		o.err = o.run(t)
		if o.err == nil {
			o.err = t.err
		}
		if o.err != nil && t.writes > before {
			return nil, i, o.err
		}
	}
	if t.writes == 0 {
		return nil, failed, nil
	}
	s.prune(t, len(g))
	if err := t.settle(); err != nil {
		return nil, failed, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	if err := s.point(BeforeCommit); err != nil {
		return nil, failed, fmt.Errorf("%w: %w", store.ErrUnknown, err)
	}
	if err := tx.Commit(); err != nil {
		return nil, failed, fmt.Errorf("%w: %w", store.ErrUnknown, err)
	}
	if err := s.point(AfterCommit); err != nil {
		return nil, failed, fmt.Errorf("%w: %w", store.ErrUnknown, err)
	}
	return t.gone, failed, nil
}

// view runs a short read.
func (s *Store) view(f func(*txn) error) (err error) {
	if err := s.reopen(); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	defer guard(&err, store.ErrUnavailable)()
	if s.db == nil {
		return errClosed
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	defer tx.Rollback()
	return known(f(&txn{tx: tx, now: s.now()}))
}

// guard turns a panic of the engine into an error: bbolt panics on a damaged
// page, and a page of the mapped file that the disk cannot read is a fault. Both
// concern one call, not the process. What it returns is to be deferred at once.
func guard(err *error, as error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if p := recover(); p != nil {
			*err = fmt.Errorf("%w: damaged or unreadable file: %v", as, p)
		}
	}
}

// known makes sure that an error is one of the contract's.
func known(err error) error {
	for _, of := range []error{
		nil, store.ErrUnknown, store.ErrNotFound, store.ErrNoSlot, store.ErrLeaseLost,
		store.ErrConflict, store.ErrUnavailable, store.ErrShredded,
	} {
		if errors.Is(err, of) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// reopen opens the file anew after a commit with an unknown outcome. What the
// system has cached may not be what is on the disk (after a failed fsync Linux
// calls pages clean that never arrived), so the cache is dropped first; then
// bbolt takes the last meta page that is whole, and everything is inspected as at
// the start. If it fails, the next call tries again.
func (s *Store) reopen() error {
	if !s.suspect.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if !s.suspect.Load() { // another was faster
		return nil
	}
	if s.db != nil {
		s.db.Close()
		s.db = nil
	}
	if err := dropCache(s.path()); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	db, err := s.openFile()
	if err != nil {
		return err
	}
	s.db = db
	s.suspect.Store(false)
	s.o.Log.Info("store: reopened")
	return nil
}
