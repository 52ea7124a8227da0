package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/yamlfile"
)

// longestWithin bounds how long mail waits for a safe route before it takes its
// otherwise: after that a pickup serves the recipient better.
const longestWithin = 4 * time.Hour

// Parse reads policy.yaml; name is how messages call the file. It returns every
// mistake at once, and a nil Policy if there is one. An accept_risk that lapsed
// before now is a mistake. Whether the policy can leak is asked of [Policy.Leaks].
func Parse(name string, data []byte, now time.Time) (*Policy, yamlfile.Problems) {
	doc := defaults()
	file, problems := yamlfile.Decode(name, data, &doc)
	r := &reader{file: file, problems: problems, now: now}
	p := &Policy{file: name, parsed: now}
	r.version(doc.Version)
	p.organization = r.organization(doc.Organization)
	p.senders = r.senders(doc.Senders)
	p.detection = r.detection(doc.Detection)
	p.transport = r.transport(doc.Transport)
	p.rules = r.rules(doc.Rules, p.transport)
	if len(r.problems) > 0 {
		return nil, r.problems.Sorted()
	}
	sum := sha256.Sum256(data)
	p.hash = hex.EncodeToString(sum[:])
	p.table = tabulate(p.rules)
	return p, nil
}

// reader turns the document into a policy and collects what makes no sense.
type reader struct {
	file     *yamlfile.File
	problems yamlfile.Problems
	now      time.Time
}

// bad reports the value at path, unless its form is wrong already.
func (r *reader) bad(path, what, hint string) {
	if r.file.Sound(path) {
		r.problems = append(r.problems, r.file.Problem(path, what, hint))
	}
}

func (r *reader) version(v int) {
	if v != 1 && r.file.Has("version") {
		r.bad("version", "version: unknown format", "write 1")
	}
}

