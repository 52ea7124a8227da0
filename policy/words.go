// Package policy holds the words of the gateway and its pure decision.
//
// The words are [Address], [Class] and the other enums, [Facts] (all that is
// known about one message and one recipient), [Verdict] (what is to be done)
// and [Code] (why). [Policy.Decide] turns Facts into a Verdict. Nothing here
// does I/O or reads a clock.
//
// Every enum's zero value is the most cautious one, so that what was forgotten
// refuses. The texts of the values are those of policy.yaml, of facts lines and
// of the JSON that other programs read; they never change meaning.
package policy

import (
	"fmt"
	"strings"
)

// Address is one e-mail address, "local@domain", as the SMTP client gave it.
// It prints as [address] so that it cannot slip into a log; call
// [Address.Clear] where the text itself is needed.
type Address string

// Clear returns the address as text.
func (a Address) Clear() string { return string(a) }

// Domain returns the part behind the last "@" in lower case, "" if there is none.
func (a Address) Domain() string {
	i := strings.LastIndexByte(string(a), '@')
	if i < 0 {
		return ""
	}
	return strings.ToLower(string(a)[i+1:])
}

// Key returns the form under which two spellings count as one mailbox: all in
// lower case. Providers treat local parts without regard to case, and a missed
// opt-out hurts more than a shared one (RFC 5321 §2.4 would allow the difference).
func (a Address) Key() string { return strings.ToLower(strings.TrimSpace(string(a))) }

// Format keeps addresses out of logs and errors under every verb.
func (a Address) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[address]") }

// The enums of Facts, in the order of the fact table: zero is the most cautious.
type (
	Records      uint8 // are policy, registry, store, key ring and clock readable
	SenderClass  uint8 // what kind of organization sends
	BAA          uint8 // the contract that covers the sender (45 CFR 164.504(e))
	Class        uint8 // the legal class of the communication
	Audience     uint8 // whom the sender says the list holds
	Remuneration uint8 // is the communication paid for (45 CFR 164.501)
	Promotion    uint8 // does it promote anything
	Recipient    uint8 // who the recipient is to the organization
	Channel      uint8 // which channel the recipient allows (45 CFR 164.522(b))
	OptedOut     uint8
	AddressState uint8 // how far the address can be trusted
	Consent      uint8 // the record that this class needs, against this campaign
	Unencrypted  uint8 // has the recipient accepted unencrypted mail (78 FR 5634)
	PHI          uint8 // band of the scan
	Topic        uint8
	Scan         uint8 // did the scan see all
	Form         uint8 // does the text carry what its class demands
	Subject      uint8 // does the subject show PHI
	Trackers     uint8
	Released     uint8 // did a reviewer release it
)

const (
	RecordsUnavailable Records = iota
	RecordsOK
)
const (
	SenderCoveredEntity SenderClass = iota
	SenderPlan
	SenderPharmacy
	SenderBusinessAssociate
	SenderNonHealth
)
const (
	BAAMissing BAA = iota
	BAAPending
	BAAExpired
	BAATerminated
	BAANoTransmit
	BAAActive
	BAASelf
)
const (
	ClassMarketing Class = iota
	ClassPsychotherapy
	ClassPart2
	ClassGeneralCommercial
	ClassFundraising
	ClassRefill
	ClassTreatmentOps
	ClassTransactional
	ClassOrgToOrg
	ClassAccessRequest
)
const (
	AudiencePatients Audience = iota
	AudienceMembers
	AudienceStaff
	AudienceProspects
	AudiencePublic
)
const (
	RemunerationOther Remuneration = iota
	RemunerationCostBased
	RemunerationNone
)
const (
	PromotionYes Promotion = iota
	PromotionNo
)
const (
	RecipientThirdParty Recipient = iota
	RecipientOrgUncovered
	RecipientIndividual
	RecipientRepresentative
	RecipientOrgCovered
)
const (
	ChannelNoEmail Channel = iota
	ChannelPortalOnly
	ChannelOpen
)
const (
	OptedOutYes OptedOut = iota
	OptedOutNo
)
const (
	AddressUnverified AddressState = iota
	AddressDisputed
	AddressUndeliverable
	AddressConfirmed
)
const (
	ConsentNone Consent = iota
	ConsentDefective
	ConsentExpired
	ConsentRevoked
	ConsentOutside
	ConsentValid
)
const (
	UnencryptedNo Unencrypted = iota
	UnencryptedAccepted
)
const (
	PHIHigh PHI = iota
	PHIMedium
	PHILow
	PHINone
)
const (
	TopicSensitive Topic = iota
	TopicGeneral
)
const (
	ScanUnavailable Scan = iota
	ScanUnscannable
	ScanComplete
)
const (
	FormFooterMissing Form = iota
	FormFundraisingExceeded
	FormNoticeMissing
	FormOK
)
const (
	SubjectPHI Subject = iota
	SubjectClean
)
const (
	TrackersUnapproved Trackers = iota
	TrackersOK
)
const (
	ReleasedNo Released = iota
	ReleasedYes
)

