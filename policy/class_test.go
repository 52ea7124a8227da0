package policy_test

import (
	"slices"
	"testing"

	. "github.com/phigate/phigate/policy"
)

func TestEffectiveClass(t *testing.T) {
	sender := func(c Class, a Audience, r Remuneration) Sender {
		return Sender{Class: c, Audience: a, Remuneration: r}
	}
	free, paid, cost := RemunerationNone, RemunerationOther, RemunerationCostBased
	for _, c := range []struct {
		name      string
		declared  Declared
		class     Class
		phi       PHI
		promotion Promotion
		notes     int
	}{
		{"the sender's own", Declared{Sender: sender(ClassTransactional, AudiencePublic, free), PHI: PHINone}, ClassTransactional, PHINone, PromotionNo, 0},
		{"nothing declared is marketing to patients", Declared{PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 0},
		{"stricter header", Declared{Sender: sender(ClassTransactional, AudiencePublic, free), Class: "Part2 ", PHI: PHINone}, ClassPart2, PHIMedium, PromotionNo, 0},
		{"laxer header", Declared{Sender: sender(ClassRefill, AudiencePublic, free), Class: "transactional", PHI: PHINone}, ClassRefill, PHIMedium, PromotionNo, 1},
		{"equal header", Declared{Sender: sender(ClassRefill, AudiencePublic, free), Class: "refill", PHI: PHINone}, ClassRefill, PHIMedium, PromotionNo, 0},
		{"unknown header", Declared{Sender: sender(ClassTransactional, AudiencePatients, free), Class: "newsletter", PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"unknown header is not laxer", Declared{Sender: sender(ClassPsychotherapy, AudiencePatients, free), Class: "x", PHI: PHINone}, ClassPsychotherapy, PHIMedium, PromotionYes, 2},
		{"paid treatment", Declared{Sender: sender(ClassTreatmentOps, AudiencePatients, cost), PHI: PHIHigh}, ClassMarketing, PHIHigh, PromotionYes, 1},
		{"paid by header", Declared{Sender: sender(ClassTransactional, AudiencePatients, free), Remuneration: "other", PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"refill at cost", Declared{Sender: sender(ClassRefill, AudiencePatients, cost), PHI: PHINone}, ClassRefill, PHIMedium, PromotionNo, 0},
		{"refill for profit", Declared{Sender: sender(ClassRefill, AudiencePatients, paid), PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"promotional lead", Declared{Sender: sender(ClassTransactional, AudiencePatients, free), PromotionalLead: true, PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"promotional lead in an access request", Declared{Sender: sender(ClassAccessRequest, AudiencePatients, free), PromotionalLead: true, PHI: PHINone}, ClassAccessRequest, PHIMedium, PromotionNo, 0},
		{"part 2 notice", Declared{Sender: sender(ClassTreatmentOps, AudiencePatients, free), Part2Notice: true, PHI: PHINone}, ClassPart2, PHIMedium, PromotionNo, 1},
		{"part 2 notice under session notes", Declared{Sender: sender(ClassPsychotherapy, AudiencePatients, free), Part2Notice: true, PHI: PHINone}, ClassPsychotherapy, PHIMedium, PromotionNo, 0},
		{"general mail with PHI", Declared{Sender: sender(ClassGeneralCommercial, AudiencePublic, free), PHI: PHIMedium}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"general mail to patients", Declared{Sender: sender(ClassGeneralCommercial, AudiencePatients, free), PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"general mail to a gym's members", Declared{Organization: SenderNonHealth, Sender: sender(ClassGeneralCommercial, AudienceMembers, free), PHI: PHINone}, ClassGeneralCommercial, PHINone, PromotionYes, 0},
		{"marketing to the public", Declared{Sender: sender(ClassMarketing, AudiencePublic, free), PHI: PHILow}, ClassGeneralCommercial, PHILow, PromotionYes, 1},
		{"marketing to staff with PHI", Declared{Sender: sender(ClassMarketing, AudienceStaff, free), PHI: PHIHigh}, ClassMarketing, PHIHigh, PromotionYes, 0},
		{"paid treatment mail to the public", Declared{Sender: sender(ClassTreatmentOps, AudiencePublic, paid), PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"paid reminder to the public", Declared{Sender: sender(ClassTransactional, AudiencePublic, paid), PHI: PHINone}, ClassGeneralCommercial, PHINone, PromotionYes, 2},
		{"audience by header", Declared{Sender: sender(ClassMarketing, AudiencePublic, free), Audience: "members", PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 0},
		{"laxer audience", Declared{Sender: sender(ClassMarketing, AudiencePatients, free), Audience: "public", PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"unknown audience", Declared{Sender: sender(ClassMarketing, AudiencePublic, free), Audience: "friends", PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"no escape to non_health", Declared{Organization: SenderPlan, Sender: sender(ClassMarketing, AudiencePatients, free), SenderClass: "non_health", PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 1},
		{"non_health that sends for a plan", Declared{Organization: SenderNonHealth, Sender: sender(ClassMarketing, AudiencePatients, free), SenderClass: "plan", PHI: PHINone}, ClassMarketing, PHIMedium, PromotionYes, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := EffectiveClass(c.declared)
			if e.Class != c.class || e.PHI != c.phi || e.Promotion != c.promotion || len(e.Notes) != c.notes {
				t.Errorf("got %v phi %v promotion %v, notes %q", e.Class, e.PHI, e.Promotion, e.Notes)
			}
		})
	}
}

// No header may make a verdict laxer, whatever the rest says.
func TestHeadersNeverMakeAVerdictLaxer(t *testing.T) {
	p := shipped(t)
	lax := []Action{Reject, Defer, Hold, Portal, Deliver}
	rank := func(d Declared) int {
		e := EffectiveClass(d)
		f := mild()
		f.SenderClass, f.Class, f.Audience, f.Remuneration, f.Promotion, f.PHI = e.SenderClass, e.Class, e.Audience, e.Remuneration, e.Promotion, e.PHI
		if f.Class == ClassPart2 || f.Class == ClassPsychotherapy {
			f.Topic = TopicSensitive
		}
		if d.Sender.Class == ClassOrgToOrg {
			// It goes to organizations; to a person, a header may choose a
			// class whose rules are about persons.
			f.Recipient = RecipientOrgCovered
		}
		v := p.Decide(f)
		return slices.Index(lax, v.Action)*4 + int(v.Floor)
	}
	for own := ClassMarketing; own <= ClassAccessRequest; own++ {
		for audience := AudiencePatients; audience <= AudiencePublic; audience++ {
			for phi := PHIHigh; phi <= PHINone; phi++ {
				d := Declared{Sender: Sender{Class: own, Audience: audience, Remuneration: RemunerationNone}, PHI: phi}
				base := rank(d)
				for _, class := range []string{"marketing", "psychotherapy", "part2", "general_commercial", "fundraising", "refill", "treatment_ops", "transactional", "org_to_org", "access_request", "?"} {
					for _, to := range []string{"", "patients", "public", "?"} {
						for _, pay := range []string{"", "other", "none"} {
							e := d
							e.Class, e.Audience, e.Remuneration, e.SenderClass = class, to, pay, "non_health"
							if got := rank(e); got > base {
								t.Errorf("%v to %v, phi %v: headers %s, %s, %s lift the verdict from %d to %d", own, audience, phi, class, to, pay, base, got)
							}
						}
					}
				}
			}
		}
	}
}
