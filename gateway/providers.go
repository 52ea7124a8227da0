package gateway

import (
	"sync"

	"github.com/phigate/phigate/configs"
	"github.com/phigate/phigate/queue"
	"github.com/phigate/phigate/tlscheck"
)

// loadShaping reads shaping.yaml; without a path it is the shipped one.
func loadShaping(path string) (*queue.Shaping, error) {
	if path != "" {
		return queue.LoadShaping(path)
	}
	s, problems := queue.ParseShaping("the shipped shaping.yaml", configs.Shaping)
	return s, problems.Err()
}

// providers remembers who hosts which domain, as far as postures and plans have
// shown lately, so that the queue need not ask the DNS. Of a domain that was
// not met since the start nothing is known: it is on its own until its first
// delivery looks.
type providers struct {
	mu      sync.Mutex // guards what follows
	shaping *queue.Shaping
	hosted  map[string]hosted
}

// hosted is a domain's best MX hosts and the site they make it part of.
type hosted struct {
	hosts []string
	site  string
}

// maxHosted bounds the domains remembered.
const maxHosted = 20000

func newProviders() *providers { return &providers{hosted: map[string]hosted{}} }

func (p *providers) current() *queue.Shaping {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shaping
}

// reshape tells sites apart by new suffixes.
func (p *providers) reshape(s *queue.Shaping) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shaping = s
	for domain, h := range p.hosted {
		h.site = s.Site(domain, h.hosts)
		p.hosted[domain] = h
	}
}

// learn remembers the hosts that serve a domain best.
func (p *providers) learn(t tlscheck.Posture) {
	var hosts []string
	for _, m := range t.MX {
		if m.Pref == t.MX[0].Pref {
			hosts = append(hosts, m.Host)
		}
	}
	if len(hosts) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.hosted) >= maxHosted {
		for domain := range p.hosted { // any: whoever is still needed is learnt again
			delete(p.hosted, domain)
			if len(p.hosted) < maxHosted*9/10 {
				break
			}
		}
	}
	p.hosted[t.Domain] = hosted{hosts, p.shaping.Site(t.Domain, hosts)}
}

// site names what a domain shares its limits with.
func (p *providers) site(domain string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h, ok := p.hosted[domain]; ok {
		return h.site
	}
	return domain
}
