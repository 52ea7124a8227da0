package mail

import (
	"errors"
	"strings"

	"golang.org/x/net/idna"

	"github.com/phigate/phigate/policy"
)

// ErrAddress is returned when a text is not an e-mail address that can be
// mailed. It never holds the text.
var ErrAddress = errors.New("mail: not an e-mail address")

// ParseAddress reads an address as SMTP and the CSV files give it: local part,
// "@", domain. The domain comes back in lower case and as A-labels (RFC 5890
// §2.3.2.1), so that one domain has one spelling; the local part as it is.
// Quoted local parts, address literals and display names are refused.
func ParseAddress(s string) (policy.Address, error) {
	at := strings.LastIndexByte(s, '@')
	// RFC 5321 §4.5.3.1: local part 64, path 256 with its angle brackets.
	if at < 1 || at > 64 || len(s) > 254 || !isDotAtom(s[:at]) {
		return "", ErrAddress
	}
	domain, err := ASCIIDomain(s[at+1:])
	if err != nil {
		return "", err
	}
	return policy.Address(s[:at] + "@" + domain), nil
}

// ASCIIDomain returns a mail domain in lower case and as A-labels, or ErrAddress.
func ASCIIDomain(domain string) (string, error) {
	d, err := idna.Lookup.ToASCII(strings.TrimSuffix(domain, "."))
	if err != nil || len(d) == 0 || len(d) > 253 {
		return "", ErrAddress
	}
	for label := range strings.SplitSeq(d, ".") {
		if len(label) == 0 || len(label) > 63 {
			return "", ErrAddress
		}
	}
	return d, nil
}

// NeedsUTF8 reports whether an address can be said only with SMTPUTF8 (RFC 6531):
// its local part is beyond ASCII. A domain can always be said in A-labels.
func NeedsUTF8(a policy.Address) bool {
	s := a.Clear()
	return !isASCII([]byte(s[:max(strings.LastIndexByte(s, '@'), 0)]))
}

// isDotAtom reports whether s is a dot-atom (RFC 5322 §3.2.3, RFC 6532 §3.2).
func isDotAtom(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || strings.ContainsFunc(atom, notAtext) {
			return false
		}
	}
	return true
}

func notAtext(r rune) bool {
	return r <= ' ' || r == 0x7f || r == '\ufffd' || strings.ContainsRune(`()<>[]:;@\,"`, r)
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
