package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

var (
	// ErrNothingSelected is returned by a verb that changes mail when neither an
	// id nor a filter is given: nothing is never everything.
	ErrNothingSelected = errors.New("queue: name an id or a filter")
	// ErrNoReason is returned when it is not said who wants a change, and why.
	ErrNoReason = errors.New("queue: say who wants it, and the reason")
	// ErrLeased is returned when an envelope is being sent at this moment.
	ErrLeased = errors.New("queue: being sent now; try again")
)

// By is who wants a change, and why; both go to the audit log.
type By struct{ Who, Second, Reason string }

// Selection selects envelopes: by ids, which are those of messages (as in SMTP
// replies) or of envelopes, or by filter. Conditions add up.
type Selection struct {
	IDs    []string
	Filter store.Query // After and Limit are not looked at
	Before time.Time   // accepted before; zero = any

	// For verbs that change mail.
	DryRun   bool          // count what would be changed
	Progress func(Changed) // told now and then how much has been changed; may be nil
}

// Row is an envelope as `gateway queue list --json` prints it. The recipient is
// there only if it was asked for.
type Row struct {
	ID          store.ID         `json:"id"` // of the message, as said in the SMTP reply
	Envelope    store.EnvelopeID `json:"envelope"`
	State       store.State      `json:"state"`
	Code        policy.Code      `json:"code"`
	Sender      string           `json:"sender"`
	Destination string           `json:"destination"`
	Due         time.Time        `json:"due"`
	Attempts    int              `json:"attempts"`
	Expires     time.Time        `json:"expires"`
	Lane        string           `json:"lane"`
	Rule        string           `json:"rule,omitempty"`
	Campaign    string           `json:"campaign,omitempty"`
	Floor       string           `json:"floor"`
	Else        string           `json:"else"`
	Accepted    time.Time        `json:"accepted"`
	Size        int              `json:"size"`
	LastReply   string           `json:"last_reply,omitempty"`
	Class       string           `json:"class,omitempty"` // what the last reply was about
	LastAt      *time.Time       `json:"last_at,omitempty"`
	Recipient   policy.Address   `json:"recipient,omitempty"`
}

func (q *Queue) row(e store.Envelope) Row {
	r := Row{
		ID: e.Message.ID, Envelope: e.ID, State: e.State, Code: e.Code, Sender: e.Message.Sender,
		Destination: e.Dest, Due: e.Due, Attempts: e.Attempts, Expires: q.expires(e), Lane: "bulk", Rule: e.Rule,
		Campaign: e.Message.Campaign, Floor: e.Floor.String(), Else: e.Else.String(),
		Accepted: e.Message.Accepted, Size: e.Message.Size, LastReply: codesOf(e.LastReply),
		Class: strings.TrimSpace(strings.TrimPrefix(e.LastReply, codesOf(e.LastReply))),
	}
	if e.Lane == store.Prompt {
		r.Lane = "prompt"
	}
	if !e.LastAt.IsZero() {
		r.LastAt = &e.LastAt
	}
	return r
}

// List yields the selected envelopes in the order of their ids; an empty
// Selection is all of them. An error ends the list.
func (q *Queue) List(ctx context.Context, s Selection) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for e, err := range q.selected(ctx, s) {
			if err != nil {
				yield(Row{}, err)
				return
			}
			if !yield(q.row(e), nil) {
				return
			}
		}
	}
}

// Show returns the envelopes of one id, recipients included.
func (q *Queue) Show(ctx context.Context, id string) ([]Row, error) {
	var rows []Row
	for e, err := range q.selected(ctx, Selection{IDs: []string{id}}) {
		if err != nil {
			return nil, err
		}
		r := q.row(e)
		r.Recipient = policy.Address(e.Recipient)
		rows = append(rows, r)
	}
	return rows, nil
}

// selected yields envelopes. An id that names none is store.ErrNotFound.
func (q *Queue) selected(ctx context.Context, s Selection) iter.Seq2[store.Envelope, error] {
	return func(each func(store.Envelope, error) bool) {
		yield := func(e store.Envelope, err error) bool {
			return err == nil && !s.Before.IsZero() && !e.Message.Accepted.Before(s.Before) || each(e, err)
		}
		if len(s.IDs) == 0 {
			q.pages(ctx, s.Filter, yield)
			return
		}
		for _, id := range s.IDs {
			if !q.byID(ctx, id, s.Filter, yield) {
				return
			}
		}
	}
}

