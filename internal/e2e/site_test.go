//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phigate/phigate/configs"
)

// site is a gateway under test: the built binary with a folder of its own.
type site struct {
	t      *testing.T
	binary string
	dir    string
	log    string
	cmd    *exec.Cmd
	done   chan error
}

const (
	submission = "127.0.0.1:587"
	implicit   = "127.0.0.1:465"
	trusted    = "127.0.0.1:2525" // no TLS, no login, for the record system
	portalAt   = "127.0.0.1:8443"
	password   = "correct-horse-battery-staple"
)

const siteConfig = `
hostname: gateway.clinic.test
data: data
policy: policy.yaml
keys: {root: {file: root.key}}
listen:
  - {address: "127.0.0.1:2525", tls: none, networks: [127.0.0.0/8], auth: optional}
  - {address: "127.0.0.1:587", tls: starttls, auth: required}
  - {address: "127.0.0.1:465", tls: implicit, auth: required}
certificate: {cert_file: gateway.crt, key_file: gateway.key}
delivery:
  resolver: ["127.0.0.1:53"]
  extra_roots_file: /srv/pki/roots.pem
  retry: {first: 1s, max: 5s, give_up: 1h}
portal: {address: "127.0.0.1:8443", url: "https://gateway.clinic.test:8443", phone: "+1 217 555 0142"}
`

// siteSenders stands before the shipped detection, transport and rules.
const siteSenders = `version: 1
organization: {name: Valley Clinic, kind: covered_entity, domains: [clinic.test], postal_address: "12 Main St, Springfield, IL 62701"}
senders:
  - {name: ehr, login: ehr, networks: [127.0.0.0/8], from: ["*@clinic.test"], partner: self, class: treatment_ops, audience: patients, remuneration: none}
  - {name: mailer, login: mailer, from: ["*@clinic.test"], partner: acme-mailer, class: marketing, audience: patients, remuneration: none}
  - {name: news, login: news, from: ["*@clinic.test"], partner: acme-mailer, class: general_commercial, audience: public, remuneration: none}
`

const sitePartners = `partner,role,executed_at,effective_at,expires_at,functions,document_sha256,contact,incident_contact
acme-mailer,business_associate,2024-01-05,2024-01-15,,create;receive;maintain;transmit,` +
	`0000000000000000000000000000000000000000000000000000000000000001,legal@acme.test,security@acme.test
`

// newSite sets up and starts a gateway; the test's end stops it.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, binary: os.Getenv("E2E_GATEWAY"), dir: filepath.Join(base, "site-"+strings.ToLower(t.Name()))}
	if s.binary == "" {
		t.Fatal("E2E_GATEWAY is not set: run make e2e, which builds it")
	}
	s.must("init", s.dir, "--hostname", "gateway.clinic.test")
	_, rules, found := bytes.Cut(configs.Policy, []byte("\ndetection:"))
	if !found {
		t.Fatal("the shipped policy has no detection section")
	}
	cert, err := bed.pki.issue("gateway", kind{}, "gateway.clinic.test")
	if err != nil {
		t.Fatal(err)
	}
	crt, _ := os.ReadFile(cert.cert)
	key, _ := os.ReadFile(cert.key)
	for name, text := range map[string]string{
		"gateway.yaml": siteConfig, "policy.yaml": siteSenders + "detection:" + string(rules),
		"policy_test.yaml": "", "partners.csv": sitePartners, "gateway.crt": string(crt), "gateway.key": string(key),
	} {
		path := filepath.Join(s.dir, name)
		if text == "" {
			os.Remove(path)
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	t.Cleanup(s.stop)
	s.must("partner", "import", filepath.Join(s.dir, "partners.csv"))
	for _, sender := range []string{"ehr", "mailer", "news"} {
		s.input(password+"\n", "sender", "password", sender)
	}
	return s
}

// start runs gateway serve and waits until it takes mail.
func (s *site) start() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "serve.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	s.log = log.Name()
	s.cmd = exec.Command(s.binary, "serve", "-c", s.dir+"/gateway.yaml")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	log.Close()
	s.done = make(chan error, 1)
	go func() { s.done <- s.cmd.Wait() }()
	for _, addr := range []string{submission, implicit, trusted} {
		if err := listening(s.t.Context(), addr); err != nil {
			s.kill()
			s.t.Fatalf("%v\n%s", err, s.logText())
		}
	}
}

