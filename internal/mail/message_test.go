package mail

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/emersion/go-message/textproto"
	"pgregory.net/rapid"

	"github.com/phigate/phigate/policy"
)

func TestCanonical(t *testing.T) {
	for _, c := range []struct {
		in, refused, rewritten string // "!" = ErrBareLine
	}{
		{"", "", ""},
		{"a\r\nb\r\n", "a\r\nb\r\n", "a\r\nb\r\n"},
		{"a\r\nb", "a\r\nb\r\n", "a\r\nb\r\n"},
		{"a\nb\n", "!", "a\r\nb\r\n"},
		{"a\nb", "!", "a\r\nb\r\n"},
		{"\n\n", "!", "\r\n\r\n"},
		{"\r\n\r\n", "\r\n\r\n", "\r\n\r\n"},
		{"a\r\nb\n", "!", "!"}, // CRLF.LF
		{"a\nb\r\n", "!", "!"}, // LF.CRLF
		{"a\n.\nb\r\n", "!", "!"},
		{"a\rb\r\n", "!", "!"},
		{"a\r\r\n", "!", "!"}, // CR CR LF
		{"a\r", "!", "!"},
		{"\r\r\n", "!", "!"},
		{"a\x00b\xff\r\n", "a\x00b\xff\r\n", "a\x00b\xff\r\n"},
	} {
		for mode, want := range map[LineEnds]string{RefuseBare: c.refused, RewriteLF: c.rewritten} {
			got, err := Canonical([]byte(c.in), mode)
			if (want == "!") != errors.Is(err, ErrBareLine) || (want != "!" && string(got) != want) {
				t.Errorf("Canonical(%q, %d) = %q, %v; want %q", c.in, mode, got, err, want)
			}
		}
	}
}

// cuts is a reader that gives n bytes at a time.
type cuts struct {
	io.Reader
	n int
}

func (r *cuts) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(r.n, len(p))]) }

// TestCanonicalReader cuts texts anywhere: the reader must say what Canonical
// says of the whole.
func TestCanonicalReader(t *testing.T) {
	pieces := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "\r\n", "\n", "\r", "."}), 0, 8)
	rapid.Check(t, func(t *rapid.T) {
		in := strings.Join(pieces.Draw(t, "in"), "")
		mode := LineEnds(rapid.IntRange(0, 1).Draw(t, "mode"))
		want, wantErr := Canonical([]byte(in), mode)
		got, err := io.ReadAll(NewCanonicalReader(&cuts{strings.NewReader(in), rapid.IntRange(1, 3).Draw(t, "cut")}, mode))
		if !errors.Is(err, wantErr) || (err == nil && !bytes.Equal(got, want)) {
			t.Fatalf("%q: %q, %v; want %q, %v", in, got, err, want, wantErr)
		}
		if err == nil && !isCanonical(got) {
			t.Fatalf("%q: not canonical: %q", in, got)
		}
	})
}

