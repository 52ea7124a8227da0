package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/tlscheck"
)

func mail(body string, to ...string) Mail {
	if len(to) == 0 {
		to = []string{"pat@a.test"}
	}
	return Mail{From: "clinic@gw.test", To: to, Data: []byte("Subject: x\r\n\r\n" + body)}
}

func class(err error) string {
	if err == nil {
		return "none"
	}
	return tlscheck.ClassOf(err).String()
}

// unstuff undoes dot-stuffing as RFC 5321 §4.5.2 says.
func unstuff(raw []byte) []byte {
	raw = bytes.ReplaceAll(raw, []byte("\r\n."), []byte("\r\n"))
	return bytes.TrimPrefix(raw, []byte("."))
}

func TestBytesOnTheWireEqualData(t *testing.T) {
	for name, body := range map[string]string{
		"plain":           "hello\r\n",
		"dots":            ".\r\n..\r\n.x\r\nx.\r\n\r\n.\r\n",
		"dot first":       "",
		"eight bits":      "gr\xc3\xbc\xc3\x9fe \xff\r\n",
		"trailing blanks": "a \t \r\n\r\n\r\n",
		"long line":       strings.Repeat("y", 5000) + "\r\n",
		"buffer edges":    strings.Repeat(strings.Repeat("z", 61)+"\r\n.", 300) + "\r\n",
	} {
		h := startHost(t, script{ehlo: []string{"8BITMIME"}})
		m := mail(body)
		if name == "dot first" {
			m.Data = []byte(".first\r\n")
		}
		replies, err := h.session().Send(t.Context(), m)
		if err != nil || len(replies) != 1 || !replies[0].Accepted() {
			t.Fatalf("%s: %v, %v", name, replies, err)
		}
		if got := h.got(); len(got) != 1 || !bytes.Equal(unstuff(got[0]), m.Data) {
			t.Errorf("%s: sent %q, arrived %q", name, m.Data, got)
		}
	}
}

func TestUncanonicalDataIsRefused(t *testing.T) {
	h := startHost(t, script{})
	s := h.session()
	for _, data := range []string{"", "a", "a\r\nb", "a\nb\r\n", "a\rb\r\n", "a\r\r\n", "a\r\n.\n", "a\n.\r\n", "a\x00b\r\n", "a\r", "\n", "a\r\n\r"} {
		m := mail("")
		m.Data = []byte(data)
		if _, err := s.Send(t.Context(), m); class(err) != "permanent" || !errors.Is(err, errCanonical) {
			t.Errorf("%q: %v", data, err)
		}
	}
	if len(h.got()) != 0 || strings.Contains(strings.Join(h.heard(), " "), "MAIL") {
		t.Errorf("heard %q", h.heard())
	}
}

