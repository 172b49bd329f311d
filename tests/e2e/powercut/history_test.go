package powercut

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// prefix is where all keys of a history are.
const prefix = "/registry/configmaps/default/"

// value is what a key holds at some time; no text means that it is not there.
type value struct {
	text     string
	revision int64 // of the change that made it so
}

// history is what clients did to a datastore and were told of it, over all its starts.
type history struct {
	rand *rand.Rand

	mu sync.Mutex
	// known are the keys as their only writers know them; open are requests without an answer, which may have been done or not.
	known map[string]value
	open  map[string]string
	// events are the changes that somebody was told of, as answer or by a watch, by revision: nothing else may ever have that revision.
	events map[int64]event
	// last is the highest revision that anybody was told of.
	last int64
	// compacted is the highest revision that may be forgotten.
	compacted int64
	next      int
	acked     atomic.Int64
}

// event is one change of a key; no text is a deletion.
type event struct{ key, text string }

func newHistory(seed uint64) *history {
	return &history{rand: rand.New(rand.NewPCG(seed, 1)), known: map[string]value{}, open: map[string]string{}, events: map[int64]event{}}
}

// adopt takes what the datastore has now for the truth, and forgets how it came to be.
func (h *history) adopt(t *testing.T, socket string) {
	t.Helper()
	client := connect(t, socket)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	all, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil || len(all.Kvs) == 0 {
		t.Fatalf("list all keys: %v, %v", all, err)
	}
	*h = history{rand: h.rand, known: map[string]value{}, open: map[string]string{}, events: map[int64]event{}, last: all.Header.Revision, compacted: math.MaxInt64, next: h.next}
	for _, kv := range all.Kvs {
		h.known[string(kv.Key)] = value{string(kv.Value), kv.ModRevision}
	}
}

// copy returns a history that goes on by itself, without what is compacted.
func (h *history) copy() *history {
	return &history{rand: h.rand, known: maps.Clone(h.known), open: map[string]string{}, events: map[int64]event{}, last: h.last, compacted: h.compacted, next: h.next}
}

// connect returns a client of the datastore at a unix socket.
func connect(t *testing.T, socket string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, DialTimeout: limit, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// load writes with many clients until ctx ends or the datastore does not answer. Each has keys of its own, which it makes, changes and removes under the condition that they are as it knows
// them, as the API server does. Another client watches.
func (h *history) load(ctx context.Context, t *testing.T, socket string, writers int) {
	t.Helper()
	client := connect(t, socket)
	defer client.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var writing, watching sync.WaitGroup // and compacting
	from := h.last + 1                   // nobody else is there yet
	watching.Go(func() {
		for answer := range client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
			for _, e := range answer.Events {
				h.note(t, e.Kv.ModRevision, eventOf(e))
			}
		}
	})
	for w := range writers {
		random := rand.New(rand.NewPCG(h.rand.Uint64(), uint64(w)))
		writing.Go(func() {
			for ctx.Err() == nil && h.write(ctx, t, client, fmt.Sprintf("%swriter-%02d-%d", prefix, w, random.IntN(8)), random) {
			}
		})
	}
	watching.Go(func() { h.compact(ctx, client) })
	writing.Wait()
	cancel()
	watching.Wait()
}

// compact forgets what is long ago, now and then, as long as there are answers.
func (h *history) compact(ctx context.Context, client *clientv3.Client) {
	const kept = 400
	for every := h.acked.Load(); ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if h.acked.Load() < every+kept/2 {
			continue
		}
		every = h.acked.Load()
		h.mu.Lock()
		h.compacted = max(h.compacted, h.last-kept)
		at := h.compacted
		h.mu.Unlock()
		if _, err := client.Compact(ctx, at); err != nil {
			return
		}
	}
}

func eventOf(e *clientv3.Event) event {
	if e.Type == mvccpb.DELETE {
		return event{key: string(e.Kv.Key)}
	}
	return event{string(e.Kv.Key), string(e.Kv.Value)}
}

