package mail

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/phigate/phigate/policy"
)

// status is a standard report with a delivery-status part of these lines.
func status(lines ...string) string {
	return "From: MAILER-DAEMON@mx.example\nSubject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n" +
		"Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nSorry canary.\n--b\n" +
		"Content-Type: message/delivery-status\n\n" + strings.Join(lines, "\n") + "\n\n--b\nContent-Type: message/rfc822\n\n" +
		"Return-Path: <b+token@bounces.example>\nSubject: canary 550 5.1.1\n\ncanary\n--b--\n"
}

func plain(from, subject, body string) string {
	return "From: " + from + "\nSubject: " + subject + "\n\n" + body
}

const daemon = "Mail Delivery System <Mailer-Daemon@mx.example>"

func TestReadReport(t *testing.T) {
	for _, c := range []struct {
		name, data string
		kind       ReportKind
		final      policy.Address
		action     DSNAction
		status     string
		diagnostic string // is in it
	}{
		{"postfix", status("Reporting-MTA: dns; mx.example", "X-Postfix-Queue-ID: 1", "", "Final-Recipient: rfc822; ann@mx.example",
			"Original-Recipient: rfc822;ann@mx.example", "Action: failed", "Status: 5.1.1", "Remote-MTA: dns; in.mx.example",
			"Diagnostic-Code: smtp; 550 5.1.1 <ann@mx.example>: Recipient", "    address rejected: User unknown"),
			Bounce, "ann@mx.example", Failed, "5.1.1", "address rejected: User unknown"},
		{"comments and no blank line", status("Reporting-MTA: dns;mx.example", "Final-recipient: RFC822;<ann@mx.example>",
			"Action: Failed (5.1.1)", "Status: 5.1.1 (bad destination mailbox address)"), Bounce, "ann@mx.example", Failed, "5.1.1", ""},
		{"no type, no action", status("", "Final-Recipient: ann@mx.example", "Status: 5.2.2", "Diagnostic-Code: 552 full"),
			Bounce, "ann@mx.example", Failed, "5.2.2", "552 full"},
		{"no recipient", status("Reporting-MTA: dns; x", "", "Action: failed", "Status: 5.0.0"), Bounce, "", Failed, "5.0.0", ""},
		{"delayed", status("", "Final-Recipient: rfc822; ann@mx.example", "Action: delayed", "Status: 4.4.1"),
			Bounce, "ann@mx.example", Delayed, "4.4.1", ""},
		{"relayed", status("", "Final-Recipient: rfc822; ann@mx.example", "Action: relayed", "Status: 2.1.9"),
			Bounce, "ann@mx.example", Relayed, "2.1.9", ""},
		{"an action of its own", status("", "Final-Recipient: rfc822; ann@mx.example", "Action: exploded", "Status: 4.0.0"),
			Bounce, "ann@mx.example", "", "4.0.0", ""},
		{"qmail", plain("MAILER-DAEMON@q.example", "failure notice", "Hi. This is the qmail-send program at q.example.\n"+
			"I'm afraid I wasn't able to deliver your message to the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n"+
			"<ann@q.example>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\nReturn-Path: <b+token@bounces.example>\n"),
			Bounce, "ann@q.example", Failed, "5.1.1", "no mailbox here by that name"},
		{"exim", plain(daemon, "Mail delivery failed: returning message to sender", "This message was created automatically by mail delivery software.\n\n"+
			"A message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n"+
			"  ann@e.example\n    host mx.e.example [192.0.2.5]\n    SMTP error from remote mail server after RCPT TO:<ann@e.example>:\n    550 Unrouteable address\n\n"+
			"------ This is a copy of the message, including all the headers. ------\n\nReceived: from x\n"),
			Bounce, "ann@e.example", Failed, "", "550 Unrouteable"},
		{"exim waits", plain(daemon, "Warning: message 1abc delayed 24 hours: delivery problem", "This message was created automatically by mail delivery software.\n"+
			"A message that you sent has not yet been delivered to one or more of its\nrecipients after more than 24 hours on the queue.\n\n  ann@e.example\n\n"+
			"No action is required on your part. Delivery attempts will continue for\nsome time.\n"), Bounce, "ann@e.example", Delayed, "", ""},
		{"old exchange", plain("System Administrator <postmaster@x.example>", "Undeliverable: canary", "Your message\n\n  To: ann@x.example\n  Subject: canary\n\n"+
			"did not reach the following recipient(s):\n\nann@x.example on Mon, 1 Mar 2004 12:00:00 +0100\n    The recipient name is not recognized <mx.x.example #5.1.1>\n"),
			Bounce, "ann@x.example", Failed, "5.1.1", "not recognized"},
		{"sendmail of old", plain(daemon, "Returned mail: User unknown", "   ----- The following addresses had permanent fatal errors -----\n<ann@s.example>\n\n"+
			"   ----- Transcript of session follows -----\n... while talking to s.example.:\n>>> RCPT To:<ann@s.example>\n<<< 550 5.1.1 <ann@s.example>... User unknown\n"+
			"550 <ann@s.example>... User unknown\n\n   ----- Original message follows -----\nReturn-Path: <b+token@bounces.example>\n"),
			Bounce, "ann@s.example", Failed, "5.1.1", "User unknown"},
		{"away", plain("Ann <ann@mx.example>", "Re: your newsletter", "I am away and read mail on 550 5.1.1."), "", "", "", "", ""},
		{"broken mime", "From: MAILER-DAEMON@x.example\nSubject: failure notice\nContent-Type: multipart/report; boundary=\n\n550 5.1.1 no", Bounce, "", Failed, "", ""},
		{"nothing", "", "", "", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, data := range []string{c.data, strings.ReplaceAll(c.data, "\n", "\r\n")} {
				r := ReadReport([]byte(data))
				if r.Kind != c.kind {
					t.Fatalf("kind %q", r.Kind)
				}
				if c.kind == "" {
					continue
				}
				if len(r.Recipients) != 1 {
					t.Fatalf("%d recipients", len(r.Recipients))
				}
				got := r.Recipients[0]
				if got.Final != c.final || got.Action != c.action || got.Status != c.status && c.name != "broken mime" || !strings.Contains(got.Diagnostic, c.diagnostic) ||
					strings.Contains(got.Diagnostic, "canary") && c.name != "old exchange" {
					t.Errorf("final %s, action %s, status %s, diagnostic %q", got.Final.Clear(), got.Action, got.Status, got.Diagnostic)
				}
			}
		})
	}
}

