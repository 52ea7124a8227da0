package portal

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// caps hold back floods. The limits that protect a message are in its memory;
// these protect the site.
type caps struct {
	mu       sync.Mutex
	prefixes map[netip.Prefix]*rate.Limiter // guarded by mu
	site     *rate.Limiter                  // guarded by mu; nil until first used
}

const (
	prefixBurst = 60 // forms one network may send at once: a clinic's waiting room is one network
	prefixEvery = 10 * time.Second
	siteBurst   = 600 // forms by holders of a link, over all messages
	siteRate    = 10  // a second
	maxPrefixes = 50_000
)

// stranger reports whether the network r comes from may send one more form.
// Visitors through a proxy on this machine all look alike and are left to the
// site's cap.
func (c *caps) stranger(r *http.Request, now time.Time) bool {
	prefix, ok := network(r.RemoteAddr)
	if !ok {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.prefixes == nil || len(c.prefixes) >= maxPrefixes {
		c.prefixes = map[netip.Prefix]*rate.Limiter{}
	}
	l := c.prefixes[prefix]
	if l == nil {
		l = rate.NewLimiter(rate.Every(prefixEvery), prefixBurst)
		c.prefixes[prefix] = l
	}
	return l.AllowN(now, 1)
}

// holder reports whether the site may take one more form from somebody who
// holds a link. Strangers cannot use this cap up.
func (c *caps) holder(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.site == nil {
		c.site = rate.NewLimiter(siteRate, siteBurst)
	}
	return c.site.AllowN(now, 1)
}

// network is the part of an address that one subscriber cannot leave at will.
func network(remote string) (netip.Prefix, bool) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Prefix{}, false
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.IsLoopback() {
		return netip.Prefix{}, false
	}
	addr = addr.Unmap()
	bits := 24
	if addr.Is6() {
		bits = 56
	}
	prefix, err := addr.Prefix(bits)
	return prefix, err == nil
}
