// Package portal is the recipient's pickup site: how a patient reads a message
// that could not be sent to them safely.
//
// The way of a visit, as the functions go: the notice links to
// /p/{id}.{secret} ([NewLink]); [Portal.land] moves the secret out of the
// address into a sealed cookie, the [ticket], and changes nothing that a mail
// scanner could burn. On /m/{id} [Portal.start] asks for a human click;
// [Portal.askCode] queues a mail with a six-digit code, in the transaction that
// remembers it; [Portal.prove] takes the code, or the PIN the practice gave out
// instead. Then [Portal.read] shows the message, as often as wished until it
// expires: nothing is burned on read.
//
// All that must survive a restart lies in the pickup's own record ([memory]),
// changed by compare-and-set in [Portal.change], always with the audit leaf of
// the change. Limits count before they answer.
//
// An e-mailed code proves that somebody reads that mailbox, no more (NIST
// SP 800-63B-4 §3.1.3.1 does not count it as out-of-band authentication); the
// leaf of a proof says which of the two it was. A PIN on paper is a second
// channel and is mixed into the key.
//
// No address, subject, secret or word of a message stands in a URL, a title, a
// log or an error.
package portal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/store"
)

// ErrOptions is returned by New when an option is missing or wrong. Its text
// says which and what to do.
var ErrOptions = errors.New("portal: cannot start")

// DefaultExpiry is how long a message waits if nothing else is said.
const DefaultExpiry = 720 * time.Hour

// Store is what the portal needs of the storage contract.
type Store interface {
	Pickup(context.Context, store.ID) (store.Pickup, error)
	Pickups(context.Context, store.PickupQuery) ([]store.Pickup, error)
	PutPickup(context.Context, store.Pickup, store.Effects) error
	PickupBody(ctx context.Context, id store.ID, secret []byte, pin string) ([]byte, error)
	CheckPickup(ctx context.Context, id store.ID, secret []byte, pin string) (bool, error)
}

// Practice is whom the patient knows and can call.
type Practice struct {
	Name   string
	Phone  string
	Postal string
}

// Event is one thing that happened to a pickup, for its audit leaf.
type Event struct {
	Pickup store.Pickup      // as it is after the event
	State  store.PickupState // what happened: landed, proven, released, fetched, expired, recalled
	Time   time.Time
	Method Method // proven: how
	Part   int    // fetched: number of the file from 1; 0 = the whole message
	By     string // recalled: who
	Reason string // recalled: why
}

// Method is how a visitor proved to be the recipient.
type Method string

const (
	ByCode Method = "code" // proves that the mailbox can be read, no more
	ByPIN  Method = "pin"  // proves what the practice handed out by another channel
)

// Options is all a Portal needs; those without a remark are required.
type Options struct {
	Store    Store
	URL      string                            // portal.url: https, or http on a loopback address; links are made of it, never of Host
	Practice func() Practice                   // read at each page, so that a reload shows
	Leaf     func(Event) store.Leaf            // committed in the transaction of its event
	Proved   func(store.Pickup) []store.Record // nil: none; committed when a message is first read: its address works
	View     func([]byte) (mail.View, error)   // nil: mail.Parse and its View

	// CodeMail composes the mail that carries a code. The portal queues it; it
	// is never sent while the visitor waits, so that no time tells anything.
	CodeMail func(ctx context.Context, p store.Pickup, code, lang string) (store.NewMessage, error)

	Queued func() // nil: nothing; called when a code mail is in the queue, so that it need not wait for the next look

	Secret []byte           // 32 bytes that seal cookies, equal on all nodes; empty: random, visits end with the process
	Clock  func() time.Time // nil: time.Now
	Expiry time.Duration    // of a pickup that names no end; zero: DefaultExpiry
	Log    *slog.Logger     // nil: nothing is logged
}

// Portal is the pickup site. Serve its Handler and run Run.
type Portal struct {
	o      Options
	base   string // scheme and host of the links
	secure bool   // https: Secure cookies with the __Host- prefix
	seal   sealer
	caps   caps
	pages  *pages
}

