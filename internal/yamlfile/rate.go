package yamlfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Rate is a number of things in a span of time, such as "100/min". The zero
// Rate is none given.
type Rate struct {
	N   int
	Per time.Duration
}

// rateUnits are the spans that a rate may be written with.
var rateUnits = []struct {
	name string
	per  time.Duration
}{{"s", time.Second}, {"min", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}}

// Every is the time from one thing to the next; 0 for the zero Rate.
func (r Rate) Every() time.Duration {
	if r.N == 0 {
		return 0
	}
	return r.Per / time.Duration(r.N)
}

func (r Rate) String() string {
	for _, u := range rateUnits {
		if u.per == r.Per && r.N > 0 {
			return fmt.Sprintf("%d/%s", r.N, u.name)
		}
	}
	return ""
}

// MarshalText prints the rate as a file has it.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a whole number above zero and one of /s, /min, /h, /d.
func (r *Rate) UnmarshalText(text []byte) error {
	number, unit, found := strings.Cut(string(text), "/")
	n, err := strconv.Atoi(strings.TrimSpace(number))
	for _, u := range rateUnits {
		if found && err == nil && n > 0 && n <= maxRate && strings.TrimSpace(unit) == u.name {
			*r = Rate{n, u.per}
			return nil
		}
	}
	return errors.New("not a rate, write a number and one of /s, /min, /h, /d, such as 100/min")
}

// maxRate keeps the time between two things above zero for every unit.
const maxRate = 1e9

func (Rate) shape() shape {
	return shape{"a rate such as 100/min", schema{"type": "string", "pattern": `^[1-9][0-9]* */ *(s|min|h|d)$`}}
}
