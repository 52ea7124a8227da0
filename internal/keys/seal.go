package keys

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
)

// A sealed value is a header, bound to what follows, and AES-256-GCM with its
// random nonce in front:
//
//	version(1) kind(1) epoch(4, big endian) nonce(12) ciphertext tag(16)
//
// A sealed body has version(1) and then chunks of nonce, at most 64 KiB of
// ciphertext, and tag; every chunk but the last is full.
const (
	version    = 1
	headerSize = 6
	overhead   = 12 + 16 // nonce and tag
	chunkSize  = 64 << 10

	kindMail   = 'm'
	kindRecord = 'r'
	kindPickup = 'p'
)

type header [headerSize]byte

func newHeader(kind byte, e Epoch) (h header) {
	h[0], h[1] = version, kind
	binary.BigEndian.PutUint32(h[2:], uint32(e))
	return h
}

func readHeader(sealed []byte) (kind byte, e Epoch, err error) {
	if len(sealed) < headerSize+overhead || sealed[0] != version {
		return 0, 0, fmt.Errorf("%w: not a sealed value of version %d", ErrDamaged, version)
	}
	return sealed[1], Epoch(binary.BigEndian.Uint32(sealed[2:])), nil
}

// bind joins header and the caller's additional data.
func bind(h, aad []byte) []byte {
	return append(append(make([]byte, 0, len(h)+len(aad)), h...), aad...)
}

func seal(a cipher.AEAD, h header, aad, plain []byte) []byte {
	out := append(make([]byte, 0, headerSize+overhead+len(plain)), h[:]...)
	return a.Seal(out, nil, plain, bind(h[:], aad))
}

func open(a cipher.AEAD, aad, sealed []byte) ([]byte, error) {
	plain, err := a.Open(nil, nil, sealed[headerSize:], bind(sealed[:headerSize], aad))
	if err != nil {
		return nil, fmt.Errorf("%w: a sealed value does not open", ErrDamaged)
	}
	return plain, nil
}

// SealMail seals under today's epoch key, which is destroyed one day. Its errors
// are of the file system, at the first seal of a day.
func (r *Ring) SealMail(aad, plain []byte) ([]byte, error) {
	k, err := r.current()
	if err != nil {
		return nil, err
	}
	return seal(k.mail, newHeader(kindMail, k.epoch), aad, plain), nil
}

// SealRecord seals under the long-lived record key.
func (r *Ring) SealRecord(aad, plain []byte) ([]byte, error) {
	e := EpochOf(r.clock())
	a := r.recordOf(e)
	r.days.LoadOrStore(e, a)
	return seal(a, newHeader(kindRecord, e), aad, plain), nil
}

// Open opens what SealMail and SealRecord sealed with the same aad. It returns
// ErrShredded when the epoch key was destroyed, ErrDamaged for anything else.
func (r *Ring) Open(aad, sealed []byte) ([]byte, error) {
	kind, e, err := readHeader(sealed)
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindMail:
		k, err := r.of(e)
		if err != nil {
			return nil, err
		}
		return open(k.mail, aad, sealed)
	case kindRecord:
		a := r.recordOf(e)
		plain, err := open(a, aad, sealed)
		if err == nil { // only real days are kept
			r.days.LoadOrStore(e, a)
		}
		return plain, err
	}
	return nil, fmt.Errorf("%w: not a sealed value", ErrDamaged)
}

// Index is a keyed hash for look-ups: equal values in one space have equal
// hashes, and nobody without the index key can test a guess.
func (r *Ring) Index(space, value string) (sum [16]byte) {
	h := r.index.Get().(hash.Hash)
	defer r.index.Put(h)
	h.Reset()
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(space)+len(value)), uint16(len(space)))
	h.Write(append(append(b, space...), value...))
	copy(sum[:], h.Sum(b[:0]))
	return sum
}

