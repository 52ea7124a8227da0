package policy_test

import (
	"math/rand/v2"
	"testing"

	. "github.com/phigate/phigate/policy"
)

// row is what the decision table of the compliance guide says, stated a second
// time and in another way than configs/policy.yaml.
type row struct {
	rule   string
	action Action
	floor  FloorName
	code   Code
}

func tableSays(f Facts) row {
	phi := f.PHI == PHIMedium || f.PHI == PHIHigh
	valid := f.Consent == ConsentValid
	held := f.Released == ReleasedNo
	promotion := f.Promotion == PromotionYes
	switch {
	case f.Records != RecordsOK:
		return row{"records-readable", Defer, 0, "HG-S901"}
	case f.Channel == ChannelNoEmail:
		return row{"no-email", Reject, 0, "HG-K101"}
	case promotion && f.OptedOut != OptedOutNo:
		return row{"opted-out", Reject, 0, "HG-O201"}
	case f.Address == AddressUndeliverable:
		return row{"undeliverable", Reject, 0, "HG-K102"}
	case f.Scan == ScanUnavailable:
		return row{"scanner-up", Defer, 0, "HG-S902"}
	case phi && f.BAA != BAAActive && f.BAA != BAASelf:
		return row{"sender-needs-baa", Reject, 0, "HG-B301"}
	}
	switch f.Class {
	case ClassPsychotherapy:
		if !valid {
			return row{"psychotherapy-needs-authorization", Reject, 0, "HG-C105"}
		}
	case ClassPart2:
		self := f.Recipient == RecipientIndividual || f.Recipient == RecipientRepresentative
		if !self && !valid {
			return row{"part2-third-party", Reject, 0, "HG-C106"}
		}
		if promotion && !valid {
			return row{"part2-promotion", Reject, 0, "HG-C106"}
		}
		if f.Form == FormNoticeMissing {
			return row{"part2-notice", Reject, 0, "HG-N501"}
		}
	case ClassMarketing:
		if phi && f.Consent == ConsentOutside {
			return row{"authorization-covers-campaign", Reject, 0, "HG-C102"}
		}
		if phi && !valid {
			return row{"marketing-needs-authorization", Reject, 0, "HG-C101"}
		}
	case ClassOrgToOrg:
		if phi && f.Recipient != RecipientOrgCovered {
			return row{"organization-covered", Reject, 0, "HG-B302"}
		}
	case ClassFundraising:
		if f.Form == FormFundraisingExceeded {
			return row{"fundraising-data", Reject, 0, "HG-F402"}
		}
	}
	other := f.Recipient == RecipientThirdParty || f.Recipient == RecipientOrgUncovered
	switch {
	case promotion && f.Form == FormFooterMissing:
		return row{"footer", Reject, 0, "HG-M401"}
	case phi && f.Trackers == TrackersUnapproved:
		return row{"trackers", Reject, 0, "HG-T404"}
	case f.Scan == ScanUnscannable && held && f.SenderClass == SenderNonHealth:
		return row{"unscannable-other", Reject, 0, "HG-U405"}
	case f.Scan == ScanUnscannable && held:
		return row{"unscannable", Hold, 0, "HG-H603"}
	case phi && other && !valid && held:
		return row{"not-the-patient", Hold, 0, "HG-H605"}
	case phi && f.Address == AddressDisputed && held:
		return row{"address-disputed", Hold, 0, "HG-H604"}
	case phi && f.Address == AddressUnverified && f.Topic == TopicSensitive && held:
		return row{"sensitive-unverified", Hold, 0, "HG-H604"}
	case f.Class == ClassPsychotherapy && held:
		return row{"psychotherapy-release", Hold, 0, "HG-H602"}
	case f.Class == ClassPsychotherapy:
		return row{"psychotherapy-portal", Portal, 0, "HG-L705"}
	case f.Channel == ChannelPortalOnly:
		return row{"portal-only", Portal, 0, "HG-L701"}
	case phi && f.Subject == SubjectPHI:
		return row{"subject-phi", Portal, 0, "HG-L704"}
	case phi && f.Class == ClassGeneralCommercial:
		return row{"", Hold, 0, "HG-H600"}
	case phi && f.Topic == TopicSensitive:
		return row{"sensitive", Deliver, FloorSensitive, "HG-D702"}
	case f.Class == ClassPart2:
		return row{"", Hold, 0, "HG-H600"}
	case phi:
		return row{"phi", Deliver, FloorPHI, "HG-D703"}
	}
	return row{"no-phi", Deliver, FloorPlain, "HG-D704"}
}

// likely draws a value that lets the table go on most of the time: the last one,
// or any.
func likely[E ~uint8](r *rand.Rand, last E) E {
	if r.IntN(3) > 0 {
		return last
	}
	return any1(r, last)
}

func any1[E ~uint8](r *rand.Rand, last E) E { return E(r.IntN(int(last) + 1)) }

// draw draws facts so that every row of the table is met often.
func draw(r *rand.Rand) Facts {
	return Facts{
		Records: likely(r, RecordsOK), SenderClass: any1(r, SenderNonHealth), BAA: likely(r, BAASelf),
		Class: any1(r, ClassAccessRequest), Audience: any1(r, AudiencePublic), Remuneration: any1(r, RemunerationNone),
		Promotion: any1(r, PromotionNo), Recipient: any1(r, RecipientOrgCovered), Channel: likely(r, ChannelOpen),
		OptedOut: likely(r, OptedOutNo), Address: likely(r, AddressConfirmed), Consent: likely(r, ConsentValid),
		Unencrypted: any1(r, UnencryptedAccepted), PHI: any1(r, PHINone), Topic: any1(r, TopicGeneral),
		Scan: likely(r, ScanComplete), Form: likely(r, FormOK), Subject: likely(r, SubjectClean),
		Trackers: likely(r, TrackersOK), Released: any1(r, ReleasedYes), Assurance: any1(r, AssuranceDANE),
	}
}

func TestShippedPolicyIsTheDecisionTable(t *testing.T) {
	p := shipped(t)
	met := map[string]int{}
	r := rand.New(rand.NewPCG(1, 2))
	for range 400_000 {
		f := draw(r)
		v, want := p.Decide(f), tableSays(f)
		if v.Rule != want.rule || v.Action != want.action || v.Code != want.code || v.Action == Deliver && v.Floor != want.floor {
			t.Fatalf("%s:\ngot  %s\nwant %+v", f.Line(), v.Line(), want)
		}
		met[v.Rule]++
	}
	if len(met) != 29 {
		t.Errorf("%d ends of the table met, want 28 rules and none", len(met))
	}
	for rule, n := range met {
		if n < 10 {
			t.Errorf("rule %q met only %d times", rule, n)
		}
	}
}
