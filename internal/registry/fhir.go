package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"
)

// FHIR R4 consents (hl7.org/fhir/R4/consent.html) come as a Bundle or as NDJSON.
// They are evidence only: what a row of consents.csv needs and FHIR has no place
// for, such as the statements of 45 CFR 164.508(c)(2), stays empty, so most of
// them are imported as defective and a person completes them.

// resource is what is read of a FHIR resource: a Consent, or a Patient,
// RelatedPerson or Organization that one refers to.
type resource struct {
	ResourceType string `json:"resourceType"`
	ID           string `json:"id"`
	Meta         struct{ LastUpdated string }
	Language     string
	Contained    []resource
	Telecom      []struct{ System, Value string }
	Name         json.RawMessage // of a person a list, of an organization a text

	Status       string
	Category     []concept
	Patient      reference
	DateTime     string
	Performer    []reference
	Organization []reference
	PolicyRule   concept
	Provision    struct {
		Type          string
		Period        struct{ End string }
		Actor         []struct{ Reference reference }
		Purpose       []coding
		Class         []coding
		SecurityLabel []coding
		Code          []concept
		Provision     []json.RawMessage
	}
}

type (
	coding  struct{ System, Code, Display string }
	concept struct {
		Coding []coding
		Text   string
	}
	reference struct{ Reference, Display string }
)

// isJSON reports whether a file is FHIR; no CSV header begins like that.
func isJSON(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff"))), []byte("{"))
}

// parseFHIR hands over the consents of a file like [book.parse]. A column of a
// mistake is then the element of the resource.
func parseFHIR(file string, data []byte, now time.Time, take func(line int, row *Consent, faults []fault) error) ([]Problem, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	found := fhirFile{data: data, others: map[string]*resource{}}
	if at, what := found.read(); what != "" {
		return unreadable(file, lineAt(data, at), what)
	}
	order := make([]int, len(consents.columns))
	for i := range order {
		order[i] = i
	}
	for _, c := range found.consents {
		cells, faults := c.cells(found.others)
		row, wrong := consents.parseRow(order, cells, now)
		if len(faults) == 0 {
			faults = wrong
		}
		if err := take(c.line, &row, faults); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func lineAt(data []byte, at int64) int { return 1 + bytes.Count(data[:at], []byte("\n")) }

// fhirFile is a file taken apart.
type fhirFile struct {
	data     []byte
	at       int64 // where the resource begins that is being read
	consents []fhirConsent
	others   map[string]*resource // by every reference that leads to them
}

type fhirConsent struct {
	resource
	line int
}

const notFHIR = "not FHIR, write a Bundle or one resource per line"

// read takes all resources apart, or says where and why the file is none.
func (f *fhirFile) read() (at int64, what string) {
	if at, twice := repeatedKey(f.data); twice {
		return at, "a key is there twice in one object, remove one"
	}
	d := json.NewDecoder(bytes.NewReader(f.data))
	for {
		f.at = f.next(d.InputOffset())
		var raw json.RawMessage
		err := d.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return 0, ""
		}
		if err != nil {
			return f.broken(d.InputOffset(), err), notFHIR
		}
		var kind struct {
			ResourceType string `json:"resourceType"`
		}
		if json.Unmarshal(raw, &kind) != nil || kind.ResourceType == "" {
			return f.at, notFHIR
		}
		if kind.ResourceType == "Bundle" {
			err = f.bundle(f.at, raw)
		} else {
			err = f.add("", raw)
		}
		if err != nil {
			return f.at, notFHIR
		}
	}
}

// broken is where the syntax of the value behind an offset breaks.
func (f *fhirFile) broken(from int64, err error) int64 {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return min(from+syntax.Offset, int64(len(f.data)))
	}
	return int64(len(f.data)) // it has no end
}

// next is where the value begins that follows the offset at.
func (f *fhirFile) next(at int64) int64 {
	rest := bytes.TrimLeft(f.data[at:], " \t\r\n,:[")
	return int64(len(f.data) - len(rest))
}

// bundle adds the entries of a Bundle that begins at an offset.
func (f *fhirFile) bundle(begin int64, raw json.RawMessage) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if key != "entry" {
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return err
			}
			continue
		}
		if err := f.entries(begin, d); err != nil {
			return err
		}
	}
	return nil
}

