//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The addresses of the peers, each with port 25.
const (
	postfixGood    = "127.0.1.1"
	postfixWeak    = "127.0.1.2"
	postfixExpired = "127.0.1.3"
	eximGood       = "127.0.2.1"
	eximSelf       = "127.0.2.2"
	openClear      = "127.0.3.1"
	openBroken     = "127.0.3.2"
	policyHost     = "127.0.4.1"
)

// mailDomain is a recipient domain of the bed.
type mailDomain struct {
	name    string
	address string // of its one MX, mx.<name>
	grade   string // what posttls-finger must say of it at level secure, or dane if signed
}

// domains are below three zones: signed.test, open.test (no DNSSEC) and
// bogus.test (spoiled after signing).
var domains = []mailDomain{
	{"dane.signed.test", postfixGood, "Verified"},
	{"wrong.signed.test", postfixGood, "Untrusted"}, // its TLSA names another key
	{"sts.open.test", eximGood, "Verified"},
	{"web.open.test", eximGood, "Verified"},
	{"self.open.test", eximSelf, "Untrusted"},
	{"expired.open.test", postfixExpired, "Untrusted"},
	{"weak.open.test", postfixWeak, "failed"},
	{"clear.open.test", openClear, "none"},
	{"broken.open.test", openBroken, "failed"},
	{"broken.bogus.test", postfixGood, "unresolved"},
}

func domainsAt(addresses ...string) []string {
	var names []string
	for _, d := range domains {
		for _, a := range addresses {
			if d.address == a {
				names = append(names, d.name)
			}
		}
	}
	return names
}

// testbed is all peers, running.
type testbed struct {
	pki  *pki
	logs []string
}

func startBed(ctx context.Context) (*testbed, error) {
	b := &testbed{}
	var err error
	if b.pki, err = newPKI(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(base+"/mail", 0o755); err != nil {
		return nil, err
	}
	if err := os.Chown(base+"/mail", keeperID, keeperID); err != nil {
		return nil, err
	}
	for _, peer := range []struct {
		name  string
		start func(context.Context) error
	}{
		{"DNS", b.startDNS}, {"Postfix", b.startPostfix}, {"Exim", b.startExim},
		{"OpenSMTPD", b.startOpenSMTPD}, {"policy host", b.startPolicyHost},
	} {
		if err := peer.start(ctx); err != nil {
			b.dumpLogs(os.Stderr)
			return nil, fmt.Errorf("%s: %w", peer.name, err)
		}
	}
	return b, nil
}

// daemon starts a program in the foreground that lasts as long as ctx. Its
// output goes to base/log/<name>.
func (b *testbed) daemon(ctx context.Context, name, program string, args ...string) error {
	log, err := b.log(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait(); log.Close() }()
	return nil
}

func (b *testbed) log(name string) (*os.File, error) {
	path := filepath.Join(base, "log", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	b.logs = append(b.logs, path)
	return os.Create(path)
}

// dumpLogs writes the end of each log.
func (b *testbed) dumpLogs(w io.Writer) {
	for _, path := range b.logs {
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(w, "== %s\n%s\n", path, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// listening waits until an address takes connections and, for port 25, greets.
func listening(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if greets(ctx, addr) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer", addr)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func greets(ctx context.Context, addr string) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	if !strings.HasSuffix(addr, ":25") {
		return true
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	line := make([]byte, 3)
	_, err = io.ReadFull(conn, line)
	return err == nil && string(line) == "220"
}

// mailbox waits until a domain's maildir holds n mails with a mark in them.
func mailbox(ctx context.Context, domain, mark string, n int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		texts := marked(domain, mark)
		if len(texts) >= n {
			return texts, nil
		}
		select {
		case <-ctx.Done():
			return texts, fmt.Errorf("%d of %d mails for %s", len(texts), n, domain)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func marked(domain, mark string) []string {
	var texts []string
	files, _ := filepath.Glob(filepath.Join(base, "mail", domain, "new", "*"))
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), mark) {
			texts = append(texts, string(b))
		}
	}
	return texts
}
