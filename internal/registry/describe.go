package registry

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// self is the partner of the organization's own systems.
const self = "self"

// Description is what the records say of one partner and one recipient. Its
// zero value says that they cannot be read, and is the most cautious in every
// other respect.
type Description struct {
	Records     policy.Records
	BAA         policy.BAA // how the sender's partner stands for transmitting
	Partner     string
	Channel     policy.Channel
	Address     policy.AddressState
	Unencrypted policy.Unencrypted
	Warning     store.ID // of the unencrypted_preference that says so
	Language    string   // of the recipient's newest consent, "" if none

	now          time.Time
	organization policy.Organization
	home         home
	consents     []version[Consent]
	reasons      []string // of the suppressions in force
}

// home says to whom a recipient's domain belongs.
type home uint8

const (
	homeUnknown   home = iota
	homeOurs           // one of organization.domains
	homeCovered        // named by a partner whose contract is in force and lets it receive
	homeUncovered      // named by a partner without
)

// Describe reads what is known of a sender's partner ("self" for an own system,
// "" for none) and a recipient. The error is ErrAddress, ErrStore or ErrDamaged;
// the Description is then the zero one.
func (r *Registry) Describe(ctx context.Context, partner string, recipient policy.Address) (Description, error) {
	subject, err := mailbox(recipient)
	if err != nil {
		return Description{}, err
	}
	d := Description{Records: policy.RecordsOK, Partner: partner, now: r.opts.Now(), organization: r.opts.Organization()}
	if d.BAA, err = r.baa(ctx, partner, d.now); err != nil {
		return Description{}, err
	}
	domain := policy.Address(subject).Domain()
	if d.home, err = r.homeOf(ctx, domain, d); err != nil {
		return Description{}, err
	}
	if d.consents, err = consents.read(ctx, r.opts.Store, subject); err != nil {
		return Description{}, err
	}
	listed, err := suppressions.read(ctx, r.opts.Store, subject)
	if err != nil {
		return Description{}, err
	}
	proved, err := r.opts.Store.Records(ctx, string(confirmed), subject)
	if err != nil {
		return Description{}, joinStore(err)
	}
	d.wishes(listed)
	d.Address = d.addressState(listed, len(proved) > 0)
	d.preferences()
	return d, nil
}

// baa says how a sender's partner stands.
func (r *Registry) baa(ctx context.Context, partner string, now time.Time) (policy.BAA, error) {
	switch partner {
	case "":
		return policy.BAAMissing, nil
	case self:
		return policy.BAASelf, nil
	}
	contracts, err := r.contractsOf(ctx, partner)
	if err != nil {
		return policy.BAAMissing, err
	}
	state, _ := standing(contracts, now, "transmit")
	return state, nil
}

func (r *Registry) homeOf(ctx context.Context, domain string, d Description) (home, error) {
	if slices.ContainsFunc(d.organization.Domains, func(own string) bool { return strings.EqualFold(own, domain) }) {
		return homeOurs, nil
	}
	named, active, err := r.service(ctx, "domain:"+domain, "receive", d.now)
	switch {
	case err != nil:
		return homeUnknown, err
	case active:
		return homeCovered, nil
	case named:
		return homeUncovered, nil
	}
	return homeUnknown, nil
}

// service reports whether a partner names a service, and whether the contract
// of one that does is active; function "" asks for no function.
func (r *Registry) service(ctx context.Context, name, function string, now time.Time) (named, active bool, err error) {
	entries, err := r.opts.Store.Records(ctx, string(services), name)
	if err != nil {
		return false, false, joinStore(err)
	}
	for _, entry := range entries {
		contracts, err := r.contractsOf(ctx, string(entry.Value))
		if err != nil {
			return false, false, err
		}
		state, decides := standing(contracts, now, function)
		if decides == nil || !slices.Contains(decides.Services, name) {
			continue
		}
		named = true
		active = active || state == policy.BAAActive
	}
	return named, active, nil
}

