package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/time/rate"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
	"github.com/phigate/phigate/queue/bounce"
)

// What comes back: bounces that other servers send after they took a message
// (RFC 3464), and complaints from feedback loops (RFC 5965). The listener takes
// mail for return paths that this site wrote itself and for the feedback
// addresses of gateway.yaml, and for nobody else; nothing leaves it, and nothing
// of what comes in is kept but codes. A report proves nothing by itself: only the
// token of a return path says which message it is about, so one that is made up
// changes nothing.

// Bounds on what strangers may bring.
const (
	returnSize        = 1 << 20
	returnConns       = 100
	returnsPerNetwork = 20 // connections
	returnRecipients  = 20
	returnRate        = rate.Limit(10) // messages a second from one network
	returnBurst       = 200
	returnMistakes    = 5 // wrong recipients before a connection ends
	returnTimeout     = time.Minute
)

// intake takes what comes back.
type intake struct {
	g       *Gateway
	clients *clients
	one     sync.Mutex // a report is looked up and recorded before the next

	mu    sync.Mutex
	paces map[netip.Prefix]*rate.Limiter // by network; guarded by mu
}

func newIntake(g *Gateway) *intake {
	return &intake{g: g, paces: map[netip.Prefix]*rate.Limiter{},
		clients: &clients{limit: returnConns, turned: g.metrics.turnedAway.Inc, open: map[*conn]struct{}{}}}
}

// allowed counts one message of a network.
func (in *intake) allowed(a netip.Addr) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	now := in.g.clock()
	key := network(a)
	if len(in.paces) >= failureHosts {
		maps.DeleteFunc(in.paces, func(_ netip.Prefix, l *rate.Limiter) bool { return l.TokensAt(now) >= returnBurst })
	}
	l := in.paces[key]
	if l == nil {
		l = rate.NewLimiter(returnRate, returnBurst)
		in.paces[key] = l
	}
	return l.AllowN(now, 1)
}

func (g *Gateway) serveReturns(ctx context.Context) error {
	busy := fmt.Sprintf("421 4.3.2 %s too many connections, try again later\r\n", g.cfg.Hostname)
	return serveMail(ctx, g.intake.server(), &listener{Listener: g.returns, clients: g.intake.clients, busy: busy}, g.intake.clients)
}

func (in *intake) server() *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &returning{in: in, conn: c, client: remoteAddr(c.Conn())}, nil
	}))
	s.Domain = in.g.cfg.Hostname
	s.MaxRecipients = returnRecipients
	s.MaxMessageBytes = returnSize
	s.MaxLineLength = 64 << 10
	s.ReadTimeout, s.WriteTimeout = returnTimeout, returnTimeout
	s.ErrorLog = quiet
	if in.g.cert.Load() != nil {
		s.TLSConfig = in.g.serverTLS()
	}
	return s
}

// returning is one conversation with a server that brings something back.
type returning struct {
	in       *intake
	conn     *smtp.Conn
	client   netip.Addr
	mistakes int

	mu sync.Mutex
	to []store.EnvelopeID // "" is a feedback address; guarded by mu, as go-smtp reads BDAT beside RSET
}

func (s *returning) Reset()        { s.mu.Lock(); s.to = nil; s.mu.Unlock() }
func (s *returning) Logout() error { return nil }

// Mail takes any sender: a bounce comes from nobody, a complaint from a
// provider, and neither is believed for that.
func (s *returning) Mail(string, *smtp.MailOptions) error {
	s.Reset()
	if !s.in.allowed(s.client) {
		return replyError(451, "4.7.1", "Too many messages from your network, try again later", "")
	}
	return nil
}

func (s *returning) Rcpt(to string, _ *smtp.RcptOptions) error {
	id, ok := s.in.g.verp().open(policy.Address(to), s.in.g.clock())
	if !ok && !s.in.feedback(to) {
		s.mistakes++
		s.in.g.metrics.returns.WithLabelValues("refused").Inc()
		if s.mistakes >= returnMistakes {
			say(s.conn, 421, "4.7.0", "Too many wrong addresses, closing connection")
			s.conn.Close()
		}
		return replyError(550, "5.1.1", "No such address here", "")
	}
	socketOf(s.conn).welcome()
	s.mu.Lock()
	s.to = append(s.to, id)
	s.mu.Unlock()
	return nil
}