func TestCanonicalReaderKeepsErrors(t *testing.T) {
	broken := errors.New("line dropped")
	_, err := io.ReadAll(NewCanonicalReader(io.MultiReader(strings.NewReader("a\r"), iotest.ErrReader(broken)), RefuseBare))
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

func parse(t testing.TB, raw string) *Message {
	t.Helper()
	m, err := Parse([]byte(strings.ReplaceAll(raw, "\n", crlf)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParseRefuses(t *testing.T) {
	for raw, want := range map[string]error{
		"From a@b.example Mon Jan 1 00:00:00 2026\r\nTo: x\r\n\r\n": ErrMalformedHeader, // mbox
		" Subject: x\r\n\r\n":                     ErrMalformedHeader,
		"Subject\r\n\r\n":                         ErrMalformedHeader,
		": x\r\n\r\n":                             ErrMalformedHeader,
		"Sub ject: x\r\n\r\n":                     ErrMalformedHeader,
		"Sübject: x\r\n\r\n":                      ErrMalformedHeader,
		"Subject: x\x00y\r\n\r\n":                 ErrMalformedHeader,
		"Subject: x\n\n":                          ErrBareLine,
		"Subject: x\r\n\r\na\rb\r\n":              ErrBareLine,
		"Subject: x\r\n\r\nno end":                ErrBareLine,
		strings.Repeat("A: b\r\n", MaxFields+1):   ErrHeaderTooLarge,
		"A: " + strings.Repeat("b", 2<<20) + crlf: ErrHeaderTooLarge,
	} {
		if _, err := Parse([]byte(raw)); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", raw, err, want)
		}
	}
}

func TestFrom(t *testing.T) {
	for header, want := range map[string]string{
		"From: a@b.example\n":  "a@b.example",
		"From : a@b.example\n": "a@b.example",
		"From: =?utf-8?q?Caf=C3=A9?= <a@b.example>,\n c@d.example\n": "a@b.example c@d.example",
		"From: a@b.example\nfrom: c@d.example\n":                     "",
		"From: a@b.example\nFrom : a@b.example\n":                    "",
		"From: nobody\n":        "",
		"From:\n":               "",
		"From: undisclosed:;\n": "",
		"To: a@b.example\n":     "",
	} {
		boxes, err := parse(t, header+"\n").From()
		var got []string
		for _, b := range boxes {
			got = append(got, b.Address.Clear())
		}
		if strings.Join(got, " ") != want || (want == "") != errors.Is(err, ErrFrom) {
			t.Errorf("%q: %q, %v; want %q", header, got, err, want)
		}
	}
}

func TestHeaderText(t *testing.T) {
	m := parse(t, "From: a@b.example\nTo: \"Ana\n Diaz\" <ana@mail.example>\nCc: not an address\n"+
		"Subject: =?iso-8859-1?q?caf=E9?=\nSubject: second\nMessage-ID: <1@x>\n\nbody\n")
	if got := m.Subject().Clear(); got != "café\nsecond" {
		t.Errorf("Subject = %q", got)
	}
	named := m.Named("To", "Cc")
	if len(named) != 2 || named[0].Name.Clear() != "Ana Diaz" || named[0].Address != "ana@mail.example" || named[1].Name.Clear() != "not an address" {
		t.Errorf("%d mailboxes", len(named))
	}
	if m.MessageID() != "<1@x>" || string(m.Body()) != "body\r\n" || m.NeedsUTF8() || m.EightBit() {
		t.Error("message id, body or flags")
	}
}

func TestOneClick(t *testing.T) {
	const post = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\n"
	for header, want := range map[string]bool{
		"List-Unsubscribe: <mailto:u@x.example>,\n <https://x.example/u>\n" + post: true,
		"List-Unsubscribe: <http://x.example/u>\n" + post:                          false,
		"List-Unsubscribe: <https://x.example/u>\n":                                false,
		post: false,
	} {
		if got := parse(t, header+"\n").OneClick(); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}

func TestControls(t *testing.T) {
	c := parse(t, "X-Gateway-Class: Treatment_Ops\nx-gateway-class: marketing\nX-Gateway-Campaign: spring-2026\n"+
		"X-Gateway-Campaign: spring-2026\nX-Gateway-Language: es-MX\nX-Gateway-Audience: my friends\nX-Gateway-Foo: 1\n\n").Controls()
	if fmt.Sprint(c.Class) != "[treatment_ops marketing]" || c.Campaign != "spring-2026" || c.Language != "es-mx" {
		t.Errorf("%+v", c)
	}
	if len(c.Audience) != 1 || c.Audience[0] != "" {
		t.Errorf("a malformed value must count as unknown: %q", c.Audience)
	}
	if got := fmt.Sprint(c.Wrong); got != "[x-gateway-class x-gateway-audience x-gateway-foo]" {
		t.Errorf("Wrong = %s", got)
	}
	if two := parse(t, "X-Gateway-Campaign: a\nX-Gateway-Campaign: b\n\n").Controls(); two.Campaign != "" || len(two.Wrong) != 1 {
		t.Errorf("two campaigns: %+v", two)
	}
}

func TestPrepare(t *testing.T) {
	m := parse(t, "x-gateway-class: marketing\nFrom:  a@b.example\nBCC : x@y.example,\n z@y.example\nTLS-Required: No\n"+
		"Return-Path: <a@b.example>\nSubject:\tkeep  this\n folded \n\n  body \n\n")
	got := string(m.Prepare(Passage{Hostname: "gw.example", ID: "0abc", Now: noon, Fields: []Field{{"X-A", "b\r\nBcc: c"}}}))
	want := strings.ReplaceAll("Received: from unspecified by gw.example\n\twith ESMTP id 0abc;\n\tSun, 01 Mar 2026 12:00:00 +0000\n"+
		"Date: Sun, 01 Mar 2026 12:00:00 +0000\nMessage-ID: <0abc@gw.example>\nX-A: bBcc: c\n"+
		"From:  a@b.example\nSubject:\tkeep  this\n folded \n\n  body \n\n", "\n", crlf)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestPreparedParses holds for any message: nothing that must not leave is
// left, and the rest is there byte for byte.
func TestPreparedParses(t *testing.T) {
	name := rapid.SampledFrom([]string{"Bcc", "X-Gateway-Class", "Subject", "To", "Date", "X-GATEWAY-foo ", "Return-path"})
	value := rapid.StringMatching(`[ a-z:;<>@\t]{0,20}`)
	rapid.Check(t, func(t *rapid.T) {
		var raw, kept strings.Builder
		for range rapid.IntRange(0, 6).Draw(t, "n") {
			f := name.Draw(t, "name") + ":" + value.Draw(t, "value") + crlf
			if rapid.Bool().Draw(t, "fold") {
				f += "\t" + value.Draw(t, "more") + crlf
			}
			raw.WriteString(f)
			if f[0] == 'S' || f[0] == 'T' || f[0] == 'D' {
				kept.WriteString(f)
			}
		}
		body := crlf + value.Draw(t, "body") + crlf
		m, err := Parse([]byte(raw.String() + body))
		if err != nil {
			t.Fatal(err)
		}
		if out := m.Prepare(Passage{Hostname: "gw.example", ID: "1", Now: noon}); !bytes.HasSuffix(out, []byte(kept.String()+body)) {
			t.Fatalf("%q became %q", raw.String(), out)
		}
	})
}

func TestNothingPrints(t *testing.T) {
	const canary = "canary"
	m := parse(t, "From: canary <canary@b.example>\nSubject: canary\n\ncanary\n")
	from, err := m.From()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	for _, v := range []any{m, m.Subject(), from, from[0], testKeys()[0], Key{Domain: canary}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&log, verb, v)
		}
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		if err := json.NewEncoder(&log).Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	// JSON of a policy.Address is its text: a Mailbox goes into no JSON of ours.
	if strings.Contains(strings.ReplaceAll(log.String(), "canary@b.example", ""), canary) || strings.Contains(log.String(), "63616e617279") {
		t.Errorf("printed: %s", log.String())
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"Ana.Diaz@Mail.EXAMPLE": "Ana.Diaz@mail.example", "a@bücher.example": "a@xn--bcher-kva.example",
		"ü@b.example": "ü@b.example", "a+b@c.example": "a+b@c.example",
		"": "", "a": "", "@b.example": "", "a@": "", "a@b@c.example": "", "a b@c.example": "", "a..b@c.example": "", ".a@c.example": "",
		"<a@c.example>": "", `"a b"@c.example`: "", "a@[192.0.2.1]": "", "a@b..example": "", "a@-b.example": "", "a\r\n@b.example": "",
		strings.Repeat("a", 65) + "@b.example": "",
	} {
		got, err := ParseAddress(in)
		if got.Clear() != want || (want == "") != errors.Is(err, ErrAddress) {
			t.Errorf("%q: %q, %v", in, got.Clear(), err)
		}
	}
	if !NeedsUTF8("ü@b.example") || NeedsUTF8("u@bücher.example") || NeedsUTF8(policy.Address("x")) {
		t.Error("NeedsUTF8")
	}
}

// FuzzBorder checks that go-message, as one of those who read the message after
// us, sees the same fields and the same body.
func FuzzBorder(f *testing.F) {
	for _, s := range []string{"A: b\r\n\r\nbody\r\n", "A: b\r\n \r\nBcc: c\r\n\r\n", "\r\nA: b\r\n", "A: b\r\n", "A: b\r\n\t\r\n\r\n\r\n", "A : b\r\n c\r\n\r\nB: c\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw, err := Canonical(raw, RewriteLF)
		if err != nil {
			return
		}
		m, err := Parse(raw)
		if err != nil {
			return
		}
		r := bufio.NewReader(bytes.NewReader(raw))
		h, err := textproto.ReadHeader(r)
		if err != nil {
			t.Fatalf("go-message refuses %q: %v", raw, err)
		}
		body, _ := io.ReadAll(r)
		if h.Len() != len(m.fields) || !bytes.Equal(body, m.Body()) {
			t.Fatalf("%q: %d fields and %q, go-message %d and %q", raw, len(m.fields), m.Body(), h.Len(), body)
		}
		i := 0
		for fs := h.Fields(); fs.Next(); i++ {
			if !strings.EqualFold(fs.Key(), m.fields[i].name) {
				t.Fatalf("%q: field %d is %q, go-message %q", raw, i, m.fields[i].name, fs.Key())
			}
		}
	})
}

func BenchmarkParsePrepare(b *testing.B) {
	raw := []byte(strings.Repeat("X-Trace: some value of a header that is there too\r\n", 20) + "From: Clinic <a@b.example>\r\nTo: c@d.example\r\nSubject: hello\r\n\r\n" +
		strings.Repeat(strings.Repeat("x", 74)+"\r\n", 10<<10/76))
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		m, err := Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.From(); err != nil {
			b.Fatal(err)
		}
		m.Controls()
		m.Prepare(Passage{Hostname: "gw.example", ID: "1", Now: noon})
	}
}
