package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/phigate/phigate/configs"
	"github.com/phigate/phigate/internal/keys"
)

// certificateFor is how long the certificate that Init makes is valid.
const certificateFor = 825 * 24 * time.Hour

// Init writes a site into dir: gateway.yaml, policy.yaml with its tests,
// shaping.yaml, the schemas of these, a root key and a self-signed certificate for host. It
// overwrites nothing; what exists already is an error, and then nothing is written.
func Init(dir, host string, now time.Time) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cert, key, err := selfSigned(host, now)
	if err != nil {
		return err
	}
	config := configs.Gateway
	if strings.Contains(host, ".") { // a bare machine name is no name for greetings
		config = bytes.ReplaceAll(config, []byte("hostname: gateway.valleyclinic.example"), []byte("hostname: "+host))
	}
	files := []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{"gateway.yaml", config, 0o644},
		{"gateway.schema.json", configs.GatewaySchema, 0o644},
		{"policy.yaml", configs.Policy, 0o644},
		{"policy.schema.json", configs.PolicySchema, 0o644},
		{"policy_test.yaml", configs.PolicyTest, 0o644},
		{"shaping.yaml", configs.Shaping, 0o644},
		{"shaping.schema.json", configs.ShapingSchema, 0o644},
		{"tls.crt", cert, 0o644},
		{"tls.key", key, 0o600},
	}
	names := []string{"root.key"}
	for _, f := range files {
		names = append(names, f.name)
	}
	if err := refuseExisting(dir, names); err != nil {
		return err
	}
	for _, f := range files {
		if err := writeNew(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	return keys.CreateRoot(filepath.Join(dir, "root.key"))
}

func refuseExisting(dir string, names []string) error {
	var errs []error
	for _, n := range names {
		if _, err := os.Lstat(filepath.Join(dir, n)); err == nil {
			errs = append(errs, fmt.Errorf("%s exists already; init overwrites nothing", filepath.Join(dir, n)))
		}
	}
	return errors.Join(errs...)
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// selfSigned makes a certificate that lets a site start before it has a real one.
func selfSigned(host string, now time.Time) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateFor),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}