// feedback reports whether an address is one of those for feedback loops.
func (in *intake) feedback(to string) bool {
	return slices.ContainsFunc(in.g.cfg.Bounces.Feedback, func(a string) bool { return policy.Address(a).Key() == policy.Address(to).Key() })
}

// Data reads one report and does what it says, if it may. 250 is said after the
// commit.
func (s *returning) Data(r io.Reader) (err error) {
	g := s.in.g
	defer func() {
		if recover() != nil { // go-smtp would print the value, which may be mail
			g.log.Error("panic while reading a report")
			err = smtpReply("HG-S902", "")
		}
	}()
	if !g.memory.take(returnSize) {
		return replyError(452, "4.3.1", "No memory for the message now, try again later", "")
	}
	defer g.memory.give(returnSize)
	socketOf(s.conn).work(returnTimeout)
	defer socketOf(s.conn).rest()
	data, err := io.ReadAll(r)
	if err != nil {
		return err // go-smtp's own: too large, or the connection is gone
	}
	s.mu.Lock()
	to := s.to
	s.mu.Unlock()
	ctx, cancel := g.requestContext()
	defer cancel()
	if err := s.in.receive(ctx, to, mail.ReadReport(data)); err != nil {
		g.metrics.storeErrors.Inc()
		g.log.Error("report not recorded", "err", err)
		return smtpReply("HG-S901", "")
	}
	return replyError(250, "2.0.0", "accepted", "")
}

// receive does what a report says for each envelope it came to. One that came to
// a feedback address names its envelope by a return path it quotes.
func (in *intake) receive(ctx context.Context, to []store.EnvelopeID, r mail.Report) error {
	var about []store.EnvelopeID
	for _, id := range to {
		if id == "" && r.Kind == mail.Complaint {
			about = append(about, in.quoted(r)...)
		} else if id != "" {
			about = append(about, id)
		}
	}
	slices.Sort(about)
	if about = slices.Compact(about); len(about) == 0 {
		in.g.metrics.returns.WithLabelValues("unmatched").Inc()
	}
	for _, id := range about {
		what, err := in.record(ctx, id, r)
		if err != nil {
			return err
		}
		in.g.metrics.returns.WithLabelValues(what).Inc()
	}
	return nil
}

// quoted are the envelopes whose return paths a report quotes.
func (in *intake) quoted(r mail.Report) []store.EnvelopeID {
	var out []store.EnvelopeID
	for _, p := range r.Paths {
		if id, ok := in.g.verp().open(p, in.g.clock()); ok {
			out = append(out, id)
		}
	}
	return out
}

// record commits what a report changes about one delivered envelope, and says
// what that was. A repeated report changes nothing.
func (in *intake) record(ctx context.Context, id store.EnvelopeID, r mail.Report) (what string, err error) {
	in.one.Lock()
	defer in.one.Unlock()
	past, err := in.g.audit.Of(ctx, id.Message())
	if err != nil {
		return "", err
	}
	sent, told := history(past, id)
	if sent == nil || sent.Redacted {
		return "unmatched", nil
	}
	var fx store.Effects
	switch {
	case r.Kind == mail.Complaint && !told[audit.Complained]:
		what, fx = "complained", in.complained(sent)
	case r.Kind == mail.Bounce && !told[audit.Bounced]:
		what, fx = in.bounced(past[0].Time, sent, r)
	case r.Kind == "":
		return "other", nil
	default:
		return "repeated", nil
	}
	if len(fx.Leaves) == 0 {
		return what, nil
	}
	if err := in.g.store.Apply(ctx, fx); err != nil {
		return "", err
	}
	in.g.queue.Kick()
	return what, nil
}

// history finds the delivery of an envelope, and what was reported of it since.
func history(past []audit.Entry, id store.EnvelopeID) (sent *audit.Entry, told map[audit.Kind]bool) {
	told = map[audit.Kind]bool{}
	for i, e := range past {
		switch {
		case e.Envelope != id:
		case e.Kind == audit.Delivered:
			sent = &past[i]
		case e.Codes["by"] == byReport:
			told[e.Kind] = true
		}
	}
	return sent, told
}

