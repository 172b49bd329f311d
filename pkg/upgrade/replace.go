package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
)

const (
	// DefaultPatience is for how long a new program is waited for: longer than a slow disk takes.
	DefaultPatience = 5 * time.Minute
	// settle is for how long the new program must stay up before it counts.
	settle = 5 * time.Second
	// look is how often a program is asked whether it is up.
	look = 100 * time.Millisecond
)

// Replacement is one program that takes another's place.
type Replacement struct {
	// Program is the path of the installed program; no link.
	Program string
	// New is the program to take its place, staged (Stage).
	New Program
	// Service runs the program and is restarted; nil if nobody does.
	Service Service
	// Patience is how long the new program may take until it is up.
	Patience time.Duration
	// Prepare, if set, does what must be done before; after its error nothing has been changed.
	Prepare func(ctx context.Context) error
	// Restore, if set, takes back what the new program or Prepare has changed. It is called when the new program did not come up: labk is stopped, the old program in its place. That is started again if the data is
	// fit for it, also after an error of something else.
	Restore func(ctx context.Context) (fit bool, err error)
	// Say tells a person what happens: one line, as fmt.Sprintf.
	Say func(format string, args ...any)
}

// RolledBackError is that a new program did not come up, and the one before runs again.
type RolledBackError struct {
	// Cause is why the new one did not.
	Cause error
	// Version is the one that did not come up.
	Version string
}

// Error implements error.
func (e *RolledBackError) Error() string {
	return fmt.Sprintf("%s did not come up: %v: the program before it runs again", e.Version, e.Cause)
}

// Unwrap implements errors.
func (e *RolledBackError) Unwrap() error { return e.Cause }

// Replace puts the new program in place, restarts the service and waits until labk is up with it. The program before is kept (paths.Previous); if the new one does not come up, or ctx ends before, it is
// brought back, which is a *RolledBackError. From the moment in which the program has been replaced the end of ctx is a reason to go back, not to stop half way.
func Replace(ctx context.Context, r Replacement) error {
	if r.Prepare != nil {
		if err := r.Prepare(ctx); err != nil {
			return errors.Join(err, removeIfThere(r.New.Path))
		}
	}
	kept, err := putInPlace(r.New.Path, r.Program)
	if err != nil {
		return errors.Join(fmt.Errorf("put the new program in place: %w", err), removeIfThere(r.New.Path))
	}
	if r.Service == nil {
		return nil
	}
	began := time.Now()
	old, _ := process.Running(ctx) // zero if none runs
	r.Say("restarting %s with %s; pods go on", r.Service.Name(), r.New.Text)
	cause := r.restart(ctx, r.New.Text, old.PID, r.Patience)
	if cause == nil {
		return nil
	}
	if words := r.Service.LastWords(context.WithoutCancel(ctx), began); words != "" {
		cause = fmt.Errorf("%s (%w)", words, cause)
	}
	if !kept {
		return fmt.Errorf("%s did not come up: %w: there is no program before it", r.New.Text, cause)
	}
	r.Say("%s did not come up: going back to the program before", r.New.Text)
	if err := r.back(context.WithoutCancel(ctx), old); err != nil {
		return fmt.Errorf("%s did not come up: %w; and going back failed: %w: look at %s's log", r.New.Text, cause, err, r.Service.Name())
	}
	return &RolledBackError{Cause: cause, Version: r.New.Text}
}

// restart restarts the service and waits until labk is up with the version, in another process than before, and stays so.
func (r *Replacement) restart(ctx context.Context, version string, before int, patience time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it was not ready after %v", patience))
	defer cancel()
	if err := r.Service.Restart(ctx); err != nil {
		return because(ctx, err)
	}
	var up process.Self
	err := wait.PollUntilContextCancel(ctx, look, true, func(ctx context.Context) (bool, error) {
		self, err := process.Running(ctx)
		up = self
		return err == nil && self.Up && self.PID != before && (version == "" || self.Version == version), nil
	})
	if err != nil {
		return because(ctx, err)
	}
	return steady(ctx, up)
}

// steady makes sure that the process stays.
func steady(ctx context.Context, up process.Self) error {
	steady, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	err := wait.PollUntilContextCancel(steady, look, true, func(ctx context.Context) (bool, error) {
		self, err := process.Running(ctx)
		if steady.Err() == nil && (err != nil || self != up) {
			return false, errors.New("it ended again a moment after it was ready")
		}
		return false, nil
	})
	if steady.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return because(ctx, err)
}

// because is the cause of ctx's end if it has ended, else err.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// back brings the old program back; before is the process that ran it.
func (r *Replacement) back(ctx context.Context, before process.Self) error {
	stop, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := r.Service.Stop(stop); err != nil {
		return err
	}
	if err := rename(paths.Previous(r.Program), r.Program); err != nil {
		return fmt.Errorf("bring the program before back: %w", err)
	}
	var incomplete error
	if r.Restore != nil {
		fit, err := r.Restore(ctx)
		if !fit {
			return fmt.Errorf("%w; labk is stopped", err)
		}
		incomplete = err
	}
	if !before.Up { // and need not be now: why it was not is nobody's concern here
		restart, cancel := context.WithTimeout(ctx, r.Patience)
		defer cancel()
		_ = r.Service.Restart(restart)
		return incomplete
	}
	// It has come up before: whoever has little patience with the new one gets the old one back all the same.
	if err := r.restart(ctx, before.Version, 0, max(r.Patience, DefaultPatience)); err != nil {
		return errors.Join(incomplete, fmt.Errorf("start the program before, which is in its place again: %w", err))
	}
	if incomplete != nil {
		return fmt.Errorf("the program before runs again, but %w", incomplete)
	}
	return nil
}

// putInPlace moves the staged program over the installed one, which is kept. At no moment there is none, also after a power cut. kept is false if there was none before.
func putInPlace(staged, program string) (kept bool, err error) {
	previous := paths.Previous(program)
	making := previous + ".new"
	if err := removeIfThere(making); err != nil {
		return false, err
	}
	switch err := os.Link(program, making); {
	case err == nil:
		// A rename does nothing where both names are the same file, as after an upgrade cut short here.
		if err := errors.Join(rename(making, previous), removeIfThere(making)); err != nil {
			return false, err
		}
		kept = true
	case !errors.Is(err, os.ErrNotExist):
		return false, fmt.Errorf("keep the program before: %w", err)
	}
	return kept, rename(staged, program)
}

// rename renames a file so that it outlasts a power cut.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return paths.SyncDir(filepath.Dir(to))
}
