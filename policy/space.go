package policy

import (
	"iter"
	"math/bits"
)

// matched is how many facts rules may match: all but the predicted assurance.
const matched = 20

// The index of each fact in a point, in the order of fields.
const (
	iRecords = iota
	iSenderClass
	iBAA
	iClass
	iAudience
	iRemuneration
	iPromotion
	iRecipient
	iChannel
	iOptedOut
	iAddress
	iConsent
	iUnencrypted
	iPHI
	iTopic
	iScan
	iForm
	iSubject
	iTrackers
	iReleased
)

// point is one combination of facts.
type point [matched]uint8

func (f *Facts) point() point {
	return point{
		uint8(f.Records), uint8(f.SenderClass), uint8(f.BAA), uint8(f.Class), uint8(f.Audience),
		uint8(f.Remuneration), uint8(f.Promotion), uint8(f.Recipient), uint8(f.Channel), uint8(f.OptedOut),
		uint8(f.Address), uint8(f.Consent), uint8(f.Unencrypted), uint8(f.PHI), uint8(f.Topic),
		uint8(f.Scan), uint8(f.Form), uint8(f.Subject), uint8(f.Trackers), uint8(f.Released),
	}
}

func (pt *point) valid() bool {
	for f, v := range pt {
		if !everything[f].has(v) {
			return false
		}
	}
	return true
}

func (pt point) facts() Facts {
	var f Facts
	for i, v := range pt {
		*fields[i].at(&f) = v
	}
	return f
}

// valueSet is a set of values of one enum.
type valueSet uint16

func (s valueSet) has(v uint8) bool { return v < 16 && s>>v&1 == 1 }
func (s valueSet) len() int         { return bits.OnesCount16(uint16(s)) }

// upTo returns the values not laxer than v: enums begin with the most cautious.
func upTo(v uint8) valueSet { return 1<<(v+1) - 1 }

func setOf[E ~uint8](vs ...E) valueSet {
	var s valueSet
	for _, v := range vs {
		s |= 1 << v
	}
	return s
}

// box is the set of all points whose every fact is in the field's set.
type box [matched]valueSet

// everything is the whole fact space.
var everything = func() (b box) {
	for i := range b {
		b[i] = upTo(uint8(len(fields[i].names) - 1))
	}
	return b
}()

// with returns the box narrowed to values of one field.
func (b box) with(field int, s valueSet) box {
	b[field] &= s
	return b
}

func (b box) meet(c box) box {
	for i := range b {
		b[i] &= c[i]
	}
	return b
}

func (b box) empty() bool {
	for _, s := range b {
		if s == 0 {
			return true
		}
	}
	return false
}

func (b box) contains(pt point) bool {
	for i, s := range b {
		if !s.has(pt[i]) {
			return false
		}
	}
	return true
}

// points returns how many points the box holds.
func (b box) points() int {
	n := 1
	for _, s := range b {
		n *= s.len()
	}
	return n
}

// conditions returns the fields on which the box leaves something out.
func (b box) conditions() []int {
	var out []int
	for i, s := range b {
		if s != everything[i] {
			out = append(out, i)
		}
	}
	return out
}

// partition cuts a box into parts that one rule decides wholly, and yields each
// with the index of that rule, -1 for none. Together the parts are the box, and
// no two overlap: values that no rule tells apart are never told apart, so the
// whole fact space takes some thousand parts. rules says which rules bind.
func partition(b box, rules []rule, binds func(*rule) bool) iter.Seq2[box, int] {
	return func(yield func(box, int) bool) { cut(b, 0, rules, binds, yield) }
}

func cut(b box, i int, rules []rule, binds func(*rule) bool, yield func(box, int) bool) bool {
	if b.empty() {
		return true
	}
	for ; i < len(rules); i++ {
		r := &rules[i]
		if !binds(r) || !r.overlaps(b) {
			continue
		}
		// What r leaves out is peeled off field by field and goes on to the
		// next rule; what is left is r's.
		for _, f := range r.conditions {
			if rest := b[f] &^ r.when[f]; rest != 0 {
				part := b
				part[f] = rest
				if !cut(part, i+1, rules, binds, yield) {
					return false
				}
				b[f] &= r.when[f]
			}
		}
		return yield(b, i)
	}
	return yield(b, -1)
}

func (r *rule) overlaps(b box) bool {
	for _, f := range r.conditions {
		if b[f]&r.when[f] == 0 {
			return false
		}
	}
	return true
}
