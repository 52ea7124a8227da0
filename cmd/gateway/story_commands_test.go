package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/fakenet"
	"github.com/phigate/phigate/internal/keys"
)

// storyCommands are the commands of a script. One that returns an error says no.
func storyCommands() map[string]func(*testscript.TestScript, bool, []string) {
	commands := map[string]func(*story, *testscript.TestScript, []string) error{
		"edit": (*story).cmdEdit, "reload": (*story).cmdReload, "root-key": (*story).cmdRootKey,
		"mx": (*story).cmdMX, "fault": (*story).cmdFault, "sts": (*story).cmdSTS, "dns": (*story).cmdDNS,
		"consent": (*story).cmdConsent, "partner": (*story).cmdPartner, "suppress": (*story).cmdSuppress, "gateway": (*story).cmdGateway,
		"submit": (*story).cmdSubmit, "report": (*story).cmdReport, "talk": (*story).cmdTalk, "settle": (*story).cmdSettle, "advance": (*story).cmdAdvance,
		"received": (*story).cmdReceived, "show": (*story).cmdShow, "audit": (*story).cmdAudit, "next-try": (*story).cmdNextTry, "await": (*story).cmdAwait,
		"pickup": (*story).cmdPickup, "guess": (*story).cmdGuess, "scanner": (*story).cmdScanner, "link": (*story).cmdLink,
		"disk": (*story).cmdDisk, "crash": (*story).cmdCrash, "body": (*story).cmdBody, "hold": (*story).cmdHold, "password": (*story).cmdPassword,
		"site":     func(s *story, _ *testscript.TestScript, _ []string) error { return s.start() },
		"start":    func(s *story, _ *testscript.TestScript, _ []string) error { return s.start() },
		"shutdown": func(s *story, _ *testscript.TestScript, _ []string) error { return s.shutdown() },
		"reboot":   func(s *story, _ *testscript.TestScript, _ []string) error { return s.reboot() },
		"restart": func(s *story, _ *testscript.TestScript, _ []string) error {
			if err := s.shutdown(); err != nil {
				return err
			}
			return s.start()
		},
	}
	out := map[string]func(*testscript.TestScript, bool, []string){}
	for name, do := range commands {
		out[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			err := do(storyOf(ts), ts, args)
			if err != nil {
				fmt.Fprintln(ts.Stderr(), err)
			}
			if neg != (err != nil) {
				ts.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
			}
		}
	}
	return out
}

var errArgs = errors.New("wrong arguments, see TestStory")

// edit changes a text that must be there exactly once; \n stands for a line end.
func (s *story) cmdEdit(ts *testscript.TestScript, args []string) error {
	if len(args) != 3 {
		return errArgs
	}
	args[1], args[2] = strings.ReplaceAll(args[1], `\n`, "\n"), strings.ReplaceAll(args[2], `\n`, "\n")
	text := ts.ReadFile(args[0])
	if n := strings.Count(text, args[1]); n != 1 {
		ts.Fatalf("%s has %q %d times", args[0], args[1], n)
	}
	return os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o600)
}

func (s *story) cmdReload(*testscript.TestScript, []string) error { return s.site.Reload(s.ctx) }

// cmdRootKey puts another root key in place: a new one, or one that was kept.
func (s *story) cmdRootKey(ts *testscript.TestScript, args []string) error {
	path := filepath.Join(s.dir, "root.key")
	kept := ts.MkAbs(args[0])
	if args[0] != "new" {
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.Rename(kept, path)
	}
	if err := os.Rename(path, ts.MkAbs("kept.key")); err != nil {
		return err
	}
	return keys.CreateRoot(path)
}

