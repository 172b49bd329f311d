package storage

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

var (
	seed  = flag.Uint64("storage.seed", 0, "seed of the tests that do random things; 0 for a new one, which is printed")
	kills = flag.Int("storage.kills", 6, "how often the datastore's process is killed in the tests of that")
)

// newRandom gives the test's source of chance, and says how to have the same again. (What the scheduler does stays up to chance.)
func newRandom(t *testing.T) *rand.Rand {
	t.Helper()
	s := cmp.Or(*seed, rand.Uint64())
	t.Logf("the same again: -storage.seed=%d", s)
	return rand.New(rand.NewPCG(s, 0))
}

// TestLinearizable lets clients change and read few keys while the datastore's process is killed again and again, and then asks whether their answers can be those of a datastore that
// does one thing after the other and forgets nothing.
func TestLinearizable(t *testing.T) {
	each(t, backends(t), func(t *testing.T, b backend) {
		random := newRandom(t)
		p := b.place(t).spawn(t)
		log := follow(t, connect(t, p.place.endpoint()), 1)
		h := &history{begin: time.Now()}
		underKills(t, p, random, h)
		final := log.until(t, h.highest())

		model := keyModel()
		result, info := porcupine.CheckOperationsVerbose(model, h.forPorcupine(), time.Minute)
		if result != porcupine.Ok {
			path := filepath.Join(os.TempDir(), fmt.Sprintf("labk-history-%s-%d.html", b.name, os.Getpid()))
			t.Errorf("the history of %d operations is not linearizable (%s), see %s: %v", len(h.all), result, path, porcupine.VisualizePath(model, info, path))
		}
		h.checkRevisions(t)
		h.checkLog(t, final)
	})
}

// underKills lets clients work while the process is killed and started at random moments.
func underKills(t *testing.T, p *process, random *rand.Rand, h *history) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	for id := range 6 {
		c := &client{id: id, etcd: connect(t, p.place.endpoint()), history: h, random: rand.New(rand.NewPCG(random.Uint64(), 0)), known: map[string]version{}}
		for k := range 3 {
			c.keys = append(c.keys, fmt.Sprintf("%s%d", prefix, k))
		}
		clients.Go(func() { c.run(ctx) })
	}
	for range *kills {
		time.Sleep(time.Duration(100+random.IntN(400)) * time.Millisecond)
		p.kill()
		p.start()
	}
	time.Sleep(200 * time.Millisecond)
	cancel()
	clients.Wait()
}

// highest is the highest revision that anybody was told.
func (h *history) highest() (revision int64) {
	for _, o := range h.all {
		revision = max(revision, o.answer.header)
	}
	return revision
}

// checkRevisions looks over all keys: no two changes have the same revision, and no answer's revision is below one that somebody was told before the call.
func (h *history) checkRevisions(t *testing.T) {
	t.Helper()
	made := map[int64]operation{}
	for _, o := range h.all {
		if !o.answer.done {
			continue
		}
		if other, ok := made[o.answer.header]; ok {
			t.Errorf("two changes at revision %d: %+v and %+v", o.answer.header, other, o)
		}
		made[o.answer.header] = o
	}
	byEnd, byBegin := h.answered(), h.answered()
	slices.SortFunc(byEnd, func(a, b operation) int { return cmp.Compare(a.ended, b.ended) })
	slices.SortFunc(byBegin, func(a, b operation) int { return cmp.Compare(a.began, b.began) })
	var told operation
	for _, o := range byBegin {
		for len(byEnd) > 0 && byEnd[0].ended < o.began {
			if byEnd[0].answer.header > told.answer.header {
				told = byEnd[0]
			}
			byEnd = byEnd[1:]
		}
		if o.answer.header < told.answer.header || o.answer.done && o.answer.header == told.answer.header {
			t.Errorf("revision %d in %+v, after %d in %+v", o.answer.header, o, told.answer.header, told)
		}
	}
}

func (h *history) answered() []operation {
	return slices.DeleteFunc(slices.Clone(h.all), func(o operation) bool { return o.answer.unknown })
}

