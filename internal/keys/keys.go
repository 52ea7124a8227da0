// Package keys is the key ring: it seals what the gateway stores and can shred
// it again.
//
// A [Root] key, best kept outside the data folder, wraps the keys of a [Ring]:
// one epoch key a day for mail, a record key for what lives longer, an index
// key for look-ups. [Open] reads them, [Ring.Rotate] wraps them anew under
// another root without touching what they sealed, and [Ring.Destroy] shreds all
// mail of one day at once.
//
// All cryptography is the standard library's and works with
// GODEBUG=fips140=only: AES-256-GCM with random nonces, HKDF, HMAC and PBKDF2
// with SHA-256.
package keys

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

var (
	// ErrWrongRoot is returned when the root key does not open the ring: it is
	// another key, or the file is damaged. Nothing was changed.
	ErrWrongRoot = errors.New("keys: the root key does not open this key ring")
	// ErrDamaged is returned when a key file is missing or unreadable, or a
	// sealed value was altered or belongs elsewhere.
	ErrDamaged = errors.New("keys: damaged")
	// ErrShredded is returned when the epoch key that a value needs was
	// destroyed. It is also the storage contract's error of the same name.
	ErrShredded error = shredded{}
	// ErrEpoch is returned by Destroy for a day that is not over or has no key.
	ErrEpoch = errors.New("keys: no such epoch, or its day is not over")
)

// shredded equals store.ErrShredded by its text: both packages are on one
// floor, so neither may import the other.
type shredded struct{}

func (shredded) Error() string       { return "store: key destroyed" }
func (s shredded) Is(err error) bool { return err.Error() == s.Error() }

// size of every key, in bytes: AES-256.
const size = 32

// Key is a secret key. It prints as [key] under every verb, in slog and in
// JSON. The bytes lie in a closure: fmt cannot call the methods of unexported
// fields, and follows pointers under a verb that does not suit them.
type Key struct{ raw func() *[size]byte }

func hide(b [size]byte) Key { return Key{func() *[size]byte { return &b }} }

const hidden = "[key]"

// Format prints [key].
func (Key) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

// LogValue logs [key].
func (Key) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText writes [key], in JSON too.
func (Key) MarshalText() ([]byte, error) { return []byte(hidden), nil }

func newKey() Key {
	var b [size]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hide(b)
}

func keyOf(b []byte) (Key, error) {
	if len(b) != size {
		return Key{}, fmt.Errorf("%w: a key of %d bytes, want %d", ErrDamaged, len(b), size)
	}
	return hide([size]byte(b)), nil
}

// derive gives a key for one purpose, so that no key is used for two.
func (k Key) derive(info string) Key {
	b, err := hkdf.Key(sha256.New, k.raw()[:], nil, info, size)
	if err != nil {
		panic("keys: hkdf: " + err.Error()) // only for impossible lengths
	}
	return hide([size]byte(b))
}

// Epoch is the UTC day whose mail a key seals, in days since 1970-01-01.
type Epoch uint32

const day = 24 * time.Hour

// EpochOf is the epoch of a time.
func EpochOf(t time.Time) Epoch { return Epoch(t.Unix() / int64(day/time.Second)) }

// ParseEpoch reads a day as 2006-01-02.
func ParseEpoch(s string) (Epoch, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || t.Unix() < 0 {
		return 0, errors.New("keys: an epoch is a day such as 2026-11-24")
	}
	return EpochOf(t), nil
}

// Day is when the epoch begins.
func (e Epoch) Day() time.Time { return time.Unix(int64(e)*int64(day/time.Second), 0).UTC() }

func (e Epoch) String() string { return e.Day().Format(time.DateOnly) }
