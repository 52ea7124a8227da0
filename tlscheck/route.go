package tlscheck

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// pin is the SHA-256 of a SubjectPublicKeyInfo.
type pin [sha256.Size]byte

var errPin = errors.New("spki_sha256: want 64 hex digits or 44 characters of base64")

func parsePin(s string) (pin, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil {
		b, err = base64.StdEncoding.DecodeString(s)
	}
	if err != nil || len(b) != sha256.Size {
		return pin{}, errPin
	}
	return pin(b), nil
}

func pinned(pins []pin, c *x509.Certificate) bool {
	return slices.Contains(pins, pin(sha256.Sum256(c.RawSubjectPublicKeyInfo)))
}

// route returns the first route whose pattern matches the domain, nil if none.
func (c *Checker) route(domain string) *Route {
	for i := range c.routes {
		if matchDomain(clean(c.routes[i].Domain), domain) {
			return &c.routes[i]
		}
	}
	return nil
}

func matchDomain(pattern, domain string) bool {
	if pattern == "*" || pattern == domain {
		return true
	}
	suffix, ok := strings.CutPrefix(pattern, "*")
	return ok && strings.HasPrefix(suffix, ".") && strings.HasSuffix(domain, suffix)
}

// own knows our names and listeners, by which mail loops are found: mail for an
// MX that is ourselves, or is preferred less, would come back (RFC 5321 §5.1).
type own struct {
	names []string
	addrs []listener
}

type listener struct {
	ip   netip.Addr // invalid: every address of this machine
	port int        // 0: any
}

func newOwn(hostname string, list []string) (own, error) {
	o := own{names: []string{hostname}}
	for _, s := range list {
		if ip, err := netip.ParseAddr(s); err == nil {
			o.addrs = append(o.addrs, listener{ip: ip.Unmap()})
			continue
		}
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			o.names = append(o.names, clean(s))
			continue
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return o, fmt.Errorf("own address %q: want a port number", s)
		}
		ip, err := netip.ParseAddr(host)
		switch {
		case err == nil && !ip.IsUnspecified():
			o.addrs = append(o.addrs, listener{ip.Unmap(), int(n)})
		case err == nil || host == "":
			o.addrs = append(o.addrs, listener{port: int(n)})
		default:
			o.names = append(o.names, clean(host))
		}
	}
	return o, nil
}

func (o own) name(host string) bool { return slices.Contains(o.names, host) }

// addr reports whether we listen on ip and port ourselves. Any other address on
// loopback is a host like the rest.
func (o own) addr(ip netip.Addr, port int) bool {
	return slices.ContainsFunc(o.addrs, func(l listener) bool {
		if l.port != 0 && l.port != port {
			return false
		}
		return l.ip == ip || !l.ip.IsValid() && local(ip)
	})
}

// local reports whether an address is one of this machine's.
func local(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	ifaces, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(ifaces, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip.AsSlice())
	})
}
