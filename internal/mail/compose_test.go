package mail

import (
	"bytes"
	"io"
	stdmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message"

	"github.com/phigate/phigate/policy"
)

var ours = Envelope{FromName: "Valley Clinic", From: "mail@clinic.example", To: "ana@mail.example", Hostname: "gw.example", ID: "0abc", Now: noon}

// readParts reads a composed message with an independent reader: its header and
// the decoded text of each part by media type.
func readParts(t *testing.T, raw []byte, err error) (message.Header, map[string]string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if !isCanonical(raw) || !isASCII(raw) {
		t.Fatal("not canonical, or not ASCII")
	}
	for line := range bytes.SplitSeq(raw, []byte(crlf)) {
		if len(line) > 998 {
			t.Fatalf("line of %d bytes", len(line))
		}
	}
	m, err := message.Read(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for r := m.MultipartReader(); ; {
		p, err := r.NextPart()
		if err == io.EOF {
			return m.Header, parts
		}
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := p.Header.ContentType()
		text, err := io.ReadAll(p.Body)
		if err != nil {
			t.Fatal(err)
		}
		parts[kind] = string(text)
	}
}

func TestNotice(t *testing.T) {
	n := Notice{Envelope: ours, Language: "es-MX", Practice: "Clínica <Valle>", Phone: "+1 555 0100",
		Link: "https://secure.clinic.example/p/1.s?a=b&c=d", Expires: noon.AddDate(0, 1, 0)}
	raw, err := n.Bytes()
	h, parts := readParts(t, raw, err)
	subject, err := h.Text("Subject")
	if err != nil || subject != "Tiene un mensaje de Clínica <Valle>" {
		t.Errorf("Subject %q, %v", subject, err)
	}
	if h.Get("Auto-Submitted") != "auto-generated" || h.Get("Message-Id") != "<0abc@gw.example>" {
		t.Error("Auto-Submitted or Message-ID")
	}
	for kind, want := range map[string][]string{
		"text/plain": {n.Link, n.Practice, n.Phone, "1 de abril de 2026"},
		"text/html":  {`<html lang="es">`, `href="https://secure.clinic.example/p/1.s?a=b&amp;c=d"`, "Clínica &lt;Valle&gt;", "1 de abril de 2026"},
	} {
		for _, w := range want {
			if !strings.Contains(parts[kind], w) {
				t.Errorf("%s lacks %q:\n%s", kind, w, parts[kind])
			}
		}
		if strings.Contains(parts[kind], "{") && kind == "text/plain" {
			t.Errorf("%s: a word was not filled in", kind)
		}
	}
	if rich := parts["text/html"]; strings.Contains(rich, "<img") || strings.Contains(rich, "src=") || strings.Count(rich, "href=") != 1 {
		t.Error("the notice loads something, or has more than one link")
	}
}

func TestNoticeSpeaksEnglishByDefault(t *testing.T) {
	for _, tag := range []string{"", "en", "fr", "est"} {
		raw, err := Notice{Envelope: ours, Language: tag, Practice: "P", Link: "https://x.example/", Expires: noon}.Bytes()
		if h, parts := readParts(t, raw, err); h.Get("Subject") != "A message from P is waiting for you" || !strings.Contains(parts["text/plain"], "March 1, 2026") {
			t.Errorf("%q: %q", tag, h.Get("Subject"))
		}
	}
}

func TestPickupCode(t *testing.T) {
	raw, err := PickupCode{Envelope: ours, Practice: "Valley {phone} Clinic", Phone: "555", Code: "123456", Valid: 10 * time.Minute}.Bytes()
	h, parts := readParts(t, raw, err)
	if got := h.Get("Subject"); got != "123456 is your code for Valley {phone} Clinic" {
		t.Errorf("Subject %q", got)
	}
	if !strings.Contains(parts["text/plain"], "\r\n123456\r\n") || !strings.Contains(parts["text/plain"], "10 minutes") {
		t.Error(parts["text/plain"])
	}
}

func TestNamesCannotAddFields(t *testing.T) {
	e := ours
	e.FromName = "Eve\r\nBcc: x@y.example"
	for _, name := range []string{e.FromName, "Éve\r\nBcc: x@y.example", `a"b\c`} {
		e.FromName = name
		raw, err := PickupCode{Envelope: e, Practice: name, Code: "123456"}.Bytes()
		if h, _ := readParts(t, raw, err); h.Has("Bcc") {
			t.Errorf("%q added a field", name)
		}
		m, err := stdmail.ReadMessage(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Header.AddressList("From"); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestDSN(t *testing.T) {
	const canary = "canary"
	raw, err := DSN{
		Envelope: ours, EnvID: "QQ314159", MessageID: "0m1", Arrived: noon,
		Recipients: []Status{
			{Recipient: "bo@mail.example", ORcpt: "rfc822;bo@old.example", Action: Failed, Enhanced: "5.1.1", Code: "HG-K102",
				Reply: "550-5.1.1 canary: no such user canary", RemoteMTA: "mx.mail.example"},
			{Recipient: "ü@mail.example", Action: Failed, Enhanced: "5.7.1", Code: "HG-C101"},
			{Recipient: "cy@mail.example", Action: Delayed, Reply: "421 canary", Enhanced: "canary", Until: noon.Add(time.Hour)},
		},
	}.Bytes()
	h, parts := readParts(t, raw, err)
	kind, params, _ := h.ContentType()
	if kind != "multipart/report" || params["report-type"] != "delivery-status" || h.Get("Auto-Submitted") != "auto-replied" {
		t.Errorf("%s %v", kind, params)
	}
	want := strings.ReplaceAll(`Original-Envelope-Id: QQ314159
Reporting-MTA: dns; gw.example
Arrival-Date: Sun, 01 Mar 2026 12:00:00 +0000

Original-Recipient: rfc822; bo@old.example
Final-Recipient: rfc822; bo@mail.example
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.mail.example
Diagnostic-Code: smtp; 550 5.1.1 HG-K102 (id 0m1)

Final-Recipient: utf-8; \x{FC}@mail.example
Action: failed
Status: 5.7.1
Diagnostic-Code: smtp; 550 5.7.1 HG-C101 (id 0m1)

Final-Recipient: rfc822; cy@mail.example
Action: delayed
Status: 5.0.0
Diagnostic-Code: smtp; 421 (id 0m1)
Will-Retry-Until: Sun, 01 Mar 2026 13:00:00 +0000
`, "\n", crlf)
	if got := parts["message/delivery-status"]; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if bytes.Contains(raw, []byte(canary)) {
		t.Error("text of another server's reply was taken over")
	}
}

func TestKeys(t *testing.T) {
	for _, k := range testKeys() {
		text, err := k.MarshalPEM()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseKey("Clinic.EXAMPLE", k.Selector, text)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := k.DNSRecord()
		b, _ := again.DNSRecord()
		if a != b || !strings.HasPrefix(a, k.Selector+`._domainkey.clinic.example. TXT "v=DKIM1; k=`) {
			t.Errorf("%s\n%s", a, b)
		}
		for s := range strings.SplitSeq(a, `"`) {
			if len(s) > 255 {
				t.Errorf("string of %d bytes", len(s))
			}
		}
	}
	for _, text := range []string{"", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := ParseKey("clinic.example", "s", []byte(text)); err == nil {
			t.Errorf("%q read as a key", text)
		}
	}
	if _, err := NewSigner(clock, Key{Domain: policy.Address("x").Domain(), Selector: "s"}); err == nil {
		t.Error("a key without domain signs")
	}
}
