package policy

import "strings"

// Declared is what a sender's settings and a message say about its legal class.
type Declared struct {
	Organization SenderClass // organization.kind
	Sender       Sender

	// The X-Gateway headers of the message, "" where absent.
	Class, Audience, Remuneration, SenderClass string

	PHI             PHI  // band of the scan alone
	PromotionalLead bool // the subject or the first paragraph promotes (16 CFR 316.3)
	Part2Notice     bool // the text carries the notice of 42 CFR 2.32
}

// Effective are the facts that follow from what is declared and found.
type Effective struct {
	SenderClass  SenderClass
	Class        Class
	Audience     Audience
	Remuneration Remuneration
	Promotion    Promotion
	PHI          PHI      // raised to what class and audience alone disclose
	Notes        []string // what was ignored or changed, and why, for the record
}

// strictness ranks the classes, strictest first.
var strictness = [...]Class{
	ClassPsychotherapy, ClassPart2, ClassMarketing, ClassGeneralCommercial, ClassFundraising,
	ClassRefill, ClassTreatmentOps, ClassTransactional, ClassOrgToOrg, ClassAccessRequest,
}

func (v Class) stricterThan(w Class) bool {
	for _, c := range strictness {
		if c == v || c == w {
			return c == v && v != w
		}
	}
	return false
}

// promotes reports whether the class is promotion by definition.
func (v Class) promotes() bool {
	return v == ClassMarketing || v == ClassGeneralCommercial || v == ClassFundraising
}

// discloses reports whether mail of the class shows by itself that the
// recipient gets care (45 CFR 160.103).
func (v Class) discloses() bool {
	switch v {
	case ClassPsychotherapy, ClassPart2, ClassRefill, ClassTreatmentOps, ClassAccessRequest:
		return true
	}
	return false
}

// drawnFromPatients reports whether being on the list shows that one is the
// patient or member of a health organization.
func drawnFromPatients(a Audience, s SenderClass) bool {
	return s != SenderNonHealth && (a == AudiencePatients || a == AudienceMembers)
}

// EffectiveClass returns the class under which a message is judged: the sender's,
// which headers and content may only make stricter, but that general mail to
// people who are nobody's patients is not marketing under HIPAA. No header can
// make anything laxer; an unknown value counts as the most cautious.
func EffectiveClass(d Declared) Effective {
	e := Effective{
		SenderClass:  d.Organization,
		Class:        d.Sender.Class,
		Audience:     d.Sender.Audience,
		Remuneration: d.Sender.Remuneration,
		Promotion:    PromotionNo,
		PHI:          d.PHI,
	}
	if e.Class.promotes() {
		e.Promotion = PromotionYes
	}
	e.applyHeaders(d)
	// The sender's own class counts too: a header that makes treatment mail
	// marketing must not make its list one of strangers.
	if d.Sender.Class.discloses() || e.Class.discloses() || drawnFromPatients(e.Audience, e.SenderClass) {
		e.PHI = min(e.PHI, PHIMedium)
	}
	e.applyLaw(d)
	if e.Class.discloses() {
		e.PHI = min(e.PHI, PHIMedium)
	}
	return e
}

func (e *Effective) note(s string) { e.Notes = append(e.Notes, s) }

// applyHeaders takes what the submitting tool says where it is stricter.
func (e *Effective) applyHeaders(d Declared) {
	e.Audience = stricter(e, "X-Gateway-Audience", d.Audience, audienceNames, e.Audience)
	e.Remuneration = stricter(e, "X-Gateway-Remuneration", d.Remuneration, remunerationNames, e.Remuneration)
	if s := lower(d.SenderClass); s != "" {
		v, err := ParseSenderClass(s)
		switch {
		case err != nil:
			e.note("X-Gateway-Sender-Class: unknown value ignored")
		case v == SenderNonHealth && e.SenderClass != SenderNonHealth:
			e.note("X-Gateway-Sender-Class: non_health ignored, the organization is not")
		default:
			e.SenderClass = v
		}
	}
	if s := lower(d.Class); s != "" {
		v, err := ParseClass(s)
		if err != nil {
			v = ClassMarketing
			e.note("X-Gateway-Class: unknown value counts as marketing")
		}
		if v.promotes() {
			e.Promotion = PromotionYes
		}
		if v.stricterThan(e.Class) {
			e.Class = v
		} else if v != e.Class {
			e.note("X-Gateway-Class: laxer than the sender's class, ignored")
		}
	}
}

func lower(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

// stricter returns the value a header names if it is more cautious than current.
func stricter[E ~uint8](e *Effective, header, text string, known names, current E) E {
	s := lower(text)
	if s == "" {
		return current
	}
	v, err := known.parse(s)
	switch {
	case err != nil:
		e.note(header + ": unknown value counts as " + known[0])
		return 0
	case E(v) > current:
		e.note(header + ": laxer than the sender's setting, ignored")
		return current
	}
	return E(v)
}

// marketing says why mail of the class is marketing all the same, "" if it is not.
func (v Class) marketing(r Remuneration, promotionalLead bool) string {
	operations := v == ClassTreatmentOps || v == ClassTransactional
	switch {
	case operations && r != RemunerationNone, v == ClassRefill && r == RemunerationOther:
		return "paid for by a third party: marketing (45 CFR 164.501)"
	case (operations || v == ClassRefill) && promotionalLead:
		return "promotional subject or lead: marketing (16 CFR 316.3)"
	}
	return ""
}

// applyLaw makes the class stricter where payment or content demand it.
func (e *Effective) applyLaw(d Declared) {
	if d.Sender.Class.marketing(e.Remuneration, d.PromotionalLead) != "" {
		e.Promotion = PromotionYes // though a header hides the class that says so
	}
	if why := e.Class.marketing(e.Remuneration, d.PromotionalLead); why != "" {
		e.promote(why)
	}
	if d.Part2Notice && ClassPart2.stricterThan(e.Class) {
		e.Class = ClassPart2
		e.note("carries the notice of 42 CFR 2.32: part2")
	}
	if e.Class == ClassGeneralCommercial && e.PHI <= PHIMedium {
		e.promote("health information in general mail: marketing (45 CFR 164.508(a)(3))")
	}
	if e.Class == ClassMarketing && e.PHI >= PHILow && e.Audience >= AudienceStaff {
		e.Class = ClassGeneralCommercial
		e.note("no PHI signal, list not drawn from patients: general_commercial")
	}
}

func (e *Effective) promote(why string) {
	e.Class, e.Promotion = ClassMarketing, PromotionYes
	e.note(why)
}
