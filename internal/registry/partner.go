package registry

import (
	"bytes"
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// Contract is one contract with a partner, or the entry of a partner that needs
// none: another covered entity, or the organization's foundation.
type Contract struct {
	Partner         string    `json:"partner"`
	Role            string    `json:"role"`
	ExecutedAt      time.Time `json:"executed_at,omitzero"`
	EffectiveAt     time.Time `json:"effective_at,omitzero"`
	ExpiresAt       time.Time `json:"expires_at,omitzero"`
	TerminatedAt    time.Time `json:"terminated_at,omitzero"`
	Functions       []string  `json:"functions,omitempty"`
	DocumentSHA256  string    `json:"document_sha256,omitempty"`
	Services        []string  `json:"services,omitempty"`
	Contact         string    `json:"contact"`
	IncidentContact string    `json:"incident_contact"`
	NextReview      time.Time `json:"next_review,omitzero"`
}

var functions = []string{"create", "receive", "maintain", "transmit"}

var partners = book[Contract]{
	kind: Partners,
	columns: []column[Contract]{
		required(tokenColumn("partner", func(c *Contract) *string { return &c.Partner })),
		required(oneOf("role", func(c *Contract) *string { return &c.Role }, "business_associate", "subcontractor", "covered_entity", "foundation")),
		startColumn("executed_at", func(c *Contract) *time.Time { return &c.ExecutedAt }),
		startColumn("effective_at", func(c *Contract) *time.Time { return &c.EffectiveAt }),
		endColumn("expires_at", func(c *Contract) *time.Time { return &c.ExpiresAt }),
		endColumn("terminated_at", func(c *Contract) *time.Time { return &c.TerminatedAt }),
		tokensColumn("functions", func(c *Contract) *[]string { return &c.Functions }, func(s string) (string, string) {
			if !slices.Contains(functions, s) {
				return "", "unknown value, write any of " + strings.Join(functions, ", ") + " joined by ;"
			}
			return s, ""
		}),
		hashColumn("document_sha256", func(c *Contract) *string { return &c.DocumentSHA256 }),
		tokensColumn("services", func(c *Contract) *[]string { return &c.Services }, readService),
		required(textColumn("contact", 200, func(c *Contract) *string { return &c.Contact })),
		required(textColumn("incident_contact", 200, func(c *Contract) *string { return &c.IncidentContact })),
		endColumn("next_review", func(c *Contract) *time.Time { return &c.NextReview }),
	},
	check:    (*Contract).mistakes,
	defects:  func(*Contract) []fault { return nil },
	replaces: func(_, _ *Contract) []fault { return nil },
	subject:  func(c *Contract) string { return c.Partner },
	key:      func(c *Contract) string { return c.ExecutedAt.Format(time.RFC3339) },
	revoked:  func(c *Contract) bool { return !c.TerminatedAt.IsZero() },
	index:    (*Contract).index,
}

// needsContract reports whether the role acts under a business associate
// contract (45 CFR 160.103, 164.504(e)).
func (c *Contract) needsContract() bool {
	return c.Role == "business_associate" || c.Role == "subcontractor"
}

func (c *Contract) mistakes() []fault {
	var faults []fault
	for _, cell := range []struct {
		column string
		empty  bool
	}{
		{"executed_at", c.ExecutedAt.IsZero()}, {"effective_at", c.EffectiveAt.IsZero()},
		{"functions", len(c.Functions) == 0}, {"document_sha256", c.DocumentSHA256 == ""},
	} {
		if cell.empty && c.needsContract() {
			faults = append(faults, fault{cell.column, "missing, a business associate or subcontractor needs it"})
		}
	}
	for _, end := range []struct {
		column string
		at     time.Time
	}{{"expires_at", c.ExpiresAt}, {"terminated_at", c.TerminatedAt}} {
		if !end.at.IsZero() && (end.at.Before(c.ExecutedAt) || (end.column == "expires_at" && end.at.Before(c.EffectiveAt))) {
			faults = append(faults, fault{end.column, "before the contract began, write a later date"})
		}
	}
	return faults
}

// readService settles one value of services.
func readService(s string) (string, string) {
	kind, value, typed := strings.Cut(s, ":")
	if !typed {
		if len(s) > 200 {
			return "", "too long, write at most 200 characters for a product"
		}
		return s, ""
	}
	value = strings.TrimSpace(value)
	switch kind {
	case "domain", "host":
		if d, err := mail.ASCIIDomain(value); err == nil {
			return kind + ":" + d, ""
		}
	case "ip":
		if a, err := netip.ParseAddr(value); err == nil {
			return "ip:" + a.String(), ""
		}
		if p, err := netip.ParsePrefix(value); err == nil {
			return "ip:" + p.String(), ""
		}
	}
	return "", "not a service, write domain:name.example, host:name.example, ip:192.0.2.1 or a product, joined by ;"
}

// index lets a domain or host find the partners that name it. Whether they
// still do is asked of their contracts, so old entries do no harm.
func (c *Contract) index() []store.Record {
	var records []store.Record
	for _, s := range c.Services {
		if strings.HasPrefix(s, "domain:") || strings.HasPrefix(s, "host:") {
			records = append(records, store.Record{Kind: string(services), Subject: s, Key: c.Partner, Value: []byte(c.Partner)})
		}
	}
	return records
}

// limited reports whether only the functions named are allowed. A partner that
// needs no contract and names none may do all.
func (c *Contract) limited() bool { return c.needsContract() || len(c.Functions) > 0 }

// contractsOf reads the contracts of a partner. Every recipient of a campaign asks
// for the same ones, so what they decode to is kept as long as the store gives
// the same bytes.
func (r *Registry) contractsOf(ctx context.Context, name string) ([]version[Contract], error) {
	records, err := r.opts.Store.Records(ctx, string(Partners), name)
	if err != nil {
		return nil, joinStore(err)
	}
	if known, ok := r.decoded.Load(name); ok && known.(decodedContracts).of(records) {
		return known.(decodedContracts).contracts, nil
	}
	contracts, err := partners.newest(records)
	if err == nil && len(records) > 0 {
		r.decoded.Store(name, decodedContracts{records, contracts})
	}
	return contracts, err
}

// decodedContracts are contracts beside what they were decoded from. Both are
// never changed.
type decodedContracts struct {
	records   []store.Record
	contracts []version[Contract]
}

func (d decodedContracts) of(records []store.Record) bool {
	return slices.EqualFunc(d.records, records, func(a, b store.Record) bool { return bytes.Equal(a.Value, b.Value) })
}

// state says how the contract stands for one function, "" for any.
func (c *Contract) state(now time.Time, function string) policy.BAA {
	switch {
	case over(c.TerminatedAt, now):
		return policy.BAATerminated
	case over(c.ExpiresAt, now):
		return policy.BAAExpired
	case c.EffectiveAt.After(now) || c.ExecutedAt.After(now):
		return policy.BAAPending
	case function != "" && c.limited() && !slices.Contains(c.Functions, function):
		return policy.BAANoTransmit
	}
	return policy.BAAActive
}

// standing returns the contract that decides, nil without any, and how it
// stands for one function. Of the contracts that have begun it is the one signed
// last, for a new contract takes the place of an older one.
func standing(contracts []version[Contract], now time.Time, function string) (policy.BAA, *Contract) {
	if len(contracts) == 0 {
		return policy.BAAMissing, nil
	}
	begun := func(c *Contract) int {
		if c.state(now, function) == policy.BAAPending {
			return 0
		}
		return 1
	}
	decides := slices.MaxFunc(contracts, func(a, b version[Contract]) int {
		return cmp.Or(begun(&a.Row)-begun(&b.Row), a.Row.ExecutedAt.Compare(b.Row.ExecutedAt))
	})
	return decides.Row.state(now, function), &decides.Row
}

// PartnerState is a partner as a person wants to see it.
type PartnerState struct {
	Partner       string        `json:"partner"`
	BAA           string        `json:"baa"`
	Contracts     []Contract    `json:"contracts"`
	Ends          time.Time     `json:"ends,omitzero"` // of the contract that decides
	EndsIn        time.Duration `json:"-"`             // from now; meaningful if Ends is set
	ReviewOverdue bool          `json:"review_overdue"`
}

func partnerState(name string, contracts []version[Contract], now time.Time) PartnerState {
	state, decides := standing(contracts, now, "transmit")
	p := PartnerState{Partner: name, BAA: state.String()}
	for i := range contracts {
		p.Contracts = append(p.Contracts, contracts[i].Row)
	}
	if decides != nil {
		p.Ends = earliest(decides.ExpiresAt, decides.TerminatedAt)
		p.EndsIn = p.Ends.Sub(now)
		p.ReviewOverdue = over(decides.NextReview, now)
	}
	return p
}

// earliest is the earlier of two times, of which a zero one does not count.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
