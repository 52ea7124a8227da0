package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// indexUnder is a keyed hash as the key ring makes it.
func indexUnder(key string) func(space, value string) [16]byte {
	return func(space, value string) [16]byte {
		h := hmac.New(sha256.New, []byte(key))
		h.Write([]byte(space + "\x00" + value))
		return [16]byte(h.Sum(nil))
	}
}

var noonHere = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestVERP(t *testing.T) {
	v := verp{indexUnder("k"), "bounces.clinic.example"}
	id := store.EnvelopeIDOf("1k873o0gd57oh", 9999)
	a := v.address(id, noonHere)
	if a != v.address(id, noonHere.Add(time.Hour)) {
		t.Error("greylisting sees another sender at the next attempt")
	}
	if strings.Contains(a, "1k873o0gd57oh") || strings.Contains(a, string(id)) {
		t.Error("the id can be read")
	}
	if local, _, _ := strings.Cut(a, "@"); len(local) > 64 {
		t.Errorf("local part of %d octets (RFC 5321 §4.5.3.1.1)", len(local))
	}
	if _, err := mail.ParseAddress(a); err != nil {
		t.Error(err)
	}
	for _, form := range []string{a, strings.ToUpper(a)} {
		if got, ok := v.open(policy.Address(form), noonHere.Add(verpFor)); !ok || got != id {
			t.Errorf("%s: %s %v", form, got, ok)
		}
	}
	if _, ok := v.open(policy.Address(a), noonHere.Add(verpFor+24*time.Hour)); ok {
		t.Error("holds for ever")
	}
	other := verp{indexUnder("other"), v.domain}
	if _, ok := other.open(policy.Address(a), noonHere); ok {
		t.Error("opens under another site's key")
	}
	if b := v.address(store.EnvelopeIDOf("1k873o0gd57oh", 9998), noonHere); len(b) != len(a) || commonPrefix(a, b) > 6 {
		t.Errorf("%s and %s are alike", a, b)
	}
}

func commonPrefix(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// No changed, cut or made-up token opens.
func TestForgedReturnPaths(t *testing.T) {
	v := verp{indexUnder("k"), "bounces.clinic.example"}
	a := v.address(store.EnvelopeIDOf("1k873o0gd57oh", 0), noonHere)
	at := strings.IndexByte(a, '@')
	forged := []string{"", "b+@bounces.clinic.example", "b+0@bounces.clinic.example", "b+" + strings.Repeat("0", 44) + "@bounces.clinic.example",
		a[:at], a[:at] + "@other.example", "ann@bounces.clinic.example", "x" + a}
	for i := range a[:at] {
		forged = append(forged, a[:i]+a[i+1:])
		for _, c := range "0v" {
			if rune(a[i]) != c && i > 1 {
				forged = append(forged, a[:i]+string(c)+a[i+1:])
			}
		}
	}
	for _, f := range forged {
		if id, ok := v.open(policy.Address(f), noonHere); ok {
			t.Errorf("%q opens %s", f, id)
		}
	}
	if _, ok := (verp{index: v.index}).open("b+x@", noonHere); ok {
		t.Error("opens without a domain")
	}
}

func FuzzOpenReturnPath(f *testing.F) {
	v := verp{indexUnder("k"), "bounces.clinic.example"}
	a := v.address(store.EnvelopeIDOf("1k873o0gd57oh", 0), noonHere)
	f.Add(a[:len(a)-1])
	f.Add("b+00@bounces.clinic.example")
	f.Fuzz(func(t *testing.T, s string) {
		if id, ok := v.open(policy.Address(s), noonHere); ok && v.address(id, noonHere) != strings.ToLower(s) {
			t.Errorf("%q opens %s", s, id)
		}
	})
}
