package bolt

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/store/storetest"
)

// noise is text that does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
	return b
}

const linkSecret = "24 bytes of the link...."

// site is one data folder with what is needed to open it.
type site struct {
	t     testing.TB
	dir   string
	ring  *testRing
	clock *storetest.Clock
	ids   *store.IDs

	mu    sync.Mutex
	fault func(Point) error // guarded by mu; nil lets all pass
}

func newSite(t testing.TB) *site {
	return &site{t: t, dir: t.TempDir(), ring: newRing(), clock: storetest.NewClock(), ids: &store.IDs{}}
}

func (w *site) open() *Store {
	w.t.Helper()
	s, err := Open(w.dir, Options{Sealer: w.ring, Hash: hashTree, Clock: w.clock.Now, Reserve: -1, Fault: w.hit, growth: testGrowth})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close() })
	return s
}

func (w *site) hit(p Point) error {
	w.mu.Lock()
	fault := w.fault
	w.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(p)
}

// at lets f decide what happens at each point from now on.
func (w *site) at(f func(Point) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

// image is the site as the next process finds it if this one is killed now.
func (w *site) image() *site {
	c := &site{t: w.t, dir: w.t.TempDir(), ring: w.ring, clock: w.clock, ids: w.ids}
	if err := os.CopyFS(c.dir, os.DirFS(w.dir)); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *site) message(body []byte, to ...string) store.NewMessage {
	now := w.clock.Now()
	m := store.NewMessage{Message: store.Message{ID: w.ids.New(now), Sender: "mailer-a", Accepted: now, Size: len(body)}, Body: body}
	for i, r := range to {
		m.Envelopes = append(m.Envelopes, store.Envelope{
			ID: store.EnvelopeIDOf(m.Message.ID, i), Recipient: "ann@" + r, Dest: r, State: store.Ready, Due: now, Expires: now.Add(time.Hour),
		})
	}
	return m
}

func (w *site) pickup(m store.ID) store.NewPickup {
	return store.NewPickup{
		Pickup: store.Pickup{ID: w.ids.New(w.clock.Now()), Message: m, Recipient: "ann@a.example", State: store.Noticed},
		Secret: []byte(linkSecret),
	}
}

func acceptance(m store.NewMessage, pickups ...store.NewPickup) store.Acceptance {
	return store.Acceptance{
		Digest: sha256.Sum256([]byte(m.Message.ID)), ID: m.Message.ID,
		Effects: store.Effects{
			Messages: []store.NewMessage{m}, Pickups: pickups,
			Leaves: []store.Leaf{{ID: m.Message.ID, Event: "accepted", Record: []byte(m.Message.ID)}},
		},
	}
}

// picture is all that can be seen of a store, and that its files are in order.
type picture struct {
	Envelopes []store.Envelope
	Bodies    map[store.ID]string
	Pickups   []store.Pickup
	Opened    map[store.ID]string
	Leaves    []store.Leaf
	Stats     store.Stats
	Files     []string
}

// look opens an image and takes its picture.
func (w *site) look() (p picture) {
	w.t.Helper()
	s := w.open()
	defer s.Close()
	ctx := context.Background()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	var err error
	p.Bodies, p.Opened = map[store.ID]string{}, map[store.ID]string{}
	p.Envelopes, err = s.Envelopes(ctx, store.Query{Limit: 1000})
	must(err)
	for _, v := range p.Envelopes {
		b, err := s.Body(ctx, v.Message.ID)
		must(err)
		p.Bodies[v.Message.ID] = string(b)
	}
	p.Pickups, err = s.Pickups(ctx, store.PickupQuery{Limit: 1000})
	must(err)
	for _, k := range p.Pickups {
		b, err := s.PickupBody(ctx, k.ID, []byte(linkSecret), "")
		p.Opened[k.ID] = fmt.Sprint(string(b), err)
	}
	p.Leaves, err = s.Leaves(ctx, 0, 1000)
	must(err)
	p.Stats, err = s.Stats(ctx)
	must(err)
	found, err := os.ReadDir(s.bodies.dir)
	must(err)
	for _, f := range found {
		p.Files = append(p.Files, f.Name())
	}
	return p
}

// act is one call of the contract: prepare brings the store to where it can be
// made, and returns it.
type act struct {
	name    string
	files   bool // writes a body file
	prepare func(*site, *Store) func(*Store) error
}

var large = noise(100 << 10)

var acts = []act{
	{"accept", false, func(w *site, s *Store) func(*Store) error {
		a := acceptance(w.message([]byte("small"), "a.example", "b.example"))
		return func(s *Store) error { _, err := s.Accept(context.Background(), a); return err }
	}},
	{"accept a large body", true, func(w *site, s *Store) func(*Store) error {
		m := w.message(large, "a.example")
		a := acceptance(m, w.pickup(m.Message.ID))
		return func(s *Store) error { _, err := s.Accept(context.Background(), a); return err }
	}},
	{"lease", false, func(w *site, s *Store) func(*Store) error {
		return func(s *Store) error { _, err := s.Lease(context.Background(), leaseAll); return err }
	}},
	{"finish", false, func(w *site, s *Store) func(*Store) error {
		b, err := s.Lease(context.Background(), leaseAll)
		if err != nil {
			w.t.Fatal(err)
		}
		k := w.pickup(b.Envelopes[0].Message.ID)
		var rs []store.Result
		for _, v := range b.Envelopes {
			rs = append(rs, store.Result{Envelope: v.ID, Next: store.Finish})
		}
		return func(s *Store) error {
			return s.Finish(context.Background(), b.Token, rs, store.Effects{Pickups: []store.NewPickup{k}, Leaves: []store.Leaf{{Event: "delivered"}}})
		}
	}},
	{"change", false, func(w *site, s *Store) func(*Store) error {
		all, err := s.Envelopes(context.Background(), store.Query{})
		if err != nil {
			w.t.Fatal(err)
		}
		return func(s *Store) error {
			return s.Change(context.Background(), store.Change{Envelopes: []store.EnvelopeID{all[0].ID}}, store.Effects{Leaves: []store.Leaf{{Event: "deferred"}}})
		}
	}},
	{"recall", false, func(w *site, s *Store) func(*Store) error {
		all, err := s.Pickups(context.Background(), store.PickupQuery{})
		if err != nil {
			w.t.Fatal(err)
		}
		all[0].State = store.Recalled
		return func(s *Store) error {
			return s.PutPickup(context.Background(), all[0], store.Effects{Leaves: []store.Leaf{{Event: "revoked"}}})
		}
	}},
}

var leaseAll = store.LeaseRequest{Dest: "a.example", Max: 10, Cap: 1, For: time.Minute}

// stock puts some mail into a new site: small, large, and for a pickup only.
func (w *site) stock() *Store {
	s := w.open()
	only := w.message(large)
	for _, a := range []store.Acceptance{
		acceptance(w.message([]byte("one"), "a.example")),
		acceptance(w.message(large, "a.example", "c.example")),
		acceptance(only, w.pickup(only.Message.ID)),
	} {
		if _, err := s.Accept(context.Background(), a); err != nil {
			w.t.Fatal(err)
		}
	}
	return s
}

func (a act) passes(p Point) bool { return a.files || p == BeforeCommit || p == AfterCommit }

// TestCrash kills the process at every point of every write: the next one finds
// all of the call or nothing of it, all of it if it was on the disk, and no file
// that belongs to nothing.
func TestCrash(t *testing.T) {
	each(t, func(t *testing.T, w *site, s *Store, call func(*Store) error, p Point) {
		before := w.image().look()
		var killed *site
		w.at(func(at Point) error {
			if at == p && killed == nil {
				killed = w.image()
			}
			return nil
		})
		if err := call(s); err != nil {
			t.Fatal(err)
		}
		w.at(nil)
		want := before
		if p == AfterCommit {
			want = w.image().look()
		}
		same(t, killed.look(), want)
	})
}

// TestDiskError lets the disk fail at every point of every write: the caller is
// told so, the store goes on, and nothing half done is left.
func TestDiskError(t *testing.T) {
	each(t, func(t *testing.T, w *site, s *Store, call func(*Store) error, p Point) {
		before := w.image().look()
		w.at(func(at Point) error {
			if at == p {
				return syscall.EIO
			}
			return nil
		})
		err := call(s)
		w.at(nil)
		want := store.ErrUnavailable
		if p == BeforeCommit || p == AfterCommit {
			want = store.ErrUnknown
		}
		if !errors.Is(err, want) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("error %v, want %v", err, want)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Fatalf("the store did not recover: %v", err)
		}
		if p != AfterCommit {
			same(t, w.image().look(), before)
		}
	})
}

