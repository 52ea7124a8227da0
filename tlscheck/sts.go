package tlscheck

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/mjl-/mox/mtasts"

	moxdns "github.com/mjl-/mox/dns"
)

// maxAge caps a policy's life (RFC 8461 §3.2: "maximum value of 31557600").
const maxAge = 31557600

var (
	errNoRecord    = errors.New("no MTA-STS record")
	errManyRecords = errors.New("more than one MTA-STS record")
	errBadRecord   = errors.New("MTA-STS record is malformed")
	errBadPolicy   = errors.New("MTA-STS policy is malformed")
	errDigitsOfAge = fmt.Errorf("%w: max_age has more than 10 digits or none", errBadPolicy)
	errNotText     = fmt.Errorf("%w: not text", errBadPolicy)
)

// stsID finds the policy id among the TXT records of _mta-sts.<domain>
// (RFC 8461 §3.1). Records of other protocols are passed over; unless exactly
// one MTA-STS record is left, there is none.
func stsID(txts []*dns.TXT) (string, error) {
	var found []string
	for _, t := range txts {
		if s := strings.Join(t.Txt, ""); isSTS(s) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return "", errNoRecord
	case 1:
		return recordID(found[0])
	}
	return "", errManyRecords
}

// isSTS reports whether a TXT record begins with `v=STSv1;`; the ABNF of
// RFC 8461 §3.1 allows white space before the semicolon.
func isSTS(s string) bool {
	rest, ok := strings.CutPrefix(s, "v=STSv1")
	return ok && strings.HasPrefix(strings.TrimLeft(rest, " \t"), ";")
}

// recordID reads the id of one record. A field given twice counts once, the
// first time (RFC 8461 §3.2), also where its later value is nonsense.
func recordID(s string) (string, error) {
	fields := strings.Split(s, ";")
	seen := map[string]bool{}
	kept := fields[:0:0]
	for _, f := range fields {
		key, _, _ := strings.Cut(strings.Trim(f, " \t"), "=")
		if key == "" || !seen[key] {
			kept = append(kept, f)
		}
		seen[key] = true
	}
	rec, ok, err := mtasts.ParseRecord(strings.Join(kept, ";"))
	if err != nil || !ok {
		return "", errBadRecord
	}
	return rec.ID, nil
}

// stsPolicy is a parsed policy body.
type stsPolicy struct {
	mode   mtasts.Mode
	maxAge time.Duration
	policy *mtasts.Policy
}

// parsePolicy reads a policy body (RFC 8461 §3.2). The parser is mox's; before
// it go the four things it takes more narrowly than the RFC.
func parsePolicy(body string) (stsPolicy, error) {
	text, err := normalPolicy(body)
	if err != nil {
		return stsPolicy{}, err
	}
	p, err := mtasts.ParsePolicy(text)
	if err != nil {
		return stsPolicy{}, errBadPolicy
	}
	return stsPolicy{p.Mode, time.Duration(p.MaxAgeSeconds) * time.Second, p}, nil
}

// normalPolicy drops blank lines and later duplicates of fields that count
// once, caps max_age (erratum 7282: 10 digits are legal and overflow an int32),
// and strips one trailing dot of an mx name. Lines end in LF or CRLF.
func normalPolicy(body string) (string, error) {
	if strings.ContainsRune(body, 0) {
		return "", errNotText
	}
	seen := map[string]bool{}
	var out strings.Builder
	for line := range strings.SplitSeq(body, "\n") {
		line = strings.TrimRight(strings.TrimSuffix(line, "\r"), " \t")
		key, value, _ := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if line == "" || seen[key] && key != "mx" {
			continue
		}
		seen[key] = true
		switch key {
		case "max_age":
			age, err := capAge(value)
			if err != nil {
				return "", err
			}
			line = key + ": " + age
		case "mx":
			line = key + ": " + strings.TrimSuffix(value, ".")
		}
		out.WriteString(line + "\n")
	}
	return out.String(), nil
}

func capAge(digits string) (string, error) {
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || len(digits) > 10 {
		return "", errDigitsOfAge
	}
	return strconv.FormatUint(min(n, maxAge), 10), nil
}

// matches reports whether the policy lists an MX host name (RFC 8461 §4.1): the
// name in the MX record, a wildcard standing for exactly one label.
func (p stsPolicy) matches(host string) bool {
	d, err := moxdns.ParseDomainLax(host)
	return err == nil && p.policy.Matches(d)
}
