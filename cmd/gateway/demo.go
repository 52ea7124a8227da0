package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/configs"
	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/fakenet"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/testdata/campaign"
)

func (c *command) demo() *cobra.Command {
	var stay bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the gateway at work on a sample campaign; needs no setup, no root, no network",
		Long: "Starts a gateway in a temporary folder, recipient mail servers of several kinds and a DNS, all on\n" +
			"loopback, relays a clinic's sample campaign into it over SMTP and shows what became of each recipient.",
		Example: "  gateway demo --stay",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.live != nil {
				return usage(errors.New("demo does not run through the admin socket"))
			}
			return c.runDemo(cmd.Context(), stay)
		},
	}
	cmd.Flags().BoolVar(&stay, "stay", false, "keep the portal up afterwards, and print pickup codes as they are mailed")
	return cmd
}

func (c *command) runDemo(ctx context.Context, stay bool) (err error) {
	dir, err := os.MkdirTemp("", "gateway-demo-")
	if err != nil {
		return unreachable(err)
	}
	defer os.RemoveAll(dir)
	sample, err := campaign.Load()
	if err != nil {
		return err
	}
	d := &demo{command: c, dir: dir, sample: sample, paint: c.painter()}
	if d.net, err = fakenet.Start(ctx, fakenet.Options{}); err != nil {
		return unreachable(err)
	}
	defer d.net.Close()
	for _, s := range sample.Servers {
		d.net.Add(serverKind(s))
	}
	ctx, stop := context.WithCancel(ctx)
	ended, err := d.start(ctx)
	if err != nil {
		stop()
		return err
	}
	defer func() { // the gateway drains before its folder goes
		stop()
		err = errors.Join(err, <-ended, d.site.Close())
	}()
	if err := d.relay(ctx); err != nil {
		return err
	}
	if err := d.verify(ctx); err != nil {
		return err
	}
	if stay {
		return d.stay(ctx)
	}
	return nil
}

// demo is a running sample site and what was sent through it.
type demo struct {
	*command
	dir    string
	sample campaign.Campaign
	net    *fakenet.Net
	site   *gateway.Gateway
	tool   fakenet.Tool
	paint  painter
}

// serverKind is the mail server of a recipient domain.
func serverKind(s campaign.Server) fakenet.Domain {
	d := fakenet.Domain{Name: s.Domain}
	switch s.Kind {
	case "mta-sts":
		d.STS = &fakenet.STS{Mode: "enforce"}
	case "dane":
		d.Signed, d.TLSA = true, true
	case "none":
		d.Cert = fakenet.None
	case "broken":
		d.Cert = fakenet.Expired
	}
	return d
}

// start sets up the sample site: the shipped policy with the sample clinic's
// senders, its records, a password for all senders, signing keys.
func (d *demo) start(ctx context.Context) (ended <-chan error, err error) {
	cfg, err := d.configure()
	if err != nil {
		return nil, err
	}
	if d.site, err = gateway.Open(ctx, cfg, gateway.Options{Dial: d.net.Dial, Verb: runLive, Build: version()}); err != nil {
		return nil, unreachable(err)
	}
	if err := d.fill(ctx); err != nil {
		return nil, errors.Join(err, d.site.Close())
	}
	if err := d.site.Listen(); err != nil {
		return nil, unreachable(errors.Join(err, d.site.Close()))
	}
	d.tool.Addr = d.site.Addresses()[0]
	d.tool.TLS = &tls.Config{InsecureSkipVerify: true} // the sample certificate is self-signed; only loopback is spoken to
	done := make(chan error, 1)
	go func() { done <- d.site.Run(ctx) }()
	return done, nil
}

const demoConfig = `
hostname: gateway.valleyclinic.example
data: data
policy: policy.yaml
keys: {root: {file: root.key}}
listen: [{address: "127.0.0.1:0", tls: starttls, auth: required}]
certificate: {cert_file: tls.crt, key_file: tls.key}
delivery: {resolver: [%q], extra_roots_file: roots.pem}
portal: {address: %q, url: %q, phone: "+1 217 555 0142"}
`

