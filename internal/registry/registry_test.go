package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/internal/store/storetest"
	"github.com/phigate/phigate/policy"
)

var now = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

// site is a registry over a store in memory whose clock and organization can be
// changed, and which can be taken away.
type site struct {
	*Registry
	store  Records
	at     time.Time
	org    policy.Organization
	leaves []Change
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{at: now, org: policy.Organization{Name: "Valley Clinic", Domains: []string{"valleyclinic.example"}}}
	s.store = storetest.NewMemory(func() time.Time { return s.at })
	s.Registry = New(Options{
		Store:        s,
		Organization: func() policy.Organization { return s.org },
		Leaf: func(c Change) store.Leaf {
			s.leaves = append(s.leaves, c)
			return store.Leaf{Time: c.Time, ID: c.ID, Event: c.Event, Record: []byte(c.Event)}
		},
		Now: func() time.Time { return s.at },
	})
	s.rounds = 1000 // BenchmarkCheckPassword has the real number
	return s
}

func (s *site) Records(ctx context.Context, kind, subject string) ([]store.Record, error) {
	return s.store.Records(ctx, kind, subject)
}
func (s *site) Scan(ctx context.Context, kind, after string, limit int) ([]store.Record, string, error) {
	return s.store.Scan(ctx, kind, after, limit)
}
func (s *site) Apply(ctx context.Context, e store.Effects) error { return s.store.Apply(ctx, e) }

// gone is a store that cannot be reached.
type gone struct{}

var errGone = errors.New("disk on fire")

func (gone) Records(context.Context, string, string) ([]store.Record, error) { return nil, errGone }
func (gone) Apply(context.Context, store.Effects) error                      { return errGone }
func (gone) Scan(context.Context, string, string, int) ([]store.Record, string, error) {
	return nil, "", errGone
}

func (s *site) load(t testing.TB, what Kind, csv string) Report {
	t.Helper()
	report, err := s.Import(t.Context(), what, "f.csv", strings.NewReader(csv), ImportOptions{By: "test"})
	if err != nil {
		t.Fatalf("%v: %v", err, report.Problems)
	}
	return report
}

