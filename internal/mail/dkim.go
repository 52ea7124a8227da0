package mail

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNoKey is returned when no key signs for the domain or one above it.
var ErrNoKey = errors.New("mail: no DKIM key for the domain")

// oversigned are signed once more than they occur, so that nobody can add
// another one and have readers show it (RFC 6376 §5.4.2, §8.15).
var oversigned = []string{
	"From", "Sender", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
	"MIME-Version", "Content-Type", "Content-Transfer-Encoding", "List-Unsubscribe", "List-Unsubscribe-Post",
}

// signed are signed as often as they occur (RFC 6376 §5.4.1; Gmail reads
// Feedback-ID only if it is signed).
var signed = []string{"List-Id", "List-Help", "Feedback-ID", "Auto-Submitted", "Content-Language"}

// Job is one message to be signed.
type Job struct {
	Domain  string // of its From field; the signature must align with it
	Message []byte // as Prepare gave it
	Signed  []byte // set by Sign: the signature fields and the message
}

// Signer puts a signature by each key of the From domain before a message. It
// does by itself what go-msgauth's signer does, because the expensive parts are
// shared here: the body is canonicalised and hashed once for all signatures.
type Signer struct {
	keys map[string][]signingKey // by domain
	now  func() time.Time
}

type signingKey struct {
	Key
	algorithm Algorithm
}

// NewSigner returns a signer for keys; now gives the time of the t= tag. ErrKey
// is returned for a key that may not sign. RSA signatures come first, since
// some receivers look no further than one they do not know.
func NewSigner(now func() time.Time, keys ...Key) (*Signer, error) {
	s := &Signer{map[string][]signingKey{}, now}
	for _, k := range keys {
		k, err := checked(k)
		if err != nil {
			return nil, err
		}
		algorithm, _, err := k.public()
		if err != nil {
			return nil, err
		}
		s.keys[k.Domain] = append(s.keys[k.Domain], signingKey{k, algorithm})
	}
	for _, list := range s.keys {
		slices.SortStableFunc(list, func(a, b signingKey) int { return strings.Compare(string(b.algorithm), string(a.algorithm)) })
	}
	return s, nil
}

// Signs reports whether there is a key for the domain or one above it, whose
// signature aligns with it (RFC 7489 §3.1.1, relaxed mode).
func (s *Signer) Signs(domain string) bool { return s.keysFor(domain) != nil }

func (s *Signer) keysFor(domain string) []signingKey {
	domain, err := ASCIIDomain(domain)
	for err == nil && domain != "" {
		if list := s.keys[domain]; list != nil {
			return list
		}
		_, domain, _ = strings.Cut(domain, ".")
	}
	return nil
}

// Sign signs each job, and returns an error for each, nil where Signed was set:
// ErrNoKey, ErrBareLine, ErrMalformedHeader, what the key said, or what ctx says.
// It takes a batch because group commit gives one anyway, and some RSA kernels
// are many times faster on eight messages than on one.
func (s *Signer) Sign(ctx context.Context, jobs []Job) []error {
	errs := make([]error, len(jobs))
	for i := range jobs {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = s.sign(&jobs[i])
		}
	}
	return errs
}

func (s *Signer) sign(j *Job) error {
	keys := s.keysFor(j.Domain)
	if keys == nil {
		return ErrNoKey
	}
	m, err := Parse(j.Message)
	if err != nil {
		return err
	}
	header, names := m.signedHeader()
	body := bodyHash(m.Body())
	out := make([]byte, 0, len(j.Message)+len(keys)*1536)
	for _, k := range keys {
		unsigned := k.template(names, body, s.now())
		b, err := k.sign(header, unsigned)
		if err != nil {
			return fmt.Errorf("mail: DKIM selector %s: %w", k.Selector, err)
		}
		out = append(out, unsigned...)
		out = appendFolded(out, base64.StdEncoding.EncodeToString(b))
		out = append(out, crlf...)
	}
	j.Signed = append(out, j.Message...)
	return nil
}

// template is the signature field up to and with "b=" (RFC 6376 §3.5).
func (k signingKey) template(names []string, body [sha256.Size]byte, now time.Time) []byte {
	out := []byte("DKIM-Signature: v=1; a=" + string(k.algorithm) + "-sha256; c=relaxed/relaxed;" + crlf +
		"\td=" + k.Domain + ";" + crlf +
		"\ts=" + k.Selector + "; t=" + strconv.FormatInt(now.Unix(), 10) + ";" + crlf +
		"\th=")
	out = appendNames(out, names)
	out = append(out, ";"+crlf+"\tbh="...)
	out = base64.StdEncoding.AppendEncode(out, body[:])
	return append(out, ";"+crlf+"\tb="...)
}

