package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/phi"
	"github.com/phigate/phigate/policy"
)

// ScanOptions are what a person says of the messages of a scan.
type ScanOptions struct {
	From        string
	To          []string
	SenderClass string
	Audience    string
	Segment     string
	Terms       string // file of house terms
	Explain     bool   // lay the judgement open
}

// Scan judges messages outside any site.
type Scan struct {
	o       ScanOptions
	scanner *phi.Scanner
}

// NewScan prepares a scan; the error names the flag that is wrong.
func NewScan(o ScanOptions) (*Scan, error) {
	if _, err := policy.ParseSenderClass(o.SenderClass); o.SenderClass != "" && err != nil {
		return nil, fmt.Errorf("--sender-class: %w", err)
	}
	if _, err := policy.ParseAudience(o.Audience); o.Audience != "" && err != nil {
		return nil, fmt.Errorf("--audience: %w", err)
	}
	p := phi.Options{CareRelationship: true}
	if o.Terms != "" {
		data, err := os.ReadFile(o.Terms)
		if err != nil {
			return nil, err
		}
		if p.Terms, err = phi.ReadTerms(o.Terms, data); err != nil {
			return nil, err
		}
	}
	s, err := phi.New(p)
	return &Scan{o, s}, err
}

// ScanLine is one line of "gateway scan --json".
type ScanLine struct {
	File        string            `json:"file"`
	PHI         string            `json:"phi"`
	Score       float64           `json:"score"`
	Findings    []phi.Finding     `json:"findings"`
	Relation    phi.Relation      `json:"relation"`
	Unscannable []phi.Unscannable `json:"unscannable"`
	Scan        string            `json:"scan"`
	Topic       string            `json:"topic"`
	Language    string            `json:"language,omitempty"`
	Negative    []string          `json:"negative,omitempty"`
	Explanation *phi.Explanation  `json:"explanation,omitempty"`
}

// Line scans one message. With several recipients the line is that of the
// worst verdict. It never fails: what cannot be read is said in the line.
func (s *Scan) Line(ctx context.Context, file string, data []byte) ScanLine {
	doc := s.scanner.Read(ctx, data)
	c, to := s.context(data)
	var worst phi.Result
	for i, rcpt := range to {
		c.Recipient = rcpt
		if r := doc.Judge(c); i == 0 || r.Score > worst.Score {
			worst, to[0] = r, rcpt
		}
	}
	line := scanLine(file, doc, worst)
	if s.o.Explain {
		c.Recipient = to[0]
		e := doc.Explain(c)
		line.Explanation = &e
	}
	return line
}

// scanLine is a result with all findings, also where the verdict is none.
func scanLine(file string, doc *phi.Document, r phi.Result) ScanLine {
	l := ScanLine{File: file, PHI: r.Band.String(), Score: r.Score, Findings: doc.Findings(), Relation: r.Relation,
		Unscannable: r.Unscannable, Scan: r.Scan.String(), Topic: r.Topic.String(), Language: r.Language, Negative: r.Negative}
	if l.Findings == nil {
		l.Findings = []phi.Finding{}
	}
	if l.Unscannable == nil {
		l.Unscannable = []phi.Unscannable{}
	}
	return l
}

// context is what flags and headers say. For a scan alone the headers stand for
// the flags, whatever they say, so that one run can mix them.
func (s *Scan) context(data []byte) (phi.Context, []policy.Address) {
	c := phi.Context{SenderClass: policy.SenderCoveredEntity}
	audience, class, segment := s.o.Audience, s.o.SenderClass, s.o.Segment
	var to []policy.Address
	for _, a := range s.o.To {
		to = append(to, policy.Address(a))
	}
	if msg, err := lenient(data); err == nil {
		controls := msg.Controls()
		audience, class, segment = last(audience, controls.Audience), last(class, controls.SenderClass), last(segment, controls.Segment)
		if len(to) == 0 {
			for _, m := range msg.Named("To") {
				to = append(to, m.Address)
			}
		}
	}
	if v, err := policy.ParseAudience(audience); err == nil {
		c.Audience = &v
	}
	if v, err := policy.ParseSenderClass(class); err == nil {
		c.SenderClass, c.Declared = v, true
	}
	c.Segment = segment
	if len(to) == 0 {
		to = []policy.Address{""}
	}
	return c, to
}

func last(flag string, header []string) string {
	if len(header) == 0 {
		return flag
	}
	return header[len(header)-1]
}

// lenient reads the header of a file that may have any line ends.
func lenient(data []byte) (*mail.Message, error) {
	canonical, err := mail.Canonical(data, mail.RewriteLF)
	if err != nil {
		return nil, err
	}
	return mail.Parse(canonical)
}

// WriteTo prints the line for people, at most 100 columns wide.
func (l ScanLine) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", l.File, verdictWords(l.PHI))
	if l.Score > 0 {
		fmt.Fprintf(&b, " (score %.2f)", l.Score)
	}
	b.WriteByte('\n')
	if l.Relation.By != "" {
		fmt.Fprintf(&b, "  because  %s × %s, %s\n", l.Relation.Individual, l.Relation.Health, l.Relation.By)
	}
	for _, f := range l.Findings {
		fmt.Fprintf(&b, "  %-10s %-22s %-9s %s\n", f.Group, f.Rule, cut(f.Part, 9), cut(f.Snippet, 52))
	}
	for _, u := range l.Unscannable {
		fmt.Fprintf(&b, "  unread     %-22s %s\n", u.Reason, cut(u.Part, 60))
	}
	for _, n := range l.Negative {
		fmt.Fprintf(&b, "  against    %s\n", cut(n, 84))
	}
	if l.Explanation != nil {
		writeExplanation(&b, l.Explanation)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

func writeExplanation(b *strings.Builder, e *phi.Explanation) {
	for _, t := range e.Texts {
		fmt.Fprintf(b, "  in %s\n", t.Part)
		for _, line := range strings.Split(strings.TrimSpace(t.Text), "\n") {
			fmt.Fprintf(b, "    | %s\n", strings.TrimSpace(line))
		}
	}
	for _, c := range e.Changes {
		fmt.Fprintf(b, "  if %s: %s\n", c.If, verdictWords(c.Say))
	}
}

// verdictWords never claims that there is no health information, only that
// nothing of it was seen.
func verdictWords(band string) string {
	if band == "none" {
		return "no PHI signal"
	}
	return "PHI " + band
}

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

var errNoSender = errors.New("no such sender in the policy")