func TestReuseWithoutReset(t *testing.T) {
	h := startHost(t, script{})
	s := h.session()
	for range 3 {
		if _, err := s.Send(t.Context(), mail("x\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	want := "EHLO STARTTLS EHLO MAIL RCPT DATA MAIL RCPT DATA MAIL RCPT DATA QUIT"
	if got := verbs(h.heard()); got != want {
		t.Errorf("heard %s", got)
	}
	if _, err := s.Send(t.Context(), mail("x\r\n")); class(err) != "transport" || s.Usable() {
		t.Errorf("sent on a closed session: %v", err)
	}
}

func verbs(commands []string) string {
	var out []string
	for _, c := range commands {
		v, _, _ := strings.Cut(c, " ")
		out = append(out, v)
	}
	return strings.Join(out, " ")
}

func TestOneReplyPerRecipient(t *testing.T) {
	h := startHost(t, script{rcpt: map[string]string{
		"RCPT TO:<gone@a.test>": "550 5.1.1 no such user gone@a.test",
		"RCPT TO:<full@a.test>": "452 4.2.2 full",
		"RCPT TO:<old@a.test>":  "550 no",
	}})
	s := h.session()
	replies, err := s.Send(t.Context(), mail("x\r\n", "a@a.test", "gone@a.test", "full@a.test", "old@a.test", "b@a.test"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"250 2.0.0", "550 5.1.1", "452 4.2.2", "550", "250 2.0.0"}
	for i, r := range replies {
		if fmt.Sprint(r) != want[i] {
			t.Errorf("recipient %d: %v, want %s", i, r, want[i])
		}
	}
	if replies[1].Class() != tlscheck.Permanent || replies[2].Class() != tlscheck.Transport {
		t.Error("classes")
	}
	// All refused: no DATA, and the next message starts clean.
	replies, err = s.Send(t.Context(), mail("x\r\n", "gone@a.test"))
	if err != nil || len(replies) != 1 || replies[0].Code != 550 {
		t.Fatalf("%v, %v", replies, err)
	}
	if _, err := s.Send(t.Context(), mail("y\r\n")); err != nil {
		t.Fatal(err)
	}
	if got := verbs(h.heard()); !strings.HasSuffix(got, "DATA MAIL RCPT RSET EHLO MAIL RCPT DATA") {
		t.Errorf("heard %s", got)
	}
}

// Where a conversation breaks, and what is to be made of it.
func TestFailureClasses(t *testing.T) {
	big := strings.Repeat(strings.Repeat("q", 76)+"\r\n", 1000)
	for name, tc := range map[string]struct {
		s      script
		body   string
		want   string
		usable bool
	}{
		"MAIL 4xx":                   {script{replies: map[string]string{"MAIL": "451 later"}}, "", "transport", true},
		"MAIL 5xx":                   {script{replies: map[string]string{"MAIL": "550 5.7.1 no"}}, "", "permanent", true},
		"MAIL 421":                   {script{replies: map[string]string{"MAIL": "421 bye"}}, "", "transport", false},
		"MAIL nonsense":              {script{replies: map[string]string{"MAIL": "x pat@a.test"}}, "", "transport", false},
		"MAIL 354":                   {script{replies: map[string]string{"MAIL": "354 pat@a.test"}}, "", "transport", false},
		"MAIL dropped":               {script{drop: "MAIL"}, "", "transport", false},
		"RCPT dropped":               {script{drop: "RCPT"}, "", "transport", false},
		"RCPT 421":                   {script{replies: map[string]string{"RCPT": "421 bye"}}, "", "transport", false},
		"DATA 4xx":                   {script{replies: map[string]string{"DATA": "451 later"}}, "", "transport", true},
		"DATA 5xx":                   {script{replies: map[string]string{"DATA": "554 no"}}, "", "permanent", true},
		"DATA 250":                   {script{replies: map[string]string{"DATA": "250 what"}}, "", "transport", false},
		"DATA dropped":               {script{drop: "DATA"}, "", "transport", false},
		"body cut":                   {script{slurp: 100}, strings.Repeat(big, 100), "transport", false},
		"dot 4xx":                    {script{replies: map[string]string{".": "451 4.3.0 later"}}, "", "transport", true},
		"dot 5xx":                    {script{replies: map[string]string{".": "554 5.6.0 no"}}, "", "permanent", true},
		"dot dropped":                {script{drop: "."}, "", "indeterminate", false},
		"dot answered oddly":         {script{replies: map[string]string{".": "354 more"}}, "", "indeterminate", false},
		"dot answered with nonsense": {script{replies: map[string]string{".": "ok pat@a.test"}}, "", "indeterminate", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.body != "" {
				tc.s.ehlo = []string{"PIPELINING"}
			}
			h := startHost(t, tc.s)
			s := h.session()
			replies, err := s.Send(t.Context(), mail(tc.body+"x\r\n"))
			if class(err) != tc.want || s.Usable() != tc.usable {
				t.Errorf("%v (%v), usable %t", err, replies, s.Usable())
			}
			for _, r := range replies {
				if r.Accepted() {
					t.Errorf("counts as accepted: %v", r)
				}
			}
			if strings.Contains(fmt.Sprintf("%v %+v %v", err, replies, errors.Unwrap(err)), "pat@") {
				t.Errorf("error repeats the peer: %v", err)
			}
		})
	}
}

// A message that broke off must never be completed: no final dot may follow.
func TestBrokenBodyIsNeverFinished(t *testing.T) {
	h := startHost(t, script{ehlo: []string{"PIPELINING"}, stall: true})
	s := h.session()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := s.Send(ctx, mail(strings.Repeat(strings.Repeat("q", 76)+"\r\n", 200000)))
	if class(err) != "transport" || s.Usable() {
		t.Errorf("%v", err)
	}
	s.Close()
	if len(h.got()) != 0 || strings.Contains(strings.Join(h.heard(), " "), "QUIT") {
		t.Errorf("heard %q", h.heard())
	}
}

func TestContextBoundsEveryCommand(t *testing.T) {
	for _, at := range []string{"MAIL", "RCPT", "DATA", "."} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			h := startHost(t, script{hang: at})
			s := h.session()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			start := time.Now()
			_, err := s.Send(ctx, mail("x\r\n"))
			want := "transport"
			if at == "." {
				want = "indeterminate"
			}
			if class(err) != want || time.Since(start) > 5*time.Second || s.Usable() {
				t.Errorf("%v after %s", err, time.Since(start))
			}
		})
	}
}

