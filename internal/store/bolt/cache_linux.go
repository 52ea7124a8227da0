package bolt

import (
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// dropCache makes the system forget what it has cached of the file, so that the
// next read sees the disk. Nobody may have the file mapped.
func dropCache(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // dirty pages cannot be dropped
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// free is how many bytes the disk of the folder has left for us.
func free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// unmap takes the pages of the mapped file out of this process's memory; they
// stay in the system's cache and come back when touched. Without it every page
// ever read counts as ours, and a process that has worked through a million
// messages looks as if it held them. A read transaction must be open, so that
// the mapping stays where it is.
func unmap(db *bbolt.DB, size int64) {
	unix.Syscall(unix.SYS_MADVISE, db.Info().Data, uintptr(size), unix.MADV_DONTNEED)
}
