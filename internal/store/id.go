package store

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"
)

const idAlphabet = "0123456789abcdefghijklmnopqrstuv" // base32hex: sorts like the number

// IDs makes ids that sort by time: 44 bits of milliseconds and 20 bits that
// start at random and count on. Two of one maker are never equal, even when the
// clock steps back.
type IDs struct {
	mu   sync.Mutex
	last uint64 // guarded by mu
}

// New returns the next id at time now.
func (g *IDs) New(now time.Time) ID {
	var r [4]byte
	rand.Read(r[:]) // never fails (crypto/rand since Go 1.24)
	n := uint64(now.UnixMilli())<<20 | uint64(binary.BigEndian.Uint32(r[:])>>13)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = max(n, g.last+1)
	return formatID(g.last)
}

func formatID(n uint64) ID {
	var b [13]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = idAlphabet[n&31]
		n >>= 5
	}
	return ID(b[:])
}

// Valid reports whether s has the form of an id, so that what a person or a
// peer typed can be looked up or refused without being printed.
func (id ID) Valid() bool {
	if len(id) != 13 {
		return false
	}
	for _, c := range []byte(id) {
		if strings.IndexByte(idAlphabet, c) < 0 {
			return false
		}
	}
	return true
}

// EnvelopeIDOf names the n-th envelope of a message.
func EnvelopeIDOf(m ID, n int) EnvelopeID { return EnvelopeID(fmt.Sprintf("%s.%d", m, n)) }

// Message returns the id of the message the envelope belongs to.
func (e EnvelopeID) Message() ID {
	m, _, _ := strings.Cut(string(e), ".")
	return ID(m)
}
