package bolt

import (
	"testing"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/store/storetest"
)

// testGrowth keeps the files small that tests copy.
const testGrowth = 64 << 10

func openTest(t testing.TB, dir string, ring *testRing, clock *storetest.Clock) *Store {
	t.Helper()
	s, err := Open(dir, Options{Sealer: ring, Hash: hashTree, Clock: clock.Now, Reserve: -1, growth: testGrowth})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestBoltKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB, clock *storetest.Clock) (store.Store, storetest.Faults) {
		dir, ring := t.TempDir(), newRing()
		s := openTest(t, dir, ring, clock)
		return s, storetest.Faults{
			Kill: func(t testing.TB) store.Store {
				s.Close() // writes nothing: bbolt has only what it committed
				s = openTest(t, dir, ring, clock)
				return s
			},
			Shred: func(testing.TB) { ring.shred() },
		}
	})
}
