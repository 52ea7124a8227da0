package gateway

import (
	"errors"
	"testing"

	"github.com/phigate/phigate/internal/delivery"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/queue/bounce"
	"github.com/phigate/phigate/tlscheck"
)

func TestRefusal(t *testing.T) {
	nullMX := &tlscheck.Failure{Class: tlscheck.Permanent, Reason: "null MX", Code: 556, Enhanced: "5.1.10"}
	noFloor := &tlscheck.Failure{Class: tlscheck.PolicyFail, Reason: "no TLS"}
	for _, c := range []struct {
		name               string
		reply              delivery.Reply
		err                error
		class              bounce.Class
		status, said, last string
	}{
		{"their status", delivery.Reply{Code: 550, Enhanced: "5.1.1", Text: "canary"}, nil, bounce.RecipientBad, "5.1.1", "550 5.1.1", "550 5.1.1 recipient_bad"},
		{"their words", delivery.Reply{Code: 550, Text: "no such user canary"}, nil, bounce.RecipientBad, "5.1.1", "550", "550 recipient_bad"},
		{"no reason", delivery.Reply{Code: 554, Text: "canary"}, nil, bounce.Unknown, "5.0.0", "554", "554 unknown"},
		{"not yet", delivery.Reply{Code: 450, Enhanced: "4.1.1", Text: "no such user"}, nil, bounce.Temporary, "5.4.7", "450 4.1.1", "450 4.1.1 temporary"},
		{"nobody takes mail there", delivery.Reply{}, nullMX, bounce.RecipientBad, "5.1.10", "", ""},
		{"our floor", delivery.Reply{}, noFloor, bounce.TLS, "5.4.7", "", ""},
		{"no answer", delivery.Reply{}, errors.New("timeout"), "", "5.4.7", "", ""},
	} {
		end := refusal(c.reply, tlscheck.Evidence{}, c.err)
		if got := end.status("HG-E704"); end.about.Class != c.class || got != c.status || end.said() != c.said || end.last() != c.last {
			t.Errorf("%s: class %s, status %s, said %q, last %q", c.name, end.about.Class, got, end.said(), end.last())
		}
	}
}

// What the queue kept of the last reply comes back, of this release and of those
// that kept no class.
func TestOutOfTime(t *testing.T) {
	for last, want := range map[string]string{"450 4.2.2 mailbox_full": "mailbox_full 450 4.2.2", "421 temporary": "temporary 421", "450 4.7.1": " 450 4.7.1", "": " "} {
		end := outOfTime(store.Envelope{LastReply: last})
		if got := string(end.about.Class) + " " + end.said(); got != want || end.about.Class == bounce.RecipientBad {
			t.Errorf("%q: %q", last, got)
		}
	}
}