func (s *site) describe(t testing.TB, partner string, to policy.Address) Description {
	t.Helper()
	d, err := s.Describe(t.Context(), partner, to)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// good holds a valid row of consents; with changes single cells.
var good = map[string]string{
	"address": "ana@mail.example", "type": "hipaa_authorization", "purposes": "marketing", "information": "name, address",
	"discloser": "Valley Clinic", "recipient": "Acme Mailer", "signed_at": "2026-01-10", "expires_at": "2027-01-10",
	"expires_event": "", "method": "wet", "signer": "Ana Diaz", "representative_authority": "", "statement_revocation": "true",
	"statement_conditioning": "true", "statement_redisclosure": "true", "statement_remuneration": "",
	"document_sha256": strings.Repeat("ab", 32), "form_version": "v3", "language": "", "source": "ehr", "revoked_at": "",
}

// rows writes rows of consents: the good one with the changes of each, given as
// "column=cell" joined by "|".
func rows(changes ...string) string {
	var b strings.Builder
	b.WriteString(consents.names() + "\n")
	for _, change := range changes {
		var cells []string
		for _, c := range consents.columns {
			cell := good[c.name]
			for edit := range strings.SplitSeq(change, "|") {
				if name, value, ok := strings.Cut(edit, "="); ok && name == c.name {
					cell = value
				}
			}
			cells = append(cells, `"`+strings.ReplaceAll(cell, `"`, `""`)+`"`)
		}
		b.WriteString(strings.Join(cells, ",") + "\n")
	}
	return b.String()
}

func marketing(campaign string) policy.Facts {
	return policy.Facts{Class: policy.ClassMarketing, Remuneration: policy.RemunerationNone, Campaign: campaign}
}

// TestConsentState holds each way in which one record can fail to count.
func TestConsentState(t *testing.T) {
	paid, other := marketing(""), marketing("")
	paid.Remuneration, other.Remuneration = policy.RemunerationCostBased, policy.RemunerationOther
	psychotherapy := policy.Facts{Class: policy.ClassPsychotherapy, Remuneration: policy.RemunerationNone}
	part2 := policy.Facts{Class: policy.ClassPart2, Remuneration: policy.RemunerationNone, Promotion: policy.PromotionNo}
	part2Ad := policy.Facts{Class: policy.ClassPart2, Remuneration: policy.RemunerationNone}
	for _, c := range []struct {
		change string
		facts  policy.Facts
		want   policy.Consent
	}{
		{"", marketing(""), policy.ConsentValid},
		{"", marketing("flu-shots"), policy.ConsentValid},
		{"purposes=flu-shots;diabetes", marketing("flu-shots"), policy.ConsentValid},
		{"purposes=flu-shots", marketing("diabetes"), policy.ConsentOutside},
		{"purposes=flu-shots", marketing(""), policy.ConsentOutside},
		{"purposes=flu-shots", marketing("flu"), policy.ConsentOutside},
		{"discloser=Other Clinic", marketing(""), policy.ConsentOutside},
		{"discloser=valley  clinic", marketing(""), policy.ConsentValid},
		{"", paid, policy.ConsentOutside},
		{"", other, policy.ConsentOutside},
		{"statement_remuneration=true", paid, policy.ConsentValid},
		{"statement_remuneration=true", other, policy.ConsentValid},
		{"revoked_at=2026-06-01", marketing(""), policy.ConsentRevoked},
		{"revoked_at=2026-06-15T12:00:00Z", marketing(""), policy.ConsentRevoked},
		{"revoked_at=2030-01-01", marketing(""), policy.ConsentRevoked}, // effective at once
		{"signer=", marketing(""), policy.ConsentDefective},
		{"signer=|expires_at=2026-02-01", marketing(""), policy.ConsentDefective},
		{"type=part2_consent", marketing(""), policy.ConsentNone},
		{"type=treatment_channel", marketing(""), policy.ConsentNone},
		{"", psychotherapy, policy.ConsentOutside},
		{"purposes=psychotherapy_notes", psychotherapy, policy.ConsentValid},
		{"purposes=psychotherapy_notes", marketing(""), policy.ConsentOutside},
		{"type=part2_consent|purposes=tpo", part2, policy.ConsentValid},
		{"type=part2_consent|purposes=tpo", part2Ad, policy.ConsentOutside},
		{"type=part2_consent", part2Ad, policy.ConsentValid},
		{"", part2, policy.ConsentNone},
		{"", policy.Facts{Class: policy.ClassTransactional}, policy.ConsentNone},
	} {
		s := newSite(t)
		s.load(t, Consents, rows(c.change))
		got, id := s.describe(t, "", "ana@mail.example").Consent(c.facts)
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.change, got, c.want)
		}
		if (id != "") != (got != policy.ConsentNone) {
			t.Errorf("%q: id %q for %s", c.change, id, got)
		}
	}
}

// TestEveryElement empties each legal element in turn (45 CFR 164.508(c)(1),
// (c)(2)): the record is defective and the report names the column.
func TestEveryElement(t *testing.T) {
	for _, kind := range []string{HIPAAAuthorization, Part2Consent, MHMDASell, CAMarketing} {
		for _, edit := range []string{"purposes=", "information=", "discloser=", "recipient=", "expires_at=", "method=", "signer=",
			"statement_revocation=", "statement_revocation=false", "statement_conditioning=", "statement_conditioning=false",
			"statement_redisclosure=", "statement_redisclosure=false", "document_sha256=", "form_version="} {
			s := newSite(t)
			report := s.load(t, Consents, rows("type="+kind+"|"+edit))
			column, _, _ := strings.Cut(edit, "=")
			if report.Counts.Defective != 1 || len(report.Warnings) != 1 || report.Warnings[0].String() != "f.csv:2: "+column+": missing, imported as defective" {
				t.Errorf("%s %s: %+v", kind, edit, report)
			}
			states, err := s.ConsentsOf(t.Context(), "ana@mail.example")
			if err != nil || states[0].State != "defective" || !slices.Equal(states[0].Missing, []string{column}) {
				t.Errorf("%s %s: %v %v", kind, edit, states, err)
			}
		}
	}
	for _, kind := range []string{TreatmentChannel, UnencryptedPreference, MHMDACollect, MHMDAShare, TXMarketing} {
		s := newSite(t)
		if report := s.load(t, Consents, consents.names()+"\nana@mail.example,"+kind+",,,,,2026-01-10,,,,,,,,,,,,,ehr,\n"); len(report.Warnings) != 0 {
			t.Errorf("%s: %v", kind, report.Warnings)
		}
	}
}

