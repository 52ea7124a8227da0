package keys

import (
	"bytes"
	"cmp"
	"context"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Ring seals and opens with the keys of one data folder; it is the store's
// Sealer. It reads and writes files only when opened, rotated, or at the first
// seal of a day. It is safe for concurrent use and prints as [key].
type Ring struct {
	dir    string
	clock  func() time.Time
	rounds int       // of PBKDF2 on a PIN
	index  sync.Pool // of HMACs under the index key
	record Key
	days   sync.Map // Epoch → cipher.AEAD, the record key of that day
	today  atomic.Pointer[epochKey]

	mu     sync.RWMutex // guards what follows
	root   Root
	held   map[string]heldKey // all keys, by name of file
	epochs map[Epoch]*epochKey
}

// heldKey is a key and the file it is kept in; a destroyed one has no key.
type heldKey struct {
	file keyFile
	key  Key
}

// epochKey is the key of one day, never changed; mail is nil once it is destroyed.
type epochKey struct {
	epoch Epoch
	key   Key         // for HKDF with a link's secret
	mail  cipher.AEAD // under a key derived from it
}

// Info tells of one epoch key.
type Info struct {
	Epoch     Epoch
	Root      string    // ID of the root key that wraps it
	Destroyed time.Time // zero while it exists
}

// Format keeps keys out of logs.
func (r *Ring) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

// Open reads the ring in dir, or makes one if there is none. With the wrong root
// it returns ErrWrongRoot before it changes anything. It finishes a rotation
// that was interrupted, whichever of the two roots still opens every key.
func Open(dir string, root Root, clock func() time.Time) (*Ring, error) {
	ctx := context.Background()
	now, next, err := files(dir)
	if err != nil {
		return nil, err
	}
	r := &Ring{dir: dir, clock: clock, rounds: rounds, root: root, held: map[string]heldKey{}, epochs: map[Epoch]*epochKey{}}
	if err := r.load(ctx, now, next); err != nil {
		return nil, err
	}
	if err := r.settle(now, next); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if err := r.complete(ctx); err != nil {
		return nil, err
	}
	r.record = r.held[recordName].key
	index := r.held[indexName].key
	r.index.New = func() any { return hmac.New(sha256.New, index.raw()[:]) }
	return r, nil
}

// Check reports whether root opens every key of the ring in dir, and changes
// nothing. A folder that does not exist yet is fine: Open makes it.
func Check(dir string, root Root) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	now, next, err := files(dir)
	if err != nil {
		return err
	}
	r := &Ring{dir: dir, root: root, held: map[string]heldKey{}, epochs: map[Epoch]*epochKey{}}
	return r.load(context.Background(), now, next)
}

// load unwraps every key and notes in now which file of each it took.
func (r *Ring) load(ctx context.Context, now, next map[string]keyFile) error {
	for name := range now {
		f, k, err := choose(ctx, r.root, now[name], next[name])
		if errors.Is(err, ErrWrongRoot) && len(next) > 0 {
			return fmt.Errorf("%w (a rotation was interrupted: the root key it went to finishes it)", err)
		}
		if err == nil {
			err = r.add(f, k)
		}
		if err != nil {
			return err
		}
		now[name] = f
	}
	return nil
}

// choose unwraps a key from its file or, if that is another root's, from the one
// that an interrupted rotation left beside it.
func choose(ctx context.Context, root Root, f, g keyFile) (keyFile, Key, error) {
	if f.Destroyed != nil {
		return f, Key{}, nil
	}
	k, err := f.unwrap(ctx, root)
	if errors.Is(err, ErrWrongRoot) && len(g.Wrapped) > 0 {
		f = g
		k, err = g.unwrap(ctx, root)
	}
	return f, k, err
}

