package phi

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/phigate/phigate/policy"
)

// shared loads the lexicons once for all tests.
var shared = sync.OnceValues(func() (*Scanner, error) { return New(Options{CareRelationship: true}) })

func scanner(t testing.TB) *Scanner {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// labelledMail is one record of testdata/corpus.txt.
type labelledMail struct {
	id, raw string
	phi     bool
	context Context
}

var classes = map[string]policy.SenderClass{
	"ce": policy.SenderCoveredEntity, "plan": policy.SenderPlan, "rx": policy.SenderPharmacy, "ba": policy.SenderBusinessAssociate, "non": policy.SenderNonHealth,
}

var audiences = map[string]policy.Audience{
	"patients": policy.AudiencePatients, "members": policy.AudienceMembers, "staff": policy.AudienceStaff, "prospects": policy.AudienceProspects, "public": policy.AudiencePublic,
}

// readCorpus parses a file of labelled mail.
func readCorpus(t testing.TB, name string) (list []labelledMail) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range strings.Split(string(data), "\n=== ")[1:] {
		head, rest, _ := strings.Cut(rec, "\n")
		subject, body, _ := strings.Cut(rest, "\n")
		f := strings.SplitN(head, " | ", 3)
		m := labelledMail{id: f[1], phi: f[0] == "phi"}
		from := m.fields(t, f[2])
		m.raw = fmt.Sprintf("From: %s\nTo: %s\nSubject: %s\nContent-Type: text/plain; charset=utf-8\n\n%s", from, m.context.Recipient.Clear(), subject, body)
		list = append(list, m)
	}
	return list
}

// fields reads "c=ce a=public f=Name <a@b> t=c@d": a value ends where the next
// key begins.
func (m *labelledMail) fields(t testing.TB, s string) (from string) {
	for s != "" {
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			t.Fatalf("%s: bad field", m.id)
		}
		value := rest
		s = ""
		for _, k := range []string{" c=", " a=", " s=", " f=", " t="} {
			if i := strings.Index(value, k); i >= 0 {
				value = value[:i]
			}
		}
		s = strings.TrimPrefix(rest[len(value):], " ")
		switch key {
		case "c":
			m.context.SenderClass, m.context.Declared = classes[value]
		case "a":
			a := audiences[value]
			m.context.Audience = &a
		case "s":
			m.context.Segment = value
		case "f":
			from = value
		case "t":
			m.context.Recipient = policy.Address(value)
		}
	}
	return from
}

func (m *labelledMail) judge(s *Scanner) Result {
	return s.Read(context.Background(), []byte(m.raw)).Judge(m.context)
}

// TestCorpus holds both kinds of error under a cap. The labels were written
// before the scanner saw the mail.
func TestCorpus(t *testing.T) { corpus(t, "testdata/corpus.txt", 0, 0) }

// TestSecondCorpus is the same on mail written after the rules.
func TestSecondCorpus(t *testing.T) { corpus(t, "testdata/second.txt", 0, 0) }

// TestThirdCorpus adds recipients, proofs and notes in a hurry.
func TestThirdCorpus(t *testing.T) { corpus(t, "testdata/third.txt", 0, 0) }

func corpus(t *testing.T, file string, missedCap, falseCap int) {
	t.Helper()
	s := scanner(t)
	var missed, alarms []string
	positives := 0
	for _, m := range readCorpus(t, file) {
		got := m.judge(s)
		found := got.Band <= policy.PHIMedium
		if m.phi {
			positives++
		}
		switch {
		case m.phi && !found:
			missed = append(missed, fmt.Sprintf("%s %.2f %s", m.id, got.Score, got.Relation.By))
		case !m.phi && found:
			alarms = append(alarms, fmt.Sprintf("%s %.2f %+v", m.id, got.Score, got.Relation))
		}
	}
	t.Logf("%d positives, %d missed, %d false alarms", positives, len(missed), len(alarms))
	if len(missed) > missedCap {
		t.Errorf("%d missed, cap %d:\n%s", len(missed), missedCap, strings.Join(missed, "\n"))
	}
	if len(alarms) > falseCap {
		t.Errorf("%d false alarms, cap %d:\n%s", len(alarms), falseCap, strings.Join(alarms, "\n"))
	}
}
