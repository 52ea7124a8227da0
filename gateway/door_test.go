package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/configs"
	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/fakenet"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// doorConfig is gateway.yaml of the front door's tests: a port in clear for this
// host, one in clear for a network far away, one with STARTTLS.
const doorConfig = `hostname: gateway.valleyclinic.example
data: data
policy: policy.yaml
keys: {root: {file: root.key}}
listen:
  - {address: "127.0.0.1:0", tls: none, networks: [127.0.0.0/8], auth: optional}
  - {address: "127.0.0.1:0", tls: none, networks: [192.0.2.0/24], auth: optional}
  - {address: "127.0.0.1:0", tls: starttls, auth: required}
certificate: {cert_file: tls.crt, key_file: tls.key}
delivery: {resolver: [%q], extra_roots_file: roots.pem}
bounces: {domain: bounces.valleyclinic.example, address: "127.0.0.1:0", feedback: [fbl@bounces.valleyclinic.example]}
portal: {address: "127.0.0.1:0", url: "http://127.0.0.1:1"}
`

const doorSenders = `version: 1
organization: {name: Valley Clinic, kind: covered_entity, domains: [valleyclinic.example], postal_address: "12 Main St, Springfield, IL 62701"}
senders:
  - {name: ehr, login: ehr, networks: [127.0.0.0/8], from: [ehr@valleyclinic.example], partner: self, class: treatment_ops, audience: patients, remuneration: none}
  - {name: drop, networks: [127.0.0.0/8], from: [drop@valleyclinic.example], class: treatment_ops, audience: patients, remuneration: none, on_refusal: {HG-B301: discard_with_report}}
`

// site is a running gateway on a small internet of its own.
type site struct {
	*Gateway
	t   *testing.T
	dir string
	net *fakenet.Net
	mx  *fakenet.Host // of clear.example, which has a valid certificate
}

func newSite(t *testing.T) *site {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n, err := fakenet.Start(ctx, fakenet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: t.TempDir(), net: n, mx: n.Add(fakenet.Domain{Name: "clear.example"})}
	n.Add(fakenet.Domain{Name: "valleyclinic.example"})
	if err := Init(s.dir, "gateway.valleyclinic.example", time.Now()); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(s.dir, "policy_test.yaml")) // about other senders
	_, rules, _ := bytes.Cut(configs.Policy, []byte("\ndetection:"))
	s.write("gateway.yaml", fmt.Sprintf(doorConfig, n.Resolver()))
	s.write("policy.yaml", doorSenders+"detection:"+string(rules))
	s.write("roots.pem", string(n.RootsPEM()))
	cfg, err := LoadConfig(filepath.Join(s.dir, "gateway.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Gateway, err = Open(ctx, cfg, Options{Dial: n.Dial}); err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
		n.Close()
	})
	return s
}

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// settle waits until nothing is due.
func (s *site) settle() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Idle(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// events are the kinds and codes on record about an id, in order.
func (s *site) events(id string) []string {
	s.t.Helper()
	var out []string
	for e, err := range s.Audit().List(context.Background(), audit.Reader{Who: "test"}, audit.Filter{ID: store.ID(id)}) {
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, string(e.Kind)+" "+string(e.Code))
	}
	return out
}

// client speaks SMTP byte by byte.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// dial opens a conversation on the n-th listener and says EHLO.
func (s *site) dial(n int) *client {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.Addresses()[n])
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := &client{s.t, conn, bufio.NewReader(conn)}
	c.want("220")
	c.say("EHLO tool.example\r\n", "250")
	return c
}

// want reads one reply, of any number of lines, and checks how it begins.
func (c *client) want(prefix string) string {
	c.t.Helper()
	var all strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		all.WriteString(line)
		if err != nil || len(line) < 4 || line[3] != '-' {
			break
		}
	}
	if !strings.HasPrefix(all.String(), prefix) {
		c.t.Errorf("got %q, want %s", all.String(), prefix)
	}
	return all.String()
}

// say sends text as it stands and checks how each reply begins.
func (c *client) say(text string, prefixes ...string) (last string) {
	c.t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		c.t.Errorf("sending: %v", err)
	}
	for _, p := range prefixes {
		last = c.want(p)
	}
	return last
}