// stop ends it as systemd does; it must drain and exit with 0.
func (s *site) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.done:
		if err != nil {
			s.t.Errorf("gateway serve: %v", err)
		}
	case <-time.After(30 * time.Second):
		s.kill()
		s.t.Error("gateway serve did not end on SIGTERM")
	}
	if s.t.Failed() {
		s.t.Logf("log of the gateway:\n%s", s.logText())
	}
}

// kill ends it as a power cut does.
func (s *site) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

func (s *site) logText() string {
	text, _ := os.ReadFile(s.log)
	return string(text)
}

func (s *site) run(stdin string, args ...string) (string, error) {
	cmd := exec.Command(s.binary, append(args, "-c", s.dir+"/gateway.yaml")...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("gateway %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func (s *site) must(args ...string) string { return s.input("", args...) }

func (s *site) input(stdin string, args ...string) string {
	s.t.Helper()
	out, err := s.run(stdin, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// row is a JSON line of audit list or queue list.
type row struct {
	ID, Event, Code, Recipient, State, Destination string
	Attempts                                       int
}

func (s *site) rows(args ...string) []row {
	s.t.Helper()
	var rows []row
	lines := bufio.NewScanner(strings.NewReader(s.must(append(args, "--json")...)))
	for lines.Scan() {
		var r row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			s.t.Fatalf("%s: %v", lines.Text(), err)
		}
		rows = append(rows, r)
	}
	return rows
}

// outcome waits until the audit log says what became of an id's recipient, as
// "delivered HG-D703".
func (s *site) outcome(id, recipient string) string {
	s.t.Helper()
	deadline := time.Now().Add(45 * time.Second)
	last := ""
	for time.Now().Before(deadline) {
		for _, r := range s.rows("audit", "list", "--id", id) {
			if r.Recipient != recipient {
				continue
			}
			last = r.Event + " " + r.Code
			if r.Event != "accepted" && r.Event != "deferred" && r.Event != "imported" {
				return last
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	return last
}

var replyID = regexp.MustCompile(`\(id ([0-9a-v]{13})\)`)

// idOf finds the gateway's id in a client's transcript.
func idOf(transcript string) string {
	if m := replyID.FindAllStringSubmatch(transcript, -1); m != nil {
		return m[len(m)-1][1]
	}
	return ""
}

// swaks submits with AUTH over STARTTLS and returns the transcript.
func swaks(sender, to, file string) (string, error) {
	return output("swaks", "--server", submission, "--tls", "--auth", "PLAIN", "--auth-user", sender, "--auth-password", password,
		"--from", "care@clinic.test", "--to", to, "--data", "@"+file)
}

// letter writes a message to a file and returns its path.
func letter(t *testing.T, name, subject, body string) string {
	t.Helper()
	path, err := write("letters/"+name+".eml", "From: Valley Clinic <care@clinic.test>\nTo: undisclosed-recipients:;\nSubject: "+subject+
		"\nDate: Tue, 06 Oct 2026 09:00:00 -0500\nMessage-ID: <"+name+"@clinic.test>\nMIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n\n"+body+"\n")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// witness records every packet on loopback until it is asked what it saw.
type witness struct {
	t    *testing.T
	cmd  *exec.Cmd
	path string
}

func newWitness(t *testing.T) *witness {
	t.Helper()
	w := &witness{t: t, path: filepath.Join(base, t.Name()+".pcap")}
	w.cmd = exec.CommandContext(context.Background(), "tcpdump", "-i", "lo", "-U", "-B", "65536", "-s", "0", "-w", w.path, "tcp")
	stderr, err := w.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.cmd.Process.Kill(); _ = w.cmd.Wait() })
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "listening on") {
			go func() {
				for lines.Scan() {
				}
			}()
			return w
		}
	}
	t.Fatal("tcpdump does not listen")
	return nil
}

// saw reports whether a text went over any socket in clear.
func (w *witness) saw(text string) bool {
	w.t.Helper()
	_ = w.cmd.Process.Signal(syscall.SIGINT) // write what is buffered
	_ = w.cmd.Wait()
	pcap, err := os.ReadFile(w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(pcap) < 10_000 {
		w.t.Fatalf("the witness saw %d bytes only", len(pcap))
	}
	return bytes.Contains(pcap, []byte(text))
}
