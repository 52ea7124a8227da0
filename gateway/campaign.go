package gateway

import (
	"container/list"
	"hash/maphash"
	"sync"

	"github.com/phigate/phigate/policy"
)

// broadcastSize is how many recipients make the same text a broadcast.
const broadcastSize = 50

// campaignsKept bounds the memory of campaigns; one takes a few hundred bytes
// until it counts as a broadcast, and less from then on.
const campaignsKept = 4096

// campaigns remembers how many recipients got the same text, by keyed hashes
// alone, so that a newsletter's "you" is not taken for a person.
type campaigns struct {
	seed maphash.Seed
	mu   sync.Mutex
	seen map[uint64]*list.Element // guarded by mu
	used *list.List               // of *campaign, latest first; guarded by mu
}

type campaign struct {
	text       uint64
	recipients map[uint64]struct{} // nil once it is a broadcast
}

func newCampaigns() *campaigns {
	return &campaigns{seed: maphash.MakeSeed(), seen: map[uint64]*list.Element{}, used: list.New()}
}

// broadcast notes the recipients of a text and reports whether it has gone to
// more than broadcastSize of a list that was not drawn from patients.
func (c *campaigns) broadcast(r reading, to []recipient) bool {
	if r.law[policy.PHINone].Audience <= policy.AudienceMembers {
		return false
	}
	text := maphash.Comparable(c.seed, [2]any{r.sender.Name, r.doc.SimHash()})
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.touch(text)
	for _, rc := range to {
		if k.recipients == nil {
			break
		}
		k.recipients[maphash.String(c.seed, rc.address.Key())] = struct{}{}
		if len(k.recipients) > broadcastSize {
			k.recipients = nil
		}
	}
	return k.recipients == nil
}

// touch returns the campaign of a text, the latest used from now on.
func (c *campaigns) touch(text uint64) *campaign {
	if e, ok := c.seen[text]; ok {
		c.used.MoveToFront(e)
		return e.Value.(*campaign)
	}
	if c.used.Len() >= campaignsKept {
		oldest := c.used.Remove(c.used.Back()).(*campaign)
		delete(c.seen, oldest.text)
	}
	k := &campaign{text: text, recipients: map[uint64]struct{}{}}
	c.seen[text] = c.used.PushFront(k)
	return k
}
