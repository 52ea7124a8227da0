package mail

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/phigate/phigate/policy"
)

// DSN is a delivery status notification (RFC 3464) without a word of the
// message it speaks of: no original header, no subject, no body.
type DSN struct {
	Envelope             // To is the return path of the message
	EnvID      string    // RFC 3461 ENVID as it was given (xtext), "" if none
	MessageID  string    // the id said when the message was accepted
	Arrived    time.Time // when it was accepted
	Recipients []Status
}

// DSNAction is the Action of a recipient (RFC 3464 §2.3.3).
type DSNAction string

const (
	Failed    DSNAction = "failed"
	Delayed   DSNAction = "delayed"
	Delivered DSNAction = "delivered"
	Relayed   DSNAction = "relayed"
)

// Status is what became of one recipient.
type Status struct {
	Recipient policy.Address
	ORcpt     string // RFC 3461 ORCPT as it was given, "" if none
	Action    DSNAction
	Enhanced  string      // RFC 3463 code; "" or a malformed one is 5.0.0
	Class     string      // what the refusal is about, a word of ours; "" if unknown
	Code      policy.Code // our reason
	Reply     string      // the other server's reply; only its codes are taken over
	RemoteMTA string      // who gave it, "" if we decided
	Until     time.Time   // Delayed: when it will be given up
}

// Bytes composes the notification as multipart/report.
func (d DSN) Bytes() ([]byte, error) {
	h := d.header(d.subject())
	h.Set("Auto-Submitted", "auto-replied")
	var fields strings.Builder
	writeField(&fields, "Original-Envelope-Id", d.EnvID)
	writeField(&fields, "Reporting-MTA", "dns; "+d.Hostname)
	writeField(&fields, "Arrival-Date", date(d.Arrived))
	for _, s := range d.Recipients {
		fields.WriteString("\n")
		s.write(&fields, d.MessageID)
	}
	return compose(h, "multipart/report", map[string]string{"report-type": "delivery-status"}, []part{
		textPart("plain", "en", d.text()),
		{"message/delivery-status", "", "7bit", fields.String()},
	})
}

func (d DSN) subject() string {
	for _, s := range d.Recipients {
		if s.Action == Failed {
			return "Message could not be delivered"
		}
	}
	return "Delivery status"
}

func (d DSN) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "This is the mail gateway at %s, about the message with the id\n%s.\n", d.Hostname, d.MessageID)
	for _, s := range d.Recipients {
		fmt.Fprintf(&b, "\n%s: %s\n", s.Recipient.Clear(), s.Action)
		fmt.Fprintf(&b, "  reason: %s\n", s.diagnostic(d.MessageID))
		if s.Class != "" {
			fmt.Fprintf(&b, "  it is about: %s\n", strings.ReplaceAll(s.Class, "_", " "))
		}
		if !s.Until.IsZero() {
			fmt.Fprintf(&b, "  It will be tried until %s.\n", date(s.Until))
		}
	}
	b.WriteString("\nThe message itself is not part of this report, since it may hold health\n" +
		"information. Your compliance office can look up the reason by the id.\n")
	return b.String()
}

// write appends the fields of one recipient (RFC 3464 §2.3).
func (s Status) write(b *strings.Builder, id string) {
	writeField(b, "Original-Recipient", strings.Replace(s.ORcpt, ";", "; ", 1))
	writeField(b, "Final-Recipient", typedAddress(s.Recipient))
	writeField(b, "Action", string(s.Action))
	writeField(b, "Status", s.status())
	if s.RemoteMTA != "" {
		writeField(b, "Remote-MTA", "dns; "+s.RemoteMTA)
	}
	writeField(b, "Diagnostic-Code", "smtp; "+s.diagnostic(id))
	writeField(b, "Will-Retry-Until", date(s.Until))
	writeField(b, "X-Bounce-Class", s.Class)
}

var (
	enhancedCode = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}$`)
	replyCodes   = regexp.MustCompile(`^\d{3}(?:[ -][245]\.\d{1,3}\.\d{1,3})?`)
)

func (s Status) status() string {
	if enhancedCode.MatchString(s.Enhanced) {
		return s.Enhanced
	}
	return "5.0.0"
}

// diagnostic is a reply line made of codes and the id. The text of another
// server's reply is never taken over: it may quote the message.
func (s Status) diagnostic(id string) string {
	codes := replyCodes.FindString(s.Reply)
	if codes == "" {
		basic := map[byte]string{'2': "250", '4': "450"}[s.status()[0]]
		if basic == "" {
			basic = "550"
		}
		codes = basic + " " + s.status()
	}
	line := strings.Replace(codes, "-", " ", 1)
	if s.Code != "" {
		line += " " + string(s.Code)
	}
	return line + " (id " + id + ")"
}

// typedAddress is an address with its type; one beyond ASCII is spelled in
// ASCII as RFC 6533 §3 says (utf-8-addr-xtext).
func typedAddress(a policy.Address) string {
	s := a.Clear()
	if isASCII([]byte(s)) {
		return "rfc822; " + s
	}
	var b strings.Builder
	for _, r := range s {
		if r > ' ' && r < 0x7f && !strings.ContainsRune(`\+=`, r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%X}`, r)
		}
	}
	return "utf-8; " + b.String()
}

// writeField appends a field unless it has no value.
func writeField(b *strings.Builder, name, value string) {
	if value != "" {
		b.WriteString(name + ": " + oneLine(value) + "\n")
	}
}

// date is a time as mail writes it, "" for the zero time.
func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(dateLayout)
}
