package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/yamlfile"
)

// Config is gateway.yaml. Paths are relative to the file and made absolute by
// [LoadConfig]; durations and sizes carry units.
type Config struct {
	Hostname    string      `yaml:"hostname,required" doc:"name in greetings, EHLO and Received; an FQDN that resolves to this host"`
	Data        string      `yaml:"data,required" doc:"folder of queue, records, keys and audit log"`
	Policy      string      `yaml:"policy,required" doc:"policy.yaml"`
	Keys        KeysConfig  `yaml:"keys,required" doc:"where the root key is"`
	Listen      []Listen    `yaml:"listen,required" doc:"ports that take mail"`
	Certificate Certificate `yaml:"certificate" doc:"certificate of the SMTP listeners, and of the portal unless it has its own"`
	Limits      Limits      `yaml:"limits" doc:"bounds on what comes in"`
	Delivery    Delivery    `yaml:"delivery" doc:"how mail leaves"`
	Bounces     Bounces     `yaml:"bounces" doc:"where late bounces and complaints come back; left out = nowhere"`
	Portal      Portal      `yaml:"portal" doc:"pickup site; left out = no portal"`
	Console     Console     `yaml:"console" doc:"compliance console"`
	Metrics     Metrics     `yaml:"metrics" doc:"Prometheus metrics; left out = none"`
	AdminSocket string      `yaml:"admin_socket" doc:"unix socket by which commands reach a running gateway; data/admin.sock if left out"`
}

// KeysConfig names the root key; exactly one of its root's fields is set.
type KeysConfig struct {
	Root RootKey `yaml:"root,required" doc:"the key that wraps all others; keep it outside the data folder"`
}

// RootKey is one source of the root key.
type RootKey struct {
	File       string `yaml:"file" doc:"key file, mode 0400"`
	Credential string `yaml:"systemd_credential" doc:"name of a systemd credential (LoadCredentialEncrypted=)"`
	Passphrase string `yaml:"passphrase_file" doc:"file that holds a passphrase"`
}

// Listen is one port.
type Listen struct {
	Address  string         `yaml:"address,required" doc:"host:port; an empty host is every address"`
	TLS      ListenTLS      `yaml:"tls,required" doc:"none, starttls or implicit"`
	Networks []netip.Prefix `yaml:"networks" doc:"with tls none: the only networks it serves"`
	Auth     ListenAuth     `yaml:"auth" doc:"required, or optional: a sender may then be known by its networks"`
}

// ListenTLS is how a listener does TLS.
type ListenTLS string

const (
	TLSNone     ListenTLS = "none"
	TLSStart    ListenTLS = "starttls"
	TLSImplicit ListenTLS = "implicit"
)

func (ListenTLS) Words() []string { return []string{"none", "starttls", "implicit"} }
func (v *ListenTLS) UnmarshalText(text []byte) error {
	return oneOf((*string)(v), text, v.Words())
}

// ListenAuth says whether a listener demands a login. The zero value demands it.
type ListenAuth string

const (
	AuthRequired ListenAuth = "required"
	AuthOptional ListenAuth = "optional"
)

func (ListenAuth) Words() []string { return []string{"required", "optional"} }
func (v *ListenAuth) UnmarshalText(text []byte) error {
	return oneOf((*string)(v), text, v.Words())
}

func oneOf(into *string, text []byte, words []string) error {
	for _, w := range words {
		if w == string(text) {
			*into = w
			return nil
		}
	}
	return fmt.Errorf("unknown value, use one of %s", strings.Join(words, ", "))
}

// Certificate names a key pair in PEM.
type Certificate struct {
	CertFile string `yaml:"cert_file" doc:"PEM chain, leaf first"`
	KeyFile  string `yaml:"key_file" doc:"PEM private key"`
}

