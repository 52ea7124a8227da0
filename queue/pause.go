package queue

import (
	"context"
	"fmt"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/store"
)

// pauseKind is the record that stands while an operator keeps the queue from
// sending. It outlives a restart: whoever paused the mail decides when it goes on.
const pauseKind = "pause"

// Pause lets nothing be sent until Resume: what is being sent is finished, new
// mail is accepted and waits. Mail that expires meanwhile is given up.
func (q *Queue) Pause(ctx context.Context, by By) error { return q.setStopped(ctx, by, true) }

// Resume ends a Pause.
func (q *Queue) Resume(ctx context.Context, by By) error { return q.setStopped(ctx, by, false) }

func (q *Queue) setStopped(ctx context.Context, by By, stop bool) error {
	if by.Who == "" || by.Reason == "" {
		return ErrNoReason
	}
	action := "resume"
	if stop {
		action = "pause"
	}
	event := audit.Event{Kind: audit.Changed, Who: by.Who, Second: by.Second, Reason: by.Reason, Codes: map[string]string{"action": action}}
	err := q.o.Store.Apply(ctx, store.Effects{
		Records: []store.Record{{Kind: pauseKind, Subject: pauseKind, Key: pauseKind, Value: []byte(by.Reason), Delete: !stop}},
		Leaves:  []store.Leaf{q.o.Leaf(event)},
	})
	if err != nil {
		return fmt.Errorf("queue: %s: %w", action, err)
	}
	q.hold(stop)
	return nil
}

// hold stops sessions from taking more mail, or lets them go on.
func (q *Queue) hold(stop bool) {
	q.mu.Lock()
	q.pause.stopped, q.pause.known = stop, true
	if stop {
		for _, v := range q.sites.known {
			for v.dismiss() {
			}
		}
	}
	q.mu.Unlock()
	q.Kick()
}

// Stopped reports whether an operator paused the queue, and the reason given.
func (q *Queue) Stopped(ctx context.Context) (reason string, stopped bool, err error) {
	rs, err := q.o.Store.Records(ctx, pauseKind, pauseKind)
	if err != nil || len(rs) == 0 {
		return "", false, err
	}
	return string(rs[0].Value), true, nil
}

// stopped reports whether an operator paused the queue, also before this start.
func (q *Queue) stopped(ctx context.Context) (bool, error) {
	q.mu.Lock()
	p := q.pause
	q.mu.Unlock()
	if p.known {
		return p.stopped, nil
	}
	_, stopped, err := q.Stopped(ctx)
	if err != nil {
		return false, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.pause.known { // nobody changed it meanwhile
		q.pause.known, q.pause.stopped = true, stopped
	}
	return q.pause.stopped, nil
}
