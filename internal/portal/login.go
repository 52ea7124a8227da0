package portal

import (
	"context"
	"crypto/hmac"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/store"
)

// visit is one request about one message, by a browser that holds its link.
type visit struct {
	entry
	ticket ticket
	now    time.Time
}

// land takes the way in, /p/{id}.{secret}, whoever asks: person, scanner,
// prefetch, HEAD. It looks nothing up, so it can tell nothing; it moves the
// secret into a cookie and goes on to an address without it, so that it stays
// in no history and no Referer.
func (p *Portal) land(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Referrer-Policy", "no-referrer")
	// Mail programs take the punctuation behind a link into it.
	id, secret, ok := readRef(strings.TrimRight(r.PathValue("ref"), ".,;:!>)]}'\""))
	if !ok {
		p.say(w, r, http.StatusNotFound, "broken")
		return
	}
	t, ok := p.ticket(r, id)
	if !ok || !hmac.Equal(t.Secret, secret) {
		t = newTicket(secret, p.o.Clock())
	}
	if err := p.give(w, id, t); err != nil {
		p.trouble(w, r, id, err)
		return
	}
	http.Redirect(w, r, "/m/"+string(id), http.StatusSeeOther)
}

// enter finds the message a request is about. If it must not go on, enter has
// answered and ok is false. An unknown message and a wrong secret get the same
// answer; only who holds the link learns that a message is over or locked.
func (p *Portal) enter(w http.ResponseWriter, r *http.Request) (v visit, ok bool) {
	id := store.ID(r.PathValue("id"))
	t, ok := p.ticket(r, id)
	if !ok {
		p.say(w, r, http.StatusForbidden, "reopen")
		return visit{}, false
	}
	e, err := p.entry(r.Context(), id)
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrShredded) {
		p.trouble(w, r, id, err)
		return visit{}, false
	}
	v = visit{e, t, p.o.Clock()}
	switch known, err := p.knows(r.Context(), v); {
	case err != nil:
		p.trouble(w, r, id, err)
	case !known:
		p.say(w, r, http.StatusNotFound, "unknown")
	case e.State == store.Recalled:
		p.sayTo(v, w, r, http.StatusGone, "recalled")
	case e.over(v.now):
		p.sayTo(v, w, r, http.StatusGone, "expired")
	case e.locked() && !t.Proven:
		p.sayTo(v, w, r, http.StatusForbidden, "locked")
	default:
		return v, true
	}
	return visit{}, false
}

func (e entry) over(now time.Time) bool { return e.State.Over() || !now.Before(e.Expires) }

// knows reports whether the visitor holds the link. The hash is computed for an
// unknown message too, so that both take equally long. A pickup that was stored
// without the portal's memory is asked of the store, as one without a PIN.
func (p *Portal) knows(ctx context.Context, v visit) (bool, error) {
	same := sameLink(v.Link, v.ticket.Secret)
	if v.Link != nil || v.ID == "" {
		return same, nil
	}
	return p.o.Store.CheckPickup(ctx, v.ID, v.ticket.Secret, "")
}

// start shows what is to be done next: ask for a code, type it in, or type in
// the PIN. It stores nothing; who has proven themselves goes on to the message.
func (p *Portal) start(w http.ResponseWriter, r *http.Request) {
	v, ok := p.enter(w, r)
	if !ok {
		return
	}
	if v.ticket.Proven && v.admitted(v.ticket, v.now) {
		http.Redirect(w, r, "/m/"+string(v.ID)+"/read", http.StatusSeeOther)
		return
	}
	p.ask(v, w, r, http.StatusOK, "")
}

// ask shows the form of the next step, with what was wrong before.
func (p *Portal) ask(v visit, w http.ResponseWriter, r *http.Request, status int, wrong string) {
	if err := p.give(w, v.ID, v.ticket); err != nil {
		p.trouble(w, r, v.ID, err)
		return
	}
	name := "start"
	switch {
	case v.PIN:
		name = "pin"
	case v.codeOf(v.ticket, v.now) != nil:
		name = "code"
	}
	p.show(w, r, status, name, page{ID: v.ID, Lang: v.Lang, Wrong: wrong, Minutes: int(CodeFor / time.Minute)})
}

