package lifecycle

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake records what is done to it.
type fake struct {
	name              string
	start, ready, end error
	hang              bool // Ready blocks until its context ends
	failed            chan error
	log               *journal
}

type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) index(line string) int { return slices.Index(j.lines, line) }

func (f *fake) Name() string                { return f.name }
func (f *fake) Start(context.Context) error { f.log.add("start " + f.name); return f.start }
func (f *fake) Ready(ctx context.Context) error {
	if f.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.ready
}
func (f *fake) Stop(context.Context) error { f.log.add("stop " + f.name); return f.end }
func (f *fake) Failed() <-chan error       { return f.failed }

func TestGroupStartsInOrderAndStopsInReverse(t *testing.T) {
	log := &journal{}
	var g Group
	g.Add(&fake{name: "a", log: log})
	g.Add(&fake{name: "b", log: log}, "a")
	g.Add(&fake{name: "c", log: log}, "a", "b")
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"start a", "start b", "start c", "stop c", "stop b", "stop a"}
	if !slices.Equal(log.lines, want) {
		t.Errorf("got %v, want %v", log.lines, want)
	}
}

func TestGroupStopsWhatWasStartedWhenALaterStartFails(t *testing.T) {
	log := &journal{}
	var g Group
	g.Add(&fake{name: "a", log: log})
	g.Add(&fake{name: "b", log: log, start: errors.New("no room")}, "a")
	g.Add(&fake{name: "c", log: log}, "b")
	err := g.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "start b: no room") {
		t.Fatalf("got %v", err)
	}
	if err := g.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log.index("stop a") < 0 || log.index("stop b") >= 0 || log.index("start c") >= 0 {
		t.Errorf("got %v", log.lines)
	}
}

func TestGroupJoinsErrorsOfStop(t *testing.T) {
	log := &journal{}
	one, two := errors.New("one"), errors.New("two")
	var g Group
	g.Add(&fake{name: "a", log: log, end: one})
	g.Add(&fake{name: "b", log: log, end: two}, "a")
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := g.Stop(t.Context())
	if !errors.Is(err, one) || !errors.Is(err, two) {
		t.Errorf("got %v", err)
	}
}

func TestGroupSaysWhatItWaitsFor(t *testing.T) {
	log := &journal{}
	waiting := make(chan struct{})
	g := Group{Observe: func(e Event) {
		if e.Component == "slow" && e.State == Starting {
			close(waiting)
		}
	}}
	g.Add(&fake{name: "slow", hang: true, log: log})
	g.Add(&fake{name: "later", log: log}, "slow")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Start(ctx) }()
	<-waiting
	slow, later := g.Members()[0], g.Members()[1]
	if slow.Name != "slow" || slow.State != Starting || slow.Since.IsZero() || slow.WaitsFor != nil {
		t.Errorf("got %+v", slow)
	}
	if later.Name != "later" || later.State != Waiting || !slices.Equal(later.WaitsFor, []string{"slow"}) {
		t.Errorf("got %+v", later)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestGroupKnowsItsMembersStates(t *testing.T) {
	failed := make(chan error, 1)
	var g Group
	g.Add(&fake{name: "a", failed: failed, log: &journal{}, end: errors.New("it hangs")})
	state := func() Member { return g.Members()[0] }
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := state(); m.State != Ready || m.Err != nil {
		t.Errorf("got %+v", m)
	}
	failed <- errors.New("crashed")
	<-g.Failed()
	if m := state(); m.State != Failed || m.Err == nil || !strings.Contains(m.Err.Error(), "crashed") {
		t.Errorf("got %+v", m)
	}
	_ = g.Stop(t.Context())
	if m := state(); m.State != Stopped || m.Err == nil || !strings.Contains(m.Err.Error(), "it hangs") {
		t.Errorf("got %+v", m)
	}
}

func TestGroupEndsTheWaitForAComponentThatFailed(t *testing.T) {
	failed := make(chan error, 1)
	var g Group
	g.Add(&fake{name: "a", hang: true, failed: failed, log: &journal{}})
	failed <- errors.New("crashed")
	err := g.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "crashed") {
		t.Errorf("got %v", err)
	}
}

func TestGroupGivesUpWhenAReadyComponentFailsWhileOthersStart(t *testing.T) {
	failed := make(chan error, 1)
	g := Group{Observe: func(e Event) {
		if e.Component == "a" && e.State == Ready {
			failed <- errors.New("crashed")
		}
	}}
	g.Add(&fake{name: "a", failed: failed, log: &journal{}})
	g.Add(&fake{name: "slow", hang: true, log: &journal{}})
	if err := g.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "a ended: crashed") {
		t.Errorf("got %v", err)
	}
}

func TestGroupReportsAComponentThatFailsLater(t *testing.T) {
	failed := make(chan error, 1)
	var g Group
	g.Add(&fake{name: "a", failed: failed, log: &journal{}})
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	failed <- errors.New("crashed")
	if err := <-g.Failed(); !strings.Contains(err.Error(), "a ended: crashed") {
		t.Errorf("got %v", err)
	}
	g.Stop(t.Context())
}

func TestGroupLeavesBehindWhatDoesNotStop(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	var g Group
	g.Add(NewTask("stuck", func(context.Context) error { <-release; return nil }, nil))
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := g.Stop(ctx); err == nil || !strings.Contains(err.Error(), "stop stuck") {
		t.Errorf("got %v", err)
	}
}

func TestTaskThatReturnsHasFailed(t *testing.T) {
	for _, want := range []error{nil, errors.New("broken")} {
		task := NewTask("t", func(context.Context) error { return want }, nil)
		if err := task.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-task.Failed(); err == nil || (want != nil && !errors.Is(err, want)) {
			t.Errorf("got %v", err)
		}
	}
}

func TestTaskOutlivesTheContextOfItsStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	task := NewTask("t", func(ctx context.Context) error { <-ctx.Done(); close(ended); return nil }, nil)
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-ended:
		t.Fatal("the end of Start's context ended the task")
	default:
	}
	if err := task.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-ended
}
