package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/delivery"
	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
	"github.com/phigate/phigate/queue"
	"github.com/phigate/phigate/queue/bounce"
	"github.com/phigate/phigate/tlscheck"
)

// attemptFor bounds one delivery attempt, dial and conversation.
const attemptFor = 10 * time.Minute

// try delivers what is due for one destination, over one connection where it
// can. Every envelope gets exactly one outcome.
func (g *Gateway) try(ctx context.Context, dest string, envelopes iter.Seq[store.Envelope], done func(queue.Outcome)) {
	l := &line{g: g, domain: dest}
	defer l.hangUp()
	for e := range envelopes {
		one, cancel := context.WithTimeout(ctx, attemptFor)
		done(g.attempt(one, l, e))
		cancel()
	}
}

// attempt is the way out of one envelope: look at the records again (a revoked
// consent or an expired contract wins), prove the connection, send, record.
func (g *Gateway) attempt(ctx context.Context, l *line, e store.Envelope) queue.Outcome {
	rules := g.rules()
	if e.Message.Sender != "" {
		e.Facts.Partner = partnerOf(rules, e.Message.Sender)
		v, facts, err := g.recheck(ctx, rules, e.Facts, policy.Address(e.Recipient))
		if err != nil {
			return g.later(e, ending{why: "records"}, err)
		}
		e.Facts = facts
		if v.Action != policy.Deliver {
			return g.instead(ctx, e, v, ending{why: "records changed"})
		}
		e.Floor = e.Floor.Max(floorOf(rules, v)) // floors only rise
	}
	body, err := g.store.Body(ctx, e.Message.ID)
	if err != nil {
		return g.later(e, ending{why: "body"}, err)
	}
	reply, evidence, err := l.send(ctx, e, body)
	if err == nil && reply.Accepted() {
		return g.delivered(e, reply, evidence, l.relaysDSN())
	}
	reply = heard(reply, err)
	out := g.failed(ctx, e, refusal(reply, evidence, err), reply.Class(), err)
	out.Words = queue.Words(reply.Text)
	return out
}

// heard is what the peer said: its reply to the message, or the refusal that
// ended the conversation before.
func heard(r delivery.Reply, err error) delivery.Reply {
	var f *tlscheck.Failure
	if r.Code == 0 && errors.As(err, &f) {
		return delivery.Reply{Code: f.Said.Code, Enhanced: f.Said.Enhanced, Text: f.Said.Text}
	}
	return r
}

// recheck decides again with the records of now and the findings of then.
func (g *Gateway) recheck(ctx context.Context, rules *policy.Policy, f policy.Facts, to policy.Address) (policy.Verdict, policy.Facts, error) {
	about, err := g.registry.Describe(ctx, f.Partner, to)
	if err != nil {
		return policy.Verdict{}, f, err
	}
	f.Now = g.clock()
	f = about.Facts(f, f.Recipient == policy.RecipientThirdParty) // that several people are meant was a finding
	v := rules.Decide(f)
	v.Recipient = to
	return v, f, nil
}

// partnerOf is the partner whose contract covers a sender now; none if the sender
// is no longer in the policy.
func partnerOf(rules *policy.Policy, sender string) string {
	s, _ := rules.Sender(sender)
	return s.Partner
}

// failed decides by the class of a failure, and by nothing else: that of err, or
// else of the reply.
func (g *Gateway) failed(ctx context.Context, e store.Envelope, end ending, class tlscheck.FailureClass, err error) queue.Outcome {
	if err != nil {
		class = tlscheck.ClassOf(err)
	}
	if end.about.Class != "" {
		g.metrics.refusals.WithLabelValues(string(end.about.Class)).Inc()
	}
	switch class {
	case tlscheck.Permanent:
		return g.bounce(e, e.Code.Expired(), end)
	case tlscheck.PolicyFail:
		if !e.Floor.IsOpen() {
			return g.otherwise(ctx, e, end)
		} // mail without a floor waits for a domain to keep its own policy (RFC 8461 §5.1)
	case tlscheck.Indeterminate:
		out := g.later(e, ending{why: "reply lost"}, err)
		out.Sent = true
		return out
	}
	if now := g.clock(); !e.Within.IsZero() && !now.Before(e.Within) {
		return g.otherwise(ctx, e, end)
	}
	out := g.later(e, ending{reply: end.reply, about: end.about, why: class.String()}, errors.New(end.why))
	out.Down = err != nil && end.tls.Version == "" && class != tlscheck.PolicyFail // nobody there to talk to
	if !e.Within.IsZero() && e.Due.After(e.Within) {
		out.Due = e.Within // the lease's next try would come too late for the floor's deadline
	}
	return out
}