// submitted is enter for forms, after the caps against floods.
func (p *Portal) submitted(w http.ResponseWriter, r *http.Request) (visit, bool) {
	now := p.o.Clock()
	if !p.caps.stranger(r, now) {
		p.say(w, r, http.StatusTooManyRequests, "busy")
		return visit{}, false
	}
	v, ok := p.enter(w, r)
	if ok && !p.caps.holder(now) {
		p.say(w, r, http.StatusTooManyRequests, "busy")
		return visit{}, false
	}
	return v, ok
}

// Why a step was refused.
var (
	errWrong  = errors.New("portal: wrong code or PIN") // counted already
	errNoCode = errors.New("portal: no code is good in this browser now")
	errLocked = errors.New("portal: too many wrong guesses in all")
	errOver   = errors.New("portal: expired or recalled meanwhile")
)

// errWait refuses until a limit of the day lets go.
type errWait struct{ until time.Time }

func (errWait) Error() string { return "portal: limit of the day reached" }

// askCode queues a mail with a new code. The button's own value is demanded: a
// scanner that submits forms by script sends none, and cannot use up the codes
// of the day.
func (p *Portal) askCode(w http.ResponseWriter, r *http.Request) {
	v, ok := p.submitted(w, r)
	if !ok {
		return
	}
	if v.PIN || r.PostFormValue("go") != "send" {
		p.ask(v, w, r, http.StatusOK, "")
		return
	}
	ctx := context.WithoutCancel(r.Context())
	err := p.change(ctx, v.ID, func(e *entry) (store.Effects, error) {
		return p.sendCode(ctx, e, v, p.lang(r, v.Lang))
	})
	if err != nil {
		p.refuse(v, w, r, err)
		return
	}
	p.o.Queued()
	http.Redirect(w, r, "/m/"+string(v.ID), http.StatusSeeOther)
}

func (p *Portal) sendCode(ctx context.Context, e *entry, v visit, lang string) (store.Effects, error) {
	if err := e.closedTo(v.now); err != nil {
		return store.Effects{}, err
	}
	if c := e.codeOf(v.ticket, v.now); c != nil && v.now.Before(c.At.Add(resendAfter)) {
		return store.Effects{}, errUnchanged // a double click
	}
	if next := e.nextCode(v.now); next.After(v.now) {
		return store.Effects{}, errWait{next}
	}
	e.remember(v)
	leaves := p.landed(e)
	digits := e.newCode(v.ticket, v.now)
	m, err := p.o.CodeMail(ctx, e.Pickup, digits, lang)
	return store.Effects{Messages: []store.NewMessage{m}, Leaves: leaves}, err
}

// closedTo says why nobody may try now.
func (e entry) closedTo(now time.Time) error {
	switch next := e.nextGuess(now); {
	case e.over(now):
		return errOver
	case e.locked():
		return errLocked
	case next.After(now):
		return errWait{next}
	}
	return nil
}

// remember notes the link of a pickup that was stored without it, now that its
// holder has shown it.
func (e *entry) remember(v visit) {
	if e.Link == nil {
		e.Link = linkHash(v.ticket.Secret)
	}
}

// landed records that a person has come: the first form they sent.
func (p *Portal) landed(e *entry) []store.Leaf {
	if e.State != store.Noticed {
		return nil
	}
	return []store.Leaf{p.advance(e, Event{State: store.Landed})}
}

// prove takes a code or a PIN. What has the wrong form is no guess.
func (p *Portal) prove(w http.ResponseWriter, r *http.Request) {
	v, ok := p.submitted(w, r)
	if !ok {
		return
	}
	digits, ok := digitsOf(r.PostFormValue("code"), v.PIN)
	switch {
	case !ok && !v.PIN && v.codeOf(v.ticket, v.now) == nil:
		p.refuse(v, w, r, errNoCode)
		return
	case !ok:
		p.ask(v, w, r, http.StatusUnprocessableEntity, "form")
		return
	}
	// The guess counts although the browser hangs up.
	next, err := p.guess(context.WithoutCancel(r.Context()), v, digits)
	if err == nil {
		err = p.give(w, v.ID, next)
	}
	if err != nil {
		p.refuse(v, w, r, err)
		return
	}
	http.Redirect(w, r, "/m/"+string(v.ID)+"/read", http.StatusSeeOther)
}

