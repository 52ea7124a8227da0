// Package store holds the records of the gateway and the one contract by which
// they are kept.
//
// [Store] is what an engine must do; store/bolt is the embedded engine and
// store/storetest is the contract as tests. No engine type, open transaction or
// key range crosses this seam, so that an SQL engine can satisfy it with
// ordinary tables.
//
// Values go in and come out in clear; the engine seals them with the [Sealer]
// it was opened with. On disk, keys are opaque ids or keyed hashes, and every
// value is sealed (promise 4 of the design: a grep of the data folder finds no
// address, subject or body).
//
// Everything one promise changes is one [Effects] value and commits in one
// transaction with its audit leaves, or not at all.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/phigate/phigate/policy"
)

// Errors of every engine.
var (
	// ErrUnknown is returned when it is not known whether a commit reached the
	// disk. The caller must answer 451; the engine reopens before anything else.
	ErrUnknown = errors.New("store: outcome of the commit is unknown")
	// ErrNotFound is returned when no record has the id or key asked for.
	ErrNotFound = errors.New("store: not found")
	// ErrNoSlot is returned by Lease when the destination already has as many
	// live leases as the cap allows.
	ErrNoSlot = errors.New("store: no free slot for the destination")
	// ErrLeaseLost is returned by Extend and Finish when the token is stale.
	// Nothing was changed.
	ErrLeaseLost = errors.New("store: lease lost")
	// ErrConflict is returned when a record changed since it was read, or an
	// envelope is leased and may not be changed now. Nothing was changed.
	ErrConflict = errors.New("store: changed meanwhile")
	// ErrUnavailable is returned when the engine cannot serve: disk full,
	// damaged file, closed. The text behind it is for the operator.
	ErrUnavailable = errors.New("store: unavailable")
	// ErrShredded is returned when a body or value can no longer be opened
	// because its key was destroyed.
	ErrShredded = errors.New("store: key destroyed")
)

// ID names a message or a pickup: 13 characters of lower-case base32hex that
// sort by the time they were made (performance: never random queue keys).
type ID string

// EnvelopeID names one recipient's copy of a message: "<message id>.<n>".
type EnvelopeID string

// Message is what all envelopes of one accepted message share.
type Message struct {
	ID       ID
	Sender   string // the sender's name in policy.yaml; "" for our own notices and DSNs
	Return   string // envelope sender; "" is the null reverse-path
	Campaign string
	Language string // X-Gateway-Language, for a notice made later
	Accepted time.Time
	Size     int // bytes of the body
	UTF8     bool
	EightBit bool
	EnvID    string // RFC 3461 ENVID
	DSNFull  bool   // RFC 3461 RET=FULL; honoured as HDRS, for a DSN never carries content
}

// State of an envelope.
type State string

const (
	Ready  State = "ready"
	Leased State = "leased"
	Held   State = "held"
)

// Lane orders envelopes of one destination: a prompt one (a pickup code, a
// notice, a DSN) is leased before any bulk one.
type Lane uint8

const (
	Bulk Lane = iota
	Prompt
)

// Envelope is one recipient's copy of a message that is still to be sent, or held.
type Envelope struct {
	ID        EnvelopeID
	Message   Message
	Recipient string
	Dest      string // recipient domain, A-labels, lower case
	State     State
	Lane      Lane
	Due       time.Time // not leased before
	Expires   time.Time // when a queued one bounces, or a hold runs out
	Attempts  int

	Floor  policy.Floor // what the connection must prove; only rises
	Within time.Time    // when Else is done if the floor is still not met; zero = Expires
	Else   policy.Action

	Code  policy.Code
	Rule  string
	Facts policy.Facts

	Notify    string // RFC 3461 NOTIFY, "" if not given
	ORcpt     string // RFC 3461 ORCPT
	LastReply string // code, enhanced code and class of the last reply, never its text
	LastAt    time.Time
	Sent      bool // the final dot was sent once and the reply lost: never also a pickup
}

