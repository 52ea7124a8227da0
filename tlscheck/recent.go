package tlscheck

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// recent remembers up to max values until each one's time is up; the value used
// longest ago makes room.
type recent[V any] struct {
	max int

	mu    sync.Mutex
	at    map[string]*list.Element
	order list.List // of kept[V], last used first
}

type kept[V any] struct {
	key   string
	value V
	until time.Time
}

func newRecent[V any](max int) *recent[V] {
	return &recent[V]{max: max, at: map[string]*list.Element{}}
}

func (r *recent[V]) get(key string, now time.Time) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var none V
	e, ok := r.at[key]
	if !ok {
		return none, false
	}
	k := e.Value.(kept[V])
	if !now.Before(k.until) {
		r.drop(e)
		return none, false
	}
	r.order.MoveToFront(e)
	return k.value, true
}

func (r *recent[V]) put(key string, v V, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.at[key]; ok {
		r.drop(e)
	}
	r.at[key] = r.order.PushFront(kept[V]{key, v, until})
	if r.order.Len() > r.max {
		r.drop(r.order.Back())
	}
}

func (r *recent[V]) drop(e *list.Element) {
	delete(r.at, e.Value.(kept[V]).key)
	r.order.Remove(e)
}

// locks holds one lock per key, so that a campaign to one domain asks once.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// acquire waits for the key's lock and returns its release, or ctx's error.
func (l *locks) acquire(ctx context.Context, key string) (release func(), err error) {
	for {
		l.mu.Lock()
		wait, busy := l.held[key]
		if !busy {
			done := make(chan struct{})
			l.held[key] = done
			l.mu.Unlock()
			return func() { l.release(key, done) }, nil
		}
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *locks) release(key string, done chan struct{}) {
	l.mu.Lock()
	delete(l.held, key)
	l.mu.Unlock()
	close(done)
}
