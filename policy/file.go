package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/yamlfile"
)

// The document is policy.yaml as written. It lives only while [Parse] runs.
type document struct {
	Version      int             `yaml:"version,required" doc:"Version of this format, 1."`
	Organization organizationDoc `yaml:"organization,required" doc:"Whose mail this is."`
	Senders      []senderDoc     `yaml:"senders" doc:"The tools that may submit mail."`
	Detection    detectionDoc    `yaml:"detection" doc:"How the scan's score becomes low, medium or high."`
	Transport    transportDoc    `yaml:"transport" doc:"What a connection must prove before mail may travel over it."`
	Rules        []ruleDoc       `yaml:"rules,required" doc:"The decision table: first match wins, for each recipient; no match holds the mail."`
}

type organizationDoc struct {
	Name          string            `yaml:"name,required" doc:"As the consent forms name the discloser."`
	Kind          word[SenderClass] `yaml:"kind,required" doc:"What the organization is under 45 CFR 160.103."`
	Domains       []string          `yaml:"domains,required" doc:"Its own mail domains."`
	PostalAddress string            `yaml:"postal_address" doc:"Shown in the footer of promotional mail (15 USC 7704)."`
	Overlays      []overlay         `yaml:"overlays" doc:"State law that changes which consent record is looked for."`
}

type senderDoc struct {
	Name          string                   `yaml:"name,required" doc:"A token, shown in logs and reports."`
	Login         string                   `yaml:"login" doc:"SMTP AUTH user."`
	Networks      []netip.Prefix           `yaml:"networks" doc:"May submit from here without a password."`
	From          []string                 `yaml:"from,required" doc:"Addresses MAIL FROM and From may use, such as \"*@clinic.example\"."`
	Partner       string                   `yaml:"partner" doc:"Whose BAA covers it; self is the organization's own system; left out is no BAA."`
	Class         word[Class]              `yaml:"class" doc:"Legal class of its mail; X-Gateway-Class may only make it stricter. Default marketing."`
	Audience      word[Audience]           `yaml:"audience" doc:"Whom its lists hold. Default patients."`
	Remuneration  word[Remuneration]       `yaml:"remuneration" doc:"Is its mail paid for by a third party (45 CFR 164.501). Default other."`
	OnRefusal     map[string]word[Refusal] `yaml:"on_refusal" doc:"What the tool is told, by code or default. Default hard."`
	Limits        senderLimitsDoc          `yaml:"limits" doc:"How many recipients it may name; more get 451 and when to come back."`
	VERP          bool                     `yaml:"verp" doc:"A return path for each recipient, at bounces.domain of gateway.yaml."`
	StripTrackers bool                     `yaml:"strip_trackers" doc:"Remove pixels and links to hosts without a contract, before the scan."`
}

type senderLimitsDoc struct {
	Rate  yamlfile.Rate `yaml:"rate" doc:"In a time, such as 100/min: so many at once, then as many again in that time. Default none."`
	Daily int           `yaml:"daily" doc:"In a day of UTC. Default none."`
}

type detectionDoc struct {
	Medium           float64 `yaml:"medium" doc:"Score from which a message counts as PHI."`
	High             float64 `yaml:"high" doc:"Score from which it surely is."`
	CareRelationship bool    `yaml:"care_relationship" doc:"A bare notice from a health sender to one person (new results after login) counts as medium. Default true."`
	TermsFile        string  `yaml:"terms_file" doc:"The site's own words, beside this file."`
}

type transportDoc struct {
	PHI       floorDoc `yaml:"phi" doc:"Mail with health information."`
	Sensitive floorDoc `yaml:"sensitive" doc:"Mail on a sensitive topic."`
	Plain     floorDoc `yaml:"plain" doc:"All other mail."`
}

type floorDoc struct {
	Assurance word[floorAssurance] `yaml:"assurance,required" doc:"How well the peer must be proved."`
	Strength  word[floorStrength]  `yaml:"strength" doc:"How strong TLS must be. Default sp800-52r2."`
	Within    yamlfile.Duration    `yaml:"within" doc:"How long to look for a safe route before otherwise is done. Default 1h, at most 4h."`
	Otherwise word[otherwise]      `yaml:"otherwise" doc:"What is done when there is no such route. Default portal."`
}

type ruleDoc struct {
	Name       string          `yaml:"name,required" doc:"A token, named in reports and tests."`
	When       when            `yaml:"when,required" doc:"Facts that must all hold; a list is any of its values."`
	Do         word[ruleDoes]  `yaml:"do,required" doc:"What is done with the mail."`
	Floor      word[FloorName] `yaml:"floor" doc:"For deliver: the entry of transport that the connection must meet."`
	Code       string          `yaml:"code,required" doc:"Reason code of the catalogue."`
	Mode       word[Mode]      `yaml:"mode" doc:"warn and shadow are passed over and recorded. Default enforce."`
	AcceptRisk *riskDoc        `yaml:"accept_risk" doc:"Lets the rule break a rule of the leak check until a day."`
}

