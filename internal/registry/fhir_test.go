package registry

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/phigate/phigate/policy"
)

const fhirBundle = `{"resourceType": "Bundle", "type": "collection",
 "entry": [
  {"fullUrl": "urn:uuid:1", "resource": {"resourceType": "Patient", "id": "p1", "telecom": [{"system": "phone", "value": "1"}, {"system": "email", "value": "Ana@mail.example"}], "name": [{"given": ["Ana"], "family": "Diaz"}]}},
  {"resource": {"resourceType": "Consent", "status": "active",
   "patient": {"reference": "urn:uuid:1"}, "dateTime": "2026-01-10",
   "performer": [{"reference": "Patient/p1"}], "organization": [{"display": "Valley Clinic"}],
   "policyRule": {"coding": [{"code": "hipaa-auth"}]},
   "provision": {"type": "permit", "period": {"end": "2027-01-10"}, "purpose": [{"code": "HMARKT"}],
    "actor": [{"reference": {"display": "Acme Mailer"}}], "class": [{"code": "address", "display": "Name and address"}]}}}
 ]}
`

func TestFHIRBundle(t *testing.T) {
	s := newSite(t)
	report := s.load(t, Consents, fhirBundle)
	if report.Counts != (Counts{Rows: 1, Added: 1, Defective: 1}) {
		t.Fatalf("%+v", report)
	}
	states, err := s.ConsentsOf(t.Context(), "ana@mail.example")
	if err != nil || len(states) != 1 {
		t.Fatal(states, err)
	}
	c := states[0]
	if c.Signer != "Ana Diaz" || c.Discloser != "Valley Clinic" || c.Recipient != "Acme Mailer" || c.Information != "Name and address" || c.Source != "fhir" {
		t.Errorf("%q %q %q %q", c.Signer, c.Discloser, c.Recipient, c.Information)
	}
	if got := strings.Join(c.Missing, " "); got != "method statement_revocation statement_conditioning statement_redisclosure document_sha256 form_version" {
		t.Errorf("missing %s", got)
	}
	if got, _ := s.describe(t, "", "ana@mail.example").Consent(marketing("")); got != policy.ConsentDefective {
		t.Errorf("evidence alone counts as %s", got)
	}
	if again := s.load(t, Consents, fhirBundle); again.Counts.Unchanged != 1 {
		t.Errorf("again: %+v", again.Counts)
	}
}

func TestFHIRLines(t *testing.T) {
	const patient = `{"resourceType":"Patient","id":"p","telecom":[{"system":"email","value":"ana@mail.example"}]}`
	const head = `{"resourceType":"Consent","patient":{"reference":"Patient/p"},"dateTime":"2026-01-10",`
	s := newSite(t)
	report := s.load(t, Consents, head+`"status":"inactive","meta":{"lastUpdated":"2026-03-01T10:00:00Z"},"performer":[{"reference":"RelatedPerson/m","display":"Mo"}],`+
		`"provision":{"securityLabel":[{"code":"42CFRPart2"}],"purpose":[{"code":"TREAT"},{"code":"HPAYMT"},{"code":"HOPERAT"}]}}`+"\n"+patient+"\n")
	states, err := s.ConsentsOf(t.Context(), "ana@mail.example")
	if err != nil || len(states) != 1 || states[0].Type != Part2Consent || states[0].State != "revoked" || states[0].RepresentativeAuthority == "" ||
		strings.Join(states[0].Purposes, " ") != "treatment payment operations tpo" {
		t.Errorf("%+v %v %v", report, states, err)
	}
}

func TestFHIRBadFiles(t *testing.T) {
	for _, c := range []struct {
		file string
		err  error
		want string
	}{
		{strings.Replace(fhirBundle, `"status": "active"`, `"status": "draft"`, 1), ErrBadRows, "f.csv:4: status: only active and inactive consents are imported"},
		{strings.Replace(fhirBundle, `"email"`, `"fax"`, 1), ErrBadRows, "f.csv:4: patient: no e-mail address, add the Patient with a telecom of system email"},
		{strings.Replace(fhirBundle, `"permit"`, `"deny"`, 1), ErrBadRows, "f.csv:4: provision.type: a refusal is no consent, import it as a suppression"},
		{strings.Replace(fhirBundle, `"type": "permit"`, `"provision": [{}]`, 1), ErrBadRows, "f.csv:4: provision.provision: exceptions cannot be judged, write the consent as a row of CSV"},
		{strings.Replace(fhirBundle, `"hipaa-auth"`, `"canary"`, 1), ErrBadRows, "f.csv:4: policyRule: no kind of consent known here, write hipaa-auth, or label the provision 42CFRPart2"},
		{strings.Replace(fhirBundle, `"2026-01-10"`, `"2026"`, 1), ErrBadRows, "f.csv:4: signed_at: not a date, write 2026-02-28"},
		{strings.Replace(fhirBundle, `"status": "active"`, `"status": "active", "STATUS": "draft"`, 1), ErrUnreadable, "f.csv:4: a key is there twice in one object, remove one"},
		{strings.Replace(fhirBundle, `"dateTime": "2026-01-10"`, `"dateTime": 5`, 1), ErrUnreadable, "f.csv:4: not FHIR, write a Bundle or one resource per line"},
		{fhirBundle[:len(fhirBundle)-6], ErrUnreadable, "f.csv:9: not FHIR, write a Bundle or one resource per line"},
		{strings.Replace(fhirBundle, "permit\"", "permit\"\"", 1), ErrUnreadable, "f.csv:8: not FHIR, write a Bundle or one resource per line"},
		{strings.ReplaceAll(fhirBundle, "\n", "") + "\n{\"resourceType\":\"Patient\"}\n{\"resourceType\":\n\n!", ErrUnreadable, "f.csv:5: not FHIR, write a Bundle or one resource per line"},
		{"{}\n", ErrUnreadable, "f.csv:1: not FHIR, write a Bundle or one resource per line"},
	} {
		s := newSite(t)
		report, err := s.Import(t.Context(), Consents, "f.csv", strings.NewReader(c.file), ImportOptions{})
		if !errors.Is(err, c.err) || len(report.Problems) != 1 || report.Problems[0].String() != c.want {
			t.Errorf("%v %v, want %s", err, report.Problems, c.want)
		}
		if strings.Contains(fmt.Sprint(report, err), "canary") {
			t.Error("a value was printed")
		}
	}
}
