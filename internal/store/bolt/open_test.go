package bolt

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/store"
)

func TestOpenRefuses(t *testing.T) {
	w := newSite(t)
	s := w.stock()
	opts := func(r *testRing) Options { return Options{Sealer: r, Hash: hashTree, Clock: w.clock.Now} }
	if _, err := Open(w.dir, opts(w.ring)); !errors.Is(err, ErrLocked) || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("open by another: %v", err)
	}
	if _, err := s.Lease(t.Context(), leaseAll); err != nil {
		t.Fatal(err)
	}
	s.Close()

	before := w.readFile()
	wrong := newRing()
	if _, err := Open(w.dir, opts(wrong)); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another root key: %v", err)
	}
	wrong.record = w.ring.record
	if _, err := Open(w.dir, opts(wrong)); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another index key: %v", err)
	}
	wrong = newRing()
	wrong.index = w.ring.index
	if _, err := Open(w.dir, opts(wrong)); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another record key: %v", err)
	}
	if string(before) != string(w.readFile()) {
		t.Error("a wrong key changed the file")
	}
	if err := os.Remove(filepath.Join(w.dir, fileName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(w.dir, opts(w.ring)); !errors.Is(err, ErrForeign) {
		t.Errorf("bodies without a database: %v", err)
	}
	if _, err := Open(t.TempDir(), Options{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("without a sealer: %v", err)
	}
}

// TestCreationIsWhole leaves a half-made database as a crash at the first start
// would: the next start makes a whole one.
func TestCreationIsWhole(t *testing.T) {
	w := newSite(t)
	draft := filepath.Join(w.dir, fileName+".half"+draftSuffix)
	if err := os.WriteFile(draft, []byte("half a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := w.open()
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(draft); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the draft is left: %v", err)
	}
}

func TestSweepKeepsForeignFiles(t *testing.T) {
	w := newSite(t)
	w.stock().Close()
	orphan := string(w.ids.New(w.clock.Now()))
	for _, name := range []string{orphan, orphan + draftSuffix, "README"} {
		if err := os.WriteFile(filepath.Join(w.dir, bodyFolder, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := w.look()
	if len(got.Files) != 3 || got.Files[2] != "README" && got.Files[0] != "README" {
		t.Errorf("files %v, want two bodies and README", got.Files)
	}
}

// TestGroups holds the first commit up until more wait: they are committed
// together, and the one that cannot be leaves the others alone.
func TestGroups(t *testing.T) {
	const waiting = 20
	w := newSite(t)
	s := w.open()
	exists := w.message([]byte("x"), "a.example")
	if _, err := s.Accept(t.Context(), acceptance(exists)); err != nil {
		t.Fatal(err)
	}
	hold, held := make(chan struct{}), make(chan struct{})
	commits := 0
	w.at(func(p Point) error {
		if p == BeforeCommit {
			if commits++; commits == 1 {
				close(held)
				<-hold
			}
		}
		return nil
	})
	var wg sync.WaitGroup
	wg.Go(func() { s.Check(t.Context()) })
	<-held
	errs := make([]error, waiting)
	for i := range waiting {
		m := w.message([]byte("y"), "a.example")
		e := store.Effects{Messages: []store.NewMessage{m}, Leaves: []store.Leaf{{Event: "e"}}}
		if i%5 == 0 { // fails late: its first message has been written by then
			e.Leaves[0].Record = []byte("unhashable")
		}
		wg.Go(func() { errs[i] = s.Apply(t.Context(), e) })
	}
	s.o.Hash = func(n int64, r []byte, read func([]int64) ([][32]byte, error)) ([][32]byte, error) {
		if string(r) == "unhashable" {
			return nil, errors.New("no hash")
		}
		return hashTree(n, r, read)
	}
	s.await(waiting)
	close(hold)
	wg.Wait()
	if commits != 2 {
		t.Errorf("%d commits for two groups", commits)
	}
	for i, err := range errs {
		if bad := i%5 == 0; bad != errors.Is(err, store.ErrUnavailable) || !bad && err != nil {
			t.Errorf("operation %d: %v", i, err)
		}
	}
	st, err := s.Stats(t.Context())
	if want := 1 + waiting - waiting/5; err != nil || st.Ready != want || st.Leaves != int64(want) {
		t.Errorf("stats %+v, want %d ready; %v", st, want, err)
	}
}

// await returns when so many operations wait in the line.
func (s *Store) await(n int) {
	for {
		s.line.mu.Lock()
		waiting := len(s.line.waiting)
		s.line.mu.Unlock()
		if waiting == n {
			return
		}
		runtime.Gosched()
	}
}

// holdUp begins a commit and stops it until release is called, so that what comes
// meanwhile becomes one group.
func (w *site) holdUp(s *Store) (release func()) {
	hold, held, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.at(func(p Point) error {
		if p == BeforeCommit {
			once.Do(func() { close(held); <-hold })
		}
		return nil
	})
	go func() {
		defer close(done)
		s.Check(context.Background())
	}()
	<-held
	return func() { close(hold); <-done }
}

// TestChangesInOneGroup lets two people change one envelope at once, so that both
// have read it before either writes.
func TestChangesInOneGroup(t *testing.T) {
	w := newSite(t)
	s := w.open()
	m := w.message([]byte("x"), "a.example")
	if _, err := s.Accept(t.Context(), acceptance(m)); err != nil {
		t.Fatal(err)
	}
	release := w.holdUp(s)
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			errs <- s.Change(context.Background(), store.Change{Envelopes: []store.EnvelopeID{m.Envelopes[0].ID}, To: store.Held},
				store.Effects{Leaves: []store.Leaf{{Event: "held"}}})
		}()
	}
	s.await(2)
	release()
	first, second := <-errs, <-errs
	if (first == nil) == (second == nil) || !errors.Is(errors.Join(first, second), store.ErrConflict) {
		t.Errorf("errors %v and %v", first, second)
	}
	if n, err := s.TreeSize(t.Context()); err != nil || n != 2 {
		t.Errorf("%d leaves, %v", n, err)
	}
}

// TestRepeatInOneGroup lets two sessions bring the same message at once, so that
// neither sees the other's before the writer does.
func TestRepeatInOneGroup(t *testing.T) {
	w := newSite(t)
	s := w.open()
	release := w.holdUp(s)
	var wg sync.WaitGroup
	receipts := make([]store.Receipt, 2)
	for i := range receipts {
		a := acceptance(w.message(large, "a.example"))
		a.Digest = [32]byte{1}
		wg.Go(func() {
			var err error
			if receipts[i], err = s.Accept(t.Context(), a); err != nil {
				t.Error(err)
			}
		})
	}
	s.await(2)
	release()
	wg.Wait()
	if receipts[0].Repeated == receipts[1].Repeated || receipts[0].ID != receipts[1].ID {
		t.Errorf("receipts %+v", receipts)
	}
	if files, err := os.ReadDir(s.bodies.dir); err != nil || len(files) != 1 {
		t.Errorf("%d body files, %v", len(files), err)
	}
	if got := w.image().look(); len(got.Envelopes) != 1 || len(got.Leaves) != 1 {
		t.Errorf("%d envelopes, %d leaves", len(got.Envelopes), len(got.Leaves))
	}
}

// TestNothingStays looks into every table after all mail has gone its way: only
// what must outlive mail is left.
func TestNothingStays(t *testing.T) {
	w := newSite(t)
	s := w.stock()
	for _, dest := range []string{"a.example", "c.example"} {
		r := leaseAll
		r.Dest = dest
		b, err := s.Lease(t.Context(), r)
		if err != nil || len(b.Envelopes) == 0 {
			t.Fatalf("%d envelopes, %v", len(b.Envelopes), err)
		}
		var rs []store.Result
		var ids []store.EnvelopeID
		for _, v := range b.Envelopes {
			rs, ids = append(rs, store.Result{Envelope: v.ID, Next: store.Park}), append(ids, v.ID)
		}
		if _, err := s.Extend(t.Context(), b.Token, time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := s.Finish(t.Context(), b.Token, rs, store.Effects{}); err != nil {
			t.Fatal(err)
		}
		for _, to := range []store.State{store.Ready, store.Held, ""} {
			if err := s.Change(t.Context(), store.Change{Envelopes: ids, To: to}, store.Effects{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	all, err := s.Pickups(t.Context(), store.PickupQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		p.State = store.Expired
		if err := s.PutPickup(t.Context(), p, store.Effects{}); err != nil {
			t.Fatal(err)
		}
	}
	outlives := map[table]bool{tMeta: true, tPickup: true, tLeaf: true, tLeafOf: true, tHash: true, tSeen: true}
	if err := s.view(func(x *txn) error {
		for tb := range tables {
			if n := len(x.keys(tb, nil, everything)); n > 0 && !outlives[tb] {
				t.Errorf("%d rows are left in %s", n, tableNames[tb])
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(s.bodies.dir); err != nil || len(files) != 0 {
		t.Errorf("%d body files are left, %v", len(files), err)
	}
}

// TestAcceptancesAreForgotten looks that old digests leave the file.
func TestAcceptancesAreForgotten(t *testing.T) {
	w := newSite(t)
	s := w.open()
	for range 50 {
		if _, err := s.Accept(t.Context(), acceptance(w.message(nil, "a.example"))); err != nil {
			t.Fatal(err)
		}
	}
	w.clock.Advance(30 * time.Hour)
	for range 30 {
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.view(func(t2 *txn) error {
		if n := len(t2.keys(tSeen, nil, everything)); n != 0 {
			t.Errorf("%d acceptances are still remembered", n)
		}
		return nil
	})
}

// FuzzRows feeds bytes to every reader of rows: they may refuse, not panic.
func FuzzRows(f *testing.F) {
	w := newSite(f)
	m := w.message(nil, "a.example")
	f.Add(encodeEnvelope(&m.Envelopes[0]))
	f.Add(encodeMessage(&m.Message, []byte("key")))
	f.Add((&duty{state: ready}).row([]byte("sealed")))
	f.Add((&slot{1, 2, [][]byte{make([]byte, envelopeKeySize)}}).row())
	f.Add(encodeLeaf(&store.Leaf{Event: "e"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v store.Envelope
		if decodeEnvelope(b, &v) == nil {
			var again store.Envelope
			if err := decodeEnvelope(encodeEnvelope(&v), &again); err != nil || again != v {
				t.Errorf("an envelope does not come back: %v", err)
			}
		}
		decodeMessage("", b)
		decodePickup(b, &store.Pickup{})
		decodeLeaf(0, b)
		decodeRecord("", b)
		readDuty(b)
		readPickupHead(b)
		readSlot(b)
	})
}
