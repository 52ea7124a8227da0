package policy

import (
	"math/bits"
	"time"
)

// maxRules bounds a policy so that a set of rules fits ruleSet.
const maxRules = 256

// unmatched is the verdict for facts that no rule matches.
var unmatched = Verdict{Action: Hold, Code: "HG-H600"}

type rule struct {
	name         string
	when         box
	conditions   []int // the fields that when narrows
	mode         Mode
	risk         *Risk
	verdict      Verdict
	line, column int
}

// Risk is an exception that a person has accepted until a moment.
type Risk struct {
	By, Reason string
	Until      time.Time // first moment at which it no longer holds
}

func (r *rule) lapsed(now time.Time) bool { return r.risk != nil && !now.Before(r.risk.Until) }

// ruleSet is a set of rules by their index.
type ruleSet [maxRules / 64]uint64

func (s *ruleSet) add(i int) { s[i/64] |= 1 << (i % 64) }

// table answers which rules accept a value of a field, for all rules in one step.
type table struct {
	accepts  [matched][16]ruleSet
	enforced ruleSet
}

func tabulate(rules []rule) table {
	var t table
	for i, r := range rules {
		if r.mode == Enforce {
			t.enforced.add(i)
		}
		for f := range fields[:matched] {
			for v := range fields[f].names {
				if r.when[f].has(uint8(v)) {
					t.accepts[f][v].add(i)
				}
			}
		}
	}
	return t
}

// matching returns the rules of from that match a point, 64 of them from word w.
// A value that no enum has matches nothing.
func (t *table) matching(pt *point, w int, from uint64) uint64 {
	for f, v := range pt {
		from &= t.accepts[f][v&15][w]
	}
	return from
}

// Decide returns what is done with a message for one recipient: the verdict of
// the first enforced rule that matches, or a hold. A deliver keeps its Else even
// if the predicted assurance is too low; see [Policy.Settle]. An accept_risk
// that has lapsed at f.Now takes its rule out; a zero Now is when the policy
// was parsed.
func (p *Policy) Decide(f Facts) Verdict {
	if i := p.deciding(f); i >= 0 {
		return p.rules[i].verdict
	}
	return unmatched
}

// deciding returns the index of the rule that decides, -1 if none does.
func (p *Policy) deciding(f Facts) int {
	pt, now := f.point(), p.at(f)
	if !pt.valid() {
		return -1
	}
	for w := 0; w*64 < len(p.rules); w++ {
		for m := p.table.matching(&pt, w, p.table.enforced[w]); m != 0; m &= m - 1 {
			if i := w*64 + bits.TrailingZeros64(m); !p.rules[i].lapsed(now) {
				return i
			}
		}
	}
	return -1
}

func (p *Policy) at(f Facts) time.Time {
	if f.Now.IsZero() {
		return p.parsed
	}
	return f.Now
}

// Settle returns what a verdict comes to when mail is planned: a deliver whose
// predicted assurance is known and below its floor takes its Else at once. Its
// code then is the L code of its number for a pickup, the E code otherwise. An
// unknown assurance keeps the deliver: the connection will tell.
func (p *Policy) Settle(v Verdict, f Facts) Verdict {
	if v.Action != Deliver || f.Assurance == AssuranceUnknown || v.Floor == FloorPlain {
		return v
	}
	floor, _, _ := p.Floor(v.Floor)
	if floor.Met(f.Assurance, floor.strict().Strength) {
		return v
	}
	return v.Otherwise()
}

// Otherwise returns what a deliver becomes when its floor cannot be met.
func (v Verdict) Otherwise() Verdict {
	if v.Action != Deliver {
		return v
	}
	family := byte('E')
	if v.Else == Portal {
		family = 'L'
	}
	return Verdict{Recipient: v.Recipient, Action: v.Else, Code: v.Code.sibling(family), Rule: v.Rule}
}

// Holds returns the verdict of every enforced hold rule that the facts match, so
// that a reviewer sees all that a release would pass over.
func (p *Policy) Holds(f Facts) []Verdict {
	f.Released = ReleasedNo
	pt := f.point()
	var out []Verdict
	for _, r := range p.rules {
		if r.mode == Enforce && r.verdict.Action == Hold && r.when.contains(pt) {
			out = append(out, r.verdict)
		}
	}
	return out
}

// Trace tells how a decision came about.
type Trace struct {
	Verdict Verdict
	Passed  []Passed // warn and shadow rules that would have decided
	Nearly  []Near   // rules above that were one fact away
	Risk    *Risk    // the exception that the deciding rule used, nil if none
}

// Passed is a rule in mode warn or shadow that matched.
type Passed struct {
	Rule string
	Code Code
	Mode Mode
}

// Near is a rule that all facts but one match.
type Near struct {
	Rule string
	Code Code
	Fact string // the key of that fact
}

// Trace decides as [Policy.Decide] does and tells how.
func (p *Policy) Trace(f Facts) Trace {
	t, pt, decided := Trace{Verdict: unmatched}, f.point(), p.deciding(f)
	above := p.rules
	if decided >= 0 {
		above = p.rules[:decided]
		t.Verdict, t.Risk = p.rules[decided].verdict, p.rules[decided].risk
	}
	for _, r := range above {
		missed := r.missed(pt)
		switch {
		case len(missed) == 0 && r.mode != Enforce:
			t.Passed = append(t.Passed, Passed{r.name, r.verdict.Code, r.mode})
		case len(missed) == 1 && len(r.conditions) > 1 && r.mode == Enforce:
			t.Nearly = append(t.Nearly, Near{r.name, r.verdict.Code, fields[missed[0]].key})
		}
	}
	return t
}

// missed returns the fields on which a point fails the rule.
func (r *rule) missed(pt point) []int {
	var out []int
	for _, f := range r.conditions {
		if !r.when[f].has(pt[f]) {
			out = append(out, f)
		}
	}
	return out
}
