package gateway

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
	"github.com/phigate/phigate/queue/bounce"
)

const returnPort = 3 // the last one of doorConfig

// The listener for what comes back is no way in: it knows no login, relays for
// nobody and takes no more than a report.
func TestReturnsTakeReportsOnly(t *testing.T) {
	s := newSite(t)
	token := s.verp().address(store.EnvelopeIDOf("1k873o0gd57oh", 0), time.Now())
	c := s.dial(returnPort)
	greeting := c.say("EHLO mx.example\r\n", "250")
	if strings.Contains(greeting, "AUTH") || !strings.Contains(greeting, "STARTTLS") || !strings.Contains(greeting, fmt.Sprint("SIZE ", returnSize)) {
		t.Errorf("offers %q", greeting)
	}
	c.say("AUTH PLAIN "+ident("ehr", "x")+"\r\n", "5")
	c.say("MAIL FROM:<ehr@valleyclinic.example>\r\nRCPT TO:<ann@clear.example>\r\n", "250", "550 5.1.1")
	c.say("RCPT TO:<"+token+">\r\nDATA\r\n", "250", "354")
	c.say("Subject: hello\r\n\r\nhello\r\n.\r\n", "250 2.0.0") // valid, and about nothing we sent
	c.say("MAIL FROM:<>\r\nRCPT TO:<"+token+">\r\nRCPT TO:<FBL@bounces.valleyclinic.example>\r\nDATA\r\n", "250", "250", "250", "354")
	c.say(strings.Repeat("x", 998) + "\r\n")
	c.say(strings.Repeat(strings.Repeat("x", 998)+"\r\n", returnSize/1000)+strings.Repeat("y\r\n", 20000)+".\r\n", "552")
	s.settle()
	if n := s.mx.Count(); n != 0 {
		t.Errorf("%d messages left", n)
	}
}

func TestReturnsEndAfterWrongAddresses(t *testing.T) {
	c := newSite(t).dial(returnPort)
	c.say("MAIL FROM:<>\r\n", "250")
	for range returnMistakes - 1 {
		c.say("RCPT TO:<ann@bounces.valleyclinic.example>\r\n", "550 5.1.1")
	}
	c.say("RCPT TO:<ann@bounces.valleyclinic.example>\r\n", "421 4.7.0")
	c.over()
}

func TestReturnsPace(t *testing.T) {
	now := noonHere
	in := newIntake(&Gateway{clock: func() time.Time { return now }, metrics: newMetrics()})
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for range returnBurst {
		if !in.allowed(a) {
			t.Fatal("less than a burst")
		}
	}
	if in.allowed(a) || !in.allowed(b) {
		t.Error("the limit is not that of a network")
	}
	now = now.Add(time.Second)
	for range int(returnRate) {
		if !in.allowed(a) {
			t.Error("does not recover")
		}
	}
	if in.allowed(a) {
		t.Error("recovers too fast")
	}
}

func TestAbout(t *testing.T) {
	const ours, other policy.Address = "ann@mx.example", "bob@far.example"
	for name, c := range map[string]struct {
		all  []mail.Reported
		want policy.Address
		ours bool
	}{
		"named":             {[]mail.Reported{{Final: other}, {Final: "ANN@mx.example"}}, "ANN@mx.example", true},
		"nobody named":      {[]mail.Reported{{}}, "", true},
		"forwarded":         {[]mail.Reported{{Final: other, Original: ours}}, other, false},
		"original alone":    {[]mail.Reported{{Original: ours}}, "", true},
		"two, none of ours": {[]mail.Reported{{}, {Final: other}}, "", false},
		"nothing":           {nil, "", false},
	} {
		if got, ok := about(c.all, ours); got.Final != c.want || ok != c.ours {
			t.Errorf("%s: %s, ours %v", name, got.Final.Clear(), ok)
		}
	}
}

func TestReplyIn(t *testing.T) {
	for _, c := range []struct {
		r         mail.Reported
		class     bounce.Class
		permanent bool
	}{
		{mail.Reported{Status: "5.1.1"}, bounce.RecipientBad, true},
		{mail.Reported{Status: "5.0.0", Diagnostic: "550 no such user"}, bounce.RecipientBad, true},
		{mail.Reported{Status: "4.4.7", Diagnostic: "450 4.2.2 mailbox full"}, bounce.MailboxFull, false},
		{mail.Reported{Diagnostic: "no mailbox here by that name"}, bounce.RecipientBad, true},
		{mail.Reported{}, bounce.Unknown, true},
		{mail.Reported{Status: "5.1.1", Diagnostic: "550 5.7.1 blocked using rbl.example"}, bounce.OurReputation, true},
	} {
		r := replyIn(c.r)
		if got := bounce.Shipped().Classify(r); got.Class != c.class || r.Permanent() != c.permanent {
			t.Errorf("%v: %s, permanent %v", r, got.Class, r.Permanent())
		}
	}
}