// settle ends an interrupted rotation on disk and sweeps what a crash left: a
// forgotten wrapped key would outlive the shredding of its epoch.
func (r *Ring) settle(now, next map[string]keyFile) error {
	left, err := filepath.Glob(filepath.Join(r.dir, tempPattern)) // fails only for a bad pattern
	if err != nil || len(left)+len(next) == 0 {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for name, g := range next {
		path := filepath.Join(r.dir, name)
		if f, ok := now[name]; ok && bytes.Equal(f.Wrapped, g.Wrapped) {
			err = os.Rename(path+newSuffix, path+keySuffix)
		} else {
			err = os.Remove(path + newSuffix)
		}
		if err != nil {
			return err
		}
	}
	return syncDir(r.dir)
}

// add takes a key into the ring.
func (r *Ring) add(f keyFile, k Key) error {
	if f.Name != indexName && f.Name != recordName {
		e, err := f.epoch()
		if err != nil {
			return err
		}
		r.epochs[e] = newEpochKey(e, k)
	}
	r.held[f.Name] = heldKey{f, k}
	return nil
}

func newEpochKey(e Epoch, k Key) *epochKey {
	if k.raw == nil {
		return &epochKey{epoch: e}
	}
	return &epochKey{epoch: e, key: k, mail: newAEAD(k.derive("phigate mail 1"))}
}

// complete makes the long-lived keys of a new ring: index, then record. One that
// is missing although a later one exists was lost, and a new one would hide that.
func (r *Ring) complete(ctx context.Context) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	later := len(r.epochs) > 0
	missing := []string{}
	for _, name := range []string{recordName, indexName} {
		_, ok := r.held[name]
		if !ok && later {
			return fmt.Errorf("%w: %s is missing; restore it from the backup of the keys", ErrDamaged, filepath.Join(r.dir, name+keySuffix))
		}
		if !ok {
			missing = append(missing, name)
		}
		later = later || ok
	}
	slices.Reverse(missing)
	for _, name := range missing {
		if err := r.create(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// create makes a key durable under name, or takes the one that another process
// made meanwhile.
func (r *Ring) create(ctx context.Context, name string) error {
	k := newKey()
	f, err := wrapFile(ctx, r.root, name, k, r.clock())
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, name+keySuffix)
	if err = f.create(path); errors.Is(err, fs.ErrExist) {
		if f, err = readKeyFile(path, name); err == nil && f.Destroyed == nil {
			k, err = f.unwrap(ctx, r.root)
		}
	}
	if err != nil {
		return fmt.Errorf("keys: create %s: %w", name, err)
	}
	return r.add(f, k)
}

// current is today's epoch key; the first call of a day makes it.
func (r *Ring) current() (*epochKey, error) {
	e := EpochOf(r.clock())
	if k := r.today.Load(); k != nil && k.epoch == e {
		return k, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epochs[e] == nil {
		if err := r.create(context.Background(), epochPrefix+e.String()); err != nil {
			return nil, err
		}
	}
	k := r.epochs[e]
	if k.mail == nil { // the clock went back to a day that was shredded
		return nil, fmt.Errorf("keys: cannot seal on %s: %w", e, ErrShredded)
	}
	r.today.Store(k)
	return k, nil
}

// of is the key of an epoch that sealed something.
func (r *Ring) of(e Epoch) (*epochKey, error) {
	r.mu.RLock()
	k, ok := r.epochs[e]
	r.mu.RUnlock()
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: no key for that day", ErrDamaged)
	case k.mail == nil:
		return nil, ErrShredded
	}
	return k, nil
}

// recordOf is the cipher of the record key for one day: a key per day keeps random
// nonces far below 2^32 seals (SP 800-38D §8.3).
func (r *Ring) recordOf(e Epoch) cipher.AEAD {
	if a, ok := r.days.Load(e); ok {
		return a.(cipher.AEAD)
	}
	return newAEAD(r.record.derive("phigate record 1 " + e.String()))
}

// Epochs lists the epoch keys by day, the destroyed ones too.
func (r *Ring) Epochs() []Info {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := make([]Info, 0, len(r.epochs))
	for e := range r.epochs {
		f := r.held[epochPrefix+e.String()].file
		i := Info{Epoch: e, Root: f.Root}
		if f.Destroyed != nil {
			i.Destroyed = *f.Destroyed
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Info) int { return cmp.Compare(a.Epoch, b.Epoch) })
	return list
}

// Rotate wraps every key under another root. What the keys sealed stays as it
// is. After an error the old root still opens the ring, unless the error says
// otherwise; after a crash at any point, one of the two does and Open finishes.
func (r *Ring) Rotate(ctx context.Context, root Root) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next, err := r.rewrap(ctx, root)
	if err != nil {
		return err
	}
	for name, f := range next {
		if err = f.write(filepath.Join(r.dir, name+newSuffix)); err != nil {
			for name := range next {
				os.Remove(filepath.Join(r.dir, name+newSuffix))
			}
			return fmt.Errorf("keys: rotate: %w", err)
		}
	}
	r.root = root // from here on only forward
	for name, f := range next {
		path := filepath.Join(r.dir, name)
		if err = os.Rename(path+newSuffix, path+keySuffix); err != nil {
			return fmt.Errorf("keys: rotate: open the ring with the new root key to finish: %w", err)
		}
		r.held[name] = heldKey{f, r.held[name].key}
	}
	if err := syncDir(r.dir); err != nil {
		return fmt.Errorf("keys: rotate: open the ring with the new root key to finish: %w", err)
	}
	return nil
}

func (r *Ring) rewrap(ctx context.Context, root Root) (map[string]keyFile, error) {
	next := map[string]keyFile{}
	for name, h := range r.held {
		if h.file.Destroyed != nil {
			continue
		}
		f, err := wrapFile(ctx, root, name, h.key, h.file.Created)
		if err != nil {
			return nil, err
		}
		next[name] = f
	}
	return next, nil
}

// Destroy shreds all mail of a day that is over: its key leaves memory and the
// folder, and the file is overwritten where it lay. Copies in backups of the keys
// must be destroyed apart, and an SSD may keep old blocks, so a root key in a TPM
// is better than one on the same disk. Doing it again is no error.
func (r *Ring) Destroy(e Epoch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.epochs[e]; !ok || e >= EpochOf(r.clock()) {
		return fmt.Errorf("%w: %s", ErrEpoch, e)
	}
	name := epochPrefix + e.String()
	old := r.held[name].file
	if old.Destroyed != nil {
		return nil
	}
	at := r.clock().UTC()
	gone := keyFile{Version: version, Name: name, Created: old.Created, Destroyed: &at}
	if err := replace(filepath.Join(r.dir, name+keySuffix), gone); err != nil {
		return fmt.Errorf("keys: destroy %s: %w", e, err)
	}
	r.today.Store(nil)
	return r.add(gone, Key{})
}

// replace puts f in place of the file at path and then overwrites the old one,
// in that order, so that a crash between leaves a readable ring.
func replace(path string, f keyFile) error {
	old, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	info, err := old.Stat()
	if err == nil {
		err = f.write(path)
	}
	if err != nil {
		return err
	}
	if _, err = old.WriteAt(make([]byte, info.Size()), 0); err == nil {
		err = old.Sync()
	}
	return err
}
