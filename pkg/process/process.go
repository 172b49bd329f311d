// Package process is the life that a server and an agent have in common: the data folder's lock, the start and the end of a group of components,
// what systemd is told, and when memory is given back.
package process

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/lockfile"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/systemd"
	"github.com/labk/labk/pkg/version"
)

// StopTimeout is how long a stop may take.
const StopTimeout = 4 * time.Second

// Options of a process.
type Options struct {
	// Data is made and locked before anything starts.
	Data paths.Data
	// Observe is told what starts, is ready, fails and stops.
	Observe func(lifecycle.Event)
	// Up is called once everything is ready.
	Up func()
	// Alive tells systemd's watchdog whether all is well.
	Alive func(ctx context.Context) bool
	// Systemd is told too.
	Systemd *systemd.Notifier
	// Control answers commands of this PC's root (paths.ControlSocket) for as long as the process holds the lock, beside Running; nil for nothing more.
	Control http.Handler
	// Fatal yields an error when a component wanted to end the process.
	Fatal <-chan error
}

// RestartError is what a component ends with when only a fresh start can follow a change of the machine: Kubernetes' components take such things as the
// node's address once. Whoever called Run starts the program again; pods go on meanwhile.
type RestartError struct {
	// Reason is a sentence for people.
	Reason string
}

// Error implements error.
func (e *RestartError) Error() string { return e.Reason }

// Run starts what assemble puts into the group, runs it until ctx ends or a component fails, and stops it; pods go on. assemble changes nothing on the
// disk: an error of it leaves no trace. A data folder in use is a *lockfile.LockedError.
func Run(ctx context.Context, o Options, assemble func(context.Context, *lifecycle.Group) error) error {
	saveTime()
	g := &lifecycle.Group{Observe: o.Observe}
	if err := assemble(ctx, g); err != nil {
		return err
	}
	if err := os.MkdirAll(string(o.Data), 0o755); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	lock, err := lockfile.AcquireLock(o.Data.Lock())
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := paths.MakeRunDir(); err != nil {
		return fmt.Errorf("make the run folder: %w", err)
	}
	if err := noteVersion(o.Data); err != nil {
		return err
	}
	var up atomic.Bool
	listener, err := control.Listen(paths.ControlSocket, controlHandler(o.Data, &up, o.Control))
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := start(ctx, g, o.Fatal); err != nil {
		if ctx.Err() != nil { // asked to stop while starting
			err = nil
		}
		return errors.Join(err, stop(g))
	}
	up.Store(true)
	o.Systemd.Ready("up")
	if o.Up != nil {
		o.Up()
	}
	var background sync.WaitGroup
	running, cancel := context.WithCancel(ctx)
	defer background.Wait()
	defer cancel()
	background.Go(func() { saveSpace(running) })
	background.Go(func() { o.Systemd.Watch(running, o.Alive) })

	select {
	case <-ctx.Done():
		err = nil
	case err = <-g.Failed():
	case err = <-o.Fatal:
	}
	if errors.As(err, new(*RestartError)) {
		o.Systemd.Restarting() // and no word of stopping, or systemd would see to it that it does
	} else {
		o.Systemd.Stopping()
	}
	return errors.Join(err, stop(g))
}

// noteVersion leaves word of which program used the data folder last: an older one must not follow it (health's LABK045).
func noteVersion(data paths.Data) error {
	if n, err := version.Parse(version.Version); err != nil || n.IsDevelopment() {
		return nil
	}
	if err := paths.WriteFile(data.Version(), []byte(version.Version+"\n"), 0o644); err != nil {
		return fmt.Errorf("note this program's version: %w", err)
	}
	return nil
}

// start starts the group; a component that gives up ends it.
func start(ctx context.Context, g *lifecycle.Group, fatal <-chan error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-fatal:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	err := g.Start(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

func stop(g *lifecycle.Group) error {
	ctx, cancel := context.WithTimeout(context.Background(), StopTimeout)
	defer cancel()
	return g.Stop(ctx)
}
