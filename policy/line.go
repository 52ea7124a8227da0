package policy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/phigate/phigate/internal/yamlfile"
)

// longestLine bounds a facts line; one with every fact has about 600 bytes.
const longestLine = 64 << 10

// ReadFacts yields the facts of a JSON Lines stream, blank lines skipped. The
// first bad line ends it with an error that names the line by number.
func ReadFacts(r io.Reader) iter.Seq2[Facts, error] {
	return func(yield func(Facts, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, longestLine)
		n := 0
		for lines.Scan() {
			n++
			if len(bytes.TrimSpace(lines.Bytes())) == 0 {
				continue
			}
			f, err := ParseFactsLine(lines.Bytes())
			if err != nil {
				yield(Facts{}, fmt.Errorf("line %d: %w", n, err))
				return
			}
			if !yield(f, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(Facts{}, fmt.Errorf("line %d: %w", n+1, err))
		}
	}
}

// ParseFactsLine reads one facts line: a JSON object of the facts' keys and
// values. A fact left out has its first, most cautious value. Refused are
// unknown and repeated keys, unknown values, null and all that is no string;
// encoding/json would take the last of two equal keys.
func ParseFactsLine(line []byte) (Facts, error) {
	if !utf8.Valid(line) {
		return Facts{}, errors.New("not UTF-8 text")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return Facts{}, errors.New("not a JSON object of facts")
	}
	var f Facts
	seen := map[string]bool{}
	for d.More() {
		key, err := stringToken(d)
		if err != nil {
			return Facts{}, errors.New("not a JSON object of facts")
		}
		if seen[key] {
			return Facts{}, fmt.Errorf("fact %s named twice", shown(key))
		}
		seen[key] = true
		if err := setFact(&f, key, func() (string, error) { return stringToken(d) }); err != nil {
			return Facts{}, err
		}
	}
	if _, err := d.Token(); err != nil {
		return Facts{}, errors.New("not a JSON object of facts")
	}
	if _, err := d.Token(); err != io.EOF {
		return Facts{}, errors.New("text behind the JSON object")
	}
	return f, nil
}

func stringToken(d *json.Decoder) (string, error) {
	t, err := d.Token()
	s, ok := t.(string)
	if err != nil || !ok {
		return "", errors.New("not a string")
	}
	return s, nil
}

// setFact sets the fact of a key to the value that next returns.
func setFact(f *Facts, key string, next func() (string, error)) error {
	for _, field := range fields {
		if field.key != key {
			continue
		}
		s, err := next()
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		v, err := field.names.parse(s)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		*field.at(f) = v
		return nil
	}
	return fmt.Errorf("unknown fact %s; %s", shown(key), yamlfile.Suggest(key, factKeys(fields)))
}

// shown quotes a key from outside, shortened.
func shown(key string) string {
	if r := []rune(key); len(r) > 40 {
		key = string(r[:40]) + "…"
	}
	return fmt.Sprintf("%q", key)
}

// Line returns the facts as a facts line, every fact named, without newline.
func (f Facts) Line() []byte {
	b := []byte{'{'}
	for i, field := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `"%s":"%s"`, field.key, field.names.text(*field.at(&f)))
	}
	return append(b, '}')
}

// Line returns the verdict as the JSON object that `policy decide` prints,
// without newline: action, floor, else, code, rule, reply.
func (v Verdict) Line() []byte {
	b, err := json.Marshal(struct {
		Action string `json:"action"`
		Floor  string `json:"floor"`
		Else   string `json:"else"`
		Code   Code   `json:"code"`
		Rule   string `json:"rule"`
		Reply  string `json:"reply"`
	}{v.Action.String(), v.floorText(), v.elseText(), v.Code, v.Rule, v.Reply()})
	if err != nil {
		panic("policy: a struct of strings does not marshal") // cannot happen
	}
	return b
}

func (v Verdict) floorText() string {
	if v.Action != Deliver {
		return ""
	}
	return v.Floor.String()
}

// elseText is empty for plain mail too, which has no other way out.
func (v Verdict) elseText() string {
	if v.Action != Deliver || v.Floor == FloorPlain {
		return ""
	}
	return v.Else.String()
}

// Reply returns the line said to the SMTP client, without the id. A verdict that
// takes the mail says 250 whatever its code.
func (v Verdict) Reply() string {
	e, ok := byCode[v.Code]
	switch {
	case v.Action == Hold:
		return "250 2.0.0 " + strings.TrimSpace(string(v.Code)+review)
	case v.Action == Deliver || v.Action == Portal:
		return "250 2.0.0 " + accepted
	case ok:
		return e.Reply()
	}
	smtp, enhanced, text := Reply(v.Code)
	return fmt.Sprintf("%d %s %s", smtp, enhanced, text)
}
