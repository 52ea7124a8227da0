//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// startDNS signs the zones and runs NSD with them on port 5353 and Unbound,
// which validates, on port 53.
func (b *testbed) startDNS(ctx context.Context) error {
	good, err := b.pki.issue("postfix", kind{}, mxOf(postfixGood)...)
	if err != nil {
		return err
	}
	anchor, err := writeZones(good.tlsa())
	if err != nil {
		return err
	}
	if err := b.startNSD(ctx); err != nil {
		return err
	}
	return b.startUnbound(ctx, anchor)
}

const soa = `$TTL 60
@ SOA ns.test. hostmaster.test. 1 3600 600 86400 60
@ NS ns.test.
`

// zones are those that NSD serves, all of the way down from the root.
var zones = []string{".", "test", "signed.test", "bogus.test", "open.test", "clinic.test"}

// writeZones writes the zones and returns the DS record of the root.
func writeZones(tlsa string) (anchor string, err error) {
	var ds strings.Builder
	for _, z := range []string{"signed.test", "bogus.test"} {
		record, err := signZone(z, soa+zoneOf(z, tlsa))
		if err != nil {
			return "", err
		}
		ds.WriteString(record)
	}
	if err := spoil("bogus.test"); err != nil {
		return "", err
	}
	for z, text := range map[string]string{"open.test": zoneOf("open.test", ""), "clinic.test": "gateway A 127.0.0.1\n"} {
		if _, err := write("zones/"+z, soa+text); err != nil {
			return "", err
		}
	}
	text := soa + "ns A 127.0.0.1\n" + ds.String()
	for _, child := range []string{"signed", "bogus", "open", "clinic"} {
		text += child + " NS ns.test.\n"
	}
	record, err := signZone("test", text)
	if err != nil {
		return "", err
	}
	return signZone(".", soa+"test. NS ns.test.\nns.test. A 127.0.0.1\n"+record)
}

// zoneOf lists the records of the recipient domains below a zone.
func zoneOf(zone, tlsa string) string {
	var b strings.Builder
	for _, d := range domains {
		label, ok := strings.CutSuffix(d.name, "."+zone)
		if !ok {
			continue
		}
		fmt.Fprintf(&b, "%s MX 10 mx.%s\nmx.%s A %s\n", label, label, label, d.address)
		switch label {
		case "dane":
			fmt.Fprintf(&b, "_25._tcp.mx.dane TLSA %s\n", tlsa)
		case "wrong":
			fmt.Fprintf(&b, "_25._tcp.mx.wrong TLSA 3 1 1 %s\n", strings.Repeat("ab", 32))
		case "sts":
			fmt.Fprintf(&b, "_mta-sts.sts TXT \"v=STSv1; id=1;\"\nmta-sts.sts A %s\n", policyHost)
		}
	}
	return b.String()
}

// signZone signs a zone with one key and returns its DS record.
func signZone(zone, text string) (ds string, err error) {
	path, err := write("zones/"+fileOf(zone), text)
	if err != nil {
		return "", err
	}
	key, err := output("sh", "-c", "cd "+base+"/zones && ldns-keygen -k -a ECDSAP256SHA256 "+zone)
	if err != nil {
		return "", err
	}
	key = filepath.Join(base, "zones", strings.TrimSpace(key))
	if err := command("ldns-signzone", "-o", zone, "-f", path, path, key); err != nil {
		return "", err
	}
	record, err := os.ReadFile(key + ".ds")
	return string(record), err
}

// fileOf is the file name of a zone.
func fileOf(zone string) string {
	if zone == "." {
		return "root"
	}
	return zone
}

// spoil changes an address after signing, as an attacker on the path would.
func spoil(zone string) error {
	path := filepath.Join(base, "zones", zone)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	spoilt := strings.Replace(string(text), "\tA\t"+postfixGood, "\tA\t127.0.66.6", 1)
	if spoilt == string(text) {
		return fmt.Errorf("no address to spoil in %s", zone)
	}
	return os.WriteFile(path, []byte(spoilt), 0o644)
}

func (b *testbed) startNSD(ctx context.Context) error {
	conf := `server:
  ip-address: 127.0.0.1@5353
  username: ""
  chroot: ""
  zonesdir: "` + base + `/zones"
  database: ""
  pidfile: "` + base + `/nsd.pid"
  xfrdfile: ""
  zonelistfile: "` + base + `/nsd.zones"
  server-count: 1
remote-control:
  control-enable: no
`
	for _, z := range zones {
		conf += fmt.Sprintf("zone:\n  name: %s\n  zonefile: %s\n", z, fileOf(z))
	}
	path, err := write("nsd.conf", conf)
	if err != nil {
		return err
	}
	if err := b.daemon(ctx, "nsd", "nsd", "-d", "-c", path); err != nil {
		return err
	}
	return listening(ctx, "127.0.0.1:5353")
}

func (b *testbed) startUnbound(ctx context.Context, anchor string) error {
	keys, err := write("anchor.ds", anchor)
	if err != nil {
		return err
	}
	path, err := write("unbound.conf", `server:
  interface: 127.0.0.1
  access-control: 127.0.0.0/8 allow
  username: ""
  chroot: ""
  directory: "`+base+`"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  do-ip6: no
  module-config: "validator iterator"
  trust-anchor-file: "`+keys+`"
  do-not-query-localhost: no
  local-zone: "test." nodefault
  ede: yes
  val-log-level: 2
  cache-max-ttl: 5
  cache-max-negative-ttl: 1
stub-zone:
  name: "."
  stub-addr: 127.0.0.1@5353
stub-zone:
  name: "test."
  stub-addr: 127.0.0.1@5353
remote-control:
  control-enable: no
`)
	if err != nil {
		return err
	}
	if err := b.daemon(ctx, "unbound", "unbound", "-c", path); err != nil {
		return err
	}
	return listening(ctx, "127.0.0.1:53")
}
