package phi

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/phigate/phigate/internal/phi/extract"
	"github.com/phigate/phigate/internal/phi/lexicon"
	"github.com/phigate/phigate/policy"
)

// Context is what is known of one recipient and of the sender. The zero value
// is an unknown recipient of an unknown sender with nothing declared.
type Context struct {
	Recipient   policy.Address
	Staff       bool             // the recipient works for the organization
	Audience    *policy.Audience // nil when nobody declared one
	SenderClass policy.SenderClass
	Declared    bool   // SenderClass is declared, not the zero value
	Segment     string // X-Gateway-Segment
	Campaign    string // X-Gateway-Campaign
	Broadcast   bool   // the same text went to many recipients of an open list
}

// Result is the judgement for one recipient.
type Result struct {
	Band        policy.PHI
	Score       float64
	Findings    []Finding // of low and above, see [Document.Findings]; shared between recipients
	Relation    Relation
	Unscannable []Unscannable
	Scan        policy.Scan
	Topic       policy.Topic
	Subject     policy.Subject
	People      int      // persons the mail is about
	Language    string   // "en" or "other"; no claim is made about other
	Negative    []string // what spoke against, for explain
}

// trade says what is known of the sender's business.
type trade uint8

const (
	tradeUnknown trade = iota
	tradeHealth
	tradeOther
)

// view is a Context turned into the weights that Judge needs.
type view struct {
	trade    trade
	reader   float32 // how surely the recipient is one person
	template bool    // slots that no tool filled, and nobody is named
	open     bool    // a list that anyone may be on
	patients bool    // a list of patients or members
	segment  segment
	topic    lexicon.Topic
	negative []string
}

// Judge scores the message for one recipient.
func (d *Document) Judge(c Context) Result {
	v := d.view(c)
	best, score := d.score(&v, c)
	res := Result{
		Score: hundredths(score), Unscannable: d.unscannable, Scan: d.scan(), Topic: policy.TopicGeneral,
		Subject: policy.SubjectClean, People: max(d.people, 1), Language: d.language, Negative: v.negative,
	}
	if score >= .1 {
		res.Relation = best
	}
	res.Band = d.band(float64(score))
	if res.Band <= policy.PHILow {
		res.Findings = d.Findings()
	}
	if res.Band <= policy.PHIMedium && d.subjectPHI {
		res.Subject = policy.SubjectPHI
	}
	if v.topic != lexicon.NoTopic {
		res.Topic = policy.TopicSensitive
	}
	return res
}

func (d *Document) band(score float64) policy.PHI {
	switch {
	case score >= d.scanner.opt.High:
		return policy.PHIHigh
	case score >= d.scanner.opt.Medium:
		return policy.PHIMedium
	case score >= .35:
		return policy.PHILow
	}
	return policy.PHINone
}

// scan turns the unread parts into the fact. Ambiguous alone is only listed:
// every reading was scanned.
func (d *Document) scan() policy.Scan {
	worst := policy.ScanComplete
	for _, u := range d.unscannable {
		switch u.Reason {
		case extract.Ambiguous:
		case extract.Timeout:
			return policy.ScanUnavailable
		default:
			worst = policy.ScanUnscannable
		}
	}
	return worst
}

// view weighs the context and notes what speaks against PHI.
func (d *Document) view(c Context) view {
	v := view{reader: 1}
	against := func(why string) { v.negative = append(v.negative, why) }
	v.trade = d.trade(c)
	if v.trade == tradeOther {
		against("the sender is no health business")
	}
	switch {
	case c.Staff || d.internal(c.Recipient):
		v.reader = .3
		against("the recipient is staff")
	case roleAddress(c.Recipient) || d.offices[c.Recipient.Key()]:
		v.reader = .3
		against("the recipient is a role address")
	case d.proof || d.unfilled && !d.names(c.Recipient):
		v.reader, v.template = .3, true
		against("merge slots are unfilled: a template")
	}
	if c.Segment != "" { // what the sender declares counts, whatever the text is about
		var declared segment
		declared.read(d.scanner.lx, c.Segment)
		v.topic = declared.topic
	}
	g := d.segment
	for _, tag := range []string{c.Segment, c.Campaign} {
		if tag != "" {
			g.read(d.scanner.lx, tag)
		}
	}
	v.segment = g
	v.patients = g.patients && !g.open
	v.open = g.open && !g.patients
	if c.Audience != nil {
		switch *c.Audience {
		case policy.AudiencePatients, policy.AudienceMembers:
			v.patients, v.open = true, false
		default:
			v.open = !v.patients
			if *c.Audience == policy.AudienceStaff && !v.patients {
				v.reader = .3
				against("the audience is staff")
			}
		}
	}
	if c.Broadcast && !v.patients {
		v.open = true
	}
	if v.open {
		against("the list is open to anyone")
	}
	if d.animals {
		against("the patients are animals")
	}
	if d.employment {
		against("the mail is about employment")
	}
	if d.general {
		against("the text speaks of people in general")
	}
	return v
}