// write does one change and says whether there was an answer.
func (h *history) write(ctx context.Context, t *testing.T, client *clientv3.Client, key string, random *rand.Rand) bool {
	h.mu.Lock()
	old := h.known[key]
	h.next++
	text := strconv.Itoa(h.next) + strings.Repeat(".", random.IntN(2000))
	do := clientv3.OpPut(key, text)
	if old.text != "" && random.IntN(4) == 0 {
		text, do = "", clientv3.OpDelete(key)
	}
	h.open[key] = text
	h.mu.Unlock()
	when := int64(0)
	if old.text != "" {
		when = old.revision
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", when)).Then(do).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return false
	}
	if !answer.Succeeded {
		t.Errorf("%s is not as its only writer left it, at revision %d: %v", key, when, answer.Responses[0].GetResponseRange().Kvs)
		return false
	}
	h.note(t, answer.Header.Revision, event{key, text})
	h.acked.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known[key] = value{text, answer.Header.Revision}
	delete(h.open, key)
	return true
}

// note remembers a change that somebody was told of.
func (h *history) note(t *testing.T, revision int64, e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.events[revision]; ok && old != e {
		t.Errorf("revision %d was handed out twice: for %s and for %s", revision, old, e)
	}
	h.events[revision] = e
	h.last = max(h.last, revision)
}

func (e event) String() string { return fmt.Sprintf("%s=%.20q", e.key, e.text) }

// verify looks whether the datastore still knows all that it told anybody, and takes over how the requests without an answer ended.
func (h *history) verify(t *testing.T, socket string) {
	t.Helper()
	client := connect(t, socket)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	all, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatalf("list all keys: %v", err)
	}
	if all.Header.Revision < h.last {
		t.Errorf("the datastore is at revision %d, and was at %d", all.Header.Revision, h.last)
	}
	there := map[string]value{}
	for _, kv := range all.Kvs {
		there[string(kv.Key)] = value{string(kv.Value), kv.ModRevision}
	}
	h.mu.Lock()
	for key, known := range h.known {
		if known.text == "" {
			known.revision = 0
		}
		text, open := h.open[key]
		if now := there[key]; now != known && (!open || now.text != text || now.text != "" && now.revision <= known.revision) {
			t.Errorf("%s is %.20q of revision %d, and was acknowledged as %.20q of %d", key, now.text, now.revision, known.text, known.revision)
		}
	}
	for key, now := range there {
		if text, open := h.open[key]; h.known[key] != now && (!open || text != now.text) {
			t.Errorf("%s is %.20q, which nobody wrote last", key, now.text)
		}
	}
	for key := range h.open {
		h.known[key] = there[key]
	}
	clear(h.open)
	h.mu.Unlock()
	h.verifyEvents(ctx, t, client, all.Header.Revision)
}

// compared is how far back the history is read again, in revisions: it is the same for ever, and it gets long.
const compared = 2000

// verifyEvents reads the history by a watch and compares it. It writes something to end with.
func (h *history) verifyEvents(ctx context.Context, t *testing.T, client *clientv3.Client, now int64) {
	t.Helper()
	last := event{prefix + "end", strconv.FormatInt(time.Now().UnixNano(), 10)}
	end, err := client.Put(ctx, last.key, last.text)
	if err != nil {
		t.Fatalf("write after a start: %v", err)
	}
	if end.Header.Revision <= now {
		t.Errorf("the revision went from %d to %d", now, end.Header.Revision)
	}
	from := max(1, h.last-compared)
	seen, compacted := readEvents(ctx, client, from, end.Header.Revision)
	if compacted > 0 && compacted <= h.compacted {
		from = compacted + 1
		seen, compacted = readEvents(ctx, client, from, end.Header.Revision)
	}
	if seen[end.Header.Revision] != last {
		t.Fatalf("a watch from revision %d does not show the last write, of %d: it is compacted up to %d, and asked for was %d", from, end.Header.Revision, compacted, h.compacted)
	}
	h.mu.Lock()
	for revision, e := range h.events {
		if got, ok := seen[revision]; revision >= from && got != e {
			t.Errorf("revision %d was told to be %s, and is %s (there: %t)", revision, e, got, ok)
		}
	}
	h.known[last.key] = value{last.text, end.Header.Revision}
	h.mu.Unlock()
	for revision, e := range seen {
		h.note(t, revision, e)
	}
}

// readEvents returns the changes from one revision to another, or what is the first that can be asked for.
func readEvents(ctx context.Context, client *clientv3.Client, from, to int64) (seen map[int64]event, compacted int64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen = map[int64]event{}
	for answer := range client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if answer.Err() != nil {
			return seen, answer.CompactRevision
		}
		for _, e := range answer.Events {
			seen[e.Kv.ModRevision] = eventOf(e)
		}
		if _, all := seen[to]; all {
			break
		}
	}
	return seen, 0
}
