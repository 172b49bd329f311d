// Package process is the life that a server and an agent have in common: the data folder's lock, the start and the end of a group of components,
// what systemd is told, and when memory is given back.
package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/lockfile"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/sysctl"
	"github.com/labk/labk/pkg/systemd"
)

// StopTimeout is how long a stop may take.
const StopTimeout = 4 * time.Second

// Options are what a server or an agent is given by whoever runs it.
type Options struct {
	Config *config.Config
	// Host is this machine.
	Host health.Host
	// Observe is told what starts, is ready, fails and stops.
	Observe func(lifecycle.Event)
	// Say tells a person what happens, or is being waited for: one line, as fmt.Sprintf.
	Say func(format string, args ...any)
	// Up is called once everything is ready, with the address of this PC's node.
	Up func(node net.IP)
	// Systemd is told too.
	Systemd *systemd.Notifier
	// Fatal yields an error when a component wanted to end the process.
	Fatal <-chan error
}

// Program is what runs: a server or an agent.
type Program struct {
	// Data is made and locked before anything starts.
	Data paths.Data
	// Assemble puts everything into the group, and what commands of this PC's root may ask or want of it into the mux, which is served at
	// paths.ControlSocket for as long as the process holds the lock: from before anything starts until all has stopped. It changes nothing on the
	// disk: an error of it leaves no trace.
	Assemble func(ctx context.Context, g *lifecycle.Group, control *http.ServeMux) error
	// Node is the address of this PC's node; it is asked once everything is ready.
	Node func() net.IP
	// Alive tells systemd's watchdog whether all is well.
	Alive func(ctx context.Context) bool
}

// RestartError is what a component ends with when only a fresh start can follow a change of the machine: Kubernetes' components take such things as the
// node's address once. Whoever called Run starts the program again; pods go on meanwhile.
type RestartError struct {
	// Reason is a sentence for people.
	Reason string
}

// Error implements error.
func (e *RestartError) Error() string { return e.Reason }

// Run assembles the program and starts it, runs it until ctx ends or a component fails, and stops it; pods go on. A data folder in use is a
// *lockfile.LockedError.
func Run(ctx context.Context, o Options, p Program) (err error) {
	saveTime()
	g, mux := &lifecycle.Group{Observe: o.Observe}, http.NewServeMux()
	if err := p.Assemble(ctx, g, mux); err != nil {
		return err
	}
	if err := os.MkdirAll(string(p.Data), 0o755); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	lock, err := lockfile.AcquireLock(p.Data.Lock())
	if err != nil {
		return err
	}
	defer lock.Release()
	record := began(o, p.Data)
	defer func() { record.end(p.Data, err) }()
	if err := paths.MakeRunDir(); err != nil {
		return fmt.Errorf("make the run folder: %w", err)
	}
	if err := sysctl.Remember(paths.Sysctls); err != nil {
		return err
	}
	if err := noteVersion(p.Data); err != nil {
		return err
	}
	var up atomic.Bool
	serveSelf(mux, p.Data, &up)
	listener, err := control.Listen(paths.ControlSocket, mux)
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
		o.Up(p.Node())
	}
	var background sync.WaitGroup
	running, cancel := context.WithCancel(ctx)
	defer background.Wait()
	defer cancel()
	background.Go(func() { saveSpace(running) })
	background.Go(func() { o.Systemd.Watch(running, p.Alive) })

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
