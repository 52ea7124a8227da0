package bolt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/phigate/phigate/internal/store"
)

// testRing seals for real, with the standard library only: AES-256-GCM, an epoch
// key that can be destroyed, HMAC for look-ups.
type testRing struct {
	record, index []byte
	mu            sync.RWMutex
	epochs        [][]byte // nil = destroyed
}

func newRing() *testRing {
	r := &testRing{record: random(), index: random()}
	r.shred()
	return r
}

func random() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}

// shred destroys every epoch key and begins a new epoch.
func (r *testRing) shred() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.epochs)
	r.epochs = append(r.epochs, random())
}

func gcm(key []byte) cipher.AEAD {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	a, err := cipher.NewGCMWithRandomNonce(b)
	if err != nil {
		panic(err)
	}
	return a
}

const recordEpoch = 255

func (r *testRing) key(epoch byte) ([]byte, error) {
	if epoch == recordEpoch {
		return r.record, nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if int(epoch) >= len(r.epochs) {
		return nil, errors.New("no such epoch")
	}
	if r.epochs[epoch] == nil {
		return nil, fmt.Errorf("ring: %w", store.ErrShredded)
	}
	return r.epochs[epoch], nil
}

func (r *testRing) now() byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return byte(len(r.epochs) - 1)
}

func (r *testRing) seal(epoch byte, aad, plain []byte) ([]byte, error) {
	k, err := r.key(epoch)
	if err != nil {
		return nil, err
	}
	return gcm(k).Seal([]byte{epoch}, nil, plain, aad), nil
}

func (r *testRing) SealMail(aad, plain []byte) ([]byte, error) { return r.seal(r.now(), aad, plain) }
func (r *testRing) SealRecord(aad, plain []byte) ([]byte, error) {
	return r.seal(recordEpoch, aad, plain)
}

func (r *testRing) Open(aad, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 {
		return nil, errors.New("nothing sealed")
	}
	k, err := r.key(sealed[0])
	if err != nil {
		return nil, err
	}
	return gcm(k).Open(nil, nil, sealed[1:], aad)
}

func (r *testRing) Index(space, value string) (d [16]byte) {
	m := hmac.New(sha256.New, r.index)
	fmt.Fprintf(m, "%d %s %s", len(space), space, value)
	copy(d[:], m.Sum(nil))
	return d
}

func (r *testRing) SealBody(aad, plain []byte) (sealed, key []byte, err error) {
	key = random()
	return gcm(key).Seal(nil, nil, plain, aad), key, nil
}

func (r *testRing) OpenBody(key, aad, sealed []byte) ([]byte, error) {
	return gcm(key).Open(nil, nil, sealed, aad)
}

func (r *testRing) pickupKey(epoch byte, secret []byte, pin string) ([]byte, error) {
	k, err := r.key(epoch)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, append(append([]byte{}, k...), secret...), []byte(pin), "pickup", 32)
}

func (r *testRing) WrapPickup(aad, secret []byte, pin string, key []byte) ([]byte, error) {
	e := r.now()
	k, err := r.pickupKey(e, secret, pin)
	if err != nil {
		return nil, err
	}
	return gcm(k).Seal([]byte{e}, nil, key, aad), nil
}

func (r *testRing) UnwrapPickup(aad, secret []byte, pin string, wrapped []byte) ([]byte, error) {
	k, err := r.pickupKey(wrapped[0], secret, pin)
	if err != nil {
		return nil, err
	}
	return gcm(k).Open(nil, nil, wrapped[1:], aad)
}

// hashTree is a tree hash that needs every earlier hash in place: a chain.
func hashTree(n int64, record []byte, read func([]int64) ([][32]byte, error)) ([][32]byte, error) {
	h := sha256.New()
	if n > 0 {
		before, err := read([]int64{n - 1})
		if err != nil {
			return nil, err
		}
		h.Write(before[0][:])
	}
	h.Write(record)
	return [][32]byte{[32]byte(h.Sum(nil))}, nil
}