// each runs f for every act at every point that it passes.
func each(t *testing.T, f func(*testing.T, *site, *Store, func(*Store) error, Point)) {
	for _, a := range acts {
		for _, p := range Points {
			if !a.passes(p) {
				continue
			}
			t.Run(a.name+"/"+string(p), func(t *testing.T) {
				w := newSite(t)
				s := w.stock()
				f(t, w, s, a.prepare(w, s), p)
			})
		}
	}
}

func same(t *testing.T, got, want picture) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("the next process finds\n %+v\nwant\n %+v", brief(got), brief(want))
	}
}

// brief is a picture with short bodies, to print.
func brief(p picture) picture {
	for _, m := range []*map[store.ID]string{&p.Bodies, &p.Opened} {
		short := map[store.ID]string{}
		for id, b := range *m {
			short[id] = fmt.Sprintf("%d bytes, %x", len(b), sha256.Sum256([]byte(b)))
		}
		*m = short
	}
	return p
}

// TestUnknownThenRepeated is the promise behind 451: the sender comes again and
// there is still one message.
func TestUnknownThenRepeated(t *testing.T) {
	for _, p := range []Point{BeforeCommit, AfterCommit} {
		w := newSite(t)
		s := w.open()
		a := acceptance(w.message(large, "a.example"))
		w.at(func(at Point) error {
			if at == p {
				return syscall.EIO
			}
			return nil
		})
		if _, err := s.Accept(t.Context(), a); !errors.Is(err, store.ErrUnknown) {
			t.Fatalf("%s: error %v", p, err)
		}
		w.at(nil)
		again := w.message(large, "a.example")
		a.ID, a.Messages = again.Message.ID, []store.NewMessage{again}
		if _, err := s.Accept(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		got := w.image().look()
		if len(got.Envelopes) != 1 || len(got.Leaves) != 1 || len(got.Files) != 1 {
			t.Errorf("%s: %d envelopes, %d leaves, %d files of one message", p, len(got.Envelopes), len(got.Leaves), len(got.Files))
		}
	}
}

// TestReopenFails takes the file away while a commit fails: everything is refused
// meanwhile, and works again when it is back.
func TestReopenFails(t *testing.T) {
	w := newSite(t)
	s := w.stock()
	file := filepath.Join(w.dir, fileName)
	move := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	w.at(func(Point) error { move(file, file+".away"); return syscall.EIO })
	if err := s.Check(t.Context()); !errors.Is(err, store.ErrUnknown) {
		t.Fatalf("check: %v", err)
	}
	w.at(nil)
	if _, err := s.Accept(t.Context(), acceptance(w.message(large, "a.example"))); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("accept without a file: %v", err)
	}
	if _, err := s.Due(t.Context(), w.clock.Now(), 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("due without a file: %v", err)
	}
	move(file+".away", file)
	if due, err := s.Due(t.Context(), w.clock.Now(), 0); err != nil || len(due) != 2 {
		t.Errorf("with the file back: %v, %v", due, err)
	}
}

