// Package phi says what in a message is health information, and about whom.
//
// The finding is a relation, not a co-occurrence (45 CFR 160.103): somebody who
// can be identified, a health fact, and words that tie the two. [Scanner.Read]
// takes a raw message once: package extract turns it into texts, one pass per
// text finds words, phrases and identifiers ([text.tokenise], [text.match],
// [reader.scanIDs]), and [reader.relate] weighs how each health fact is tied to
// the reader of the mail or to another person. [Document.Judge] then scores the
// ties for one recipient, audience and kind of sender; it is cheap, so that a
// message to a thousand people is read once and judged a thousand times.
//
// Nothing here keeps state between messages or prints what it found: a snippet
// shows the shape of a value, never the value.
package phi

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/phigate/phigate/internal/phi/extract"
	"github.com/phigate/phigate/internal/phi/lexicon"
)

// Options tune a Scanner. The zero value is the shipped behaviour, but for
// CareRelationship.
type Options struct {
	Medium, High float64 // lower bounds of the bands; 0 means .60 and .85
	// CareRelationship makes a bare notice such as "you have new results, log in"
	// at least medium (`detection.care_relationship`).
	CareRelationship bool
	Terms            *Terms // house terms, may be nil
	Limits           extract.Limits
}

// Scanner reads messages. It is immutable and safe for concurrent use.
type Scanner struct {
	opt   Options
	lx    *lexicon.Lexicon
	house []condition

	pool sync.Pool // *reader
}

// New loads the lexicons, about 5 MB, in some tens of milliseconds.
func New(o Options) (*Scanner, error) {
	lx, err := lexicon.Load()
	if err != nil {
		return nil, fmt.Errorf("phi: %w", err)
	}
	if o.Medium == 0 {
		o.Medium = .60
	}
	if o.High == 0 {
		o.High = .85
	}
	return &Scanner{opt: o, lx: lx, house: o.Terms.teach(lx)}, nil
}

// Document is what was found in one message, before anything is known of the
// recipient. It is immutable and prints as [phi].
type Document struct {
	scanner     *Scanner
	facts       []fact
	parts       []extract.Part
	hits        []hit
	once        sync.Once
	findings    []Finding // made by Findings
	unscannable []Unscannable
	formats     []string
	rows        int
	people      int
	visible     int             // mailboxes a patient list shows
	offices     map[string]bool // addresses whose display name is an office
	gate        bool            // a record or beneficiary number beside a name
	subjectPHI  bool            // the subject shows a health word or a strong identifier
	animals     bool
	bodily      bool // speaks of the body: its therapists are not those of the mind
	employment  bool // speaks of work at the sender
	note        bool // short, to one person, without the marks of bulk mail
	unfilled    bool // merge slots that no tool filled
	proof       bool // a test send or filler text
	greeted     bool // the greeting has a name in it
	general     bool // the text speaks of people in general
	sender      senderProfile
	segment     segment
	hexes       []hexToken
	hosts       []string
	promotional bool
	unsubscribe bool
	fundraising bool
	language    string
	simhash     uint64
	texts       []string
}

// Format keeps mail text out of logs under every verb.
func (d *Document) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

type hexToken struct {
	value      string
	part       int
	start, end uint32
}

// reader holds the scratch space for one message.
type reader struct {
	scanner   *Scanner
	doc       *Document
	msg       *extract.Message
	text      text
	ids       []ident
	codes     []ident
	hits      []hit
	seen      map[uint64]int32 // hit by rule and place
	own       map[string]bool  // addresses of sender and recipients
	ownDomain string
	persons   map[string]bool
	count     tally
	evidence  evidence
	family    bool // "your son" or the like was read
}

// Read extracts, tokenises and relates a raw message (RFC 5322), once for all
// its recipients. It never fails: what cannot be read is listed as unscannable.
func (s *Scanner) Read(ctx context.Context, raw []byte) (doc *Document) {
	r, _ := s.pool.Get().(*reader)
	if r == nil {
		r = &reader{scanner: s, seen: map[uint64]int32{}, own: map[string]bool{}, persons: map[string]bool{}}
	}
	r.doc = &Document{scanner: s}
	defer func() {
		doc = r.doc
		if recover() != nil {
			doc.unscannable = append(doc.unscannable, Unscannable{Part: "message", Reason: extract.Malformed})
			return // a reader that failed is not used again
		}
		r.reset()
		s.pool.Put(r)
	}()
	r.msg = extract.Read(ctx, raw, s.opt.Limits)
	r.read(ctx)
	return r.doc
}

func (r *reader) reset() {
	clear(r.seen)
	clear(r.own)
	clear(r.persons)
	r.doc, r.msg, r.ownDomain, r.count, r.family, r.evidence = nil, nil, "", tally{}, false, evidence{}
	r.ids, r.codes, r.hits = r.ids[:0], r.codes[:0], r.hits[:0]
	r.text.src = ""
	if cap(r.text.tokens) > 1<<16 { // a giant message must not pin its scratch
		r.text = text{}
	}
}