// trade decides whether the sender is a health business: by its declared class,
// else by its name.
func (d *Document) trade(c Context) trade {
	switch {
	case c.Declared && c.SenderClass == policy.SenderNonHealth:
		return tradeOther
	case c.Declared, d.sender.health:
		return tradeHealth
	case d.sender.other:
		return tradeOther
	}
	return tradeUnknown
}

// internal reports a recipient in the sender's own domain when that domain is
// plainly one for staff: a hospital's patients have mail at its domain too, as
// students and employees do.
func (d *Document) internal(a policy.Address) bool {
	if d.sender.domain == "" || a.Domain() != d.sender.domain {
		return false
	}
	for _, label := range strings.Split(d.sender.domain, ".") {
		switch label {
		case "corp", "internal", "intranet", "staff", "local", "lan", "employees":
			return true
		}
	}
	return false
}

// names reports whether the mail calls its recipient by name: then a slot that
// stayed empty is a slip, not a template.
func (d *Document) names(a policy.Address) bool {
	if d.greeted {
		return true
	}
	local, _, _ := strings.Cut(a.Key(), "@")
	for _, part := range strings.FieldsFunc(local, func(c rune) bool { return c < 'a' || c > 'z' }) {
		if len(part) >= 3 && d.scanner.lx.Name(lexicon.Hash([]byte(part)))&(lexicon.FirstName|lexicon.LastName) != 0 && d.HasText(part) {
			return true
		}
	}
	return false
}

// roles are local parts behind which stands an office or a list, not a person.
var roles = map[string]bool{
	"info": true, "staff": true, "all": true, "office": true, "team": true, "hr": true, "marketing": true, "admin": true, "administrator": true, "support": true, "contact": true, "hello": true, "sales": true, "billing": true, "press": true, "media": true, "newsletter": true, "news": true, "list": true, "everyone": true, "employees": true, "employee": true, "noreply": true, "no-reply": true, "frontdesk": true, "front-desk": true, "reception": true, "nurses": true, "providers": true, "physicians": true, "doctors": true, "proof": true, "proofs": true, "test": true, "testing": true, "qa": true, "webmaster": true, "postmaster": true, "abuse": true, "security": true, "help": true, "helpdesk": true, "service": true, "services": true, "customerservice": true, "accounts": true, "accounting": true, "finance": true, "legal": true, "compliance": true, "privacy": true, "it": true, "ops": true, "operations": true, "dev": true, "engineering": true, "jobs": true, "careers": true, "recruiting": true, "events": true, "community": true, "members": true, "subscribers": true, "group": true, "board": true, "volunteers": true, "donors": true, "editor": true, "editors": true, "mail": true, "email": true, "root": true, "feedback": true, "intake": true, "scheduling": true, "records": true, "lab": true, "pharmacy": true, "coders": true, "coding": true, "training": true, "quality": true, "design": true, "creative": true, "web": true, "content": true, "campaigns": true, "campaign": true, "preview": true, "seed": true, "allstaff": true, "public": true, "subscribe": true, "announce": true, "announcements": true, "department": true, "dept": true, "nursing": true, "frontoffice": true, "desk": true, "clinic": true, "leads": true, "prospects": true, "users": true, "customers": true, "analytics": true, "reports": true, "data": true, "dashboard": true, "manager": true, "managers": true, "supervisors": true, "residents": true, "students": true, "faculty": true, "alumni": true, "studio": true, "art": true, "layout": true, "production": true, "prepress": true, "print": true, "review": true, "reviews": true, "approval": true, "approvals": true, "agency": true, "mktg": true, "editorial": true, "staging": true, "sandbox": true, "demo": true, "sample": true, "template": true, "templates": true, "mailops": true, "deliverability": true, "panel": true, "insights": true, "surveys": true, "survey": true, "newsroom": true, "benefits": true, "brokers": true, "vendor": true, "vendors": true, "partners": true, "orders": true, "purchasing": true, "procurement": true, "warehouse": true, "facilities": true, "maintenance": true, "library": true, "schoolnurse": true, "nurse": true, "callcenter": true, "dispatch": true, "payroll": true, "hiring": true, "mailroom": true, "inbox": true, "counsel": true, "trustees": true, "committee": true,
}

