//go:build e2e

package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// pki is the authority of the bed. Its certificate is base/pki/roots.pem.
type pki struct {
	cert  *x509.Certificate
	key   crypto.Signer
	roots string
}

// pair is a certificate with its key, as files and in memory.
type pair struct {
	cert, key string
	tls       tls.Certificate
}

// tlsa is the data of a "3 1 1" record for the pair (RFC 6698 §2.1).
func (p pair) tlsa() string {
	sum := sha256.Sum256(p.tls.Leaf.RawSubjectPublicKeyInfo)
	return fmt.Sprintf("3 1 1 %x", sum)
}

func newPKI() (*pki, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("E2E Root", time.Hour*24)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	p := &pki{key: key}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	p.roots, err = write("pki/roots.pem", block("CERTIFICATE", der))
	return p, err
}

// kind of certificate to issue.
type kind struct {
	self    bool
	expired bool
	weak    bool // RSA-1024
}

// issue makes the certificate of a server for the MX of its domains.
func (p *pki) issue(name string, k kind, hosts ...string) (pair, error) {
	life := 24 * time.Hour
	if k.expired {
		life = -24 * time.Hour
	}
	t := template(hosts[0], life)
	t.DNSNames = hosts
	bits := 2048
	if k.weak {
		bits = 1024
	}
	// RSA, because Exim's GnuTLS and every old peer take it without asking.
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return pair{}, err
	}
	parent, signer := p.cert, p.key
	if k.self {
		parent, signer = t, crypto.Signer(key)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return pair{}, err
	}
	return files(name, der, key)
}

func files(name string, der []byte, key crypto.Signer) (pair, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return pair{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair{}, err
	}
	out := pair{
		key: filepath.Join(base, "pki", name+".key"),
		tls: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
	}
	if out.cert, err = write("pki/"+name+".crt", block("CERTIFICATE", der)); err != nil {
		return pair{}, err
	}
	return out, os.WriteFile(out.key, []byte(block("PRIVATE KEY", pkcs8)), 0o600)
}

func template(name string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-48 * time.Hour),
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// mxOf lists the MX names of the domains at the addresses.
func mxOf(addresses ...string) []string {
	var hosts []string
	for _, d := range domainsAt(addresses...) {
		hosts = append(hosts, "mx."+d)
	}
	return hosts
}