func (d *demo) configure() (gateway.Config, error) {
	if err := gateway.Init(d.dir, "gateway.valleyclinic.example", time.Now()); err != nil {
		return gateway.Config{}, err
	}
	policy, err := campaign.Policy(configs.Policy)
	if err != nil {
		return gateway.Config{}, err
	}
	portal, err := freePort()
	if err != nil {
		return gateway.Config{}, unreachable(err)
	}
	path := filepath.Join(d.dir, "gateway.yaml")
	text := []byte(fmt.Sprintf(demoConfig, d.net.Resolver(), portal, "http://"+portal))
	for name, data := range map[string][]byte{"policy.yaml": policy, "roots.pem": d.net.RootsPEM(), "gateway.yaml": text} {
		if err := os.WriteFile(filepath.Join(d.dir, name), data, 0o600); err != nil {
			return gateway.Config{}, unreachable(err)
		}
	}
	return gateway.ParseConfig(path, text)
}

// fill imports the sample records and makes password and keys.
func (d *demo) fill(ctx context.Context) error {
	for _, f := range []struct {
		what registry.Kind
		name string
	}{{registry.Partners, "partners.csv"}, {registry.Consents, "consents.csv"}, {registry.Suppressions, "suppressions.csv"}} {
		file, err := campaign.Files.Open(f.name)
		if err != nil {
			return err
		}
		_, err = d.site.Registry().Import(ctx, f.what, f.name, file, registry.ImportOptions{By: "demo"})
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	var secret [16]byte
	rand.Read(secret[:]) // never fails (crypto/rand since Go 1.24)
	d.tool.Password = hex.EncodeToString(secret[:])
	for _, s := range d.site.Policy().Senders() {
		if err := d.site.Registry().SetPassword(ctx, s.Name, d.tool.Password, "demo"); err != nil {
			return err
		}
	}
	_, err := d.site.NewDKIM(ctx, "valleyclinic.example", "demo", "demo")
	return err
}

// relay submits the campaign as its senders would and prints each recipient's
// end once deliveries are done.
func (d *demo) relay(ctx context.Context) error {
	fmt.Fprintf(d.out, "%d mails of a clinic, relayed over SMTP (STARTTLS, AUTH) into %s:\n", len(d.sample.Mails), d.tool.Addr)
	ids := make([]map[string]store.ID, len(d.sample.Mails))
	for i, m := range d.sample.Mails {
		var err error
		if ids[i], err = d.submit(ctx, m); err != nil {
			return unreachable(fmt.Errorf("%s: %w", m.File, err))
		}
	}
	if err := d.site.Idle(ctx); err != nil {
		return unreachable(err)
	}
	for i, m := range d.sample.Mails {
		fmt.Fprintf(d.out, "\n%s\n", d.paint.bold(fmt.Sprintf("%2d  %s", i+1, m.Title)))
		for _, r := range m.To {
			if err := d.printEnd(ctx, r.Address, ids[i][r.Address]); err != nil {
				return err
			}
		}
	}
	return nil
}

// submit sends one mail and returns the id that decided for each recipient.
func (d *demo) submit(ctx context.Context, m campaign.Mail) (map[string]store.ID, error) {
	data, err := m.Data()
	if err != nil {
		return nil, err
	}
	tool := d.tool
	tool.Login = m.Sender
	to := make([]string, len(m.To))
	for i, r := range m.To {
		to[i] = r.Address
	}
	answer, err := tool.Submit(ctx, m.From, to, data)
	if err != nil {
		return nil, err
	}
	ids := map[string]store.ID{}
	for i, a := range to {
		id := replyID.FindStringSubmatch(answer.Final(i))
		if id == nil {
			return nil, fmt.Errorf("a reply without id: %s", answer.Final(i))
		}
		ids[a] = store.ID(id[1])
	}
	return ids, nil
}

var replyID = regexp.MustCompile(`\(id ([0-9a-v]{13})\)$`)

// end is what became of a recipient, from the audit log.
func (d *demo) end(ctx context.Context, address string, id store.ID) (last audit.Entry, err error) {
	for e, err := range d.site.Audit().List(ctx, audit.Reader{Who: "demo"}, audit.Filter{ID: id}) {
		if err != nil {
			return last, unreachable(err)
		}
		if e.Recipient.Clear() == address {
			last = e
		}
	}
	return last, nil
}

func (d *demo) printEnd(ctx context.Context, address string, id store.ID) error {
	e, err := d.end(ctx, address, id)
	if err != nil {
		return err
	}
	verdict, how := string(e.Kind), ""
	link := ""
	switch e.Kind {
	case audit.Delivered:
		how = "no TLS"
		if v := e.Codes["tls"]; v != "" {
			how = v + ", " + e.Codes["assurance"]
		} else if v := e.Evidence["tls"]; v != "" {
			how = v + ", " + e.Codes["assurance"]
		}
	case audit.Rejected:
		verdict = "refused"
	case audit.Pickup:
		link = d.link(address)
	}
	rule := e.Rule
	if how != "" {
		rule += " · " + how
	}
	fmt.Fprintf(d.out, "    %-30s %s %s  %s\n", address, d.paint.verdict(fmt.Sprintf("%-9s", verdict)), e.Code, rule)
	if link != "" {
		fmt.Fprintf(d.out, "      %s\n", link)
	}
	return nil
}

// link is the pickup link in the latest notice to an address.
func (d *demo) link(address string) string {
	box := d.net.Mailbox(address)
	for i := len(box) - 1; i >= 0; i-- {
		if l := pickupLink.Find(plain(box[i].Data)); l != nil {
			return string(l)
		}
	}
	return ""
}

var (
	pickupLink = regexp.MustCompile(`https?://[^\s"<>]+/p/[0-9a-v]{13}\.[A-Za-z0-9_-]+`)
	codeMail   = regexp.MustCompile(`(?m)^Subject: .*?\b([0-9]{6})\b`)
)

// plain undoes quoted-printable as far as a link needs it.
func plain(data []byte) []byte {
	data = bytes.ReplaceAll(data, []byte("=\r\n"), nil)
	return bytes.ReplaceAll(data, []byte("=3D"), []byte("="))
}

// verify proves the log, the last thing the demo shows.
func (d *demo) verify(ctx context.Context) error {
	r, err := d.site.Audit().Verify(ctx)
	if err != nil {
		return unreachable(err)
	}
	if !r.OK() {
		return no(fmt.Errorf("the audit log does not verify: %s", strings.Join(r.Problems, "; ")))
	}
	fmt.Fprintf(d.out, "\nEvery line above is in the audit log: %d leaves, verified, root %.16s…\n", r.Leaves, r.Root)
	return nil
}

// stay keeps the site up and prints pickup codes as they reach the sample mail
// servers, since nobody can read those mailboxes.
func (d *demo) stay(ctx context.Context) error {
	fmt.Fprintf(d.out, "\nThe pickup links work in a browser. Pickup codes are printed here as they are mailed.\n"+
		"SMTP %s (STARTTLS, AUTH PLAIN; any sender such as mailer-a, password %s). Ctrl-C ends it.\n", d.tool.Addr, d.tool.Password)
	seen := map[string]int{}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, h := range d.net.Hosts() {
			messages := h.Messages()
			for _, m := range messages[min(seen[h.Name], len(messages)):] {
				if code := codeMail.FindSubmatch(m.Data); code != nil && seen[h.Name] > 0 {
					fmt.Fprintf(d.out, "code for %s: %s\n", m.Rcpt[0].Address, code[1])
				}
			}
			seen[h.Name] = len(messages)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