func TestCancelledContextEndsTheSession(t *testing.T) {
	h := startHost(t, script{})
	s := h.session()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Send(ctx, mail("x\r\n")); class(err) != "transport" {
		t.Errorf("%v", err)
	}
	if len(h.got()) != 0 {
		t.Error("sent all the same")
	}
}

func TestQuitIsBounded(t *testing.T) {
	h := startHost(t, script{hang: "QUIT"})
	s := h.session()
	s.quit = 50 * time.Millisecond
	start := time.Now()
	s.Close()
	if d := time.Since(start); d > quitTimeout {
		t.Errorf("took %s", d)
	}
}

func TestExtensions(t *testing.T) {
	for name, tc := range map[string]struct {
		ehlo   []string
		change func(*Mail)
		want   string
		mail   string // what MAIL carried
	}{
		"SIZE fits":             {[]string{"SIZE 1000"}, nil, "none", "SIZE=17"},
		"SIZE without limit":    {[]string{"SIZE"}, nil, "none", "SIZE=17"},
		"SIZE 0":                {[]string{"SIZE 0"}, nil, "none", "SIZE=17"},
		"too large":             {[]string{"SIZE 16"}, nil, "permanent", ""},
		"8BITMIME":              {[]string{"8BITMIME"}, func(m *Mail) { m.EightBit = true }, "none", "BODY=8BITMIME"},
		"no 8BITMIME":           {[]string{"SIZE"}, func(m *Mail) { m.EightBit = true }, "permanent", ""},
		"SMTPUTF8":              {[]string{"SMTPUTF8", "8BITMIME"}, func(m *Mail) { m.UTF8 = true }, "none", "SMTPUTF8"},
		"no SMTPUTF8":           {[]string{"8BITMIME"}, func(m *Mail) { m.UTF8 = true }, "permanent", ""},
		"address needs it":      {[]string{"8BITMIME"}, func(m *Mail) { m.To = []string{"jürgen@a.test"} }, "permanent", ""},
		"address has it":        {[]string{"SMTPUTF8"}, func(m *Mail) { m.To = []string{"jürgen@a.test"} }, "none", "SMTPUTF8"},
		"not used unasked":      {[]string{"SMTPUTF8"}, nil, "none", "MAIL FROM:<clinic@gw.test>"},
		"keywords in any case":  {[]string{"sIzE 1000", "8bitmime", "SmtpUtf8"}, func(m *Mail) { m.UTF8, m.EightBit = true, true }, "none", "BODY=8BITMIME SIZE=17 SMTPUTF8"},
		"lower-case size limit": {[]string{"size 16"}, nil, "permanent", ""},
		"DSN":                   {[]string{"DSN"}, func(m *Mail) { m.DSN = DSN{EnvelopeID: "id1", Headers: true} }, "none", "RET=HDRS ENVID=id1"},
		"NOTIFY":                {[]string{"DSN"}, func(m *Mail) { m.DSN = DSN{Notify: "SUCCESS,DELAY", ORcpt: "rfc822;ann+x@b.test"} }, "none", "NOTIFY=SUCCESS,DELAY ORCPT=RFC822;ann+2Bx@b.test"},
		"NOTIFY unheard":        {[]string{"SIZE"}, func(m *Mail) { m.DSN = DSN{Notify: "SUCCESS", ORcpt: "rfc822;ann@b.test"} }, "none", "SIZE=17\nRCPT TO:<pat@a.test>\nDATA"},
		"ORCPT that is none":    {[]string{"DSN"}, func(m *Mail) { m.DSN = DSN{ORcpt: "x400;c=us> NOTIFY=NEVER"} }, "none", "RCPT TO:<pat@a.test>\nDATA"},
		"no DSN":                {[]string{"SIZE"}, func(m *Mail) { m.DSN = DSN{EnvelopeID: "id1", Headers: true, Notify: "NEVER"} }, "none", "SIZE=17"},
		"null sender":           {[]string{"DSN"}, func(m *Mail) { m.From = "" }, "none", "MAIL FROM:<>"},
	} {
		h := startHost(t, script{ehlo: tc.ehlo})
		m := mail("x\r\n")
		if tc.change != nil {
			tc.change(&m)
		}
		_, err := h.session().Send(t.Context(), m)
		if class(err) != tc.want {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
		got := strings.Join(h.heard(), "\n")
		if tc.mail != "" && !strings.Contains(got, tc.mail) || tc.mail == "" && strings.Contains(got, "MAIL") {
			t.Errorf("%s: heard %q", name, got)
		}
		if name == "not used unasked" && strings.Contains(got, "SMTPUTF8") {
			t.Errorf("%s: heard %q", name, got)
		}
	}
}

func TestAddressesCannotInject(t *testing.T) {
	h := startHost(t, script{})
	s := h.session()
	for _, a := range []string{"", "a@a.test>\r\nRCPT TO:<b@b.test", "a@a.test> NOTIFY=NEVER", "a b@a.test", "a\x00@a.test", `"a@a.test`, `"a\"@a.test`, "<a@a.test"} {
		if _, err := s.Send(t.Context(), mail("x\r\n", "ok@a.test", a)); class(err) != "permanent" {
			t.Errorf("%q: %v", a, err)
		}
	}
	if got := verbs(h.heard()); got != "EHLO STARTTLS EHLO" {
		t.Errorf("heard %s", got)
	}
	if _, err := s.Send(t.Context(), mail("x\r\n", `"a > b\" c"@a.test`)); err != nil {
		t.Errorf("quoted local part: %v", err)
	}
	if _, err := s.Send(t.Context(), Mail{From: "a@gw.test", Data: []byte("x\r\n")}); class(err) != "permanent" {
		t.Error("no recipient")
	}
}

func TestOpenRefused(t *testing.T) {
	h := startHost(t, script{ehlo: []string{}, replies: nil})
	conn, err := h.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.drop = "EHLO"
	h.mu.Unlock()
	if _, err := Open(conn, "gw.test"); class(err) != "transport" {
		t.Errorf("%v", err)
	}
}

// The promise: a message with a floor never shows in clear on any socket,
// whatever the peer does, and mail without a floor still arrives where it may.
func TestR43_CanaryNeverInClear(t *testing.T) {
	const canary = "canary-7f3a-diagnosis"
	for name, tc := range map[string]struct {
		s    script
		sent bool // with a floor
	}{
		"good":                    {script{}, true},
		"no STARTTLS":             {script{clear: []string{"SIZE 100000"}}, false},
		"STARTTLS refused":        {script{starttls: "454 no"}, false},
		"STARTTLS unknown":        {script{starttls: "502 no"}, false},
		"STARTTLS agrees in 250":  {script{starttls: "250 sure"}, false},
		"STARTTLS injected":       {script{starttls: "220 go\r\n250-mx\r\n250 8BITMIME\r\n250 ok\r\n250 ok\r\n354 go"}, false},
		"garbage for TLS":         {script{garbage: "250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n"}, false},
		"wrong certificate":       {script{wrong: true}, false},
		"closes at STARTTLS":      {script{drop: "STARTTLS"}, false},
		"refuses EHLO behind TLS": {script{replies: map[string]string{"EHLO": "502 no"}}, false},
		"takes all, loses reply":  {script{drop: "."}, true},
		"takes part":              {script{slurp: 30}, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHost(t, tc.s)
			conn, err := h.dial(t.Context())
			if err == nil {
				var s *Session
				if s, err = Open(conn, "gw.test"); err == nil {
					_, err = s.Send(t.Context(), mail(canary+"\r\n"))
					s.Close()
				}
			}
			h.mu.Lock()
			leaked, arrived := strings.Contains(h.wire.String(), canary), len(h.messages) > 0
			h.mu.Unlock()
			if leaked {
				t.Fatalf("canary in clear: %q", h.wire.String())
			}
			if !tc.sent && arrived {
				t.Error("delivered without proof")
			}
			if tc.sent && tc.s.slurp == 0 && !arrived {
				t.Errorf("not delivered: %v", err)
			}
		})
	}
}