func (s *story) cmdMX(_ *testscript.TestScript, args []string) error {
	d := fakenet.Domain{Name: args[0]}
	kind, faults := "", args[1:]
	if len(args) > 1 {
		kind, faults = args[1], args[2:]
	}
	switch kind {
	case "", "tls":
	case "mta-sts":
		d.STS = &fakenet.STS{Mode: "enforce"}
	case "dane":
		d.Signed, d.TLSA = true, true
	case "none":
		d.Cert = fakenet.None
	case "selfsigned":
		d.Cert = fakenet.SelfSigned
	case "wrongname":
		d.Cert = fakenet.WrongName
	case "expired":
		d.Cert = fakenet.Expired
	case "weak":
		d.MinTLS, d.MaxTLS = tls.VersionTLS10, tls.VersionTLS10
	case "null":
		d.NullMX = true
	default:
		faults = args[1:]
	}
	if len(faults) > 0 {
		if hosts, ok := strings.CutPrefix(faults[0], "hosts="); ok {
			d.MX, faults = strings.Split(hosts, ","), faults[1:]
		}
	}
	if err := readFaults(&d.Faults, faults); err != nil {
		return err
	}
	s.addDomain(d)
	return nil
}

func (s *story) cmdFault(_ *testscript.TestScript, args []string) error {
	var f fakenet.Faults
	if err := readFaults(&f, args[1:]); err != nil {
		return err
	}
	s.net.Host("mx." + args[0]).Set(f)
	return nil
}

