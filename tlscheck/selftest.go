package tlscheck

import (
	"context"
	"sync/atomic"

	"github.com/miekg/dns"
)

// selfTest watches whether the resolver still validates. A resolver that lost
// its trust anchor answers everything without AD, and every signed domain would
// quietly look unsigned.
type selfTest struct {
	signed, bogus string
	broken        atomic.Bool
}

// selfTest asks for a name that must come validated and for one that must not
// come at all. Only a wrong answer counts: a network without those names, or
// without any network, proves nothing.
func (c *Checker) selfTest(ctx context.Context) {
	signed, err := c.resolver.Lookup(ctx, c.test.signed, dns.TypeSOA)
	bogus, err2 := c.resolver.Lookup(ctx, c.test.bogus, dns.TypeA)
	if err != nil || err2 != nil {
		return
	}
	// An unvalidated answer comes from a resolver that was never trusted; its
	// answers carry that state themselves.
	unsigned := signed.Secure == DNSInsecure && len(records[*dns.SOA](signed)) > 0
	swallowed := bogus.Secure >= DNSInsecure && len(records[*dns.A](bogus)) > 0
	broken := unsigned || swallowed
	switch was := c.test.broken.Swap(broken); {
	case broken:
		c.log.Error("the resolver does not validate DNSSEC: mail with a floor waits or goes to pickup",
			"signed_name_without_ad", unsigned, "bogus_name_answered", swallowed)
	case was && signed.Secure == DNSSecure:
		c.log.Info("the resolver validates DNSSEC again")
	}
}

// validationOff is why nothing may be concluded while the self-test fails.
var validationOff = &Failure{Class: Unknown, RFC: "RFC 7672 §2.1.1", Reason: "the resolver stopped validating DNSSEC"}
