//go:build !linux

package bolt

import (
	"math"

	"go.etcd.io/bbolt"
)

// dropCache does nothing: only Linux marks pages clean that never reached the disk.
func dropCache(string) error { return nil }

// free is not known here; a full disk shows itself at the commit.
func free(string) (int64, error) { return math.MaxInt64, nil }

// unmap does nothing: what it would tidy is only how memory is counted.
func unmap(*bbolt.DB, int64) {}