// Limits bound what comes in.
type Limits struct {
	MessageSize yamlfile.Size     `yaml:"message_size" doc:"largest message; 25MiB if left out"`
	Recipients  int               `yaml:"recipients" doc:"most recipients of a message; 1000 if left out"`
	Connections int               `yaml:"connections" doc:"most connections at once; 1000 if left out"`
	PerNetwork  int               `yaml:"connections_per_network" doc:"most connections at once from one /32 (IPv6: /64); 250 if left out"`
	Memory      yamlfile.Size     `yaml:"memory" doc:"most memory for messages in flight; 512MiB if left out"`
	Timeout     yamlfile.Duration `yaml:"timeout" doc:"longest wait for a client; 5m if left out (RFC 5321 §4.5.3.2)"`
}

// Delivery says how mail leaves.
type Delivery struct {
	Resolver    []string          `yaml:"resolver" doc:"validating DNS resolvers, host:port; DNSSEC is believed only from loopback"`
	Port        int               `yaml:"port" doc:"SMTP port of recipients' servers; 25 if left out"`
	ExtraRoots  string            `yaml:"extra_roots_file" doc:"PEM certificates trusted besides the system's"`
	Retry       Retry             `yaml:"retry" doc:"when to try again"`
	Concurrency Concurrency       `yaml:"concurrency" doc:"how much at once"`
	Drain       yamlfile.Duration `yaml:"drain" doc:"how long a stopping gateway lets deliveries under way go on; 20s if left out"`
	Shaping     string            `yaml:"shaping_file" doc:"shaping.yaml: limits of each provider and what its replies mean; the shipped one if left out"`
	Routes      []Route           `yaml:"routes" doc:"domains that go to a named host instead of their MX"`
}

// Retry is the retry schedule: first, doubled up to max, until give_up.
type Retry struct {
	First  yamlfile.Duration `yaml:"first" doc:"5m if left out"`
	Max    yamlfile.Duration `yaml:"max" doc:"4h if left out"`
	GiveUp yamlfile.Duration `yaml:"give_up" doc:"72h if left out"`
}

// Concurrency bounds deliveries at once.
type Concurrency struct {
	Total          int `yaml:"total" doc:"200 if left out"`
	PerDestination int `yaml:"per_destination" doc:"20 if left out"`
}

// Route sends domains to a named host.
type Route struct {
	Domain string `yaml:"domain,required" doc:"a domain, or *.domain for all below it"`
	Host   string `yaml:"host,required" doc:"host name its certificate must carry"`
	Port   int    `yaml:"port" doc:"25 if left out"`
	Pin    Pin    `yaml:"pin" doc:"keys the host must have; only ever raises the floor"`
}

// Pin lists the keys a host may have.
type Pin struct {
	SPKI []string `yaml:"spki_sha256" doc:"SHA-256 of the subject public key info, base64"`
}

// Bounces is the listener for what other servers send back.
type Bounces struct {
	Domain   string   `yaml:"domain" doc:"domain of the return paths of senders with verp; its MX is this host"`
	Address  string   `yaml:"address" doc:"host:port, usually :25"`
	Feedback []string `yaml:"feedback" doc:"addresses registered for feedback loops, such as fbl@bounces.clinic.example"`
}

// Portal is the pickup site.
type Portal struct {
	Address     string            `yaml:"address" doc:"host:port"`
	URL         string            `yaml:"url" doc:"address of the site as patients see it; links are built from it alone"`
	Expiry      yamlfile.Duration `yaml:"expiry" doc:"how long a message waits; 720h if left out"`
	Phone       string            `yaml:"phone" doc:"the practice's number, shown on every page and notice"`
	Certificate Certificate       `yaml:"certificate" doc:"own certificate of the portal"`
}

// plain reports whether the site is served in clear, on loopback.
func (p Portal) plain() bool { return strings.HasPrefix(p.URL, "http:") }

// Console is the compliance console.
type Console struct {
	Address string `yaml:"address" doc:"host:port; loopback by default"`
	URL     string `yaml:"url" doc:"address of the console as people see it"`
}

// Metrics is the Prometheus endpoint.
type Metrics struct {
	Address string `yaml:"address" doc:"host:port"`
}