// TestWindow asks at the seconds around the beginning and the end.
func TestWindow(t *testing.T) {
	for _, c := range []struct {
		change, at string
		want       policy.Consent
	}{
		{"", "2026-01-10T00:00:00Z", policy.ConsentValid},
		{"", "2026-01-09T23:59:59Z", policy.ConsentOutside},
		{"", "2027-01-10T23:59:59Z", policy.ConsentValid},
		{"", "2027-01-10T23:59:59.9Z", policy.ConsentValid},
		{"", "2027-01-11T00:00:00Z", policy.ConsentExpired},
		{"expires_at=2026-12-31T10:00:00+02:00", "2026-12-31T08:00:00Z", policy.ConsentValid},
		{"expires_at=2026-12-31T10:00:00+02:00", "2026-12-31T08:00:01Z", policy.ConsentExpired},
		{"expires_at=|expires_event=end of program", "2027-01-09T23:59:59Z", policy.ConsentValid}, // 365 days
		{"expires_at=|expires_event=end of program", "2027-01-10T00:00:00Z", policy.ConsentExpired},
		{"expires_event=end of program|expires_at=2028-01-10", "2027-06-01T00:00:00Z", policy.ConsentValid}, // reviewed
	} {
		s := newSite(t)
		s.load(t, Consents, rows(c.change))
		var err error
		if s.at, err = time.Parse(time.RFC3339, c.at); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.describe(t, "", "ana@mail.example").Consent(marketing("")); got != c.want {
			t.Errorf("%q at %s: %s, want %s", c.change, c.at, got, c.want)
		}
	}
}

func TestBestRecordWins(t *testing.T) {
	s := newSite(t)
	all := []string{"signer=|signed_at=2026-01-01", "signed_at=2025-01-01|expires_at=2025-06-01", "signed_at=2026-01-03|revoked_at=2026-02-01",
		"signed_at=2026-01-04|purposes=other", "signed_at=2026-01-05"}
	for i, want := range []policy.Consent{policy.ConsentDefective, policy.ConsentExpired, policy.ConsentRevoked, policy.ConsentOutside, policy.ConsentValid} {
		s.load(t, Consents, rows(all[i]))
		if got, _ := s.describe(t, "", "ana@mail.example").Consent(marketing("")); got != want {
			t.Errorf("after %q: %s, want %s", all[i], got, want)
		}
	}
}