// Action is what is done with a message for one recipient. Zero holds it.
type Action uint8

const (
	Hold Action = iota
	Reject
	Defer
	Portal
	Deliver
	Bounce // only as the Else of a deliver: give up with a redacted DSN
)

// Assurance says how well a recipient's server is proved (transport ladder).
type Assurance uint8

const (
	AssuranceUnknown   Assurance = iota // nothing known: DNS failed, cache unreadable
	AssuranceNone                       // no TLS
	AssuranceEncrypted                  // TLS, peer not authenticated
	AssuranceVerified                   // WebPKI proves the MX name, MX from unsigned DNS
	AssurancePolicy                     // MTA-STS enforce, or DNSSEC-secure MX with WebPKI
	AssuranceDANE                       // DANE match or pinned key
)

// Strength says how strong the negotiated TLS is.
type Strength uint8

const (
	StrengthUnknown Strength = iota
	StrengthWeak
	StrengthBCP195    // RFC 9325
	StrengthSP80052r2 // NIST SP 800-52r2
	StrengthFIPS      // SP 800-52r2 and FIPS-approved primitives only
)

// FloorName names an entry of `transport:` in policy.yaml. Zero is the strictest.
type FloorName uint8

const (
	FloorSensitive FloorName = iota
	FloorPHI
	FloorPlain
)

// Mode says whether a rule binds. Zero binds.
type Mode uint8

const (
	Enforce Mode = iota
	Warn         // passed over, recorded and shown
	Shadow       // passed over, only recorded
)

// Floor is what a connection must prove before a message may travel over it.
// A zero field asks for the strictest there is, so an unset Floor sends nothing
// over anything less than DANE with FIPS strength.
type Floor struct {
	Assurance Assurance
	Strength  Strength
}

// Open is the floor of mail that carries no PHI: any connection will do.
var Open = Floor{AssuranceNone, StrengthWeak}

func (f Floor) strict() Floor {
	if f.Assurance == AssuranceUnknown {
		f.Assurance = AssuranceDANE
	}
	if f.Strength == StrengthUnknown {
		f.Strength = StrengthFIPS
	}
	return f
}

// IsOpen reports whether the floor allows clear text.
func (f Floor) IsOpen() bool { return f.strict().Assurance == AssuranceNone }

// Met reports whether a connection proved to a and s satisfies the floor.
// Strength counts only where the floor asks for TLS at all.
func (f Floor) Met(a Assurance, s Strength) bool {
	f = f.strict()
	return a >= f.Assurance && (f.Assurance == AssuranceNone || s >= f.Strength)
}

// Max returns the stricter of both in each part: floors only rise.
func (f Floor) Max(g Floor) Floor {
	f, g = f.strict(), g.strict()
	return Floor{max(f.Assurance, g.Assurance), max(f.Strength, g.Strength)}
}

func (f Floor) String() string {
	f = f.strict()
	return f.Assurance.String() + "/" + f.Strength.String()
}

// Code is the gateway's own reason code, such as HG-C101. Codes are listed in
// the code table of the catalogue and never change meaning.
type Code string

// Verdict is the decision for one recipient.
type Verdict struct {
	Recipient Address
	Action    Action
	Floor     FloorName // meaningful only for Deliver
	Else      Action    // what a Deliver becomes when its floor cannot be met
	Code      Code
	Rule      string // name of the rule, "" if none matched
}

// names holds the texts of one enum, indexed by value.
type names []string

func (n names) text(v uint8) string {
	if int(v) < len(n) {
		return n[v]
	}
	return fmt.Sprintf("invalid(%d)", v)
}