// sign signs the header hash (RFC 6376 §3.7): the signed fields, then the
// signature field itself with an empty b= and no line end.
func (k signingKey) sign(header, unsigned []byte) ([]byte, error) {
	h := sha256.New()
	h.Write(header)
	own := relaxedField(nil, "dkim-signature", unsigned[len("DKIM-Signature:"):])
	h.Write(bytes.TrimSuffix(own, []byte(crlf)))
	opts := crypto.SHA256
	if k.algorithm == Ed25519 {
		opts = 0 // PureEdDSA over the hash, RFC 8463 §3
	}
	return k.Signer.Sign(rand.Reader, h.Sum(nil), opts)
}

// signedHeader returns the canonical form of the signed fields and their names
// in the same order, which is the h= tag. Of a repeated field the lowest is
// signed first (RFC 6376 §5.4.2).
func (m *Message) signedHeader() (canonical []byte, names []string) {
	canonical = make([]byte, 0, 2048)
	take := func(name string) {
		lower := strings.ToLower(name)
		for _, f := range slices.Backward(m.fields) {
			if f.name == lower {
				canonical = relaxedField(canonical, lower, m.raw[f.value:f.end])
				names = append(names, name)
			}
		}
	}
	for _, name := range oversigned {
		take(name)
		names = append(names, name)
	}
	for _, name := range signed {
		take(name)
	}
	return canonical, names
}

// relaxedField appends the relaxed form of a field (RFC 6376 §3.4.2).
func relaxedField(dst []byte, name string, value []byte) []byte {
	dst = append(dst, name...)
	dst = append(dst, ':')
	begin, blank := len(dst), false
	for _, b := range value {
		switch b {
		case ' ', '\t', '\r', '\n':
			blank = true
		default:
			if blank && len(dst) > begin {
				dst = append(dst, ' ')
			}
			blank = false
			dst = append(dst, b)
		}
	}
	return append(dst, crlf...)
}

// bodyHash is the hash of the relaxed form of a body whose lines all end in
// CRLF (RFC 6376 §3.4.4): runs of blanks become one space, blanks at the end of
// a line and empty lines at the end of the body go.
func bodyHash(body []byte) [sha256.Size]byte {
	h := sha256.New()
	buf := make([]byte, 0, 4<<10)
	empty := 0 // empty lines that count only if another line follows
	for len(body) > 0 {
		i := bytes.IndexByte(body, '\n')
		line := trimBlanks(body[:i-1])
		body = body[i+1:]
		if len(line) == 0 {
			empty++
			continue
		}
		for ; empty > 0; empty-- {
			buf = flushFull(h, append(buf, crlf...))
		}
		buf = appendRelaxed(buf, line)
		buf = flushFull(h, append(buf, crlf...))
	}
	h.Write(buf)
	return [sha256.Size]byte(h.Sum(nil))
}

// flushFull gives buf to h once it has grown.
func flushFull(h hash.Hash, buf []byte) []byte {
	if len(buf) < 3<<10 {
		return buf
	}
	h.Write(buf)
	return buf[:0]
}

func trimBlanks(line []byte) []byte {
	n := len(line)
	for n > 0 && isBlank(line[n-1]) {
		n--
	}
	return line[:n]
}

func isBlank(b byte) bool { return b == ' ' || b == '\t' }

var doubleSpace = []byte("  ")

// appendRelaxed appends a line with each run of blanks as one space. Most lines
// have none, which two fast searches find out.
func appendRelaxed(dst, line []byte) []byte {
	if bytes.IndexByte(line, '\t') < 0 && !bytes.Contains(line, doubleSpace) {
		return append(dst, line...)
	}
	blank := false
	for _, b := range line {
		if isBlank(b) {
			if !blank {
				dst = append(dst, ' ')
			}
			blank = true
			continue
		}
		blank = false
		dst = append(dst, b)
	}
	return dst
}

const foldAt = 72

// appendNames appends the names of h=, folded at colons.
func appendNames(dst []byte, names []string) []byte {
	room := foldAt
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ':')
		}
		if room -= len(name) + 1; room < 0 {
			dst = append(dst, crlf+"\t "...)
			room = foldAt - len(name)
		}
		dst = append(dst, name...)
	}
	return dst
}

// appendFolded appends base64 text in pieces of foldAt bytes.
func appendFolded(dst []byte, text string) []byte {
	for len(text) > foldAt {
		dst = append(dst, text[:foldAt]...)
		dst = append(dst, crlf+"\t "...)
		text = text[foldAt:]
	}
	return append(dst, text...)
}
