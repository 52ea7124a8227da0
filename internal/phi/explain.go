package phi

import (
	"sort"
	"strings"

	"github.com/phigate/phigate/internal/phi/extract"
	"github.com/phigate/phigate/policy"
)

// Explanation is a judgement laid open for people: the text with every finding
// marked and masked, and what would have changed the verdict. It holds no value
// that was found, and no name or number of the mail.
type Explanation struct {
	Texts   []ExplainedText `json:"texts"`
	Changes []Change        `json:"changes"`
}

// ExplainedText is a part in which something was found. Text shows a finding as
// [rule xxx], with letters and digits masked to their shape.
type ExplainedText struct {
	Part string `json:"part"`
	Text string `json:"text"`
}

// Change is one thing about the context that would have led to another verdict.
type Change struct {
	If  string     `json:"if"`
	PHI policy.PHI `json:"-"`
	Say string     `json:"phi"` // the word for PHI
}

// maxExplained bounds the text shown of a part, in bytes.
const maxExplained = 4000

// Explain shows how the message was read and what else the context could have
// made of it.
func (d *Document) Explain(c Context) Explanation {
	e := Explanation{Texts: []ExplainedText{}, Changes: d.changes(c)}
	byPart := map[int][]hit{}
	for _, h := range d.hits {
		byPart[h.part] = append(byPart[h.part], h)
	}
	for i := range d.parts {
		if hits := byPart[i]; len(hits) > 0 {
			e.Texts = append(e.Texts, ExplainedText{d.parts[i].Path, d.marked(&d.parts[i], hits)})
		}
	}
	return e
}

// marked writes a part with its findings in brackets.
func (d *Document) marked(p *extract.Part, hits []hit) string {
	sort.Slice(hits, func(i, j int) bool {
		a, b := hits[i], hits[j]
		return a.start < b.start || a.start == b.start && a.end > b.end
	})
	var out strings.Builder
	plain := func(s string) {
		b := []byte(s)
		d.maskWords(b)
		out.Write(b)
	}
	at := 0
	for _, h := range hits {
		start, end := int(h.start), int(h.end)
		if start < at {
			continue // lies in a longer one
		}
		if start > maxExplained {
			break
		}
		plain(p.Text[at:start])
		value := []byte(p.Text[start:end])
		for i, b := range value {
			value[i] = shapeOf(b)
		}
		out.WriteString("[" + rules[h.rule].ID + " ")
		out.Write(value)
		out.WriteString("]")
		at = end
	}
	if end := min(len(p.Text), max(at, maxExplained)); at < end {
		plain(p.Text[at:end])
	}
	if len(p.Text) > max(at, maxExplained) {
		out.WriteString(" …")
	}
	return strings.ToValidUTF8(out.String(), "?")
}

// changes judges the message again with one thing changed at a time.
func (d *Document) changes(c Context) []Change {
	was := d.Judge(c).Band
	list := []Change{}
	try := func(text string, change func(c *Context)) {
		other := c
		change(&other)
		if now := d.Judge(other).Band; now != was && (now <= policy.PHIMedium) != (was <= policy.PHIMedium) {
			list = append(list, Change{text, now, now.String()})
		}
	}
	audience := func(a policy.Audience) func(c *Context) { return func(c *Context) { c.Audience = &a } }
	class := func(s policy.SenderClass) func(c *Context) {
		return func(c *Context) { c.SenderClass, c.Declared = s, true }
	}
	try("the recipient were staff", func(c *Context) { c.Staff = true })
	try("the recipient were one person outside", func(c *Context) { c.Staff, c.Recipient = false, "reader@mail.example" })
	try("the audience were patients", audience(policy.AudiencePatients))
	try("the audience were the public", audience(policy.AudiencePublic))
	try("the sender were a covered entity", class(policy.SenderCoveredEntity))
	try("the sender were no health business", class(policy.SenderNonHealth))
	try("no segment and no campaign were named", func(c *Context) { c.Segment, c.Campaign = "", "" })
	try("the same text had gone to an open list", func(c *Context) { c.Broadcast = true })
	return list
}