func (n names) parse(s string) (uint8, error) {
	for i, t := range n {
		if t == s {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("unknown value, use one of %s", strings.Join(n, ", "))
}

var (
	recordsNames      = names{"unavailable", "ok"}
	senderClassNames  = names{"covered_entity", "plan", "pharmacy", "business_associate", "non_health"}
	baaNames          = names{"missing", "pending", "expired", "terminated", "no_transmit", "active", "self"}
	classNames        = names{"marketing", "psychotherapy", "part2", "general_commercial", "fundraising", "refill", "treatment_ops", "transactional", "org_to_org", "access_request"}
	audienceNames     = names{"patients", "members", "staff", "prospects", "public"}
	remunerationNames = names{"other", "cost_based", "none"}
	promotionNames    = names{"yes", "no"}
	recipientNames    = names{"third_party", "org_uncovered", "individual", "representative", "org_covered"}
	channelNames      = names{"no_email", "portal_only", "open"}
	optedOutNames     = names{"yes", "no"}
	addressNames      = names{"unverified", "disputed", "undeliverable", "confirmed"}
	consentNames      = names{"none", "defective", "expired", "revoked", "outside", "valid"}
	unencryptedNames  = names{"no", "accepted"}
	phiNames          = names{"high", "medium", "low", "none"}
	topicNames        = names{"sensitive", "general"}
	scanNames         = names{"unavailable", "unscannable", "complete"}
	formNames         = names{"footer_missing", "fundraising_exceeded", "notice_missing", "ok"}
	subjectNames      = names{"phi", "clean"}
	trackersNames     = names{"unapproved", "ok"}
	releasedNames     = names{"no", "yes"}
	actionNames       = names{"hold", "reject", "defer", "portal", "deliver", "bounce"}
	assuranceNames    = names{"unknown", "none", "encrypted", "verified", "policy", "dane"}
	strengthNames     = names{"unknown", "weak", "bcp195", "sp800-52r2", "fips"}
	floorNames        = names{"sensitive", "phi", "plain"}
	modeNames         = names{"enforce", "warn", "shadow"}
)

func (v Records) String() string      { return recordsNames.text(uint8(v)) }
func (v SenderClass) String() string  { return senderClassNames.text(uint8(v)) }
func (v BAA) String() string          { return baaNames.text(uint8(v)) }
func (v Class) String() string        { return classNames.text(uint8(v)) }
func (v Audience) String() string     { return audienceNames.text(uint8(v)) }
func (v Remuneration) String() string { return remunerationNames.text(uint8(v)) }
func (v Promotion) String() string    { return promotionNames.text(uint8(v)) }
func (v Recipient) String() string    { return recipientNames.text(uint8(v)) }
func (v Channel) String() string      { return channelNames.text(uint8(v)) }
func (v OptedOut) String() string     { return optedOutNames.text(uint8(v)) }
func (v AddressState) String() string { return addressNames.text(uint8(v)) }
func (v Consent) String() string      { return consentNames.text(uint8(v)) }
func (v Unencrypted) String() string  { return unencryptedNames.text(uint8(v)) }
func (v PHI) String() string          { return phiNames.text(uint8(v)) }
func (v Topic) String() string        { return topicNames.text(uint8(v)) }
func (v Scan) String() string         { return scanNames.text(uint8(v)) }
func (v Form) String() string         { return formNames.text(uint8(v)) }
func (v Subject) String() string      { return subjectNames.text(uint8(v)) }
func (v Trackers) String() string     { return trackersNames.text(uint8(v)) }
func (v Released) String() string     { return releasedNames.text(uint8(v)) }
func (v Action) String() string       { return actionNames.text(uint8(v)) }
func (v Assurance) String() string    { return assuranceNames.text(uint8(v)) }
func (v Strength) String() string     { return strengthNames.text(uint8(v)) }
func (v FloorName) String() string    { return floorNames.text(uint8(v)) }
func (v Mode) String() string         { return modeNames.text(uint8(v)) }

// The Parse functions return the value named by s. Their error lists the
// values that exist and never repeats s, which may come from a message.

func ParseSenderClass(s string) (SenderClass, error) {
	v, err := senderClassNames.parse(s)
	return SenderClass(v), err
}
func ParseBAA(s string) (BAA, error)     { v, err := baaNames.parse(s); return BAA(v), err }
func ParseClass(s string) (Class, error) { v, err := classNames.parse(s); return Class(v), err }
func ParseAudience(s string) (Audience, error) {
	v, err := audienceNames.parse(s)
	return Audience(v), err
}
func ParseRemuneration(s string) (Remuneration, error) {
	v, err := remunerationNames.parse(s)
	return Remuneration(v), err
}
func ParseAction(s string) (Action, error) { v, err := actionNames.parse(s); return Action(v), err }
func ParseAssurance(s string) (Assurance, error) {
	v, err := assuranceNames.parse(s)
	return Assurance(v), err
}
func ParseStrength(s string) (Strength, error) {
	v, err := strengthNames.parse(s)
	return Strength(v), err
}
func ParseFloorName(s string) (FloorName, error) {
	v, err := floorNames.parse(s)
	return FloorName(v), err
}
func ParseMode(s string) (Mode, error) { v, err := modeNames.parse(s); return Mode(v), err }
func ParsePHI(s string) (PHI, error)   { v, err := phiNames.parse(s); return PHI(v), err }
func ParseScan(s string) (Scan, error) { v, err := scanNames.parse(s); return Scan(v), err }
