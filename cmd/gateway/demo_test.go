package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/phigate/phigate/testdata/campaign"
)

// The demo is the first thing a newcomer sees, so it must end as the sample
// campaign says: every recipient's code and end, and how the mail left.
func TestDemoEndsAsTheCampaignSays(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"demo"}, stdio{strings.NewReader(""), &out, &errs}); status != exitDone {
		t.Fatalf("exit %d: %s%s", status, out.String(), errs.String())
	}
	sample, err := campaign.Load()
	if err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, m := range sample.Mails {
		at := strings.Index(text, m.Title+"\n")
		if at < 0 {
			t.Fatalf("no line for %q in\n%s", m.Title, out.String())
		}
		section, _, _ := strings.Cut(text[at:], "\n\n")
		for _, r := range m.To {
			checkEnd(t, m, r, section)
		}
	}
	if !strings.Contains(text, "verified, root ") {
		t.Error("the log was not verified")
	}
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 100 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
}

func checkEnd(t *testing.T, m campaign.Mail, r campaign.Recipient, section string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^ +` + regexp.QuoteMeta(r.Address) + ` .*$`).FindString(section)
	want := []string{" " + r.Ends + " ", " " + r.Code + " "}
	switch {
	case r.Assurance == "none":
		want = append(want, "no TLS")
	case r.Assurance != "":
		want = append(want, "TLS 1.", r.Assurance)
	}
	for _, w := range want {
		if !strings.Contains(line+" ", w) {
			t.Errorf("%s, %s: %q has no %q", m.File, r.Address, line, w)
		}
	}
	if r.Ends == "pickup" && !pickupLink.MatchString(section) {
		t.Errorf("%s, %s: no pickup link", m.File, r.Address)
	}
}
