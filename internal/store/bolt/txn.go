package bolt

import (
	"bytes"
	"encoding/binary"
	"math"
	"time"

	"go.etcd.io/bbolt"

	"github.com/phigate/phigate/internal/store"
)

// table is one bucket. Keys that grow with time keep the tree's changes at its
// right edge (random keys cost a third of the speed and more as the queue grows).
type table uint8

const (
	tMeta     table = iota // name → probe, counts, last token
	tEnvelope              // message|n → duty, sealed envelope
	tDue                   // dest|lane|due|message|n → ; ready envelopes
	tHead                  // lane|due|dest → ; the first of each destination and lane
	tHeld                  // message|n → expires
	tSlot                  // dest|slot → until, token, envelopes
	tLapse                 // until|dest|slot → ; when leases end
	tMessage               // message → sealed message and body key; lives as long as an envelope
	tBody                  // message → sealed body, empty if it is in a file; lives as long as a holder
	tPickup                // pickup → head, sealed pickup
	tWrap                  // pickup → wrapped body key; until the pickup is over
	tHolder                // message|pickup → ; pickups not over
	tRecord                // kind|subject|key → sealed record
	tLeaf                  // n → leaf
	tClear                 // n → sealed clear values of the leaf
	tLeafOf                // id|n →
	tHash                  // index → tree hash
	tSeen                  // window|digest → time, id; acceptances of the last 24 h
	tables                 // how many there are
)

var tableNames = [tables]string{
	"meta", "envelope", "due", "head", "held", "slot", "lapse", "message", "body",
	"pickup", "wrap", "holder", "record", "leaf", "clear", "leafof", "hash", "seen",
}

// grows says which tables are only ever appended to, so that their pages are
// filled instead of left half empty by splits in the middle.
var grows = [tables]bool{tEnvelope: true, tMessage: true, tBody: true, tLeaf: true, tClear: true, tHash: true}

func aad(t table, key []byte) []byte { return join([]byte(tableNames[t]), []byte{0}, key) }

// txn is one transaction with one time: a short read, or a group of writes.
// Slices it gives are valid until it ends. The first error of a write sticks.
type txn struct {
	tx      *bbolt.Tx
	now     time.Time
	buckets [tables]*bbolt.Bucket
	err     error
	writes  int // changes so far, to see whether a failed operation left any

	heads  map[laneKey]uint64 // of the lanes touched, as they were
	counts *counts
	leaves *tail
	gone   []store.ID // body files to remove after the commit
}

// counts are the numbers of [store.Stats], kept so that nobody has to count rows.
type counts struct{ ready, leased, held, pickups uint64 }

func (c *counts) of(state byte) *uint64 {
	switch state {
	case ready:
		return &c.ready
	case leased:
		return &c.leased
	}
	return &c.held
}

func (t *txn) bucket(tb table) *bbolt.Bucket {
	if t.buckets[tb] == nil {
		b := t.tx.Bucket([]byte(tableNames[tb]))
		if grows[tb] {
			b.FillPercent = 0.95
		}
		t.buckets[tb] = b
	}
	return t.buckets[tb]
}

func (t *txn) get(tb table, key []byte) []byte { return t.bucket(tb).Get(key) }

func (t *txn) put(tb table, key, value []byte) {
	t.writes++
	if err := t.bucket(tb).Put(key, value); err != nil && t.err == nil {
		t.err = err
	}
}

func (t *txn) del(tb table, key []byte) {
	t.writes++
	if err := t.bucket(tb).Delete(key); err != nil && t.err == nil {
		t.err = err
	}
}

// first is the first row whose key has the prefix.
func (t *txn) first(tb table, prefix []byte) (k, v []byte) {
	k, v = t.bucket(tb).Cursor().Seek(prefix)
	if k == nil || !bytes.HasPrefix(k, prefix) {
		return nil, nil
	}
	return k, v
}

// each calls f for the rows with the prefix from key from on, until f is false.
func (t *txn) each(tb table, prefix, from []byte, f func(k, v []byte) bool) {
	c := t.bucket(tb).Cursor()
	if bytes.Compare(from, prefix) < 0 {
		from = prefix
	}
	for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if !f(k, v) {
			return
		}
	}
}

// keys lists up to n keys with the prefix, copied, so that rows may be changed
// while the list is walked.
func (t *txn) keys(tb table, prefix []byte, n int) (keys [][]byte) {
	t.each(tb, prefix, nil, func(k, _ []byte) bool {
		if len(keys) == n {
			return false
		}
		keys = append(keys, bytes.Clone(k))
		return true
	})
	return keys
}

const everything = math.MaxInt

