package bolt

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/phigate/phigate/internal/store"
)

// Backup writes a tar of the store as it is at one moment, while it goes on
// working: the database and the bodies in files, all sealed. Unpacked into an
// empty folder it is the store again. It holds one read transaction throughout,
// so w should be a local file: what is deleted meanwhile cannot be used again
// until it ends.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	if err := s.admit(ctx, false); err != nil {
		return err
	}
	if err := s.bodies.pin(); err != nil {
		return known(err)
	}
	defer s.bodies.unpin()
	out := tar.NewWriter(w)
	err := s.view(func(t *txn) error {
		if err := header(out, fileName, t.tx.Size()); err != nil {
			return err
		}
		if _, err := t.tx.WriteTo(out); err != nil {
			return err
		}
		return s.backupBodies(ctx, t, out)
	})
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return known(out.Close())
}

func (s *Store) backupBodies(ctx context.Context, t *txn, out *tar.Writer) (err error) {
	t.each(tBody, nil, nil, func(k, v []byte) bool {
		if len(v) > 0 {
			return true
		}
		if err = s.admit(ctx, false); err == nil {
			err = s.backupBody(store.ID(bytes.Clone(k)), out)
		}
		return err == nil
	})
	return err
}

func (s *Store) backupBody(id store.ID, out *tar.Writer) error {
	f, err := os.Open(s.bodies.path(id))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := header(out, bodyFolder+"/"+string(id), info.Size()); err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return err
}

func header(out *tar.Writer, name string, size int64) error {
	return out.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600, Typeflag: tar.TypeReg})
}
