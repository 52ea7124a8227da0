package fakenet_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	client "github.com/emersion/go-smtp"
	"github.com/miekg/dns"

	"github.com/phigate/phigate/internal/fakenet"
)

func start(t *testing.T) *fakenet.Net {
	t.Helper()
	n, err := fakenet.Start(t.Context(), fakenet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func dial(t *testing.T, n *fakenet.Net, addr string) net.Conn {
	t.Helper()
	conn, err := n.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

const letter = "Subject: hello\r\n\r\n.leading dot\r\ncanary-one\r\n"

// send delivers with the standard library's client, over STARTTLS if offered.
func send(t *testing.T, n *fakenet.Net, host, from, to string) error {
	t.Helper()
	c, err := smtp.NewClient(dial(t, n, host+":25"), host)
	if err != nil {
		return err
	}
	if ok, _ := c.Extension("STARTTLS"); ok {
		if err := c.StartTLS(&tls.Config{ServerName: host, RootCAs: n.Roots()}); err != nil {
			return err
		}
	}
	if err := errors.Join(c.Mail(from), c.Rcpt(to)); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, letter); err != nil {
		return err
	}
	return errors.Join(w.Close(), c.Quit())
}

func TestStandardClientDelivers(t *testing.T) {
	n := start(t)
	mx := n.Add(fakenet.Domain{Name: "Patient.Example"})
	if err := send(t, n, "mx.patient.example", "a@clinic.example", "eve@patient.example"); err != nil {
		t.Fatal(err)
	}
	got, err := mx.Wait(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	m := got[0]
	if string(m.Data) != letter || m.From != "a@clinic.example" || m.Rcpt[0].Address != "eve@patient.example" {
		t.Errorf("not the mail that was sent: %+v", m)
	}
	if m.TLS == nil || m.TLS.Version != tls.VersionTLS13 || m.TLS.ServerName != mx.Name {
		t.Errorf("TLS state %+v", m.TLS)
	}
	if bytes.Contains(n.Cleartext(), []byte("canary")) || !bytes.Contains(n.Cleartext(), []byte("STARTTLS")) {
		t.Errorf("clear text %q", n.Cleartext())
	}
	if len(n.Mailbox("EVE@patient.example")) != 1 || len(n.Mailbox("adam@patient.example")) != 0 {
		t.Error("mailbox does not hold the mail of its address alone")
	}
}

func TestClearDeliveryIsSeen(t *testing.T) {
	n := start(t)
	mx := n.Add(fakenet.Domain{Name: "old.example", Cert: fakenet.None})
	if err := send(t, n, mx.Name, "", "eve@old.example"); err != nil {
		t.Fatal(err)
	}
	if mx.Messages()[0].TLS != nil || !bytes.Contains(mx.Cleartext(), []byte("canary-one")) {
		t.Error("mail in clear does not show as such")
	}
}

func TestGoSMTPClientDelivers(t *testing.T) {
	n := start(t)
	mx := n.Add(fakenet.Domain{Name: "patient.example", Key: fakenet.RSA2048, MaxTLS: tls.VersionTLS12})
	c, err := client.NewClientStartTLS(dial(t, n, mx.Name+":25"), &tls.Config{ServerName: mx.Name, RootCAs: n.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 { // a connection carries several mails
		opts := &client.MailOptions{Size: int64(len(letter)), Body: client.Body8BitMIME, RequireTLS: true, UTF8: true, Return: client.DSNReturnHeaders, EnvelopeID: "e1"}
		if err := c.Mail("ä@clinic.example", opts); err != nil {
			t.Fatal(err)
		}
		if err := c.Rcpt("zoë@patient.example", &client.RcptOptions{Notify: []client.DSNNotify{client.DSNNotifyNever}}); err != nil {
			t.Fatal(err)
		}
		w, err := c.Data()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, letter)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got := mx.Messages()
	if len(got) != 2 || got[1].Connection != 1 || got[1].TLS.Version != tls.VersionTLS12 {
		t.Fatalf("%d messages", len(got))
	}
	if !strings.Contains(got[0].FromArgs, "REQUIRETLS") || got[0].Rcpt[0].Args != "NOTIFY=NEVER" {
		t.Errorf("parameters lost: %q %q", got[0].FromArgs, got[0].Rcpt[0].Args)
	}
}

// A dialog is what a client says (>) and how the reply must begin (<).
func TestServerIsStrict(t *testing.T) {
	good := []string{"< 220", "> EHLO c.example", "< 250-mx.p.example", "< 250-PIPELINING", "< 250-SIZE", "< 250-8BITMIME", "< 250-SMTPUTF8", "< 250-ENHANCED", "< 250-DSN", "< 250 STARTTLS"}
	tests := map[string][]string{
		"hello first":       {"< 220", "> MAIL FROM:<a@b.example>", "< 503"},
		"mail first":        append(good, "> RCPT TO:<a@p.example>", "< 503"),
		"recipient first":   append(good, "> MAIL FROM:<>", "< 250", "> DATA", "< 554"),
		"no relay":          append(good, "> MAIL FROM:<>", "< 250", "> RCPT TO:<a@other.example>", "< 550 5.7.1"),
		"size":              append(good, "> MAIL FROM:<> SIZE=99999999999", "< 552"),
		"REQUIRETLS in TLS": append(good, "> MAIL FROM:<> REQUIRETLS", "< 555"),
		"unknown parameter": append(good, "> MAIL FROM:<> FOO=1", "< 555"),
		"UTF-8 undeclared":  append(good, "> MAIL FROM:<ä@b.example>", "< 553 5.6.7"),
		"HELO has no ESMTP": {"< 220", "> HELO c", "< 250 mx", "> MAIL FROM:<> BODY=8BITMIME", "< 555"},
		"reset":             append(good, "> MAIL FROM:<>", "< 250", "> RSET", "< 250", "> RCPT TO:<a@p.example>", "< 503"),
		"unknown command":   append(good, "> VRFY a", "< 500", "> NOOP", "< 250", "> QUIT", "< 221", "< EOF"),
		"bare LF command":   append(good, "> NOOP\nNOOP", "< 500", "< EOF"),
		"pipelined":         append(good, "> MAIL FROM:<>\r\nRCPT TO:<a@p.example>\r\nRCPT TO:<b@q.example>\r\nDATA", "< 250", "< 250", "< 550", "< 354", "> .", "< 250"),
		"bare LF data":      append(good, "> MAIL FROM:<>\r\nRCPT TO:<a@p.example>\r\nDATA", "< 250", "< 250", "< 354", "> a\n.\nb\r\n.", "< 550 5.5.2", "> NOOP", "< 250"),
		"bare CR data":      append(good, "> MAIL FROM:<>\r\nRCPT TO:<a@p.example>\r\nDATA", "< 250", "< 250", "< 354", "> a\r\r\n.", "< 550 5.5.2"),
		"after STARTTLS":    append(good, "> STARTTLS\r\nMAIL FROM:<>", "< 220", "< EOF"),
	}
	n := start(t)
	mx := n.Add(fakenet.Domain{Name: "p.example"})
	for name, lines := range tests {
		t.Run(name, func(t *testing.T) { talk(t, dial(t, n, mx.Name+":25"), lines) })
	}
}

func talk(t *testing.T, conn net.Conn, lines []string) {
	t.Helper()
	r := textproto.NewReader(bufio.NewReader(conn))
	for _, line := range lines {
		if say, ok := strings.CutPrefix(line, "> "); ok {
			_, _ = io.WriteString(conn, say+"\r\n")
			continue
		}
		want := strings.TrimPrefix(line, "< ")
		got, err := r.ReadLine()
		switch {
		case isTimeout(err):
			got = "silence"
		case err != nil:
			got = "EOF"
		}
		if !strings.HasPrefix(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestFaults(t *testing.T) {
	hello := []string{"< 220", "> HELO c", "< 250"}
	mail := slices.Clip(append(slices.Clip(hello), "> MAIL FROM:<>", "< 250", "> RCPT TO:<a@p.example>", "< 250", "> DATA", "< 354", "> hi\r\n."))
	tests := map[string]struct {
		faults fakenet.Faults
		dialog []string
		kept   int
	}{
		"421 at connect":     {fakenet.Faults{Replies: map[fakenet.Stage]string{fakenet.Connect: "421 4.7.0 busy"}}, []string{"< 421", "< EOF"}, 0},
		"multi-line reply":   {fakenet.Faults{Replies: map[fakenet.Stage]string{fakenet.MailFrom: "550-5.7.1 no\n550 5.7.1 never"}}, append(hello, "> MAIL FROM:<>", "< 550-", "< 550 ", "> RCPT TO:<a@p.example>", "< 503"), 0},
		"first use only":     {fakenet.Faults{Times: 1, Replies: map[fakenet.Stage]string{fakenet.MailFrom: "451 4.3.0 later"}}, append(hello, "> MAIL FROM:<>", "< 451", "> MAIL FROM:<>", "< 250"), 0},
		"greylist":           {fakenet.Faults{Greylist: 1}, append(hello, "> MAIL FROM:<>", "< 250", "> RCPT TO:<A@p.example>", "< 451", "> RCPT TO:<a@p.example>", "< 250"), 0},
		"one recipient":      {fakenet.Faults{Recipients: map[string]string{"a@p.example": "550 5.1.1 who"}}, append(hello, "> MAIL FROM:<>", "< 250", "> RCPT TO:<a@p.example>", "< 550", "> RCPT TO:<b@p.example>", "< 250"), 0},
		"drop at MAIL":       {fakenet.Faults{Drop: fakenet.MailFrom}, append(hello, "> MAIL FROM:<>", "< EOF"), 0},
		"refused data":       {fakenet.Faults{Replies: map[fakenet.Stage]string{fakenet.EndOfData: "554 5.7.1 spam"}}, append(mail, "< 554"), 0},
		"lost reply":         {fakenet.Faults{Drop: fakenet.EndOfData}, append(mail, "< EOF"), 1},
		"gone after reply":   {fakenet.Faults{DropAfter: fakenet.EndOfData}, append(mail, "< 250", "< EOF"), 1},
		"slow, but complete": {fakenet.Faults{Delay: time.Millisecond}, append(mail, "< 250"), 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := start(t)
			mx := n.Add(fakenet.Domain{Name: "p.example", Faults: tt.faults})
			talk(t, dial(t, n, mx.Name+":25"), tt.dialog)
			if got := len(mx.Messages()); got != tt.kept {
				t.Errorf("%d messages kept, want %d", got, tt.kept)
			}
		})
	}
}

func TestFaultsOfTLS(t *testing.T) {
	n := start(t)
	strip := n.Add(fakenet.Domain{Name: "strip.example", Faults: fakenet.Faults{Strip: true, StripAfter: 1}})
	inject := n.Add(fakenet.Domain{Name: "inject.example", Faults: fakenet.Faults{Inject: "250 evil\r\n"}})
	for i, want := range []bool{true, false} {
		c, err := smtp.NewClient(dial(t, n, strip.Name+":25"), strip.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := c.Extension("STARTTLS"); got != want {
			t.Errorf("connection %d offers STARTTLS: %v", i+1, got)
		}
	}
	talk(t, dial(t, n, inject.Name+":25"), []string{"< 220", "> HELO c", "< 250", "> STARTTLS", "< 220", "< 250 evil"})

	down := n.Add(fakenet.Domain{Name: "down.example"})
	down.Set(fakenet.Faults{Down: true})
	for _, addr := range []string{"mx.down.example:25", "gmail.com:25", "203.0.113.7:25", "mx.strip.example:443"} {
		if _, err := n.Dial(t.Context(), "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want connection refused", addr, err)
		}
	}
}

// What was said before TLS is forgotten (RFC 3207 §4.2), and REQUIRETLS is
// offered only now (RFC 8689 §2).
func TestTLSBeginsAnew(t *testing.T) {
	n := start(t)
	mx := n.Add(fakenet.Domain{Name: "p.example"})
	conn := dial(t, n, mx.Name+":25")
	talk(t, conn, []string{"< 220", "> HELO c", "< 250", "> MAIL FROM:<>", "< 250", "> STARTTLS", "< 220"})
	secure := tls.Client(conn, &tls.Config{ServerName: mx.Name, RootCAs: n.Roots()})
	talk(t, secure, []string{
		"> RCPT TO:<a@p.example>", "< 503", "> MAIL FROM:<>", "< 503", "> EHLO c",
		"< 250-mx.p.example", "< 250-PIPELINING", "< 250-SIZE", "< 250-8BITMIME", "< 250-SMTPUTF8", "< 250-ENHANCED", "< 250-DSN", "< 250 REQUIRETLS",
		"> STARTTLS", "< 503",
	})
}

func TestHangLastsUntilTheClientLeaves(t *testing.T) {
	n := start(t)
	mx := n.Add(fakenet.Domain{Name: "p.example", Faults: fakenet.Faults{Hang: fakenet.EHLO}})
	conn := dial(t, n, mx.Name+":25")
	talk(t, conn, []string{"< 220", "> EHLO c"})
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("read: %v, want silence", err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestCertificates(t *testing.T) {
	n := start(t)
	tests := map[fakenet.Cert]any{
		fakenet.Valid:      nil,
		fakenet.SelfSigned: new(x509.UnknownAuthorityError),
		fakenet.WrongName:  new(x509.HostnameError),
		fakenet.Expired:    new(x509.CertificateInvalidError),
	}
	for kind, want := range tests {
		name := string('a'+rune(kind)) + ".example"
		n.Add(fakenet.Domain{Name: name, Cert: kind})
		err := send(t, n, "mx."+name, "", "eve@"+name)
		if want == nil && err != nil || want != nil && !errors.As(err, want) {
			t.Errorf("certificate kind %d: %v", kind, err)
		}
	}
}

func query(t *testing.T, n *fakenet.Net, network, name string, rrtype uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), rrtype)
	m.SetEdns0(1232, true)
	c := dns.Client{Net: network, Timeout: 300 * time.Millisecond}
	reply, _, err := c.ExchangeContext(t.Context(), m, n.Resolver())
	if err != nil {
		return nil
	}
	return reply
}

func TestDNSAnswersAsAValidatorDoes(t *testing.T) {
	n := start(t)
	n.Add(fakenet.Domain{Name: "signed.example", Signed: true, TLSA: true})
	n.Add(fakenet.Domain{Name: "plain.example", STS: &fakenet.STS{Mode: "enforce"}})
	n.Add(fakenet.Domain{Name: "null.example", NullMX: true})
	n.Add(fakenet.Domain{Name: "implicit.example", Implicit: true})
	if err := errors.Join(n.Record(true, "alias.signed.example. CNAME mx.plain.example."), n.Record(false, "alias.plain.example. CNAME mx.signed.example.")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		rrtype uint16
		rcode  int
		answer int
		ad     bool
	}{
		{"signed.example", dns.TypeMX, dns.RcodeSuccess, 1, true},
		{"MX.Signed.Example", dns.TypeA, dns.RcodeSuccess, 1, true},
		{"_25._tcp.mx.signed.example", dns.TypeTLSA, dns.RcodeSuccess, 1, true},
		{"_25._tcp.signed.example", dns.TypeTLSA, dns.RcodeNameError, 0, true},
		{"mx.signed.example", dns.TypeAAAA, dns.RcodeSuccess, 0, true},
		{"_tcp.mx.signed.example", dns.TypeA, dns.RcodeSuccess, 0, true}, // empty non-terminal
		{"plain.example", dns.TypeMX, dns.RcodeSuccess, 1, false},
		{"_mta-sts.plain.example", dns.TypeTXT, dns.RcodeSuccess, 1, false},
		{"nothing.plain.example", dns.TypeA, dns.RcodeNameError, 0, false},
		{"alias.signed.example", dns.TypeA, dns.RcodeSuccess, 2, false}, // a chain is as secure as its weakest link
		{"alias.plain.example", dns.TypeA, dns.RcodeSuccess, 2, false},
		{"null.example", dns.TypeMX, dns.RcodeSuccess, 1, false},
		{"implicit.example", dns.TypeMX, dns.RcodeSuccess, 0, false},
		{"implicit.example", dns.TypeA, dns.RcodeSuccess, 1, false},
		{"nowhere.example", dns.TypeMX, dns.RcodeNameError, 0, true},
	}
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range tests {
			m := query(t, n, network, tt.name, tt.rrtype)
			if m == nil || m.Rcode != tt.rcode || len(m.Answer) != tt.answer || m.AuthenticatedData != tt.ad {
				t.Errorf("%s %s %s: %v", network, tt.name, dns.TypeToString[tt.rrtype], m)
			}
		}
	}
}

func TestDNSFaults(t *testing.T) {
	n := start(t)
	n.Add(fakenet.Domain{Name: "signed.example", Signed: true})
	ask := func(f fakenet.DNSFault) *dns.Msg {
		n.SetDNS("signed.example", "MX", f)
		return query(t, n, "udp", "signed.example", dns.TypeMX)
	}
	if m := ask(fakenet.Timeout); m != nil {
		t.Errorf("timeout answered %v", m)
	}
	for f, rcode := range map[fakenet.DNSFault]int{
		fakenet.NoFault: dns.RcodeSuccess, fakenet.ServFail: dns.RcodeServerFailure, fakenet.Bogus: dns.RcodeServerFailure,
		fakenet.Refused: dns.RcodeRefused, fakenet.Gone: dns.RcodeNameError, fakenet.Unsigned: dns.RcodeSuccess,
	} {
		m := ask(f)
		if m == nil || m.Rcode != rcode || (len(m.Answer) > 0) != (rcode == dns.RcodeSuccess) {
			t.Fatalf("fault %d: %v", f, m)
		}
		if ad := f == fakenet.NoFault || f == fakenet.Gone; m.AuthenticatedData != ad {
			t.Errorf("fault %d: AD %v", f, !ad)
		}
		if ede := len(m.IsEdns0().Option) == 1; ede != (f == fakenet.Bogus) {
			t.Errorf("fault %d: EDE %v", f, ede)
		}
	}
	if got := n.Lookups("signed.example", "MX"); got < 7 {
		t.Errorf("%d lookups counted", got)
	}
	n.SetDNS("signed.example", "MX", fakenet.Bogus)
	unchecked := new(dns.Msg).SetQuestion("signed.example.", dns.TypeMX)
	unchecked.CheckingDisabled, unchecked.AuthenticatedData = true, true
	if m, err := dns.ExchangeContext(t.Context(), unchecked, n.Resolver()); err != nil || len(m.Answer) != 1 || m.AuthenticatedData {
		t.Errorf("bogus with CD: %v %v", m, err) // RFC 4035 §3.2.2: whoever checks for himself gets the data
	}
	n.SetDNS("signed.example", "MX", fakenet.NoFault)
	n.SetDNS("signed.example", "*", fakenet.ServFail)
	if m := query(t, n, "udp", "signed.example", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("all types: %v", m)
	}
}

func TestPolicyHost(t *testing.T) {
	n := start(t)
	n.Add(fakenet.Domain{Name: "p.example", MX: []string{"mx1.p.example", "mx2.p.example"}, STS: &fakenet.STS{Mode: "enforce", MaxAge: 600}})
	n.Add(fakenet.Domain{Name: "bad.example", STS: &fakenet.STS{Mode: "enforce", Cert: fakenet.WrongName}})
	get := func(domain string) (*http.Response, string, error) {
		web := http.Client{
			Transport: &http.Transport{
				DialContext: n.Dial, DisableKeepAlives: true,
				TLSClientConfig: &tls.Config{RootCAs: n.Roots()},
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		resp, err := web.Get("https://mta-sts." + domain + "/.well-known/mta-sts.txt")
		if err != nil {
			return nil, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp, string(b), err
	}
	want := "version: STSv1\r\nmode: enforce\r\nmx: mx1.p.example\r\nmx: mx2.p.example\r\nmax_age: 600\r\n"
	if resp, body, err := get("p.example"); err != nil || body != want || resp.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("policy %q, %v", body, err)
	}
	if _, _, err := get("bad.example"); !errors.As(err, new(x509.HostnameError)) {
		t.Errorf("wrong certificate: %v", err)
	}
	n.SetSTS("p.example", &fakenet.STS{Status: 302, Location: "https://elsewhere.example/", Body: "x", ContentType: "text/html"})
	if resp, body, err := get("p.example"); err != nil || resp.StatusCode != 302 || body != "x" {
		t.Errorf("redirect: %v %v", resp, err)
	}
	n.SetSTS("p.example", nil)
	if _, _, err := get("p.example"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("policy taken away: %v", err)
	}
	if m := query(t, n, "udp", "_mta-sts.p.example", dns.TypeTXT); m.Rcode != dns.RcodeNameError {
		t.Errorf("record taken away: %v", m)
	}
}

func TestSharedServerAndOwnPort(t *testing.T) {
	n, err := fakenet.Start(t.Context(), fakenet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := n.Add(fakenet.Domain{Name: "a.example", Cert: fakenet.SelfSigned})
	b := n.Add(fakenet.Domain{Name: "b.example", MX: []string{"mx.a.example", "mx.b.example"}})
	if a != b || n.Host("mx.b.example") == nil || len(n.Hosts()) != 2 {
		t.Error("a server named twice is not one server")
	}
	open := dial(t, n, "mx.a.example:25")
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(open); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("open connection after Close: %v", err)
	}
}

// A process that has no hook reaches the servers through the resolver alone.
func TestSMTPPort(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	n, err := fakenet.Start(t.Context(), fakenet.Options{SMTPPort: ln.Addr().(*net.TCPAddr).Port})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	mx := n.Add(fakenet.Domain{Name: "a.example"})
	conn, err := net.Dial("tcp", net.JoinHostPort(mx.IP, port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	talk(t, conn, []string{"< 220 mx.a.example"})
}

func BenchmarkSink(b *testing.B) {
	n, err := fakenet.Start(b.Context(), fakenet.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	mx := n.Add(fakenet.Domain{Name: "p.example", Discard: true})
	conn, err := n.Dial(b.Context(), "tcp", mx.Name+":25")
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	r := textproto.NewReader(bufio.NewReader(conn))
	body := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 128) + ".\r\n"
	_, _ = r.ReadLine()
	_, _ = io.WriteString(conn, "HELO c\r\n")
	_, _ = r.ReadLine()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		_, _ = io.WriteString(conn, "MAIL FROM:<>\r\nRCPT TO:<a@p.example>\r\nDATA\r\n")
		for range 3 {
			_, _ = r.ReadLine()
		}
		_, _ = io.WriteString(conn, body)
		if line, err := r.ReadLine(); err != nil || line[0] != '2' {
			b.Fatal(line, err)
		}
	}
}