func (q *Queue) byID(ctx context.Context, id string, filter store.Query, yield func(store.Envelope, error) bool) bool {
	if strings.Contains(id, ".") {
		e, err := q.o.Store.Envelope(ctx, store.EnvelopeID(id))
		if err != nil {
			yield(e, fmt.Errorf("queue: envelope: %w", err))
			return false
		}
		return !filter.Match(e) || yield(e, nil)
	}
	found := 0
	filter.Message = store.ID(id)
	more := q.pages(ctx, filter, func(e store.Envelope, err error) bool {
		found++
		return yield(e, err)
	})
	if more && found == 0 {
		yield(store.Envelope{}, fmt.Errorf("queue: message: %w", store.ErrNotFound))
		return false
	}
	return more
}

func (q *Queue) pages(ctx context.Context, filter store.Query, yield func(store.Envelope, error) bool) bool {
	filter.After, filter.Limit = "", store.DefaultLimit
	for {
		page, err := q.o.Store.Envelopes(ctx, filter)
		if err != nil {
			yield(store.Envelope{}, fmt.Errorf("queue: list: %w", err))
			return false
		}
		for _, e := range page {
			if !yield(e, nil) {
				return false
			}
		}
		if len(page) < filter.Limit {
			return true
		}
		filter.After = page[len(page)-1].ID
	}
}

// Changed says how many envelopes a verb changed, and how many it passed by
// because they are being sent now, or in a state that the verb is not for.
type Changed struct {
	Done  int `json:"done"`
	Busy  int `json:"busy"`
	Other int `json:"other"`
}

// Retry makes ready mail due now, and looks again at destinations in trouble.
func (q *Queue) Retry(ctx context.Context, s Selection, by By) (Changed, error) {
	c, err := q.change(ctx, s, by, store.Ready, func(e store.Envelope) (store.Change, audit.Event, error) {
		q.mu.Lock()
		q.sites.clear(e.Dest)
		q.mu.Unlock()
		return store.Change{To: store.Ready, Due: q.o.Clock()}, audit.Event{Kind: audit.Changed, Codes: map[string]string{"action": "retry"}}, nil
	})
	q.Kick()
	return c, err
}

// Hold keeps ready mail from being sent until it is released or expires.
func (q *Queue) Hold(ctx context.Context, s Selection, by By) (Changed, error) {
	return q.change(ctx, s, by, store.Ready, func(store.Envelope) (store.Change, audit.Event, error) {
		return store.Change{To: store.Held}, audit.Event{Kind: audit.Held}, nil
	})
}

// Cancel takes mail out of the queue for good. Nobody is told but the audit log.
func (q *Queue) Cancel(ctx context.Context, s Selection, by By) (Changed, error) {
	return q.change(ctx, s, by, "", func(store.Envelope) (store.Change, audit.Event, error) {
		return store.Change{}, audit.Event{Kind: audit.Cancelled}, nil
	})
}

// Decide decides about a held envelope again. It returns it with its new verdict
// (Floor, Within, Else, Code, Rule, Facts, Expires), or why it may not go.
type Decide func(context.Context, store.Envelope) (store.Envelope, error)

// Release sends held mail on, under the verdict that decide gives. The first
// error of decide ends it.
func (q *Queue) Release(ctx context.Context, s Selection, by By, decide Decide) (Changed, error) {
	c, err := q.change(ctx, s, by, store.Held, func(e store.Envelope) (store.Change, audit.Event, error) {
		u, err := decide(ctx, e)
		return store.Change{To: store.Ready, Due: q.o.Clock(), Update: &u},
			audit.Event{Kind: audit.Released, Code: u.Code, Rule: u.Rule, Facts: &u.Facts}, err
	})
	q.Kick()
	return c, err
}

// Status is what health and metrics show.
type Status struct {
	Sessions int  `json:"sessions"`
	Trouble  int  `json:"trouble"` // sites and destinations that are left alone now
	Paused   bool `json:"paused"`  // the store fails
	Stopped  bool `json:"stopped"` // an operator paused it
}

// Status tells how the queue is.
func (q *Queue) Status() Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Status{Sessions: q.sites.open, Paused: q.pause.on, Stopped: q.pause.stopped}
	now := q.o.Clock()
	for _, v := range q.sites.known {
		if now.Before(v.until) {
			s.Trouble++
			continue
		}
		for _, d := range v.at {
			if now.Before(d.until) {
				s.Trouble++
			}
		}
	}
	return s
}
