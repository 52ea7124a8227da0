package registry

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/policy"
)

// Types of consent.
const (
	HIPAAAuthorization    = "hipaa_authorization"
	Part2Consent          = "part2_consent"
	TreatmentChannel      = "treatment_channel"
	UnencryptedPreference = "unencrypted_preference"
	MHMDACollect          = "mhmda_collect"
	MHMDAShare            = "mhmda_share"
	MHMDASell             = "mhmda_sell"
	TXMarketing           = "tx_marketing"
	CAMarketing           = "ca_marketing"
)

// Consent is one signed permission or recorded preference of a person.
// It prints as [phi]; its JSON is clear.
type Consent struct {
	Address                 policy.Address `json:"address"`
	Type                    string         `json:"type"`
	Purposes                []string       `json:"purposes,omitempty"`
	Information             string         `json:"information,omitempty"`
	Discloser               string         `json:"discloser,omitempty"`
	Recipient               string         `json:"recipient,omitempty"`
	SignedAt                time.Time      `json:"signed_at"`
	ExpiresAt               time.Time      `json:"expires_at,omitzero"`
	ExpiresEvent            string         `json:"expires_event,omitempty"`
	Method                  string         `json:"method,omitempty"`
	Signer                  string         `json:"signer,omitempty"`
	RepresentativeAuthority string         `json:"representative_authority,omitempty"`
	StatementRevocation     bool           `json:"statement_revocation,omitempty"`
	StatementConditioning   bool           `json:"statement_conditioning,omitempty"`
	StatementRedisclosure   bool           `json:"statement_redisclosure,omitempty"`
	StatementRemuneration   bool           `json:"statement_remuneration,omitempty"`
	DocumentSHA256          string         `json:"document_sha256,omitempty"`
	FormVersion             string         `json:"form_version,omitempty"`
	Language                string         `json:"language,omitempty"`
	Source                  string         `json:"source"`
	RevokedAt               time.Time      `json:"revoked_at,omitzero"`
}

// Format keeps consents out of logs and errors under every verb.
func (c Consent) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[phi]") }

// LogValue keeps consents out of structured logs.
func (c Consent) LogValue() slog.Value { return slog.StringValue("[phi]") }

var consents = book[Consent]{
	kind: Consents,
	columns: []column[Consent]{
		required(addressColumn("address", func(c *Consent) *policy.Address { return &c.Address })),
		required(oneOf("type", func(c *Consent) *string { return &c.Type }, HIPAAAuthorization, Part2Consent, TreatmentChannel,
			UnencryptedPreference, MHMDACollect, MHMDAShare, MHMDASell, TXMarketing, CAMarketing)),
		tokensColumn("purposes", func(c *Consent) *[]string { return &c.Purposes }, func(s string) (string, string) {
			if !isToken(s, "_-") {
				return "", "not a list of tokens, write a-z, 0-9, _ and - joined by ;"
			}
			return s, ""
		}),
		textColumn("information", 500, func(c *Consent) *string { return &c.Information }),
		textColumn("discloser", 500, func(c *Consent) *string { return &c.Discloser }),
		textColumn("recipient", 500, func(c *Consent) *string { return &c.Recipient }),
		required(pastColumn("signed_at", func(c *Consent) *time.Time { return &c.SignedAt })),
		endColumn("expires_at", func(c *Consent) *time.Time { return &c.ExpiresAt }),
		textColumn("expires_event", 200, func(c *Consent) *string { return &c.ExpiresEvent }),
		oneOf("method", func(c *Consent) *string { return &c.Method }, "wet", "e-sign", "voice"),
		textColumn("signer", 200, func(c *Consent) *string { return &c.Signer }),
		textColumn("representative_authority", 200, func(c *Consent) *string { return &c.RepresentativeAuthority }),
		boolColumn("statement_revocation", func(c *Consent) *bool { return &c.StatementRevocation }),
		boolColumn("statement_conditioning", func(c *Consent) *bool { return &c.StatementConditioning }),
		boolColumn("statement_redisclosure", func(c *Consent) *bool { return &c.StatementRedisclosure }),
		boolColumn("statement_remuneration", func(c *Consent) *bool { return &c.StatementRemuneration }),
		hashColumn("document_sha256", func(c *Consent) *string { return &c.DocumentSHA256 }),
		textColumn("form_version", 40, func(c *Consent) *string { return &c.FormVersion }),
		languageColumn("language", func(c *Consent) *string { return &c.Language }),
		required(textColumn("source", 100, func(c *Consent) *string { return &c.Source })),
		startColumn("revoked_at", func(c *Consent) *time.Time { return &c.RevokedAt }),
	},
	check:    (*Consent).mistakes,
	defects:  (*Consent).defects,
	replaces: keepsRevocation,
	subject:  func(c *Consent) string { return c.Address.Key() },
	key: func(c *Consent) string {
		return c.Type + "\n" + c.SignedAt.Format(time.RFC3339) + "\n" + c.DocumentSHA256
	},
	revoked: func(c *Consent) bool { return !c.RevokedAt.IsZero() },
}

