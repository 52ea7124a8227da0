package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Entry is what a code says to each of its readers. Reasons and next steps are
// in plain words and never speak of a particular message.
type Entry struct {
	Code       Code
	Law        string // the rule it serves, "" if none but good practice
	Reason     string
	NextSender string // next step of who sent the campaign
	NextStaff  string // next step of the compliance officer
	SMTP       int    // reply code, of the DSN for the E codes
	Enhanced   string // RFC 3463 status
	Text       string // reply text, with the code where the sender should see it
}

// Reply returns the line said to the SMTP client, "550 5.7.1 HG-C101 no valid
// authorization", without the id that the front door adds.
func (e Entry) Reply() string { return fmt.Sprintf("%d %s %s", e.SMTP, e.Enhanced, e.Text) }

// Catalogue returns every code of the gateway, in the order of a message's way.
func Catalogue() []Entry { return slices.Clone(catalogue) }

// Lookup returns the entry of a code.
func Lookup(c Code) (Entry, bool) {
	e, ok := byCode[c]
	return e, ok
}

// Reply returns the three parts of the reply for a code. A code that is not in
// the catalogue gets a refusal to retry: what is not understood is not accepted.
func Reply(c Code) (smtp int, enhanced, text string) {
	if e, ok := byCode[c]; ok {
		return e.SMTP, e.Enhanced, e.Text
	}
	return 451, "4.3.0", "policy data unavailable, retry"
}

// byCode is never written after the program has started.
var byCode = func() map[Code]Entry {
	m := make(map[Code]Entry, len(catalogue))
	for _, e := range catalogue {
		m[e.Code] = e
	}
	return m
}()

// family returns the letter of a code, which says what kind of end it names:
// D delivered, L pickup, H held, S deferred, E gave up, R before any decision;
// all others refuse.
func (c Code) family() byte {
	if len(c) < 4 || !strings.HasPrefix(string(c), "HG-") {
		return 0
	}
	return c[3]
}

// sibling returns the code of the same number in another family, c itself if
// there is none.
func (c Code) sibling(family byte) Code {
	if c.family() == 0 {
		return c
	}
	s := "HG-" + Code(family) + c[4:]
	if _, ok := byCode[s]; !ok {
		return c
	}
	return s
}

// Expired returns the code of mail given up after a hold or after no safe route
// was found: HG-E603 for HG-H603, HG-E702 for HG-D702 and HG-L702.
func (c Code) Expired() Code { return c.sibling('E') }

// action returns what a rule that carries the code must do.
func (c Code) action() Action {
	switch c.family() {
	case 'D':
		return Deliver
	case 'L':
		return Portal
	case 'H':
		return Hold
	case 'S':
		return Defer
	}
	return Reject
}

// ofRules reports whether a rule may carry the code.
func (c Code) ofRules() bool {
	_, ok := byCode[c]
	return ok && c.family() != 'E' && c.family() != 'R'
}

// codesFor lists the codes of rules that do a.
func codesFor(a Action) []string {
	var out []string
	for _, e := range catalogue {
		if e.Code.ofRules() && e.Code.action() == a {
			out = append(out, string(e.Code))
		}
	}
	return out
}

const (
	accepted = "accepted"
	review   = " accepted, held for review"
)