// begin starts a message for ann@clear.example.
func (c *client) begin(from string) *client {
	c.t.Helper()
	c.say("MAIL FROM:<"+from+"@valleyclinic.example>\r\nRCPT TO:<ann@clear.example>\r\n", "250", "250")
	return c
}

// over checks that the gateway has hung up.
func (c *client) over() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err == nil {
		c.t.Errorf("the conversation goes on with %q", b)
	}
}

// idOf is the id at the end of a reply.
func idOf(t *testing.T, reply string) string {
	t.Helper()
	_, rest, ok := strings.Cut(reply, "(id ")
	id, _, closed := strings.Cut(rest, ")")
	if !ok || !closed {
		t.Fatalf("no id in %q", reply)
	}
	return id
}

func letterFrom(who string) string {
	return "From: <" + who + "@valleyclinic.example>\r\nTo: <ann@clear.example>\r\nSubject: Hello\r\nMessage-ID: <1@valleyclinic.example>\r\n\r\n"
}

// ident is AUTH PLAIN's one line.
func ident(name, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + name + "\x00" + password))
}

func TestStrayLineEndsAreToldAndEndTheConversation(t *testing.T) {
	s := newSite(t)
	smuggled := "MAIL FROM:<ehr@valleyclinic.example>\r\nRCPT TO:<eve@clear.example>\r\nDATA\r\n" + letterFrom("ehr") + "smuggled\r\n.\r\n"
	for name, end := range map[string]string{"LF.LF": "\n.\n", "LF.CRLF": "\n.\r\n", "CRLF.LF": "\r\n.\n", "CR.CR": "\r.\r", "CRCRLF": "\r\r\n.\r\r\n"} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(0).begin("ehr")
			c.say("DATA\r\n", "354")
			c.say(letterFrom("ehr")+"hello"+end+smuggled, "550 5.6.11")
			c.CloseWrite()
			c.over()
		})
	}
	s.settle()
	if n := s.mx.Count(); n != 0 {
		t.Errorf("%d messages left", n)
	}
}

func (c *client) CloseWrite() { c.Conn.(*net.TCPConn).CloseWrite() }

// A client that is still sending when it is refused must read the reply, and
// not a reset: it would try again for ever.
func TestRefusalReachesAClientThatIsStillSending(t *testing.T) {
	s := newSite(t)
	for name, c := range map[string]struct{ body, reply string }{
		"LF":        {strings.Repeat("hello\n", 1<<20), "550 5.6.11"},
		"long line": {strings.Repeat("x", 6<<20), "550 5.6.0"},
	} {
		t.Run(name, func(t *testing.T) {
			line := s.dial(0).begin("ehr")
			line.say("DATA\r\n", "354")
			reply := line.say(letterFrom("ehr")+c.body, c.reply)
			line.CloseWrite()
			line.over()
			if got := s.events(idOf(t, reply)); len(got) != 1 {
				t.Errorf("on record: %v", got)
			}
		})
	}
}

func TestBDATKeepsItsFraming(t *testing.T) {
	s := newSite(t)
	chunk := func(text, last string) string { return fmt.Sprintf("BDAT %d%s\r\n%s", len(text), last, text) }
	evil := "RSET\r\nMAIL FROM:<ehr@valleyclinic.example>\r\n"
	for name, say := range map[string]func(*client){
		"refused chunk is not read as commands": func(c *client) { c.say("RSET\r\n"+chunk(evil, " LAST"), "250", "502") },
		"RSET between chunks":                   func(c *client) { c.say(chunk(letterFrom("ehr"), "")+"RSET\r\n", "250", "250") },
		"RSET after an empty chunk":             func(c *client) { c.say(chunk("", "")+"RSET\r\n", "250", "250") },
		"bare LF":                               func(c *client) { c.say(chunk(letterFrom("ehr")+"one\ntwo\r\n", " LAST"), "550 5.6.11") },
		"two chunks": func(c *client) {
			c.say(chunk(letterFrom("ehr"), "")+chunk("one\r\n", " LAST"), "250", "250 2.0.0 accepted")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(0).begin("ehr")
			say(c)
			c.say("NOOP\r\n", "250 2.0.0")
			c.begin("ehr").say("DATA\r\n", "354")
			c.say(letterFrom("ehr")+"good\r\n.\r\n", "250 2.0.0 accepted")
		})
	}
}

