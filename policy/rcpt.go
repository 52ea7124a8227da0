package policy

// Pending says which facts are not known before the message is.
type Pending uint16

const (
	PendingSenderClass Pending = 1 << iota
	PendingClass
	PendingAudience
	PendingRemuneration
	PendingPromotion
	PendingRecipient
	PendingConsent // leave out if the recipient has no consent record at all: then no class finds one
	PendingPHI
	PendingTopic
	PendingScan
	PendingForm
	PendingSubject
	PendingTrackers

	// PendingAtRCPT is every fact that headers or content may still change.
	PendingAtRCPT Pending = 1<<iota - 1
)

// AtRCPT decides what can be decided when RCPT TO is spoken. f holds what the
// records say, the sender's own class, and what [EffectiveClass] makes of its
// settings with nothing found; facts of the content need not be set. Pending
// facts may become stricter, the class only in the way of [EffectiveClass]. Only
// if every end is a reject is the recipient refused now, with the verdict of the
// mildest end: the sender's class, nothing found, all of it scanned. Unreadable
// records refuse with a defer.
func (p *Policy) AtRCPT(f Facts, open Pending) (v Verdict, refuse bool) {
	if f.Records != RecordsOK {
		if v = p.Decide(f); v.Action != Defer {
			v = Verdict{Action: Defer, Code: "HG-S901"}
		}
		return v, true
	}
	now, all := p.at(f), f.mayBecome(open)
	bound := p.bound(func(r *rule) bool {
		overlaps, _ := r.against(&all)
		return overlaps && standing(r) && !r.lapsed(now)
	})
	for _, b := range consistent(all) {
		if mayEndElsewhere(b, bound) {
			return Verdict{}, false
		}
	}
	v = p.Decide(f.mildest(open))
	return v, v.Action == Reject
}

// settings are the pending facts that the sender's settings begin and a message
// can only make stricter; content are those that it alone gives.
var (
	settings = map[Pending]int{PendingAudience: iAudience, PendingRemuneration: iRemuneration, PendingPromotion: iPromotion, PendingPHI: iPHI}
	content  = map[Pending]int{PendingTopic: iTopic, PendingForm: iForm, PendingSubject: iSubject, PendingTrackers: iTrackers, PendingScan: iScan}
)

// mildest returns f with nothing found in the message.
func (f Facts) mildest(open Pending) Facts {
	pt := f.point()
	for bit, i := range content {
		if open&bit != 0 {
			pt[i] = uint8(len(fields[i].names) - 1)
		}
	}
	m := pt.facts().implied()
	m.Now = f.Now
	return m
}

// mayEndElsewhere reports whether any point of the box ends in no reject.
func mayEndElsewhere(b box, rules []*rule) bool {
	for i, r := range rules {
		if r.verdict.Action != Reject && occurs(reaches(b, rules[:i], r)) {
			return true
		}
	}
	return occurs(reaches(b, rules, nil))
}

// mayBecome returns the box of what f may become, each fact by itself.
func (f Facts) mayBecome(open Pending) box {
	pt := f.point()
	var b box
	for i, v := range pt {
		b[i] = 1 << v
	}
	for bit, i := range settings {
		if open&bit != 0 {
			b[i] = upTo(pt[i])
		}
	}
	for bit, i := range content {
		if open&bit != 0 {
			b[i] = everything[i]
		}
	}
	if open&PendingSenderClass != 0 {
		b[iSenderClass] |= everything[iSenderClass] &^ setOf(SenderNonHealth)
	}
	if open&PendingClass != 0 {
		b[iClass] = f.classes()
	}
	if organization := setOf(RecipientOrgCovered, RecipientOrgUncovered); open&PendingRecipient != 0 && !organization.has(pt[iRecipient]) {
		b[iRecipient] = everything[iRecipient] &^ organization
	}
	if open&PendingConsent != 0 {
		b[iConsent] = everything[iConsent]
	}
	if open&PendingScan != 0 {
		b[iScan] = setOf(ScanUnscannable, ScanComplete)
	}
	return b
}

// classes returns what the class may become: stricter, or from marketing to
// general_commercial.
func (f Facts) classes() valueSet {
	s := setOf(f.Class)
	for _, c := range strictness {
		if c.stricterThan(f.Class) {
			s |= setOf(c)
		}
	}
	if s.has(uint8(ClassMarketing)) {
		s |= setOf(ClassGeneralCommercial)
	}
	return s
}

// consistent returns the parts of a box that [EffectiveClass] can give: which
// facts a class brings with it.
func consistent(b box) []box {
	phi, little := setOf(PHIHigh, PHIMedium), setOf(PHILow, PHINone)
	patients := setOf(AudiencePatients, AudienceMembers)
	health := everything[iSenderClass] &^ setOf(SenderNonHealth)
	var out []box
	add := func(c box) {
		for _, part := range []box{
			c.with(iAudience, patients).with(iSenderClass, health).with(iPHI, phi),
			c.with(iAudience, patients).with(iSenderClass, ^health),
			c.with(iAudience, ^patients),
		} {
			if !part.empty() {
				out = append(out, part)
			}
		}
	}
	for _, class := range strictness {
		c := b.with(iClass, setOf(class))
		if class.promotes() {
			c = c.with(iPromotion, setOf(PromotionYes))
		}
		if class.discloses() {
			c = c.with(iPHI, phi)
		}
		switch class {
		case ClassPsychotherapy, ClassPart2:
			c = c.with(iTopic, setOf(TopicSensitive))
		case ClassTreatmentOps, ClassTransactional:
			c = c.with(iRemuneration, setOf(RemunerationNone))
		case ClassRefill:
			c = c.with(iRemuneration, setOf(RemunerationCostBased, RemunerationNone))
		case ClassGeneralCommercial:
			c = c.with(iPHI, little)
		case ClassMarketing:
			add(c.with(iPHI, little).with(iAudience, patients))
			c = c.with(iPHI, phi)
		}
		add(c)
	}
	return out
}