// guess counts and judges one guess, and gives the ticket of who is let in.
func (p *Portal) guess(ctx context.Context, v visit, digits string) (ticket, error) {
	next := ticket{Secret: v.ticket.Secret, Proven: true}
	next.rename()
	method, right := ByCode, false
	if v.PIN {
		if err := v.closedTo(v.now); err != nil {
			return ticket{}, err
		}
		var err error
		if right, err = p.o.Store.CheckPickup(ctx, v.ID, v.ticket.Secret, digits); err != nil {
			return ticket{}, err
		}
		method, next.PIN = ByPIN, digits
	}
	err := p.change(ctx, v.ID, func(e *entry) (store.Effects, error) {
		if err := e.closedTo(v.now); err != nil {
			return store.Effects{}, err
		}
		if !v.PIN {
			c := e.codeOf(v.ticket, v.now)
			if c == nil {
				return store.Effects{}, errNoCode
			}
			right = hmac.Equal(c.Hash, codeHash(v.ticket, digits))
		}
		leaves := p.landed(e)
		if !right {
			e.wrong(v.now)
			return store.Effects{Leaves: leaves}, nil
		}
		e.admit(next, v.now)
		return store.Effects{Leaves: append(leaves, p.advance(e, Event{State: store.Proven, Method: method}))}, nil
	})
	if err == nil && !right {
		err = errWrong
	}
	return next, err
}

// digitsOf reads what was typed or pasted, with blanks or dashes in it or not.
func digitsOf(s string, pin bool) (string, bool) {
	digits := strings.NewReplacer(" ", "", "-", "", "\u00a0", "", "\t", "").Replace(s)
	for _, c := range digits {
		if c < '0' || c > '9' {
			return "", false
		}
	}
	if pin {
		return digits, len(digits) == 8
	}
	return digits, len(digits) == 6
}

// refuse answers a form that led to nothing.
func (p *Portal) refuse(v visit, w http.ResponseWriter, r *http.Request, err error) {
	var wait errWait
	switch {
	case errors.As(err, &wait):
		p.show(w, r, http.StatusTooManyRequests, "say",
			page{ID: v.ID, Lang: v.Lang, Key: "wait", Hours: int((wait.until.Sub(v.now) + time.Hour - 1) / time.Hour)})
	case errors.Is(err, errOver), errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrShredded):
		p.say(w, r, http.StatusGone, "expired")
	case errors.Is(err, errLocked):
		p.sayTo(v, w, r, http.StatusForbidden, "locked")
	case errors.Is(err, errNoCode):
		p.ask(v, w, r, http.StatusUnprocessableEntity, "nocode")
	case errors.Is(err, errWrong):
		p.again(v, w, r)
	default:
		p.trouble(w, r, v.ID, err)
	}
}

// again asks anew after a wrong guess, with the limits as they are now.
func (p *Portal) again(v visit, w http.ResponseWriter, r *http.Request) {
	e, err := p.entry(r.Context(), v.ID)
	if err != nil {
		p.trouble(w, r, v.ID, err)
		return
	}
	v.entry = e
	switch {
	case e.locked():
		p.o.Log.Warn("portal: pickup locked after too many wrong guesses; send the message again", "id", v.ID)
		p.refuse(v, w, r, errLocked)
	case e.nextGuess(v.now).After(v.now):
		p.refuse(v, w, r, errWait{e.nextGuess(v.now)})
	case !v.PIN && e.codeOf(v.ticket, v.now) == nil:
		p.refuse(v, w, r, errNoCode)
	default:
		p.ask(v, w, r, http.StatusUnprocessableEntity, "wrong")
	}
}