// roleAddress reports an office, a list or a proof.
func roleAddress(a policy.Address) bool {
	local, _, _ := strings.Cut(a.Key(), "@")
	local, _, _ = strings.Cut(local, "+") // ann+news@ is Ann
	if roles[local] || strings.Contains(local, "proof") || strings.HasPrefix(local, "seed") || strings.HasSuffix(local, "team") {
		return true
	}
	parts := strings.FieldsFunc(local, func(c rune) bool { return c == '-' || c == '.' || c == '_' })
	for _, p := range parts {
		switch p {
		case "inbox", "review", "desk", "office", "marketing", "hr", "admin", "support", "sales", "list", "staff", "team", "all", "proof", "proofs", "test", "news", "newsletter", "public", "noreply", "group", "dept":
			return true
		}
	}
	return len(parts) > 1 && roles[parts[0]] && roles[parts[len(parts)-1]]
}

// tierWeight is how surely a term is a health fact, for a health sender.
func tierWeight(t *lexicon.Term) float32 {
	x := t.Topic > lexicon.Special
	switch t.Tier {
	case lexicon.Specific:
		switch {
		case t.Kind != lexicon.Provider:
			return 1
		case x:
			return .8
		}
		return .6
	case lexicon.Caring, lexicon.Weak:
		return .8
	case lexicon.Ambiguous:
		return .3
	}
	return .1
}

// health is the weight of a fact's health term for this sender.
func (d *Document) health(f *fact, v view) float32 {
	h := tierWeight(&f.term)
	switch {
	case f.term.Tier == lexicon.Weak && v.trade != tradeHealth && f.who == addressee:
		h = .1
	case f.term.Tier == lexicon.Caring && v.trade == tradeUnknown:
		h = .7
	case f.term.Tier == lexicon.Ambiguous && f.r >= .9 && v.trade == tradeHealth && f.who == addressee && symptomatic(f, d):
		h = .65
	case f.term.Kind == lexicon.Provider && f.who == labelledPatient:
		h = max(h, .8) // treated there
	case f.term.Tier == lexicon.Weak && d.employment && f.who == addressee:
		h = .3
	}
	if d.sender.topic != lexicon.NoTopic && v.trade == tradeHealth && f.r >= .9 && !f.generic && !d.employment {
		h = max(h, .8) // any personal mail from such a sender shows the care
	}
	return h
}

// symptomatic reports an everyday word that a health sender says of the reader
// in particular: "your rash looks better", "your blood pressure was 150/95".
func symptomatic(f *fact, d *Document) bool {
	if d.note && f.tie == tiePossessiveEvent {
		return true
	}
	return f.concrete || f.tie != tiePossessiveEvent && f.term.Kind == lexicon.Condition && !d.general
}

// strength is the weight of a fact's tie in this view.
func (d *Document) strength(f *fact, v view) float32 {
	r := f.r * f.zone
	switch {
	case f.tie == tieRelation:
		r = f.r
	case f.tie == tieNote && (!d.note || v.trade != tradeHealth), f.tie == tieAsked && v.trade != tradeHealth:
		r *= .5
	case v.trade == tradeOther && f.term.Kind == lexicon.Payment:
		r *= .5 // cars and homes have policies, claims and deductibles too
	}
	if f.soft && d.general {
		r *= .45
	}
	if v.open && (!f.concrete || f.generic) && f.who == addressee && f.tie != tieRelation {
		r *= .5
	}
	if v.open && f.who == namedPerson {
		r *= .5
	}
	if v.trade == tradeUnknown {
		switch {
		case f.who == namedPerson, f.who == labelledPatient && f.r <= .85:
			r *= .6
		case f.who == addressee && !f.concrete:
			r *= .75
		}
	}
	if !d.scanner.opt.CareRelationship && bareNotice(f) {
		r = min(r, .5)
	}
	if d.animals {
		r *= .1
	}
	return r
}

// bareNotice is "new results can be seen after login", and nothing else.
func bareNotice(f *fact) bool {
	return f.who == addressee && f.term.Kind == lexicon.Result && f.term.Tier == lexicon.Caring && !f.concrete
}

