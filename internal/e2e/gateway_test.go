//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const phiBody = `Dear patient,

your HbA1c of 1 October is 9.2 percent. Please call us this week, so that we can
talk about your insulin dose. Reference %s.

Your care team`

// fates say how health information reaches each recipient domain.
var fates = []struct {
	domain    string
	assurance string // as gateway tls explain predicts it
	outcome   string
	tls       string // in the Received field of the peer
}{
	{"dane.signed.test", "dane", "delivered HG-D703", "TLSv1.3"},
	{"sts.open.test", "policy", "delivered HG-D703", "TLS1.3"},
	{"web.open.test", "verified", "delivered HG-D703", "TLS1.3"},
	{"wrong.signed.test", "", "pickup HG-L703", ""},
	{"self.open.test", "", "pickup HG-L703", ""},
	{"expired.open.test", "", "pickup HG-L703", ""},
	{"weak.open.test", "", "pickup HG-L703", ""},
	{"clear.open.test", "", "pickup HG-L703", ""},
	{"broken.open.test", "", "pickup HG-L703", ""},
}

// Health information reaches who can be reached safely and waits on the pickup
// page for all others; on no socket is it seen in clear.
func TestHealthInformationTravelsVerifiedOrNotAtAll(t *testing.T) {
	s := newSite(t)
	w := newWitness(t)
	canary := "zq7canary41phi"
	file := letter(t, "result", "A message for you", strings.ReplaceAll(phiBody, "%s", canary))
	ids := map[string]string{}
	for _, f := range fates {
		out, err := swaks("ehr", "ann.lee@"+f.domain, file)
		if err != nil {
			t.Fatal(err)
		}
		ids[f.domain] = idOf(out)
	}
	for _, f := range fates {
		t.Run(f.domain, func(t *testing.T) {
			if got := s.outcome(ids[f.domain], "ann.lee@"+f.domain); got != f.outcome {
				t.Errorf("%s, want %s", got, f.outcome)
			}
			got := marked(f.domain, canary)
			if f.tls == "" && len(got) > 0 {
				t.Error("the mail itself arrived")
			}
			if f.tls != "" && (len(got) != 1 || !strings.Contains(got[0], f.tls)) {
				t.Errorf("%d mails arrived, want one over %s", len(got), f.tls)
			}
		})
	}
	// The witness can see: a notice to a server without TLS goes in clear.
	if _, err := mailbox(t.Context(), "clear.open.test", "https://gateway.clinic.test:8443/p/", 1); err != nil {
		t.Error(err)
	}
	if !w.saw("https://gateway.clinic.test:8443/p/") {
		t.Error("the witness did not see the notice to a server without TLS")
	}
	if w.saw(canary) {
		t.Error("health information went over a socket in clear")
	}
	if out := s.must("audit", "verify"); out == "" {
		t.Error("audit verify says nothing")
	}
}

// What is predicted before the queue is what the oracle found.
func TestTLSExplainAgreesWithOracle(t *testing.T) {
	s := newSite(t)
	for _, f := range fates {
		if f.assurance == "" {
			continue
		}
		var got struct{ Assurance string }
		if err := json.Unmarshal([]byte(s.must("tls", "explain", f.domain, "--json")), &got); err != nil {
			t.Fatal(err)
		}
		if got.Assurance != f.assurance {
			t.Errorf("%s: %s, want %s", f.domain, got.Assurance, f.assurance)
		}
	}
}

// A domain whose DNS answers are forged is not delivered to: the mail waits.
func TestBogusDNSDefers(t *testing.T) {
	s := newSite(t)
	out, err := swaks("ehr", "ann.lee@broken.bogus.test", letter(t, "bogus", "A message for you", phiBody))
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		rows := s.rows("queue", "list")
		if len(rows) == 1 && rows[0].Attempts > 0 && (rows[0].State == "ready" || rows[0].State == "leased") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("queue %+v after %s", rows, out)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if got := marked("broken.bogus.test", "HbA1c"); len(got) > 0 {
		t.Error("it was delivered")
	}
}

func TestRefusalsNameTheirCode(t *testing.T) {
	s := newSite(t)
	file := letter(t, "campaign", "A new program", phiBody+"\n\nValley Clinic, 12 Main St, Springfield, IL 62701\nhttps://www.clinic.test/unsubscribe/1")
	out, err := swaks("mailer", "ann.lee@web.open.test", file)
	if err == nil || !strings.Contains(out, "550 5.7.1 HG-C101 no valid authorization (id ") {
		t.Errorf("marketing without authorization: %v\n%s", err, out)
	}
	if got := s.outcome(idOf(out), "ann.lee@web.open.test"); got != "rejected HG-C101" {
		t.Errorf("audit says %q", got)
	}
	out, err = output("swaks", "--server", submission, "--tls", "--from", "care@clinic.test", "--to", "ann.lee@web.open.test", "--data", "@"+file)
	if err == nil || !strings.Contains(out, "530 5.7.0 HG-R802") {
		t.Errorf("no login: %v\n%s", err, out)
	}
	out, err = output("swaks", "--server", submission, "--tls", "--auth", "PLAIN", "--auth-user", "ehr", "--auth-password", "wrong", "--from", "care@clinic.test", "--to", "a@web.open.test")
	if err == nil || !strings.Contains(out, "535") {
		t.Errorf("wrong password: %v\n%s", err, out)
	}
}

// Mail without health information goes to every server, also without TLS.
func TestNewsletterGoesEverywhere(t *testing.T) {
	s := newSite(t)
	file := letter(t, "news", "Open house on Saturday", "Dear neighbor,\n\nmark-newsletter: music, cake, free parking.\n\n"+
		"Valley Clinic, 12 Main St, Springfield, IL 62701\nStop these mails: https://www.clinic.test/unsubscribe/1")
	for _, domain := range []string{"dane.signed.test", "web.open.test", "clear.open.test"} {
		out, err := swaks("news", "reader@"+domain, file)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.outcome(idOf(out), "reader@"+domain); got != "delivered HG-D704" {
			t.Errorf("%s: %s", domain, got)
		}
		if _, err := mailbox(t.Context(), domain, "mark-newsletter", 1); err != nil {
			t.Error(err)
		}
	}
}

// smtplib submits many mails over one connection and prints each reply's id.
const smtplib = `
import smtplib, ssl, sys
context = ssl.create_default_context(cafile="/srv/pki/roots.pem")
context.check_hostname = False
count, mark, domain = int(sys.argv[1]), sys.argv[2], sys.argv[3]
with smtplib.SMTP_SSL("127.0.0.1", 465, context=context) as server:
    server.login("ehr", "` + password + `")
    for i in range(count):
        server.mail("care@clinic.test")
        server.rcpt("ann.lee@" + domain)
        code, text = server.data(("From: care@clinic.test\r\nTo: ann.lee@%s\r\nSubject: A message for you\r\nMessage-ID: <%s-%d@clinic.test>\r\n\r\n"
            "Dear Ann,\r\n\r\nyour blood pressure was 148/92 mmHg. %s-%d-end\r\n" % (domain, mark, i, mark, i)).encode())
        print(code, i, flush=True)