var (
	tokenForm  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	domainForm = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

func (r *reader) token(path, what, s string) {
	if !tokenForm.MatchString(s) && r.file.Has(path) {
		r.bad(path, what+": not a token", "use a-z, 0-9 and -, at most 64 characters")
	}
}

// once reports a value that an earlier entry has.
func (r *reader) once(seen map[string]bool, path, what, s string) {
	if seen[s] && s != "" {
		r.bad(path, what+": used before", "give each its own")
	}
	seen[s] = true
}

func (r *reader) organization(d organizationDoc) Organization {
	if strings.TrimSpace(d.Name) == "" && r.file.Has("organization.name") {
		r.bad("organization.name", "name: empty", "write the name of the organization as its consent forms do")
	}
	o := Organization{Name: d.Name, Kind: d.Kind.value, PostalAddress: d.PostalAddress}
	for i, domain := range d.Domains {
		domain = strings.ToLower(domain)
		if !domainForm.MatchString(domain) {
			r.bad(fmt.Sprintf("organization.domains[%d]", i), "domains: not a domain", "write it like clinic.example")
		}
		o.Domains = append(o.Domains, domain)
	}
	if len(d.Domains) == 0 && r.file.Has("organization.domains") {
		r.bad("organization.domains", "domains: empty", "name at least one mail domain")
	}
	for _, v := range d.Overlays {
		o.Overlays = append(o.Overlays, string(v))
	}
	return o
}

func (r *reader) senders(docs []senderDoc) []Sender {
	names, logins := map[string]bool{}, map[string]bool{}
	out := make([]Sender, len(docs))
	for i, d := range docs {
		path := fmt.Sprintf("senders[%d]", i)
		r.token(path+".name", "name", d.Name)
		r.once(names, path+".name", "name", d.Name)
		if d.Login != "" {
			r.once(logins, path+".login", "login", d.Login)
		}
		if d.Partner != "" {
			r.token(path+".partner", "partner", d.Partner)
		}
		if at := path + ".limits.daily"; d.Limits.Daily < 1 && r.file.Has(at) {
			r.bad(at, "daily: it could send nothing", "write at least 1, or leave it out")
		}
		out[i] = Sender{
			Limits: SenderLimits(d.Limits), VERP: d.VERP,
			Name: d.Name, Login: d.Login, Partner: d.Partner, StripTrackers: d.StripTrackers,
			Class: d.Class.value, Audience: d.Audience.value, Remuneration: d.Remuneration.value,
			Networks:  r.networks(path+".networks", d.Networks),
			From:      r.from(path+".from", d.From),
			OnRefusal: r.refusals(path+".on_refusal", d.OnRefusal),
		}
	}
	return out
}

func (r *reader) networks(path string, networks []netip.Prefix) []netip.Prefix {
	for i, n := range networks {
		if n.IsValid() && n != n.Masked() {
			r.bad(fmt.Sprintf("%s[%d]", path, i), "networks: address bits behind the prefix length", "clear them, or write the longer prefix")
		}
	}
	return networks
}

func (r *reader) from(path string, patterns []string) []string {
	var out []string
	for i, s := range patterns {
		s = strings.ToLower(s)
		local, domain, _ := strings.Cut(s, "@")
		if local == "" || strings.ContainsAny(local, " \t<>") || local != "*" && strings.Contains(local, "*") || !domainForm.MatchString(domain) {
			r.bad(fmt.Sprintf("%s[%d]", path, i), "from: not an address", `write "*@clinic.example" or "news@clinic.example"`)
		}
		out = append(out, s)
	}
	if len(patterns) == 0 && r.file.Has(path) {
		r.bad(path, "from: empty", `name the addresses it may use, such as "*@clinic.example"`)
	}
	return out
}

func (r *reader) refusals(path string, docs map[string]word[Refusal]) map[Code]Refusal {
	known := append([]string{"default"}, codesFor(Reject)...)
	out := make(map[Code]Refusal, len(docs))
	for key, d := range docs {
		at := path + "." + key
		switch _, other := byCode[Code(key)]; {
		case slices.Contains(known, key):
		case other:
			r.problems = append(r.problems, r.file.KeyProblem(at, "on_refusal: this code refuses nothing", "remove it"))
		default:
			r.problems = append(r.problems, r.file.KeyProblem(at, "on_refusal: unknown code", yamlfile.Suggest(key, known)))
		}
		out[Code(key)] = d.value
	}
	return out
}

func (r *reader) detection(d detectionDoc) Detection {
	for _, v := range []struct {
		key   string
		value float64
	}{{"medium", d.Medium}, {"high", d.High}} {
		if !(v.value > 0 && v.value <= 1) {
			r.bad("detection."+v.key, v.key+": out of range", "write a score above 0 and at most 1")
		}
	}
	if d.Medium > d.High {
		r.bad("detection.high", "high: below medium", "write a score not below medium")
	}
	return Detection(d)
}

func (r *reader) transport(d transportDoc) [FloorPlain + 1]floorEntry {
	var out [FloorPlain + 1]floorEntry
	out[FloorPHI] = r.secureFloor("transport.phi", d.PHI)
	out[FloorSensitive] = r.secureFloor("transport.sensitive", d.Sensitive)
	out[FloorPlain] = r.plainFloor("transport.plain", d.Plain)
	return out
}

func (r *reader) secureFloor(path string, d floorDoc) floorEntry {
	e := r.floor(path, d)
	e.within = time.Duration(cmp.Or(d.Within, yamlfile.Duration(time.Hour)))
	if e.within > longestWithin {
		r.bad(path+".within", "within: too long", fmt.Sprintf("write at most %v, then otherwise is done", yamlfile.Duration(longestWithin)))
	}
	e.otherwise = Portal
	if d.Otherwise.set {
		e.otherwise = Action(d.Otherwise.value)
	}
	return e
}

// plainFloor has no otherwise: what is not PHI waits for its server and bounces.
func (r *reader) plainFloor(path string, d floorDoc) floorEntry {
	for _, key := range []string{"otherwise", "within"} {
		if r.file.Has(path + "." + key) {
			r.problems = append(r.problems, r.file.KeyProblem(path+"."+key, key+": plain mail has none", "remove it"))
		}
	}
	e := r.floor(path, d)
	e.otherwise = Bounce
	return e
}

func (r *reader) floor(path string, d floorDoc) floorEntry {
	f := Floor{Assurance(d.Assurance.value), StrengthSP80052r2}
	if d.Strength.set {
		f.Strength = Strength(d.Strength.value)
	}
	if f.Assurance == AssuranceNone {
		if r.file.Has(path + ".strength") {
			r.bad(path+".strength", "strength: opportunistic asks for none", "remove it, or raise assurance")
		}
		f = Open
	}
	line, column := r.file.At(path)
	return floorEntry{floor: f, line: line, column: column}
}

func (r *reader) rules(docs []ruleDoc, transport [FloorPlain + 1]floorEntry) []rule {
	if len(docs) > maxRules {
		r.bad(fmt.Sprintf("rules[%d]", maxRules), fmt.Sprintf("more than %d rules", maxRules), "join rules that do the same")
		return nil
	}
	seen := map[string]bool{}
	out := make([]rule, len(docs))
	for i, d := range docs {
		path := fmt.Sprintf("rules[%d]", i)
		r.token(path+".name", "name", d.Name)
		r.once(seen, path+".name", "name", d.Name)
		line, column := r.file.At(path + ".name")
		out[i] = rule{
			name: d.Name, mode: d.Mode.value, line: line, column: column,
			when: r.when(path+".when", d.When), risk: r.risk(path, d),
			verdict: r.verdict(path, d, transport),
		}
		out[i].conditions = out[i].when.conditions()
	}
	return out
}

func (r *reader) verdict(path string, d ruleDoc, transport [FloorPlain + 1]floorEntry) Verdict {
	v := Verdict{Action: Action(d.Do.value), Code: Code(d.Code), Rule: d.Name}
	if v.Action == Deliver {
		v.Floor, v.Else = d.Floor.value, transport[d.Floor.value].otherwise
	}
	if !d.Do.set {
		return v
	}
	switch hasFloor := r.file.Has(path + ".floor"); {
	case v.Action == Deliver && !hasFloor:
		r.bad(path, `key "floor" is missing`, "deliver needs one of "+strings.Join(floorNames, ", "))
	case v.Action != Deliver && hasFloor:
		r.bad(path+".floor", "floor: only deliver has one", "remove it")
	}
	codes := codesFor(v.Action)
	switch {
	case !r.file.Has(path + ".code"), slices.Contains(codes, d.Code):
	case v.Code.ofRules():
		r.bad(path+".code", fmt.Sprintf("code: not a code of %v", v.Action), "use one of "+strings.Join(codes, ", "))
	default:
		r.bad(path+".code", "code: unknown code", yamlfile.Suggest(d.Code, codes))
	}
	return v
}

func (r *reader) risk(path string, d ruleDoc) *Risk {
	if d.AcceptRisk == nil {
		return nil
	}
	path += ".accept_risk"
	for key, text := range map[string]string{"by": d.AcceptRisk.By, "reason": d.AcceptRisk.Reason} {
		if strings.TrimSpace(text) == "" && r.file.Has(path+"."+key) {
			r.bad(path+"."+key, key+": empty", "write who accepts the risk, and why")
		}
	}
	if action := Action(d.Do.value); d.Do.set && action != Deliver && action != Portal {
		r.bad(path, "accept_risk: this rule sends nothing", "remove it")
	}
	if end := d.AcceptRisk.Until.end; !end.IsZero() && !r.now.Before(end) {
		r.bad(path+".until", "until: the exception has lapsed", "remove the rule, or let the person named decide again and write a new date")
	}
	return &Risk{d.AcceptRisk.By, d.AcceptRisk.Reason, d.AcceptRisk.Until.end}
}

// when returns the box of facts that a when-block matches.
func (r *reader) when(path string, d when) box {
	b := everything
	for key, v := range d {
		i := slices.IndexFunc(fields[:matched], func(f field) bool { return f.key == key })
		if i < 0 {
			r.unknownFact(path+"."+key, key)
			continue
		}
		if v.Not != nil {
			b[i] &^= r.values(path+"."+key+".not", key, fields[i].names, v.Not)
		} else {
			b[i] = r.values(path+"."+key, key, fields[i].names, v.List)
		}
		if b[i] == 0 {
			r.bad(path+"."+key, key+": matches nothing", "name at least one value that may match")
		}
	}
	return b
}

func (r *reader) unknownFact(path, key string) {
	hint := yamlfile.Suggest(key, factKeys(fields[:matched]))
	if key == "assurance" {
		hint = "rules choose a floor, which is compared with it"
	}
	r.problems = append(r.problems, r.file.KeyProblem(path, "when: not a fact that rules match", hint))
}

func (r *reader) values(path, key string, known names, list []string) valueSet {
	var set valueSet
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		v, err := known.parse(s)
		switch {
		case err != nil:
			r.bad(at, key+": "+err.Error(), "")
		case set.has(v):
			r.bad(at, key+": value named twice", "remove one")
		default:
			set |= 1 << v
		}
	}
	return set
}

func factKeys(of []field) []string {
	keys := make([]string, len(of))
	for i, f := range of {
		keys[i] = f.key
	}
	return keys
}
