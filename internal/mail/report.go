package mail

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/emersion/go-message"

	"github.com/phigate/phigate/policy"
)

// Report is what another server sent back about a message: that it could not be
// delivered (RFC 3464, or the forms that older servers write), or that its
// recipient complained (RFC 5965). It prints as [phi]; what it says is somebody
// else's claim and proves nothing by itself.
type Report struct {
	Kind       ReportKind
	Recipients []Reported       // of a Bounce
	Paths      []policy.Address // return paths that the report quotes
}

// ReportKind is what a report is. The zero value is mail that reports nothing:
// an absence notice, a reply, spam.
type ReportKind string

const (
	Bounce    ReportKind = "bounce"
	Complaint ReportKind = "complaint"
)

// Reported is what a bounce says of one recipient.
type Reported struct {
	Final, Original policy.Address // "" if not told
	Action          DSNAction
	Status          string // RFC 3463, "" if not told
	Diagnostic      string // the reply or the words; may quote an address or the mail
}

// Format prints [phi] under every verb.
func (Report) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// LogValue keeps reports out of logs.
func (Report) LogValue() slog.Value { return slog.StringValue("[phi]") }

// MarshalJSON keeps reports out of JSON.
func (Report) MarshalJSON() ([]byte, error) { return []byte(`"[phi]"`), nil }

// Format prints [phi] under every verb.
func (Reported) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// Bounds on what is read of a report.
const (
	reportHeader = 64 << 10
	reportPart   = 128 << 10
	reportParts  = 20
	reported     = 100 // recipients
	diagnostic   = 2 << 10
)

// ReadReport reads what came to a return path or a feedback address. It never
// fails: what cannot be read reports nothing.
func ReadReport(data []byte) Report {
	e, _ := message.ReadWithOptions(bytes.NewReader(data), &message.ReadOptions{MaxHeaderBytes: reportHeader})
	if e == nil {
		return Report{}
	}
	var p parts
	e.Walk(func(_ []int, part *message.Entity, err error) error {
		if p.seen++; part == nil || p.seen > reportParts {
			return io.EOF
		}
		p.add(part)
		return nil
	})
	switch r := (Report{Paths: p.paths}); {
	case p.feedback != "":
		return p.complaint(r)
	case p.status != "":
		r.Kind, r.Recipients = Bounce, statusRecipients(p.status)
		return r
	case fromServer(e.Header):
		r.Kind, r.Recipients = Bounce, []Reported{plainBounce(p.text)}
		return r
	default:
		return r
	}
}

// parts are what a report is made of.
type parts struct {
	seen                   int
	status, feedback, text string
	paths                  []policy.Address
}

// add keeps a part by its type.
func (p *parts) add(part *message.Entity) {
	kind, _, _ := part.Header.ContentType()
	kind = strings.ToLower(kind)
	if strings.HasPrefix(kind, "multipart/") {
		return
	}
	b, _ := io.ReadAll(io.LimitReader(part.Body, reportPart)) // what of a damaged part can be read
	text := strings.ReplaceAll(strings.ToValidUTF8(string(b), "?"), "\r\n", "\n")
	switch kind {
	case "message/delivery-status", "message/global-delivery-status":
		p.status += text + "\n\n"
	case "message/feedback-report":
		p.feedback = text
	case "message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers", "message/rfc822-headers":
		p.quote(text)
	case "text/plain", "":
		p.text += text + "\n"
		p.quote(text)
	}
}

var quoted = regexp.MustCompile(`(?im)^\s*(?:x-)?(?:return-path|original-mail-from|envelope-from|original-from-envelope):\s*<?([^<>\s@]+@[^<>\s]+?)>?\s*$|envelope-from\s+<?([^<>\s@]+@[^<>\s;)]+)`)

// quote notes the return paths that a piece of a message names.
func (p *parts) quote(text string) {
	for _, m := range quoted.FindAllStringSubmatch(text, reported) {
		p.paths = append(p.paths, policy.Address(m[1]+m[2]))
	}
}

// complaint is a feedback report. Of its types only abuse is a recipient's wish;
// not-spam, for one, is the opposite (RFC 5965 §3.1, §7.3).
func (p *parts) complaint(r Report) Report {
	p.quote(p.feedback)
	if f := fields(p.feedback); len(f) > 0 && strings.EqualFold(f[0]["feedback-type"], "abuse") {
		r.Kind = Complaint
	}
	r.Paths = p.paths
	return r
}

// fields reads groups of header-like fields, one group after each blank line.
// Field names come in lower case; of repeated ones the first counts. Some
// servers forget the blank line before a recipient, so a second one begins a
// group of its own.
func fields(text string) []map[string]string {
	var all []map[string]string
	var group map[string]string
	last := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\n")
		name, value, ok := strings.Cut(line, ":")
		name = strings.ToLower(strings.TrimSpace(name))
		switch {
		case strings.TrimSpace(line) == "":
			group, last = nil, ""
			continue
		case last != "" && (line[0] == ' ' || line[0] == '\t'):
			if len(group[last]) < diagnostic {
				group[last] += " " + strings.TrimSpace(line)
			}
			continue
		case !ok || strings.ContainsAny(name, " \t"):
			continue
		}
		if (name == "final-recipient" || name == "original-recipient") && group[name] != "" {
			group = nil
		}
		if group == nil {
			group = map[string]string{}
			all = append(all, group)
		}
		if _, twice := group[name]; !twice {
			group[name] = strings.TrimSpace(value)
		}
		last = name
	}
	return all
}