// otherwise does an envelope's Else: the floor cannot be met.
func (g *Gateway) otherwise(ctx context.Context, e store.Envelope, end ending) queue.Outcome {
	v := policy.Verdict{Recipient: policy.Address(e.Recipient), Action: policy.Deliver, Else: e.Else, Code: e.Code, Rule: e.Rule}.Otherwise()
	return g.instead(ctx, e, v, end)
}

// instead does with a queued envelope what its verdict has become.
func (g *Gateway) instead(ctx context.Context, e store.Envelope, v policy.Verdict, end ending) queue.Outcome {
	if e.Sent && v.Action == policy.Portal {
		v.Action = policy.Hold // what may have arrived never also becomes a pickup: a person decides
	}
	switch v.Action {
	case policy.Portal:
		return g.toPortal(ctx, e, v, end)
	case policy.Hold:
		out := queue.Outcome{Result: store.Result{Envelope: e.ID, Next: store.Park, Code: v.Code, Expires: g.clock().Add(holdFor)}}
		out.Effects.Leaves = []store.Leaf{g.envelopeLeaf(audit.Held, e, v.Code, end)}
		return out
	case policy.Defer:
		return g.later(e, ending{why: string(v.Code)}, errors.New(end.why))
	}
	return g.bounce(e, v.Code, end.ours())
}

// toPortal latches an envelope to pickup: it leaves the queue for good in the
// same transaction that makes the pickup and its notice.
func (g *Gateway) toPortal(ctx context.Context, e store.Envelope, v policy.Verdict, end ending) queue.Outcome {
	if g.portal == nil {
		return g.bounce(e, noPortal(v.Code), end.ours())
	}
	effects, err := g.pickupEffects(ctx, e, v.Code)
	if err != nil {
		return g.later(e, ending{why: "portal"}, err)
	}
	g.metrics.outcomes.WithLabelValues("pickup").Inc()
	g.settled(&effects, e)
	effects.Leaves = append(effects.Leaves, g.envelopeLeaf(audit.Pickup, e, v.Code, end))
	return queue.Outcome{Result: store.Result{Envelope: e.ID, Next: store.Finish, Code: v.Code}, Effects: effects}
}

// pickupEffects makes a pickup of an envelope's message, with its notice.
func (g *Gateway) pickupEffects(ctx context.Context, e store.Envelope, code policy.Code) (store.Effects, error) {
	pickup, notice, err := g.newPickup(ctx, e.Message, e.Facts, policy.Address(e.Recipient), code, g.clock())
	if err != nil {
		return store.Effects{}, err
	}
	messages, err := g.sign(ctx, []draft{notice})
	return store.Effects{Pickups: []store.NewPickup{pickup}, Messages: messages}, err
}

// delivered ends an envelope that a server took. Who asked to hear of that is
// told by the server, if it was told of the wish, else by us (RFC 3461 §5.2.2).
func (g *Gateway) delivered(e store.Envelope, reply delivery.Reply, evidence tlscheck.Evidence, told bool) queue.Outcome {
	g.metrics.outcomes.WithLabelValues("delivered").Inc()
	out := queue.Outcome{Result: store.Result{Envelope: e.ID, Next: store.Finish, LastReply: said(reply)}}
	g.settled(&out.Effects, e)
	out.Effects.Leaves = []store.Leaf{g.envelopeLeaf(audit.Delivered, e, e.Code, ending{tls: evidence, why: said(reply), notify: e.Notify})}
	if strings.Contains(e.Notify, "SUCCESS") && (!told || g.returnPath(e) != e.Message.Return) {
		err := g.addDSN(&out.Effects, e.Message, mail.Status{Recipient: policy.Address(e.Recipient), ORcpt: e.ORcpt, Action: mail.Relayed,
			Enhanced: "2.0.0", Code: e.Code, Reply: said(reply), RemoteMTA: evidence.MX})
		if err != nil {
			g.log.Error("DSN not made", "envelope", e.ID, "err", err)
		}
	}
	return out
}

// later leaves an envelope in the queue, due when its lease said. The retry is
// on record; the reason is for the operator and names no one.
func (g *Gateway) later(e store.Envelope, end ending, err error) queue.Outcome {
	g.metrics.outcomes.WithLabelValues("deferred").Inc()
	g.log.Info("delivery deferred", "envelope", e.ID, "what", end.why, "err", err)
	out := queue.Outcome{Result: store.Result{Envelope: e.ID, Next: store.Retry, LastReply: end.last()}}
	out.Effects.Leaves = []store.Leaf{g.envelopeLeaf(audit.Deferred, e, e.Code, end)}
	g.delayed(&out.Effects, e, end)
	return out
}

