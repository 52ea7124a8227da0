//go:build e2e

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/phigate/phigate/testdata/campaign"
)

// The demo needs no root, no network and nothing but the binary, and every mail
// of the sample campaign ends as its list says.
func TestDemoNeedsNothing(t *testing.T) {
	sample, err := campaign.Load()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(os.Getenv("E2E_GATEWAY"))
	if err != nil {
		t.Fatal(err)
	}
	alone := base + "/alone/gateway" // nobody may not reach into root's folders
	if err := errors.Join(os.MkdirAll(base+"/alone", 0o755), os.WriteFile(alone, binary, 0o755)); err != nil {
		t.Fatal(err)
	}
	// In a network of its own, without even the peers, as a user without rights.
	cmd := exec.Command("sh", "-c", "ip link set lo up && exec setpriv --reuid nobody --regid nogroup --clear-groups --bounding-set -all "+
		"env -i HOME=/nonexistent "+alone+" demo")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, text, _ := strings.Cut(string(out), "\n")
	for _, m := range sample.Mails {
		_, after, found := strings.Cut(text, m.Title)
		if !found {
			t.Errorf("%s is not shown", m.File)
			continue
		}
		for _, r := range m.To {
			line := lineOf(after, r.Address)
			if !strings.Contains(line, r.Ends) || !strings.Contains(line, r.Code) {
				t.Errorf("%s: %q, want %s %s", m.File, strings.TrimSpace(line), r.Ends, r.Code)
			}
			if r.Ends == "delivered" && r.Assurance != "none" && !strings.Contains(line, r.Assurance) {
				t.Errorf("%s: %q, want assurance %s", m.File, strings.TrimSpace(line), r.Assurance)
			}
			if len([]rune(strings.TrimRight(line, "\n"))) > 100 {
				t.Errorf("%s: wider than 100 columns: %q", m.File, line)
			}
		}
	}
	if !strings.Contains(text, "audit") {
		t.Error("the audit log is not verified")
	}
}

func lineOf(text, address string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, address) {
			return line
		}
	}
	return ""
}
