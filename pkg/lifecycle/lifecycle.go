// Package lifecycle is the one way in which anything long-running in labk starts and stops.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Component is something long-running. Its states:
//
//	      Start          Ready returns nil
//	new ────────▶ started ────────────────▶ ready
//	                 │                        │
//	                 └───────── Stop ─────────┴──▶ stopped
//
// Start begins the work and returns soon; the work goes on until Stop (ctx ends only the starting). Ready blocks until
// others may depend on the component, ctx ends, or it has failed. Stop ends the work and returns before ctx does. A component is started
// at most once; Stop is called at most once, and only after a Start that returned nil. No method is called concurrently
// with Start; Ready and Stop may overlap.
type Component interface {
	Name() string
	Start(ctx context.Context) error
	Ready(ctx context.Context) error
	Stop(ctx context.Context) error
}

// Failer is a Component that can end by itself. Failed yields at most one error, when the component's work ended without Stop.
type Failer interface {
	Failed() <-chan error
}

// Event tells an observer that a component has reached a state.
type Event struct {
	Component string
	// State is one of Starting, Ready, Failed, Stopped.
	State State
	// Took is the time since Starting, or for Stopped since its Stop was called.
	Took time.Duration
	Err  error
}

// State of a component, as others see it.
type State string

// The states. Observers are told of all but Waiting and Stopping, and of Failed while starting: what ends later is told by Group.Failed.
const (
	// Waiting is until all are ready that the component comes after.
	Waiting  State = "waiting"
	Starting State = "starting"
	Ready    State = "ready"
	Failed   State = "failed"
	Stopping State = "stopping"
	Stopped  State = "stopped"
)

// Member is a component of a group at a moment.
type Member struct {
	Name  string
	State State
	// Since is when the state began; zero for Waiting.
	Since time.Time
	// WaitsFor names what a Waiting one comes after and is not ready.
	WaitsFor []string
	// Err is why a Failed one failed, or what was wrong when a Stopped one stopped.
	Err error
}

// Group runs components that depend on each other: each starts when those that it comes after are ready, all others at the
// same time; Stop goes the opposite way. The zero Group is ready to use; Add everything before Start.
type Group struct {
	// Observe, if set, is told every change, one at a time.
	Observe func(Event)

	mu      sync.Mutex
	members []*member
	byName  map[string]*member
	observe sync.Mutex
	failed  chan error
}

type member struct {
	Component
	after   []*member
	ready   chan struct{} // closed when ready
	stopped chan struct{}

	// the group's mu guards the rest
	started bool
	state   State
	since   time.Time
	err     error
}

// Add puts a component in the group, to start after the named ones are ready. Those must have been added before: a name that
// is not there is a programming error and panics.
func (g *Group) Add(c Component, after ...string) {
	if g.byName == nil {
		g.byName = map[string]*member{}
		g.failed = make(chan error, 1)
	}
	m := &member{Component: c, ready: make(chan struct{}), stopped: make(chan struct{}), state: Waiting}
	for _, name := range after {
		before, ok := g.byName[name]
		if !ok {
			panic("lifecycle: " + c.Name() + " comes after " + name + ", which was not added")
		}
		m.after = append(m.after, before)
	}
	g.members = append(g.members, m)
	g.byName[c.Name()] = m
}

// Start starts every component and returns when all are ready, or with the first error; a component that was ready and ends by itself while others are
// still starting is one too. After an error the caller stops the group, which ends what had begun.
func (g *Group) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make(chan error, len(g.members))
	for _, m := range g.members {
		go func() { errs <- g.start(ctx, m, cancel) }()
	}
	var first error
	for range g.members {
		if err := <-errs; err != nil && first == nil {
			first = err
			if cause := context.Cause(ctx); cause != nil {
				first = cause
			}
			cancel(err)
		}
	}
	return first
}

func (g *Group) start(ctx context.Context, m *member, abort context.CancelCauseFunc) error {
	for _, before := range m.after {
		select {
		case <-before.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	g.enter(m, Starting, nil)
	if err := m.Component.Start(ctx); err != nil {
		return g.fail(m, fmt.Errorf("start %s: %w", m.Name(), err))
	}
	g.mu.Lock()
	m.started = true
	g.mu.Unlock()
	readyCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if f, ok := m.Component.(Failer); ok {
		go func() {
			select {
			case err := <-f.Failed():
				err = fmt.Errorf("%s ended: %w", m.Name(), err)
				cancel(err)
				g.set(m, Failed, err)
				g.report(err)
				abort(err)
			case <-m.stopped:
			}
		}()
	}
	if err := m.Component.Ready(readyCtx); err != nil {
		if cause := context.Cause(readyCtx); cause != nil && ctx.Err() == nil {
			err = cause
		}
		return g.fail(m, fmt.Errorf("wait for %s: %w", m.Name(), err))
	}
	g.enter(m, Ready, nil)
	close(m.ready)
	return nil
}

func (g *Group) fail(m *member, err error) error {
	if !errors.Is(err, context.Canceled) {
		g.enter(m, Failed, err)
	}
	return err
}

func (g *Group) report(err error) {
	select {
	case g.failed <- err:
	default:
	}
}

// Failed yields the error of the first component that ended by itself.
func (g *Group) Failed() <-chan error { return g.failed }

// Members returns the components in the order in which they were added. It may be called at any time after the last Add.
func (g *Group) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Member, len(g.members))
	for i, m := range g.members {
		out[i] = Member{Name: m.Name(), State: m.state, Since: m.since, Err: m.err}
		if m.state != Waiting {
			continue
		}
		for _, before := range m.after {
			if before.state != Ready {
				out[i].WaitsFor = append(out[i].WaitsFor, before.Name())
			}
		}
	}
	return out
}

// Stop stops what was started, each component after those that depend on it, and joins their errors. A component that does
// not stop before ctx ends is left behind and named in the error.
func (g *Group) Stop(ctx context.Context) error {
	dependents := map[*member][]*member{}
	for _, m := range g.members {
		for _, before := range m.after {
			dependents[before] = append(dependents[before], m)
		}
	}
	errs := make(chan error, len(g.members))
	for _, m := range g.members {
		go func() {
			defer close(m.stopped)
			for _, later := range dependents[m] {
				<-later.stopped
			}
			errs <- g.stop(ctx, m)
		}()
	}
	var all []error
	for range g.members {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func (g *Group) stop(ctx context.Context, m *member) error {
	g.mu.Lock()
	started := m.started
	g.mu.Unlock()
	if !started {
		return nil
	}
	g.set(m, Stopping, nil)
	done := make(chan error, 1)
	go func() { done <- m.Component.Stop(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("stop %s: %w", m.Name(), err)
	}
	g.enter(m, Stopped, err)
	return err
}

// set notes a component's state and returns how long it was in the one before.
func (g *Group) set(m *member, s State, err error) (took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if !m.since.IsZero() {
		took = now.Sub(m.since)
	}
	if s == Ready && m.state == Failed { // it has ended at the very moment when it was ready
		return took
	}
	m.state, m.since, m.err = s, now, err
	return took
}

// enter is set, and tells the observer.
func (g *Group) enter(m *member, s State, err error) {
	took := g.set(m, s, err)
	if g.Observe == nil {
		return
	}
	g.observe.Lock()
	defer g.observe.Unlock()
	g.Observe(Event{Component: m.Name(), State: s, Took: took, Err: err})
}