type riskDoc struct {
	By     string `yaml:"by,required" doc:"Who accepts the risk, with role."`
	Reason string `yaml:"reason,required" doc:"Why."`
	Until  date   `yaml:"until,required" doc:"Last day it is accepted; the file does not load after it."`
}

// word is one value of an enum, as a file names it.
type word[E interface {
	~uint8
	words() names
}] struct {
	value E
	set   bool
}

func (w *word[E]) UnmarshalText(text []byte) error {
	i := slices.Index(w.value.words(), string(text))
	if i < 0 || len(text) == 0 {
		return fmt.Errorf("unknown value, use one of %s", strings.Join(w.Words(), ", "))
	}
	w.value, w.set = E(i), true
	return nil
}

// Words lists the values for messages and the schema.
func (w word[E]) Words() []string { return w.value.words().known() }

// known leaves out the values that a file may not name.
func (n names) known() []string {
	return slices.DeleteFunc(slices.Clone(n), func(s string) bool { return s == "" })
}

// These enums are parts of others, with "" where a file may not name the value.
type (
	ruleDoes       Action
	otherwise      Action
	floorAssurance Assurance
	floorStrength  Strength
)

func (SenderClass) words() names  { return senderClassNames }
func (Class) words() names        { return classNames }
func (Audience) words() names     { return audienceNames }
func (Remuneration) words() names { return remunerationNames }
func (FloorName) words() names    { return floorNames }
func (Mode) words() names         { return modeNames }
func (Refusal) words() names      { return refusalNames }
func (ruleDoes) words() names     { return names{"hold", "reject", "defer", "portal", "deliver"} }
func (otherwise) words() names    { return names{"hold", "", "", "portal", "", "bounce"} }
func (floorAssurance) words() names {
	return names{"", "opportunistic", "encrypted", "verified", "policy", "dane"}
}
func (floorStrength) words() names { return names{"", "", "bcp195", "sp800-52r2", "fips"} }

// overlay is a state whose law is taken into account.
type overlay string

var overlays = []string{"us-ca", "us-tx", "us-wa"}

func (o *overlay) UnmarshalText(text []byte) error {
	if !slices.Contains(overlays, string(text)) {
		return fmt.Errorf("unknown value, use one of %s", strings.Join(overlays, ", "))
	}
	*o = overlay(text)
	return nil
}

func (overlay) Words() []string { return overlays }

// date is a day such as 2027-01-31, kept as the first moment after it, UTC.
type date struct{ end time.Time }

func (d *date) UnmarshalText(text []byte) error {
	day, err := time.Parse(time.DateOnly, string(text))
	if err != nil {
		return errors.New("not a date, write it like 2027-01-31")
	}
	d.end = day.AddDate(0, 0, 1)
	return nil
}

func (date) JSONSchema() map[string]any { return map[string]any{"type": "string", "format": "date"} }

// when is a closed match block: a fact's key and the values it may have.
type when map[string]values

// values are written as a list, or as {not: [list]}.
type values struct {
	List []string
	Not  []string `yaml:"not,required"`
}

func (v *values) Shorthand() any { return &v.List }

func (when) JSONSchema() map[string]any {
	properties := map[string]any{}
	for _, f := range fields[:matched] {
		list := map[string]any{"type": "array", "minItems": 1, "uniqueItems": true, "items": map[string]any{"enum": f.names}}
		properties[f.key] = map[string]any{"oneOf": []any{list, map[string]any{
			"type": "object", "additionalProperties": false, "required": []string{"not"}, "properties": map[string]any{"not": list},
		}}}
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

// FileSchema returns the JSON Schema of policy.yaml.
func FileSchema() ([]byte, error) {
	return yamlfile.Schema(document{}, "https://phigate.example/policy.schema.json")
}

// defaults are what policy.yaml may leave out.
func defaults() document {
	secure := func(a Assurance) floorDoc {
		return floorDoc{
			Assurance: word[floorAssurance]{floorAssurance(a), true},
			Strength:  word[floorStrength]{floorStrength(StrengthSP80052r2), true},
			Within:    yamlfile.Duration(time.Hour),
			Otherwise: word[otherwise]{otherwise(Portal), true},
		}
	}
	return document{
		Detection: detectionDoc{Medium: 0.60, High: 0.85, CareRelationship: true},
		Transport: transportDoc{
			PHI:       secure(AssuranceVerified),
			Sensitive: secure(AssurancePolicy),
			Plain:     floorDoc{Assurance: word[floorAssurance]{floorAssurance(AssuranceNone), true}},
		},
	}
}
