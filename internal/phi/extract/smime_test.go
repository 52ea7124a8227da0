package extract

import (
	"encoding/asn1"
	"encoding/base64"
	"strings"
	"testing"
)

// TestOpaqueSigned reads what is only signed, and says so of an envelope.
func TestOpaqueSigned(t *testing.T) {
	type encap struct {
		Type    asn1.ObjectIdentifier
		Content []byte `asn1:"explicit,tag:0"`
	}
	type signed struct {
		Version int
		Digests []asn1.ObjectIdentifier `asn1:"set"`
		Encap   encap
	}
	type outer struct {
		Type    asn1.ObjectIdentifier
		Content signed `asn1:"explicit,tag:0"`
	}
	der := func(kind asn1.ObjectIdentifier) string {
		b, err := asn1.Marshal(outer{kind, signed{Version: 1, Encap: encap{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}, []byte("Content-Type: text/plain\r\n\r\nYour biopsy is benign.")}}})
		if err != nil {
			t.Fatal(err)
		}
		return "Content-Type: application/pkcs7-mime; name=smime.p7m\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString(b)
	}
	m := read(der(signedData))
	if got := all(m); !strings.Contains(got, "biopsy is benign") || len(m.Unscannable) > 0 {
		t.Errorf("signed: %q, unread %v", got, m.Unscannable)
	}
	m = read(der(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}))
	if len(m.Unscannable) != 1 || m.Unscannable[0].Reason != Encrypted {
		t.Errorf("enveloped: unread %v", m.Unscannable)
	}
}