func TestPasswordsAreNotTakenInClear(t *testing.T) {
	s := newSite(t)
	if err := s.Registry().SetPassword(context.Background(), "ehr", "correct horse", "test"); err != nil {
		t.Fatal(err)
	}
	for n, reply := range map[int]string{0: "235", 1: "530 5.7.0 HG-R801", 2: "523"} {
		c := s.dial(n)
		if words := c.say("EHLO tool.example\r\n", "250"); strings.Contains(words, "AUTH") != (n == 0) {
			t.Errorf("listener %d offers %q", n, words)
		}
		c.say("AUTH PLAIN "+ident("ehr", "correct horse")+"\r\n", reply)
	}
	c := s.dial(2)
	c.say("STARTTLS\r\nMAIL FROM:<eve@valleyclinic.example>\r\n", "220")
	tlsConn := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true}) // the certificate is self-signed
	c.Conn, c.r = tlsConn, bufio.NewReader(tlsConn)
	c.say("EHLO tool.example\r\n", "250") // and no answer to what was said in clear
	c.say("AUTH PLAIN "+ident("ehr", "correct horse")+"\r\n", "235")
	c.begin("ehr")
}

// A reload takes a sender's rights away at once, also in conversations under way.
func TestRemovedSenderMayNotGoOn(t *testing.T) {
	s := newSite(t)
	if err := s.Registry().SetPassword(context.Background(), "ehr", "correct horse", "test"); err != nil {
		t.Fatal(err)
	}
	c := s.dial(0)
	c.say("AUTH PLAIN "+ident("ehr", "correct horse")+"\r\n", "235")
	c.begin("ehr").say("RSET\r\n", "250")
	rules, err := os.ReadFile(filepath.Join(s.dir, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("policy.yaml", strings.Replace(string(rules), "login: ehr, ", "", 1))
	if err := s.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.say("MAIL FROM:<ehr@valleyclinic.example>\r\n", "530 5.7.0 HG-R802")
}

func TestRecipientsAreReadOnce(t *testing.T) {
	s := newSite(t)
	c := s.dial(0).begin("ehr")
	for _, bad := range []string{`"a b"@clear.example`, strings.Repeat("x", 65) + "@clear.example", "a\x01b@clear.example", "a@[127.0.0.1]", "a@-.example"} {
		c.say("RCPT TO:<"+bad+">\r\n", "501 5.1.3") // and not a 4xx, which would be tried again
	}
	c.say("RCPT TO:<ann@clear.example>\r\nRCPT TO:<ANN@CLEAR.example.>\r\n", "250", "250")
	c.say("DATA\r\n", "354")
	c.say(letterFrom("ehr")+"hello\r\n.\r\n", "250")
	s.settle()
	if got := len(s.net.Mailbox("ann@clear.example")); got != 1 {
		t.Errorf("delivered %d times", got)
	}
}

func TestNULIsRefused(t *testing.T) {
	c := newSite(t).dial(0).begin("ehr")
	c.say("DATA\r\n", "354")
	c.say(letterFrom("ehr")+"a\x00b\r\n.\r\n", "550 5.6.11")
	c.begin("ehr")
}

// A header that is no word may have been meant to be strict, so it counts as an
// unknown one.
func TestMalformedClassIsMarketing(t *testing.T) {
	s := newSite(t)
	for _, header := range []string{"nonsense", "part2 (confidential)", "=?utf-8?q?part2?=", ""} {
		c := s.dial(0).begin("ehr")
		c.say("DATA\r\n", "354")
		c.say("X-Gateway-Class: "+header+"\r\n"+letterFrom("ehr")+"hello\r\n.\r\n", "550 5.7.1 HG-C101")
	}
}

func TestDSNIsSentToThoseWhoWantIt(t *testing.T) {
	s := newSite(t)
	s.mx.Set(fakenet.Faults{Recipients: map[string]string{"gone@clear.example": "550 5.1.1 no such user"}})
	s.net.Add(fakenet.Domain{Name: "old.example", EHLO: []string{"8BITMIME", "STARTTLS"}}) // without DSN
	for _, c := range []struct {
		rcpt, notify, action string
	}{
		{"gone", "", "failed"},
		{"gone", "FAILURE", "failed"},
		{"gone", "NEVER", ""},
		{"gone", "SUCCESS", ""},
		{"here", "", ""},
		{"here", "FAILURE,DELAY", ""},
		{"here", "SUCCESS,FAILURE", ""}, // its server was told
		{"old", "SUCCESS,FAILURE", "relayed"},
		{"old", "FAILURE", ""},
	} {
		before := len(s.net.Mailbox("ehr@valleyclinic.example"))
		_, err := s.Registry().LiftSuppressions(context.Background(), "gone@clear.example", registry.HardBounce, "test", "test")
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			t.Fatal(err)
		}
		l := s.dial(0)
		domain := "clear.example"
		if c.rcpt == "old" {
			domain = "old.example"
		}
		rcpt := "RCPT TO:<" + c.rcpt + "@" + domain + ">"
		if c.notify != "" {
			rcpt += " NOTIFY=" + c.notify
		}
		l.say("MAIL FROM:<ehr@valleyclinic.example>\r\n"+rcpt+"\r\nDATA\r\n", "250", "250", "354")
		l.say(letterFrom("ehr")+c.rcpt+c.notify+"\r\n.\r\n", "250")
		s.settle()
		box := s.net.Mailbox("ehr@valleyclinic.example")[before:]
		switch {
		case c.action == "" && len(box) > 0:
			t.Errorf("%s, NOTIFY=%s: %s", c.rcpt, c.notify, box[0].Data)
		case c.action != "" && (len(box) != 1 || !bytes.Contains(box[0].Data, []byte("Action: "+c.action))):
			t.Errorf("%s, NOTIFY=%s: %d reports, want one that says %s", c.rcpt, c.notify, len(box), c.action)
		}
	}
}

// decided is the plan for decisions about the recipients of a message.
func (s *site) decided(sender string, verdicts ...policy.Verdict) (plan, error) {
	known, _ := s.Policy().Sender(sender)
	sub := Submission{Sender: &known, From: policy.Address(sender + "@valleyclinic.example"), Data: []byte(letterFrom(sender) + "hello\r\n")}
	msg, err := lenient(sub.Data)
	if err != nil {
		return plan{}, err
	}
	var ds []decision
	for i, v := range verdicts {
		to := recipient{address: policy.Address(fmt.Sprintf("r%d@clear.example", i))}
		sub.recipients = append(sub.recipients, to)
		ds = append(ds, decision{recipient: to, verdict: v, facts: policy.Facts{Now: time.Now()}})
	}
	ctx := context.Background()
	return s.plan(ctx, s.ids.New(time.Now()), sub, s.read(ctx, &known, msg), ds)
}

func TestRefusedBesideDiscardedIsReported(t *testing.T) {
	s := newSite(t)
	p, err := s.decided("drop", policy.Verdict{Action: policy.Reject, Code: "HG-B301"}, policy.Verdict{Action: policy.Reject, Code: "HG-K101"})
	if err != nil {
		t.Fatal(err)
	}
	if p.reply.Status != 250 || len(p.acceptance.Messages) != 1 || p.acceptance.Messages[0].Message.Sender != "" {
		t.Errorf("reply %d, %d messages; want 250 and the report alone", p.reply.Status, len(p.acceptance.Messages))
	}
}

// What is not stored must not be on record as accepted.
func TestDeferredMessageIsOnRecordAsDeferred(t *testing.T) {
	s := newSite(t)
	p, err := s.decided("ehr", policy.Verdict{Action: policy.Deliver, Floor: policy.FloorPHI, Code: "HG-D703"}, policy.Verdict{Action: policy.Defer, Code: "HG-S902"})
	if err != nil {
		t.Fatal(err)
	}
	if p.stored() || p.reply.Status != 451 {
		t.Fatalf("reply %d, stored %v", p.reply.Status, p.stored())
	}
	if r := s.commit(context.Background(), p); r.Status != 451 {
		t.Errorf("reply %v", r)
	}
	if got := s.events(string(p.acceptance.ID)); len(got) != 2 || !strings.HasPrefix(got[0], "deferred") || !strings.HasPrefix(got[1], "deferred") {
		t.Errorf("on record: %v", got)
	}
}