// DefaultConfig holds every default; files overwrite it.
func DefaultConfig() Config {
	return Config{
		Limits: Limits{MessageSize: 25 << 20, Recipients: 1000, Connections: 1000, PerNetwork: 250, Memory: 512 << 20, Timeout: yamlfile.Duration(5 * time.Minute)},
		Delivery: Delivery{
			Resolver:    []string{"127.0.0.1:53"},
			Port:        25,
			Retry:       Retry{First: yamlfile.Duration(5 * time.Minute), Max: yamlfile.Duration(4 * time.Hour), GiveUp: yamlfile.Duration(72 * time.Hour)},
			Concurrency: Concurrency{Total: 200, PerDestination: 20},
			Drain:       yamlfile.Duration(drainFor),
		},
		Portal: Portal{Expiry: yamlfile.Duration(720 * time.Hour)},
	}
}

// LoadConfig reads gateway.yaml. All mistakes come back at once as
// [yamlfile.Problems]; an unreadable file is an error of its own.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return ParseConfig(path, data)
}

// ParseConfig is LoadConfig for text that is already in hand; paths are
// relative to the folder of path.
func ParseConfig(path string, data []byte) (Config, error) {
	c := DefaultConfig()
	file, problems := yamlfile.Decode(path, data, &c)
	if file != nil {
		problems = append(problems, c.check(file)...)
	}
	if err := problems.Sorted().Err(); err != nil {
		return Config{}, err
	}
	if err := c.resolve(filepath.Dir(path)); err != nil {
		return Config{}, err
	}
	return c, nil
}

// resolve makes every path absolute.
func (c *Config) resolve(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if c.AdminSocket == "" {
		c.AdminSocket = filepath.Join(c.Data, "admin.sock")
	}
	for _, p := range []*string{
		&c.Data, &c.Policy, &c.Keys.Root.File, &c.Keys.Root.Passphrase, &c.AdminSocket, &c.Delivery.ExtraRoots, &c.Delivery.Shaping,
		&c.Certificate.CertFile, &c.Certificate.KeyFile, &c.Portal.Certificate.CertFile, &c.Portal.Certificate.KeyFile,
	} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return nil
}

// check returns what is wrong with the meaning of the values.
func (c *Config) check(f *yamlfile.File) yamlfile.Problems {
	k := checker{file: f}
	k.hostname("hostname", c.Hostname)
	k.root(c.Keys.Root)
	if f.Has("listen") && len(c.Listen) == 0 {
		k.say("listen", "no port listens", "name at least one address")
	}
	for i, l := range c.Listen {
		k.listen(fmt.Sprintf("listen[%d]", i), l, c.Certificate)
	}
	k.certificate("certificate", c.Certificate)
	k.limits(c.Limits)
	k.delivery(c.Delivery)
	k.bounces(c.Bounces)
	k.portal(c.Portal)
	k.address("console.address", c.Console.Address)
	k.address("metrics.address", c.Metrics.Address)
	return k.problems
}

// checker gathers problems of meaning; it looks only at values that were read
// without a mistake of form.
type checker struct {
	file     *yamlfile.File
	problems yamlfile.Problems
}

func (k *checker) say(path, what, hint string) {
	if k.file.Sound(path) {
		k.problems = append(k.problems, k.file.Problem(path, what, hint))
	}
}

func (k *checker) hostname(path, name string) {
	if k.file.Has(path) && (!strings.Contains(name, ".") || strings.ContainsAny(name, " @/:\t")) {
		k.say(path, "not a full host name", "write it like gateway.clinic.example")
	}
}

func (k *checker) root(r RootKey) {
	n := 0
	for _, s := range []string{r.File, r.Credential, r.Passphrase} {
		if s != "" {
			n++
		}
	}
	if k.file.Has("keys.root") && n != 1 {
		k.say("keys.root", "needs exactly one of file, systemd_credential, passphrase_file", "gateway init writes a key file")
	}
}

func (k *checker) address(path, addr string) {
	if addr == "" {
		return
	}
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		k.say(path, "not an address", `write host:port, such as "127.0.0.1:2525" or ":587"`)
	}
}

