package phi

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/phigate/phigate/policy"
)

// sealed picks the third of the fourth corpus whose single errors nobody looks
// at: only the two sums are known to whoever writes rules.
func sealed(id string) bool { return sha256.Sum256([]byte(id))[0]%3 == 0 }

// TestFourthCorpus caps both kinds of error on the open and on the sealed part.
func TestFourthCorpus(t *testing.T) {
	s := scanner(t)
	type sums struct{ positives, missed, negatives, alarms int }
	var open, closed sums
	var wrong []string
	for _, m := range readCorpus(t, "testdata/fourth.txt") {
		sum := &open
		if sealed(m.id) {
			sum = &closed
		}
		got := m.judge(s)
		found := got.Band <= policy.PHIMedium
		if m.phi {
			sum.positives++
		} else {
			sum.negatives++
		}
		switch {
		case m.phi && !found:
			sum.missed++
		case !m.phi && found:
			sum.alarms++
		default:
			continue
		}
		if !sealed(m.id) {
			wrong = append(wrong, fmt.Sprintf("phi=%v %s %.2f %+v", m.phi, m.id, got.Score, got.Relation))
		}
	}
	if open.missed > 5 || open.alarms > 1 || closed.missed > 8 || closed.alarms > 0 {
		t.Errorf("more errors than when the corpus was sealed")
	}
	t.Logf("open %+v, sealed %+v\n%s", open, closed, strings.Join(wrong, "\n"))
}
