package fakenet

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"sync/atomic"
	"time"
)

// authority is a certificate authority that lives as long as its Net.
type authority struct {
	clock  func() time.Time
	cert   *x509.Certificate
	key    crypto.Signer
	pool   *x509.CertPool
	pem    []byte
	serial atomic.Int64
}

func newAuthority(clock func() time.Time) (*authority, error) {
	a := &authority{clock: clock}
	key, err := newKey(P256)
	if err != nil {
		return nil, err
	}
	t := a.template("Fakenet Root")
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign
	t.ExtKeyUsage = nil
	a.key = key
	if a.cert, err = sign(t, t, key.Public(), key); err != nil {
		return nil, err
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	a.pool = x509.NewCertPool()
	a.pool.AddCert(a.cert)
	return a, nil
}

// issue makes a certificate of a kind for a host name. None has none.
func (a *authority) issue(host string, kind Cert, k Key) (*tls.Certificate, error) {
	if kind == None {
		return nil, nil
	}
	key, err := newKey(k)
	if err != nil {
		return nil, err
	}
	t := a.template(host)
	t.DNSNames = []string{host}
	parent, signer := a.cert, a.key
	switch kind {
	case SelfSigned:
		parent, signer = t, key
	case WrongName:
		t.DNSNames = []string{"other.invalid"}
	case Expired:
		t.NotBefore, t.NotAfter = a.clock().AddDate(0, -3, 0), a.clock().AddDate(0, 0, -1)
	}
	leaf, err := sign(t, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func (a *authority) template(name string) *x509.Certificate {
	now := a.clock()
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.serial.Add(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(10, 0, 0), // stories move the clock by days and weeks
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func sign(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("fakenet: certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

func newKey(k Key) (crypto.Signer, error) {
	switch k {
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA1024:
		return rsa.GenerateKey(rand.Reader, 1024)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}
