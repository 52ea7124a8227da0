// Package bolt is the embedded engine of the storage contract: one bbolt file
// and a folder of large bodies, for one process.
//
// Every call seals, compresses and hashes in its own goroutine ([Store.prepare])
// and then joins the line of the writer ([Store.write]), which commits all that
// wait as one transaction: nil means fsynced. Reads are short transactions
// beside it ([Store.view]). Nothing of the queue is kept on the heap.
//
// The file holds opaque ids, times, counts and keyed hashes in clear; whatever
// names a person, an address, a domain or a text is sealed. The tables are
// listed in txn.go, the rows in row.go.
package bolt

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/phigate/phigate/internal/store"
)

var (
	// ErrLocked is returned by Open when another process has the data folder open.
	ErrLocked = errors.New("another process has the data folder open")
	// ErrWrongKey is returned by Open when the key ring does not open what the
	// folder holds: a wrong root key, or the data of another gateway. Nothing
	// was changed.
	ErrWrongKey = errors.New("the key ring does not open this data folder: wrong root key, or data of another gateway")
	// ErrForeign is returned by Open when the folder holds bodies but no
	// database, so that starting afresh would sweep mail away.
	ErrForeign = errors.New("the data folder holds message bodies but no database")

	errClosed = fmt.Errorf("%w: closed", store.ErrUnavailable)
)

// Options are what an engine is opened with. Sealer and Hash are needed.
type Options struct {
	Sealer store.Sealer
	Hash   store.Hasher
	Clock  func() time.Time // nil is time.Now
	Log    *slog.Logger     // nil is silent

	// Reserve is how many bytes must be free on the disk to take in mail. Below
	// it only what empties the queue is written. 0 is 64 MiB, -1 none.
	Reserve int64

	// Fault, if set, is called at each named point of a write. Its error is
	// taken for the disk's. Tests use it to fail and to crash at that point.
	Fault func(Point) error

	growth int // by how many bytes the file grows; 0 is bbolt's 16 MiB. Tests keep it small
}

// Point names a moment of a write at which a crash or a disk error is of interest.
type Point string

const (
	BodyWrite    Point = "body write"  // before a body file is written
	BodySync     Point = "body sync"   // written, not fsynced
	BodyRename   Point = "body rename" // fsynced under its temporary name
	BodyFolder   Point = "body folder" // renamed, folder not fsynced
	BeforeCommit Point = "before commit"
	AfterCommit  Point = "after commit" // on the disk, nobody told
)

// Points lists all points, in the order in which a write passes them.
var Points = [...]Point{BodyWrite, BodySync, BodyRename, BodyFolder, BeforeCommit, AfterCommit}

// Store is an open engine. It satisfies [store.Store].
type Store struct {
	dir    string
	o      Options
	bodies bodies
	line   line

	touched atomic.Int64 // bytes of the file used since its pages were given back
	suspect atomic.Bool  // the last commit's outcome is unknown: reopen first

	mu     sync.RWMutex // read: use db; write: replace it
	db     *bbolt.DB    // nil while it cannot be opened, and when closed
	closed bool         // guarded by mu
}

var _ store.Store = (*Store)(nil)

const (
	fileName   = "mail.db"
	bodyFolder = "bodies"
	format     = 1
	lockWait   = 250 * time.Millisecond // for the lock of a process that is just ending
	mapSize    = 1 << 30                // address space, so that growing rarely remaps
)

// Open opens or creates the store in dir, which must be on a local disk. It
// returns the leases of a process that died and sweeps the bodies that belong to
// no message. Errors wrap [store.ErrUnavailable]; see also [ErrLocked],
// [ErrWrongKey] and [ErrForeign].
func Open(dir string, o Options) (*Store, error) {
	s, err := open(dir, o)
	if err != nil {
		return nil, known(fmt.Errorf("store in %s: %w", dir, err))
	}
	return s, nil
}

