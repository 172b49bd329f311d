package sqlite

import (
	"context"
	"sort"

	"github.com/k3s-io/kine/pkg/server"
)

// recentBytes is about how much of the last changes is kept in memory, with the values before them.
const recentBytes = 8 << 20

// recent are the last changes, without a gap between them.
type recent struct {
	events []*server.Event
	bytes  int
}

func sizeOf(e *server.Event) int {
	n := 200 + len(e.KV.Key) + len(e.KV.Value)
	if e.PrevKV != nil {
		n += len(e.PrevKV.Value)
	}
	return n
}

// add appends an event; versions whose event goes for it lose their values in the index.
func (r *recent) add(e *server.Event, x *index) {
	r.events = append(r.events, e)
	r.bytes += sizeOf(e)
	for r.bytes > recentBytes && len(r.events) > 1 {
		old := r.events[0]
		r.events[0] = nil
		r.events = r.events[1:]
		r.bytes -= sizeOf(old)
		if entry := x.entry(old.KV.Key); entry != nil {
			if v := entry.find(old.KV.ModRevision); v != nil {
				v.kv = nil
			}
		}
	}
}

// after are the events after a revision, at most n; not ok if older ones than there are would be needed.
func (r *recent) after(revision int64, n int) (events []*server.Event, ok bool) {
	if len(r.events) == 0 || r.events[0].KV.ModRevision > revision+1 {
		return nil, false
	}
	i := sort.Search(len(r.events), func(i int) bool { return r.events[i].KV.ModRevision > revision })
	return r.events[i:min(i+n, len(r.events)):min(i+n, len(r.events))], true
}

// eventsTogether is how many events a watcher is given together at most.
const eventsTogether = 500

// Watch implements server.Backend: all changes from a revision on, 0 for those that are still to come, in their order. The first batch, which may be empty, comes at once. It ends with ctx, with the store, or when the watcher is
// so slow that what it needs is compacted.
func (s *Store) Watch(ctx context.Context, revision int64) server.WatchResult {
	s.mu.RLock()
	current, compacted := s.index.revision, s.index.compacted
	s.mu.RUnlock()
	batches, errs := make(chan server.EventBatch, 8), make(chan error, 1)
	result := server.WatchResult{CurrentRevision: current, Eventc: batches, Errorc: errs}
	after := current
	if revision > 0 {
		after = min(revision-1, current)
	}
	if after < compacted && revision > 0 {
		result.CompactRevision = compacted
		close(batches)
		return result
	}
	go func() { // the caller's, by ctx
		defer close(batches)
		if err := s.follow(ctx, after, batches); err != nil {
			errs <- err
		}
	}()
	return result
}

func (s *Store) follow(ctx context.Context, after int64, batches chan<- server.EventBatch) error {
	for first := true; ; first = false {
		events, upTo, changed, err := s.after(ctx, after)
		if err != nil {
			return err
		}
		if len(events) == 0 && !first {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil
			case <-s.ended:
				return errClosed
			}
		}
		select {
		case batches <- server.EventBatch{Events: events, CurrentRev: upTo}:
			after = upTo
		case <-ctx.Done():
			return nil
		case <-s.ended:
			return errClosed
		}
	}
}

// after are the next events after a revision, and up to which revision these are all. Without any, the channel is closed when there are.
func (s *Store) after(ctx context.Context, revision int64) ([]*server.Event, int64, <-chan struct{}, error) {
	s.mu.RLock()
	current, changed := s.index.revision, s.changed
	if revision >= current {
		s.mu.RUnlock()
		return nil, current, changed, nil
	}
	events, ok := s.recent.after(revision, eventsTogether)
	s.mu.RUnlock()
	if !ok {
		var err error
		if events, err = s.readers.after(ctx, revision, current); err != nil {
			return nil, 0, nil, err
		}
		s.mu.RLock()
		compacted := s.index.compacted
		s.mu.RUnlock()
		if compacted > revision { // some may have gone before they were read
			return nil, 0, nil, server.ErrCompacted
		}
	}
	if n := len(events); n > 0 { // there may be more
		current = events[n-1].KV.ModRevision
	}
	return events, current, nil, nil
}

// bytesTogether is how much is read from the file for a watcher at once: many may be behind at the same time.
const bytesTogether = 1 << 20

// after reads events from the file: those after a revision and not after the last, of many the first.
func (r *readers) after(ctx context.Context, revision, last int64) ([]*server.Event, error) {
	rows, err := r.next.QueryContext(ctx, revision, eventsTogether)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var events []*server.Event
	for bytes := 0; bytes < bytesTogether && rows.Next(); {
		kv := &server.KeyValue{}
		e := &server.Event{KV: kv}
		var key []byte
		var previous struct{ revision, created, count, lease *int64 }
		var value []byte
		if err := rows.Scan(&kv.ModRevision, &key, &kv.CreateRevision, &kv.Version, &kv.Lease, &e.Delete, &kv.Value, &previous.revision, &previous.created, &previous.count, &previous.lease, &value); err != nil {
			return nil, err
		}
		if kv.ModRevision > last { // it is being written: not for readers yet
			break
		}
		kv.Key = string(key)
		if e.Create = previous.revision == nil; !e.Create {
			e.PrevKV = &server.KeyValue{Key: kv.Key, ModRevision: *previous.revision, CreateRevision: *previous.created, Version: *previous.count, Lease: *previous.lease, Value: value}
		}
		events = append(events, e)
		bytes += sizeOf(e)
	}
	return events, rows.Err()
}
