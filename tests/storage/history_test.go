package storage

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/client/v3/kubernetes"
)

// prefix is that of all keys of these tests.
const prefix = "/registry/things/"

type action string

const (
	create action = "create"
	update action = "update"
	remove action = "delete"
	read   action = "get"
	list   action = "list"
)

// version is what a key has at a time; the zero value is that of no key. Values are unique, so that each names the write it came from.
type version struct {
	value    string
	revision int64 // of the last change; 0 if that is not known
}

func versionOf(kv *mvccpb.KeyValue) version {
	if kv == nil {
		return version{}
	}
	return version{string(kv.Value), kv.ModRevision}
}

// call is what a client asked for.
type call struct {
	action action
	key    string
	value  string  // to write
	want   version // which a change asks for
}

// answer is what it got.
type answer struct {
	unknown bool  // whether the change was made: the server died before it answered
	done    bool  // the change was made
	header  int64 // the datastore's revision in the answer, which is the change's own if it was made
	found   version
}

// operation is one call with its answer. A list is one per key, with the same times.
type operation struct {
	client       int
	call         call
	answer       answer
	began, ended int64 // nanoseconds
}

// history collects the operations of many clients.
type history struct {
	begin time.Time
	mu    sync.Mutex
	all   []operation
}

func (h *history) now() int64 { return int64(time.Since(h.begin)) }

func (h *history) add(o operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, o)
}

// client does random things to few keys, one after the other.
type client struct {
	id      int
	etcd    *kubernetes.Client
	history *history
	random  *rand.Rand
	keys    []string
	known   map[string]version // what it last saw of each key
	writes  int
}

// run works until the context ends. Answers are awaited a bit longer, so that all but those of a kill are known.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		// A server that hangs must not hang the test; what is not answered by then counts as unknown.
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		c.step(limited)
		cancel()
	}
}

func (c *client) step(ctx context.Context) {
	key := c.keys[c.random.IntN(len(c.keys))]
	switch dice := c.random.IntN(10); {
	case dice < 2:
		c.list(ctx)
	case dice < 3:
		c.read(ctx, key)
	case c.known[key].value == "":
		c.write(ctx, call{action: create, key: key, value: c.unique()})
	case dice < 5:
		c.remove(ctx, call{action: remove, key: key, want: c.known[key]})
	default:
		c.write(ctx, call{action: update, key: key, value: c.unique(), want: c.known[key]})
	}
}

func (c *client) unique() string {
	c.writes++
	return fmt.Sprintf("%d-%d", c.id, c.writes)
}

func (c *client) write(ctx context.Context, do call) {
	began := c.history.now()
	got, err := c.etcd.OptimisticPut(ctx, do.key, []byte(do.value), do.want.revision, kubernetes.PutOptions{GetOnFailure: true})
	switch {
	case err != nil:
		c.lost(do, began)
	case got.Succeeded:
		c.answered(do, answer{done: true, header: got.Revision}, version{do.value, got.Revision}, began)
	default:
		found := versionOf(got.KV)
		c.answered(do, answer{header: got.Revision, found: found}, found, began)
	}
}

func (c *client) remove(ctx context.Context, do call) {
	began := c.history.now()
	got, err := c.etcd.OptimisticDelete(ctx, do.key, do.want.revision, kubernetes.DeleteOptions{GetOnFailure: true})
	switch {
	case err != nil:
		c.lost(do, began)
	case got.Succeeded:
		c.answered(do, answer{done: true, header: got.Revision}, version{}, began)
	default:
		found := versionOf(got.KV)
		c.answered(do, answer{header: got.Revision, found: found}, found, began)
	}
}

func (c *client) read(ctx context.Context, key string) {
	began := c.history.now()
	got, err := c.etcd.Kubernetes.Get(ctx, key, kubernetes.GetOptions{})
	if err != nil {
		return // a read without an answer says nothing
	}
	found := versionOf(got.KV)
	c.answered(call{action: read, key: key}, answer{header: got.Revision, found: found}, found, began)
}

func (c *client) list(ctx context.Context) {
	began := c.history.now()
	got, err := c.etcd.List(ctx, prefix, kubernetes.ListOptions{})
	if err != nil {
		return
	}
	ended, found := c.history.now(), map[string]version{}
	for _, kv := range got.Kvs {
		found[string(kv.Key)] = versionOf(kv)
	}
	for _, key := range c.keys {
		c.known[key] = found[key]
		c.history.add(operation{c.id, call{action: list, key: key}, answer{header: got.Revision, found: found[key]}, began, ended})
	}
}

// answered notes an operation and what is known of its key after it.
func (c *client) answered(do call, got answer, now version, began int64) {
	c.history.add(operation{c.id, do, got, began, c.history.now()})
	c.known[do.key] = now
}

// lost notes a change that may have been made, or may not, or will be.
func (c *client) lost(do call, began int64) {
	c.history.add(operation{c.id, do, answer{unknown: true}, began, math.MaxInt64})
	c.known[do.key] = version{}
}

// forPorcupine is the history as the checker takes it.
func (h *history) forPorcupine() []porcupine.Operation {
	all := make([]porcupine.Operation, 0, len(h.all))
	for _, o := range h.all {
		all = append(all, porcupine.Operation{ClientId: o.client, Input: o.call, Output: o.answer, Call: o.began, Return: o.ended})
	}
	return all
}
