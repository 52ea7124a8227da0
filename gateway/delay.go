package gateway

import (
	"context"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// delayTold is when a sender is told that its mail still waits; RFC 5321
// §4.5.4.1 has the sending side find that out within hours.
const delayTold = 4 * time.Hour

// delayKind marks envelopes whose sender was told, by envelope id, so that it is
// told once.
const delayKind = "delay"

// delayed adds the one report about a message that waits for long to the effects
// of an attempt.
func (g *Gateway) delayed(fx *store.Effects, e store.Envelope, end ending) {
	if g.clock().Sub(e.Message.Accepted) < delayTold || e.Message.Return == "" || !wantsDelay(e.Notify) {
		return
	}
	told, err := g.store.Records(context.Background(), delayKind, string(e.ID))
	if err != nil || len(told) > 0 {
		return // unless it is certain that nobody was told, nobody is
	}
	err = g.addDSN(fx, e.Message, mail.Status{Recipient: policy.Address(e.Recipient), ORcpt: e.ORcpt, Action: mail.Delayed,
		Enhanced: end.waiting(), Class: string(end.about.Class), Code: e.Code, Reply: end.said(), RemoteMTA: end.tls.MX, Until: e.Expires})
	if err != nil {
		g.log.Error("DSN not made", "envelope", e.ID, "err", err)
		return
	}
	fx.Records = append(fx.Records, store.Record{Kind: delayKind, Subject: string(e.ID), Key: string(e.ID), Value: []byte{1}})
}

// settled takes the mark off an envelope that has come to its end.
func (g *Gateway) settled(fx *store.Effects, e store.Envelope) {
	if g.clock().Sub(e.Message.Accepted) >= delayTold {
		fx.Records = append(fx.Records, store.Record{Kind: delayKind, Subject: string(e.ID), Key: string(e.ID), Delete: true})
	}
}

// waiting is the RFC 3463 status of mail that waits: the server's own, else that
// of a server that does not answer.
func (end ending) waiting() string {
	switch {
	case strings.HasPrefix(end.reply.Enhanced, "4."):
		return end.reply.Enhanced
	case end.reply.Code != 0:
		return "4.0.0"
	}
	return "4.4.1"
}