// read goes through the parts of the message.
func (r *reader) read(ctx context.Context) {
	d := r.doc
	d.unscannable, d.hosts, d.formats = r.msg.Unscannable, r.msg.Hosts, r.msg.Formats
	r.envelope()
	for i := range r.msg.Parts {
		if ctx.Err() != nil {
			d.unscannable = append(d.unscannable, Unscannable{Part: r.msg.Parts[i].Path, Reason: extract.Timeout})
			break
		}
		r.readPart(i)
	}
	r.finish()
}

// readPart reads one part.
func (r *reader) readPart(i int) {
	p := &r.msg.Parts[i]
	switch {
	case p.Kind == extract.Links:
		r.links(i, p)
		return
	case p.Kind == extract.Header && tagHeader(p.Name):
		g := &r.doc.segment
		g.read(r.scanner.lx, p.Text)
		if g.patients && !g.open || g.health > 0 {
			r.hit(hit{ruleSegment, i, 0, uint32(len(p.Text)), .7})
		}
		return
	case p.Kind == extract.Header && !spoken(p.Name):
		return
	}
	t := &r.text
	t.part, t.src, t.kind = i, p.Text, p.Kind
	t.tokenise()
	if len(t.tokens) == 0 {
		return
	}
	t.match(r.scanner.lx)
	t.condition(r.scanner.house)
	t.zone(p.Marks)
	r.codes = r.codes[:0]
	r.scanIDs(t)
	r.countText(t, p)
	if p.Kind != extract.Header && p.Kind != extract.FileName {
		r.rows(t)
	}
	r.relate(t)
	r.hitIDs(t)
}

// spoken lists the header fields that people write or read.
func spoken(name string) bool {
	switch strings.ToLower(name) {
	case "subject", "comments", "keywords", "thread-topic", "content-description", "x-preheader", "x-original-subject":
		return true
	}
	return false
}

// tagHeader lists the fields in which mailing tools name their lists and
// campaigns.
func tagHeader(name string) bool {
	switch strings.ToLower(name) {
	case "x-mailgun-tag", "x-mc-tags", "x-pm-tag", "x-smtpapi", "list-id", "feedback-id", "x-campaign", "x-campaign-id", "x-tag", "x-tags", "x-mailgun-variables", "x-mc-metadata", "x-ses-message-tags", "x-msys-api", "x-category", "x-list", "x-mailer-list":
		return true
	}
	return false
}

// envelope learns who sends and who is addressed.
func (r *reader) envelope() {
	d := r.doc
	visible := 0
	for _, name := range []string{"From", "Reply-To", "Sender", "To", "Cc"} {
		for _, v := range r.msg.Fields(name) {
			for _, a := range addresses(v) {
				r.own[strings.ToLower(a.address)] = true
				if name == "To" || name == "Cc" {
					visible++
					if r.office(a.name) && len(d.offices) < 1000 {
						if d.offices == nil {
							d.offices = map[string]bool{}
						}
						d.offices[strings.ToLower(a.address)] = true
					}
					d.subjectPHI = d.subjectPHI || r.tells(a.name)
				}
			}
		}
	}
	defer func() { r.openList(visible) }()
	from := r.msg.Fields("From")
	if len(from) == 0 {
		return
	}
	d.sender = profile(r.scanner.lx, from[0])
	d.bodily = d.sender.bodily
	if as := addresses(from[0]); len(as) > 0 {
		_, r.ownDomain, _ = strings.Cut(strings.ToLower(as[0].address), "@")
		d.sender.domain = r.ownDomain
	}
}

// officeWords name the many behind an address; a first name beside them makes
// it one person after all.
var officeWords = map[string]bool{
	"office": true, "team": true, "desk": true, "department": true, "dept": true, "staff": true, "group": true, "studio": true, "services": true, "proofs": true, "proof": true, "review": true, "list": true, "committee": true, "board": true, "agency": true, "marketing": true, "support": true, "admin": true, "reception": true, "editors": true, "press": true, "newsroom": true, "managers": true, "nurses": true, "everyone": true, "employees": true, "resources": true, "hr": true, "benefits": true, "billing": true, "accounting": true, "sales": true, "help": true, "news": true, "newsletter": true, "subscribers": true, "physicians": true, "providers": true, "creative": true, "design": true, "qa": true, "test": true, "inbox": true, "community": true, "residents": true, "vendors": true, "partners": true, "coders": true, "leads": true,
}

// office reports a display name of an office, a team or a list.
func (r *reader) office(name string) bool {
	words := strings.Fields(plainWords(name))
	some := false
	for _, w := range words {
		n := r.scanner.lx.Name(lexicon.Hash([]byte(w)))
		if n&lexicon.FirstName != 0 && n&lexicon.Everyday == 0 && !officeWords[w] {
			return false
		}
		some = some || officeWords[w]
	}
	return some
}

