package portal

import (
	"context"
	"errors"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/mail"
	"github.com/phigate/phigate/internal/portal/sanitize"
	"github.com/phigate/phigate/internal/store"
)

// reader is enter for who has proven to be the recipient. A HEAD or a prefetch
// by the browser is no reading and gets nothing.
func (p *Portal) reader(w http.ResponseWriter, r *http.Request) (visit, bool) {
	if r.Method == http.MethodHead || strings.Contains(r.Header.Get("Sec-Purpose"), "prefetch") {
		w.WriteHeader(http.StatusServiceUnavailable)
		return visit{}, false
	}
	v, ok := p.enter(w, r)
	if !ok {
		return visit{}, false
	}
	if !v.ticket.Proven || !v.admitted(v.ticket, v.now) {
		http.Redirect(w, r, "/m/"+string(v.ID), http.StatusSeeOther)
		return visit{}, false
	}
	if err := p.give(w, v.ID, v.ticket); err != nil {
		p.trouble(w, r, v.ID, err)
		return visit{}, false
	}
	return v, true
}

// open gives the message to a reader: first it is found, then that it was
// released is on record, then it is shown.
func (p *Portal) open(w http.ResponseWriter, r *http.Request) (v visit, raw []byte, ok bool) {
	v, ok = p.reader(w, r)
	if !ok {
		return visit{}, nil, false
	}
	raw, err := p.o.Store.PickupBody(r.Context(), v.ID, v.ticket.Secret, v.ticket.PIN)
	if err == nil {
		err = p.release(context.WithoutCancel(r.Context()), v)
	}
	if err != nil {
		p.refuse(v, w, r, err)
		return visit{}, nil, false
	}
	return v, raw, true
}

func (p *Portal) release(ctx context.Context, v visit) error {
	return p.change(ctx, v.ID, func(e *entry) (store.Effects, error) {
		if e.over(v.now) {
			return store.Effects{}, errOver
		}
		if slices.Index(way, e.State) >= slices.Index(way, store.Released) {
			return store.Effects{}, errUnchanged
		}
		fx := store.Effects{Leaves: []store.Leaf{p.advance(e, Event{State: store.Released})}}
		if p.o.Proved != nil {
			fx.Records = p.o.Proved(e.Pickup)
		}
		return fx, nil
	})
}

// letter is a message as the page shows it.
type letter struct {
	Subject  string
	From     string
	Date     time.Time
	Body     template.HTML
	Plain    bool // Body is text whose line ends count
	Blocked  int  // pictures of other sites that were left out
	Original bool // there is an original look to show
	Broken   bool // nothing of it can be shown; it can be downloaded
	Files    []attachment
}

type attachment struct {
	N    int // from 1
	Name string
	Size int
}

// read shows the message.
func (p *Portal) read(w http.ResponseWriter, r *http.Request) {
	v, raw, ok := p.open(w, r)
	if !ok {
		return
	}
	m, err := p.o.View(raw)
	l := letter{Broken: err != nil}
	if err == nil {
		l = letterOf(m)
	}
	p.show(w, r, http.StatusOK, "read", page{
		ID: v.ID, Lang: v.Lang, Letter: l, Until: v.Expires.In(v.now.Location()),
		Warn: int(warnAt / time.Second), End: int(idleFor / time.Second), Minutes: int(idleFor / time.Minute),
	})
}

func letterOf(m mail.View) letter {
	l := letter{Subject: m.Subject.Clear(), Date: m.Date, From: sender(m.From)}
	for i, f := range m.Files {
		l.Files = append(l.Files, attachment{i + 1, safeName(f.Name, i+1), len(f.Data)})
	}
	rich, err := sanitize.Easy(m.HTML.Clear(), pictures(m))
	switch text := m.Text.Clear(); {
	case err == nil && strings.TrimSpace(string(rich.HTML)) != "":
		l.Body, l.Blocked, l.Original = rich.HTML, rich.Blocked, true
	case strings.TrimSpace(text) != "":
		l.Body, l.Plain = sanitize.Text(text), true
	default:
		l.Broken = err != nil || len(m.Files) == 0
	}
	return l
}

func sender(from []mail.Mailbox) string {
	if len(from) == 0 {
		return ""
	}
	name, address := from[0].Name.Clear(), from[0].Address.Clear()
	if name == "" {
		return address
	}
	return name + " <" + address + ">"
}

// pictures finds those the message carries by their Content-ID.
func pictures(m mail.View) sanitize.Lookup {
	return func(id string) (sanitize.Picture, bool) {
		for _, f := range m.Inline {
			if f.ID == id {
				return sanitize.Picture{Type: f.Type, Data: f.Data}, true
			}
		}
		return sanitize.Picture{}, false
	}
}

// sandbox is the policy of the original look: an origin of its own, no script,
// nothing fetched. Its styles may stay, for nothing can load.
const sandbox = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; " +
	"style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