// TestTornCommit cuts the power in the middle of a commit: of its pages any part
// arrived, of its meta page none or a piece. The state is the one before.
func TestTornCommit(t *testing.T) {
	w := newSite(t)
	s := w.stock()
	before, old := w.image().look(), w.readFile()
	if _, err := s.Accept(t.Context(), acceptance(w.message(noise(20<<10), "a.example"))); err != nil {
		t.Fatal(err)
	}
	after, now := w.image().look(), w.readFile()
	page := os.Getpagesize()
	old = append(old, make([]byte, len(now)-len(old))...)
	var meta int
	var data []int
	for at := 0; at < len(now); at += page {
		if !bytes.Equal(old[at:at+page], now[at:at+page]) {
			if at < 2*page {
				meta = at
			} else {
				data = append(data, at)
			}
		}
	}
	if len(data) < 3 {
		t.Fatalf("the commit changed %d pages", len(data))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 12 {
		torn := bytes.Clone(old)
		for _, at := range data {
			if i == 0 || rng.IntN(2) == 0 {
				n := page
				if i > 0 && rng.IntN(4) == 0 {
					n = 512 * rng.IntN(8)
				}
				copy(torn[at:at+n], now[at:])
			}
		}
		copy(torn[meta:meta+8*(i%9)], now[meta:]) // a meta page is 80 bytes
		got := w.image()
		got.writeFile(torn)
		same(t, got.look(), before)
	}
	whole := w.image()
	whole.writeFile(now)
	same(t, whole.look(), after)
}

func (w *site) readFile() []byte {
	b, err := os.ReadFile(filepath.Join(w.dir, fileName))
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *site) writeFile(b []byte) {
	if err := os.WriteFile(filepath.Join(w.dir, fileName), b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// TestDamagedFile overwrites pages with noise: every call gives an error of the
// contract or an answer, and the process lives.
func TestDamagedFile(t *testing.T) {
	w := newSite(t)
	s := w.stock()
	for range 40 {
		if _, err := s.Accept(t.Context(), acceptance(w.message(noise(3000), "a.example"))); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	good := w.readFile()
	refused := 0
	for i := range 30 {
		bad := bytes.Clone(good)
		at := (2 + i) * os.Getpagesize()
		copy(bad[at:], noise(os.Getpagesize()))
		d := w.image()
		d.writeFile(bad)
		s, err := Open(d.dir, Options{Sealer: d.ring, Hash: hashTree, Clock: d.clock.Now, Reserve: -1, growth: testGrowth})
		if err != nil {
			if !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("page %d: %v", at, err)
			}
			refused++
			continue
		}
		_, err = s.Envelopes(t.Context(), store.Query{Limit: 100})
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("page %d: %v", at, err)
		}
		s.Close()
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

// TestKill kills a process for real, again and again, while it accepts: whatever
// it said was accepted is there, and the log has no gap.
func TestKill(t *testing.T) {
	w := newSite(t)
	w.open().Close()
	acked := map[store.ID]bool{}
	for range 3 {
		for _, id := range w.killedChild(60) {
			acked[id] = true
		}
		got := w.image().look()
		present := map[store.ID]bool{}
		for _, v := range got.Envelopes {
			present[v.Message.ID] = true
		}
		for id := range acked {
			if !present[id] {
				t.Errorf("accepted message %s is lost", id)
			}
		}
		for i, l := range got.Leaves {
			if l.N != int64(i) {
				t.Errorf("leaf %d has number %d", i, l.N)
			}
		}
		if len(got.Leaves) != len(got.Envelopes) {
			t.Errorf("%d leaves of %d messages", len(got.Leaves), len(got.Envelopes))
		}
	}
}

const childDir = "PHIGATE_STORE_TEST_DIR"

// killedChild starts this test as a process that accepts without end, kills it
// when it has said n ids, and returns all that it said.
func (w *site) killedChild(n int) (ids []store.ID) {
	if err := os.WriteFile(filepath.Join(w.dir, "ring"), append(append(bytes.Clone(w.ring.record), w.ring.index...), w.ring.epochs[0]...), 0o600); err != nil {
		w.t.Fatal(err)
	}
	c := exec.Command(os.Args[0], "-test.run=^TestChild$")
	c.Env = append(os.Environ(), childDir+"="+w.dir)
	out, err := c.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		w.t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	for in.Scan() {
		if id, ok := strings.CutPrefix(in.Text(), "accepted "); ok {
			ids = append(ids, store.ID(id))
		}
		if len(ids) == n {
			c.Process.Kill()
		}
	}
	c.Wait()
	if len(ids) < n {
		w.t.Fatalf("the child said %d ids and ended", len(ids))
	}
	return ids
}

// TestChild is the process that TestKill kills.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	keys, err := os.ReadFile(filepath.Join(dir, "ring"))
	if err != nil {
		t.Fatal(err)
	}
	ring := &testRing{record: keys[:32], index: keys[32:64], epochs: [][]byte{keys[64:]}}
	w := &site{t: t, dir: dir, ring: ring, clock: storetest.NewClock(), ids: &store.IDs{}}
	s, err := Open(dir, Options{Sealer: ring, Hash: hashTree, Reserve: -1, growth: testGrowth})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for {
				body := noise(100 + 10<<10*i) // some inline, some in files
				a := acceptance(w.message(body, "a.example"))
				if _, err := s.Accept(context.Background(), a); err != nil {
					return
				}
				fmt.Println("accepted " + string(a.ID))
			}
		})
	}
	wg.Wait()
}