func open(dir string, o Options) (*Store, error) {
	if o.Sealer == nil || o.Hash == nil {
		return nil, errors.New("a sealer and a hasher are needed")
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Reserve == 0 {
		o.Reserve = 64 << 20
	}
	s := &Store{dir: dir, o: o}
	s.bodies.dir, s.bodies.point = filepath.Join(dir, bodyFolder), s.point
	if err := makeFolder(s.bodies.dir); err != nil {
		return nil, err
	}
	var err error
	if s.db, err = s.openOrCreate(); err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// start puts right what a process that died has left.
func (s *Store) start() error {
	if err := s.returnLeases(); err != nil {
		return err
	}
	swept, err := s.sweepBodies()
	s.used(mappedMax) // opening has looked at every page
	if swept > 0 {
		s.o.Log.Info("store: swept bodies of no message", "count", swept)
	}
	return err
}

func (s *Store) path() string { return filepath.Join(s.dir, fileName) }

func (s *Store) now() time.Time { return time.Unix(0, s.o.Clock().UnixNano()).UTC() }

func (s *Store) point(p Point) error {
	if s.o.Fault == nil {
		return nil
	}
	return s.o.Fault(p)
}

func (s *Store) openOrCreate() (*bbolt.DB, error) {
	_, err := os.Stat(s.path())
	if errors.Is(err, os.ErrNotExist) {
		return s.create()
	}
	if err != nil {
		return nil, err
	}
	return s.openFile()
}

// create makes a database under another name and gives it its own when it is
// whole and on the disk, so that a crash meanwhile leaves none.
func (s *Store) create() (*bbolt.DB, error) {
	if found, err := os.ReadDir(s.bodies.dir); err != nil {
		return nil, err
	} else if len(found) > 0 {
		return nil, ErrForeign
	}
	drafts, err := filepath.Glob(s.path() + ".*" + draftSuffix) // of starts that a crash cut off
	if err != nil {
		return nil, err
	}
	for _, old := range drafts {
		os.Remove(old)
	}
	draft := s.path() + "." + rand.Text() + draftSuffix
	db, err := s.openBolt(draft, false)
	if err != nil {
		return nil, err
	}
	if err := s.furnish(db, draft); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func (s *Store) furnish(db *bbolt.DB, draft string) error {
	if err := db.Update(s.createTables); err != nil {
		return err
	}
	if err := os.Link(draft, s.path()); err != nil { // unlike a rename, never replaces
		return err
	}
	if err := os.Remove(draft); err != nil {
		return err
	}
	return syncFolder(s.dir)
}

var probeText = []byte("phigate")

func (s *Store) createTables(tx *bbolt.Tx) error {
	for _, name := range tableNames {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	t := &txn{tx: tx}
	sealed, err := s.o.Sealer.SealRecord(aad(tMeta, []byte("probe")), probeText)
	if err != nil {
		return err
	}
	hash := s.index("probe", string(probeText))
	t.put(tMeta, []byte("format"), []byte{format})
	t.put(tMeta, []byte("probe"), sealed)
	t.put(tMeta, []byte("probe index"), hash[:])
	return t.err
}

// openFile opens the existing database. It is first opened for reading alone, to
// check the key ring against it and to walk all its pages: opened for writing,
// bbolt does the same walk to find the free pages, but in a goroutine of its own,
// where a damaged page would end the process.
func (s *Store) openFile() (*bbolt.DB, error) {
	db, err := s.openBolt(s.path(), true)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(inspect(db, s.checkProbe), db.Close()); err != nil {
		return nil, err
	}
	return s.openBolt(s.path(), false)
}

// inspect runs the check and visits every page that is in use.
func inspect(db *bbolt.DB, check func(*bbolt.Tx) error) (err error) {
	defer guard(&err, store.ErrUnavailable)()
	return db.View(func(tx *bbolt.Tx) error {
		if err := check(tx); err != nil {
			return err
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			c := b.Cursor()
			for k, _ := c.First(); k != nil; k, _ = c.Next() {
			}
			return nil
		})
	})
}

func (s *Store) checkProbe(tx *bbolt.Tx) error {
	if tx.Bucket([]byte(tableNames[tMeta])) == nil {
		return fmt.Errorf("%s is not a store", fileName)
	}
	t := &txn{tx: tx}
	if v := t.get(tMeta, []byte("format")); len(v) != 1 || v[0] != format {
		return fmt.Errorf("%s is of format %v, this program reads %d", fileName, v, format)
	}
	got, err := s.o.Sealer.Open(aad(tMeta, []byte("probe")), t.get(tMeta, []byte("probe")))
	hash := s.index("probe", string(probeText))
	if err != nil || !bytes.Equal(got, probeText) || !bytes.Equal(hash[:], t.get(tMeta, []byte("probe index"))) {
		return ErrWrongKey
	}
	return nil
}

// openBolt opens one bbolt file. bbolt panics on some damaged files; the file is
// closed then, for its lock would stay.
func (s *Store) openBolt(path string, readOnly bool) (db *bbolt.DB, err error) {
	var file *os.File
	defer func() {
		if err != nil && db == nil && file != nil {
			file.Close()
		}
	}()
	defer guard(&err, store.ErrUnavailable)()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         lockWait,
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mapSize,
		NoStatistics:    true,
		ReadOnly:        readOnly,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	})
	if errors.Is(err, berrors.ErrTimeout) {
		err = ErrLocked
	}
	if err != nil {
		return nil, err
	}
	if s.o.growth > 0 {
		db.AllocSize = s.o.growth
	}
	return db, nil
}

// Close waits for the running transaction and closes the files. What still waits
// in the line is refused.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.db == nil {
		return nil
	}
	err := s.db.Close()
	s.db = nil
	return err
}

// Durability is local: nil means fsynced on this machine's disk.
func (s *Store) Durability() store.Durability { return store.Local }