// NewMessage is a message to be stored: its body and its envelopes.
// The engine gives no ids; use [IDs] and [EnvelopeIDOf].
type NewMessage struct {
	Message   Message
	Body      []byte // the exact bytes to send: canonical CRLF, signed
	Envelopes []Envelope
}

// Pickup is a message that waits for its recipient on the portal.
type Pickup struct {
	ID        ID
	Message   ID
	Recipient string
	Sender    string // sender's name in policy.yaml
	Return    string // envelope sender of the message, to be told if the notice bounces
	Created   time.Time
	Expires   time.Time
	State     PickupState
	Code      policy.Code
	Facts     policy.Facts // why it was allowed; decided again when a record changes
	Value     []byte       // the portal's own state, opaque here: code, attempts, session
	Version   int64        // grows with each change; PutPickup compares it
}

// PickupState says how far a pickup came. Only released counts as read.
type PickupState string

const (
	Noticed  PickupState = "noticed"
	Landed   PickupState = "landed"
	Proven   PickupState = "proven"
	Released PickupState = "released"
	Fetched  PickupState = "fetched"
	Replied  PickupState = "replied"
	Expired  PickupState = "expired"
	Recalled PickupState = "recalled"
)

// Over reports whether nothing can be picked up any more; the engine then has
// dropped the pickup's key.
func (s PickupState) Over() bool { return s == Expired || s == Recalled }

// NewPickup is a pickup to be made. Its body's key is wrapped under Secret (and
// PIN, if any); neither is stored. The body is that of Message, stored in the
// same Effects or earlier.
type NewPickup struct {
	Pickup Pickup
	Secret []byte // 24 random bytes of the link
	PIN    string // clinic PIN, "" if none
}

// Record is a value that some room owns: a consent, a suppression, a partner,
// a credential, an MTA-STS policy. The engine neither reads nor judges Value.
type Record struct {
	Kind    string // short token, in clear on disk
	Subject string // what it is looked up by (an address, a name); keyed hash on disk
	Key     string // unique within (Kind, Subject); keyed hash on disk. Same key = replaced
	Value   []byte
	Delete  bool // remove instead of write
}

// Leaf is one line of the audit log. Record enters the Merkle tree and holds
// only codes, ids and salted commitments; Sealed holds the clear values and
// salts, and may be dropped later without harm to the tree.
type Leaf struct {
	N      int64 // its number, from 0; given by the engine
	Time   time.Time
	ID     ID // what the leaf is found by; "" if it belongs to no message
	Event  string
	Record []byte
	Sealed []byte
}

// Effects is everything that one promise changes; all or nothing.
type Effects struct {
	Messages []NewMessage
	Pickups  []NewPickup
	Records  []Record
	Leaves   []Leaf
}

// Acceptance is what a 250 promises. Digest names sender, envelope and data: a
// repeat within 24 h is the same message and changes nothing.
type Acceptance struct {
	Digest [32]byte
	ID     ID // the id said in the reply
	Effects
}

// Receipt says what was accepted.
type Receipt struct {
	ID       ID   // of the first acceptance, if repeated
	Repeated bool // an equal message was accepted within 24 h; nothing was stored
}

// DestDue is a destination with something due.
type DestDue struct {
	Dest string
	Due  time.Time // of its earliest envelope
	Lane Lane      // the best lane among those due
}

// Backoff gives the time to the next attempt: First, doubled each time up to
// Max, each with ±20 % jitter so that a campaign does not return in one wave.
type Backoff struct{ First, Max time.Duration }

// LeaseRequest asks for up to Max due envelopes of one destination. The lease
// counts the attempt and sets the next due time before anything is dialled, so
// that a crash cannot become a hammer.
type LeaseRequest struct {
	Node    string
	Dest    string
	Max     int
	Cap     int           // live leases the destination may have
	For     time.Duration // how long the lease lives unless extended
	Backoff Backoff
	After   uint8 // the flow that had its turn last at this destination ([FlowOf])
}