// TestDiskFull lets files grow no further: mail is refused, none is lost, what
// is queued can be read, and with space the store takes mail again.
func TestDiskFull(t *testing.T) {
	w := newSite(t)
	s := w.open()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	const limit = 3 << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	restore := func() { syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was) }
	defer restore()

	var acked []store.ID
	var err error
	for err == nil && len(acked) < 1000 {
		a := acceptance(w.message(noise(60<<10), "a.example"))
		if _, err = s.Accept(t.Context(), a); err == nil {
			acked = append(acked, a.ID)
		}
	}
	if !errors.Is(err, store.ErrUnknown) {
		t.Fatalf("after %d messages: %v", len(acked), err)
	}
	big := acceptance(w.message(noise(limit+1), "a.example"))
	if _, err := s.Accept(t.Context(), big); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("a body larger than the disk: %v", err)
	}
	for _, id := range acked {
		if _, err := s.Body(t.Context(), id); err != nil {
			t.Fatalf("accepted body with a full disk: %v", err)
		}
	}
	restore()
	a := acceptance(w.message(noise(60<<10), "a.example"))
	if _, err := s.Accept(t.Context(), a); err != nil {
		t.Fatalf("with space again: %v", err)
	}
	st, err := s.Stats(t.Context())
	if err != nil || st.Ready != len(acked)+1 || st.Leaves != int64(len(acked)+1) {
		t.Errorf("%d of %d messages, %v", st.Ready, len(acked)+1, err)
	}
	if found, _ := os.ReadDir(s.bodies.dir); len(found) != 0 {
		t.Errorf("%d body files of refused mail are left", len(found))
	}
}

