package mail

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func viewOf(t *testing.T, lines ...string) View {
	t.Helper()
	m, err := Parse([]byte(strings.Join(lines, "\r\n") + "\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	return m.View()
}

const related = `From: "Valley Clinic" <care@valleyclinic.example>
Subject: =?utf-8?q?Your_r=C3=A9sults?=
Date: Mon, 02 Nov 2026 09:30:00 -0600
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=m

--m
Content-Type: multipart/related; boundary=r

--r
Content-Type: multipart/alternative; boundary=a

--a
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Hello =C3=81na
--a
Content-Type: text/html; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

<p>Hello =C1na</p><img src=3D"cid:logo@x">
--a--
--r
Content-Type: image/png
Content-ID: <logo@x>
Content-Transfer-Encoding: base64

iVBORw0KGgo=
--r--
--m
Content-Type: application/pdf; name="=?utf-8?q?An=C3=A1lisis.pdf?="
Content-Disposition: attachment
Content-Transfer-Encoding: base64

JVBERi0=
--m
Content-Type: image/jpeg
Content-ID: <never-shown@x>

jpeg
--m--
`

func TestView(t *testing.T) {
	v := viewOf(t, strings.Split(related, "\n")...)
	if v.Subject.Clear() != "Your résults" || len(v.From) != 1 || v.Date.IsZero() {
		t.Errorf("header: %q %d %v", v.Subject.Clear(), len(v.From), v.Date)
	}
	if v.Text.Clear() != "Hello Ána" || v.HTML.Clear() != `<p>Hello Ána</p><img src="cid:logo@x">` {
		t.Errorf("words: %q, %q", v.Text.Clear(), v.HTML.Clear())
	}
	if len(v.Inline) != 1 || v.Inline[0].ID != "logo@x" || len(v.Inline[0].Data) != 8 {
		t.Errorf("%d inline pictures, want the logo", len(v.Inline))
	}
	if len(v.Files) != 2 || v.Files[0].Name != "Análisis.pdf" || v.Files[0].Type != "application/pdf" || string(v.Files[0].Data) != "%PDF-" {
		t.Fatalf("%d files, want the PDF and the picture nobody shows", len(v.Files))
	}
}

func TestViewOfOddMail(t *testing.T) {
	head := "From: a@b.example"
	for _, c := range []struct {
		name       string
		lines      []string
		text, html string
		files      int
	}{
		{"no MIME at all", []string{head, "", "Hello"}, "Hello", "", 0},
		{"no body", []string{head, ""}, "", "", 0},
		{"undeclared Windows-1252", []string{head, "", "caf\xe9"}, "café", "", 0},
		{"unknown charset", []string{head, "Content-Type: text/plain; charset=x-klingon", "", "Hello"}, "Hello", "", 0},
		{"unknown encoding", []string{head, "Content-Transfer-Encoding: rot13", "", "Uryyb"}, "Uryyb", "", 0},
		{"text after HTML", []string{head, "Content-Type: multipart/mixed; boundary=x", "", "--x", "Content-Type: text/html", "", "<b>a</b>",
			"--x", "", "1 < 2", "--x--"}, "", "<b>a</b><hr><pre>1 &lt; 2</pre>", 0},
		{"ends early", []string{head, "Content-Type: multipart/mixed; boundary=x", "", "--x", "", "Hello"}, "Hello", "", 0},
		{"text as attachment", []string{head, "Content-Disposition: attachment", "", "Hello"}, "", "", 1},
		{"message inside", []string{head, "Content-Type: message/rfc822", "", "Subject: x", "", "Hello"}, "", "", 1},
		{"calendar", []string{head, "Content-Type: text/calendar", "", "BEGIN:VCALENDAR"}, "", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := viewOf(t, c.lines...)
			if strings.TrimSpace(v.Text.Clear()) != c.text || v.HTML.Clear() != c.html || len(v.Files) != c.files {
				t.Errorf("text %q, html %q, %d files", v.Text.Clear(), v.HTML.Clear(), len(v.Files))
			}
		})
	}
}

func TestViewPrintsNothing(t *testing.T) {
	v := viewOf(t, "From: Canary <canary@b.example>", "Subject: canary", "Content-Disposition: attachment; filename=canary", "", "canary")
	j, err := json.Marshal([]any{v, v.Files[0]})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", v, v, v, v), fmt.Sprintf("%v %#v %x", v.Files, v.Files, v.Files[0]), string(j)} {
		if strings.Contains(strings.ToLower(s), "canary") || strings.Contains(s, "63616e617279") {
			t.Errorf("printed %s", s)
		}
	}
}

func FuzzView(f *testing.F) {
	f.Add(strings.ReplaceAll(related, "\n", "\r\n"))
	f.Add("From: a@b.example\r\nContent-Type: multipart/mixed; boundary=\r\n\r\n--\r\n")
	f.Fuzz(func(t *testing.T, raw string) {
		if m, err := Parse([]byte(raw)); err == nil {
			m.View()
		}
	})
}