// checkLog compares the answers with all events: each acknowledged change is there, once, as it was asked for; each event is something that was asked for; and each list is the state at its revision.
func (h *history) checkLog(t *testing.T, log []event) {
	t.Helper()
	asked := map[string]bool{}
	events := map[int64]event{}
	for _, e := range log {
		events[e.revision] = e
	}
	for _, o := range h.all {
		asked[o.call.value] = true
		if e := events[o.answer.header]; o.answer.done && (e.key != o.call.key || e.value != o.call.value) {
			t.Errorf("%+v was acknowledged, but the event of that revision is %+v", o, e)
		}
	}
	for _, e := range log {
		if !asked[e.value] {
			t.Errorf("nobody asked for what is in %+v", e)
		}
	}
	for _, o := range h.all {
		if o.call.action != list {
			continue
		}
		if want := stateAt(log, o.call.key, o.answer.header); want != o.answer.found {
			t.Errorf("a list at revision %d has %+v of %s, where the events say %+v", o.answer.header, o.answer.found, o.call.key, want)
		}
	}
}

// stateAt is what the events say that a key has at a revision.
func stateAt(log []event, key string, revision int64) (now version) {
	for _, e := range log {
		if e.revision > revision {
			break
		}
		if e.key == key {
			now = version{e.value, e.revision}
			if e.value == "" {
				now = version{}
			}
		}
	}
	return now
}

// TestModel shows that the checker finds what it is for, in histories that are wrong in one way each.
func TestModel(t *testing.T) {
	at := func(o operation, began, ended int64) operation { o.began, o.ended = began, ended; return o }
	made := func(a action, value string, want version, revision int64) operation {
		return operation{call: call{a, "k", value, want}, answer: answer{done: true, header: revision}}
	}
	saw := func(found version) operation {
		return operation{call: call{action: read, key: "k"}, answer: answer{header: found.revision, found: found}}
	}
	refused := func(a action, want, found version) operation {
		return operation{call: call{a, "k", "x", want}, answer: answer{header: found.revision, found: found}}
	}
	lost := func(a action, value string, want version) operation {
		return at(operation{call: call{a, "k", value, want}, answer: answer{unknown: true}}, 0, math.MaxInt64)
	}
	a5, b6 := version{"a", 5}, version{"b", 6}
	created, updated := at(made(create, "a", version{}, 5), 1, 2), at(made(update, "b", a5, 6), 3, 4)
	cases := []struct {
		name string
		ok   bool
		all  []operation
	}{
		{"one after the other", true, []operation{created, updated, at(saw(b6), 5, 6), at(made(remove, "", b6, 7), 7, 8), at(saw(version{}), 9, 10)}},
		{"a read during a change", true, []operation{created, at(updated, 3, 9), at(saw(a5), 4, 8)}},
		{"a stale read", false, []operation{created, updated, at(saw(a5), 5, 6)}},
		{"an acknowledged create forgotten", false, []operation{created, at(saw(version{}), 5, 6)}},
		{"a value that came back", false, []operation{created, at(made(remove, "", a5, 6), 3, 4), at(saw(a5), 5, 6)}},
		{"two creates", false, []operation{created, at(made(create, "b", version{}, 6), 3, 4)}},
		{"two changes of one version", false, []operation{created, updated, at(made(update, "c", a5, 7), 3, 4)}},
		{"refused without a reason", false, []operation{created, at(refused(update, a5, a5), 3, 4)}},
		{"refused with a reason", true, []operation{created, updated, at(refused(update, a5, b6), 5, 6)}},
		{"another revision for the same value", false, []operation{created, at(saw(version{"a", 6}), 5, 6)}},
		{"a revision that does not grow", false, []operation{created, at(made(remove, "", a5, 6), 3, 4), at(made(create, "b", version{}, 6), 5, 6)}},
		{"a lost change that was made", true, []operation{created, lost(update, "b", a5), at(saw(b6), 5, 6)}},
		{"a lost change that was not made", true, []operation{created, lost(update, "b", a5), at(saw(a5), 5, 6)}},
		{"a lost change that was undone", false, []operation{created, lost(update, "b", a5), at(saw(b6), 5, 6), at(saw(a5), 7, 8)}},
		{"a lost delete that was made", true, []operation{created, lost(remove, "", a5), at(saw(version{}), 5, 6)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := &history{all: c.all}
			if got := porcupine.CheckOperations(keyModel(), h.forPorcupine()); got != c.ok {
				t.Errorf("found linearizable: %v", got)
			}
		})
	}
}
