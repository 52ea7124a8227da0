package fakenet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// policyServer is one HTTPS server for the MTA-STS policies of all domains.
type policyServer struct {
	ip, addr string // in the net, and the listener behind it
	ca       *authority
	srv      *http.Server
	done     sync.WaitGroup

	mu    sync.Mutex
	pages map[string]page // by host, mta-sts.<domain>
	certs map[string]*tls.Certificate
}

// page is what a policy host serves at its one path.
type page struct {
	*STS
	text string
}

func listenPolicies(ctx context.Context, ca *authority, ip string, port int) (*policyServer, error) {
	ln, err := listen(ctx, ip, port)
	if err != nil {
		return nil, fmt.Errorf("fakenet: policy host: %w", err)
	}
	s := &policyServer{
		ip: ip, addr: ln.Addr().String(), ca: ca,
		pages: map[string]page{},
		certs: map[string]*tls.Certificate{},
	}
	s.srv = &http.Server{
		Handler:   http.HandlerFunc(s.serve),
		TLSConfig: &tls.Config{GetCertificate: s.certificate},
		ErrorLog:  log.New(io.Discard, "", 0), // failed handshakes are part of the play
	}
	s.done.Go(func() { _ = s.srv.ServeTLS(ln, "", "") })
	return s, nil
}

// listen opens ip:port, or any loopback port for port 0.
func listen(ctx context.Context, ip string, port int) (net.Listener, error) {
	if port == 0 {
		ip = "127.0.0.1"
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
}

func (s *policyServer) close() error {
	err := s.srv.Close()
	s.done.Wait()
	return err
}

func (s *policyServer) put(host string, kind Cert, p page) error {
	cert, err := s.ca.issue(host, kind, P256)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[host], s.certs[host] = p, cert
	return err
}

func (s *policyServer) remove(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pages, host)
	delete(s.certs, host)
}

func (s *policyServer) has(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.certs[host] != nil
}

func (s *policyServer) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cert := s.certs[canonical(hello.ServerName)]; cert != nil {
		return cert, nil
	}
	return nil, errors.New("no such policy host")
}

func (s *policyServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	p, ok := s.pages[canonical(r.Host)]
	s.mu.Unlock()
	if !ok || r.URL.Path != "/.well-known/mta-sts.txt" {
		http.NotFound(w, r)
		return
	}
	kind := p.ContentType
	if kind == "" {
		kind = "text/plain"
	}
	w.Header().Set("Content-Type", kind)
	if p.Location != "" {
		w.Header().Set("Location", p.Location)
	}
	if p.Status != 0 {
		w.WriteHeader(p.Status)
	}
	_, _ = io.WriteString(w, p.text)
}
