package lifecycle

import (
	"context"
	"errors"
)

// Task makes a Component of a function that runs until its context ends, which is the shape of every Kubernetes component.
type Task struct {
	name  string
	run   func(ctx context.Context) error
	ready func(ctx context.Context) error

	cancel context.CancelFunc
	done   chan struct{}
	failed chan error
}

// NewTask returns a component that runs run from Start to Stop. A run that returns earlier has failed, with its error or, for
// nil, with one that says so. ready, which may be nil, blocks until others may depend on the component.
func NewTask(name string, run, ready func(ctx context.Context) error) *Task {
	return &Task{name: name, run: run, ready: ready, done: make(chan struct{}), failed: make(chan error, 1)}
}

// Name implements Component.
func (t *Task) Name() string { return t.name }

// Start implements Component. It returns at once; run's context carries the values of ctx but not its end.
func (t *Task) Start(ctx context.Context) error {
	ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(t.done)
		err := t.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it returned without being asked to stop")
		}
		t.failed <- err
	}()
	return nil
}

// Ready implements Component.
func (t *Task) Ready(ctx context.Context) error {
	if t.ready == nil {
		return nil
	}
	return t.ready(ctx)
}

// Stop implements Component.
func (t *Task) Stop(ctx context.Context) error {
	t.cancel()
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return errors.New("it did not end in time; leaving it behind")
	}
}

// Failed implements Failer.
func (t *Task) Failed() <-chan error { return t.failed }

// Step makes a Component of work that is done once, before others start: it is ready when do has returned.
type Step struct {
	name string
	do   func(ctx context.Context) error
}

// NewStep returns a component whose whole work is do.
func NewStep(name string, do func(ctx context.Context) error) *Step {
	return &Step{name: name, do: do}
}

// Name implements Component.
func (s *Step) Name() string { return s.name }

// Start implements Component.
func (s *Step) Start(context.Context) error { return nil }

// Ready implements Component: it does the work.
func (s *Step) Ready(ctx context.Context) error { return s.do(ctx) }

// Stop implements Component.
func (s *Step) Stop(context.Context) error { return nil }
