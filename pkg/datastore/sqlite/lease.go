package sqlite

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// lease is when a version of a key ends.
type lease struct {
	end time.Time
	key string
	mod int64
	at  int // in the heap
}

type leaseHeap []*lease

func (h leaseHeap) Len() int           { return len(h) }
func (h leaseHeap) Less(i, j int) bool { return h[i].end.Before(h[j].end) }
func (h leaseHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].at, h[j].at = i, j }
func (h *leaseHeap) Push(x any)        { l := x.(*lease); l.at = len(*h); *h = append(*h, l) }
func (h *leaseHeap) Pop() any {
	n := len(*h) - 1
	last := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	return last
}

// leases are the versions that end by themselves, of each key the newest at most. Time counts from the write, or from the start of the process, and not while the PC sleeps: a lease may last longer, never shorter.
type leases struct {
	mu    sync.Mutex
	heap  leaseHeap
	byKey map[string]*lease
	added chan struct{} // with room for one
}

func newLeases() *leases { return &leases{byKey: map[string]*lease{}, added: make(chan struct{}, 1)} }

// life is how long a key with a lease of some seconds lives: a century at most, since what a time.Duration can't count would end at once.
func life(seconds int64) time.Duration {
	const century = 100 * 365 * 24 * 3600
	return time.Duration(min(seconds, century)) * time.Second
}

// add notes that a version of a key ends after a time. One that is not the newest known is left out.
func (l *leases) add(key string, mod int64, after time.Duration) {
	l.mu.Lock()
	end, x := time.Now().Add(after), l.byKey[key]
	switch {
	case x == nil:
		x = &lease{end: end, key: key, mod: mod}
		l.byKey[key] = x
		heap.Push(&l.heap, x)
	case x.mod < mod:
		x.end, x.mod = end, mod
		heap.Fix(&l.heap, x.at)
	}
	first := x.at == 0
	l.mu.Unlock()
	if first {
		select {
		case l.added <- struct{}{}:
		default:
		}
	}
}

// remove forgets a key that does not end by itself any more.
func (l *leases) remove(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.byKey[key]; x != nil {
		heap.Remove(&l.heap, x.at)
		delete(l.byKey, key)
	}
}

// due takes those that have ended, and says when to look again.
func (l *leases) due() (ended []*lease, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for len(l.heap) > 0 && len(ended) < group {
		if wait := l.heap[0].end.Sub(now); wait > 0 {
			return ended, wait
		}
		x := heap.Pop(&l.heap).(*lease)
		delete(l.byKey, x.key)
		ended = append(ended, x)
	}
	if len(l.heap) > 0 {
		return ended, 0
	}
	return ended, time.Hour
}

// retryExpiry is when what could not be deleted is tried again: a disk may be full.
const retryExpiry = 10 * time.Second

// expire deletes keys whose leases have ended.
func (s *Store) expire(ctx context.Context) {
	for {
		ended, next := s.leases.due()
		waiting := make([]*change, 0, len(ended))
		for _, l := range ended {
			c := &change{kind: remove, key: l.key, expect: l.mod, done: make(chan outcome, 1)}
			select {
			case s.queue <- c: // all together, for one fsync
				waiting = append(waiting, c)
			case <-ctx.Done():
				return
			}
		}
		for _, c := range waiting {
			select {
			case o := <-c.done:
				if o.err != nil {
					s.leases.add(c.key, c.expect, retryExpiry)
				}
			case <-ctx.Done():
				return
			}
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-s.leases.added:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