// original shows the message as its sender designed it, on a page of its own.
func (p *Portal) original(w http.ResponseWriter, r *http.Request) {
	v, raw, ok := p.open(w, r)
	if !ok {
		return
	}
	m, err := p.o.View(raw)
	var doc sanitize.Result
	if err == nil {
		doc, err = sanitize.Original(m.HTML.Clear(), pictures(m))
	}
	if err != nil || m.HTML == "" {
		http.Redirect(w, r, "/m/"+string(v.ID)+"/read", http.StatusSeeOther)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", sandbox)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Del("Cross-Origin-Opener-Policy") // its links open windows that owe us nothing
	p.pages.original(w, p.lang(r, v.Lang), doc.HTML)
}

// file sends one attachment, as something to keep and never to run here.
func (p *Portal) file(w http.ResponseWriter, r *http.Request) {
	v, raw, ok := p.open(w, r)
	if !ok {
		return
	}
	n, err := strconv.Atoi(r.PathValue("n"))
	m, viewErr := p.o.View(raw)
	if err != nil || viewErr != nil || n < 1 || n > len(m.Files) {
		p.sayTo(v, w, r, http.StatusNotFound, "nofile")
		return
	}
	f := m.Files[n-1]
	p.deliver(v, w, r, n, safeName(f.Name, n), f.Type, f.Data)
}

// whole sends the message itself, with all its parts.
func (p *Portal) whole(w http.ResponseWriter, r *http.Request) {
	v, raw, ok := p.open(w, r)
	if !ok {
		return
	}
	p.deliver(v, w, r, 0, "message-"+string(v.ID)+".eml", "message/rfc822", raw)
}

func (p *Portal) deliver(v visit, w http.ResponseWriter, r *http.Request, n int, name, kind string, data []byte) {
	if err := p.fetched(context.WithoutCancel(r.Context()), v, n); err != nil {
		p.refuse(v, w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", safeType(kind))
	h.Set("Content-Disposition", disposition(name))
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	w.Write(data) // an error here is the browser's going away
}

// fetched puts the first fetch of each file on record.
func (p *Portal) fetched(ctx context.Context, v visit, n int) error {
	return p.change(ctx, v.ID, func(e *entry) (store.Effects, error) {
		if e.over(v.now) {
			return store.Effects{}, errOver
		}
		if slices.Contains(e.Fetched, n) {
			return store.Effects{}, errUnchanged
		}
		e.Fetched = append(e.Fetched, n)
		return store.Effects{Leaves: []store.Leaf{p.advance(e, Event{State: store.Fetched, Part: n})}}, nil
	})
}

// idle asks whether somebody is still there; being asked is no sign of life.
func (p *Portal) idle(w http.ResponseWriter, r *http.Request) {
	v, ok := p.enter(w, r)
	if !ok {
		return
	}
	w.Header().Set("Refresh", strconv.Itoa(int((idleFor-warnAt)/time.Second))+"; url=/m/"+string(v.ID)+"/closed")
	p.show(w, r, http.StatusOK, "idle", page{ID: v.ID, Lang: v.Lang, Minutes: int((idleFor - warnAt) / time.Minute)})
}

// stay begins the idle time anew.
func (p *Portal) stay(w http.ResponseWriter, r *http.Request) {
	if v, ok := p.reader(w, r); ok {
		http.Redirect(w, r, "/m/"+string(v.ID)+"/read", http.StatusSeeOther)
	}
}

// leave ends the visit, here and in every copy of its cookie.
func (p *Portal) leave(w http.ResponseWriter, r *http.Request) {
	id := store.ID(r.PathValue("id"))
	if t, ok := p.ticket(r, id); ok && t.Proven {
		err := p.change(context.WithoutCancel(r.Context()), id, func(e *entry) (store.Effects, error) {
			if !sameLink(e.Link, t.Secret) {
				return store.Effects{}, errUnchanged
			}
			e.dismiss(t)
			return store.Effects{}, nil
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			p.trouble(w, r, id, err)
			return
		}
	}
	if !id.Valid() {
		p.nowhere(w, r)
		return
	}
	p.take(w, id)
	w.Header().Set("Clear-Site-Data", `"cache"`)
	http.Redirect(w, r, "/m/"+string(id)+"/closed", http.StatusSeeOther)
}

func (p *Portal) closed(w http.ResponseWriter, r *http.Request) {
	p.say(w, r, http.StatusOK, "closed")
}

// backToStart answers the GET that a reload, or a change of language, makes of a form's address.
func (p *Portal) backToStart(w http.ResponseWriter, r *http.Request) {
	id := store.ID(r.PathValue("id"))
	switch form := r.PathValue("form"); {
	case id.Valid() && (form == "code" || form == "open"):
		p.noteLang(w, r)
		http.Redirect(w, r, "/m/"+string(id), http.StatusSeeOther)
	case id.Valid() && (form == "stay" || form == "leave"):
		http.Redirect(w, r, "/m/"+string(id)+"/read", http.StatusSeeOther)
	default:
		p.nowhere(w, r)
	}
}
