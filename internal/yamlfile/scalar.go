package yamlfile

import (
	"errors"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Duration is a span of time written with its unit, such as "90s" or "1h30m".
// Zero is written "0s"; a negative span is refused.
type Duration time.Duration

// String prints no empty minutes and seconds: "72h", not "72h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// UnmarshalText reads what [time.ParseDuration] reads, but never a bare number.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return errors.New("duration without a unit, write s, m or h behind the number, such as 5m")
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("not a duration, write it like 90s, 5m or 72h")
	}
	if v < 0 {
		return errors.New("duration below zero, write it like 90s, 5m or 72h")
	}
	*d = Duration(v)
	return nil
}

func (Duration) shape() shape {
	return shape{"a duration such as 5m", schema{"type": "string", "pattern": `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`}}
}

// Size is a number of bytes written with its unit, such as "25MiB".
type Size int64

// sizeUnits are tried in this order, so a unit stands before its own suffix.
var sizeUnits = []struct {
	unit  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

func (s Size) String() string {
	for _, u := range []int{3, 2, 1, 0} {
		if b := sizeUnits[u].bytes; int64(s) >= b && int64(s)%b == 0 {
			return strconv.FormatInt(int64(s)/b, 10) + sizeUnits[u].unit
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// UnmarshalText reads a whole number and one of B, KiB, MiB, GiB, TiB, kB, MB,
// GB, TB.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(string(text), u.unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 63)
		if err != nil || int64(n) > math.MaxInt64/u.bytes {
			break
		}
		*s = Size(int64(n) * u.bytes)
		return nil
	}
	if _, err := strconv.ParseFloat(string(text), 64); err == nil {
		return errors.New("size without a unit, write KiB, MiB or GiB behind the number, such as 25MiB")
	}
	return errors.New("not a size, write a whole number and a unit, such as 25MiB")
}

func (Size) shape() shape {
	return shape{"a size such as 25MiB", schema{"type": "string", "pattern": `^[0-9]+ *([KMGT]iB|[kKMGT]B|B)$`}}
}

// shape says what a type looks like in a file: to people and to JSON Schema.
type shape struct {
	words  string
	schema schema
}

// Enum is a [encoding.TextUnmarshaler] that takes one of a few words. They are
// named in messages and in the schema.
type Enum interface{ Words() []string }

// foreign are types of the standard library that read themselves from text but
// whose errors repeat the value.
var foreign = map[reflect.Type]shape{
	reflect.TypeFor[netip.Prefix]():   {"a network such as 192.0.2.0/24", schema{"type": "string"}},
	reflect.TypeFor[netip.Addr]():     {"an IP address such as 192.0.2.1", schema{"type": "string"}},
	reflect.TypeFor[netip.AddrPort](): {"an IP address and port such as 192.0.2.1:53", schema{"type": "string"}},
}

// textShape returns the shape of a type that reads itself from text.
func textShape(t reflect.Type) shape {
	if s, ok := foreign[t]; ok {
		return s
	}
	switch v := reflect.New(t).Interface().(type) {
	case interface{ shape() shape }:
		return v.shape()
	case Enum:
		return shape{"one of " + strings.Join(v.Words(), ", "), schema{"enum": v.Words()}}
	}
	return shape{"text", schema{"type": "string"}}
}