func TestOverlays(t *testing.T) {
	for _, c := range []struct {
		overlay, have string
		sender        policy.SenderClass
		pay           policy.Remuneration
		want          policy.Consent
	}{
		{"us-ca", "hipaa_authorization", 0, policy.RemunerationNone, policy.ConsentNone},
		{"us-ca", "hipaa_authorization ca_marketing", 0, policy.RemunerationNone, policy.ConsentValid},
		{"us-tx", "hipaa_authorization", 0, policy.RemunerationNone, policy.ConsentNone},
		{"us-tx", "hipaa_authorization tx_marketing", 0, policy.RemunerationNone, policy.ConsentValid},
		{"us-tx", "tx_marketing", 0, policy.RemunerationNone, policy.ConsentNone},
		{"us-wa", "hipaa_authorization", 0, policy.RemunerationNone, policy.ConsentValid},
		{"us-wa", "hipaa_authorization", policy.SenderNonHealth, policy.RemunerationNone, policy.ConsentNone},
		{"us-wa", "mhmda_collect", policy.SenderNonHealth, policy.RemunerationNone, policy.ConsentNone},
		{"us-wa", "mhmda_collect mhmda_share", policy.SenderNonHealth, policy.RemunerationNone, policy.ConsentValid},
		{"us-wa", "mhmda_collect mhmda_share", policy.SenderNonHealth, policy.RemunerationOther, policy.ConsentNone},
		{"us-wa", "mhmda_collect mhmda_share mhmda_sell", policy.SenderNonHealth, policy.RemunerationOther, policy.ConsentValid},
		{"us-ca us-tx", "hipaa_authorization ca_marketing", 0, policy.RemunerationNone, policy.ConsentNone},
		{"us-ca us-tx", "hipaa_authorization ca_marketing tx_marketing", 0, policy.RemunerationNone, policy.ConsentValid},
	} {
		s := newSite(t)
		s.org.Overlays = strings.Fields(c.overlay)
		for kind := range strings.FieldsSeq(c.have) {
			s.load(t, Consents, rows("statement_remuneration=true|type="+kind))
		}
		facts := marketing("")
		facts.SenderClass, facts.Remuneration = c.sender, c.pay
		if got, _ := s.describe(t, "", "ana@mail.example").Consent(facts); got != c.want {
			t.Errorf("%s with %s: %s, want %s", c.overlay, c.have, got, c.want)
		}
	}
}

const partnerHeader = "partner,role,executed_at,effective_at,expires_at,terminated_at,functions,document_sha256,services,contact,incident_contact,next_review\n"

var sha = strings.Repeat("cd", 32)

func TestBAA(t *testing.T) {
	const ba = "acme,business_associate,"
	for _, c := range []struct {
		name, rows string
		want       policy.BAA
	}{
		{"none", "", policy.BAAMissing},
		{"active", ba + "2026-01-01,2026-01-01,,,create;transmit," + sha + ",,c,i,\n", policy.BAAActive},
		{"last day", ba + "2026-01-01,2026-01-01,2026-06-15,,transmit," + sha + ",,c,i,\n", policy.BAAActive},
		{"expired", ba + "2026-01-01,2026-01-01,2026-06-14,,transmit," + sha + ",,c,i,\n", policy.BAAExpired},
		{"pending", ba + "2026-01-01,2026-06-16,,,transmit," + sha + ",,c,i,\n", policy.BAAPending},
		{"begins today", ba + "2026-01-01,2026-06-15,,,transmit," + sha + ",,c,i,\n", policy.BAAActive},
		{"terminated", ba + "2026-01-01,2026-01-01,,2026-06-14,transmit," + sha + ",,c,i,\n", policy.BAATerminated},
		{"no transmit", ba + "2026-01-01,2026-01-01,,,receive;maintain," + sha + ",,c,i,\n", policy.BAANoTransmit},
		{"covered entity without contract", "acme,covered_entity,,,,,,,,c,i,\n", policy.BAAActive},
		{"foundation, terminated", "acme,foundation,,,,2026-01-01,,,,c,i,\n", policy.BAATerminated},
		{"renewed", ba + "2025-01-01,2025-01-01,2026-01-01,,transmit," + sha + ",,c,i,\n" +
			ba + "2025-12-01,2026-01-01,,,transmit," + sha + ",,c,i,\n", policy.BAAActive},
		{"renewal not begun", ba + "2025-01-01,2025-01-01,2026-12-31,,transmit," + sha + ",,c,i,\n" +
			ba + "2026-06-01,2027-01-01,,,transmit," + sha + ",,c,i,\n", policy.BAAActive},
		{"renewal terminated, old one open", ba + "2025-01-01,2025-01-01,,,transmit," + sha + ",,c,i,\n" +
			ba + "2025-12-01,2026-01-01,,2026-03-01,transmit," + sha + ",,c,i,\n", policy.BAATerminated},
	} {
		s := newSite(t)
		s.load(t, Partners, partnerHeader+c.rows)
		if got := s.describe(t, "acme", "ana@mail.example").BAA; got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	s := newSite(t)
	s.load(t, Partners, partnerHeader+ba+"2026-01-01,2026-01-01,,,transmit,"+sha+",,c,i,\n")
	before := s.describe(t, "acme", "ana@mail.example").BAA
	s.load(t, Partners, partnerHeader+ba+"2026-01-01,2026-01-01,,2026-06-14,transmit,"+sha+",,c,i,\n")
	if after := s.describe(t, "acme", "ana@mail.example").BAA; before != policy.BAAActive || after != policy.BAATerminated {
		t.Errorf("terminated between two messages: %s, then %s", before, after)
	}
	if s.describe(t, "", "a@b.example").BAA != policy.BAAMissing || s.describe(t, "self", "a@b.example").BAA != policy.BAASelf {
		t.Error("no partner is missing, self is self")
	}
}

func TestRecipientKind(t *testing.T) {
	s := newSite(t)
	s.load(t, Partners, partnerHeader+
		"lab,covered_entity,,,,,,,domain:lab.example;domain:shared.example,c,i,\n"+
		"old,business_associate,2025-01-01,2025-01-01,2025-12-31,,receive;transmit,"+sha+",domain:old.example;domain:shared.example,c,i,\n"+
		"deaf,business_associate,2025-01-01,2025-01-01,,,transmit,"+sha+",domain:deaf.example;host:img.deaf.example,c,i,\n")
	s.load(t, Consents, rows("address=mom@mail.example|representative_authority=mother", "address=ex@mail.example|representative_authority=guardian|revoked_at=2026-02-01"))
	for to, want := range map[policy.Address][2]policy.Recipient{ // one person, several
		"x@valleyclinic.example":     {policy.RecipientOrgCovered, policy.RecipientOrgCovered},
		"x@VALLEYCLINIC.example":     {policy.RecipientOrgCovered, policy.RecipientOrgCovered},
		"x@sub.valleyclinic.example": {policy.RecipientIndividual, policy.RecipientThirdParty},
		"x@lab.example":              {policy.RecipientOrgCovered, policy.RecipientOrgCovered},
		"x@shared.example":           {policy.RecipientOrgCovered, policy.RecipientOrgCovered},
		"x@old.example":              {policy.RecipientOrgUncovered, policy.RecipientOrgUncovered},
		"x@deaf.example":             {policy.RecipientOrgUncovered, policy.RecipientOrgUncovered},
		"mom@mail.example":           {policy.RecipientRepresentative, policy.RecipientRepresentative},
		"ex@mail.example":            {policy.RecipientIndividual, policy.RecipientThirdParty},
		"ana@mail.example":           {policy.RecipientIndividual, policy.RecipientThirdParty},
	} {
		d := s.describe(t, "", to)
		if got := [2]policy.Recipient{d.Recipient(false), d.Recipient(true)}; got != want {
			t.Errorf("%s: %v, want %v", to.Clear(), got, want)
		}
	}
	// A contract that drops a domain leaves it unnamed again.
	s.load(t, Partners, partnerHeader+"lab,covered_entity,,,,,,,domain:shared.example,c,i,\n")
	if d := s.describe(t, "", "x@lab.example"); d.Recipient(false) != policy.RecipientIndividual {
		t.Error("a dropped domain is still covered")
	}
	for hosts, want := range map[string]bool{"": true, "img.deaf.example": true, "IMG.deaf.example": true, "x.img.deaf.example": false, "deaf.example": false,
		"www.valleyclinic.example img.deaf.example": true, "valleyclinic.example.evil.example": false, "192.0.2.1": false, "evilvalleyclinic.example": false} {
		got, err := s.HostsApproved(t.Context(), strings.Fields(hosts))
		if err != nil || got != want {
			t.Errorf("hosts %q: %v, %v", hosts, got, err)
		}
	}
}

func TestSuppressions(t *testing.T) {
	type want struct {
		channel     policy.Channel
		promotion   policy.OptedOut
		fundraising policy.OptedOut
		address     policy.AddressState
	}
	open := want{policy.ChannelOpen, policy.OptedOutNo, policy.OptedOutNo, policy.AddressConfirmed}
	with := func(change func(*want)) want { w := open; change(&w); return w }
	for row, want := range map[string]want{
		"":                                     open,
		"opt_out,tool,2026-06-01,":             with(func(w *want) { w.promotion, w.fundraising = policy.OptedOutYes, policy.OptedOutYes }),
		"complaint,tool,2026-06-01,":           with(func(w *want) { w.promotion, w.fundraising = policy.OptedOutYes, policy.OptedOutYes }),
		"fundraising_opt_out,tool,2026-06-01,": with(func(w *want) { w.fundraising = policy.OptedOutYes }),
		"no_email,phone,2026-06-01,":           with(func(w *want) { w.channel = policy.ChannelNoEmail }),
		"portal_only,phone,2026-06-01,":        with(func(w *want) { w.channel = policy.ChannelPortalOnly }),
		"disputed,phone,2026-06-01,":           with(func(w *want) { w.address = policy.AddressDisputed }),
		"misdelivered,phone,2026-06-01,":       with(func(w *want) { w.address = policy.AddressDisputed }),
		"hard_bounce,mx,2026-06-01,":           with(func(w *want) { w.address = policy.AddressUndeliverable }),
		"hard_bounce,mx,2026-06-01,2026-06-15": with(func(w *want) { w.address = policy.AddressUndeliverable }),
		"hard_bounce,mx,2026-06-01,2026-06-14": open,
		"disputed,mx,2026-06-01,2026-06-14":    open,
		"disputed,mx,2026-01-09,":              open, // treatment_channel signed later
	} {
		s := newSite(t)
		s.load(t, Consents, rows("type=treatment_channel"))
		if row != "" {
			s.load(t, Suppressions, "address,reason,source,at,expires_at\nANA@mail.example,"+row+"\n")
		}
		d := s.describe(t, "", "ana@MAIL.example")
		got := want
		got.channel, got.promotion, got.fundraising, got.address = d.Channel, d.OptedOut(policy.ClassMarketing), d.OptedOut(policy.ClassFundraising), d.Address
		if got != want {
			t.Errorf("%q: %v, want %v", row, got, want)
		}
	}
}

func TestAddressConfirmed(t *testing.T) {
	for change, want := range map[string]policy.AddressState{
		"": policy.AddressConfirmed, "signer=": policy.AddressUnverified, "revoked_at=2026-02-01": policy.AddressUnverified,
		"type=treatment_channel|signer=": policy.AddressConfirmed, "type=treatment_channel|signer=|expires_at=2026-02-01": policy.AddressUnverified,
		"address=bo@mail.example": policy.AddressUnverified,
	} {
		s := newSite(t)
		s.load(t, Consents, rows(change))
		if got := s.describe(t, "", "ana@mail.example").Address; got != want {
			t.Errorf("%q: %s, want %s", change, got, want)
		}
		record, err := s.Confirmed("ana@mail.example")
		if err != nil || s.Apply(t.Context(), store.Effects{Records: []store.Record{record}}) != nil {
			t.Fatal(err)
		}
		if got := s.describe(t, "", "ana@mail.example").Address; got != policy.AddressConfirmed {
			t.Errorf("a finished pickup confirms: %s", got)
		}
	}
}

func TestPreferences(t *testing.T) {
	s := newSite(t)
	s.load(t, Consents, rows("type=unencrypted_preference|language=es-MX|form_version=warning-2", "signed_at=2025-01-01|language=en"))
	d := s.describe(t, "", "ana@mail.example")
	if d.Unencrypted != policy.UnencryptedAccepted || d.Warning == "" || d.Language != "es-MX" {
		t.Errorf("%s %q %q", d.Unencrypted, d.Warning, d.Language)
	}
	if n, err := s.RevokeConsents(t.Context(), "ana@mail.example", UnencryptedPreference, "me", "phone"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if d := s.describe(t, "", "ana@mail.example"); d.Unencrypted != policy.UnencryptedNo {
		t.Error("a revoked preference counts")
	}
}

// TestUnreadable is the promise that what cannot be read is never "none".
func TestUnreadable(t *testing.T) {
	damaged := func(kind Kind, subject string) func(*site) {
		return func(s *site) {
			r := store.Record{Kind: string(kind), Subject: subject, Key: "x", Value: []byte(`{"row":{"address":"canary"`)}
			if err := s.store.Apply(t.Context(), store.Effects{Records: []store.Record{r}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		harm func(*site)
		to   policy.Address
		want error
	}{
		"store gone":          {func(s *site) { s.store = gone{} }, "ana@mail.example", ErrStore},
		"damaged consent":     {damaged(Consents, "ana@mail.example"), "ana@mail.example", ErrDamaged},
		"damaged suppression": {damaged(Suppressions, "ana@mail.example"), "ana@mail.example", ErrDamaged},
		"damaged partner":     {damaged(Partners, "acme"), "ana@mail.example", ErrDamaged},
		"no address":          {func(*site) {}, `"ana"@mail.example`, ErrAddress},
	} {
		s := newSite(t)
		c.harm(s)
		d, err := s.Describe(t.Context(), "acme", c.to)
		if !errors.Is(err, c.want) || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "ana") {
			t.Errorf("%s: %v", name, err)
		}
		f := d.Facts(marketing(""), false)
		if want := (policy.Facts{Class: f.Class, Remuneration: f.Remuneration}); f != want {
			t.Errorf("%s: facts are not the most cautious: %+v", name, f)
		}
	}
}

func TestFacts(t *testing.T) {
	s := newSite(t)
	s.load(t, Consents, rows(""))
	d := s.describe(t, "self", "ana@mail.example")
	got := d.Facts(marketing("x"), false)
	_, id := d.Consent(marketing("x"))
	want := policy.Facts{Records: policy.RecordsOK, BAA: policy.BAASelf, Class: policy.ClassMarketing, Remuneration: policy.RemunerationNone,
		Recipient: policy.RecipientIndividual, Channel: policy.ChannelOpen, OptedOut: policy.OptedOutNo, Address: policy.AddressConfirmed,
		Consent: policy.ConsentValid, Campaign: "x", ConsentID: id, Partner: "self"}
	if got != want || id == "" {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestRevocationCannotBeUndone(t *testing.T) {
	s := newSite(t)
	s.load(t, Consents, rows("revoked_at=2026-02-01"))
	for _, c := range []struct {
		edit    string
		refused bool
	}{
		{"", true}, {"revoked_at=2026-03-01", true}, {"revoked_at=2026-02-01", false}, {"revoked_at=2026-02-01|signer=Other", false},
		{"revoked_at=2026-01-20", false}, {"revoked_at=2026-02-01", true}, {"signed_at=2026-05-01", false},
	} {
		edit, refused := c.edit, c.refused
		report, err := s.Import(t.Context(), Consents, "f.csv", strings.NewReader(rows(edit)), ImportOptions{})
		if errors.Is(err, ErrBadRows) != refused {
			t.Errorf("%q: %v", edit, err)
		}
		if refused && report.Problems[0].String() != "f.csv:2: revoked_at: a revocation cannot be undone or put off, add a new consent" {
			t.Error(report.Problems)
		}
	}
	if got, _ := s.describe(t, "", "ana@mail.example").Consent(marketing("")); got != policy.ConsentValid {
		t.Errorf("a new consent after a revocation: %s", got)
	}
}

func TestTerminateContracts(t *testing.T) {
	s := newSite(t)
	if _, err := s.TerminateContracts(t.Context(), "acme-mailer", "me", "x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	s.load(t, Partners, "partner,role,executed_at,effective_at,functions,document_sha256,contact,incident_contact\n"+
		"acme-mailer,business_associate,2026-01-01,2026-01-01,transmit,"+strings.Repeat("0a", 32)+",Ann,Bob\n")
	if d := s.describe(t, "acme-mailer", "ana@mail.example"); d.BAA != policy.BAAActive {
		t.Fatal(d.BAA)
	}
	if n, err := s.TerminateContracts(t.Context(), "acme-mailer", "me", "over"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if d := s.describe(t, "acme-mailer", "ana@mail.example"); d.BAA != policy.BAATerminated {
		t.Error(d.BAA)
	}
	if last := s.leaves[len(s.leaves)-1]; last.What != Partners || last.Event != "revoked" || last.Subject != "acme-mailer" || last.Reason != "over" {
		t.Errorf("leaf %+v", last)
	}
	if _, err := s.TerminateContracts(t.Context(), "acme-mailer", "me", "x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("ended twice: %v", err)
	}
}

func TestLiftSuppressions(t *testing.T) {
	s := newSite(t)
	const row = "address,reason,source,at\nana@mail.example,hard_bounce,mx,2026-06-01\n"
	s.load(t, Suppressions, row)
	if _, err := s.LiftSuppressions(t.Context(), "ana@mail.example", OptOut, "me", "x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if n, err := s.LiftSuppressions(t.Context(), "ana@mail.example", HardBounce, "me", "wrong"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if last := s.leaves[len(s.leaves)-1]; last.Event != "revoked" || last.By != "me" || last.Reason != "wrong" {
		t.Errorf("leaf %+v", last)
	}
	if report := s.load(t, Suppressions, row); report.Counts.Unchanged != 1 {
		t.Errorf("a row that was lifted comes back: %+v", report.Counts)
	}
	if d := s.describe(t, "", "ana@mail.example"); d.Address == policy.AddressUndeliverable {
		t.Error("still undeliverable")
	}
	effects, err := s.Suppressed(Suppression{Address: "Ana@mail.example", Reason: HardBounce, Source: "mx", At: s.at}, "queue")
	if err != nil || s.Apply(t.Context(), effects) != nil {
		t.Fatal(err)
	}
	if d := s.describe(t, "", "ana@mail.example"); d.Address != policy.AddressUndeliverable {
		t.Error("a new bounce does not count")
	}
}

func TestPartnerStates(t *testing.T) {
	s := newSite(t)
	s.load(t, Partners, partnerHeader+
		"zeta,covered_entity,,,,,,,,c,i,2026-06-01\n"+
		"acme,business_associate,2026-01-01,2026-01-01,2026-06-22,,transmit,"+sha+",,c,i,\n")
	states, err := s.Partners(t.Context())
	if err != nil || len(states) != 2 || states[0].Partner != "acme" || states[0].BAA != "active" || !states[1].ReviewOverdue || states[0].ReviewOverdue {
		t.Fatalf("%+v %v", states, err)
	}
	if days := states[0].EndsIn.Hours() / 24; days < 7 || days > 8 {
		t.Errorf("ends in %v days", days)
	}
	if _, err := s.Partner(t.Context(), "nobody"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestRowsDoNotPrint(t *testing.T) {
	const canary = "canary"
	c := Consent{Address: canary, Signer: canary}
	s := Suppression{Address: canary, Source: canary}
	var log bytes.Buffer
	for _, v := range []any{c, &c, s, &s, []Consent{c}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&log, verb, v)
		}
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
	}
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", c, "w", s)
	if strings.Contains(log.String(), canary) || strings.Contains(log.String(), "63616e617279") {
		t.Errorf("printed: %s", log.String())
	}
	if b, err := json.Marshal(c); err != nil || !strings.Contains(string(b), canary) {
		t.Error("JSON is how a consent is stored and must be clear")
	}
}

// BenchmarkDescribe is the usual recipient of a campaign: one consent, a partner
// under contract, nothing suppressed.
func BenchmarkDescribe(b *testing.B) {
	s := newSite(b)
	s.load(b, Consents, rows(""))
	s.load(b, Partners, partnerHeader+"acme,business_associate,2026-01-01,2026-01-01,,,transmit,"+sha+",,c,i,\n")
	b.ReportAllocs()
	for b.Loop() {
		d, err := s.Describe(b.Context(), "acme", "ana@mail.example")
		if err != nil {
			b.Fatal(err)
		}
		d.Facts(marketing(""), false)
	}
}
