package phi

import (
	"math/bits"

	"github.com/phigate/phigate/internal/phi/extract"
	"github.com/phigate/phigate/internal/phi/lexicon"
)

// evidence counts what makes a short mail a note about somebody's care. Staff
// who write in a hurry name neither the reader nor the patient: "drop the
// lantus by 2 units", "her heel looks better, sugar was 186". Such a mail is
// tied to its reader when enough in it speaks of care, and enough of one person
// now; what is said of people in general counts for neither.
type evidence struct {
	care     int  // words of care: 2 for a sure one, 1 for an everyday one
	signs    sign // of one person
	told     int  // sentences in the voice of somebody who treats
	taught   int  // sentences about people in general, twice those that say so
	topic    lexicon.Topic
	sure     *lexicon.Term // the surest word of care
	everyday [4]uint64     // everyday words that were counted, each once
	reply    bool          // the subject says that it answers
	asked    *lexicon.Term // a word of care in what the reader wrote
}

// sign is a set of what makes a mail one about one person now.
type sign uint8

const (
	signDay sign = 1 << iota
	signValue
	signYou
	signThird // her, his, your son
	signWaits // ready, arrived, please call
	signPaid
)

const (
	maxNoteWords = 120 // a longer mail says whom it means
	maxEveryday  = len(evidence{}.everyday)
)

// note gathers the evidence of a text.
func (r *reader) note(t *text) {
	if t.kind != extract.Body && t.kind != extract.Header {
		return
	}
	e := &r.evidence
	e.reply = e.reply || t.kind == extract.Header && isReply(t.src)
	next := 0
	for n := range t.sentences {
		s := &t.sentences[n]
		from := next
		for next < len(t.mentions) && t.mentions[next].first < s.last {
			next++
		}
		mentions := t.mentions[from:next]
		switch {
		case s.zone == extract.Quoted, t.kind == extract.Header && isReply(t.src):
			e.question(s, mentions)
		case s.zone != extract.Plain || s.cues&lexicon.Legal != 0:
		case s.cues&(lexicon.Hypothetical|lexicon.Generic|lexicon.Promo) != 0 && !particular(s):
			e.taught++
			if s.cues&(lexicon.Generic|lexicon.Promo) != 0 {
				e.taught++ // "if it bleeds" may still be said to one person
			}
		default:
			e.sentence(t, s, mentions)
		}
	}
}

func isReply(subject string) bool {
	return len(subject) > 3 && (subject[0]|0x20 == 'r' && subject[1]|0x20 == 'e' && subject[2] == ':')
}

// particular reports a sentence that no text for many people holds.
func particular(s *sentence) bool {
	return s.value || s.cues&(lexicon.Clinician|lexicon.Dose) != 0 || s.day && s.cues&(lexicon.You|lexicon.Your|lexicon.RolePronoun) != 0
}

// question reads what the reader wrote: a health word in a quoted line that
// says I or my, or in the subject of a reply, is about the reader.
func (e *evidence) question(s *sentence, mentions []mention) {
	own := s.cues&lexicon.Self != 0
	for i := range mentions {
		term := mentions[i].term
		sure := (term.Tier == lexicon.Specific || term.Tier == lexicon.Caring) && term.Kind != lexicon.Provider
		if sure && (own || s.zone != extract.Quoted) || own && term.Tier == lexicon.Ambiguous {
			if e.asked == nil || term.Tier < e.asked.Tier {
				e.asked = term
			}
		}
	}
}

// sentence adds what a sentence of the writer's own says.
func (e *evidence) sentence(t *text, s *sentence, mentions []mention) {
	for i := range mentions {
		e.word(mentions[i].term, t.tokens[mentions[i].first].stem)
	}
	add := func(set bool, g sign) {
		if set {
			e.signs |= g
		}
	}
	add(s.day || s.cues&lexicon.Weekday != 0, signDay)
	add(s.value || s.concrete && !s.day, signValue)
	add(s.cues&(lexicon.You|lexicon.Your) != 0, signYou)
	add(s.cues&(lexicon.RolePronoun|lexicon.Family) != 0, signThird)
	add(s.cues&(lexicon.Status|lexicon.Meet) != 0, signWaits)
	if s.cues&lexicon.Dose != 0 && (s.concrete || s.value) {
		e.care += 2
	}
	if s.money && s.cues&lexicon.Billing != 0 {
		e.care, e.signs = e.care+2, e.signs|signPaid
	}
	if s.cues&lexicon.Clinician != 0 {
		e.care++
		e.told++
	}
}

// word counts a health word.
func (e *evidence) word(term *lexicon.Term, stem uint64) {
	switch term.Tier {
	case lexicon.Specific, lexicon.Caring:
		n := 2
		if term.Kind == lexicon.Provider {
			n = 1
		}
		e.care += n
		if term.Kind != lexicon.Provider && (e.sure == nil || term.Tier < e.sure.Tier) {
			e.sure = term
		}
		e.topic = max(e.topic, term.Topic)
	case lexicon.Ambiguous, lexicon.Weak:
		for i := range e.everyday {
			switch e.everyday[i] {
			case stem:
				return
			case 0:
				e.everyday[i] = stem
				e.care++
				return
			}
		}
	}
}

// person weighs the signs of one person, against what is taught to all.
func (e *evidence) person() int {
	n := bits.OnesCount8(uint8(e.signs)) + min(2*e.told, 3) - e.taught
	if e.reply {
		n++
	}
	return n
}

// noteFact ties a note to its reader when the evidence is enough.
func (r *reader) noteFact() {
	c, d, e := &r.count, r.doc, &r.evidence
	if !d.note || c.animals > 0 {
		return
	}
	care, person := e.care, e.person()-2*c.jobs
	if d.sender.topic != lexicon.NoTopic {
		care++ // any personal mail from such a sender shows the care
	}
	if d.unsubscribe {
		person-- // bulk mail, though patients get their reminders so too
	}
	f := fact{who: addressee, i: 1, tie: tieNote, zone: 1, soft: true}
	f.term = lexicon.Term{Kind: lexicon.Care, Tier: lexicon.Caring, Topic: e.topic}
	switch {
	case e.asked != nil && c.jobs == 0:
		f.tie, f.r, f.term = tieAsked, .85, *e.asked
		f.term.Tier = min(f.term.Tier, lexicon.Caring)
	case care >= 2 && person >= 3, care >= 3 && person >= 2:
		f.r = .85
	case care >= 2 && person >= 2, care >= 1 && person >= 4:
		f.r = .8
	default:
		return
	}
	if e.sure != nil && f.tie == tieNote {
		f.term.Kind, f.term.Tier = e.sure.Kind, e.sure.Tier
	}
	d.facts = append(d.facts, f)
}
