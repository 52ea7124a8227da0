package mail

import (
	"bytes"
	"errors"
	"io"
)

// ErrBareLine is returned when a message holds a CR without LF, or a LF without
// CR that may not be rewritten. Answer 550 5.6.11 (RFC 7293 §3, registry of
// enhanced codes: "Invalid characters"): two servers that disagree where such a
// line ends disagree where the message ends, which is SMTP smuggling.
var ErrBareLine = errors.New("mail: bare CR or bare LF")

// LineEnds says what becomes of line ends other than CRLF. RFC 5321 §2.3.8
// allows CR and LF only as the pair CRLF, and forbids a server to read either
// alone as the end of a line.
type LineEnds uint8

const (
	// RefuseBare refuses every bare CR and bare LF.
	RefuseBare LineEnds = iota
	// RewriteLF turns LF into CRLF in a message that has no CRLF at all, as
	// files on Unix do. A mixture is refused, and so is every bare CR: there
	// the reader would guess.
	RewriteLF
)

// Canonical returns raw with every line ended by CRLF, the last one too, or
// ErrBareLine. It returns raw itself if nothing is to be changed. These bytes
// are scanned, stored, signed and sent; nothing later touches a line end.
func Canonical(raw []byte, mode LineEnds) ([]byte, error) {
	if isCanonical(raw) {
		return raw, nil
	}
	c := canonicalizer{mode: mode}
	out, err := c.append(make([]byte, 0, len(raw)+len(raw)/32+2), raw)
	if err != nil {
		return nil, err
	}
	return c.end(out)
}

// NewCanonicalReader returns a reader that gives what [Canonical] would give
// for all that r gives. The error ErrBareLine comes as soon as it is seen.
func NewCanonicalReader(r io.Reader, mode LineEnds) io.Reader {
	return &canonicalReader{src: r, c: canonicalizer{mode: mode}, in: make([]byte, 16<<10)}
}

// isCanonical reports whether Canonical has nothing to do.
func isCanonical(raw []byte) bool {
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '\n')
		if i < 1 || bytes.IndexByte(raw[:i], '\r') != i-1 {
			return false
		}
		raw = raw[i+1:]
	}
	return true
}

// canonicalizer is the state between two pieces of a message.
type canonicalizer struct {
	mode  LineEnds
	style style
	cr    bool // the last byte was a CR
	open  bool // the last line has not ended
}

// style is the line end that a message has used so far.
type style uint8

const (
	noneYet style = iota
	crlfLines
	lfLines
)

// append adds the canonical form of src, the next piece, to dst.
func (c *canonicalizer) append(dst, src []byte) ([]byte, error) {
	for len(src) > 0 {
		i := bytes.IndexByte(src, '\n')
		if i < 0 {
			return c.appendOpen(dst, src)
		}
		line := src[:i]
		cr := c.cr
		if len(line) > 0 {
			k := bytes.IndexByte(line, '\r')
			if cr || (k >= 0 && k < len(line)-1) {
				return nil, ErrBareLine
			}
			cr = k >= 0
		}
		if !c.accepts(cr) {
			return nil, ErrBareLine
		}
		dst = append(dst, line...)
		if !cr {
			dst = append(dst, '\r')
		}
		dst = append(dst, '\n')
		c.cr, c.open = false, false
		src = src[i+1:]
	}
	return dst, nil
}

// appendOpen adds a piece in which no line ends.
func (c *canonicalizer) appendOpen(dst, src []byte) ([]byte, error) {
	k := bytes.IndexByte(src, '\r')
	if c.cr || (k >= 0 && k < len(src)-1) {
		return nil, ErrBareLine
	}
	c.cr, c.open = k >= 0, true
	return append(dst, src...), nil
}

// accepts reports whether a line may end in CRLF (cr) or LF here.
func (c *canonicalizer) accepts(cr bool) bool {
	if cr {
		if c.style == lfLines {
			return false
		}
		c.style = crlfLines
		return true
	}
	if c.mode != RewriteLF || c.style == crlfLines {
		return false
	}
	c.style = lfLines
	return true
}

// end closes the last line.
func (c *canonicalizer) end(dst []byte) ([]byte, error) {
	if c.cr {
		return nil, ErrBareLine
	}
	if c.open {
		c.open = false
		dst = append(dst, crlf...)
	}
	return dst, nil
}

type canonicalReader struct {
	src io.Reader
	c   canonicalizer
	in  []byte
	buf []byte // room for out
	out []byte // what is still to be handed over
	err error  // what follows it
}

func (r *canonicalReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.fill()
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// fill reads one piece. Nothing of a piece that breaks the rule is handed over.
func (r *canonicalReader) fill() {
	n, err := r.src.Read(r.in)
	out, bad := r.c.append(r.buf[:0], r.in[:n])
	if bad == nil && errors.Is(err, io.EOF) {
		out, bad = r.c.end(out)
	}
	if bad != nil {
		r.out, r.err = nil, bad
		return
	}
	r.buf, r.out, r.err = out, out, err
}