// formal are the types whose legal elements must all be there: an authorization
// under 45 CFR 164.508(c), 42 CFR 2.31, RCW 19.373.070 and Cal. Civ. Code 56.11.
var formal = []string{HIPAAAuthorization, Part2Consent, MHMDASell, CAMarketing}

// spoken are the types that a voice recording may prove.
var spoken = []string{TXMarketing, TreatmentChannel, UnencryptedPreference}

// mistakes are those between cells; they make a bad row.
func (c *Consent) mistakes() []fault {
	var faults []fault
	add := func(column, what string) { faults = append(faults, fault{column, what}) }
	if c.Method == "voice" && !slices.Contains(spoken, c.Type) {
		add("method", "voice is no signature for this type, write wet or e-sign")
	}
	if !c.ExpiresAt.IsZero() && !c.ExpiresAt.After(c.SignedAt) {
		add("expires_at", "not after signed_at, write a later date")
	}
	// RCW 19.373.070: valid for one year from signature, by the calendar.
	if c.Type == MHMDASell && day(c.ExpiresAt).After(day(c.SignedAt).AddDate(1, 0, 0)) {
		add("expires_at", "more than one year after signed_at, write an earlier date")
	}
	if !c.RevokedAt.IsZero() && c.RevokedAt.Before(day(c.SignedAt)) {
		add("revoked_at", "before signed_at, write a later date")
	}
	if c.Language == "" {
		c.Language = "en"
	}
	return faults
}

// defects are the elements that the form lacks; they make it defective
// (45 CFR 164.508(b)(2)(ii), (c)(1) and (c)(2)).
func (c *Consent) defects() []fault {
	if !slices.Contains(formal, c.Type) {
		return nil
	}
	var faults []fault
	for _, element := range []struct {
		column string
		there  bool
	}{
		{"purposes", len(c.Purposes) > 0},
		{"information", c.Information != ""},
		{"discloser", c.Discloser != ""},
		{"recipient", c.Recipient != ""},
		{"expires_at", !c.ExpiresAt.IsZero() || c.ExpiresEvent != ""},
		{"method", c.Method != ""},
		{"signer", c.Signer != ""},
		{"statement_revocation", c.StatementRevocation},
		{"statement_conditioning", c.StatementConditioning},
		{"statement_redisclosure", c.StatementRedisclosure},
		{"document_sha256", c.DocumentSHA256 != ""},
		{"form_version", c.FormVersion != ""},
	} {
		if !element.there {
			faults = append(faults, fault{element.column, "missing, imported as defective"})
		}
	}
	return faults
}

// keepsRevocation refuses a version that takes a revocation back or puts it
// off: only a new consent can follow one.
func keepsRevocation(old, row *Consent) []fault {
	if old.RevokedAt.IsZero() || (!row.RevokedAt.IsZero() && !row.RevokedAt.After(old.RevokedAt)) {
		return nil
	}
	return []fault{{"revoked_at", "a revocation cannot be undone or put off, add a new consent"}}
}

// eventDays is how long a consent that ends with an event counts without a
// review, from the signature on.
const eventDays = 365

// end is the last second in which the consent counts, zero if there is none.
func (c *Consent) end() time.Time {
	switch {
	case !c.ExpiresAt.IsZero():
		return c.ExpiresAt
	case c.ExpiresEvent != "":
		return c.SignedAt.AddDate(0, 0, eventDays).Add(-time.Second)
	}
	return time.Time{}
}

// need is what a message asks of a consent.
type need struct {
	now       time.Time
	discloser string // organization.name
	topics    []string
	paid      bool
}

// state judges one consent against a need. A revocation counts at once, at
// whatever time it is dated.
func (c *Consent) state(n need) policy.Consent {
	switch {
	case !c.RevokedAt.IsZero():
		return policy.ConsentRevoked
	case len(c.defects()) > 0:
		return policy.ConsentDefective
	case over(c.end(), n.now):
		return policy.ConsentExpired
	case !c.isPreference() && !c.covers(n):
		return policy.ConsentOutside
	}
	return policy.ConsentValid
}

// isPreference reports whether the row says how to be reached rather than what for.
func (c *Consent) isPreference() bool {
	return c.Type == TreatmentChannel || c.Type == UnencryptedPreference
}

// inForce reports whether a preference holds: there, not revoked, not expired.
func (c *Consent) inForce(now time.Time) bool {
	return c.RevokedAt.IsZero() && !over(c.end(), now) && !c.SignedAt.After(now)
}

// covers reports whether who, what for and being paid are as the form says.
func (c *Consent) covers(n need) bool {
	if c.SignedAt.After(n.now) || !sameName(c.Discloser, n.discloser) || (n.paid && !c.StatementRemuneration) {
		return false
	}
	return slices.ContainsFunc(n.topics, func(topic string) bool { return slices.Contains(c.Purposes, topic) })
}

// sameName compares names of organizations without regard to case and blanks.
func sameName(a, b string) bool {
	a, b = strings.Join(strings.Fields(a), " "), strings.Join(strings.Fields(b), " ")
	return a != "" && strings.EqualFold(a, b)
}

// over reports whether the second end has passed; a zero end never passes.
func over(end, now time.Time) bool {
	return !end.IsZero() && now.Truncate(time.Second).After(end)
}

func day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }
