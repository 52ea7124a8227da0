package gateway

import (
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// verp writes variable return paths: b+TOKEN@domain, where the token stands for
// one envelope. It is the envelope's id and day under a key of the site, with a
// keyed hash over both from which the mask is made (as RFC 5297 does), so that
// nobody can read, guess or change one, and none has to be stored. index is
// [keys.Ring.Index].
type verp struct {
	index  func(space, value string) [16]byte
	domain string
}

const (
	verpPrefix = "b+"
	verpFor    = 30 * 24 * time.Hour // that a bounce or a complaint may take
	tagSize    = 12
)

var verpText = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// address is the return path of an envelope accepted at a time. It is the same
// at every attempt, as greylisting wants.
func (v verp) address(id store.EnvelopeID, accepted time.Time) string {
	plain := string(binary.BigEndian.AppendUint16(nil, day(accepted))) + string(id)
	tag := v.tag(plain)
	token := verpText.EncodeToString(append([]byte(tag), v.mask(tag, plain)...))
	return verpPrefix + token + "@" + v.domain
}

// open is the envelope of a return path, if it is one of ours that still holds
// at now. Servers that change the case of an address are forgiven.
func (v verp) open(a policy.Address, now time.Time) (store.EnvelopeID, bool) {
	local, domain, _ := strings.Cut(strings.ToLower(a.Clear()), "@")
	text, ours := strings.CutPrefix(local, verpPrefix)
	token, err := verpText.DecodeString(text)
	if !ours || v.domain == "" || domain != v.domain || err != nil || len(token) < tagSize+2 || len(token) > 40 || verpText.EncodeToString(token) != text {
		return "", false
	}
	tag := string(token[:tagSize])
	plain := v.mask(tag, string(token[tagSize:]))
	if subtle.ConstantTimeCompare([]byte(tag), []byte(v.tag(plain))) != 1 {
		return "", false
	}
	age := int(day(now)) - int(binary.BigEndian.Uint16([]byte(plain)))
	return store.EnvelopeID(plain[2:]), age <= int(verpFor/(24*time.Hour))
}

func day(t time.Time) uint16 { return uint16(t.Unix() / (24 * 60 * 60)) }

func (v verp) tag(plain string) string {
	sum := v.index("return path", plain)
	return string(sum[:tagSize])
}

// mask covers text, or takes the cover off again.
func (v verp) mask(tag, text string) string {
	out := []byte(text)
	for at := 0; at < len(out); at += 16 {
		pad := v.index("return path mask", tag+string(rune('0'+at/16)))
		subtle.XORBytes(out[at:], out[at:], pad[:])
	}
	return string(out)
}

// verp writes and reads the return paths of the site.
func (g *Gateway) verp() verp { return verp{g.ring.Index, g.cfg.Bounces.Domain} }

// returnPath is the envelope sender of an envelope: that of the message, or one
// of its own if its sender asked for that.
func (g *Gateway) returnPath(e store.Envelope) string {
	sender, _ := g.rules().Sender(e.Message.Sender)
	if e.Message.Return == "" || !sender.VERP || g.cfg.Bounces.Domain == "" {
		return e.Message.Return
	}
	return g.verp().address(e.ID, e.Message.Accepted)
}
