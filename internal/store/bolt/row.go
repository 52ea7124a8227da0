package bolt

import (
	"encoding/binary"
	"strconv"

	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

// digest is a keyed hash; short is its beginning, enough to sift rows by. What
// is selected by a short is compared again in clear.
type (
	digest [16]byte
	short  [8]byte
)

// duty is the part of an envelope row that lies in clear in front of the sealed
// rest: what the engine must see and change without a key. It holds states,
// times, counts and keyed hashes, nothing that names anybody.
type duty struct {
	state     byte
	lane      byte // see laneOf
	due       uint64
	expires   uint64
	attempts  uint32
	token     uint64 // of the live lease; 0 = none
	dest      digest
	sender    short
	campaign  short
	recipient short
	code      short
}

const (
	ready  = 'r'
	leased = 'l'
	held   = 'h'

	dutyFormat = 1
	dutySize   = 1 + 1 + 1 + 8 + 8 + 4 + 8 + 16 + 4*8
)

func stateByte(s store.State) byte { return s[0] }

func (d *duty) stateText() store.State {
	switch d.state {
	case ready:
		return store.Ready
	case leased:
		return store.Leased
	}
	return store.Held
}

// row is the whole row: the duty and the sealed rest.
func (d *duty) row(sealed []byte) []byte {
	b := make([]byte, 0, dutySize+len(sealed))
	b = append(b, dutyFormat, d.state, d.lane)
	b = binary.BigEndian.AppendUint64(b, d.due)
	b = binary.BigEndian.AppendUint64(b, d.expires)
	b = binary.BigEndian.AppendUint32(b, d.attempts)
	b = binary.BigEndian.AppendUint64(b, d.token)
	b = append(b, d.dest[:]...)
	for _, s := range []short{d.sender, d.campaign, d.recipient, d.code} {
		b = append(b, s[:]...)
	}
	return append(b, sealed...)
}

// readDuty splits a row into its duty and the sealed rest.
func readDuty(row []byte) (d duty, sealed []byte, err error) {
	if len(row) < dutySize || row[0] != dutyFormat {
		return d, nil, errDamaged
	}
	d.state, d.lane = row[1], row[2]
	d.due = binary.BigEndian.Uint64(row[3:])
	d.expires = binary.BigEndian.Uint64(row[11:])
	d.attempts = binary.BigEndian.Uint32(row[19:])
	d.token = binary.BigEndian.Uint64(row[23:])
	rest := row[31:]
	rest = rest[copy(d.dest[:], rest):]
	for _, s := range []*short{&d.sender, &d.campaign, &d.recipient, &d.code} {
		rest = rest[copy(s[:], rest):]
	}
	return d, rest, nil
}

// dutyOf is the clear part of an envelope that is ready or held.
func (s *Store) dutyOf(v *store.Envelope) duty {
	return duty{
		state: stateByte(v.State), lane: laneOf(v.Lane, store.FlowOf(v.Message)),
		due: nanos(v.Due), expires: nanos(v.Expires), attempts: uint32(v.Attempts),
		dest:      s.index("dest", v.Dest),
		sender:    s.short("sender", v.Message.Sender),
		campaign:  s.short("campaign", v.Message.Campaign),
		recipient: s.short("recipient", policy.Address(v.Recipient).Key()),
		code:      s.short("code", string(v.Code)),
	}
}

// index is the keyed hash of a value in one space.
func (s *Store) index(space, value string) digest { return s.o.Sealer.Index(space, value) }

// short is the same, cut; no value has the zero hash, which saves hashing.
func (s *Store) short(space, value string) (h short) {
	if value != "" {
		d := s.index(space, value)
		copy(h[:], d[:])
	}
	return h
}

const envelopeFormat = 1

// encodeEnvelope is what of an envelope is neither in its key, its duty nor its
// message.
func encodeEnvelope(v *store.Envelope) []byte {
	e := make(encoder, 0, 256)
	e.byte(envelopeFormat)
	e.text(v.Recipient)
	e.text(v.Dest)
	e.byte(byte(v.Floor.Assurance))
	e.byte(byte(v.Floor.Strength))
	e.time(v.Within)
	e.byte(byte(v.Else))
	e.text(string(v.Code))
	e.text(v.Rule)
	e.facts(&v.Facts)
	e.text(v.Notify)
	e.text(v.ORcpt)
	e.text(v.LastReply)
	e.time(v.LastAt)
	e.flag(v.Sent)
	return e
}

func decodeEnvelope(b []byte, v *store.Envelope) error {
	d := decoder{rest: b}
	d.version(envelopeFormat)
	v.Recipient = d.text()
	v.Dest = d.text()
	v.Floor.Assurance = policy.Assurance(d.byte())
	v.Floor.Strength = policy.Strength(d.byte())
	v.Within = d.time()
	v.Else = policy.Action(d.byte())
	v.Code = policy.Code(d.text())
	v.Rule = d.text()
	d.facts(&v.Facts)
	v.Notify = d.text()
	v.ORcpt = d.text()
	v.LastReply = d.text()
	v.LastAt = d.time()
	v.Sent = d.flag()
	return d.finish()
}

// factBytes lists the enums of Facts in the order they are stored. A new one is
// appended, with a new envelopeFormat.
func factBytes(f *policy.Facts) [21]*byte {
	return [21]*byte{
		(*byte)(&f.Records), (*byte)(&f.SenderClass), (*byte)(&f.BAA), (*byte)(&f.Class),
		(*byte)(&f.Audience), (*byte)(&f.Remuneration), (*byte)(&f.Promotion), (*byte)(&f.Recipient),
		(*byte)(&f.Channel), (*byte)(&f.OptedOut), (*byte)(&f.Address), (*byte)(&f.Consent),
		(*byte)(&f.Unencrypted), (*byte)(&f.PHI), (*byte)(&f.Topic), (*byte)(&f.Scan),
		(*byte)(&f.Form), (*byte)(&f.Subject), (*byte)(&f.Trackers), (*byte)(&f.Released),
		(*byte)(&f.Assurance),
	}
}

func (e *encoder) facts(f *policy.Facts) {
	for _, b := range factBytes(f) {
		e.byte(*b)
	}
	e.time(f.Now)
	e.text(f.Campaign)
	e.text(f.ConsentID)
	e.text(f.Partner)
}

func (d *decoder) facts(f *policy.Facts) {
	for _, b := range factBytes(f) {
		*b = d.byte()
	}
	f.Now = d.time()
	f.Campaign = d.text()
	f.ConsentID = d.text()
	f.Partner = d.text()
}

const messageFormat = 1

// encodeMessage is a message and the key of its body: this row is the body's
// queue key, and lives as long as an envelope does.
func encodeMessage(m *store.Message, key []byte) []byte {
	e := make(encoder, 0, 192)
	e.byte(messageFormat)
	e.text(m.Sender)
	e.text(m.Return)
	e.text(m.Campaign)
	e.text(m.Language)
	e.time(m.Accepted)
	e.uint(uint64(m.Size))
	e.flag(m.UTF8)
	e.flag(m.EightBit)
	e.text(m.EnvID)
	e.flag(m.DSNFull)
	e.blob(key)
	return e
}

func decodeMessage(id store.ID, b []byte) (m store.Message, key []byte, err error) {
	d := decoder{rest: b}
	d.version(messageFormat)
	m.ID = id
	m.Sender = d.text()
	m.Return = d.text()
	m.Campaign = d.text()
	m.Language = d.text()
	m.Accepted = d.time()
	m.Size = int(d.uint())
	m.UTF8 = d.flag()
	m.EightBit = d.flag()
	m.EnvID = d.text()
	m.DSNFull = d.flag()
	key = d.blob()
	return m, key, d.finish()
}

// pickupHead is the part of a pickup row in clear, in front of the sealed rest.
type pickupHead struct {
	over      bool
	version   uint64
	expires   uint64
	message   [idSize]byte
	recipient short
}

const (
	pickupFormat   = 1
	pickupHeadSize = 1 + 1 + 8 + 8 + idSize + 8
)

func (h *pickupHead) row(sealed []byte) []byte {
	b := make([]byte, 0, pickupHeadSize+len(sealed))
	over := byte(0)
	if h.over {
		over = 1
	}
	b = append(b, pickupFormat, over)
	b = binary.BigEndian.AppendUint64(b, h.version)
	b = binary.BigEndian.AppendUint64(b, h.expires)
	b = append(b, h.message[:]...)
	b = append(b, h.recipient[:]...)
	return append(b, sealed...)
}

func readPickupHead(row []byte) (h pickupHead, sealed []byte, err error) {
	if len(row) < pickupHeadSize || row[0] != pickupFormat {
		return h, nil, errDamaged
	}
	h.over = row[1] != 0
	h.version = binary.BigEndian.Uint64(row[2:])
	h.expires = binary.BigEndian.Uint64(row[10:])
	rest := row[18:]
	rest = rest[copy(h.message[:], rest):]
	rest = rest[copy(h.recipient[:], rest):]
	return h, rest, nil
}

func (s *Store) pickupHeadOf(p *store.Pickup) pickupHead {
	h := pickupHead{
		over: p.State.Over(), version: uint64(p.Version), expires: nanos(p.Expires),
		recipient: s.short("recipient", policy.Address(p.Recipient).Key()),
	}
	copy(h.message[:], p.Message)
	return h
}

func encodePickup(p *store.Pickup) []byte {
	e := make(encoder, 0, 192)
	e.byte(pickupFormat)
	e.text(p.Recipient)
	e.text(p.Sender)
	e.text(p.Return)
	e.time(p.Created)
	e.text(string(p.State))
	e.text(string(p.Code))
	e.facts(&p.Facts)
	e.blob(p.Value)
	return e
}

func decodePickup(b []byte, p *store.Pickup) error {
	d := decoder{rest: b}
	d.version(pickupFormat)
	p.Recipient = d.text()
	p.Sender = d.text()
	p.Return = d.text()
	p.Created = d.time()
	p.State = store.PickupState(d.text())
	p.Code = policy.Code(d.text())
	d.facts(&p.Facts)
	p.Value = d.blob()
	return d.finish()
}

const leafFormat = 1

// encodeLeaf is a leaf without its number and its clear values. It is not
// sealed: an outsider's proof is over these very bytes.
func encodeLeaf(l *store.Leaf) []byte {
	e := make(encoder, 0, 64+len(l.Record))
	e.byte(leafFormat)
	e.time(l.Time)
	e.text(string(l.ID))
	e.text(l.Event)
	e.blob(l.Record)
	return e
}

func decodeLeaf(n int64, b []byte) (store.Leaf, error) {
	d := decoder{rest: b}
	d.version(leafFormat)
	l := store.Leaf{N: n, Time: d.time(), ID: store.ID(d.text()), Event: d.text(), Record: d.blob()}
	return l, d.finish()
}

const recordFormat = 1

func encodeRecord(r *store.Record) []byte {
	e := make(encoder, 0, 64+len(r.Value))
	e.byte(recordFormat)
	e.text(r.Subject)
	e.text(r.Key)
	e.blob(r.Value)
	return e
}

func decodeRecord(kind string, b []byte) (store.Record, error) {
	d := decoder{rest: b}
	d.version(recordFormat)
	r := store.Record{Kind: kind, Subject: d.text(), Key: d.text(), Value: d.blob()}
	return r, d.finish()
}

// idSize is the length of a [store.ID] in a key.
const idSize = 13

// envelopeKey is an envelope's id as a key that sorts by message and number.
func envelopeKey(id store.EnvelopeID) ([]byte, bool) {
	n, ok := id.Number()
	if !ok {
		return nil, false
	}
	return binary.BigEndian.AppendUint32([]byte(id.Message()), n), true
}

const envelopeKeySize = idSize + 4

func envelopeID(key []byte) store.EnvelopeID {
	id := append(make([]byte, 0, idSize+8), key[:idSize]...)
	return store.EnvelopeID(strconv.AppendUint(append(id, '.'), uint64(binary.BigEndian.Uint32(key[idSize:])), 10))
}