// HostsApproved reports whether pixels and links may lead to all hosts: each is
// or lies under one of organization.domains, or is a host: of an active partner.
func (r *Registry) HostsApproved(ctx context.Context, hosts []string) (bool, error) {
	own := r.opts.Organization().Domains
	for _, host := range hosts {
		host, err := mail.ASCIIDomain(host)
		if err != nil {
			return false, nil // an IP address, or no name at all
		}
		if slices.ContainsFunc(own, func(d string) bool { return under(host, strings.ToLower(d)) }) {
			continue
		}
		_, active, err := r.service(ctx, "host:"+host, "", r.opts.Now())
		if err != nil || !active {
			return false, err
		}
	}
	return true, nil
}

func under(host, domain string) bool { return host == domain || strings.HasSuffix(host, "."+domain) }

// wishes takes over the suppressions in force.
func (d *Description) wishes(listed []version[Suppression]) {
	for i := range listed {
		if listed[i].Row.inForce(d.now) {
			d.reasons = append(d.reasons, listed[i].Row.Reason)
		}
	}
	switch {
	case d.has(NoEmail):
		d.Channel = policy.ChannelNoEmail
	case d.has(PortalOnly):
		d.Channel = policy.ChannelPortalOnly
	default:
		d.Channel = policy.ChannelOpen
	}
}

func (d *Description) has(reason string) bool { return slices.Contains(d.reasons, reason) }

// addressState says how far the address can be trusted. A doubt is lifted by
// staff, or by a treatment_channel signed after it arose.
func (d *Description) addressState(listed []version[Suppression], proved bool) policy.AddressState {
	if d.has(HardBounce) {
		return policy.AddressUndeliverable
	}
	signed, channel := d.signatures()
	for i := range listed {
		s := &listed[i].Row
		doubt := s.Reason == Disputed || s.Reason == Misdelivered
		if doubt && s.inForce(d.now) && !channel.After(s.At) {
			return policy.AddressDisputed
		}
	}
	if signed || proved {
		return policy.AddressConfirmed
	}
	return policy.AddressUnverified
}

// signatures reports whether a signed row names this address, and when the last
// treatment_channel was signed. A revoked row proves nothing any more.
func (d *Description) signatures() (signed bool, channel time.Time) {
	for i := range d.consents {
		c := &d.consents[i].Row
		if !c.RevokedAt.IsZero() {
			continue
		}
		if c.Type == TreatmentChannel && c.inForce(d.now) {
			signed = true
			if c.SignedAt.After(channel) {
				channel = c.SignedAt
			}
		}
		signed = signed || c.Signer != ""
	}
	return signed, channel
}

// preferences takes over what the consents say besides consenting.
func (d *Description) preferences() {
	var newest time.Time
	for i := range d.consents {
		c := &d.consents[i]
		if c.Row.Type == UnencryptedPreference && c.Row.inForce(d.now) {
			d.Unencrypted, d.Warning = policy.UnencryptedAccepted, c.ID
		}
		if d.Language == "" || c.Row.SignedAt.After(newest) {
			d.Language, newest = c.Row.Language, c.Row.SignedAt
		}
	}
}

// Recipient says who the recipient is to the organization; several is whether
// the mail speaks of two or more people.
func (d Description) Recipient(several bool) policy.Recipient {
	switch {
	case d.Records != policy.RecordsOK:
		return policy.RecipientThirdParty
	case d.home == homeOurs || d.home == homeCovered:
		return policy.RecipientOrgCovered
	case d.home == homeUncovered:
		return policy.RecipientOrgUncovered
	case slices.ContainsFunc(d.consents, func(v version[Consent]) bool {
		return v.Row.RepresentativeAuthority != "" && v.Row.RevokedAt.IsZero()
	}):
		return policy.RecipientRepresentative
	case several:
		return policy.RecipientThirdParty
	}
	return policy.RecipientIndividual
}

