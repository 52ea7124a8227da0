package bolt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/phigate/phigate/internal/store"
)

// A body is compressed, then sealed under a key of its own. Up to inlineMax
// sealed bytes it is a value in the database; larger, a file of its own, for
// bbolt wants contiguous pages and never gives them back.
const inlineMax = 64 << 10

// inFile is the row of a body that is in a file. No sealed body is empty.
var inFile = []byte{}

// bodyLimit bounds what a compressed body may grow to.
const bodyLimit = 1 << 30

var compressor = sync.OnceValue(func() *zstd.Encoder {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err) // the options are constants
	}
	return w
})

var expander = sync.OnceValue(func() *zstd.Decoder {
	r, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(bodyLimit))
	if err != nil {
		panic(err)
	}
	return r
})

// scratch holds buffers for compressed bodies on their way to be sealed.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// sealBody gives the sealed body and its key.
func (s *Store) sealBody(id store.ID, body []byte) (sealed, key []byte, err error) {
	buf := scratch.Get().(*[]byte)
	*buf = compressor().EncodeAll(body, (*buf)[:0])
	sealed, key, err = s.o.Sealer.SealBody(aad(tBody, []byte(id)), *buf)
	clear(*buf) // mail in clear
	if cap(*buf) <= inlineMax {
		scratch.Put(buf)
	}
	return sealed, key, err
}

func (s *Store) openBody(id store.ID, key, sealed []byte) ([]byte, error) {
	packed, err := s.o.Sealer.OpenBody(key, aad(tBody, []byte(id)), sealed)
	if err != nil {
		return nil, err
	}
	return expander().DecodeAll(packed, nil)
}

// sealedBody is the sealed body that the row (copied out of its transaction)
// holds or names.
func (s *Store) sealedBody(id store.ID, row []byte) ([]byte, error) {
	switch {
	case row == nil:
		return nil, store.ErrNotFound
	case len(row) == 0:
		return s.bodies.read(id)
	}
	return row, nil
}

// bodies is the folder of large bodies. A file is named by the message's id and
// holds the sealed body.
type bodies struct {
	dir   string
	point func(Point) error

	mu     sync.Mutex
	pinned bool       // guarded by mu: a backup reads, nothing may be removed
	due    []store.ID // guarded by mu: to be removed when it ends
}

func (b *bodies) path(id store.ID) string { return filepath.Join(b.dir, string(id)) }

const draftSuffix = ".new"

// write makes a file durable under its name before it returns: written, fsynced,
// renamed, folder fsynced.
func (b *bodies) write(id store.ID, sealed []byte) (err error) {
	draft := b.path(id) + draftSuffix
	defer func() {
		if err != nil {
			os.Remove(draft)
			os.Remove(b.path(id))
		}
	}()
	if err := b.point(BodyWrite); err != nil {
		return err
	}
	if err := b.draft(draft, sealed); err != nil {
		return err
	}
	if err := b.point(BodyRename); err != nil {
		return err
	}
	if err := os.Rename(draft, b.path(id)); err != nil {
		return err
	}
	if err := b.point(BodyFolder); err != nil {
		return err
	}
	return syncFolder(b.dir)
}

func (b *bodies) draft(path string, sealed []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(sealed)
	if err == nil {
		err = b.point(BodySync)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (b *bodies) read(id store.ID) ([]byte, error) {
	data, err := os.ReadFile(b.path(id))
	if errors.Is(err, os.ErrNotExist) { // the last holder let go meanwhile
		return nil, store.ErrNotFound
	}
	return data, err
}

// removeAll deletes the files of bodies that no record names any more. A file
// that stays is swept at the next start.
func (b *bodies) removeAll(ids []store.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pinned {
		b.due = append(b.due, ids...)
		return
	}
	for _, id := range ids {
		os.Remove(b.path(id))
	}
}

// pin keeps files from being removed until unpin.
func (b *bodies) pin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pinned {
		return errors.New("another backup is running")
	}
	b.pinned = true
	return nil
}

func (b *bodies) unpin() {
	b.mu.Lock()
	due := b.due
	b.pinned, b.due = false, nil
	b.mu.Unlock()
	b.removeAll(due)
}

// sweepBodies removes the files that no record names: drafts, and bodies whose
// commit or removal a crash has cut off. Names that are not ours stay.
func (s *Store) sweepBodies() (swept int, err error) {
	d, err := os.Open(s.bodies.dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			return swept, nil
		}
		if err != nil {
			return swept, err
		}
		orphans, err := s.orphans(names)
		if err != nil {
			return swept, err
		}
		for _, name := range orphans {
			if err := os.Remove(filepath.Join(s.bodies.dir, name)); err != nil {
				return swept, err
			}
			swept++
		}
	}
}

func (s *Store) orphans(names []string) (orphans []string, err error) {
	err = s.view(func(t *txn) error {
		for _, name := range names {
			id, draft := strings.CutSuffix(name, draftSuffix)
			if !store.ID(id).Valid() {
				continue
			}
			row := t.get(tBody, []byte(id))
			if draft || row == nil || len(row) > 0 {
				orphans = append(orphans, name)
			}
		}
		return nil
	})
	return orphans, err
}

// makeFolder creates a folder and its parents, durably.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range []string{dir, filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		if err := syncFolder(d); err != nil {
			return fmt.Errorf("fsync of a new folder: %w", err)
		}
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
