package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/emersion/go-smtp"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// Submission is a message as a sending tool handed it over.
type Submission struct {
	Sender   *policy.Sender
	Client   netip.Addr
	TLS      *tls.ConnectionState // nil if it came in clear
	Helo     string
	From     policy.Address // envelope sender; "" is the null reverse-path
	UTF8     bool
	EightBit bool
	EnvID    string
	DSNFull  bool
	Data     []byte // canonical line ends

	recipients []recipient
}

// Reply is what the sending tool is told. Only a Reply with status 250 promises
// anything, and it is made after the commit.
type Reply struct {
	Status   int
	Enhanced string
	Text     string
	ID       store.ID
}

func (r Reply) smtp() *smtp.SMTPError { return replyError(r.Status, r.Enhanced, r.Text, r.ID) }

func codeReply(code policy.Code, id store.ID) Reply {
	status, enhanced, text := policy.Reply(code)
	return Reply{status, enhanced, text, id}
}

// Accept is the way of a message: read it, gather the facts of every recipient,
// decide, plan, commit, answer.
func (g *Gateway) Accept(ctx context.Context, s Submission) Reply {
	id := g.ids.New(g.clock())
	msg, err := mail.Parse(s.Data)
	switch {
	case bytes.IndexByte(s.Data, 0) >= 0: // RFC 2045 §2.7, §2.8
		return g.turnDown(ctx, s, Reply{550, "5.6.11", "NUL in the message", id}, "")
	case err != nil:
		return g.turnDown(ctx, s, malformed(err, id), "")
	case !mayWriteAs(s.Sender, msg):
		return g.turnDown(ctx, s, codeReply("HG-R803", id), "HG-R803")
	case len(msg.Values("Received")) > maxHops: // RFC 5321 §6.3
		return g.turnDown(ctx, s, Reply{554, "5.4.6", "Too many hops, looping", id}, "")
	}
	s.recipients = once(s.recipients)
	r := g.read(ctx, s.Sender, msg)
	decisions := g.decide(ctx, r, s.recipients)
	plan, err := g.plan(ctx, id, s, r, decisions)
	if err != nil {
		g.log.Error("message could not be prepared", "id", id, "err", err)
		return codeReply("HG-S901", id)
	}
	return g.commit(ctx, plan)
}

// maxHops bounds Received fields, the only sign of a loop outside our sight.
const maxHops = 50

// once leaves out recipients that were named before.
func once(all []recipient) []recipient {
	seen := map[string]bool{}
	var out []recipient
	for _, r := range all {
		if key := r.address.Key(); !seen[key] {
			seen[key] = true
			out = append(out, r)
		}
	}
	return out
}

// commit makes the plan durable and only then answers.
func (g *Gateway) commit(ctx context.Context, p plan) Reply {
	if !p.stored() {
		if err := g.store.Apply(ctx, p.acceptance.Effects); err != nil {
			return g.storeFailed(p.acceptance.ID, err)
		}
		return p.reply
	}
	receipt, err := g.store.Accept(ctx, p.acceptance)
	if err != nil {
		return g.storeFailed(p.acceptance.ID, err)
	}
	if !receipt.Repeated {
		g.queue.Kick()
	}
	p.reply.ID = receipt.ID
	return p.reply
}

// storeFailed is the answer when it is not certain that a message is on disk.
func (g *Gateway) storeFailed(id store.ID, err error) Reply {
	g.metrics.storeErrors.Inc()
	g.log.Error("store failed, message not accepted", "id", id, "err", err)
	return codeReply("HG-S901", id)
}

// turnDown refuses a message about which nothing was decided, on record: the id
// of every reply is in the log.
func (g *Gateway) turnDown(ctx context.Context, s Submission, r Reply, code policy.Code) Reply {
	g.log.Info("message turned down", "id", r.ID, "reply", r.Status, "status", r.Enhanced, "code", code)
	e := audit.Event{Time: g.clock(), ID: r.ID, Kind: audit.Rejected, Code: code, Policy: g.rules().Hash(), Sender: s.Sender.Name,
		Partner: s.Sender.Partner, Return: s.From, Codes: map[string]string{"reply": strconv.Itoa(r.Status), "status": r.Enhanced},
		Evidence: map[string]string{"client": s.Client.String()}}
	if r.Status/100 == 4 {
		e.Kind = audit.Deferred
	}
	leaves := []store.Leaf{}
	for _, rc := range s.recipients {
		e.Recipient = rc.address
		leaves = append(leaves, g.audit.Leaf(e))
	}
	if len(leaves) == 0 { // at MAIL FROM
		leaves = append(leaves, g.audit.Leaf(e))
	}
	if err := g.store.Apply(ctx, store.Effects{Leaves: leaves}); err != nil {
		return g.storeFailed(r.ID, err)
	}
	return r
}

func malformed(err error, id store.ID) Reply {
	switch {
	case errors.Is(err, mail.ErrHeaderTooLarge):
		return Reply{552, "5.3.4", "Message header exceeds the size limit", id}
	case errors.Is(err, mail.ErrBareLine):
		return Reply{550, "5.6.11", "Bare CR or LF in the message; lines must end in CRLF", id}
	}
	return Reply{550, "5.6.0", "Message header is malformed", id}
}

// mayWriteAs reports whether every author in From may be used by the sender.
func mayWriteAs(sender *policy.Sender, msg *mail.Message) bool {
	from, err := msg.From()
	return err == nil && len(from) > 0 && !slices.ContainsFunc(from, func(m mail.Mailbox) bool { return !sender.MayUse(m.Address) })
}

// digest names a submission, so that a repeat after a lost reply is not sent twice.
func digest(s Submission) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d\n", s.Sender.Name, s.From.Clear(), len(s.recipients))
	for _, r := range s.recipients {
		fmt.Fprintf(h, "%q\n", r.address.Clear())
	}
	h.Write(s.Data)
	return [32]byte(h.Sum(nil))
}

// acceptRecipient describes a recipient and refuses at once what no message
// content could change. Every refusal is on record.
func (g *Gateway) acceptRecipient(ctx context.Context, s Submission, to policy.Address) (registry.Description, error) {
	about, err := g.describe(ctx, s.Sender, to)
	facts := g.knownFacts(s.Sender, about, err)
	open := policy.PendingAtRCPT
	if !about.HasConsents() {
		open &^= policy.PendingConsent
	}
	verdict, refuse := g.rules().AtRCPT(facts, open)
	if !refuse || verdict.Action == policy.Reject && s.Sender.Refusal(verdict.Code) != policy.RefuseHard {
		return about, nil // a tool that must not see a 5xx is answered after DATA
	}
	verdict.Recipient = to
	id := g.ids.New(g.clock())
	d := decision{recipient: recipient{address: to}, facts: facts, verdict: verdict}
	if err := g.store.Apply(ctx, store.Effects{Leaves: []store.Leaf{g.leaf(id, s, d, kindOf(verdict.Action))}}); err != nil {
		return about, g.storeFailed(id, err).smtp()
	}
	g.count(verdict)
	return about, smtpReply(verdict.Code, id)
}
