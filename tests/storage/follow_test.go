package storage

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
)

// event is a change as a watch told it; the value is empty if the key was deleted.
type event struct {
	key, value string
	revision   int64
	prev       version // before it
}

// follower watches all keys of these tests and checks each event against those before it.
type follower struct {
	mu    sync.Mutex
	last  int64 // the highest revision that it has been told of, in an event or by progress
	all   []event
	state map[string]version
	wrong []string
	// stream, if not nil, gives each watch a stream of its own. Else they share the client's, one after the other.
	stream func(context.Context) context.Context
	asking context.Context // the current watch's, for asking for progress
	ended  chan struct{}
}

// follow begins to watch from a revision, and goes on across kills of the server, until the test ends.
func follow(t *testing.T, client *kubernetes.Client, from int64) *follower {
	t.Helper()
	return followBy(t, client, from, nil)
}

func followBy(t *testing.T, client *kubernetes.Client, from int64, stream func(context.Context) context.Context) *follower {
	t.Helper()
	f := &follower{last: from - 1, state: map[string]version{}, ended: make(chan struct{}), stream: stream}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { defer close(f.ended); f.run(ctx, client) }()
	t.Cleanup(func() { cancel(); <-f.ended })
	return f
}

// run watches, and when the watch ends, from the revision after the last one: as the API server's cache does.
func (f *follower) run(ctx context.Context, client *kubernetes.Client) {
	for ctx.Err() == nil {
		watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		if f.stream != nil {
			watching = f.stream(watching)
		}
		f.mu.Lock()
		from := f.last + 1
		f.asking = watching
		f.mu.Unlock()
		for got := range client.Watch(watching, prefix, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithPrevKV(), clientv3.WithProgressNotify()) {
			if got.Err() != nil || !f.take(got) {
				break
			}
		}
		cancel()
	}
}

// take notes what the watch told. It returns false when it is time to begin anew, which it is now and then: a client that resumes must not miss anything either.
func (f *follower) take(got clientv3.WatchResponse) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range got.Events {
		f.one(e)
	}
	if got.IsProgressNotify() {
		f.last = max(f.last, got.Header.Revision)
	}
	return len(f.all)%50 != 49
}

func (f *follower) one(e *clientv3.Event) {
	key, now := string(e.Kv.Key), version{string(e.Kv.Value), e.Kv.ModRevision}
	if e.Type == clientv3.EventTypeDelete {
		now.value = ""
	}
	told := event{key: key, value: now.value, revision: now.revision, prev: versionOf(e.PrevKv)}
	if told.revision <= f.last {
		f.complain("revision %d comes after %d: %+v", told.revision, f.last, told)
	}
	if before := f.state[key]; told.prev != before {
		f.complain("%+v was before, not what is in %+v", before, told)
	}
	if e.IsCreate() != (f.state[key] == version{}) {
		f.complain("creates? %v: %+v", e.IsCreate(), told)
	}
	f.last = max(f.last, told.revision)
	f.all = append(f.all, told)
	f.state[key] = now
	if now.value == "" {
		delete(f.state, key)
	}
}

func (f *follower) complain(format string, args ...any) {
	if len(f.wrong) < 10 {
		f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
	}
}

// askProgress asks for progress on the follower's watch, many times a second, until the test ends.
func (f *follower) askProgress(t *testing.T, client *kubernetes.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			f.mu.Lock()
			asking := f.asking
			f.mu.Unlock()
			if asking != nil {
				_ = client.RequestProgress(asking) // an error is that of a watch that is about to begin anew
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// until waits until the watch has told all up to a revision, and returns it. What was wrong with it fails the test.
func (f *follower) until(t *testing.T, revision int64) []event {
	t.Helper()
	waitFor(t.Context(), t, fmt.Sprintf("a watch to tell revision %d", revision), func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.last >= revision
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, wrong := range f.wrong {
		t.Errorf("watch: %s", wrong)
	}
	f.wrong = nil
	return append([]event(nil), f.all...)
}
