package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/phigate/phigate/configs"
	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/fakenet"
	"github.com/phigate/phigate/internal/store/bolt"
)

// TestStory plays the scripts of testdata/script. Each has a gateway of its own,
// whole and in this process, on a small internet of its own, and a clock that
// only the script moves beyond real time. The shipped policy is in force for the
// senders of storySenders, who are known by their address (see submit).
//
// What a story sends is marked. Every message holds phiWord or, if it may travel
// in clear, plainWord, in subject and body; every address holds addressWord. When
// a story has ended, whatever it was about, ended looks for these words where they
// must not be, and proves that the log verifies, that each accepted recipient has
// exactly one end, that nobody got a message twice, and that no goroutine is left.
//
// Commands, besides those of testscript (exec, cmp, stdout, stderr, grep, env …).
// A "!" in front means that the command must say no.
//
//	edit FILE OLD NEW     change a text of gateway.yaml or policy.yaml; \n is a line end
//	site                  open the gateway and let it run
//	shutdown, start       stop it in good order; open it again
//	restart               both
//	reload                read policy and certificates again, as SIGHUP does
//	root-key new|FILE     put another root key in place; the one before becomes kept.key
//	password SENDER       give a sender the password that submit -login uses
//
//	mx DOMAIN [KIND] [hosts=A,B] [FAULT…]   a mail domain; KIND is tls (the default), mta-sts, dane, none,
//	                      selfsigned, wrongname, expired, weak (TLS 1.0) or null (RFC 7505)
//	fault DOMAIN FAULT…   what its server does wrong from now on: none, down, strip,
//	                      strip-after=N, greylist=N, hang=STAGE, drop=STAGE, times=N,
//	                      STAGE=REPLY, ADDRESS=REPLY (STAGE: CONNECT EHLO STARTTLS MAIL RCPT DATA .)
//	sts DOMAIN MODE|gone|broken [ID]   change its MTA-STS policy
//	dns NAME TYPE FAULT   ok, servfail, timeout, refused, gone, bogus or unsigned
//
//	consent ADDRESS TYPE PURPOSES [COLUMN=VALUE…]    a sound record, but for what is given
//	partner NAME [COLUMN=VALUE…]                     a contract in force, but for what is given
//	suppress ADDRESS REASON
//	gateway ARGS…         any command line, through the admin socket of the running gateway
//
//	submit -as SENDER [-from A] [-to A]… [-login NAME] FILE    as a marketing tool does; prints
//	                      every reply, and says no unless all recipients are accepted. Header
//	                      fields that a tool would add are added. $ID is the id of the last reply.
//	report [-at TO] ADDRESS FILE   bring FILE to the return path of the last mail for ADDRESS, or to TO, by
//	                      the last port; RETURN in it is that return path
//	talk [-port N] [-tls] FILE   an SMTP conversation, line by line; a quoted line is sent as it stands
//	body KIND FILE        write a large message: exact, over, header, deep, bomb
//	settle                wait until nothing is being sent and nothing is due
//	advance DURATION      move the clock
//	received ADDRESS      what its mailbox holds: kind (mail, notice, code, dsn), tls or clear, signed or not
//	show ADDRESS          the last mail in it, as it arrived
//	audit ADDRESS         its rows of the log: event and code
//	await ADDRESS EVENT   wait until the log has such a row
//	next-try ADDRESS MIN MAX   in how many minutes the queue will try it again
//
//	pickup ADDRESS        follow the link of its last notice as a person does, and print the page
//	guess ADDRESS N       ask for a code and type in another one N times; prints each status
//	scanner ADDRESS       follow it as mail scanners do: GET, HEAD, submit every form
//	link ADDRESS          open it once and print status and page
//
//	disk full|ok          every write of the store fails, or none does
//	crash POINT OPERATION the machine stops when an operation of the store (Accept, Lease, Finish …)
//	                      passes POINT (before-commit, after-commit …)
//	reboot                wait for that, and start on what was on the disk at that moment
//	hold [body|none]      open a connection to the gateway and leave it open, in the middle of a
//	                      large body; or close all of them
func TestStory(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "../../testdata/script",
		Setup:               newStory,
		Cmds:                storyCommands(),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// Words that mark what a story sends.
const (
	phiWord     = "quixarb"
	plainWord   = "plumbago"
	addressWord = "zorblatt"
)

// storySenders is the top of a story's policy; the rest is the shipped file.
const storySenders = `version: 1
organization:
  name: Valley Clinic
  kind: covered_entity
  domains: [valleyclinic.example]
  postal_address: "12 Main St, Springfield, IL 62701"
senders:
  - {name: ehr, login: ehr, networks: [127.0.0.0/8], from: [ehr.zorblatt@valleyclinic.example], partner: self, class: treatment_ops, audience: patients, remuneration: none}
  - {name: vendor, networks: [127.0.0.0/8], from: [vendor.zorblatt@valleyclinic.example], partner: acme-mailer, class: treatment_ops, audience: patients, remuneration: none}
  - {name: mailer, networks: [127.0.0.0/8], from: [mailer.zorblatt@valleyclinic.example], partner: acme-mailer, class: marketing, audience: patients, remuneration: none}
  - {name: news, networks: [127.0.0.0/8], from: [news.zorblatt@valleyclinic.example], partner: acme-mailer, class: general_commercial, audience: public, remuneration: none}
  - {name: nobaa, networks: [127.0.0.0/8], from: [nobaa.zorblatt@valleyclinic.example], class: treatment_ops, audience: patients, remuneration: none}
  - {name: therapy, networks: [127.0.0.0/8], from: [therapy.zorblatt@valleyclinic.example], partner: self, class: psychotherapy, audience: patients, remuneration: none}
  - {name: recovery, networks: [127.0.0.0/8], from: [recovery.zorblatt@valleyclinic.example], partner: self, class: part2, audience: patients, remuneration: none}
  - {name: referrals, networks: [127.0.0.0/8], from: [referrals.zorblatt@valleyclinic.example], partner: self, class: org_to_org, audience: patients, remuneration: none}
  - {name: giving, networks: [127.0.0.0/8], from: [giving.zorblatt@valleyclinic.example], partner: self, class: fundraising, audience: patients, remuneration: none}
`

// storyConfig is gateway.yaml. The first port is for tools on trusted networks.
const storyConfig = `hostname: gateway.valleyclinic.example
data: data
policy: policy.yaml
keys: {root: {file: root.key}}
listen:
  - {address: "127.0.0.1:0", tls: none, networks: [127.0.0.0/8], auth: optional}
  - {address: "127.0.0.1:0", tls: starttls, auth: required}
certificate: {cert_file: tls.crt, key_file: tls.key}
limits: {message_size: 1MiB, recipients: 1000, connections: 1000, memory: 512MiB, timeout: 5m}
delivery:
  resolver: [%q]
  extra_roots_file: roots.pem
  retry: {first: 5m, max: 4h, give_up: 72h}
portal: {address: %q, url: "http://%[2]s", phone: "+1 217 555 0142"}
metrics: {address: %q}
`

// story is one script's world.
type story struct {
	t    testing.TB
	name string
	dir  string
	ctx  context.Context
	net  *fakenet.Net
	logs logBuffer
	off  atomic.Int64 // how far the clock is ahead of real time

	site *gateway.Gateway // nil while it is down
	stop context.CancelFunc
	done chan error

	config    gateway.Config
	domains   []string
	replies   []string // all that was said to tools
	submitted []submitted
	repeats   int        // how often a message may have arrived again: once per crash
	held      []net.Conn // tools that keep their connection open

	disk diskFault
}

// submitted is a message that was accepted for a recipient under an id.
type submitted struct{ id, address string }

type storyKey struct{}

func storyOf(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

// newStory lays out the files of a site and starts a small internet.
func newStory(env *testscript.Env) error {
	t := env.T().(testing.TB)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	env.Defer(cancel)
	s := &story{t: t, name: t.Name(), dir: env.WorkDir, ctx: ctx}
	env.Values[storyKey{}] = s
	var err error
	if s.net, err = fakenet.Start(ctx, fakenet.Options{Clock: s.now}); err != nil {
		return err
	}
	env.Defer(s.ended)
	env.Setenv("TOMORROW", s.now().AddDate(0, 0, 1).Format(time.DateOnly))
	env.Setenv("BUSY", s.net.Resolver()) // an address that is taken
	s.addDomain(fakenet.Domain{Name: "valleyclinic.example"})
	return s.layOut()
}

func (s *story) now() time.Time { return time.Now().Add(time.Duration(s.off.Load())) }

// layOut writes gateway.yaml, policy.yaml, keys and certificates.
func (s *story) layOut() error {
	if err := gateway.Init(s.dir, "gateway.valleyclinic.example", s.now()); err != nil {
		return err
	}
	portal, err := freePort()
	if err != nil {
		return err
	}
	metrics, err := freePort()
	if err != nil {
		return err
	}
	_, rules, found := bytes.Cut(configs.Policy, []byte("\ndetection:"))
	if !found {
		return errors.New("the shipped policy has no detection section after its senders")
	}
	if err := os.Remove(filepath.Join(s.dir, "policy_test.yaml")); err != nil { // about senders that are not here
		return err
	}
	for name, text := range map[string]string{
		"gateway.yaml": fmt.Sprintf(storyConfig, s.net.Resolver(), portal, metrics),
		"policy.yaml":  storySenders + "detection:" + string(rules),
		"roots.pem":    string(s.net.RootsPEM()),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) addDomain(d fakenet.Domain) {
	s.net.Add(d)
	s.domains = append(s.domains, d.Name)
}

// start opens the gateway and lets it run. Its goroutines carry the story's
// name, so that those of other stories are not taken for them.
func (s *story) start() (err error) {
	if s.config, err = gateway.LoadConfig(filepath.Join(s.dir, "gateway.yaml")); err != nil {
		return err
	}
	labels := pprof.Labels("story", s.name)
	log := slog.New(slog.NewTextHandler(&s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var site *gateway.Gateway
	pprof.Do(s.ctx, labels, func(ctx context.Context) {
		site, err = gateway.Open(ctx, s.config, gateway.Options{
			Log: log, Clock: s.now, Dial: s.net.Dial, Build: "story", Verb: runLive,
			Store: func(o bolt.Options) bolt.Options { o.Fault = s.disk.pass; return o },
		})
	})
	if err != nil {
		return err
	}
	if err := site.Listen(); err != nil {
		return errors.Join(err, site.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	s.site, s.stop, s.done = site, stop, make(chan error, 1)
	go pprof.Do(ctx, labels, func(ctx context.Context) { s.done <- site.Run(ctx) })
	return nil
}

// shutdown lets the gateway drain, and closes it.
func (s *story) shutdown() error {
	if s.site == nil {
		return nil
	}
	s.stop()
	err := errors.Join(<-s.done, s.site.Close())
	s.site = nil
	return err
}

// logBuffer keeps what the gateway logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

// diskFault is what the store's disk does wrong.
type diskFault struct {
	mu      sync.Mutex
	full    bool
	at      bolt.Point // of the crash that is planned
	in      string     // the operation; "": none is planned
	crashed chan struct{}
	image   func() error // keeps the disk as it is at the crash
}

var (
	errDiskFull = errors.New("no space left on device")
	errPowerOff = errors.New("the machine has stopped")
)

// pass is the store's fault hook.
func (d *diskFault) pass(p bolt.Point) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over() {
		return errPowerOff
	}
	if d.full && (p == bolt.BodyWrite || p == bolt.BeforeCommit) {
		return errDiskFull
	}
	if d.in == "" || p != d.at || !calledBy("bolt.(*Store)."+d.in+"(") {
		return nil
	}
	defer close(d.crashed)
	return errors.Join(errPowerOff, d.image())
}

// over reports whether the machine has stopped. Call it with mu held.
func (d *diskFault) over() bool {
	if d.crashed == nil {
		return false
	}
	select {
	case <-d.crashed:
		return true
	default:
		return false
	}
}

func (d *diskFault) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// calledBy reports whether a function is on the stack.
func calledBy(name string) bool {
	stack := make([]byte, 16<<10)
	return bytes.Contains(stack[:runtime.Stack(stack, false)], []byte(name))
}

// plan makes the machine stop when an operation passes a point.
func (d *diskFault) plan(at bolt.Point, in string, image func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at, d.in, d.image, d.crashed = at, in, image, make(chan struct{})
}

// mend forgets the crash.
func (d *diskFault) mend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at, d.in, d.crashed = "", "", nil
}

// crash keeps a copy of the data folder when the machine stops.
func (s *story) crash(at, in string) {
	point := bolt.Point(strings.ReplaceAll(at, "-", " "))
	s.disk.plan(point, in, func() error { return copyFiles(s.config.Data, filepath.Join(s.dir, "disk")) })
}

// copyFiles copies the regular files of a folder; the admin socket is none.
func copyFiles(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case e.IsDir():
			return os.MkdirAll(target, 0o700)
		case !e.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o600)
	})
}

// reboot waits for the crash and starts on the copy. What the dying process still
// does, it does to a folder that nobody will read.
func (s *story) reboot() error {
	select {
	case <-s.disk.crashed:
	case <-time.After(20 * time.Second):
		return errors.New("the store never passed that point")
	}
	s.stop()
	s.disk.mend() // lets the old process end
	if err := s.shutdown(); err != nil {
		return err
	}
	if err := os.RemoveAll(s.config.Data); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.dir, "disk"), s.config.Data); err != nil {
		return err
	}
	s.repeats++
	return s.start()
}