// next counts a number in the meta table up.
func (t *txn) next(name string) uint64 {
	n := uint64(1)
	if v := t.get(tMeta, []byte(name)); v != nil {
		n += binary.BigEndian.Uint64(v)
	}
	t.put(tMeta, []byte(name), be(n))
	return n
}

// tally gives the counts for reading and changing; settle stores them.
func (t *txn) tally() *counts {
	if t.counts == nil {
		t.counts = &counts{}
		if v := t.get(tMeta, []byte("counts")); len(v) == 32 {
			for i, n := range []*uint64{&t.counts.ready, &t.counts.leased, &t.counts.held, &t.counts.pickups} {
				*n = binary.BigEndian.Uint64(v[8*i:])
			}
		}
	}
	return t.counts
}

// laneKey is one lane of one destination: dest|lane. Lane 0 is the prompt one,
// the others are those of the flows.
type laneKey [17]byte

const promptLane = 0

// flowLane is the lane of a flow: 1 to 255.
func flowLane(flow uint8) byte { return flow + 1 }

// laneOf is the lane of an envelope as it stands in its row, where the prompt
// lane is 1 and that of flow 0 is 0, so that rows from before there were flows
// still say what they said.
func laneOf(l store.Lane, flow uint8) byte {
	switch {
	case l == store.Prompt:
		return 1
	case flow == 0:
		return 0
	}
	return flowLane(flow)
}

func laneFrom(b byte) store.Lane {
	if b == 1 {
		return store.Prompt
	}
	return store.Bulk
}

// laneKey is the lane that an envelope waits in.
func (d *duty) laneKey() (l laneKey) {
	copy(l[:], d.dest[:])
	switch l[16] = d.lane; d.lane {
	case 0:
		l[16] = flowLane(0)
	case 1:
		l[16] = promptLane
	}
	return l
}

const dueAt = len(laneKey{}) // where the time begins in a due key

func dueKey(l laneKey, due uint64, envelope []byte) []byte { return join(l[:], be(due), envelope) }

func headKey(l laneKey, due uint64) []byte { return join(l[16:], be(due), l[:16]) }

// none is the head of a lane in which nothing waits.
const none = math.MaxUint64

// headOf is the due time of the first envelope that waits in a lane.
func (t *txn) headOf(l laneKey) uint64 {
	k, _ := t.first(tDue, l[:])
	if k == nil {
		return none
	}
	return binary.BigEndian.Uint64(k[dueAt:])
}

// touch remembers the head of a lane before its first change.
func (t *txn) touch(l laneKey) {
	if _, ok := t.heads[l]; !ok {
		if t.heads == nil {
			t.heads = map[laneKey]uint64{}
		}
		t.heads[l] = t.headOf(l)
	}
}

// settle writes what hangs on all operations of the group together.
func (t *txn) settle() error {
	for l, was := range t.heads {
		is := t.headOf(l)
		if is == was {
			continue
		}
		if was != none {
			t.del(tHead, headKey(l, was))
		}
		if is != none {
			t.put(tHead, headKey(l, is), nil)
		}
	}
	if c := t.counts; c != nil {
		t.put(tMeta, []byte("counts"), join(be(c.ready), be(c.leased), be(c.held), be(c.pickups)))
	}
	return t.err
}

// set changes an envelope row from was to is, with all its index entries and
// counts. nil is no row. sealed is the rest of the row.
func (t *txn) set(key []byte, was, is *duty, sealed []byte) {
	if was != nil {
		t.unindex(key, was)
	}
	if is == nil {
		t.del(tEnvelope, key)
		return
	}
	t.put(tEnvelope, key, is.row(sealed))
	*t.tally().of(is.state)++
	switch is.state {
	case ready:
		l := is.laneKey()
		t.touch(l)
		t.put(tDue, dueKey(l, is.due, key), nil)
	case held:
		t.put(tHeld, key, be(is.expires))
	}
}

func (t *txn) unindex(key []byte, was *duty) {
	*t.tally().of(was.state)--
	switch was.state {
	case ready:
		l := was.laneKey()
		t.touch(l)
		t.del(tDue, dueKey(l, was.due, key))
	case held:
		t.del(tHeld, key)
	}
}

// release drops what nobody holds any more of a message: with its last envelope
// the queue key, with its last holder the body.
func (t *txn) release(message []byte) {
	if k, _ := t.first(tEnvelope, message); k != nil {
		return
	}
	t.del(tMessage, message)
	if k, _ := t.first(tHolder, message); k != nil {
		return
	}
	if v := t.get(tBody, message); v != nil && len(v) == 0 {
		t.gone = append(t.gone, store.ID(message))
	}
	t.del(tBody, message)
}
