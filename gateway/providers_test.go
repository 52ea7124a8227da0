package gateway

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phigate/phigate/tlscheck"
)

func TestProvidersAreKnownByTheirBestHosts(t *testing.T) {
	shaping, err := loadShaping("")
	if err != nil {
		t.Fatal(err)
	}
	p := newProviders()
	p.reshape(shaping)
	if got := p.site("clinic.example"); got != "clinic.example" {
		t.Errorf("an unknown domain is part of %s", got)
	}
	p.learn(tlscheck.Posture{Domain: "clinic.example", MX: []tlscheck.MXPlan{
		{Host: "aspmx.l.google.com", Pref: 1}, {Host: "backup.isp.example", Pref: 5}}})
	p.learn(tlscheck.Posture{Domain: "failed.example"})
	if got := p.site("clinic.example"); got != "google" {
		t.Errorf("hosted by Google, and part of %s", got)
	}
	file := filepath.Join(t.TempDir(), "shaping.yaml")
	if err := os.WriteFile(file, []byte("version: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if shaping, err = loadShaping(file); err != nil {
		t.Fatal(err)
	}
	p.reshape(shaping)
	if got := p.site("clinic.example"); got != "google.com" {
		t.Errorf("without providers it is part of %s", got)
	}
	for i := range maxHosted + 1 {
		p.learn(tlscheck.Posture{Domain: fmt.Sprintf("d%d.example", i), MX: []tlscheck.MXPlan{{Host: "mx.example"}}})
	}
	if len(p.hosted) > maxHosted {
		t.Errorf("%d domains remembered", len(p.hosted))
	}
	if err := os.WriteFile(file, []byte("version: 1\nprovider: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadShaping(file); err == nil || !strings.Contains(err.Error(), "shaping.yaml:2:1") {
		t.Errorf("a bad file: %v", err)
	}
}