// Token proves a lease; a stale one changes nothing.
type Token struct {
	Dest string
	Slot int
	N    uint64
}

// Batch is what was leased.
type Batch struct {
	Token     Token
	Until     time.Time
	Envelopes []Envelope
}

// Next is what becomes of a leased envelope.
type Next uint8

const (
	Retry  Next = iota // back to ready at Due
	Finish             // leaves the queue: delivered, bounced, picked up, refused
	Park               // held until released or expired
)

// Result is the outcome of one leased envelope. An envelope of the batch that
// has no result goes back to ready as the lease left it.
type Result struct {
	Envelope  EnvelopeID
	Next      Next
	Due       time.Time    // Retry: zero keeps what the lease set
	Expires   time.Time    // Park: when the hold runs out
	Floor     policy.Floor // raises the stored one, never lowers it; zero keeps it
	Code      policy.Code  // "" keeps it
	LastReply string       // "" keeps it; otherwise LastAt becomes now
	Sent      bool         // stays true once it is
}

// Change is an operator's wish for envelopes that are not leased.
type Change struct {
	Envelopes []EnvelopeID
	To        State     // Ready, Held; "" = remove from the queue
	Due       time.Time // zero keeps it
	Update    *Envelope // with To: verdict fields (Floor, Within, Else, Code, Rule, Facts, Expires) to set; nil keeps them
}

// Query selects envelopes; zero fields select all. Rows come by message id,
// then by number. Recipient matches every spelling of the mailbox.
type Query struct {
	State     State
	Message   ID
	Sender    string
	Dest      string
	Campaign  string
	Recipient string
	Code      policy.Code
	ExpiresBy time.Time  // those that expire at or before; zero = any
	After     EnvelopeID // keyset page: rows behind this one
	Limit     int        // 0 = DefaultLimit
}

// PickupQuery selects pickups; zero fields select all. Rows come by id.
type PickupQuery struct {
	Recipient string
	Message   ID
	ExpiresBy time.Time // those not over that expire at or before; zero = any
	After     ID
	Limit     int // 0 = DefaultLimit
}

// Stats are counts for metrics and health.
type Stats struct {
	Ready, Leased, Held, Pickups int
	Oldest                       time.Time // acceptance of the oldest queued message; zero if none
	Leaves                       int64
}

// Durability says what a nil error of Accept means.
type Durability string

const (
	None   Durability = "none"   // lost with the process (tests)
	Local  Durability = "local"  // fsynced here
	Quorum Durability = "quorum" // on several machines
)

