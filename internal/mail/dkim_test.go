package mail

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return noon }

// testKeys are made once: an RSA key takes a while.
var testKeys = sync.OnceValue(func() []Key {
	var keys []Key
	for _, a := range []Algorithm{Ed25519, RSA} {
		k, err := NewKey(a, "clinic.example", "s-"+string(a))
		if err != nil {
			panic(err)
		}
		keys = append(keys, k)
	}
	return keys
})

func testSigner(t testing.TB) *Signer {
	t.Helper()
	s, err := NewSigner(clock, testKeys()...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// zone answers TXT questions out of the lines that DNSRecord prints.
func zone(t testing.TB, keys []Key) func(string) ([]string, error) {
	t.Helper()
	records := map[string]string{}
	for _, k := range keys {
		line, err := k.DNSRecord()
		if err != nil {
			t.Fatal(err)
		}
		name, text, _ := strings.Cut(line, ". TXT ")
		records[name] = strings.ReplaceAll(strings.Trim(text, `"`), `" "`, "")
	}
	return func(name string) ([]string, error) {
		if r, ok := records[name]; ok {
			return []string{r}, nil
		}
		return nil, errors.New("no such name")
	}
}

// verify demands two valid signatures of an independent verifier.
func verify(t rapid.TB, lookup func(string) ([]string, error), signed []byte) {
	t.Helper()
	found, err := dkim.VerifyWithOptions(bytes.NewReader(signed), &dkim.VerifyOptions{LookupTXT: lookup})
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	valid := 0
	for _, v := range found {
		if v.Err == nil && v.Domain == "clinic.example" {
			valid++
		}
	}
	if valid != 2 {
		t.Fatalf("%d of %d signatures valid, first: %v\n%q", valid, len(found), found[0].Err, signed)
	}
}

func signOne(t rapid.TB, s *Signer, message []byte) []byte {
	t.Helper()
	jobs := []Job{{Domain: "news.clinic.example", Message: message}}
	if err := s.Sign(context.Background(), jobs)[0]; err != nil {
		t.Fatal(err)
	}
	return jobs[0].Signed
}

// TestSignaturesVerify signs messages of every shape that canonicalisation
// could get wrong.
func TestSignaturesVerify(t *testing.T) {
	s, lookup := testSigner(t), zone(t, testKeys())
	name := rapid.SampledFrom([]string{"To", "to", "CC", "Subject", "Subject ", "X-Note", "List-Unsubscribe", "Reply-To", "List-Id", "DKIM-Signature"})
	value := rapid.StringOfN(rapid.RuneFrom([]rune("ab: ;=\t<>@\"é\x01")), 0, 40, -1)
	bodyLine := rapid.StringOfN(rapid.RuneFrom([]rune("ab  \t\t.é\x00\x0b\x0c\u00a0")), 0, 30, -1)
	rapid.Check(t, func(t *rapid.T) {
		var raw strings.Builder
		for range rapid.IntRange(0, 4).Draw(t, "fields") {
			raw.WriteString(name.Draw(t, "name") + ":" + strings.TrimLeft(value.Draw(t, "value"), "\x00") + crlf)
			if rapid.Bool().Draw(t, "folded") {
				raw.WriteString(" " + value.Draw(t, "more") + crlf)
			}
		}
		raw.WriteString("From: Clinic <a@news.clinic.example>" + crlf + crlf)
		for range rapid.IntRange(0, 8).Draw(t, "lines") {
			raw.WriteString(bodyLine.Draw(t, "line") + crlf)
		}
		signed := signOne(t, s, []byte(raw.String()))
		if !bytes.HasSuffix(signed, []byte(raw.String())) {
			t.Fatal("the message behind the signatures was changed")
		}
		verify(t, lookup, signed)
	})
}

// TestSignLargeBody signs bodies too long
// for one buffer.
func TestSignLargeBody(t *testing.T) {
	s, lookup := testSigner(t), zone(t, testKeys())
	body := strings.Repeat("a  b\t c \r\n\r\n<td>"+strings.Repeat("x", 3000)+"</td>\r\n", 40) + "\r\n\r\n"
	verify(t, lookup, signOne(t, s, []byte("From: a@clinic.example\r\n\r\n"+body)))
}

func TestSignEmptyBody(t *testing.T) {
	s, lookup := testSigner(t), zone(t, testKeys())
	for _, body := range []string{"", "\r\n", " \t\r\n\r\n"} {
		verify(t, lookup, signOne(t, s, []byte("From: a@clinic.example\r\n\r\n"+body)))
		if bodyHash([]byte(body)) != sha256.Sum256(nil) {
			t.Errorf("body %q: RFC 6376 §3.4.4 hashes it as empty", body)
		}
	}
}

// TestOversigned adds each oversigned field to a signed message: neither
// signature may survive.
func TestOversigned(t *testing.T) {
	s, lookup := testSigner(t), zone(t, testKeys())
	signed := signOne(t, s, []byte("From: a@clinic.example\r\nSubject: x\r\n\r\nhello\r\n"))
	for _, name := range oversigned {
		forged := append([]byte(name+": evil\r\n"), signed...)
		found, err := dkim.VerifyWithOptions(bytes.NewReader(forged), &dkim.VerifyOptions{LookupTXT: lookup})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range found {
			if v.Err == nil {
				t.Errorf("a second %s goes unnoticed", name)
			}
		}
	}
}

func TestSignatureLinesAreShort(t *testing.T) {
	signed := signOne(t, testSigner(t), []byte("From: a@clinic.example\r\n\r\n"))
	for line := range strings.SplitSeq(string(signed), crlf) {
		if len(line) > 80 {
			t.Errorf("%d bytes: %s", len(line), line)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	s := testSigner(t)
	jobs := []Job{
		{Domain: "other.example", Message: []byte("From: a@other.example\r\n\r\n")},
		{Domain: "evilclinic.example", Message: []byte("From: a@evilclinic.example\r\n\r\n")},
		{Domain: "clinic.example", Message: []byte("From: a@clinic.example\n\n")},
		{Domain: "clinic.example", Message: []byte("From: a@clinic.example\r\n\r\nok\r\n")},
	}
	for i, want := range []error{ErrNoKey, ErrNoKey, ErrBareLine, nil} {
		if err := s.Sign(t.Context(), jobs)[i]; !errors.Is(err, want) {
			t.Errorf("job %d: %v, want %v", i, err, want)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	message := []byte("From: a@clinic.example\r\nSubject: x\r\nTo: b@mail.example\r\n\r\n" +
		strings.Repeat("<tr><td style=\"color:red\">Some  text of a newsletter, as it is.</td></tr>\r\n", 10<<10/75))
	for _, k := range testKeys() {
		algorithm, _, _ := k.public()
		s, err := NewSigner(clock, k)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(string(algorithm), func(b *testing.B) {
			b.SetBytes(int64(len(message)))
			b.ReportAllocs()
			for b.Loop() {
				s.Sign(b.Context(), []Job{{Domain: "clinic.example", Message: message}})
			}
		})
	}
	for _, k := range testKeys() {
		algorithm, _, _ := k.public()
		o := &dkim.SignOptions{Domain: k.Domain, Selector: k.Selector, Signer: k.Signer, HeaderKeys: oversigned,
			HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed}
		b.Run("go-msgauth/"+string(algorithm), func(b *testing.B) {
			b.SetBytes(int64(len(message)))
			b.ReportAllocs()
			for b.Loop() {
				if err := dkim.Sign(io.Discard, bytes.NewReader(message), o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("bodyhash", func(b *testing.B) {
		b.SetBytes(int64(len(message)))
		for b.Loop() {
			bodyHash(message)
		}
	})
}
