package extract

import "encoding/asn1"

var signedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}

// opaqueSigned returns the MIME entity inside an opaque signature (RFC 8551
// 3.5.2, CMS SignedData of RFC 5652 5.1): it is readable by anybody, unlike an
// envelope. ok is false for everything else, and for BER that is no DER.
func opaqueSigned(data []byte) (entity []byte, ok bool) {
	var outer struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(data, &outer); err != nil || !outer.Type.Equal(signedData) {
		return nil, false
	}
	var signed struct {
		Version int
		Digests asn1.RawValue
		Encap   struct {
			Type    asn1.ObjectIdentifier
			Content []byte `asn1:"explicit,optional,tag:0"`
		}
	}
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &signed); err != nil || len(signed.Encap.Content) == 0 {
		return nil, false
	}
	return signed.Encap.Content, true
}
