package gateway

import (
	"strings"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// The letters of our own: pickup notices, pickup codes, DSNs. None holds a word
// of a message; all leave with the null reverse-path, over any connection, in
// the prompt lane.

// postmaster is the mailbox our own letters come from, in the organization's
// domain so that DKIM aligns.
func (g *Gateway) postmaster() policy.Address {
	return policy.Address("no-reply@" + g.rules().Organization().Domains[0])
}

// letter is a draft of our own to one recipient. about ties it to what it
// speaks of.
func (g *Gateway) letter(to policy.Address, about string, code policy.Code, now time.Time, compose func(mail.Envelope) ([]byte, error)) (draft, error) {
	org := g.rules().Organization()
	id := g.ids.New(now)
	from := g.postmaster()
	body, err := compose(mail.Envelope{FromName: org.Name, From: from, To: to, Hostname: g.cfg.Hostname, ID: string(id), Now: now})
	if err != nil {
		return draft{}, err
	}
	dest, err := mail.ASCIIDomain(to.Domain())
	if err != nil {
		return draft{}, err
	}
	m := store.NewMessage{
		Message: store.Message{ID: id, Accepted: now, UTF8: mail.NeedsUTF8(to), EnvID: about},
		Body:    body,
		Envelopes: []store.Envelope{{
			ID: store.EnvelopeIDOf(id, 0), Recipient: to.Clear(), Dest: dest, State: store.Ready, Lane: store.Prompt,
			Due: now, Expires: now.Add(g.giveUp()), Floor: policy.Open, Else: policy.Bounce, Code: code,
			Facts: policy.Facts{Now: now},
		}},
	}
	return draft{m, from.Domain()}, nil
}

// dsn tells the envelope sender what became of some recipients. There is none
// about a message of ours, to a null reverse-path, or if nobody wanted one.
func (g *Gateway) dsn(m store.Message, about []mail.Status, now time.Time) ([]draft, error) {
	if m.Return == "" || len(about) == 0 {
		return nil, nil
	}
	d, err := g.letter(policy.Address(m.Return), "", about[0].Code, now, func(e mail.Envelope) ([]byte, error) {
		return mail.DSN{Envelope: e, EnvID: m.EnvID, MessageID: string(m.ID), Arrived: m.Accepted, Recipients: about}.Bytes()
	})
	if err != nil {
		return nil, err
	}
	return []draft{d}, nil
}

// refusals are the recipients of a message that were refused while others were not.
func refusals(ds []decision) []mail.Status {
	var out []mail.Status
	for _, d := range ds {
		if !wantsFailure(d.recipient.notify) {
			continue
		}
		_, enhanced, _ := policy.Reply(d.verdict.Code)
		out = append(out, mail.Status{Recipient: d.recipient.address, ORcpt: d.recipient.orcpt, Action: mail.Failed,
			Enhanced: enhanced, Code: d.verdict.Code})
	}
	return out
}

// failureOnly is what is left of a NOTIFY when only failures are to be told.
func failureOnly(notify string) string {
	switch {
	case notify == "":
		return ""
	case wantsFailure(notify):
		return "FAILURE"
	}
	return "NEVER"
}

// wantsDelay reports whether a sender with this NOTIFY hears of a delay: by
// default it does, and if it asked for something it asked for that (§4.1).
func wantsDelay(notify string) bool { return notify == "" || strings.Contains(notify, "DELAY") }

// wantsFailure reports whether a sender with this NOTIFY hears of a failure. One
// that names only SUCCESS or DELAY does not (RFC 3461 §4.1).
func wantsFailure(notify string) bool {
	return notify == "" || strings.Contains(notify, "FAILURE")
}