// tells reports a display name that speaks of health.
func (r *reader) tells(name string) bool {
	if name == "" {
		return false
	}
	t := text{src: name}
	t.tokenise()
	t.match(r.scanner.lx)
	for i := range t.mentions {
		if m := t.mentions[i].term; m.Tier == lexicon.Specific && m.Kind != lexicon.Provider {
			return true
		}
	}
	return false
}

// openList takes a To and Cc that show five mailboxes or more, from a practice
// whose name tells the disease, for what it is: a list of its patients.
func (r *reader) openList(visible int) {
	if visible < 5 || r.doc.sender.topic == lexicon.NoTopic {
		return
	}
	r.doc.facts = append(r.doc.facts, fact{who: addressee, i: 1, tie: tieRelation, r: .9, zone: 1, concrete: true,
		term: lexicon.Term{Kind: lexicon.NoKind, Tier: lexicon.Weak, Topic: r.doc.sender.topic}})
	r.doc.visible = visible
}

type mailbox struct{ name, address string }

// addresses reads the mailboxes of an address field, leniently: what stands
// before <…> is the name.
func addresses(v string) (list []mailbox) {
	for _, f := range splitAddresses(v) {
		name, rest, ok := strings.Cut(f, "<")
		if ok {
			addr, _, _ := strings.Cut(rest, ">")
			list = append(list, mailbox{strings.Trim(strings.TrimSpace(name), `"`), strings.TrimSpace(addr)})
		} else if strings.Contains(f, "@") {
			list = append(list, mailbox{"", strings.TrimSpace(f)})
		}
		if len(list) >= 200 {
			break
		}
	}
	return list
}

func splitAddresses(v string) (list []string) {
	start, quoted := 0, false
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '"':
			quoted = !quoted
		case ',', ';':
			if !quoted {
				list = append(list, v[start:i])
				start = i + 1
			}
		}
	}
	return append(list, v[start:])
}

// senderProfile is what the From field says of the sender's trade.
type senderProfile struct {
	health  bool
	other   bool // a trade that only borrows health words
	animals bool
	shop    bool
	topic   lexicon.Topic
	bodily  bool // cares for the body: physical therapy, stroke rehab
	domain  string
}

// healthNames are words that show a health sender even inside a domain label.
var healthNames = []string{"clinic", "hospital", "health", "medical", "dental", "pharmacy", "pediatric", "oncology", "cardio", "fertility", "rehab", "hospice", "therapy", "ortho", "physician", "wellness", "doctor", "surgery", "dialysis", "dermatolog", "recovery", "behavioral"}

func profile(lx *lexicon.Lexicon, from string) (p senderProfile) {
	var t text
	t.src = from
	t.tokenise()
	if len(t.tokens) == 0 {
		return p
	}
	t.match(lx)
	var hard, soft, strong bool
	for i := range t.tokens {
		p.health = p.health || t.cues[i]&lexicon.SenderHealth != 0
		p.animals = p.animals || t.cues[i]&lexicon.Animal != 0
		p.shop = p.shop || t.cues[i]&lexicon.Shop != 0
		p.bodily = p.bodily || t.cues[i]&lexicon.BodyCare != 0
		hard = hard || t.cues[i]&lexicon.TradeHard != 0
		soft = soft || t.cues[i]&lexicon.TradeSoft != 0
		strong = strong || t.cues[i]&lexicon.SenderStrong != 0
		p.topic = max(p.topic, t.sender(lx, i))
	}
	for i := range t.mentions {
		if m := t.mentions[i].term; m.Kind == lexicon.Provider && m.Tier == lexicon.Specific {
			p.health, strong = true, true // "Midwife", "Dr Jo Lind, cardiologist"
		}
	}
	if p.bodily && (p.topic == lexicon.Talk || p.topic == lexicon.Rehab) {
		p.topic = lexicon.NoTopic
	}
	lower := strings.ToLower(from)
	for _, w := range healthNames {
		p.health = p.health || strings.Contains(lower, w)
	}
	p.animals = p.animals || strings.Contains(lower, "animalh") || strings.Contains(lower, "petc") || strings.Contains(lower, "paws")
	p.other = p.animals || hard || soft && !strong
	p.health = p.health && !p.other
	return p
}

// sender returns what a sender cares for by the phrases that begin at token i.
func (t *text) sender(lx *lexicon.Lexicon, i int) (topic lexicon.Topic) {
	var state uint64
	for on := true; on && i < len(t.tokens); i++ {
		var n int
		if state, n, on = lx.Step(state, t.tokens[i].stem); n > 0 {
			topic = max(topic, lx.Term(n).Sender)
		}
	}
	return topic
}