func (f *fhirFile) entries(begin int64, d *json.Decoder) error {
	if open, err := d.Token(); err != nil || open != json.Delim('[') {
		return ErrUnreadable
	}
	for d.More() {
		f.at = f.next(begin + d.InputOffset())
		var entry struct {
			FullURL  string          `json:"fullUrl"`
			Resource json.RawMessage `json:"resource"`
		}
		if err := d.Decode(&entry); err != nil {
			return err
		}
		if err := f.add(entry.FullURL, entry.Resource); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func (f *fhirFile) add(url string, raw json.RawMessage) error {
	var r resource
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	if r.ResourceType == "Consent" {
		f.consents = append(f.consents, fhirConsent{r, lineAt(f.data, f.at)})
		return nil
	}
	f.others[r.ResourceType+"/"+r.ID] = &r
	if url != "" {
		f.others[url] = &r
	}
	return nil
}

// repeatedKey finds an object with two keys that are equal but for their case:
// encoding/json would silently take the last of them.
func repeatedKey(data []byte) (at int64, twice bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	type object struct {
		keys map[string]bool // nil in a list
		key  bool            // a key comes next
	}
	stack := []object{{}}
	for {
		token, err := d.Token()
		if err != nil {
			return 0, false // the end, or for the real reader to complain of
		}
		top := &stack[len(stack)-1]
		switch t := token.(type) {
		case json.Delim:
			switch t {
			case '{':
				top.key = true
				stack = append(stack, object{map[string]bool{}, true})
			case '[':
				top.key = true
				stack = append(stack, object{})
			default:
				stack = stack[:len(stack)-1]
			}
			continue
		case string:
			if top.keys != nil && top.key {
				folded := strings.ToLower(t)
				if top.keys[folded] {
					return d.InputOffset(), true
				}
				top.keys[folded] = true
				top.key = false
				continue
			}
		}
		top.key = true
	}
}

// cells maps the consent to the cells of a row. A fault's column is the FHIR
// element.
func (c *fhirConsent) cells(others map[string]*resource) ([]string, []fault) {
	var faults []fault
	add := func(element, what string) { faults = append(faults, fault{element, what}) }
	kind, revoked := c.kind(), ""
	address := c.email(others)
	if address == "" {
		add("patient", "no e-mail address, add the Patient with a telecom of system email")
	}
	if kind == "" {
		add("policyRule", "no kind of consent known here, write hipaa-auth, or label the provision 42CFRPart2")
	}
	switch c.Status {
	case "active":
	case "inactive":
		if revoked = c.Meta.LastUpdated; revoked == "" {
			add("status", "inactive since when is not said, add meta.lastUpdated")
		}
	default:
		add("status", "only active and inactive consents are imported")
	}
	if c.Provision.Type == "deny" {
		add("provision.type", "a refusal is no consent, import it as a suppression")
	}
	if len(c.Provision.Provision) > 0 {
		add("provision.provision", "exceptions cannot be judged, write the consent as a row of CSV")
	}
	values := map[string]string{
		"address": address, "type": kind, "purposes": strings.Join(c.purposes(), ";"), "information": c.information(),
		"discloser": names(others, c.Organization), "recipient": c.recipients(others), "signed_at": c.DateTime,
		"expires_at": c.Provision.Period.End, "signer": names(others, c.Performer), "representative_authority": c.representative(),
		"language": c.Language, "source": "fhir", "revoked_at": revoked,
	}
	cells := make([]string, len(consents.columns))
	for i, column := range consents.columns {
		cells[i] = guard(values[column.name])
	}
	return cells, faults
}

// kind is the type of the row, "" if the resource does not say one.
func (c *fhirConsent) kind() string {
	codes := slices.Concat(c.PolicyRule.Coding, c.Provision.SecurityLabel)
	for _, category := range c.Category {
		codes = append(codes, category.Coding...)
	}
	has := func(code string) bool {
		return slices.ContainsFunc(codes, func(x coding) bool { return strings.EqualFold(x.Code, code) })
	}
	switch {
	case has("42CFRPart2"), has("42-CFR-2"):
		return Part2Consent
	case has("hipaa-auth"):
		return HIPAAAuthorization
	}
	return ""
}

// fhirPurposes are codes of v3-ActReason with a name of their own here.
var fhirPurposes = map[string]string{"hmarkt": anyTopic, "treat": "treatment", "hpaymt": "payment", "hoperat": "operations"}

// purposes are the purposes as tokens. Treatment, payment and operations
// together are what one Part 2 consent may cover (42 CFR 2.33(b)).
func (c *fhirConsent) purposes() []string {
	var list []string
	for _, p := range c.Provision.Purpose {
		code := strings.ToLower(p.Code)
		if name, ok := fhirPurposes[code]; ok {
			code = name
		}
		list = append(list, code)
	}
	for _, label := range slices.Concat(c.Provision.SecurityLabel, c.Provision.Class) {
		if label.Code == "PSYTHPN" {
			list = append(list, notesTopic)
		}
	}
	if slices.Contains(list, "treatment") && slices.Contains(list, "payment") && slices.Contains(list, "operations") {
		list = append(list, anyCare)
	}
	return list
}

func (c *fhirConsent) information() string {
	var list []string
	for _, class := range c.Provision.Class {
		list = append(list, first(class.Display, class.Code))
	}
	for _, code := range c.Provision.Code {
		text := code.Text
		for _, x := range code.Coding {
			text = first(text, x.Display, x.Code)
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

func (c *fhirConsent) recipients(others map[string]*resource) string {
	var list []reference
	for _, actor := range c.Provision.Actor {
		list = append(list, actor.Reference)
	}
	return names(others, list)
}

// representative is filled if someone else than the patient signed.
func (c *fhirConsent) representative() string {
	for _, p := range c.Performer {
		if strings.HasPrefix(p.Reference, "RelatedPerson/") {
			return "RelatedPerson"
		}
	}
	return ""
}

// email is the address of the patient, "" if there is none.
func (c *fhirConsent) email(others map[string]*resource) string {
	patient := others[c.Patient.Reference]
	if id, inside := strings.CutPrefix(c.Patient.Reference, "#"); inside {
		at := slices.IndexFunc(c.Contained, func(r resource) bool { return r.ID == id })
		if at < 0 {
			return ""
		}
		patient = &c.Contained[at]
	}
	if patient == nil {
		return ""
	}
	for _, t := range patient.Telecom {
		if t.System == "email" {
			return t.Value
		}
	}
	return ""
}

// names are the names behind references, joined.
func names(others map[string]*resource, refs []reference) string {
	var list []string
	for _, ref := range refs {
		name := ref.Display
		if r := others[ref.Reference]; r != nil {
			name = first(name, r.name())
		}
		if name != "" {
			list = append(list, name)
		}
	}
	return strings.Join(list, ", ")
}

// name is the name of an organization or a person.
func (r *resource) name() string {
	var text string
	if json.Unmarshal(r.Name, &text) == nil {
		return text
	}
	var people []struct {
		Text, Family string
		Given        []string
	}
	if json.Unmarshal(r.Name, &people) != nil || len(people) == 0 {
		return ""
	}
	return first(people[0].Text, strings.Join(append(people[0].Given, people[0].Family), " "))
}

// first is the first text that is not empty.
func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
