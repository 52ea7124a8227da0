package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The files of a ring, each "<name>.json": the index key, the record key and
// one "epoch-2006-01-02" a day. A rotation first writes all of them beside the
// old ones as "<name>.new", then renames one after the other: before the first
// rename the old root opens the ring, from the last .new on the new root does.
const (
	indexName   = "index"
	recordName  = "record"
	epochPrefix = "epoch-"
	keySuffix   = ".json"
	newSuffix   = ".new"
	tempPattern = ".tmp-*"
)

// keyFile is what one file holds: a wrapped key, or the trace of a destroyed one.
type keyFile struct {
	Version   int        `json:"version"`
	Name      string     `json:"name"`
	Created   time.Time  `json:"created"`
	Root      string     `json:"root,omitempty"`
	Wrapped   []byte     `json:"wrapped,omitempty"`
	Destroyed *time.Time `json:"destroyed,omitempty"`
}

func parseKeyFile(name string, text []byte) (keyFile, error) {
	var f keyFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f, fmt.Errorf("%w: key file %s: %w", ErrDamaged, name, err)
	}
	if f.Version != version || f.Name != name || (f.Destroyed == nil) == (len(f.Wrapped) == 0) {
		return f, fmt.Errorf("%w: key file %s does not hold the %s key in version %d", ErrDamaged, name, name, version)
	}
	return f, nil
}

func readKeyFile(path, name string) (keyFile, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return keyFile{}, fmt.Errorf("keys: %w", err)
	}
	return parseKeyFile(name, text)
}

// epoch reads the day from the name.
func (f keyFile) epoch() (Epoch, error) {
	s, ok := strings.CutPrefix(f.Name, epochPrefix)
	e, err := ParseEpoch(s)
	if !ok || err != nil || e.String() != s {
		return 0, fmt.Errorf("%w: unknown key file %q", ErrDamaged, f.Name+keySuffix)
	}
	return e, nil
}

// aad binds a wrapped key to its place, so that files cannot be swapped.
func (f keyFile) aad() []byte { return fmt.Appendf(nil, "phigate key %d %s", f.Version, f.Name) }

func wrapFile(ctx context.Context, root Root, name string, k Key, created time.Time) (keyFile, error) {
	f := keyFile{Version: version, Name: name, Created: created.UTC(), Root: root.ID()}
	var err error
	if f.Wrapped, err = root.Wrap(ctx, k.raw()[:], f.aad()); err != nil {
		return f, fmt.Errorf("keys: wrap %s: %w", name, err)
	}
	return f, nil
}

func (f keyFile) unwrap(ctx context.Context, root Root) (Key, error) {
	b, err := root.Unwrap(ctx, f.Root, f.Wrapped, f.aad())
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", f.Name, err)
	}
	return keyOf(b)
}

func (f keyFile) write(path string) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'), os.Rename)
}

// create writes a file that must not exist yet, so that two processes cannot
// each make a key for the same day.
func (f keyFile) create(path string) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'), os.Link)
}

// writeFile makes text durable under path: a temporary file, fsync, put (rename
// or link), fsync of the folder.
func writeFile(path string, text []byte, put func(old, new string) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPattern)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after a rename, as it should
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = put(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// files reads all key files of a ring, those of an open rotation apart.
func files(dir string) (now, next map[string]keyFile, err error) {
	now, next = map[string]keyFile{}, map[string]keyFile{}
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("keys: %w", err)
	}
	var errs []error
	for _, e := range list {
		into := now
		name, ok := strings.CutSuffix(e.Name(), keySuffix)
		if !ok {
			into = next
			if name, ok = strings.CutSuffix(e.Name(), newSuffix); !ok {
				continue
			}
		}
		f, err := readKeyFile(filepath.Join(dir, e.Name()), name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		into[name] = f
	}
	return now, next, errors.Join(errs...)
}
