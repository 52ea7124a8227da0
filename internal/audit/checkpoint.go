package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrRewritten is returned when the log no longer contains what an earlier
// checkpoint signed: it was changed, cut, or restored from an older backup.
var ErrRewritten = errors.New("audit: the log does not contain what an earlier checkpoint signed")

// ErrCheckpoint is returned when a checkpoint cannot be read, or was signed for
// another log or by another key.
var ErrCheckpoint = errors.New("audit: not a checkpoint of this log")

// Files in the folder: the sealed signing key, the public key in the form of
// C2SP signed-note, the latest checkpoint, and the last one of each day.
const (
	keyFile      = "signer.sealed"
	verifierFile = "verifier.txt"
	latestFile   = "latest"
	dayPrefix    = "day-"

	interval = time.Minute
)

var keyAAD = []byte("audit signer 1")

// loadKey opens the Ed25519 signing key, or makes it.
func (l *Log) loadKey() error {
	path := filepath.Join(l.o.Dir, keyFile)
	sealed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		sealed, err = l.makeKey(path)
	}
	if err != nil {
		return fmt.Errorf("audit: signing key: %w", err)
	}
	plain, err := l.o.Sealer.Open(keyAAD, sealed)
	if err != nil {
		return fmt.Errorf("audit: signing key: %w", err)
	}
	skey, vkey, _ := strings.Cut(string(plain), "\n")
	if l.signer, err = note.NewSigner(skey); err == nil {
		l.verifier, err = note.NewVerifier(vkey)
	}
	if err != nil {
		return errors.New("audit: signing key: damaged") // its text may show the key
	}
	l.vkey = vkey
	return nil
}

func (l *Log) makeKey(path string) ([]byte, error) {
	if err := os.MkdirAll(l.o.Dir, 0o700); err != nil {
		return nil, err
	}
	skey, vkey, err := note.GenerateKey(rand.Reader, l.o.Origin)
	if err != nil {
		return nil, fmt.Errorf("a log cannot be named %q: %w", l.o.Origin, err)
	}
	sealed, err := l.o.Sealer.SealRecord(keyAAD, []byte(skey+"\n"+vkey))
	if err == nil {
		err = writeFile(filepath.Join(l.o.Dir, verifierFile), []byte(vkey+"\n"))
	}
	if err == nil {
		err = writeFile(path, sealed)
	}
	return sealed, err
}

// VerifierKey is the public key of the log, for outsiders: C2SP signed-note,
// "<origin>+<hash>+<key>".
func (l *Log) VerifierKey() string { return l.vkey }

// tree is what a checkpoint says.
type tree struct {
	origin string
	size   int64
	root   tlog.Hash
}

// text is the body of a C2SP tlog-checkpoint.
func (t tree) text() string { return fmt.Sprintf("%s\n%d\n%s\n", t.origin, t.size, t.root) }

// openCheckpoint checks the signature and reads the body.
func openCheckpoint(checkpoint []byte, v note.Verifier) (tree, error) {
	n, err := note.Open(checkpoint, note.VerifierList(v))
	if err != nil {
		return tree{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || lines[0] != v.Name() {
		return tree{}, fmt.Errorf("%w: it has no origin, size and root of %s", ErrCheckpoint, v.Name())
	}
	t := tree{origin: lines[0]}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return tree{}, fmt.Errorf("%w: its size is no number", ErrCheckpoint)
	}
	if t.root, err = tlog.ParseHash(lines[2]); err != nil {
		return tree{}, fmt.Errorf("%w: its root is no hash", ErrCheckpoint)
	}
	t.size = size
	return t, nil
}

// Checkpoint signs the log as it is now: a C2SP checkpoint, safe to publish. It
// refuses with ErrRewritten when the log does not contain the latest one.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	latest, err := l.latest()
	if err != nil {
		return nil, err
	}
	size, err := l.o.Store.TreeSize(ctx)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := l.contains(ctx, latest, size); err != nil {
		return nil, err
	}
	return l.sign(ctx, size)
}

func (l *Log) sign(ctx context.Context, size int64) ([]byte, error) {
	root, err := tlog.TreeHash(size, l.hashes(ctx))
	if err != nil {
		return nil, fmt.Errorf("audit: tree: %w", err)
	}
	signed, err := note.Sign(&note.Note{Text: tree{l.o.Origin, size, root}.text()}, l.signer)
	if err != nil {
		return nil, fmt.Errorf("audit: sign: %w", err)
	}
	return signed, nil
}

// contains reports whether the stored tree of that size extends t. Stored hashes
// are only ever added, so the root at t's size can be computed again.
func (l *Log) contains(ctx context.Context, t tree, size int64) error {
	if t.size > size {
		return fmt.Errorf("%w: %d leaves then, %d now", ErrRewritten, t.size, size)
	}
	root, err := tlog.TreeHash(t.size, l.hashes(ctx))
	if err != nil {
		return fmt.Errorf("audit: tree: %w", err)
	}
	if t.size > 0 && root != t.root {
		return fmt.Errorf("%w: another root at %d leaves", ErrRewritten, t.size)
	}
	return nil
}

// latest is the last checkpoint written; the zero tree if there is none.
func (l *Log) latest() (tree, error) {
	text, err := os.ReadFile(filepath.Join(l.o.Dir, latestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return tree{}, nil
	}
	if err != nil {
		return tree{}, fmt.Errorf("audit: %w", err)
	}
	return openCheckpoint(text, l.verifier)
}

// Run writes a checkpoint each minute in which the log grew, and one when ctx
// ends. What goes wrong is logged as an error and tried again: the log goes on
// growing, and a rewritten one must be seen by a person.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.tryWrite(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			l.tryWrite(ctx)
		}
	}
}

func (l *Log) tryWrite(ctx context.Context) {
	if err := l.write(ctx); err != nil {
		l.o.Log.ErrorContext(ctx, "audit checkpoint failed", "error", err)
	}
}

// write makes a checkpoint durable if the log grew since the latest.
func (l *Log) write(ctx context.Context) error {
	signed, err := l.Checkpoint(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(l.o.Dir, latestFile)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, signed) { // Ed25519 signs alike
		return nil
	}
	name := dayPrefix + l.o.Clock().UTC().Format(time.DateOnly)
	if err := writeFile(filepath.Join(l.o.Dir, name), signed); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if err := writeFile(path, signed); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// kept reads the checkpoints in the folder, by size.
func (l *Log) kept() ([]tree, error) {
	list, err := os.ReadDir(l.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var trees []tree
	for _, e := range list {
		if e.Name() != latestFile && !strings.HasPrefix(e.Name(), dayPrefix) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(l.o.Dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		t, err := openCheckpoint(text, l.verifier)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(l.o.Dir, e.Name()), err)
		}
		trees = append(trees, t)
	}
	slices.SortFunc(trees, func(a, b tree) int { return int(a.size - b.size) })
	return trees, nil
}

// writeFile makes text durable under path: a temporary file, fsync, rename,
// fsync of the folder.
func writeFile(path string, text []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