`

func python(t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	path, err := write(t.Name()+".py", script)
	if err != nil {
		t.Fatal(err)
	}
	return output("/usr/bin/python3", append([]string{path}, args...)...)
}

// verifier checks every DKIM signature of a mail with dkimpy, through Unbound.
const verifier = `
import dkim, sys
mail = open(sys.argv[1], "rb").read()
d = dkim.DKIM(mail)
n = sum(1 for name, _ in d.headers if name.lower() == b"dkim-signature")
for i in range(n):
    print(d.verify(idx=i))
`

// Both signatures verify at every peer, with a verifier of another make.
func TestSignaturesVerifyElsewhere(t *testing.T) {
	s := newSite(t)
	s.must("dkim", "new", "clinic.test")
	publish(t, s.must("dkim", "show", "clinic.test"))
	for _, domain := range []string{"dane.signed.test", "web.open.test"} {
		mark := "mark-signed-" + strings.ReplaceAll(domain, ".", "-")
		if _, err := python(t, smtplib, "1", mark, domain); err != nil {
			t.Fatal(err)
		}
		got, err := mailbox(t.Context(), domain, mark+"-0-end", 1)
		if err != nil {
			t.Fatal(err)
		}
		path, err := write("signed.eml", got[0])
		if err != nil {
			t.Fatal(err)
		}
		out, err := python(t, verifier, path)
		if err != nil || strings.TrimSpace(out) != "True\nTrue" {
			t.Errorf("%s: %v %q, want two good signatures\n%s", domain, err, out, got[0])
		}
		broken, err := write("broken.eml", strings.Replace(got[0], "148/92", "118/92", 1))
		if err != nil {
			t.Fatal(err)
		}
		if out, _ := python(t, verifier, broken); strings.Contains(out, "True") {
			t.Errorf("%s: a changed mail still verifies", domain)
		}
	}
}

// publish adds records to clinic.test and has NSD read it again.
func publish(t *testing.T, records string) {
	t.Helper()
	if err := appendTo(filepath.Join(base, "zones", "clinic.test"), records); err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(base + "/nsd.pid")
	if err != nil {
		t.Fatal(err)
	}
	if err := command("kill", "-HUP", strings.TrimSpace(string(pid))); err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(records, " ")
	deadline := time.Now().Add(20 * time.Second)
	for {
		if out, _ := output("drill", name, "TXT", "@127.0.0.1"); strings.Contains(out, "v=DKIM1") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not published", name)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// Every mail that was answered with 250 arrives although the process is killed,
// and at most one in flight arrives twice.
func TestKilledGatewayLosesNothing(t *testing.T) {
	s := newSite(t)
	const mails = 60
	result := make(chan string, 1)
	go func() {
		out, _ := python(t, smtplib, "60", "mark-crash", "web.open.test")
		result <- out
	}()
	if _, err := mailbox(t.Context(), "web.open.test", "mark-crash-", 5); err != nil {
		t.Fatal(err)
	}
	s.kill()
	out := <-result
	s.start()
	accepted := strings.Count(out, "\n250 ") + strings.Count(out[:min(4, len(out))], "250 ")
	if accepted == 0 {
		t.Fatalf("nothing was accepted: %s", out)
	}
	if _, err := mailbox(t.Context(), "web.open.test", "mark-crash-", accepted); err != nil {
		t.Fatalf("%d accepted: %v", accepted, err)
	}
	for line := range strings.Lines(out) {
		code, i, _ := strings.Cut(strings.TrimSpace(line), " ")
		if code != "250" {
			continue
		}
		if n := len(marked("web.open.test", "mark-crash-"+i+"-end")); n < 1 || n > 2 {
			t.Errorf("mail %s arrived %d times", i, n)
		}
	}
	t.Logf("%d of %d accepted before the kill", accepted, mails)
	s.must("audit", "verify")
}
