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

// uncovered yields parts of a box that none of the rules match; together they
// are all of it that no rule matches, and no two overlap. Values that no rule
// tells apart are never told apart, so that a space of 10^10 points takes some
// hundred parts.
func uncovered(b box, rules []*rule) iter.Seq[box] {
	return func(yield func(box) bool) { peel(b, rules, yield) }
}

func peel(b box, rules []*rule, yield func(box) bool) bool {
	var best *rule
	var rest []*rule
	fewest := matched + 1
	for _, r := range rules {
		overlaps, splits := r.against(&b)
		if !overlaps {
			continue
		}
		if splits == 0 {
			return true
		}
		if rest = append(rest, r); splits < fewest {
			best, fewest = r, splits
		}
	}
	if best == nil {
		return yield(b)
	}
	// What the rule leaves out is peeled off field by field; the core that is
	// left is the rule's. The rule that needs the fewest cuts goes first.
	for _, f := range best.conditions {
		if out := b[f] &^ best.when[f]; out != 0 {
			part := b
			part[f] = out
			if !peel(part, rest, yield) {
				return false
			}
			b[f] &= best.when[f]
		}
	}
	return true
}

// against reports whether the rule matches any point of a box, and how many
// facts cut the box into what it matches and what not.
func (r *rule) against(b *box) (overlaps bool, splits int) {
	for _, f := range r.conditions {
		if b[f]&r.when[f] == 0 {
			return false, 0
		}
		if b[f]&^r.when[f] != 0 {
			splits++
		}
	}
	return true, splits
}

// reaches yields the parts of a box that come past the rules above to r, or to
// the end of the table if r is nil.
func reaches(b box, above []*rule, r *rule) iter.Seq[box] {
	if r != nil {
		b = b.meet(r.when)
	}
	if b.empty() {
		return func(func(box) bool) {}
	}
	return uncovered(b, above)
}

// occurs reports whether there is any part.
func occurs(parts iter.Seq[box]) bool {
	for range parts {
		return true
	}
	return false
}
