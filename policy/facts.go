package policy

import "time"

// Facts are all that a decision may depend on, for one message and one
// recipient. A zero Facts is the most cautious one and ends in a defer.
type Facts struct {
	Records      Records
	SenderClass  SenderClass
	BAA          BAA
	Class        Class
	Audience     Audience
	Remuneration Remuneration
	Promotion    Promotion
	Recipient    Recipient
	Channel      Channel
	OptedOut     OptedOut
	Address      AddressState
	Consent      Consent
	Unencrypted  Unencrypted
	PHI          PHI
	Topic        Topic
	Scan         Scan
	Form         Form
	Subject      Subject
	Trackers     Trackers
	Released     Released
	Assurance    Assurance // predicted; compared with the floor, never matched by a rule

	// Recorded with the facts, not matched by rules.
	Now       time.Time // when the decision is made; accept_risk lapses by it
	Campaign  string    // X-Gateway-Campaign, a token
	ConsentID string
	Partner   string
}

// field is one key of `when:` and of a facts line.
type field struct {
	key   string
	names names
	at    func(*Facts) *uint8
	match bool // may rules match it
}

// fields lists the enums of Facts in the order of the fact table.
var fields = []field{
	{"records", recordsNames, func(f *Facts) *uint8 { return (*uint8)(&f.Records) }, true},
	{"sender_class", senderClassNames, func(f *Facts) *uint8 { return (*uint8)(&f.SenderClass) }, true},
	{"baa", baaNames, func(f *Facts) *uint8 { return (*uint8)(&f.BAA) }, true},
	{"class", classNames, func(f *Facts) *uint8 { return (*uint8)(&f.Class) }, true},
	{"audience", audienceNames, func(f *Facts) *uint8 { return (*uint8)(&f.Audience) }, true},
	{"remuneration", remunerationNames, func(f *Facts) *uint8 { return (*uint8)(&f.Remuneration) }, true},
	{"promotion", promotionNames, func(f *Facts) *uint8 { return (*uint8)(&f.Promotion) }, true},
	{"recipient", recipientNames, func(f *Facts) *uint8 { return (*uint8)(&f.Recipient) }, true},
	{"channel", channelNames, func(f *Facts) *uint8 { return (*uint8)(&f.Channel) }, true},
	{"opted_out", optedOutNames, func(f *Facts) *uint8 { return (*uint8)(&f.OptedOut) }, true},
	{"address", addressNames, func(f *Facts) *uint8 { return (*uint8)(&f.Address) }, true},
	{"consent", consentNames, func(f *Facts) *uint8 { return (*uint8)(&f.Consent) }, true},
	{"unencrypted", unencryptedNames, func(f *Facts) *uint8 { return (*uint8)(&f.Unencrypted) }, true},
	{"phi", phiNames, func(f *Facts) *uint8 { return (*uint8)(&f.PHI) }, true},
	{"topic", topicNames, func(f *Facts) *uint8 { return (*uint8)(&f.Topic) }, true},
	{"scan", scanNames, func(f *Facts) *uint8 { return (*uint8)(&f.Scan) }, true},
	{"form", formNames, func(f *Facts) *uint8 { return (*uint8)(&f.Form) }, true},
	{"subject", subjectNames, func(f *Facts) *uint8 { return (*uint8)(&f.Subject) }, true},
	{"trackers", trackersNames, func(f *Facts) *uint8 { return (*uint8)(&f.Trackers) }, true},
	{"released", releasedNames, func(f *Facts) *uint8 { return (*uint8)(&f.Released) }, true},
	{"assurance", assuranceNames, func(f *Facts) *uint8 { return (*uint8)(&f.Assurance) }, false},
}
