package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// Explanation is the whole decision about a message that was not sent.
type Explanation struct {
	ID       store.ID           `json:"id"`
	Verdicts []ExplainedVerdict `json:"verdicts"`
	Scan     ScanLine           `json:"scan"`
	Notes    []string           `json:"notes,omitempty"`
}

// ExplainedVerdict is one recipient's verdict, with its reasons.
type ExplainedVerdict struct {
	Recipient  string          `json:"recipient"`
	Facts      json.RawMessage `json:"facts"`
	Action     string          `json:"action"`
	Floor      string          `json:"floor"`
	Else       string          `json:"else"`
	Code       policy.Code     `json:"code"`
	Rule       string          `json:"rule"`
	Reply      string          `json:"reply"`
	Reason     string          `json:"reason"`
	Law        string          `json:"law"`
	NextSender string          `json:"next_sender"`
	NextStaff  string          `json:"next_staff"`
	Nearly     []string        `json:"nearly"`
}

// Explain decides about a message as Accept would, without storing or sending
// anything. to are the recipients; from is the envelope sender.
func (g *Gateway) Explain(ctx context.Context, senderName string, from policy.Address, to []policy.Address, data []byte) (Explanation, error) {
	sender, ok := g.rules().Sender(senderName)
	if !ok {
		return Explanation{}, errNoSender
	}
	msg, err := lenient(data)
	if err != nil {
		return Explanation{}, fmt.Errorf("the message cannot be read: %w", err)
	}
	x := Explanation{ID: g.ids.New(g.clock())}
	if from != "" && !sender.MayUse(from) || !mayWriteAs(&sender, msg) {
		for _, a := range to {
			x.Verdicts = append(x.Verdicts, explained(decision{verdict: policy.Verdict{Recipient: a, Action: policy.Reject, Code: "HG-R803"}}))
		}
		return x, nil
	}
	r := g.read(ctx, &sender, msg)
	known := make([]recipient, len(to))
	for i, a := range to {
		about, err := g.describe(ctx, &sender, a)
		if errors.Is(err, registry.ErrAddress) {
			return Explanation{}, fmt.Errorf("recipient %d is no e-mail address", i+1)
		}
		known[i] = recipient{address: a, about: about} // unreadable records are a zero description
	}
	for i, d := range g.decide(ctx, r, known) {
		x.Verdicts = append(x.Verdicts, explained(d))
		if i == 0 || d.scan.Score > x.Scan.Score {
			x.Scan = scanLine("", r.doc, d.scan)
		}
	}
	x.Notes = append(r.law[policy.PHINone].Notes, r.declared.notes()...)
	return x, nil
}

// notes says which header fields were no use.
func (d declared) notes() []string {
	var out []string
	for _, f := range d.wrong {
		out = append(out, f+": not one known word; it counts as the most cautious one")
	}
	return out
}

func explained(d decision) ExplainedVerdict {
	var line struct{ Action, Floor, Else, Reply string }
	if err := json.Unmarshal(d.verdict.Line(), &line); err != nil {
		panic("policy: a verdict's line is JSON") // it is written by encoding/json
	}
	entry, _ := policy.Lookup(d.verdict.Code)
	v := ExplainedVerdict{
		Recipient: d.verdict.Recipient.Clear(), Facts: d.facts.Line(), Action: line.Action, Floor: line.Floor, Else: line.Else,
		Code: d.verdict.Code, Rule: d.verdict.Rule, Reply: line.Reply,
		Reason: entry.Reason, Law: entry.Law, NextSender: entry.NextSender, NextStaff: entry.NextStaff, Nearly: []string{},
	}
	for _, n := range d.trace.Nearly {
		v.Nearly = append(v.Nearly, n.Rule)
	}
	return v
}

// WriteTo prints the explanation for people, at most 100 columns wide.
func (x Explanation) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	for _, v := range x.Verdicts {
		v.write(&b)
	}
	for _, n := range x.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	n, err := io.WriteString(w, b.String())
	if err == nil && x.Scan.PHI != "" {
		x.Scan.File = "scan"
		m, err := x.Scan.WriteTo(w)
		return int64(n) + m, err
	}
	return int64(n), err
}

func (v ExplainedVerdict) write(b *strings.Builder) {
	does := v.Action
	if v.Floor != "" {
		does += " over " + v.Floor + " transport"
	}
	if v.Else != "" {
		does += ", else " + v.Else
	}
	fmt.Fprintf(b, "%s: %s (%s", v.Recipient, does, v.Code)
	if v.Rule != "" {
		fmt.Fprintf(b, ", rule %s", v.Rule)
	}
	b.WriteString(")\n")
	for _, row := range [][2]string{{"reply", v.Reply}, {"reason", v.Reason}, {"law", v.Law}, {"marketing", v.NextSender},
		{"compliance", v.NextStaff}, {"nearly", strings.Join(v.Nearly, ", ")}, {"facts", factWords(v.Facts)}} {
		if row[1] != "" {
			writeWrapped(b, row[0], row[1])
		}
	}
}

// factWords is a facts line without its punctuation.
func factWords(line json.RawMessage) string {
	return strings.NewReplacer(`{"`, "", `"}`, "", `":"`, " ", `","`, ", ").Replace(string(line))
}

// writeWrapped prints a labelled paragraph in 100 columns.
func writeWrapped(b *strings.Builder, label, text string) {
	const indent, width = 13, 100
	fmt.Fprintf(b, "  %-10s ", label)
	column := indent
	for i, word := range strings.Fields(text) {
		if i > 0 && column+1+len(word) > width {
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		} else if i > 0 {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteByte('\n')
}
