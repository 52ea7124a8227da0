package queue

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/phigate/phigate/internal/yamlfile"
)

// Shaping says how fast each provider may be sent to, and what its replies mean
// for the pace. It is read from shaping.yaml and never changes.
//
// All domains whose best MX hosts lie under one provider's suffixes are one site
// and share its limits. The store's cap counts per domain, since only the queue
// knows who hosts whom.
type Shaping struct {
	fallback  limits
	replies   []rule
	providers map[string]provider
	suffixes  map[string]string // of MX hosts → provider
}

// provider is one entry of shaping.yaml.
type provider struct {
	limits  limits
	replies []rule
}

// limits are what a site is held to; zero is no limit, or the queue's own.
type limits struct {
	connections int
	rate        yamlfile.Rate
	messages    int // per connection
	idle        time.Duration
}

// rule is what to do at a reply. Both patterns must match; nil always does.
type rule struct {
	codes, text *regexp.Regexp
	do          action
	forHow      time.Duration
	to          yamlfile.Rate
}

// action is what a reply makes the queue do.
type action string

const (
	backOff action = "back_off" // halve the connections; at a single one, leave it alone for a while
	suspend action = "suspend"  // leave the site alone for a time
	slow    action = "slow"     // hold the site to a rate for a time
	ignore  action = "ignore"   // the reply is about one message, not about us
)

func (action) Words() []string {
	return []string{string(backOff), string(suspend), string(slow), string(ignore)}
}

func (a *action) UnmarshalText(text []byte) error {
	if !slices.Contains(a.Words(), string(text)) {
		return fmt.Errorf("unknown value, use one of %s", strings.Join(a.Words(), ", "))
	}
	*a = action(text)
	return nil
}

// The document is shaping.yaml as written.
type document struct {
	Version   int           `yaml:"version,required" doc:"Version of this format, 1."`
	Default   limitsDoc     `yaml:"default" doc:"Limits of every provider that does not set its own."`
	Replies   []ruleDoc     `yaml:"replies" doc:"What replies mean, of every provider, after its own rules; the first match wins."`
	Providers []providerDoc `yaml:"providers" doc:"Those that host many domains, or want special care."`
}

type limitsDoc struct {
	Connections int               `yaml:"connections" doc:"Most connections at once. Default delivery.concurrency.per_destination."`
	Rate        yamlfile.Rate     `yaml:"rate" doc:"Most messages in a time, such as 600/min. Default none."`
	Messages    int               `yaml:"messages_per_connection" doc:"Most messages over one connection. Default none."`
	Idle        yamlfile.Duration `yaml:"idle" doc:"How long a connection waits for more mail. Default 1s."`
}

type providerDoc struct {
	Name        string            `yaml:"name,required" doc:"A token, shown by gateway queue destinations."`
	MX          []string          `yaml:"mx,required" doc:"Its MX hosts: these names and all below them. The longest match wins."`
	Connections int               `yaml:"connections" doc:"Most connections at once, to all its domains together."`
	Rate        yamlfile.Rate     `yaml:"rate" doc:"Most messages in a time, to all its domains together."`
	Messages    int               `yaml:"messages_per_connection" doc:"Most messages over one connection."`
	Idle        yamlfile.Duration `yaml:"idle" doc:"How long a connection waits for more mail."`
	Replies     []ruleDoc         `yaml:"replies" doc:"What its replies mean; the first match wins."`
}

type ruleDoc struct {
	Match string            `yaml:"match,required" doc:"Regular expression on the codes, such as \"421 4.7.0\" or \"421\"."`
	Text  string            `yaml:"text" doc:"Regular expression on the words behind the codes, which are never stored. Default any."`
	Do    action            `yaml:"do,required" doc:"back_off halves the connections, suspend leaves the provider alone, slow holds it to a rate, ignore does nothing."`
	For   yamlfile.Duration `yaml:"for" doc:"For suspend and slow: how long."`
	To    yamlfile.Rate     `yaml:"to" doc:"For slow: the rate."`
}

// ShapingSchema returns the JSON Schema of shaping.yaml.
func ShapingSchema() ([]byte, error) {
	return yamlfile.Schema(document{}, "https://phigate.example/shaping.schema.json")
}

// LoadShaping reads a shaping.yaml with all its mistakes at once, which are
// [yamlfile.Problems].
func LoadShaping(path string) (*Shaping, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the shaping: %w", err)
	}
	s, problems := ParseShaping(path, data)
	return s, problems.Err()
}

// ParseShaping is LoadShaping for text that is already in hand; name is how
// messages call the file. With a mistake there is no Shaping.
func ParseShaping(name string, data []byte) (*Shaping, yamlfile.Problems) {
	var doc document
	file, problems := yamlfile.Decode(name, data, &doc)
	r := &shapingReader{file: file, problems: problems}
	if doc.Version != 1 && file.Has("version") {
		r.bad("version", "version: unknown format", "write 1")
	}
	s := &Shaping{
		fallback: r.limits("default", doc.Default), replies: r.rules("replies", doc.Replies),
		providers: map[string]provider{}, suffixes: map[string]string{},
	}
	for i, p := range doc.Providers {
		r.provider(s, fmt.Sprintf("providers[%d]", i), p)
	}
	if len(r.problems) > 0 {
		return nil, r.problems.Sorted()
	}
	return s, nil
}

// shapingReader turns the document into a Shaping and collects what makes no sense.
type shapingReader struct {
	file     *yamlfile.File
	problems yamlfile.Problems
}

func (r *shapingReader) bad(path, what, hint string) {
	if r.file.Sound(path) {
		r.problems = append(r.problems, r.file.Problem(path, what, hint))
	}
}

