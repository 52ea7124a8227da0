package storetest

import (
	"testing"

	"github.com/phigate/phigate/internal/store"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	runCases(t, func(t testing.TB, clock *Clock) (store.Store, Faults) {
		m := NewMemory(clock.Now)
		return m, Faults{Kill: func(testing.TB) store.Store { m.Restart(); return m }}
	})
}
