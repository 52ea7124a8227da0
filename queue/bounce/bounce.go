// Package bounce tells what a refusal is about: the recipient, our standing, a
// rule of theirs, the connection, the message, or just the moment.
//
// [Rules.Classify] takes a reply with its words and returns a [Class] and the
// name of the rule that found it. The words are for matching alone: they may
// repeat an address or the mail, and [Reply] prints as its codes. The rules are
// data, rules.yaml; the first that matches wins, and what the words do not tell
// the codes do (RFC 3463, RFC 5321 §4.2.3).
//
// Only [RecipientBad] says anything about a mailbox. A wrong one loses a good
// recipient, so every doubt ends elsewhere.
package bounce

import (
	"fmt"
	"regexp"
	"strings"
)

// Class is what a reply is about. The texts are kept in the audit log and never
// change meaning. The zero value is no class: there was no reply.
type Class string

const (
	RecipientBad  Class = "recipient_bad"  // there is no such mailbox or domain, and trying again is useless
	MailboxFull   Class = "mailbox_full"   // the mailbox is there and has no room
	OurReputation Class = "our_reputation" // our address or domain is listed, complained about, thought ill of
	Policy        Class = "policy"         // a rule of theirs: authentication, relaying, who may write to whom
	TLS           Class = "tls"            // the connection is not safe enough, for them or at all
	Content       Class = "content"        // what the message holds, or how large it is
	Temporary     Class = "temporary"      // their trouble or wish to wait; nothing about us or the mailbox
	Unknown       Class = "unknown"        // refused without a reason
)

// Classes are all of them.
func Classes() []Class {
	return []Class{RecipientBad, MailboxFull, OurReputation, Policy, TLS, Content, Temporary, Unknown}
}

// Status is the RFC 3463 status of a refusal for good that came without one, ""
// of no class.
func (c Class) Status() string {
	return map[Class]string{RecipientBad: "5.1.1", MailboxFull: "5.2.2", OurReputation: "5.7.1", Policy: "5.7.1",
		TLS: "5.7.10", Content: "5.6.0", Temporary: "5.4.0", Unknown: "5.0.0"}[c]
}

// Reply is what a server said. It prints as its codes.
type Reply struct {
	Code     int    // 0 if a report does not tell
	Enhanced string // RFC 3463, "" if none
	Text     string // the words behind the codes
}

// Permanent reports whether the reply says that trying again is useless. The
// basic code counts where the two do not agree (RFC 2034 §4).
func (r Reply) Permanent() bool {
	if r.Code != 0 {
		return r.Code/100 == 5
	}
	return strings.HasPrefix(r.Enhanced, "5")
}

// Format prints the codes under every verb.
func (r Reply) Format(f fmt.State, _ rune) { fmt.Fprint(f, r.codes()) }

// MarshalText keeps the words out of JSON and slog.
func (r Reply) MarshalText() ([]byte, error) { return []byte(r.codes()), nil }

// codes are the reply without its words, the subject of a rule's match. A basic
// code that is not known reads as 0.
func (r Reply) codes() string { return strings.TrimSpace(fmt.Sprintf("%d %s", r.Code, r.Enhanced)) }

var (
	basic    = regexp.MustCompile(`^\s*([245]\d\d)(?:[ -]|$)`)
	lineCode = regexp.MustCompile(`(?m)^\s*[245]\d\d(?:[ -]|$)`)
	enhanced = regexp.MustCompile(`^[#\s(]*([245]\.\d{1,3}\.\d{1,3})\b`)
	buried   = regexp.MustCompile(`(?:\(#?|#)([245]\.\d{1,3}\.\d{1,3})\)?`) // qmail and its kin write (#5.1.1) last
	lineEnh  = regexp.MustCompile(`(?m)^[#\s(]*[245]\.\d{1,3}\.\d{1,3}\b`)
)

// Parse reads a reply as on the wire, of one line or several, such as the
// Diagnostic-Code of a report holds. What is no reply is one without codes.
func Parse(wire string) Reply {
	var r Reply
	if m := basic.FindStringSubmatch(wire); m != nil {
		fmt.Sscan(m[1], &r.Code)
	}
	r.Text = lineCode.ReplaceAllString(wire, "")
	return r.complete()
}

// complete finds the enhanced code that a server wrote among its words, and
// takes repeated ones out of them.
func (r Reply) complete() Reply {
	for _, form := range []*regexp.Regexp{enhanced, buried} {
		if m := form.FindStringSubmatch(r.Text); m != nil && r.Enhanced == "" {
			r.Enhanced = m[1]
		}
	}
	r.Text = lineEnh.ReplaceAllString(r.Text, "")
	return r
}

// Verdict is what a reply is about, and the rule that says so.
type Verdict struct {
	Class Class
	Rule  string // its id in rules.yaml
}

var (
	mailAddress = regexp.MustCompile(`<[^<>]*@[^<>]*>|<[^<>\s]*>|[^\s<>()\[\]:;,"]+@[^\s<>()\[\]:;,"]+`)
	space       = regexp.MustCompile(`\s+`)
)

// longest is how much of a reply is read: RFC 5321 §4.5.3.1.5 allows 512 octets a
// line, and the reason stands in the first ones.
const longest = 2 << 10

// words are the text in the form that patterns are written for: lower case, one
// line, without the addresses, for a mailbox may be called spam or full.
func (r Reply) words() string {
	s := mailAddress.ReplaceAllString(r.Text[:min(len(r.Text), longest)], "<>")
	return strings.ToLower(strings.TrimSpace(space.ReplaceAllString(s, " ")))
}

// Classify says what a reply is about. A reply that asks to try again is never
// about a bad recipient: many servers say "unknown user" while they look one up.
func (rs *Rules) Classify(r Reply) Verdict {
	r = r.complete()
	codes, words := r.codes(), r.words()
	for _, rule := range rs.rules {
		if !rule.matches(codes, words) {
			continue
		}
		v := Verdict{rule.class, rule.id}
		if v.Class == RecipientBad && !r.Permanent() {
			v.Class = Temporary
		}
		return v
	}
	return Verdict{Unknown, ""}
}