var catalogue = []Entry{
	{"HG-R801", "45 CFR 164.312(e)",
		"the listener demands TLS and the tool spoke in clear",
		"switch TLS on in the tool", "none",
		530, "5.7.0", "HG-R801 TLS required"},
	{"HG-R802", "45 CFR 164.312(a)(2)(i), (d)",
		"the tool did not log in and does not come from a network that may send without",
		"enter the login of the sender in the tool", "check `networks` of the sender",
		530, "5.7.0", "HG-R802 authentication required"},
	{"HG-R803", "45 CFR 164.312(d)",
		"this sender may not use this address in MAIL FROM or From",
		"use an address of the organization", "check `from` of the sender in policy.yaml",
		550, "5.7.1", "HG-R803 sender address not allowed"},
	{"HG-R810", "",
		"every recipient was refused, for different reasons",
		"look up the id in the console", "look up the id in the console",
		550, "5.7.1", "HG-R810 all recipients refused"},
	{"HG-R811", "",
		"some recipients were refused; a report on each was sent back",
		"read the reports", "look up the id in the console",
		250, "2.0.0", "HG-R811 accepted, some recipients refused"},
	{"HG-S901", "promise 3: fail closed",
		"records could not be reached; nothing was sent",
		"none, the tool retries", "call operations if it lasts 15 minutes",
		451, "4.3.0", "HG-S901 policy data unavailable, retry"},
	{"HG-S902", "promise 3: fail closed",
		"the content check could not be reached; nothing was sent",
		"none, the tool retries", "call operations if it lasts 15 minutes; look for one message that repeats",
		451, "4.3.0", "HG-S902 content check unavailable, retry"},
	{"HG-K101", "45 CFR 164.522(b)",
		"this person asked not to be e-mailed here",
		"take the address off all lists", "confirm the request; reach the person the way they asked",
		550, "5.7.1", "HG-K101 recipient does not accept this channel"},
	{"HG-K102", "",
		"mail to this address failed for good before",
		"correct the address", "ask the clinic for a new one; `gateway suppression revoke` if wrong",
		550, "5.1.1", "HG-K102 address suppressed"},
	{"HG-O201", "45 CFR 164.514(f), 15 USC 7704",
		"this person opted out",
		"remove from promotional lists", "nothing; never re-enter without a new opt-in",
		550, "5.7.1", "HG-O201 recipient opted out"},
	{"HG-B301", "45 CFR 164.502(e), 164.504(e)",
		"this tool has no contract in force to handle patient data",
		"stop the campaign", "close the incident: what went to the vendor, breach test; sign or renew, then import",
		550, "5.7.1", "HG-B301 sender not authorized for protected content"},
	{"HG-B302", "45 CFR 164.502(e)",
		"the receiving organization is not known as covered or under contract",
		"check the address", "add the organization to partners.csv",
		550, "5.7.1", "HG-B302 recipient organization not covered"},
	{"HG-C101", "45 CFR 164.508(a)(3), (b)(2)",
		"no valid signed permission for marketing",
		"drop or ask for permission; `gateway preflight` lists them", "the ledger shows which element is missing, expired or revoked",
		550, "5.7.1", "HG-C101 no valid authorization"},
	{"HG-C102", "45 CFR 164.508(c)(1)(iv), (a)(3)(ii)",
		"a permission exists, not for this topic, discloser or paid message",
		"use a topic it covers", "amend the form; never widen a record",
		550, "5.7.1", "HG-C102 authorization does not cover campaign"},
	{"HG-C105", "45 CFR 164.508(a)(2)",
		"therapy session notes need their own permission",
		"do not send by campaign", "ask the clinician; authorization naming the notes",
		550, "5.7.1", "HG-C105 authorization required"},
	{"HG-C106", "42 CFR 2.31",
		"substance-use records need their own consent",
		"do not send", "obtain Part 2 consent with scope",
		550, "5.7.1", "HG-C106 consent required"},
	{"HG-F402", "45 CFR 164.514(f)",
		"a fundraising letter may not use health details",
		"remove diagnosis or treatment words", "check the list's fields",
		550, "5.6.0", "HG-F402 content exceeds fundraising data"},
	{"HG-N501", "42 CFR 2.32",
		"the legal notice on redisclosure is missing and could not be added",
		"add statement 2", "approve the template",
		550, "5.6.0", "HG-N501 required notice missing"},
	{"HG-M401", "15 USC 7704, RFC 8058",
		"postal address or working unsubscribe missing",
		"add the footer", "set `postal_address`",
		550, "5.6.0", "HG-M401 required footer or header missing"},
	{"HG-T404", "45 CFR 164.502(e), FTC Act s5",
		"a tracking or link host would learn who the patient is",
		"turn tracking off or use own host", "add the host to a contract (`services`)",
		550, "5.6.0", "HG-T404 unapproved tracking host"},
	{"HG-U405", "promise 3: fail closed",
		"a part could not be read (encrypted, too large, broken)",
		"send a link or plain text", "ask the sender for a readable copy",
		550, "5.6.0", "HG-U405 content could not be inspected"},
	{"HG-P403", "45 CFR 164.312(e), 164.530(c)",
		"the subject or a name shows patient data; it shows on lock screens and in notices",
		"write a neutral subject", "approve the template",
		550, "5.6.0", "HG-P403 protected content in subject"},
	{"HG-H600", "",
		"no rule fits",
		"tell compliance what it is", "add a rule and a test",
		250, "2.0.0", "HG-H600" + review},
	{"HG-H601", "45 CFR 160.103",
		"general mail with a faint health signal",
		"is the list really public?", "confirm audience, release the campaign",
		250, "2.0.0", "HG-H601" + review},
	{"HG-H602", "45 CFR 164.508(a)(2)",
		"valid permission; two people must agree",
		"wait", "two different people release",
		250, "2.0.0", "HG-H602" + review},
	{"HG-H603", "promise 3: fail closed",
		"a part could not be read (encrypted, too large, broken)",
		"send a link or plain text", "open it, correct class and PHI, release or deny",
		250, "2.0.0", "HG-H603" + review},
	{"HG-H604", "OCR FAQ 570",
		"the address is in doubt for what it carries",
		"confirm address with the patient", "confirm, then lift `disputed` or record `treatment_channel`",
		250, "2.0.0", "HG-H604" + review},
	{"HG-H605", "45 CFR 164.502(a)",
		"it speaks of several people, or of someone else",
		"send one per person", "third party? record authority or consent",
		250, "2.0.0", "HG-H605" + review},
	{"HG-D701", "45 CFR 164.524",
		"sent, proof of transport on record; the person accepted unencrypted mail for an access request",
		"none", "none",
		250, "2.0.0", accepted},
	{"HG-D702", "42 CFR 2; 45 CFR 164.312(e)",
		"sent, proof of transport on record; a sensitive topic takes the stricter floor",
		"none", "none",
		250, "2.0.0", accepted},
	{"HG-D703", "45 CFR 164.506, 164.508, 164.312(e)",
		"sent, proof of transport on record",
		"none", "none",
		250, "2.0.0", accepted},
	{"HG-D704", "45 CFR 160.103",
		"sent; no PHI signal",
		"none", "none",
		250, "2.0.0", accepted},
	{"HG-L701", "45 CFR 164.522(b)",
		"given through the secure page, as this person asked",
		"none", "none",
		250, "2.0.0", accepted},
	{"HG-L702", "42 CFR 2; 45 CFR 164.312(e)",
		"given through the secure page: the domain's mail servers are not proved well enough for a sensitive topic",
		"none", "look at the posture of that domain on the console",
		250, "2.0.0", accepted},
	{"HG-L703", "45 CFR 164.506, 164.508, 164.312(e)",
		"given through the secure page: the domain's mail servers are not proved well enough",
		"none", "look at the posture of that domain on the console",
		250, "2.0.0", accepted},
	{"HG-L704", "45 CFR 164.312(e), 164.530(c)",
		"given through the secure page: the subject or a name shows patient data, which would show on lock screens",
		"write a neutral subject", "approve the template",
		250, "2.0.0", accepted},
	{"HG-L705", "45 CFR 164.508(a)(2)",
		"given through the secure page, as therapy session notes always are",
		"none", "none",
		250, "2.0.0", accepted},
	expired("HG-E600", "no rule fitted and nobody released it in time"),
	expired("HG-E601", "held for a faint health signal and not released in time"),
	expired("HG-E602", "held for two people to agree and not released in time"),
	expired("HG-E603", "held because a part could not be read and not released in time"),
	expired("HG-E604", "held because the address is in doubt and not released in time"),
	expired("HG-E605", "held because it speaks of someone else and not released in time"),
	noRoute("HG-E702", "no route safe enough for a sensitive topic, and no secure page"),
	noRoute("HG-E703", "no route safe enough for health information, and no secure page"),
	{"HG-E704", "",
		"the recipient's mail servers could not be reached in time",
		"resend after the cause is gone", "look at the posture of that domain",
		550, "5.4.7", "HG-E704 delivery time expired"},
}

func expired(c Code, reason string) Entry {
	return Entry{c, "", reason, "resend after the cause is gone", "review age of holds",
		550, "5.7.1", string(c) + " not released in time"}
}

func noRoute(c Code, reason string) Entry {
	return Entry{c, "45 CFR 164.312(e)", reason, "resend after the cause is gone", "look at the posture of that domain; switch the portal on",
		550, "5.7.4", string(c) + " no safe route to the recipient"}
}
