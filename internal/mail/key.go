package mail

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// ErrKey is returned when a DKIM key cannot be read, or is neither RSA of at
// least 2048 bits nor Ed25519 (RFC 8301 §3.2, RFC 8463; NIST SP 800-177r1).
var ErrKey = errors.New("mail: not a usable DKIM key")

// Algorithm of a DKIM key, as its a= and k= tags name it.
type Algorithm string

const (
	RSA     Algorithm = "rsa"     // RSA-2048; what every receiver checks
	Ed25519 Algorithm = "ed25519" // RFC 8463
)

// Key signs for one domain under one selector. It prints as [key].
type Key struct {
	Domain   string // A-labels, lower case
	Selector string
	Signer   crypto.Signer // *rsa.PrivateKey, ed25519.PrivateKey, or one kept elsewhere
}

// Format keeps keys out of logs and errors under every verb.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[key]") }

// MarshalText keeps keys out of JSON and slog.
func (k Key) MarshalText() ([]byte, error) { return []byte("[key]"), nil }

// NewKey makes a fresh key.
func NewKey(a Algorithm, domain, selector string) (Key, error) {
	var signer crypto.Signer
	var err error
	switch a {
	case RSA:
		signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case Ed25519:
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = ErrKey
	}
	if err != nil {
		return Key{}, err
	}
	return checked(Key{domain, selector, signer})
}

// ParseKey reads a PKCS #8 key in PEM, as MarshalPEM writes it.
func ParseKey(domain, selector string, text []byte) (Key, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return Key{}, fmt.Errorf("%w: no PEM block PRIVATE KEY", ErrKey)
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return Key{}, fmt.Errorf("%w: it cannot sign", ErrKey)
	}
	return checked(Key{domain, selector, signer})
}

// MarshalPEM writes the private key as PKCS #8 in PEM. Only keys that lie in
// memory can be written.
func (k Key) MarshalPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.Signer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// checked returns k if it may sign, with its names settled.
func checked(k Key) (Key, error) {
	domain, err := ASCIIDomain(k.Domain)
	if err != nil {
		return Key{}, fmt.Errorf("%w: domain", ErrKey)
	}
	selector, err := ASCIIDomain(k.Selector)
	if err != nil {
		return Key{}, fmt.Errorf("%w: selector", ErrKey)
	}
	k.Domain, k.Selector = domain, selector
	if _, _, err := k.public(); err != nil {
		return Key{}, err
	}
	return k, nil
}

// public returns the k= and p= of the key's record.
func (k Key) public() (Algorithm, []byte, error) {
	if k.Signer == nil {
		return "", nil, fmt.Errorf("%w: none given", ErrKey)
	}
	switch p := k.Signer.Public().(type) {
	case ed25519.PublicKey:
		return Ed25519, p, nil // the bare 32 bytes, RFC 8463 §4.2
	case *rsa.PublicKey:
		if p.N.BitLen() < 2048 {
			return "", nil, fmt.Errorf("%w: RSA below 2048 bits", ErrKey)
		}
		der, err := x509.MarshalPKIXPublicKey(p)
		return RSA, der, err
	}
	return "", nil, fmt.Errorf("%w: neither RSA nor Ed25519", ErrKey)
}

// DNSRecord returns the line to put into the zone, its text cut into strings of
// at most 255 bytes (RFC 1035 §3.3.14, RFC 6376 §3.6.2.2).
func (k Key) DNSRecord() (string, error) {
	algorithm, public, err := k.public()
	if err != nil {
		return "", err
	}
	text := "v=DKIM1; k=" + string(algorithm) + "; p=" + base64.StdEncoding.EncodeToString(public)
	line := k.Selector + "._domainkey." + k.Domain + ". TXT"
	const longest = 255
	for len(text) > 0 {
		n := min(len(text), longest)
		line += ` "` + text[:n] + `"`
		text = text[n:]
	}
	return strings.TrimSpace(line), nil
}
