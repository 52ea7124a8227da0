package mail

import (
	"slices"
	"strings"
)

// controlPrefix begins the names of the fields by which a submitting tool talks
// to the gateway. All of them are removed before the mail leaves.
const controlPrefix = "x-gateway-"

// Controls are the X-Gateway-* fields of a message. They can only make a
// verdict stricter, so every value that was given is kept: of a repeated field
// the strictest value counts. A value that is no token is "", which no list of
// known values holds, so that it counts as unknown.
type Controls struct {
	Class        []string
	Audience     []string
	Segment      []string
	SenderClass  []string
	Remuneration []string

	Campaign string // one token [a-z0-9_-]{1,64}; "" if absent, malformed or contradictory
	Language string // one BCP 47 tag; "" likewise

	// Wrong names the fields, in lower case, that are unknown, malformed, or
	// contradict themselves. It goes into the record of the decision.
	Wrong []string
}

// Controls returns what the X-Gateway-* fields say.
func (m *Message) Controls() Controls {
	var c Controls
	var campaign, language []string
	lists := map[string]*[]string{
		"class": &c.Class, "audience": &c.Audience, "segment": &c.Segment, "sender-class": &c.SenderClass,
		"remuneration": &c.Remuneration, "campaign": &campaign, "language": &language,
	}
	for _, f := range m.fields {
		name, ours := strings.CutPrefix(f.name, controlPrefix)
		if !ours {
			continue
		}
		list, known := lists[name]
		if !known {
			c.wrong(f.name)
			continue
		}
		c.add(list, f.name, m.value(f))
	}
	c.Campaign = c.one(controlPrefix+"campaign", campaign)
	c.Language = c.one(controlPrefix+"language", language)
	return c
}

// add appends value to list as a token, once.
func (c *Controls) add(list *[]string, name, value string) {
	value = strings.ToLower(value)
	if !isToken(value) {
		c.wrong(name)
		value = ""
	}
	if len(*list) > 0 && !slices.Contains(*list, value) {
		c.wrong(name)
	}
	if !slices.Contains(*list, value) {
		*list = append(*list, value)
	}
}

// one returns the only value, or "" if there is none or more than one.
func (c *Controls) one(name string, values []string) string {
	if len(values) == 1 {
		return values[0]
	}
	if len(values) > 1 {
		c.wrong(name)
	}
	return ""
}

func (c *Controls) wrong(name string) {
	const longest = 64 // an unknown name is the sender's text; the record takes only its start
	name = name[:min(len(name), longest)]
	if !slices.Contains(c.Wrong, name) {
		c.Wrong = append(c.Wrong, name)
	}
}

// isToken reports whether s is [a-z0-9_-]{1,64}.
func isToken(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		b := s[i]
		if !('a' <= b && b <= 'z' || '0' <= b && b <= '9' || b == '_' || b == '-') {
			return false
		}
	}
	return true
}
