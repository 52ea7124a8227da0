package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.t = c.t.Add(d)
	c.mu.Unlock()
}

func noon() *clock { return &clock{t: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)} }

func testRoot(t testing.TB) Root {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.key")
	if err := CreateRoot(path); err != nil {
		t.Fatal(err)
	}
	root, err := FileRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func openRing(t testing.TB, dir string, root Root, c *clock) *Ring {
	t.Helper()
	r, err := Open(dir, root, c.now)
	if err != nil {
		t.Fatal(err)
	}
	r.rounds = quick
	return r
}

const quick = 1000 // rounds of PBKDF2; the true figure makes -race runs slow

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// snapshot reads a folder, so that a test can see that nothing was touched.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		m[e.Name()] = string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, e.Name()))))
	}
	return m
}

// lay writes a folder.
func lay(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestKeyPrintsNothing(t *testing.T) {
	k := newKey()
	for i := range k.raw() {
		k.raw()[i] = 'K'
	}
	raw := []string{"KKKK", "75 75", "4b4b", "4B4B", "S0tL", "75,75"}
	in := struct {
		Open   Key
		hidden Key
	}{k, k}
	ring := openRing(t, t.TempDir(), testRoot(t), noon())
	ring.record = k
	root, err := parseRoot("x", []byte(rootPrefix+"S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s="))
	if err != nil {
		t.Fatal(err)
	}
	check := func(what, out string) {
		t.Helper()
		for _, r := range raw {
			if strings.Contains(out, r) {
				t.Errorf("%s shows the key: %s", what, out)
			}
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%c", "%U"} {
		for _, v := range []any{k, &k, in, &in, []Key{k}, map[string]Key{"a": k}, ring, *ringFields(ring), root} {
			check(verb, fmt.Sprintf(verb, v))
		}
		if got := fmt.Sprintf(verb, k); got != "[key]" {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "in", in, "ring", ring)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "in", in, "ring", ring)
	check("slog", log.String())
	text := must[[]byte](t)(json.Marshal(in))
	check("JSON", string(text))
	if !strings.Contains(log.String(), "[key]") || string(text) != `{"Open":"[key]"}` {
		t.Errorf("log %s, JSON %s", log.String(), text)
	}
}

// ringFields is a struct that holds a ring's secrets in fields fmt cannot call methods of.
func ringFields(r *Ring) *struct {
	ring *Ring
	key  Key
} {
	return &struct {
		ring *Ring
		key  Key
	}{r, r.record}
}

func TestSealAndOpen(t *testing.T) {
	dir, root, c := t.TempDir(), testRoot(t), noon()
	r := openRing(t, dir, root, c)
	mail := must[[]byte](t)(r.SealMail([]byte("id"), []byte("canary")))
	rec := must[[]byte](t)(r.SealRecord([]byte("id"), []byte("canary")))
	c.advance(40 * day)
	next := must[[]byte](t)(r.SealRecord([]byte("id"), []byte("canary")))
	for _, r := range []*Ring{r, openRing(t, dir, root, c)} { // the same and a later process
		for _, sealed := range [][]byte{mail, rec, next} {
			if bytes.Contains(sealed, []byte("canary")) {
				t.Fatal("not sealed")
			}
			if got := must[[]byte](t)(r.Open([]byte("id"), sealed)); string(got) != "canary" {
				t.Errorf("opened %q", got)
			}
			if _, err := r.Open([]byte("other"), sealed); !errors.Is(err, ErrDamaged) {
				t.Errorf("opened in another place: %v", err)
			}
			for i := range sealed {
				bad := bytes.Clone(sealed)
				bad[i] ^= 1
				if _, err := r.Open([]byte("id"), bad); err == nil {
					t.Errorf("opened with byte %d altered", i)
				}
			}
		}
	}
}

func TestIndex(t *testing.T) {
	dir, root, c := t.TempDir(), testRoot(t), noon()
	r := openRing(t, dir, root, c)
	a := r.Index("address", "pat@clinic.example")
	if a != openRing(t, dir, root, c).Index("address", "pat@clinic.example") {
		t.Error("the index changed with the process")
	}
	for _, other := range [][16]byte{
		r.Index("addres", "spat@clinic.example"), r.Index("name", "pat@clinic.example"), r.Index("address", "pam@clinic.example"),
		openRing(t, t.TempDir(), root, c).Index("address", "pat@clinic.example"),
	} {
		if other == a {
			t.Error("two values share an index")
		}
	}
}

func TestBodyChunks(t *testing.T) {
	r := openRing(t, t.TempDir(), testRoot(t), noon())
	for _, n := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 3*chunkSize + 7} {
		plain := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
		sealed, key, err := r.SealBody([]byte("id"), plain)
		if err != nil {
			t.Fatal(err)
		}
		if got := must[[]byte](t)(r.OpenBody(key, []byte("id"), sealed)); !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes do not come back", n)
		}
		if _, err := r.OpenBody(key, []byte("it"), sealed); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes: opened as another body: %v", n, err)
		}
	}
	plain := make([]byte, 3*chunkSize)
	sealed, key, _ := r.SealBody(nil, plain)
	const full = chunkSize + overhead
	swapped := slices.Concat(sealed[:1], sealed[1+full:1+2*full], sealed[1:1+full], sealed[1+2*full:])
	for what, bad := range map[string][]byte{
		"cut at a chunk":   sealed[:1+2*full],
		"cut in a chunk":   sealed[:len(sealed)-1],
		"chunks swapped":   swapped,
		"a chunk dropped":  slices.Concat(sealed[:1], sealed[1+full:]),
		"a chunk doubled":  slices.Concat(sealed[:1+full], sealed[1:]),
		"something behind": append(bytes.Clone(sealed), make([]byte, overhead)...),
		"nothing":          nil,
	} {
		if _, err := r.OpenBody(key, nil, bad); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestPickupNeedsSecretAndPIN(t *testing.T) {
	dir, root, c := t.TempDir(), testRoot(t), noon()
	r := openRing(t, dir, root, c)
	id, secret, key := []byte("id"), bytes.Repeat([]byte("s"), 24), bytes.Repeat([]byte("k"), size)
	plain := must[[]byte](t)(r.WrapPickup(id, secret, "", key))
	pinned := must[[]byte](t)(r.WrapPickup(id, secret, "12345678", key))
	c.advance(day)
	r = openRing(t, dir, root, c)
	if got := must[[]byte](t)(r.UnwrapPickup(id, secret, "", plain)); !bytes.Equal(got, key) {
		t.Error("another key")
	}
	if got := must[[]byte](t)(r.UnwrapPickup(id, secret, "12345678", pinned)); !bytes.Equal(got, key) {
		t.Error("another key behind the PIN")
	}
	wrong := append(bytes.Clone(secret[:23]), 't')
	for what, try := range map[string]func() ([]byte, error){
		"wrong secret":   func() ([]byte, error) { return r.UnwrapPickup(id, wrong, "", plain) },
		"short secret":   func() ([]byte, error) { return r.UnwrapPickup(id, secret[:8], "", plain) },
		"another pickup": func() ([]byte, error) { return r.UnwrapPickup([]byte("ie"), secret, "", plain) },
		"no PIN":         func() ([]byte, error) { return r.UnwrapPickup(id, secret, "", pinned) },
		"wrong PIN":      func() ([]byte, error) { return r.UnwrapPickup(id, secret, "12345679", pinned) },
		"as mail":        func() ([]byte, error) { return r.Open(id, plain) },
	} {
		if _, err := try(); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDestroyShreds(t *testing.T) {
	dir, root, c := t.TempDir(), testRoot(t), noon()
	r := openRing(t, dir, root, c)
	today := EpochOf(c.now())
	mail := must[[]byte](t)(r.SealMail(nil, []byte("x")))
	rec := must[[]byte](t)(r.SealRecord(nil, []byte("x")))
	pick := must[[]byte](t)(r.WrapPickup(nil, make([]byte, 24), "", make([]byte, size)))
	if err := r.Destroy(today); !errors.Is(err, ErrEpoch) {
		t.Errorf("today's key destroyed: %v", err)
	}
	if err := r.Destroy(today - 1); !errors.Is(err, ErrEpoch) {
		t.Errorf("a day without a key destroyed: %v", err)
	}
	c.advance(day)
	path := filepath.Join(dir, epochPrefix+today.String()+keySuffix)
	held := must[*os.File](t)(os.Open(path))
	defer held.Close()
	for range 2 {
		if err := r.Destroy(today); err != nil {
			t.Fatal(err)
		}
	}
	old := must[int](t)(held.Read(make([]byte, 1)))
	buf := make([]byte, 4096)
	n, _ := held.ReadAt(buf, 0)
	if old == 0 || !bytes.Equal(buf[:n], make([]byte, n)) {
		t.Error("the old file was not overwritten")
	}
	contract := errors.New("store: key destroyed") // as internal/store says it
	for _, r := range []*Ring{r, openRing(t, dir, root, c)} {
		_, err := r.Open(nil, mail)
		if !errors.Is(err, ErrShredded) || !errors.Is(err, contract) {
			t.Errorf("mail: %v", err)
		}
		if _, err := r.UnwrapPickup(nil, make([]byte, 24), "", pick); !errors.Is(err, ErrShredded) {
			t.Errorf("pickup: %v", err)
		}
		must[[]byte](t)(r.Open(nil, rec))
		if got := r.Epochs(); len(got) != 1 || got[0].Epoch != today || !got[0].Destroyed.Equal(c.now()) {
			t.Errorf("epochs %v", got)
		}
	}
	c.advance(-day) // the clock goes back to the shredded day
	if _, err := r.SealMail(nil, nil); !errors.Is(err, ErrShredded) {
		t.Errorf("sealed under a destroyed epoch: %v", err)
	}
}

func TestWrongRootTouchesNothing(t *testing.T) {
	dir, root, c := t.TempDir(), testRoot(t), noon()
	r := openRing(t, dir, root, c)
	must[[]byte](t)(r.SealMail(nil, nil))
	before := snapshot(t, dir)
	if _, err := Open(dir, testRoot(t), c.now); !errors.Is(err, ErrWrongRoot) {
		t.Errorf("opened with another root: %v", err)
	}
	if !maps.Equal(before, snapshot(t, dir)) {
		t.Error("the ring was changed")
	}
}

func TestRotate(t *testing.T) {
	dir, old, c := t.TempDir(), testRoot(t), noon()
	r := openRing(t, dir, old, c)
	must[[]byte](t)(r.SealMail(nil, nil))
	c.advance(day)
	must[[]byte](t)(r.SealMail(nil, nil))
	if err := r.Destroy(EpochOf(c.now()) - 1); err != nil {
		t.Fatal(err)
	}
	c.advance(day)
	sealed := must[[]byte](t)(r.SealMail(nil, []byte("x")))
	index := r.Index("a", "b")
	root := testRoot(t)
	if err := r.Rotate(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	c.advance(day)
	must[[]byte](t)(r.SealMail(nil, nil)) // a new epoch goes under the new root
	if _, err := Open(dir, old, c.now); !errors.Is(err, ErrWrongRoot) {
		t.Errorf("the old root still opens: %v", err)
	}
	r = openRing(t, dir, root, c)
	if got := must[[]byte](t)(r.Open(nil, sealed)); string(got) != "x" || r.Index("a", "b") != index {
		t.Error("the keys changed")
	}
	for _, i := range r.Epochs() {
		if i.Destroyed.IsZero() && i.Root != root.ID() {
			t.Errorf("%s is still under %s", i.Epoch, i.Root)
		}
	}
}

// failingRoot fails at the n-th wrap.
type failingRoot struct {
	Root
	n int
}

func (f *failingRoot) Wrap(ctx context.Context, key, aad []byte) ([]byte, error) {
	if f.n--; f.n < 0 {
		return nil, errors.New("no")
	}
	return f.Root.Wrap(ctx, key, aad)
}

func TestRotateFailsWhole(t *testing.T) {
	dir, old, c := t.TempDir(), testRoot(t), noon()
	r := openRing(t, dir, old, c)
	must[[]byte](t)(r.SealMail(nil, nil))
	before := snapshot(t, dir)
	if err := r.Rotate(t.Context(), &failingRoot{testRoot(t), 2}); err == nil {
		t.Fatal("no error")
	}
	if !maps.Equal(before, snapshot(t, dir)) {
		t.Error("the ring was changed")
	}
}

// A rotation writes n files "x.new" and then renames them one by one. Whatever
// it was doing when the machine died, one of the two roots opens every key, and
// the ring is whole again afterwards.
func TestRotateCrash(t *testing.T) {
	dir, old, c := t.TempDir(), testRoot(t), noon()
	r := openRing(t, dir, old, c)
	sealed := must[[]byte](t)(r.SealMail(nil, []byte("x")))
	before := snapshot(t, dir)
	root := testRoot(t)
	if err := r.Rotate(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	after := snapshot(t, dir)
	names := slices.Sorted(maps.Keys(before))
	for step := range 2*len(names) + 1 {
		state := maps.Clone(before)
		state[".tmp-123"] = "half a file"
		for i, name := range names {
			new := strings.TrimSuffix(name, keySuffix) + newSuffix
			if i < step {
				state[new] = after[name]
			}
			if i < step-len(names) {
				delete(state, new)
				state[name] = after[name]
			}
		}
		opened := 0
		for _, root := range []Root{old, root} {
			dir := lay(t, state)
			r, err := Open(dir, root, c.now)
			if errors.Is(err, ErrWrongRoot) {
				if !maps.Equal(state, snapshot(t, dir)) {
					t.Errorf("step %d: refused, but changed", step)
				}
				continue
			}
			if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			opened++
			must[[]byte](t)(r.Open(nil, sealed))
			for name, text := range snapshot(t, dir) {
				if !strings.Contains(text, root.ID()) || !strings.HasSuffix(name, keySuffix) {
					t.Errorf("step %d: %s is left", step, name)
				}
			}
			openRing(t, dir, root, c)
		}
		if opened == 0 {
			t.Errorf("step %d: no root opens the ring", step)
		}
	}
}

func TestDamagedFolder(t *testing.T) {
	dir, root, c := t.TempDir(), testRoot(t), noon()
	must[[]byte](t)(openRing(t, dir, root, c).SealMail(nil, nil))
	good := snapshot(t, dir)
	epoch := epochPrefix + "2026-11-24.json"
	for what, change := range map[string]func(map[string]string){
		"no record key": func(m map[string]string) { delete(m, "record.json") },
		"no index key":  func(m map[string]string) { delete(m, "index.json") },
		"not JSON":      func(m map[string]string) { m[epoch] = "{" },
		"empty":         func(m map[string]string) { m[epoch] = "" },
		"swapped":       func(m map[string]string) { m["index.json"], m["record.json"] = m["record.json"], m["index.json"] },
		"unknown field": func(m map[string]string) { m[epoch] = strings.Replace(m[epoch], "{", `{"more":1,`, 1) },
		"unknown key":   func(m map[string]string) { m["other.json"] = strings.Replace(m[epoch], "epoch-2026-11-24", "other", 1) },
	} {
		state := maps.Clone(good)
		change(state)
		dir := lay(t, state)
		_, err := Open(dir, root, c.now)
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrWrongRoot) {
			t.Errorf("%s: %v", what, err)
		}
		if !maps.Equal(state, snapshot(t, dir)) {
			t.Errorf("%s: the folder was changed", what)
		}
	}
	half := lay(t, map[string]string{"index.json": good["index.json"]}) // a first start that crashed
	openRing(t, half, root, c)
}

func TestTwoProcessesShareADay(t *testing.T) {
	dir, root, c := t.TempDir(), testRoot(t), noon()
	a, b := openRing(t, dir, root, c), openRing(t, dir, root, c)
	sealed := must[[]byte](t)(a.SealMail(nil, []byte("x")))
	must[[]byte](t)(b.SealMail(nil, nil)) // must not make a second key for today
	must[[]byte](t)(b.Open(nil, sealed))
	must[[]byte](t)(openRing(t, dir, root, c).Open(nil, sealed))
}

func TestConcurrentUse(t *testing.T) {
	r := openRing(t, t.TempDir(), testRoot(t), noon())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				sealed, err := r.SealMail(nil, []byte("x"))
				if err == nil {
					_, err = r.Open(nil, sealed)
				}
				if err == nil {
					sealed, _ = r.SealRecord(nil, []byte("x"))
					_, err = r.Open(nil, sealed)
				}
				if err != nil {
					t.Error(err)
				}
				r.Index("a", "b")
			}
		})
	}
	if err := r.Rotate(t.Context(), testRoot(t)); err != nil {
		t.Error(err)
	}
	all.Wait()
}

func TestRootFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "root.key")
	if err := CreateRoot(path); err != nil {
		t.Fatal(err)
	}
	if err := CreateRoot(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwrote a root key: %v", err)
	}
	file := must[Root](t)(FileRoot(path))
	text := must[[]byte](t)(os.ReadFile(path))
	if strings.Contains(string(text), file.ID()) {
		t.Error("the id shows the key")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if cred := must[Root](t)(CredentialRoot("root.key")); cred.ID() != file.ID() {
		t.Error("the credential is another key")
	}
	for _, mode := range []fs.FileMode{0o440, 0o404, 0o644} {
		os.Chmod(path, mode)
		_, err := FileRoot(path)
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "chmod 0400 "+path) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	for what, bad := range map[string]string{"empty": "", "short": rootPrefix + "AAAA", "no prefix": "S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s="} {
		p := filepath.Join(dir, what)
		os.WriteFile(p, []byte(bad), 0o600)
		if _, err := FileRoot(p); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range []string{"", "../root.key", "absent"} {
		if _, err := CredentialRoot(name); err == nil {
			t.Errorf("credential %q", name)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := CredentialRoot("root.key"); err == nil {
		t.Error("a credential outside systemd")
	}
}

func TestPassphraseRoot(t *testing.T) {
	read := func(text string) (Root, error) {
		path := filepath.Join(t.TempDir(), "phrase")
		os.WriteFile(path, []byte(text), 0o600)
		root, err := PassphraseRoot(path)
		if err == nil {
			root.(*phraseRoot).rounds = quick
		}
		return root, err
	}
	if _, err := read("too short\n"); err == nil {
		t.Error("a short passphrase")
	}
	dir, c := t.TempDir(), noon()
	root := must[Root](t)(read("correct horse battery staple\n"))
	sealed := must[[]byte](t)(openRing(t, dir, root, c).SealMail(nil, []byte("x")))
	again := must[Root](t)(read("correct horse battery staple"))
	r := openRing(t, dir, again, c)
	must[[]byte](t)(r.Open(nil, sealed))
	if n := len(again.(*phraseRoot).bySalt); n != 1 {
		t.Errorf("%d derivations to open the ring", n)
	}
	other := must[Root](t)(read("correct horse battery stable"))
	if _, err := Open(dir, other, c.now); !errors.Is(err, ErrWrongRoot) {
		t.Errorf("another passphrase opens: %v", err)
	}
	if err := r.Rotate(t.Context(), other); err != nil { // the same ID, another phrase
		t.Fatal(err)
	}
	must[[]byte](t)(openRing(t, dir, other, c).Open(nil, sealed))
	if out := fmt.Sprintf("%+v %#v", root, root); strings.Contains(out, "horse") {
		t.Error("the passphrase prints")
	}
}

func TestEpochNames(t *testing.T) {
	e := must[Epoch](t)(ParseEpoch("2026-11-24"))
	if e.String() != "2026-11-24" || e != EpochOf(noon().t) || EpochOf(e.Day()) != e || EpochOf(e.Day().Add(-1)) != e-1 {
		t.Error("epochs and days do not agree")
	}
	for _, s := range []string{"", "2026-11-31", "1969-12-31", "x"} {
		if _, err := ParseEpoch(s); err == nil {
			t.Errorf("%q", s)
		}
	}
}

// Nothing but what the ring sealed opens, and nothing panics.
func FuzzOpen(f *testing.F) {
	r := openRing(f, f.TempDir(), testRoot(f), noon())
	mail := must[[]byte](f)(r.SealMail(nil, []byte("x")))
	rec := must[[]byte](f)(r.SealRecord(nil, []byte("x")))
	body, key, _ := r.SealBody(nil, []byte("x"))
	pick := must[[]byte](f)(r.WrapPickup(nil, make([]byte, 24), "", key))
	known := [][]byte{mail, rec, body, pick}
	for _, s := range known {
		f.Add(s)
		f.Add(s[:len(s)-1])
	}
	f.Add([]byte{version})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		_, err := r.Open(nil, sealed)
		_, err2 := r.OpenBody(key, nil, sealed)
		_, err3 := r.UnwrapPickup(nil, make([]byte, 24), "", sealed)
		genuine := slices.ContainsFunc(known, func(k []byte) bool { return bytes.Equal(k, sealed) })
		if !genuine && (err == nil || err2 == nil || err3 == nil) {
			t.Error("a forgery opened")
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"index","created":"2026-11-24T12:00:00Z","root":"file-1","wrapped":"AAAA"}`))
	f.Add([]byte(`{"version":1,"name":"index","destroyed":"2026-11-24T12:00:00Z"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseKeyFile("index", text)
		if err == nil && (k.Name != "index" || (k.Destroyed == nil) != (len(k.Wrapped) > 0)) {
			t.Errorf("took %+v", k)
		}
	})
}

func BenchmarkRing(b *testing.B) {
	r := openRing(b, b.TempDir(), testRoot(b), noon())
	aad, kilo, body := []byte("0123456789abc"), make([]byte, 1<<10), make([]byte, 10<<10)
	sealed, _ := r.SealMail(aad, kilo)
	sealedBody, key, _ := r.SealBody(aad, body)
	for _, c := range []struct {
		name string
		n    int
		do   func()
	}{
		{"SealMail/1KiB", len(kilo), func() { r.SealMail(aad, kilo) }},
		{"SealRecord/1KiB", len(kilo), func() { r.SealRecord(aad, kilo) }},
		{"Open/1KiB", len(kilo), func() { r.Open(aad, sealed) }},
		{"SealBody/10KiB", len(body), func() { r.SealBody(aad, body) }},
		{"OpenBody/10KiB", len(body), func() { r.OpenBody(key, aad, sealedBody) }},
		{"Index", 18, func() { r.Index("address", "pat@clinic.example") }},
		{"WrapPickup", size, func() { r.WrapPickup(aad, key, "", key) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(c.n))
			b.ReportAllocs()
			for b.Loop() {
				c.do()
			}
		})
	}
}

func TestCheckChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	root, other := testRoot(t), testRoot(t)
	if err := Check(dir, root); err != nil {
		t.Errorf("no ring yet: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it made the folder")
	}
	if _, err := Open(dir, root, time.Now); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, strings.Replace(tempPattern, "*", "left", 1))
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir, other); !errors.Is(err, ErrWrongRoot) {
		t.Errorf("another root: %v", err)
	}
	if _, err := os.Stat(left); err != nil {
		t.Error("it swept files")
	}
}
