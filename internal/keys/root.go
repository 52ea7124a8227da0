package keys

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Root wraps the keys of a ring. It is called when the ring is opened, rotated,
// or starts a new day, never per message, so it may be a slow or remote one.
type Root interface {
	// ID names the root key without saying anything about it.
	ID() string
	Wrap(ctx context.Context, key, aad []byte) ([]byte, error)
	// Unwrap returns ErrWrongRoot when id is another root's or wrapped does not open.
	Unwrap(ctx context.Context, id string, wrapped, aad []byte) ([]byte, error)
}

const rootPrefix = "phigate-root-1:"

// CreateRoot writes a new root key to path, mode 0400. It never overwrites.
func CreateRoot(path string) error {
	k := newKey()
	text := rootPrefix + base64.StdEncoding.EncodeToString(k.raw()[:]) + "\n"
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return fmt.Errorf("keys: create root key: %w", err)
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("keys: create root key: %w", err)
	}
	return nil
}

// FileRoot reads a root key made by CreateRoot. Only its owner may be able to
// read the file.
func FileRoot(path string) (Root, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	return parseRoot(path, text)
}

// CredentialRoot reads a root key made by CreateRoot from the systemd credential
// of that name (LoadCredentialEncrypted= in the unit; systemd.exec(5)).
func CredentialRoot(name string) (Root, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	switch {
	case dir == "":
		return nil, fmt.Errorf("keys: root credential %q: $CREDENTIALS_DIRECTORY is not set; name it in the unit: LoadCredentialEncrypted=%s:FILE", name, name)
	case name == "" || name != filepath.Base(name):
		return nil, fmt.Errorf("keys: root credential %q: not a plain name", name)
	}
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("keys: root credential: %w", err)
	}
	return parseRoot(path, text)
}

// readPrivate reads a file that holds a secret and refuses one that others can read.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("keys: root key: %w", err)
	}
	if p := info.Mode().Perm(); p&0o077 != 0 {
		return nil, fmt.Errorf("keys: root key: %s can be read by others (mode %04o); run: chmod 0400 %s: %w", path, p, path, fs.ErrPermission)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("keys: root key: %w", err)
	}
	return text, nil
}

func parseRoot(path string, text []byte) (Root, error) {
	s, ok := strings.CutPrefix(strings.TrimSpace(string(text)), rootPrefix)
	b, err := base64.StdEncoding.DecodeString(s)
	if !ok || err != nil || len(b) != size {
		return nil, fmt.Errorf("%w: %s is no root key: it has one line, %q and %d bytes in base64", ErrDamaged, path, rootPrefix, size)
	}
	k, _ := keyOf(b)
	id := k.derive("phigate root id")
	return keyRoot{"file-" + hex.EncodeToString(id.raw()[:8]), newAEAD(k.derive("phigate root wrap"))}, nil
}

// keyRoot is a root key held in memory.
type keyRoot struct {
	id   string
	aead cipher.AEAD
}

// Format keeps the cipher, which holds the key, from being printed.
func (r keyRoot) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

func (r keyRoot) ID() string { return r.id }

func (r keyRoot) Wrap(_ context.Context, key, aad []byte) ([]byte, error) {
	return r.aead.Seal(nil, nil, key, aad), nil
}

func (r keyRoot) Unwrap(_ context.Context, id string, wrapped, aad []byte) ([]byte, error) {
	if id != r.id {
		return nil, fmt.Errorf("%w: it was wrapped by %s, this is %s", ErrWrongRoot, id, r.id)
	}
	return openRoot(r.aead, wrapped, aad)
}

func openRoot(a cipher.AEAD, wrapped, aad []byte) ([]byte, error) {
	key, err := a.Open(nil, nil, wrapped, aad)
	if err != nil {
		return nil, ErrWrongRoot
	}
	return key, nil
}

const (
	rounds        = 600_000 // PBKDF2-HMAC-SHA-256, as the OWASP password cheat sheet asks
	saltSize      = 16      // SP 800-132 §5.1
	minPassphrase = 16      // characters
)

// PassphraseRoot reads a passphrase of at least 16 characters from a file that
// only its owner can read; line ends around it do not count.
func PassphraseRoot(path string) (Root, error) {
	text, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	phrase := strings.Trim(string(text), "\r\n")
	if len([]rune(phrase)) < minPassphrase {
		return nil, fmt.Errorf("keys: root key: the passphrase in %s is shorter than %d characters", path, minPassphrase)
	}
	return &phraseRoot{phrase: func() string { return phrase }, rounds: rounds, bySalt: map[[saltSize]byte]cipher.AEAD{}}, nil
}

// phraseRoot wraps as salt || sealed key. One salt serves all keys it wraps, so
// that opening a ring of many epochs derives once.
type phraseRoot struct {
	phrase func() string // a closure, which fmt cannot print
	rounds int
	mu     sync.Mutex
	salt   *[saltSize]byte
	bySalt map[[saltSize]byte]cipher.AEAD
}

func (r *phraseRoot) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

func (r *phraseRoot) ID() string { return "passphrase" }

// under returns the cipher for a salt; call it with mu held.
func (r *phraseRoot) under(salt [saltSize]byte) (cipher.AEAD, error) {
	if a, ok := r.bySalt[salt]; ok {
		return a, nil
	}
	b, err := pbkdf2.Key(sha256.New, r.phrase(), salt[:], r.rounds, size)
	if err != nil {
		return nil, fmt.Errorf("keys: root passphrase: %w", err)
	}
	a := newAEAD(hide([size]byte(b)))
	r.bySalt[salt] = a
	return a, nil
}

func (r *phraseRoot) Wrap(_ context.Context, key, aad []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.salt == nil {
		r.salt = new([saltSize]byte)
		rand.Read(r.salt[:])
	}
	a, err := r.under(*r.salt)
	if err != nil {
		return nil, err
	}
	return a.Seal(r.salt[:], nil, key, aad), nil
}

func (r *phraseRoot) Unwrap(_ context.Context, id string, wrapped, aad []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id != r.ID() || len(wrapped) < saltSize {
		return nil, fmt.Errorf("%w: it was wrapped by %s, this is %s", ErrWrongRoot, id, r.ID())
	}
	salt := [saltSize]byte(wrapped)
	a, err := r.under(salt)
	if err != nil {
		return nil, err
	}
	key, err := openRoot(a, wrapped[saltSize:], aad)
	if err == nil {
		r.salt = &salt
	}
	return key, err
}

// newAEAD is AES-256-GCM with the random nonce in front of the ciphertext.
func newAEAD(k Key) cipher.AEAD {
	b, err := aes.NewCipher(k.raw()[:])
	if err != nil {
		panic("keys: aes: " + err.Error()) // only for impossible lengths
	}
	a, err := cipher.NewGCMWithRandomNonce(b)
	if err != nil {
		panic("keys: gcm: " + err.Error())
	}
	return a
}
