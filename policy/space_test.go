package policy

import (
	"testing"
	"time"

	"github.com/phigate/phigate/configs"
)

func TestPointIsTheFieldsInOrder(t *testing.T) {
	if len(fields) != matched+1 || fields[iPHI].key != "phi" || fields[iReleased].key != "released" || fields[matched].match {
		t.Fatal("the index of facts does not agree with fields")
	}
	for i := range fields[:matched] {
		var f Facts
		*fields[i].at(&f) = 1
		want := point{}
		want[i] = 1
		if f.point() != want || want.facts() != f {
			t.Errorf("%s stands elsewhere in a point", fields[i].key)
		}
	}
}

// The parts that come to the rules and to none are the whole space, each point
// once: 23,224,320,000 of them.
func TestPartsAreTheWholeSpace(t *testing.T) {
	p, problems := Parse("policy.yaml", configs.Policy, time.Now())
	if problems != nil {
		t.Fatal(problems)
	}
	bound, sum, parts := p.bound(standing), 0, 0
	for i := range len(bound) + 1 {
		var r *rule
		if i < len(bound) {
			r = bound[i]
		}
		for part := range reaches(everything, bound[:i], r) {
			parts++
			sum += part.points()
			f, _ := part.plainest()
			if decided := p.deciding(f); (r == nil) != (decided < 0) || r != nil && &p.rules[decided] != r {
				t.Errorf("a part of rule %d is decided by rule %d", i, decided)
			}
		}
	}
	if sum != everything.points() || sum != 23_224_320_000 {
		t.Errorf("%d parts hold %d points of %d", parts, sum, everything.points())
	}
}
