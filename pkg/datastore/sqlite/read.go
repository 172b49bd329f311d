package sqlite

import (
	"context"

	"github.com/k3s-io/kine/pkg/server"
)

// Get implements server.Backend. A revision of 0 means now.
func (s *Store) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	if key == "" { // with an empty end that would be all
		now, err := s.CurrentRevision(ctx)
		return now, nil, err
	}
	now, kvs, err := s.List(ctx, key, "", 1, revision, keysOnly)
	if err != nil || len(kvs) == 0 {
		return now, nil, err
	}
	return now, kvs[0], nil
}

// List implements server.Backend: the keys from key to end at a revision, 0 for now, at most limit if that is not 0. The answer is what was there at one moment, which is not before the call.
func (s *Store) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	for {
		at, kvs, err := s.find(key, end, limit, revision, !keysOnly)
		if err != nil || keysOnly {
			return at, kvs, err
		}
		all, err := s.fill(ctx, kvs)
		if all || err != nil {
			return at, kvs, err
		}
		// A compaction came between: of an old revision that is to be told, and what is there now is looked up again.
	}
}

// find looks up in the index. Of the versions whose value is in the file only, the value stays nil.
func (s *Store) find(key, end string, limit, revision int64, values bool) (int64, []*server.KeyValue, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.index.check(revision); err != nil {
		return s.index.revision, nil, err
	}
	var kvs []*server.KeyValue
	s.index.scan(key, end, now(revision), func(key string, v *version) bool {
		if v.kv != nil && values {
			kvs = append(kvs, v.kv)
		} else {
			kvs = append(kvs, v.describe(key))
		}
		return limit == 0 || int64(len(kvs)) < limit
	})
	return s.index.revision, kvs, nil
}

// describe is the version without its value.
func (v *version) describe(key string) *server.KeyValue {
	return &server.KeyValue{Key: key, Version: v.count, CreateRevision: v.created, ModRevision: v.mod, Lease: v.lease}
}

// fill reads the values that are missing, and says whether all are still there.
func (s *Store) fill(ctx context.Context, kvs []*server.KeyValue) (bool, error) {
	var want []*server.KeyValue
	for _, kv := range kvs {
		if kv.Value == nil {
			want = append(want, kv)
		}
	}
	if len(want) == 1 {
		return s.readers.fill(want[0])
	}
	for len(want) > 0 {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n := min(together, len(want))
		if all, err := s.readers.valuesOf(want[:n]); !all || err != nil {
			return false, err
		}
		want = want[n:]
	}
	return true, nil
}

// Count implements server.Backend.
func (s *Store) Count(_ context.Context, key, end string, revision int64) (int64, int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.index.check(revision); err != nil {
		return s.index.revision, 0, err
	}
	var n int64
	s.index.scan(key, end, now(revision), func(string, *version) bool { n++; return true })
	return s.index.revision, n, nil
}

// page is how many keys ListStream reads together.
const page = 500

// ListStream implements server.Backend: a List that needs memory for a page only. It ends with ctx.
func (s *Store) ListStream(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) server.ListResult {
	kvs, errs := make(chan *server.KeyValue, 1), make(chan error, 1)
	at, first, err := s.List(ctx, key, end, pageOf(limit), revision, keysOnly)
	result := server.ListResult{CurrentRevision: at, KVc: kvs, Errorc: errs}
	if revision == 0 {
		revision = at
	}
	go func() { // the caller's, by ctx
		defer close(errs)
		defer close(kvs)
		for next := first; err == nil; {
			for _, kv := range next {
				select {
				case kvs <- kv:
				case <-ctx.Done():
					errs <- ctx.Err()
					return
				}
			}
			limit -= int64(len(next))
			if len(next) < page || limit == 0 || end == "" && key != "" {
				return
			}
			after := next[len(next)-1].Key + "\x00"
			if end == "" {
				end = "\x00"
			}
			_, next, err = s.List(ctx, after, end, pageOf(limit), revision, keysOnly)
		}
		errs <- err
	}()
	return result
}

// pageOf is the limit of the next page; what is left is not positive when there is none.
func pageOf(left int64) int64 {
	if left > 0 {
		return min(left, page)
	}
	return page
}
