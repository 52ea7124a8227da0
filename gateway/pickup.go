package gateway

import (
	"context"
	"strconv"
	"time"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/portal"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// newPortal is the pickup site with the gateway's own hands.
func (g *Gateway) newPortal() (*portal.Portal, error) {
	return portal.New(portal.Options{
		Store: g.store, URL: g.cfg.Portal.URL, Leaf: g.pickupLeaf, CodeMail: g.codeMail, Queued: g.queue.Kick, Proved: g.proved,
		Practice: func() portal.Practice {
			org := g.rules().Organization()
			return portal.Practice{Name: org.Name, Phone: g.cfg.Portal.Phone, Postal: org.PostalAddress}
		},
		Clock: g.clock, Expiry: time.Duration(g.cfg.Portal.Expiry), Log: g.log,
	})
}

// pickupPrefix marks the ENVID of a notice, so that a bounced notice finds its pickup.
const pickupPrefix = "pickup-"

// newPickup makes a pickup of a message for one recipient, and the notice that
// carries its link. The link's secret is nowhere but in the notice.
func (g *Gateway) newPickup(m store.Message, f policy.Facts, to policy.Address, code policy.Code, now time.Time) (store.NewPickup, draft, error) {
	offer, link := g.portal.Offer(store.Pickup{
		ID: g.ids.New(now), Message: m.ID, Recipient: to.Clear(), Sender: m.Sender, Return: m.Return, Created: now, Code: code, Facts: f,
		Expires: now.Add(time.Duration(g.cfg.Portal.Expiry)),
	}, "", m.Language)
	notice, err := g.letter(to, pickupPrefix+string(offer.Pickup.ID), code, now, func(e mail.Envelope) ([]byte, error) {
		return mail.Notice{Envelope: e, Language: m.Language, Practice: e.FromName, Phone: g.cfg.Portal.Phone,
			Link: link, Expires: offer.Pickup.Expires}.Bytes()
	})
	return offer, notice, err
}

// codeMail is the mail with a pickup code; the portal queues it.
func (g *Gateway) codeMail(ctx context.Context, p store.Pickup, code, language string) (store.NewMessage, error) {
	d, err := g.letter(policy.Address(p.Recipient), "", p.Code, g.clock(), func(e mail.Envelope) ([]byte, error) {
		return mail.PickupCode{Envelope: e, Language: language, Practice: e.FromName, Phone: g.cfg.Portal.Phone,
			Code: code, Valid: portal.CodeFor}.Bytes()
	})
	if err != nil {
		return store.NewMessage{}, err
	}
	signed, err := g.sign(ctx, []draft{d})
	if err != nil {
		return store.NewMessage{}, err
	}
	return signed[0], nil
}

// proved is the record that an address is in use: its holder has read a message.
func (g *Gateway) proved(p store.Pickup) []store.Record {
	r, err := g.registry.Confirmed(policy.Address(p.Recipient))
	if err != nil {
		g.log.Error("address not confirmed", "pickup", p.ID, "err", err)
		return nil
	}
	return []store.Record{r}
}

// pickupLeaf is the leaf of a step on the portal. It carries the id of the
// message, so that the id of the reply finds it.
func (g *Gateway) pickupLeaf(e portal.Event) store.Leaf {
	kind := audit.Pickup
	switch e.State {
	case store.Recalled:
		kind = audit.Recalled
	case store.Released:
		kind = audit.Read
	}
	codes := map[string]string{"pickup": string(e.Pickup.ID), "state": string(e.State)}
	if e.Method != "" {
		codes["method"] = string(e.Method)
	}
	if e.State == store.Fetched {
		codes["part"] = strconv.Itoa(e.Part)
	}
	return g.audit.Leaf(audit.Event{Time: e.Time, ID: e.Pickup.Message, Kind: kind, Code: e.Pickup.Code, Sender: e.Pickup.Sender,
		Recipient: policy.Address(e.Pickup.Recipient), Who: e.By, Reason: e.Reason, Codes: codes})
}