// bounce gives an envelope up and tells its sender, without a word of the mail.
// A notice that bounces is a pickup nobody will come for: whoever sent the
// message is told in its place. A recipient that does not exist is suppressed;
// what a server thinks of us or of the message is no fault of the recipient.
func (g *Gateway) bounce(e store.Envelope, code policy.Code, end ending) queue.Outcome {
	g.metrics.outcomes.WithLabelValues("bounced").Inc()
	out := queue.Outcome{Result: store.Result{Envelope: e.ID, Next: store.Finish, Code: code, LastReply: end.last()}}
	m, err := g.original(e)
	if err != nil {
		g.log.Error("pickup of a bounced notice not found", "envelope", e.ID, "err", err)
	}
	e.Message = m
	g.settled(&out.Effects, e)
	out.Effects.Leaves = []store.Leaf{g.envelopeLeaf(audit.Bounced, e, code, end)}
	if end.about.Class == bounce.RecipientBad {
		g.suppressed(&out.Effects, e.ID, g.hardBounce(policy.Address(e.Recipient)))
	}
	if !wantsFailure(e.Notify) {
		return out
	}
	err = g.addDSN(&out.Effects, m, mail.Status{Recipient: policy.Address(e.Recipient), ORcpt: e.ORcpt, Action: mail.Failed,
		Enhanced: end.status(code), Class: string(end.about.Class), Code: code, Reply: end.said(), RemoteMTA: end.tls.MX})
	if err != nil {
		g.log.Error("DSN not made", "envelope", e.ID, "err", err)
	}
	return out
}

// original is the message a bounce is about: that of the pickup for a notice.
func (g *Gateway) original(e store.Envelope) (store.Message, error) {
	id, notice := strings.CutPrefix(e.Message.EnvID, pickupPrefix)
	if !notice || e.Message.Sender != "" {
		return e.Message, nil
	}
	p, err := g.store.Pickup(context.Background(), store.ID(id))
	if err != nil {
		return e.Message, err
	}
	return store.Message{ID: p.Message, Sender: p.Sender, Return: p.Return, Accepted: p.Created}, nil
}

func (g *Gateway) addDSN(fx *store.Effects, m store.Message, about mail.Status) error {
	drafts, err := g.dsn(m, []mail.Status{about}, g.clock())
	if err != nil {
		return err
	}
	messages, err := g.sign(context.Background(), drafts)
	fx.Messages = append(fx.Messages, messages...)
	return err
}

// suppressFor is how long an address that failed for good is not tried again.
const suppressFor = 90 * 24 * time.Hour

func (g *Gateway) hardBounce(a policy.Address) registry.Suppression {
	return registry.Suppression{Address: a, Reason: registry.HardBounce, Source: "delivery", ExpiresAt: g.clock().Add(suppressFor)}
}

// suppressed adds a suppression of now to the effects of what happened to an
// envelope.
func (g *Gateway) suppressed(fx *store.Effects, e store.EnvelopeID, s registry.Suppression) {
	s.At = g.clock()
	more, err := g.registry.Suppressed(s, "")
	if err != nil {
		g.log.Error("address not suppressed", "envelope", e, "err", err)
		return
	}
	fx.Records = append(fx.Records, more.Records...)
	fx.Leaves = append(fx.Leaves, more.Leaves...)
}

// expired ends an envelope whose time ran out: a queued one takes its Else, a
// held one bounces.
func (g *Gateway) expired(ctx context.Context, e store.Envelope) (queue.Outcome, error) {
	if e.State != store.Held && e.Message.Sender != "" && !e.Floor.IsOpen() {
		return g.tooLate(ctx, e)
	}
	return g.bounce(e, e.Code.Expired(), outOfTime(e)), nil
}

// tooLate does the Else of an envelope that found no connection in time, unless
// the records of now refuse that too.
func (g *Gateway) tooLate(ctx context.Context, e store.Envelope) (queue.Outcome, error) {
	rules := g.rules()
	e.Facts.Partner = partnerOf(rules, e.Message.Sender)
	v, facts, err := g.recheck(ctx, rules, e.Facts, policy.Address(e.Recipient))
	if err != nil {
		return queue.Outcome{}, err
	}
	if e.Facts = facts; v.Action == policy.Deliver {
		return g.otherwise(ctx, e, outOfTime(e)), nil
	}
	return g.instead(ctx, e, v, outOfTime(e)), nil
}

// line is the connection of one batch. It is used again as long as what it
// proved meets the next envelope's floor.
type line struct {
	g        *Gateway
	domain   string
	floor    policy.Floor // that the connection was made for
	proved   *delivery.Session
	open     *delivery.PlainSession
	evidence tlscheck.Evidence
}