// Store is the contract of every engine. All methods may be called at once from
// many goroutines. An error other than those above is wrapped in ErrUnavailable.
type Store interface {
	// Accept stores a message with its pickups, notices, DSNs and leaves. nil
	// means durable, and only then may 250 be said. ErrUnknown means 451.
	Accept(context.Context, Acceptance) (Receipt, error)
	// Apply commits effects that belong to no accepted message: imports,
	// refusals at RCPT, notices.
	Apply(context.Context, Effects) error

	// Due lists destinations with something ready and due now, those with a
	// prompt envelope first, then by their earliest. One at its cap is listed
	// too: a caller that holds leases asks for that many more.
	Due(ctx context.Context, now time.Time, limit int) ([]DestDue, error)
	// NextDue is when there is next something to do: a ready envelope falls due
	// or a lease runs out. Zero if neither lies ahead.
	NextDue(context.Context) (time.Time, error)
	// Lease takes due envelopes of one destination: prompt ones first, then one
	// of each flow in turn, from the flow behind r.After on and round again until
	// there are r.Max; of a flow always the one due first. So no campaign waits
	// for the end of another. It is ErrNoSlot at the cap; a Batch without envelopes if nothing is due, which
	// took no slot.
	Lease(context.Context, LeaseRequest) (Batch, error)
	// Extend makes a live lease end at by from now.
	Extend(ctx context.Context, t Token, by time.Duration) (time.Time, error)
	// Finish ends a lease: all results and effects, or ErrLeaseLost and nothing.
	// A result for an envelope that is not of the batch, or two for one, is
	// ErrConflict.
	// When the last envelope of a message has left, the body's queue key is
	// dropped in the same transaction, and the body with its last key.
	Finish(context.Context, Token, []Result, Effects) error
	// Change alters envelopes that are not leased. If one is leased or gone:
	// ErrConflict, and nothing is changed.
	Change(context.Context, Change, Effects) error

	Envelope(context.Context, EnvelopeID) (Envelope, error)
	Envelopes(context.Context, Query) ([]Envelope, error)
	// Body is the stored body of a message that is queued or held.
	Body(context.Context, ID) ([]byte, error)

	Pickup(context.Context, ID) (Pickup, error)
	Pickups(context.Context, PickupQuery) ([]Pickup, error)
	// PutPickup replaces a pickup if its Version is still the stored one, with
	// its effects; ErrConflict otherwise. A state that is Over drops its key,
	// and stays: what is over never opens again.
	PutPickup(context.Context, Pickup, Effects) error
	// PickupBody opens the body with the link's secret (and PIN). ErrNotFound
	// covers a wrong secret too, so that nothing can be told apart.
	PickupBody(ctx context.Context, id ID, secret []byte, pin string) ([]byte, error)
	// CheckPickup reports whether secret (and PIN) open the pickup, without its body.
	CheckPickup(ctx context.Context, id ID, secret []byte, pin string) (bool, error)

	// Records lists the records of one subject by key; Scan pages through a kind
	// (after "" starts; next "" ends), in an order of the engine's own.
	Records(ctx context.Context, kind, subject string) ([]Record, error)
	Scan(ctx context.Context, kind, after string, limit int) (page []Record, next string, err error)

	// Leaves reads up to n leaves from number from on; LeavesOf those of one id.
	Leaves(ctx context.Context, from int64, n int) ([]Leaf, error)
	LeavesOf(context.Context, ID) ([]Leaf, error)
	// Tree gives the size of the log and reads stored tree hashes by index.
	TreeSize(context.Context) (int64, error)
	TreeHashes(ctx context.Context, indexes []int64) ([][32]byte, error)

	Stats(context.Context) (Stats, error)
	// Check reports whether the store can take a write now.
	Check(context.Context) error
	Durability() Durability
	Close() error
}

// Sealer is the key ring as engines need it; internal/keys satisfies it.
// Sealed values carry their epoch and format version.
type Sealer interface {
	// SealMail seals under today's epoch key, which is destroyed one day.
	SealMail(aad, plain []byte) ([]byte, error)
	// SealRecord seals under the long-lived record key.
	SealRecord(aad, plain []byte) ([]byte, error)
	// Open opens both. It returns an error that wraps ErrShredded's text when
	// the epoch is gone.
	Open(aad, sealed []byte) ([]byte, error)
	// Index is a keyed hash for look-ups: equal values in one space have equal
	// hashes, and nobody without the key can test a guess.
	Index(space, value string) [16]byte
	// SealBody seals a body under a fresh key and returns that key.
	SealBody(aad, plain []byte) (sealed, key []byte, err error)
	OpenBody(key, aad, sealed []byte) ([]byte, error)
	// WrapPickup wraps a body key under HKDF(epoch key, secret, stretched PIN).
	WrapPickup(aad, secret []byte, pin string, key []byte) ([]byte, error)
	UnwrapPickup(aad, secret []byte, pin string, wrapped []byte) ([]byte, error)
}

// Hasher computes the tree hashes that the n-th leaf adds
// (tlog.StoredHashesForRecordHash); read returns earlier ones by index.
type Hasher func(n int64, record []byte, read func([]int64) ([][32]byte, error)) ([][32]byte, error)
