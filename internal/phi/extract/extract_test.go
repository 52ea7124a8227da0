package extract

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

func read(raw string) *Message { return Read(context.Background(), []byte(raw), Limits{}) }

func all(m *Message) string {
	var b strings.Builder
	for _, p := range m.Parts {
		fmt.Fprintf(&b, "[%s] %s\n", p.Path, p.Text)
	}
	return b.String()
}

func has(m *Message, why Reason) bool {
	for _, u := range m.Unscannable {
		if u.Reason == why {
			return true
		}
	}
	return false
}

func zipped(files map[string]string) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, data := range files {
		f, _ := w.Create(name)
		f.Write([]byte(data))
	}
	w.Close()
	return b.Bytes()
}

func attach(name, media string, data []byte) string {
	return "Subject: x\nContent-Type: multipart/mixed; boundary=b1\n\n--b1\nContent-Type: text/plain\n\nsee attached, this is long enough to count\n--b1\nContent-Type: " + media +
		"; name=\"" + name + "\"\nContent-Disposition: attachment; filename=\"" + name + "\"\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString(data) + "\n--b1--\n"
}

// TestEveryDisguiseGivesTheText: each message says "your A1C was 8.2" in its own way.
func TestEveryDisguiseGivesTheText(t *testing.T) {
	const want = "your A1C was 8.2"
	b64 := base64.StdEncoding.EncodeToString
	u16 := func(s string) (b []byte) {
		for _, c := range utf16.Encode([]rune(s)) {
			b = append(b, byte(c), byte(c>>8))
		}
		return b
	}
	docx := zipped(map[string]string{"[Content_Types].xml": "<Types/>", "word/document.xml": `<w:document><w:p><w:r><w:t>your A1C </w:t></w:r><w:r><w:t>was 8.2</w:t></w:r></w:p></w:document>`})
	for name, raw := range map[string]string{
		"plain":                 "Subject: x\n\n" + want,
		"bare CR lines":         "Subject: x\r\r" + want,
		"quoted-printable":      "Content-Transfer-Encoding: quoted-printable\n\nyour A=\n1C was=20=38.2",
		"soft break in number":  "Content-Transfer-Encoding: quoted-printable\n\nyour A1C was 8=\r\n.2",
		"base64 with junk":      "Content-Transfer-Encoding: base64\n\n" + strings.ReplaceAll(strings.TrimRight(b64([]byte(want)), "="), "A", "A!\n"),
		"utf-16":                "Content-Type: text/plain; charset=utf-16\nContent-Transfer-Encoding: base64\n\n" + b64(u16(want)),
		"utf-16 undeclared":     "Content-Transfer-Encoding: base64\n\n" + b64(u16(want)),
		"utf-7":                 "Content-Type: text/plain; charset=utf-7\n\nyour +AEE-1C was 8.2",
		"charset lies":          "Content-Type: text/plain; charset=utf-16\n\n" + want,
		"encoded subject":       "Subject: =?utf-8?B?" + b64([]byte("your A1")) + "?= =?utf-8?B?" + b64([]byte("C was 8.2")) + "?=\n\n",
		"tags in words":         "Content-Type: text/html\n\n<p>your A<b>1</b><span>C</span> was&nbsp;8&#46;2</p>",
		"html hidden":           "Content-Type: text/html\n\n<div style='display:none'>your A1C was 8.2</div>",
		"html comment":          "Content-Type: text/html\n\n<p>hi</p><!-- your A1C was 8.2 -->",
		"outlook conditional":   "Content-Type: text/html\n\n<!--[if mso]><p>your A1C was 8.2</p><![endif]-->",
		"alt text":              "Content-Type: text/html\n\n<img alt='your A1C was 8.2' src=x.png>",
		"zero width":            "Content-Type: text/plain; charset=utf-8\n\nyo\u200bur A\u00ad1C was 8\u2060.2",
		"look-alikes":           "Content-Type: text/plain; charset=utf-8\n\nyоur А1С was ８.２",
		"spaced letters":        "Subject: x\n\ny o u r A1C was 8.2",
		"no boundary parameter": "Content-Type: multipart/mixed\n\n--zzzzzz\nContent-Type: text/plain\n\n" + want + "\n--zzzzzz--",
		"never closed":          "Content-Type: multipart/mixed; boundary=q\n\n--q\n\n" + want,
		"preamble":              "Content-Type: multipart/mixed; boundary=q\n\n" + strings.Repeat("x ", 50) + want + "\n--q\n\nhi\n--q--",
		"two content types":     "Content-Type: application/pdf\nContent-Type: text/plain\n\n" + want,
		"rfc822":                "Content-Type: message/rfc822\n\nSubject: inner\n\n" + want,
		"uuencode":              "Subject: x\n\nbegin 644 a.txt\n0>6]U<B!!,4,@=V%S(#@N,@``\n`\nend\n",
		"docx":                  attach("a.docx", "application/octet-stream", docx),
		"docx named txt":        attach("a.txt", "text/plain", docx),
		"zip in zip":            attach("a.zip", "application/zip", zipped(map[string]string{"b.zip": string(zipped(map[string]string{"c.txt": want}))})),
		"rtf":                   attach("a.rtf", "application/rtf", []byte(`{\rtf1\ansi your A1C\~was 8.2\par}`)),
		"folded calendar":       "Content-Type: text/calendar\n\nBEGIN:VCALENDAR\r\nSUMMARY:your A1\r\n C was 8.2\r\nEND:VCALENDAR",
		"data uri":              "Content-Type: text/html\n\n<a href='data:text/plain;base64," + b64([]byte(want)) + "'>x</a>",
	} {
		if got := strings.ReplaceAll(all(read(raw)), "\u00a0", " "); !strings.Contains(got, want) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// TestWhatCannotBeReadIsSaid holds the reasons: silence would pass for clean.
func TestWhatCannotBeReadIsSaid(t *testing.T) {
	encrypted := zipped(map[string]string{"a.txt": "secret"})
	for i := range len(encrypted) - 8 {
		switch string(encrypted[i : i+4]) {
		case "PK\x01\x02":
			encrypted[i+8] |= 1
		case "PK\x03\x04":
			encrypted[i+6] |= 1
		}
	}
	nested := "deep"
	for range 8 {
		nested = string(zipped(map[string]string{"n.zip": nested}))
	}
	var bomb bytes.Buffer
	g := gzip.NewWriter(&bomb)
	g.Write(make([]byte, 4<<20))
	g.Close()
	many := map[string]string{}
	for i := range 1200 {
		many[fmt.Sprint(i, ".txt")] = "x"
	}
	for name, c := range map[string]struct {
		raw string
		why Reason
	}{
		"encrypted zip":     {attach("a.zip", "application/zip", encrypted), Encrypted},
		"pgp":               {"Subject: x\n\n-----BEGIN PGP MESSAGE-----\nabc\n", Encrypted},
		"smime":             {attach("smime.p7m", "application/pkcs7-mime", []byte{0x30, 0x80, 6, 9, 0, 1, 2, 3}), Encrypted},
		"zip too deep":      {attach("a.zip", "application/zip", []byte(nested)), TooDeep},
		"mime too deep":     {strings.Repeat("Content-Type: message/rfc822\n\n", 300) + "x", TooDeep},
		"gzip bomb":         {attach("a.gz", "application/gzip", bomb.Bytes()), TooLarge},
		"too many members":  {attach("a.zip", "application/zip", zipped(many)), TooLarge},
		"broken zip":        {attach("a.zip", "application/zip", []byte("PK\x03\x04nonsense")), Malformed},
		"broken pdf":        {attach("a.pdf", "application/pdf", []byte("%PDF-1.4 nonsense")), Malformed},
		"7z":                {attach("a.7z", "application/octet-stream", []byte("7z\xbc\xaf\x27\x1c\x00\x00")), Unsupported},
		"unknown binary":    {attach("a.bin", "application/octet-stream", bytes.Repeat([]byte{0, 1, 2, 0xfe, 7}, 50)), Unsupported},
		"partial":           {"Content-Type: message/partial; id=a\n\nx", Unsupported},
		"picture only":      {"Content-Type: text/html\n\n<img src=x.png>", ImageOnly},
		"boundary unused":   {"Content-Type: multipart/mixed; boundary=q\n\nhello", Ambiguous},
		"two content types": {"Content-Type: text/html\nContent-Type: text/plain\n\nx", Ambiguous},
	} {
		if m := read(c.raw); !has(m, c.why) {
			t.Errorf("%s: want %s, got %v", name, c.why, m.Unscannable)
		}
	}
}

func TestDeadlineIsKept(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if m := Read(ctx, []byte("Subject: x\n\nhello"), Limits{}); !has(m, Timeout) {
		t.Errorf("no timeout: %v", m.Unscannable)
	}
}

// TestOffsetsLeadBack: every word of the text stands at its source offset.
func TestOffsetsLeadBack(t *testing.T) {
	const src = "<p>Dear&nbsp;Ann, <b>yo\u200bur</b> A1C &amp; caf\u00e9 <i>re</i>sult</p>\n<table><tr><td>x</td><td>final</td></tr></table>"
	m := read("Content-Type: text/html; charset=utf-8\n\n" + src)
	p := m.Parts[0]
	for _, w := range []string{"Dear", "Ann", "A1C", "caf", "sult", "final"} {
		at := strings.Index(p.Text, w)
		if at < 0 {
			t.Fatalf("%q is not in %q", w, p.Text)
		}
		from := p.Source(at)
		if !strings.HasPrefix(src[from:], w) {
			t.Errorf("%q: offset %d leads to %q", w, from, src[from:])
		}
	}
}

func TestPathsAndHosts(t *testing.T) {
	m := read(attach("labs.zip", "application/zip", zipped(map[string]string{"in/r.csv": "a,b"})) + "")
	if !strings.Contains(all(m), "[2 labs.zip!in/r.csv]") {
		t.Errorf("paths: %s", all(m))
	}
	m = read("Content-Type: text/html\n\n<a href='https://A.Example/x'>x</a><img src='//pix.example/p.gif'>long enough text that is not only an image")
	if strings.Join(m.Hosts, " ") != "a.example pix.example" {
		t.Errorf("hosts %v", m.Hosts)
	}
}

func TestPartsPrintNothing(t *testing.T) {
	p := Part{Text: "secret"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, p); strings.Contains(s, "secret") {
			t.Errorf("%s prints %s", verb, s)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("Subject: =?utf-8?Q?a=?=\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--"))
	f.Add([]byte("Content-Type: text/html\n\n<p style='x'>a&#8203;b<!-- [if mso]><b>--></p>"))
	f.Add([]byte(attach("a.zip", "application/zip", zipped(map[string]string{"a.txt": "hello"}))))
	f.Add([]byte("Content-Type: text/plain; charset=utf-7\n\n+AEE-"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := Read(context.Background(), raw, Limits{Bytes: 1 << 20})
		for i := range m.Parts {
			p := &m.Parts[i]
			last := 0
			for at := 0; at <= len(p.Text); at += 1 + len(p.Text)/64 {
				if s := p.Source(at); s < 0 {
					t.Fatalf("negative offset")
				} else {
					last = max(last, s)
				}
			}
			for _, k := range p.Marks {
				if k.Start > k.End || int(k.End) > len(p.Text) {
					t.Fatalf("mark outside the text")
				}
			}
		}
	})
}