var statusCode = regexp.MustCompile(`[245]\.\d{1,3}\.\d{1,3}`)

// statusRecipients are the recipients of a delivery-status part. A group without
// a recipient tells of one if it tells what became of it.
func statusRecipients(text string) []Reported {
	var out []Reported
	for _, f := range fields(text) {
		r := Reported{
			Final: typed(f["final-recipient"]), Original: typed(f["original-recipient"]), Action: action(f["action"]),
			Status: statusCode.FindString(f["status"]), Diagnostic: untyped(f["diagnostic-code"]),
		}
		if r.Final == "" && r.Original == "" && r.Action == "" && r.Status == "" || len(out) == reported {
			continue
		}
		if r.Action == "" && strings.HasPrefix(r.Status, "5") {
			r.Action = Failed
		}
		out = append(out, r)
	}
	return out
}

// action reads an Action, which some servers follow with a comment. One that is
// none of ours ends nothing.
func action(s string) DSNAction {
	word := DSNAction(strings.ToLower(strings.TrimRight(first(s), ";,.")))
	if slices.Contains([]DSNAction{Failed, Delayed, Delivered, Relayed}, word) {
		return word
	}
	return ""
}

func first(s string) string {
	if words := strings.Fields(s); len(words) > 0 {
		return words[0]
	}
	return ""
}

// typed reads "rfc822; user@domain", with or without what should be there.
func typed(s string) policy.Address {
	if kind, rest, ok := strings.Cut(s, ";"); ok && !strings.Contains(kind, "@") {
		s = rest
	}
	s = strings.Trim(strings.TrimSpace(s), "<>")
	if s = first(s); !strings.Contains(s, "@") {
		return ""
	}
	return policy.Address(strings.Trim(s, "<>"))
}

// untyped is a Diagnostic-Code without its type.
func untyped(s string) string {
	if kind, rest, ok := strings.Cut(s, ";"); ok && !strings.ContainsAny(kind, " @") {
		s = rest
	}
	return strings.TrimSpace(s)
}

var (
	serverName    = regexp.MustCompile(`(?i)mailer-?daemon|postmaster@|mail delivery (sub)?system|microsoft exchange|mdaemon@|bounce[sd]?@`)
	serverSubject = regexp.MustCompile(`(?i)undeliver|deliver\w* (status|fail\w*|notif\w*|incomplete|problem|error|has failed|report)|returned? (mail|to sender)|failure notice|mail (delivery|system) (fail|error)|nondeliver|could not be delivered|non remis|unzustellbar|no entregado`)
)

// fromServer reports whether mail that is no standard report looks like what a
// server writes about a failure. An answer of a person or an absence notice
// does not.
func fromServer(h message.Header) bool {
	subject, _ := h.Text("Subject")
	return serverSubject.MatchString(subject) || serverName.MatchString(h.Get("From"))
}

var (
	copyBelow = regexp.MustCompile(`(?im)^[-\s>*]*(this is a copy of|below this line|included (is|below)|original message|unsent message|returned message|message (header|text|body)|the (header|body|text) of|a copy of the|here is (a|the) (copy|header)|-+ ?forwarded)|^(return-path|received):`)
	waiting   = regexp.MustCompile(`(?i)\bdelayed\b|delivery (is )?delay|still (being|trying|in the queue)|will (continue|keep|be retried|retry|try again)|not (yet )?been delivered yet|no (further )?action is required|transient|warning: (message|could not)`)
	forGood   = regexp.MustCompile(`(?i)permanent|giv(en|ing) up|will not (be )?(retr|try)|undeliverable|failed|could ?n.t be delivered|could not be delivered|cannot be delivered|did not reach|returned`)
	plainTo   = regexp.MustCompile(`(?m)^\s*<?([^\s<>:;,()"]+@[^\s<>:;,()"]+)>?\s*:?`)
	plainSaid = regexp.MustCompile(`(?m)\b[45]\d\d[- ]#?[45]\.\d{1,3}\.\d{1,3}\b|\b5\d\d[- ][A-Za-z<"']|\(?#[45]\.\d{1,3}\.\d{1,3}`)
)

// plainBounce reads a bounce written for people: qmail's, Exim's, old Exchange's
// and Sendmail's. The copy of the message below it is not looked at.
func plainBounce(text string) Reported {
	if at := copyBelow.FindStringIndex(text); at != nil && at[0] > 0 {
		text = text[:at[0]]
	}
	r := Reported{Action: Failed, Diagnostic: text}
	if waiting.MatchString(text) && !forGood.MatchString(text) {
		r.Action = Delayed
	}
	if m := plainTo.FindStringSubmatch(text); m != nil {
		r.Final = policy.Address(m[1])
	}
	if at := plainSaid.FindStringIndex(text); at != nil {
		r.Status = statusCode.FindString(text[at[0]:at[1]])
		r.Diagnostic = text[at[0]:]
		if strings.ContainsRune("(#", rune(text[at[0]])) { // qmail writes the code behind the words
			r.Diagnostic = text[max(0, strings.LastIndex(text[:at[0]], "\n\n")):at[1]]
		}
	}
	if end := strings.Index(strings.TrimLeft(r.Diagnostic, "\n"), "\n\n"); r.Status != "" && end >= 0 {
		r.Diagnostic = strings.TrimLeft(r.Diagnostic, "\n")[:end]
	}
	r.Diagnostic = strings.TrimSpace(r.Diagnostic)
	r.Diagnostic = r.Diagnostic[:min(len(r.Diagnostic), diagnostic)]
	return r
}
