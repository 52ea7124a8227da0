package registry

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/phigate/phigate/policy"
)

// Reasons of a suppression.
const (
	OptOut            = "opt_out"
	FundraisingOptOut = "fundraising_opt_out"
	Complaint         = "complaint"
	NoEmail           = "no_email"
	PortalOnly        = "portal_only"
	Disputed          = "disputed"
	Misdelivered      = "misdelivered"
	HardBounce        = "hard_bounce"
)

// Suppression is a wish not to be written to, or a doubt about an address.
// It prints as [phi]; its JSON is clear.
type Suppression struct {
	Address   policy.Address `json:"address"`
	Reason    string         `json:"reason"`
	Source    string         `json:"source"`
	At        time.Time      `json:"at"`
	ExpiresAt time.Time      `json:"expires_at,omitzero"`
	Lifted    time.Time      `json:"lifted,omitzero"` // when staff took it back; not in the CSV
}

// Format keeps suppressions out of logs and errors under every verb.
func (s Suppression) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// LogValue keeps suppressions out of structured logs.
func (s Suppression) LogValue() slog.Value { return slog.StringValue("[phi]") }

var suppressions = book[Suppression]{
	kind: Suppressions,
	columns: []column[Suppression]{
		required(addressColumn("address", func(s *Suppression) *policy.Address { return &s.Address })),
		required(oneOf("reason", func(s *Suppression) *string { return &s.Reason }, OptOut, FundraisingOptOut, Complaint, NoEmail,
			PortalOnly, Disputed, Misdelivered, HardBounce)),
		required(textColumn("source", 100, func(s *Suppression) *string { return &s.Source })),
		required(pastColumn("at", func(s *Suppression) *time.Time { return &s.At })),
		endColumn("expires_at", func(s *Suppression) *time.Time { return &s.ExpiresAt }),
	},
	check:    (*Suppression).mistakes,
	defects:  func(*Suppression) []fault { return nil },
	replaces: func(_, _ *Suppression) []fault { return nil },
	subject:  func(s *Suppression) string { return s.Address.Key() },
	key:      func(s *Suppression) string { return s.Reason + "\n" + s.At.Format(time.RFC3339) },
	revoked:  func(s *Suppression) bool { return !s.Lifted.IsZero() },
	lifted:   func(s *Suppression) bool { return !s.Lifted.IsZero() },
}

func (s *Suppression) mistakes() []fault {
	if s.ExpiresAt.IsZero() {
		return nil
	}
	if s.Reason != Disputed && s.Reason != HardBounce {
		return []fault{{"expires_at", "this reason does not lapse, leave it empty"}}
	}
	if !s.ExpiresAt.After(s.At) {
		return []fault{{"expires_at", "not after at, write a later date"}}
	}
	return nil
}

// inForce reports whether the suppression counts.
func (s *Suppression) inForce(now time.Time) bool {
	return s.Lifted.IsZero() && !over(s.ExpiresAt, now)
}