// readFaults adds what a script says to a server's faults.
func readFaults(f *fakenet.Faults, words []string) (err error) {
	f.Replies, f.Recipients = map[fakenet.Stage]string{}, map[string]string{}
	for _, w := range words {
		key, value, more := strings.Cut(w, "=")
		n, number := strconv.Atoi(value)
		switch key {
		case "none":
		case "down":
			f.Down = true
		case "strip":
			f.Strip = true
		case "strip-after":
			f.Strip, f.StripAfter, err = true, n, number
		case "greylist":
			f.Greylist, err = n, number
		case "times":
			f.Times, err = n, number
		case "hang":
			f.Hang = fakenet.Stage(value)
		case "drop":
			f.Drop = fakenet.Stage(value)
		default:
			switch {
			case !more:
				err = errArgs
			case strings.Contains(key, "@"):
				f.Recipients[key] = value
			default:
				f.Replies[fakenet.Stage(key)] = value
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *story) cmdSTS(_ *testscript.TestScript, args []string) error {
	id := "1"
	if len(args) == 3 {
		id = args[2]
	}
	switch args[1] {
	case "gone":
		s.net.SetSTS(args[0], nil)
	case "broken":
		s.net.SetSTS(args[0], &fakenet.STS{Mode: "enforce", ID: id, Status: 500})
	default:
		s.net.SetSTS(args[0], &fakenet.STS{Mode: args[1], ID: id})
	}
	return nil
}

func (s *story) cmdDNS(_ *testscript.TestScript, args []string) error {
	faults := map[string]fakenet.DNSFault{"ok": fakenet.NoFault, "servfail": fakenet.ServFail, "bogus": fakenet.Bogus,
		"timeout": fakenet.Timeout, "refused": fakenet.Refused, "gone": fakenet.Gone, "unsigned": fakenet.Unsigned}
	f, ok := faults[args[2]]
	if !ok {
		return errArgs
	}
	s.net.SetDNS(args[0], args[1], f)
	return nil
}

// grant adds a record, with columns for what the script leaves out.
func (s *story) grant(ts *testscript.TestScript, kind string, cells []string, more []string) error {
	for _, m := range more {
		name, _, _ := strings.Cut(m, "=")
		cells = slices.DeleteFunc(cells, func(c string) bool { return strings.HasPrefix(c, name+"=") })
	}
	return s.cmdGateway(ts, append(append([]string{kind, "grant"}, cells...), more...))
}

func (s *story) cmdConsent(ts *testscript.TestScript, args []string) error {
	return s.grant(ts, "consent", []string{
		"address=" + args[0], "type=" + args[1], "purposes=" + args[2], "information=name, e-mail address and conditions under care",
		"discloser=Valley Clinic", "recipient=Valley Clinic and its mailing service", "signed_at=2024-02-10", "expires_at=2036-02-09",
		"method=e-sign", "signer=Ann Example", "statement_revocation=true", "statement_conditioning=true", "statement_redisclosure=true",
		"statement_remuneration=false", "document_sha256=" + strings.Repeat("6e", 32), "form_version=2024-01", "language=en", "source=portal",
	}, args[3:])
}

func (s *story) cmdPartner(ts *testscript.TestScript, args []string) error {
	return s.grant(ts, "partner", []string{
		"partner=" + args[0], "role=business_associate", "executed_at=2024-01-05", "effective_at=2024-01-15",
		"functions=create;receive;maintain;transmit", "document_sha256=" + strings.Repeat("6e", 32),
		"contact=legal@acme.example", "incident_contact=security@acme.example",
	}, args[1:])
}

func (s *story) cmdSuppress(ts *testscript.TestScript, args []string) error {
	return s.grant(ts, "suppression", []string{"address=" + args[0], "reason=" + args[1], "source=front desk", "at=2026-01-15"}, nil)
}

// cmdGateway runs a command line as a process beside the gateway would.
func (s *story) cmdGateway(ts *testscript.TestScript, args []string) error {
	args = slices.Clone(args)
	for i, a := range args {
		if _, err := os.Stat(ts.MkAbs(a)); err == nil && a != "" {
			args[i] = ts.MkAbs(a)
		}
	}
	args = append(args, "-c", filepath.Join(s.dir, "gateway.yaml"))
	if status := run(s.ctx, args, stdio{bytes.NewReader(nil), ts.Stdout(), ts.Stderr()}); status != exitDone {
		return fmt.Errorf("exit status %d", status)
	}
	return nil
}

// words is a flag that can be given several times.
type words []string

func (w *words) String() string     { return strings.Join(*w, " ") }
func (w *words) Set(v string) error { *w = append(*w, v); return nil }

func (s *story) cmdSubmit(ts *testscript.TestScript, args []string) error {
	f := flag.NewFlagSet("submit", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	as := f.String("as", "", "")
	from := f.String("from", "", "")
	login := f.String("login", "", "")
	var to words
	f.Var(&to, "to", "")
	if err := f.Parse(args); err != nil || f.NArg() != 1 {
		return errArgs
	}
	if *from == "" {
		*from = *as + "." + addressWord + "@valleyclinic.example"
	}
	tool := fakenet.Tool{Addr: s.site.Addresses()[0]}
	if *login != "" {
		tool = fakenet.Tool{Addr: s.site.Addresses()[1], Login: *login, Password: storyPassword, TLS: &tls.Config{InsecureSkipVerify: true}}
	}
	data := s.composed(*from, to, []byte(ts.ReadFile(f.Arg(0))))
	if err := marked(to, data); err != nil {
		ts.Fatalf("%s: %v", f.Arg(0), err)
	}
	answer, err := tool.Submit(s.ctx, *from, to, data)
	if err != nil {
		s.replies = append(s.replies, err.Error())
		return err
	}
	return s.answered(ts, to, answer)
}

// storyPassword is what `talk` and `submit -login` log in with.
const storyPassword = "correct horse battery staple"

// answered prints the replies and notes what was promised.
func (s *story) answered(ts *testscript.TestScript, to []string, a fakenet.Answer) error {
	refused := false
	for i, said := range a.Recipients {
		fmt.Fprintf(ts.Stdout(), "%s: %s\n", to[i], said)
		if strings.HasPrefix(said, "250") {
			continue // it repeats the address to the tool that said it
		}
		refused = true
		s.replies = append(s.replies, said)
	}
	fmt.Fprintln(ts.Stdout(), a.Message)
	s.replies = append(s.replies, a.Message)
	for i := range to {
		id := replyID.FindStringSubmatch(a.Final(i))
		if id == nil {
			continue
		}
		ts.Setenv("ID", id[1])
		if strings.HasPrefix(a.Final(i), "250") {
			s.submitted = append(s.submitted, submitted{id[1], to[i]})
		}
	}
	if refused || !strings.HasPrefix(a.Message, "250 ") {
		return errors.New("refused")
	}
	return nil
}

// composed adds the header fields that every tool adds.
func (s *story) composed(from string, to []string, text []byte) []byte {
	text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
	head, _, _ := bytes.Cut(text, []byte("\r\n\r\n"))
	head = bytes.ToLower(append([]byte("\r\n"), head...))
	var more strings.Builder
	for _, field := range [][2]string{
		{"From", from}, {"To", strings.Join(to, ", ")}, {"Date", "Tue, 06 Oct 2026 09:24:00 -0500"},
		{"Message-ID", fmt.Sprintf("<%s-%d@valleyclinic.example>", plainWord, len(s.replies))}, {"MIME-Version", "1.0"},
	} {
		if !bytes.Contains(head, []byte("\r\n"+strings.ToLower(field[0])+":")) {
			fmt.Fprintf(&more, "%s: %s\r\n", field[0], field[1])
		}
	}
	return append([]byte(more.String()), text...)
}

// marked makes sure that a leak of this mail would be seen.
func marked(to []string, data []byte) error {
	head, body, _ := bytes.Cut(data, []byte("\r\n\r\n"))
	for _, part := range [][]byte{head, body} {
		if !bytes.Contains(part, []byte(phiWord)) && !bytes.Contains(part, []byte(plainWord)) {
			return fmt.Errorf("neither %s nor %s stands in header and body", phiWord, plainWord)
		}
	}
	for _, a := range to {
		if !strings.Contains(strings.ToLower(a), addressWord) {
			return fmt.Errorf("a recipient without %s", addressWord)
		}
	}
	return nil
}

// cmdTalk sends each line of a file, or what it quotes, and prints the replies.
func (s *story) cmdTalk(ts *testscript.TestScript, args []string) error {
	f := flag.NewFlagSet("talk", flag.ContinueOnError)
	port := f.Int("port", 0, "")
	secure := f.Bool("tls", false, "")
	if err := f.Parse(args); err != nil || f.NArg() != 1 {
		return errArgs
	}
	conn, err := s.dial(*port, *secure)
	if err != nil {
		return err
	}
	defer conn.Close()
	text := textproto.NewConn(conn)
	if !*secure { // else it was read before the handshake
		if err := s.hear(ts, text); err != nil {
			return err
		}
	}
	for line := range strings.Lines(ts.ReadFile(f.Arg(0))) {
		line = strings.TrimSuffix(line, "\n")
		raw, err := strconv.Unquote(line)
		if err != nil {
			raw = line + "\r\n"
		}
		if _, err := io.WriteString(conn, raw); err != nil {
			return err
		}
		if err := s.hear(ts, text); err != nil {
			fmt.Fprintln(ts.Stdout(), "closed")
			return nil
		}
	}
	return nil
}

// cmdReport sends a file to the return path of the last mail for an address, or
// to another address, by way of the last port. RETURN in it is that return path.
func (s *story) cmdReport(ts *testscript.TestScript, args []string) error {
	f := flag.NewFlagSet("report", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	at := f.String("at", "", "")
	if err := f.Parse(args); err != nil || f.NArg() != 2 {
		return errArgs
	}
	box := s.net.Mailbox(f.Arg(0))
	if len(box) == 0 {
		return errors.New("nothing arrived")
	}
	path := box[len(box)-1].From
	if *at == "" {
		*at = path
	}
	ports := s.site.Addresses()
	text := strings.ReplaceAll(ts.ReadFile(f.Arg(1)), "RETURN", path)
	answer, err := fakenet.Tool{Addr: ports[len(ports)-1]}.Submit(s.ctx, "", []string{*at}, []byte(strings.ReplaceAll(text, "\n", "\r\n")))
	if err != nil {
		return err
	}
	fmt.Fprintln(ts.Stdout(), answer.Final(0))
	if !strings.HasPrefix(answer.Final(0), "250 ") {
		return errors.New("refused")
	}
	return nil
}

// dial connects to the nth port, and starts TLS there if it is to.
func (s *story) dial(n int, secure bool) (net.Conn, error) {
	conn, err := net.Dial("tcp", s.site.Addresses()[max(n, boolInt(secure))])
	if err != nil || !secure {
		return conn, err
	}
	text := textproto.NewConn(conn)
	for _, command := range []string{"", "EHLO tool.example\r\n", "STARTTLS\r\n"} {
		io.WriteString(conn, command)
		if _, _, err := text.ReadResponse(0); err != nil {
			return nil, err
		}
	}
	return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// hear prints a reply.
func (s *story) hear(ts *testscript.TestScript, text *textproto.Conn) error {
	code, said, err := text.ReadResponse(0)
	if err != nil && code == 0 {
		return err
	}
	fmt.Fprintf(ts.Stdout(), "%d %s\n", code, said)
	if id := replyID.FindStringSubmatch(said); id != nil {
		ts.Setenv("ID", id[1])
	}
	if code != 250 || !strings.Contains(said, "<") { // go-smtp repeats an address that it accepts
		s.replies = append(s.replies, said)
	}
	return nil
}

// cmdHold opens a connection and leaves it open, in the middle of a body if it is
// to, or closes those that are open.
func (s *story) cmdHold(ts *testscript.TestScript, args []string) error {
	switch strings.Join(args, " ") {
	case "none":
		for _, c := range s.held {
			c.Close()
		}
		s.held = nil
		return nil
	case "body":
		conn, err := s.dial(0, false)
		if err != nil {
			return err
		}
		s.held = append(s.held, conn)
		text := textproto.NewConn(conn)
		for _, line := range []string{"", "EHLO tool.example\r\n", "MAIL FROM:<ehr.zorblatt@valleyclinic.example>\r\n",
			"RCPT TO:<ann.zorblatt@tls.example>\r\n", "DATA\r\n"} {
			io.WriteString(conn, line)
			if err := s.hear(ts, text); err != nil {
				return err
			}
		}
		_, err = conn.Write(bytes.Repeat([]byte("quixarb and so on\r\n"), 600<<10/19))
		return err
	}
	conn, err := s.dial(0, false)
	if err == nil {
		s.held = append(s.held, conn)
		err = s.hear(ts, textproto.NewConn(conn))
	}
	return err
}

func (s *story) cmdPassword(_ *testscript.TestScript, args []string) error {
	return s.site.Registry().SetPassword(s.ctx, args[0], storyPassword, "story")
}

func (s *story) cmdSettle(*testscript.TestScript, []string) error {
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	return s.site.Idle(ctx)
}

func (s *story) cmdAdvance(_ *testscript.TestScript, args []string) error {
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	s.off.Add(int64(d))
	if s.site != nil {
		s.site.Queue().Kick()
	}
	return nil
}

// kindOf says what a mail in a mailbox is.
func kindOf(m fakenet.Message) string {
	switch text := plain(m.Data); {
	case bytes.Contains(text, []byte(phiWord)) || bytes.Contains(text, []byte("About "+plainWord)):
		return "mail"
	case pickupLink.Match(text):
		return "notice"
	case codeMail.Match(text):
		return "code"
	case bytes.Contains(text, []byte("multipart/report")):
		return "dsn"
	}
	return "other"
}

func (s *story) cmdReceived(ts *testscript.TestScript, args []string) error {
	box := s.net.Mailbox(args[0])
	for _, m := range box {
		how, signed := "clear", "unsigned"
		if m.TLS != nil {
			how = "tls"
		}
		if bytes.Contains(m.Data, []byte("DKIM-Signature:")) {
			signed = "signed"
		}
		fmt.Fprintln(ts.Stdout(), kindOf(m), how, signed)
		ts.Logf("%s", m.Data)
	}
	if len(box) == 0 {
		return errors.New("nothing arrived")
	}
	return nil
}

func (s *story) cmdShow(ts *testscript.TestScript, args []string) error {
	box := s.net.Mailbox(args[0])
	if len(box) == 0 {
		return errors.New("nothing arrived")
	}
	fmt.Fprintf(ts.Stdout(), "%s", box[len(box)-1].Data)
	return nil
}

// rows are the rows of the log about mail to an address, oldest first. Letters of
// our own have no sender and are left out.
func (s *story) rows(address string) ([]audit.Entry, error) {
	var out []audit.Entry
	for e, err := range s.site.Audit().List(s.ctx, audit.Reader{Who: "story"}, audit.Filter{}) {
		if err != nil {
			return nil, err
		}
		if e.Recipient.Clear() == address && e.Sender != "" {
			out = append(out, e)
		}
	}
	return out, nil
}

func (s *story) cmdAudit(ts *testscript.TestScript, args []string) error {
	rows, err := s.rows(args[0])
	for _, e := range rows {
		fmt.Fprintln(ts.Stdout(), strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Kind, e.Code, e.Codes["state"])))
	}
	if err == nil && len(rows) == 0 {
		err = errors.New("nothing is on record")
	}
	return err
}

// cmdAwait waits for what happens in its own time, such as the end of a hold.
func (s *story) cmdAwait(_ *testscript.TestScript, args []string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		rows, err := s.rows(args[0])
		if err != nil {
			return err
		}
		if slices.ContainsFunc(rows, func(e audit.Entry) bool { return string(e.Kind) == args[1] || e.Codes["state"] == args[1] }) {
			return nil
		}
		<-tick.C
	}
	return errors.New("it did not happen")
}

// cmdNextTry checks in how many minutes the queue will try an address again.
func (s *story) cmdNextTry(ts *testscript.TestScript, args []string) error {
	least, err1 := strconv.Atoi(args[1])
	most, err2 := strconv.Atoi(args[2])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	for _, m := range s.submitted {
		rows, err := s.site.Queue().Show(s.ctx, m.id)
		if err != nil || m.address != args[0] {
			continue
		}
		in := rows[0].Due.Sub(s.now()).Minutes()
		fmt.Fprintf(ts.Stdout(), "in %.1f minutes\n", in)
		if in < float64(least) || in > float64(most) {
			return errors.New("at another time")
		}
		return nil
	}
	return errors.New("nothing waits for this address")
}

func (s *story) cmdDisk(_ *testscript.TestScript, args []string) error {
	s.disk.set(args[0] == "full")
	return nil
}

func (s *story) cmdCrash(_ *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errArgs
	}
	s.crash(args[0], args[1])
	return nil
}

// cmdBody writes messages that are too long to stand in a script.
func (s *story) cmdBody(ts *testscript.TestScript, args []string) error {
	const head = "From: ehr.zorblatt@valleyclinic.example\r\nTo: ann.zorblatt@tls.example\r\nDate: Tue, 06 Oct 2026 09:24:00 -0500\r\n" +
		"Message-ID: <plumbago-large@valleyclinic.example>\r\nMIME-Version: 1.0\r\nSubject: About quixarb\r\n"
	const text = "Dear Ann, your HbA1c is 9.2 %. quixarb\r\n"
	const line = "seventy-eight bytes, so that a line is as long as people's are in the mail..\r\n"
	limit := int(s.config.Limits.MessageSize)
	var b bytes.Buffer
	b.WriteString(head)
	switch args[0] {
	case "exact", "over":
		b.WriteString("\r\n" + text)
		for b.Len()+2*len(line) < limit {
			b.WriteString(line)
		}
		b.WriteString(strings.Repeat("x", limit-b.Len()-2) + "\r\n")
		if args[0] == "over" {
			b.WriteString("x\r\n")
		}
	case "header":
		for b.Len() < 10<<20 {
			b.WriteString("X-Fill: " + line)
		}
		b.WriteString("\r\n" + text)
	case "deep":
		for i := range 200 {
			fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
		}
		b.WriteString("Content-Type: text/plain\r\n\r\n" + text)
	case "bomb":
		bomb, err := zipBomb(256)
		if err != nil {
			return err
		}
		b.WriteString("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n" + text +
			"--b\r\nContent-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n" +
			"Content-Disposition: attachment; filename=scan.zip\r\n\r\n")
		for chunk := range slices.Chunk(bomb, 57) {
			b.WriteString(base64.StdEncoding.EncodeToString(chunk) + "\r\n")
		}
		b.WriteString("--b--\r\n")
	default:
		return errArgs
	}
	return os.WriteFile(ts.MkAbs(args[1]), b.Bytes(), 0o600)
}

// zipBomb is a small archive of n MiB of zeros. One compressed MiB that ends on a
// byte is repeated: making the bomb must not take as long as it does harm.
func zipBomb(n int) ([]byte, error) {
	zeros := make([]byte, 1<<20)
	var piece bytes.Buffer
	w, err := flate.NewWriter(&piece, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	w.Write(zeros)
	w.Flush()
	sum := crc32.NewIEEE()
	for range n {
		sum.Write(zeros)
	}
	packed := append(bytes.Repeat(piece.Bytes(), n), 0x03, 0x00) // an empty last block (RFC 1951 §3.2.6)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	entry, err := z.CreateRaw(&zip.FileHeader{Name: "report.txt", Method: zip.Deflate, CRC32: sum.Sum32(),
		CompressedSize64: uint64(len(packed)), UncompressedSize64: uint64(n) << 20})
	if err != nil {
		return nil, err
	}
	entry.Write(packed)
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
