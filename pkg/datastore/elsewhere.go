package datastore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	_ "github.com/k3s-io/kine/pkg/drivers/mysql" // kine's drivers register themselves
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/k3s-io/kine/pkg/tls"

	"github.com/labk/labk/pkg/config"
)

// elsewhere returns the engine that speaks to the datastore elsewhere.
func (s *Store) elsewhere() engine {
	if s.direct() {
		return nothing{}
	}
	return &behind{socket: s.opts.Socket, open: func(ctx context.Context) (backend, error) {
		_ = mysqldriver.SetLogger(&mysqldriver.NopLogger{}) // it would write to stderr
		k, err := openKine(ctx, s.opts.Config)
		if err != nil { // a nil *kine is no nil backend
			return nil, fmt.Errorf("open the datastore at %s: %w", s.opts.Config.DatastorePlace(), err)
		}
		return k, nil
	}}
}

// nothing is between the API server and etcd elsewhere.
type nothing struct{}

func (nothing) start(context.Context) error { return nil }
func (nothing) stop(context.Context) error  { return nil }
func (nothing) failed() <-chan error        { return nil }

// kine is one of kine's backends for a database elsewhere.
type kine struct {
	server.Backend
	run    context.Context // lives until Close
	cancel context.CancelFunc
	wg     *sync.WaitGroup
}

// openKine opens a backend. None of the numbers has a usable zero: a zero PollInterval, for one, makes every watch fail silently. They are those of kine's own command.
func openKine(ctx context.Context, c *config.Config) (*kine, error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, cancel)()
	k := &kine{run: run, cancel: cancel, wg: new(sync.WaitGroup)}
	_, backend, err := drivers.New(run, k.wg, &drivers.Config{
		Endpoint:             c.DatastoreEndpoint,
		BackendTLSConfig:     tls.Config{CAFile: c.DatastoreCAFile, CertFile: c.DatastoreCertFile, KeyFile: c.DatastoreKeyFile},
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 8},
		CompactInterval:      5 * time.Minute,
		CompactTimeout:       5 * time.Second,
		CompactMinRetain:     1000,
		CompactBatchSize:     1000,
		PollBatchSize:        500,
		PollInterval:         time.Second,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	k.Backend = &oneWriter{Backend: backend}
	return k, nil
}

// Start implements server.Backend.
func (k *kine) Start(context.Context) error { return k.Backend.Start(k.run) }

// closing is how long Close waits for the connections to the database to end. Nothing is lost with them.
const closing = 300 * time.Millisecond

// Close ends the connections, or leaves that to the end of the process.
func (k *kine) Close() error {
	k.cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); k.wg.Wait() }()
	select {
	case <-ended:
	case <-time.After(closing):
	}
	return nil
}

// hide takes the endpoint's passwords out of an error.
func (s *Store) hide(err error) error {
	if err == nil || s.opts.Config.DatastoreEndpoint == "" {
		return err
	}
	text := err.Error()
	for _, secret := range s.opts.Config.DatastoreSecrets() {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return &hiddenError{text, err}
}

// hiddenError is an error without its passwords.
type hiddenError struct {
	text string
	err  error
}

func (e *hiddenError) Error() string { return e.text }
func (e *hiddenError) Unwrap() error { return e.err }

// Dial is how to connect to Endpoints; nil is the ordinary way.
func (s *Store) Dial() func(ctx context.Context, network, address string) (net.Conn, error) {
	if !s.direct() {
		return nil
	}
	return dialPatiently
}

// dialPatiently tries until ctx ends, which is for 20 s. gRPC, which is told of each failure, waits longer after each: half a minute after a database was away for one.
func dialPatiently(ctx context.Context, network, address string) (net.Conn, error) {
	for {
		connection, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			return connection, nil
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// A refusedError is one that no waiting mends.
type refusedError struct {
	err    error
	remedy string
}

func (e *refusedError) Error() string { return fmt.Sprintf("%v: %s", e.err, e.remedy) }
func (e *refusedError) Unwrap() error { return e.err }

// again is how often a datastore that does not answer is asked.
const again = time.Second

// reach waits until the datastore elsewhere answers, and says what it waits for: PCs are switched on in any order. What no waiting mends is an error.
func (s *Store) reach(ctx context.Context) error {
	place := s.opts.Config.DatastorePlace()
	for said := ""; ; {
		err := s.hide(s.probe(ctx))
		switch {
		case err == nil:
			if said != "" {
				s.opts.Say("the datastore at %s answers", place)
			}
			return nil
		case errors.As(err, new(*refusedError)):
			return fmt.Errorf("use the datastore at %s: %w", place, err)
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the datastore at %s: %w", place, ctx.Err())
		}
		text := reason(err)
		s.mu.Lock()
		s.away = errors.New(text)
		s.mu.Unlock()
		if text != said {
			s.opts.Say("waiting for the datastore at %s: %s", place, text)
			said = text
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
}