func feedback(kind string) string {
	return "From: fbl@provider.example\nSubject: complaint about canary\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n\nA complaint.\n--b\n" +
		"Content-Type: message/feedback-report\n\nFeedback-Type: " + kind + "\nUser-Agent: x/1\nVersion: 1\nOriginal-Mail-From: <b+one@bounces.example>\nOriginal-Rcpt-To: redacted\n\n--b\n" +
		"Content-Type: message/rfc822\n\nReturn-Path: <b+two@bounces.example>\nReceived: from gw (envelope-from <b+three@bounces.example>)\n by mx; now\nSubject: canary\n\ncanary\n--b--\n"
}

func TestReadComplaint(t *testing.T) {
	for kind, want := range map[string]ReportKind{"abuse": Complaint, "Abuse": Complaint, "not-spam": "", "auth-failure": "", "": ""} {
		r := ReadReport([]byte(feedback(kind)))
		if r.Kind != want || fmt.Sprintf("%q", clearOf(r.Paths)) != `["b+two@bounces.example" "b+three@bounces.example" "b+one@bounces.example"]` {
			t.Errorf("%s: kind %q, paths %q", kind, r.Kind, clearOf(r.Paths))
		}
	}
}

func clearOf(addresses []policy.Address) []string {
	var out []string
	for _, a := range addresses {
		out = append(out, a.Clear())
	}
	return out
}

// A report has as many recipients as it says, up to a bound.
func TestReportOfMany(t *testing.T) {
	lines := []string{"Reporting-MTA: dns; x"}
	for i := range 3 * reported {
		lines = append(lines, fmt.Sprintf("Final-Recipient: rfc822; a%d@mx.example", i), "Action: failed", "Status: 5.1.1")
	}
	if n := len(ReadReport([]byte(status(lines...))).Recipients); n != reported {
		t.Errorf("%d recipients", n)
	}
}

func TestReportsPrintNothing(t *testing.T) {
	r := ReadReport([]byte(status("", "Final-Recipient: rfc822; ann@mx.example", "Action: failed", "Diagnostic-Code: smtp; canary")))
	j, err := json.Marshal(r)
	if out := fmt.Sprintf("%v %+v %#v %s %v %+v", r, r, r, j, r.Recipients, &r.Recipients[0]); err != nil || strings.Contains(out, "ann") || strings.Contains(out, "canary") {
		t.Errorf("prints %s", out)
	}
}

func FuzzReadReport(f *testing.F) {
	f.Add([]byte(status("", "Final-Recipient: rfc822; ann@mx.example", "Action: failed", "Status: 5.1.1")))
	f.Add([]byte(feedback("abuse")))
	f.Add([]byte(plain(daemon, "failure notice", "<a@b.example>:\nno (#5.1.1)\n\n--- Below this line")))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := ReadReport(data)
		if len(r.Recipients) > reported || r.Kind != Bounce && len(r.Recipients) > 0 {
			t.Errorf("%d recipients of a %q", len(r.Recipients), r.Kind)
		}
	})
}
