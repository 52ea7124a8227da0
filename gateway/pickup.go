package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"net/http"
	"strconv"
	"strings"
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
func (g *Gateway) newPickup(ctx context.Context, m store.Message, f policy.Facts, to policy.Address, code policy.Code, now time.Time) (store.NewPickup, draft, error) {
	pin, err := g.pinFor(ctx, f, to)
	if err != nil {
		return store.NewPickup{}, draft{}, err
	}
	offer, link := g.portal.Offer(store.Pickup{
		ID: g.ids.New(now), Message: m.ID, Recipient: to.Clear(), Sender: m.Sender, Return: m.Return, Created: now, Code: code, Facts: f,
		Expires: now.Add(time.Duration(g.cfg.Portal.Expiry)),
	}, pin, m.Language)
	notice, err := g.letter(to, pickupPrefix+string(offer.Pickup.ID), code, now, func(e mail.Envelope) ([]byte, error) {
		return mail.Notice{Envelope: e, Language: m.Language, Practice: e.FromName, Phone: g.cfg.Portal.Phone,
			Link: link, Expires: offer.Pickup.Expires}.Bytes()
	})
	return offer, notice, err
}

// stillAllowed looks at the records again before a page of a pickup is shown: a
// contract or a consent may have run out since, which no change of records tells.
func (g *Gateway) stillAllowed(site http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, of := strings.CutPrefix(r.URL.Path, "/m/")
		id, _, _ = strings.Cut(id, "/")
		if !of {
			site.ServeHTTP(w, r)
			return
		}
		p, err := g.store.Pickup(r.Context(), store.ID(id))
		if err == nil {
			err = g.recallIfRefused(r.Context(), p)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrShredded) { // the site says kindly what is gone
			g.log.Error("pickup not looked at again", "err", err)
			http.Error(w, "Please try again in a few minutes.", http.StatusServiceUnavailable)
			return
		}
		site.ServeHTTP(w, r)
	})
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

// pinKind is the record kind of clinic PINs, by address.
const pinKind = "pin"

// NewPIN makes the PIN of a recipient: eight digits that the practice hands over
// in person, on paper or by phone. From then on messages on sensitive topics ask
// for it instead of a mailed code, and cannot be opened without it.
func (g *Gateway) NewPIN(ctx context.Context, to policy.Address, who string) (string, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1e8))
	if err != nil {
		return "", err
	}
	pin := fmt.Sprintf("%08d", n)
	return pin, g.store.Apply(ctx, store.Effects{
		Records: []store.Record{{Kind: pinKind, Subject: to.Key(), Key: pinKind, Value: []byte(pin)}},
		Leaves:  []store.Leaf{g.audit.Leaf(audit.Event{Kind: audit.Changed, Recipient: to, Who: who, Policy: g.rules().Hash(), Codes: map[string]string{"what": "pin"}})},
	})
}

// pinFor is the PIN that a pickup is sealed with, "" for a mailed code.
func (g *Gateway) pinFor(ctx context.Context, f policy.Facts, to policy.Address) (string, error) {
	if f.Topic != policy.TopicSensitive {
		return "", nil
	}
	rs, err := g.store.Records(ctx, pinKind, to.Key())
	if err != nil || len(rs) == 0 {
		return "", err
	}
	return string(rs[0].Value), nil
}

// PickupRow is a pickup as "gateway pickup list" prints it.
type PickupRow struct {
	ID      store.ID          `json:"id"`     // of the message, as said in the SMTP reply
	Pickup  store.ID          `json:"pickup"` // of the pickup itself
	State   store.PickupState `json:"state"`  // released: it was read
	Code    policy.Code       `json:"code"`   // why it went to the portal
	Sender  string            `json:"sender"` // name in policy.yaml
	Created time.Time         `json:"created"`
	Expires time.Time         `json:"expires"`
}

// Pickups lists the messages on the portal, all or those of one recipient.
func (g *Gateway) Pickups(ctx context.Context, of policy.Address) iter.Seq2[PickupRow, error] {
	return func(yield func(PickupRow, error) bool) {
		q := store.PickupQuery{Recipient: of.Clear()}
		for {
			page, err := g.store.Pickups(ctx, q)
			if err != nil {
				yield(PickupRow{}, err)
				return
			}
			for _, p := range page {
				q.After = p.ID
				if !yield(PickupRow{p.Message, p.ID, p.State, p.Code, p.Sender, p.Created, p.Expires}, nil) {
					return
				}
			}
			if len(page) == 0 {
				return
			}
		}
	}
}

// ErrNoPortal is returned by verbs about pickups on a site without a portal.
var ErrNoPortal = errors.New("the site has no portal")

// RecallPickup takes a message back from the portal. What was read before stays
// with who read it.
func (g *Gateway) RecallPickup(ctx context.Context, id store.ID, who, reason string) error {
	if g.portal == nil {
		return ErrNoPortal
	}
	return g.portal.Recall(ctx, id, who, reason)
}
