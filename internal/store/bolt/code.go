package bolt

import (
	"encoding/binary"
	"errors"
	"time"
)

// Values are a format version byte, then fields in a fixed order: integers as
// uvarints, texts with their length in front, times as nanoseconds since 1970
// with 0 for no time. They are inside sealed values, so the decoder meets only
// what the encoder wrote; it still refuses anything cut short or left over.

var errDamaged = errors.New("damaged row")

type encoder []byte

func (e *encoder) byte(v byte)   { *e = append(*e, v) }
func (e *encoder) uint(v uint64) { *e = binary.AppendUvarint(*e, v) }
func (e *encoder) text(s string) { e.uint(uint64(len(s))); *e = append(*e, s...) }
func (e *encoder) blob(b []byte) { e.uint(uint64(len(b))); *e = append(*e, b...) }
func (e *encoder) time(t time.Time) {
	e.uint(nanos(t))
}

func (e *encoder) flag(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

// decoder reads what an encoder wrote. The first fault sticks; finish tells it.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) text() string    { return string(d.take(d.uint())) }
func (d *decoder) blob() []byte    { return append([]byte(nil), d.take(d.uint())...) }
func (d *decoder) flag() bool      { return d.byte() != 0 }
func (d *decoder) time() time.Time { return fromNanos(d.uint()) }

// version refuses a row of a format this program does not know.
func (d *decoder) version(want byte) {
	if d.byte() != want {
		d.bad = true
	}
}

func (d *decoder) finish() error {
	if d.bad || len(d.rest) > 0 {
		return errDamaged
	}
	return nil
}

// nanos is a time as a number that sorts like it; 0 is no time, and times before
// 1970 count as the earliest there is.
func nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(t.UnixNano(), 1))
}

func fromNanos(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n)).UTC()
}

// be is n as 8 bytes that sort like the number.
func be(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// join is a key of several parts.
func join(parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	k := make([]byte, 0, n)
	for _, p := range parts {
		k = append(k, p...)
	}
	return k
}