// TestBackup takes a copy while mail comes and goes: it is whole, and nothing is
// left behind.
func TestBackup(t *testing.T) {
	w := newSite(t)
	s := w.stock()
	before := w.image().look()
	var packed bytes.Buffer
	during := func() {
		if _, err := s.Accept(t.Context(), acceptance(w.message(large, "b.example"))); err != nil {
			t.Error(err)
		}
		var all []store.EnvelopeID
		for id := range before.Bodies {
			for n := range 2 {
				if _, err := s.Envelope(t.Context(), store.EnvelopeIDOf(id, n)); err == nil {
					all = append(all, store.EnvelopeIDOf(id, n))
				}
			}
		}
		if err := s.Change(t.Context(), store.Change{Envelopes: all}, store.Effects{}); err != nil {
			t.Error(err)
		}
	}
	var once sync.Once
	if err := s.Backup(t.Context(), writerFunc(func(b []byte) (int, error) {
		once.Do(during)
		return packed.Write(b)
	})); err != nil {
		t.Fatal(err)
	}
	copied := &site{t: t, dir: t.TempDir(), ring: w.ring, clock: w.clock, ids: w.ids}
	copied.unpack(&packed)
	same(t, copied.look(), before)
	left := w.image().look()
	if found, _ := os.ReadDir(s.bodies.dir); len(found) != len(left.Files) {
		t.Errorf("%d body files, of which %d are needed", len(found), len(left.Files))
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func (w *site) unpack(r io.Reader) {
	if err := os.Mkdir(filepath.Join(w.dir, bodyFolder), 0o700); err != nil {
		w.t.Fatal(err)
	}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			w.t.Fatal(err)
		}
		b, err := io.ReadAll(in)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(w.dir, h.Name), b, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestReserve keeps the last of the disk for what empties the queue.
func TestReserve(t *testing.T) {
	w := newSite(t)
	w.stock().Close()
	s, err := Open(w.dir, Options{Sealer: w.ring, Hash: hashTree, Clock: w.clock.Now, Reserve: 1 << 62})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Accept(t.Context(), acceptance(w.message(nil, "a.example"))); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("accept: %v", err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("check: %v", err)
	}
	b, err := s.Lease(t.Context(), leaseAll)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(t.Context(), b.Token, []store.Result{{Envelope: b.Envelopes[0].ID, Next: store.Finish}}, store.Effects{Leaves: []store.Leaf{{Event: "delivered"}}}); err != nil {
		t.Errorf("finish: %v", err)
	}
}

// TestCanary looks for planted words in every byte of every file after mail,
// records and pickups have come, changed and gone.
func TestCanary(t *testing.T) {
	const canary = "CANARY"
	w := newSite(t)
	s := w.open()
	plant := func(what string) string { return canary + "-" + what }
	for _, size := range []int{0, 100 << 10} {
		m := w.message(append([]byte("Subject: "+plant("subject")+"\r\n\r\n"+plant("body")), noise(size)...), plant("domain"))
		m.Message.Sender, m.Message.Return, m.Message.Campaign, m.Message.EnvID = plant("sender"), plant("return"), plant("campaign"), plant("envid")
		v := &m.Envelopes[0]
		v.Recipient, v.ORcpt, v.LastReply, v.Rule = plant("rcpt"), plant("orcpt"), plant("reply"), plant("rule")
		v.Facts.Campaign, v.Facts.ConsentID, v.Facts.Partner = plant("campaign"), plant("consent id"), plant("partner")
		k := w.pickup(m.Message.ID)
		k.Pickup.Recipient, k.Pickup.Sender, k.Pickup.Value, k.Secret, k.PIN = plant("rcpt"), plant("sender"), []byte(plant("value")), []byte(plant("secret of a link")), plant("pin")
		a := acceptance(m, k)
		a.Digest = [32]byte([]byte(strings.Repeat(canary, 6)))
		a.Digest[31] = byte(size >> 10)
		a.Records = []store.Record{{Kind: "consent", Subject: plant("subject"), Key: plant("key"), Value: []byte(plant("value"))}}
		a.Leaves[0].Sealed = []byte(plant("clear"))
		if _, err := s.Accept(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		r := leaseAll
		r.Node, r.Dest = plant("node"), v.Dest
		b, err := s.Lease(t.Context(), r)
		if err != nil || len(b.Envelopes) != 1 {
			t.Fatal(err)
		}
		w.wantNo(canary)
		if err := s.Finish(t.Context(), b.Token, []store.Result{{Envelope: v.ID, LastReply: plant("reply")}}, store.Effects{}); err != nil {
			t.Fatal(err)
		}
		k.Pickup.State = store.Recalled
		if err := s.PutPickup(t.Context(), k.Pickup, store.Effects{}); err != nil {
			t.Fatal(err)
		}
	}
	w.wantNo(canary)
}

func (w *site) wantNo(canary string) {
	w.t.Helper()
	files := 0
	err := fs.WalkDir(os.DirFS(w.dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		b, err := os.ReadFile(filepath.Join(w.dir, path))
		if at := bytes.Index(b, []byte(canary)); at >= 0 {
			w.t.Errorf("%s, byte %d: %q", path, at, b[at:min(len(b), at+30)])
		}
		return err
	})
	if err != nil || files == 0 {
		w.t.Fatalf("%d files, %v", files, err)
	}
}

// TestRawCopy is the thief's view: a copy of all files, taken while the mail was
// queued, gives nothing once its epoch key is destroyed, even with the rest of
// the ring and the link's secret.
func TestRawCopy(t *testing.T) {
	w := newSite(t)
	s := w.open()
	m := w.message(large, "a.example")
	k := w.pickup(m.Message.ID)
	if _, err := s.Accept(t.Context(), acceptance(m, k)); err != nil {
		t.Fatal(err)
	}
	stolen := w.image()
	w.ring.shred()
	thief := stolen.open()
	if _, err := thief.Body(t.Context(), m.Message.ID); !errors.Is(err, store.ErrShredded) {
		t.Errorf("body of the copy: %v", err)
	}
	if _, err := thief.PickupBody(t.Context(), k.Pickup.ID, k.Secret, ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("pickup of the copy: %v", err)
	}
}