// triple is one scored relation.
type triple struct {
	score float32
	tied  float32
	who   individual
	kind  lexicon.Kind
	tie   tie
	topic lexicon.Topic
}

func (t triple) relation() Relation {
	health := kindWord[t.kind]
	if t.tie == tieSegment {
		health = "segment"
	}
	return Relation{individualNames[t.who], health, tieNames[t.tie], hundredths(t.score)}
}

// score weighs all triples: 1 − Π(1 − s) over the independent ones that are
// sure by themselves, else the best; without a real tie never above low.
func (d *Document) score(v *view, c Context) (Relation, float32) {
	best := d.best(*v, c)
	top := triple{}
	miss, sure := float32(1), float32(0)
	for i := range best {
		for k := range best[i] {
			t := &best[i][k]
			if t.score > top.score {
				top = *t
			}
			if t.score >= .35 {
				v.topic = max(v.topic, d.sensitive(t.topic))
			}
			if t.tied >= .5 && t.score >= .6 {
				miss *= 1 - t.score
			}
			if t.tied >= .5 {
				sure = max(sure, t.score)
			}
		}
	}
	score := max(1-miss, sure)
	if sure == 0 {
		score = min(top.score, .59)
	}
	labelled := len(best[labelledPatient]) > 0 && strongest(best[labelledPatient][:]) > 0 || strongest(best[rowPerson][:]) > 0
	switch {
	case len(d.formats) > 0:
		score, top = max(score, .97), triple{score: .97, who: labelledPatient, kind: lexicon.Care, tie: tieFormat}
	case d.animals:
	case d.rows >= 10:
		score = max(score, .95)
	case d.gate:
		score = max(score, .9)
	}
	if v.trade == tradeOther && !labelled && len(d.formats) == 0 {
		score = min(score, .59)
	}
	if score >= .35 && d.sender.topic != lexicon.NoTopic && v.trade == tradeHealth {
		v.topic = max(v.topic, d.sensitive(d.sender.topic))
	}
	return top.relation(), score
}

func strongest(list []triple) (s float32) {
	for i := range list {
		s = max(s, list[i].score)
	}
	return s
}

const kindCount = int(lexicon.Body) + 1

// best keeps the best triple for each individual and kind of fact.
func (d *Document) best(v view, c Context) (best [individualCount][kindCount]triple) {
	keep := func(t triple) {
		if b := &best[t.who][t.kind]; t.score > b.score {
			topic := max(b.topic, t.topic)
			*b = t
			b.topic = topic
		}
	}
	for i := range d.facts {
		f := &d.facts[i]
		who := f.i
		switch {
		case f.who == addressee && v.template && f.concrete && !d.proof:
			who *= .8 // a day or a value is filled in: for whom, if not the recipient
		case f.who == addressee:
			who *= v.reader
		}
		r := d.strength(f, v)
		keep(triple{who * d.health(f, v) * r, r, f.who, f.term.Kind, f.tie, f.term.Topic})
	}
	if v.trade != tradeOther && !d.animals {
		if v.patients && (v.trade == tradeHealth || c.Audience != nil) {
			keep(triple{v.reader * .8 * .9, .9, addressee, lexicon.NoKind, tieDeclared, v.segment.topic})
		}
		if g := v.segment; g.health > 0 && !v.open && v.trade == tradeHealth {
			keep(triple{v.reader * g.health * .7, .7, addressee, lexicon.NoKind, tieSegment, g.topic})
		}
	}
	if r := d.hashed(c.Recipient); r {
		keep(triple{v.reader * .8 * .8, .8, addressee, lexicon.NoKind, tieHashed, lexicon.NoTopic})
	}
	return best
}

// hashed reports whether the text holds a hash of the recipient's address, as
// advertising platforms exchange them.
func (d *Document) hashed(a policy.Address) bool {
	if len(d.hexes) == 0 || a == "" || len(d.facts) == 0 {
		return false
	}
	key := []byte(a.Key())
	m, s1, s2 := md5.Sum(key), sha1.Sum(key), sha256.Sum256(key)
	sums := []string{hex.EncodeToString(m[:]), hex.EncodeToString(s1[:]), hex.EncodeToString(s2[:])}
	return slices.ContainsFunc(d.hexes, func(h hexToken) bool { return slices.Contains(sums, h.value) })
}