var (
	tokenForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
	hostForm  = regexp.MustCompile(`^([a-z0-9_-]{1,63}\.)+[a-z0-9-]{1,63}$`)
)

func (r *shapingReader) provider(s *Shaping, path string, d providerDoc) {
	if !tokenForm.MatchString(d.Name) && r.file.Has(path+".name") {
		r.bad(path+".name", "name: not a token", "use a-z, 0-9 and -, at most 64 characters")
	}
	if _, twice := s.providers[d.Name]; twice {
		r.bad(path+".name", "name: used before", "give each its own")
	}
	if len(d.MX) == 0 && r.file.Has(path+".mx") {
		r.bad(path+".mx", "mx: empty", "name at least one host suffix, such as mx.provider.example")
	}
	for i, suffix := range d.MX {
		at := fmt.Sprintf("%s.mx[%d]", path, i)
		switch suffix = strings.ToLower(suffix); {
		case !hostForm.MatchString(suffix):
			r.bad(at, "mx: not a host name", "write it like mx.provider.example, without a star")
		case s.suffixes[suffix] != "":
			r.bad(at, "mx: used before", "a host belongs to one provider")
		}
		s.suffixes[suffix] = d.Name
	}
	l := limitsDoc{d.Connections, d.Rate, d.Messages, d.Idle}
	s.providers[d.Name] = provider{r.limits(path, l), r.rules(path+".replies", d.Replies)}
}

func (r *shapingReader) limits(path string, d limitsDoc) limits {
	for key, n := range map[string]int{"connections": d.Connections, "messages_per_connection": d.Messages} {
		if at := path + "." + key; n < 1 && r.file.Has(at) {
			r.bad(at, key+": nothing could be delivered", "write at least 1, or leave it out")
		}
	}
	return limits{d.Connections, d.Rate, d.Messages, time.Duration(d.Idle)}
}

func (r *shapingReader) rules(path string, docs []ruleDoc) []rule {
	out := make([]rule, len(docs))
	for i, d := range docs {
		at := fmt.Sprintf("%s[%d]", path, i)
		out[i] = rule{codes: r.pattern(at+".match", d.Match), do: d.Do, forHow: time.Duration(d.For), to: d.To}
		if d.Text != "" {
			out[i].text = r.pattern(at+".text", "(?i:"+d.Text+")")
		}
		if timed := d.Do == suspend || d.Do == slow; timed != (d.For > 0) && d.Do != "" {
			r.bad(at, "for: needed by suspend and slow, and by them alone", `write for: 15m`)
		}
		if (d.Do == slow) != (d.To != yamlfile.Rate{}) && d.Do != "" {
			r.bad(at, "to: needed by slow, and by it alone", `write to: 60/min`)
		}
	}
	return out
}

func (r *shapingReader) pattern(path, text string) *regexp.Regexp {
	p, err := regexp.Compile(text)
	if err != nil && r.file.Has(path) {
		r.bad(path, "not a regular expression", "see the syntax of RE2; write it in single quotes")
	}
	return p
}

// plain is what holds without a shaping.yaml: 421 (RFC 5321 §3.8) and a 4.7.x
// status (RFC 3463 §3.8) ask to slow down.
func plain() *Shaping {
	return &Shaping{replies: []rule{
		{codes: regexp.MustCompile(`^421\b`), do: backOff},
		{codes: regexp.MustCompile(`^4\d\d 4\.7\.`), do: backOff},
	}}
}

// Site names what a domain shares its limits with, from the hosts that serve it
// best: the provider they belong to, else their registrable domain. Hosts that
// do not agree say nothing, nor does an address; then it is the domain itself.
func (s *Shaping) Site(domain string, hosts []string) string {
	site := ""
	for _, h := range hosts {
		name := s.siteOf(h)
		if name == "" || site != "" && site != name {
			return domain
		}
		site = name
	}
	if site == "" {
		return domain
	}
	return site
}

func (s *Shaping) siteOf(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for rest, more := host, true; more; _, rest, more = strings.Cut(rest, ".") {
		if name, ok := s.suffixes[rest]; ok {
			return name
		}
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	registrable, err := publicsuffix.EffectiveTLDPlusOne(host)
	if err != nil {
		return ""
	}
	return registrable
}

// of gives the limits of a site, with the defaults of the file and then those of
// the queue filled in.
func (s *Shaping) of(site string, own limits) limits {
	l := s.providers[site].limits
	for _, d := range []limits{s.fallback, own} {
		if l.connections == 0 {
			l.connections = d.connections
		}
		if l.rate == (yamlfile.Rate{}) {
			l.rate = d.rate
		}
		if l.messages == 0 {
			l.messages = d.messages
		}
		if l.idle == 0 {
			l.idle = d.idle
		}
	}
	return l
}

// rule finds what a reply of a site means, nil if nothing.
func (s *Shaping) rule(site, codes string, words Words) *rule {
	if codes == "" {
		return nil
	}
	for _, rules := range [][]rule{s.providers[site].replies, s.replies} {
		for i, r := range rules {
			if r.codes.MatchString(codes) && (r.text == nil || r.text.MatchString(string(words))) {
				if r.do == ignore {
					return nil
				}
				return &rules[i]
			}
		}
	}
	return nil
}

// Words are what a server said behind the codes of a reply. They may repeat an
// address: they are matched, never kept, and print as [reply].
type Words string

// Format prints no word under any verb.
func (Words) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[reply]") }

// MarshalText keeps them out of JSON and slog.
func (Words) MarshalText() ([]byte, error) { return []byte("[reply]"), nil }