// The tee above sees what there is to see: open mail does show.
func TestOpenMailMayGoInClear(t *testing.T) {
	h := startHost(t, script{clear: []string{"SIZE 100000"}, one: true})
	s, err := h.plainSession()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Send(t.Context(), PlainMail(mail("no secret\r\n"))); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(h.wire.String(), "no secret") || len(h.got()) != 1 {
		t.Errorf("wire %q", h.wire.String())
	}
}

func TestOpenMailFallsBackToHELO(t *testing.T) {
	h := startHost(t, script{replies: map[string]string{"EHLO": "502 no"}})
	s, err := h.plainSession()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Send(t.Context(), PlainMail(mail("x\r\n"))); err != nil {
		t.Fatal(err)
	}
	if got := verbs(h.heard()); !strings.HasSuffix(got, "EHLO EHLO HELO MAIL RCPT DATA") {
		t.Errorf("heard %s", got)
	}
}

func TestMailPrintsAsPHI(t *testing.T) {
	m := mail("secret\r\n")
	var b bytes.Buffer
	l := slog.New(slog.NewTextHandler(&b, nil))
	for _, v := range []any{m, &m, PlainMail(m), []Mail{m}, struct{ M Mail }{m}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&b, verb+"\n", v)
		}
		l.Info("x", "mail", v)
		j, err := json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		b.Write(j)
	}
	fmt.Fprintf(&b, "%+v %#v", Reply{Code: 250, Text: "secret pat@"}, []Reply{{Text: "secret pat@"}})
	j, _ := json.Marshal(Reply{Text: "secret pat@"})
	b.Write(j)
	for _, s := range []string{"secret", "pat@", "clinic", fmt.Sprintf("%x", "secret")} {
		if strings.Contains(b.String(), s) {
			t.Errorf("%q shows: %s", s, b.String())
		}
	}
}

func TestFoldReader(t *testing.T) {
	f := foldReader{on: true}
	in := []byte("250-mx.a.test hello there\r\n250-size 10 x\r\n250-8bitmime\r\n250 smtputf8\r\n")
	for i := range in { // one byte at a time
		f.upper(in[i : i+1])
	}
	if got := string(in); got != "250-MX.A.TEST hello there\r\n250-SIZE 10 x\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n" {
		t.Errorf("%q", got)
	}
}