// OptedOut says whether the recipient wants no promotion of a class.
func (d Description) OptedOut(c policy.Class) policy.OptedOut {
	if d.Records != policy.RecordsOK || d.has(OptOut) || d.has(Complaint) ||
		(c == policy.ClassFundraising && d.has(FundraisingOptOut)) {
		return policy.OptedOutYes
	}
	return policy.OptedOutNo
}

// Facts returns f with all that the records say filled in. It reads of f the
// sender's class, class, remuneration, promotion and campaign; several is as in
// Recipient.
func (d Description) Facts(f policy.Facts, several bool) policy.Facts {
	f.Records = d.Records
	f.BAA = d.BAA
	f.Partner = d.Partner
	f.Channel = d.Channel
	f.Address = d.Address
	f.Unencrypted = d.Unencrypted
	f.Recipient = d.Recipient(several)
	f.OptedOut = d.OptedOut(f.Class)
	f.Consent, f.ConsentID = d.Consent(f)
	return f
}

// asked is one type of record that must be valid, and the purposes of which one
// must be on it.
type asked struct {
	kind   string
	topics []string
}

// Consent judges the records that the class of f needs, against its campaign,
// and returns the id of the record that decided. Where several types are needed
// the worst of them counts; of several records of one type the best. Classes
// that need none have none.
func (d Description) Consent(f policy.Facts) (policy.Consent, string) {
	result, id := policy.ConsentNone, ""
	for i, ask := range d.asks(f) {
		state, record := d.best(ask, f.Remuneration != policy.RemunerationNone)
		if i == 0 || state < result {
			result, id = state, record
		}
	}
	return result, id
}

// best returns the state of the best record of a type.
func (d Description) best(ask asked, paid bool) (policy.Consent, string) {
	result, id := policy.ConsentNone, ""
	n := need{d.now, d.organization.Name, ask.topics, paid}
	for i := range d.consents {
		c := &d.consents[i]
		if c.Row.Type != ask.kind {
			continue
		}
		if state := c.Row.state(n); id == "" || state > result {
			result, id = state, string(c.ID)
		}
	}
	return result, id
}

// Purposes with a meaning of their own.
const (
	anyTopic   = "marketing"           // every topic of the discloser
	notesTopic = "psychotherapy_notes" // 45 CFR 164.508(a)(2)
	anyCare    = "tpo"                 // 42 CFR 2.33(b): one consent for all future TPO
)

// asks lists the records that a message needs, under the overlays in force.
func (d Description) asks(f policy.Facts) []asked {
	topics := []string{anyTopic}
	if f.Campaign != "" {
		topics = append(topics, f.Campaign)
	}
	switch f.Class {
	case policy.ClassPsychotherapy:
		return []asked{{HIPAAAuthorization, []string{notesTopic}}}
	case policy.ClassPart2:
		if f.Promotion == policy.PromotionNo {
			topics = append(topics, anyCare)
		}
		return []asked{{Part2Consent, topics}}
	case policy.ClassMarketing:
		return d.marketing(f, topics)
	}
	return nil
}

func (d Description) marketing(f policy.Facts, topics []string) []asked {
	types := []string{HIPAAAuthorization}
	if d.overlay("us-wa") && f.SenderClass == policy.SenderNonHealth {
		// Health data outside HIPAA: consent to collect, another to share, and
		// an authorization to sell where money is paid (RCW 19.373.030, .070).
		types = []string{MHMDACollect, MHMDAShare}
		if f.Remuneration == policy.RemunerationOther {
			types = append(types, MHMDASell)
		}
	}
	if d.overlay("us-ca") {
		types = append(types, CAMarketing)
	}
	if d.overlay("us-tx") {
		types = append(types, TXMarketing)
	}
	asks := make([]asked, len(types))
	for i, t := range types {
		asks[i] = asked{t, topics}
	}
	return asks
}

func (d Description) overlay(name string) bool {
	return slices.Contains(d.organization.Overlays, name)
}

// HasConsents reports whether any consent record names the recipient. Without
// one no class of mail finds what it needs.
func (d Description) HasConsents() bool { return len(d.consents) > 0 }
