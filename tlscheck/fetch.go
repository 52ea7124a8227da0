package tlscheck

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"time"
)

const (
	fetchTimeout = time.Minute      // RFC 8461 §3.3
	fetchLimit   = 64 << 10         // RFC 8461 §3.3
	fetchBackoff = 5 * time.Minute  // RFC 8461 §3.3
	fetchAtOnce  = 16               // policies being fetched at one time, in all
	headerLimit  = 16 << 10         // bytes of HTTP header
	dialTimeout  = 30 * time.Second // per address
)

var (
	errStatus    = errors.New("policy host did not answer 200")
	errMediaType = errors.New("policy is not text/plain")
	errTooLarge  = errors.New("policy is larger than 64 KiB")
)

// fetch gets the policy body of a domain (RFC 8461 §3.3): over HTTPS from a host
// whose certificate is valid for mta-sts.<domain>, addresses from our resolver,
// no proxy, no redirect, no cache, no cookie.
func (c *Checker) fetch(ctx context.Context, domain string) (string, error) {
	select {
	case c.fetches <- struct{}{}:
		defer func() { <-c.fetches }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	host := "mta-sts." + domain
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/mta-sts.txt", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", "phigate")
	resp, err := c.policyClient(host).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	return policyBody(resp)
}

// policyClient speaks HTTPS to one policy host, once.
func (c *Checker) policyClient(host string) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  nil, // the environment has no say in where policies come from
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: headerLimit,
			TLSHandshakeTimeout:    dialTimeout,
			TLSClientConfig: &tls.Config{
				ServerName: host,
				RootCAs:    c.roots,
				Time:       c.now,
				MinVersion: tls.VersionTLS12,
			},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return c.dialHost(ctx, network, host)
			},
		},
	}
}

// dialHost connects to the HTTPS port of a policy host. Its addresses come from
// the validating resolver; a failed look-up fails the fetch.
func (c *Checker) dialHost(ctx context.Context, network, host string) (net.Conn, error) {
	a, err := c.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(a.addrs) == 0 {
		return nil, fmt.Errorf("no address for %s", host)
	}
	var errs []error
	for _, ip := range a.addrs {
		conn, err := c.connect(ctx, network, ip, c.httpsPort)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func policyBody(resp *http.Response) (string, error) {
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: %d", errStatus, resp.StatusCode)
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != "text/plain" || err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return "", errMediaType
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, fetchLimit+1))
	if err != nil {
		return "", err
	}
	if len(body) > fetchLimit {
		return "", errTooLarge
	}
	return string(body), nil
}