// byReport marks leaves of what another server told afterwards.
const byReport = "report"

// leaf is the leaf of a report about a delivery: the same message, recipient,
// consent and facts.
func (in *intake) leaf(kind audit.Kind, sent *audit.Entry, code policy.Code, codes map[string]string) store.Leaf {
	e := sent.Event
	codes["by"] = byReport
	e.Time, e.Kind, e.Code, e.Policy = in.g.clock(), kind, code, in.g.rules().Hash()
	e.Codes, e.Evidence = codes, nil
	return in.g.audit.Leaf(e)
}

// complained opts a recipient out at once (16 CFR 316.5): mail that waits is
// looked at again before it leaves.
func (in *intake) complained(sent *audit.Entry) store.Effects {
	fx := store.Effects{Leaves: []store.Leaf{in.leaf(audit.Complained, sent, sent.Code, map[string]string{})}}
	in.g.suppressed(&fx, sent.Envelope, registry.Suppression{Address: sent.Recipient, Reason: registry.Complaint, Source: "feedback report"})
	return fx
}

// bounced records a delivery that failed behind the server that took it, and
// tells the sender, to whom no report came.
func (in *intake) bounced(accepted time.Time, sent *audit.Entry, r mail.Report) (string, store.Effects) {
	said, ours := about(r.Recipients, sent.Recipient)
	if said.Action != mail.Failed {
		return cmp.Or(string(said.Action), "other"), store.Effects{}
	}
	end := ending{reply: replyIn(said)}
	end.about = bounce.Shipped().Classify(end.reply)
	if !ours && end.about.Class == bounce.RecipientBad {
		end.about = bounce.Verdict{Class: bounce.Unknown, Rule: "forwarded"} // it was taken, and sent on to a bad one
	}
	codes, code := map[string]string{}, sent.Code.Expired()
	end.codes(codes)
	fx := store.Effects{Leaves: []store.Leaf{in.leaf(audit.Bounced, sent, code, codes)}}
	if end.about.Class == bounce.RecipientBad {
		in.g.suppressed(&fx, sent.Envelope, in.g.hardBounce(sent.Recipient))
	}
	if wantsFailure(sent.Codes["notify"]) {
		m := store.Message{ID: sent.ID, Sender: sent.Sender, Return: sent.Return.Clear(), Accepted: accepted}
		err := in.g.addDSN(&fx, m, mail.Status{Recipient: sent.Recipient, Action: mail.Failed, Enhanced: end.status(code),
			Class: string(end.about.Class), Code: code, Reply: end.said()})
		if err != nil {
			in.g.log.Error("DSN not made", "envelope", sent.Envelope, "err", err)
		}
	}
	return "bounced", fx
}

// about is what a report says of a recipient, and whether it names it. A report
// that names nobody was sent to a return path that only this recipient has.
func about(all []mail.Reported, to policy.Address) (r mail.Reported, ours bool) {
	names := func(a policy.Address) bool { return a != "" && a.Key() == to.Key() }
	for _, r := range all {
		if names(r.Final) || r.Final == "" && names(r.Original) {
			return r, true
		}
	}
	if len(all) == 0 {
		return mail.Reported{}, false
	}
	return all[0], len(all) == 1 && all[0].Final == "" && all[0].Original == ""
}

// replyIn is the reply behind a report: that of its Diagnostic-Code, with the
// status in place of an enhanced code that is missing.
func replyIn(r mail.Reported) bounce.Reply {
	reply := bounce.Parse(r.Diagnostic)
	if reply.Enhanced == "" {
		reply.Enhanced = r.Status
	}
	if reply.Code == 0 && reply.Enhanced == "" {
		reply.Enhanced = "5.0.0" // the action says failed, and nothing says why
	}
	return reply
}

// socketOf is the connection below TLS.
func socketOf(sc *smtp.Conn) *conn {
	c := sc.Conn()
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*conn) // our listener makes no other
}