// SealBody seals a body under a fresh key and returns that key, 32 bytes.
func (r *Ring) SealBody(aad, plain []byte) (sealed, key []byte, err error) {
	k := newKey()
	a := newAEAD(k)
	chunks := max(1, (len(plain)+chunkSize-1)/chunkSize)
	sealed = append(make([]byte, 0, 1+len(plain)+chunks*overhead), version)
	for n := range chunks {
		part := plain[n*chunkSize : min(len(plain), (n+1)*chunkSize)]
		sealed = a.Seal(sealed, nil, part, chunkAAD(aad, n, n == chunks-1))
	}
	return sealed, k.raw()[:], nil
}

// OpenBody opens a body with the key that SealBody gave. Chunks that were
// altered, dropped, moved or cut off are ErrDamaged.
func (r *Ring) OpenBody(key, aad, sealed []byte) ([]byte, error) {
	k, err := keyOf(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < 1+overhead || sealed[0] != version {
		return nil, fmt.Errorf("%w: not a sealed body of version %d", ErrDamaged, version)
	}
	a, rest := newAEAD(k), sealed[1:]
	plain := make([]byte, 0, len(rest))
	for n := 0; ; n++ {
		part := rest[:min(len(rest), chunkSize+overhead)]
		rest = rest[len(part):]
		if plain, err = a.Open(plain, nil, part, chunkAAD(aad, n, len(rest) == 0)); err != nil {
			return nil, fmt.Errorf("%w: chunk %d of a body does not open", ErrDamaged, n)
		}
		if len(rest) == 0 {
			return plain, nil
		}
	}
}

// chunkAAD is id | n | last.
func chunkAAD(aad []byte, n int, last bool) []byte {
	b := append(make([]byte, 0, len(aad)+6), version)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	if last {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return append(b, aad...)
}

const minSecret = 16 // bytes of a link's secret; the portal makes 24

// WrapPickup wraps a body key so that it takes today's epoch key, the link's
// secret (at least 16 bytes) and the PIN, if any, to open it. A PIN costs a
// PBKDF2 of about 0.1 s.
func (r *Ring) WrapPickup(aad, secret []byte, pin string, key []byte) ([]byte, error) {
	k, err := r.current()
	if err != nil {
		return nil, err
	}
	a, err := r.pickup(k.key, aad, secret, pin)
	if err != nil {
		return nil, err
	}
	return seal(a, newHeader(kindPickup, k.epoch), aad, key), nil
}

// UnwrapPickup returns the body key. A wrong secret, PIN or id is ErrDamaged;
// which of them cannot be told.
func (r *Ring) UnwrapPickup(aad, secret []byte, pin string, wrapped []byte) ([]byte, error) {
	kind, e, err := readHeader(wrapped)
	if err != nil {
		return nil, err
	}
	if kind != kindPickup {
		return nil, fmt.Errorf("%w: not a wrapped body key", ErrDamaged)
	}
	k, err := r.of(e)
	if err != nil {
		return nil, err
	}
	a, err := r.pickup(k.key, aad, secret, pin)
	if err != nil {
		return nil, err
	}
	return open(a, aad, wrapped)
}

// pickup derives HKDF-SHA256(salt = aad, ikm = epoch key | secret |
// stretched PIN). The info tells both forms apart, for a secret has no fixed length.
func (r *Ring) pickup(epoch Key, aad, secret []byte, pin string) (cipher.AEAD, error) {
	if len(secret) < minSecret {
		return nil, fmt.Errorf("%w: a link's secret has at least %d bytes", ErrDamaged, minSecret)
	}
	ikm := bind(epoch.raw()[:], secret)
	info := "pickup/v1"
	if pin != "" {
		salt := sha256.Sum256(append([]byte("phigate pin 1 "), aad...))
		stretched, err := pbkdf2.Key(sha256.New, pin, salt[:], r.rounds, size)
		if err != nil {
			return nil, fmt.Errorf("keys: stretch PIN: %w", err)
		}
		ikm, info = append(ikm, stretched...), "pickup/v1 pin"
	}
	b, err := hkdf.Key(sha256.New, ikm, aad, info, size)
	if err != nil {
		return nil, fmt.Errorf("keys: pickup key: %w", err)
	}
	return newAEAD(hide([size]byte(b))), nil
}