func (k *checker) listen(path string, l Listen, cert Certificate) {
	k.address(path+".address", l.Address)
	if l.TLS == TLSNone && len(l.Networks) == 0 {
		k.say(path, "a listener without TLS serves named networks only", "add networks: [127.0.0.0/8], or tls: starttls")
	}
	if (l.TLS == TLSStart || l.TLS == TLSImplicit) && cert.CertFile == "" {
		k.say(path+".tls", "TLS needs a certificate", "add certificate: {cert_file: tls.crt, key_file: tls.key}")
	}
}

func (k *checker) certificate(path string, c Certificate) {
	if (c.CertFile == "") != (c.KeyFile == "") {
		k.say(path, "cert_file and key_file belong together", "name both")
	}
}

func (k *checker) limits(l Limits) {
	for _, v := range []struct {
		path string
		ok   bool
	}{
		{"limits.message_size", l.MessageSize >= 1<<10},
		{"limits.recipients", l.Recipients >= 1},
		{"limits.connections", l.Connections >= 1},
		{"limits.connections_per_network", l.PerNetwork >= 1},
		{"limits.timeout", time.Duration(l.Timeout) >= time.Second},
	} {
		if !v.ok {
			k.say(v.path, "too small to take any mail", "leave it out for the default")
		}
	}
	if l.Memory < memoryPerByte*l.MessageSize {
		k.say("limits.memory", fmt.Sprintf("cannot hold one message of limits.message_size (it needs %d times that)", memoryPerByte), "raise memory or lower message_size")
	}
}

func (k *checker) delivery(d Delivery) {
	for i, r := range d.Resolver {
		k.address(fmt.Sprintf("delivery.resolver[%d]", i), r)
	}
	if d.Port < 1 || d.Port > 65535 {
		k.say("delivery.port", "not a port", "leave it out for 25")
	}
	if d.Concurrency.Total < 1 || d.Concurrency.PerDestination < 1 {
		k.say("delivery.concurrency", "nothing could be delivered", "both numbers are at least 1")
	}
	if d.Retry.First <= 0 || d.Retry.Max < d.Retry.First || d.Retry.GiveUp < d.Retry.First {
		k.say("delivery.retry", "times out of order", "first is above 0, and max and give_up are not below it")
	}
}

func (k *checker) bounces(b Bounces) {
	k.address("bounces.address", b.Address)
	if domain, err := mail.ASCIIDomain(b.Domain); b.Domain != "" && (err != nil || domain != b.Domain || !strings.Contains(domain, ".")) {
		k.say("bounces.domain", "not a domain", "write it like bounces.clinic.example, in lower case")
	}
	if (b.Domain == "") != (b.Address == "") {
		k.say("bounces", "domain and address belong together", `write bounces: {domain: bounces.clinic.example, address: ":25"}`)
	}
	for i, a := range b.Feedback {
		if _, err := mail.ParseAddress(a); err != nil {
			k.say(fmt.Sprintf("bounces.feedback[%d]", i), "not an address", "write it like fbl@bounces.clinic.example")
		}
	}
}

func (k *checker) portal(p Portal) {
	k.address("portal.address", p.Address)
	k.certificate("portal.certificate", p.Certificate)
	if p.Address == "" {
		return
	}
	if err := checkURL(p.URL); err != nil {
		k.say("portal.url", err.Error(), "write the address that patients see, such as https://secure.clinic.example")
	}
	if p.Expiry < yamlfile.Duration(time.Hour) {
		k.say("portal.expiry", "a message must wait for at least an hour", "leave it out for 720h")
	}
}

// checkURL refuses what could not stand in front of a pickup link. Clear text
// is for loopback only.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case s == "" || err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return errors.New("not a site address")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return errors.New("the site must be https")
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// Schema returns the JSON Schema of gateway.yaml, for editors.
func Schema() ([]byte, error) {
	return yamlfile.Schema(Config{}, "https://phigate.example/gateway.schema.json")
}