// New checks o and returns the site. It starts nothing. Its error wraps
// ErrOptions.
func New(o Options) (*Portal, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.setDefaults()
	u, err := baseURL(o.URL)
	if err != nil {
		return nil, err
	}
	seal, err := newSealer(o.Secret)
	if err != nil {
		return nil, err
	}
	pages, err := loadPages()
	if err != nil {
		return nil, err
	}
	return &Portal{o: o, base: u.Scheme + "://" + u.Host, secure: u.Scheme == "https", seal: seal, pages: pages}, nil
}

func (o *Options) check() error {
	var errs []error
	for _, need := range []struct {
		name string
		ok   bool
	}{
		{"Store", o.Store != nil}, {"Practice", o.Practice != nil},
		{"Leaf (nothing may change unrecorded)", o.Leaf != nil}, {"CodeMail", o.CodeMail != nil},
		{"Secret of 32 bytes, or none", len(o.Secret) == 0 || len(o.Secret) == 32},
	} {
		if !need.ok {
			errs = append(errs, fmt.Errorf("%w: needs %s", ErrOptions, need.name))
		}
	}
	return errors.Join(errs...)
}

func (o *Options) setDefaults() {
	if len(o.Secret) == 0 {
		o.Secret = make([]byte, 32)
		rand.Read(o.Secret) // never fails (crypto/rand since Go 1.24)
	}
	if o.View == nil {
		o.View = parseView
	}
	if o.Queued == nil {
		o.Queued = func() {}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Expiry <= 0 {
		o.Expiry = DefaultExpiry
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func parseView(raw []byte) (mail.View, error) {
	m, err := mail.Parse(raw)
	if err != nil {
		return mail.View{}, err
	}
	return m.View(), nil
}

// baseURL reads portal.url. Plain http is for trying out on one machine: a link
// over it would show the secret to the network.
func baseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return nil, fmt.Errorf("%w: url is not an address such as https://secure.clinic.example", ErrOptions)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, fmt.Errorf("%w: url may have no path, query or user: give the portal a host name of its own", ErrOptions)
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return u, nil
	}
	return nil, fmt.Errorf("%w: url must begin with https:// (http:// only on a loopback address)", ErrOptions)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// Handler returns the site.
func (p *Portal) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /p/{ref}", p.land)
	mux.HandleFunc("GET /m/{id}", p.start)
	mux.HandleFunc("POST /m/{id}/code", p.askCode)
	mux.HandleFunc("POST /m/{id}/open", p.prove)
	mux.HandleFunc("GET /m/{id}/read", p.read)
	mux.HandleFunc("GET /m/{id}/original", p.original)
	mux.HandleFunc("GET /m/{id}/file/{n}", p.file)
	mux.HandleFunc("GET /m/{id}/message.eml", p.whole)
	mux.HandleFunc("GET /m/{id}/idle", p.idle)
	mux.HandleFunc("POST /m/{id}/stay", p.stay)
	mux.HandleFunc("POST /m/{id}/leave", p.leave)
	mux.HandleFunc("GET /m/{id}/closed", p.closed)
	mux.HandleFunc("GET /m/{id}/{form}", p.backToStart) // a reload of the page a POST answered with
	mux.HandleFunc("GET /static/{name}", p.static)
	mux.HandleFunc("GET /{$}", p.home)
	mux.HandleFunc("/", p.nowhere)

	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(p.crossOrigin))
	return p.guarded(cross.Handler(mux))
}

// sweepEvery is how soon after its end a pickup's key is destroyed. Nobody can
// open it in between: every visit looks at the clock.
const sweepEvery = 10 * time.Minute

// Run ends pickups whose time is over until ctx is done, and returns nil then.
func (p *Portal) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := p.sweep(ctx); err != nil && ctx.Err() == nil {
			p.o.Log.Error("portal: cannot end expired pickups; will try again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