// send sends one envelope, over the connection there is or a new one.
func (l *line) send(ctx context.Context, e store.Envelope, body []byte) (delivery.Reply, tlscheck.Evidence, error) {
	if !l.serves(e.Floor) {
		l.hangUp()
		if err := l.dial(ctx, e.Floor); err != nil {
			return delivery.Reply{}, l.evidence, err
		}
	}
	var replies []delivery.Reply
	var err error
	if l.proved != nil {
		replies, err = l.proved.Send(ctx, l.g.letterOf(e, body))
	} else {
		replies, err = l.open.Send(ctx, delivery.PlainMail(l.g.letterOf(e, body)))
	}
	if err != nil {
		l.hangUp()
		return delivery.Reply{}, l.evidence, err
	}
	return replies[0], l.evidence, nil
}

func (l *line) relaysDSN() bool {
	return l.proved != nil && l.proved.RelaysDSN() || l.open != nil && l.open.RelaysDSN()
}

func (l *line) serves(f policy.Floor) bool {
	return (l.proved != nil || l.open != nil) && l.floor == f
}

// dial plans and tries each host in order. Before a failure of every host to
// meet the floor counts, everything is looked up anew (RFC 8461 §5.1).
func (l *line) dial(ctx context.Context, f policy.Floor) error {
	plan, err := l.g.tls.Plan(ctx, l.domain, f)
	if err == nil {
		l.g.providers.learn(plan.Posture)
		err = l.dialAny(ctx, plan)
	}
	if err == nil || tlscheck.ClassOf(err) != tlscheck.PolicyFail || plan == nil {
		return err
	}
	again, changed, recheckErr := l.g.tls.Recheck(ctx, plan)
	if recheckErr != nil {
		return recheckErr
	}
	if !changed {
		return err
	}
	return l.dialAny(ctx, again)
}

func (l *line) dialAny(ctx context.Context, p *tlscheck.Plan) error {
	var worst error
	for _, t := range p.Targets {
		err := l.dialOne(ctx, t)
		if err == nil {
			return nil
		}
		// PolicyFail is final only if every host gave one.
		if worst == nil || tlscheck.ClassOf(worst) == tlscheck.PolicyFail {
			worst = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return worst
}

func (l *line) dialOne(ctx context.Context, t tlscheck.Target) (err error) {
	hello := l.g.cfg.Hostname
	l.floor = t.Floor
	if t.Floor.IsOpen() {
		var c *tlscheck.OpenConn
		if c, l.evidence, err = l.g.tls.DialOpen(ctx, t); err == nil {
			l.open, err = delivery.OpenPlain(c, hello)
		}
		return err
	}
	var c *tlscheck.Conn
	if c, l.evidence, err = l.g.tls.Dial(ctx, t); err == nil {
		l.proved, err = delivery.Open(c, hello)
	}
	return err
}

func (l *line) hangUp() {
	if l.proved != nil {
		l.proved.Close()
	}
	if l.open != nil {
		l.open.Close()
	}
	l.proved, l.open = nil, nil
}

// letterOf is the envelope as the SMTP conversation needs it.
func (g *Gateway) letterOf(e store.Envelope, body []byte) delivery.Mail {
	m, from := e.Message, g.returnPath(e)
	dsn := delivery.DSN{EnvelopeID: m.EnvID, Notify: e.Notify, ORcpt: e.ORcpt, Headers: true}
	if from != m.Return { // its reports come to us, and only a failure can be told
		dsn.Notify = failureOnly(e.Notify)
	}
	return delivery.Mail{From: from, To: []string{e.Recipient}, Data: body, UTF8: m.UTF8, EightBit: m.EightBit, DSN: dsn}
}

// newQueue is the queue with the gateway's own hands.
func (g *Gateway) newQueue() (*queue.Queue, error) {
	d := g.cfg.Delivery
	return queue.New(queue.Options{
		Store: g.store, Try: g.try, GiveUp: g.expired, Leaf: g.audit.Leaf, Clock: g.clock, Node: g.cfg.Hostname,
		Concurrency: queue.Concurrency{Total: d.Concurrency.Total, PerDestination: d.Concurrency.PerDestination},
		Retry:       store.Backoff{First: time.Duration(d.Retry.First), Max: time.Duration(d.Retry.Max)},
		Lifetime:    time.Duration(d.Retry.GiveUp), Drain: time.Duration(d.Drain), Log: g.log,
		Site: g.providers.site, Shaping: g.providers.current(),
		Count: func(e queue.Event) { g.metrics.queue.WithLabelValues(string(e)).Inc() },
	})
}

func (g *Gateway) giveUp() time.Duration { return time.Duration(g.cfg.Delivery.Retry.GiveUp) }

// said is a reply as it may be kept: its codes. Its text may echo an address.
func said(r delivery.Reply) string {
	if r.Code == 0 {
		return ""
	}
	return fmt.Sprint(r)
}
