// Package datastore is the etcd endpoint that the API server speaks to: over SQLite in this process, or kine over a database
// elsewhere.
package datastore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/endpoint"

	"github.com/labk/labk/pkg/datastore/sqlite"
)

// Options of a Store.
type Options struct {
	// Socket is the path of the unix socket to listen on; its folder is made, 0700.
	Socket string
	// Database is the path of SQLite's file; used when Endpoint is empty.
	Database string
	// Endpoint is the URL of a database elsewhere, as kine understands it.
	Endpoint string
	// Say is told what a person should know. Nil for nobody.
	Say func(format string, args ...any)
}

// Store is a running datastore; it implements lifecycle.Component.
type Store struct {
	opts   Options
	local  *sqlite.Store
	face   *face
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New returns a store that is not yet running.
func New(opts Options) *Store { return &Store{opts: opts} }

// Name implements lifecycle.Component.
func (s *Store) Name() string { return "datastore" }

// Endpoint is the etcd URL that the API server connects to.
func (s *Store) Endpoint() string { return "unix://" + s.opts.Socket }

// Start implements lifecycle.Component: it opens the database and listens. A damaged SQLite file is an error and is left as it is.
func (s *Store) Start(ctx context.Context) error {
	if s.opts.Endpoint == "" {
		return s.startLocal(ctx)
	}
	if err := os.MkdirAll(filepath.Dir(s.opts.Socket), 0o700); err != nil {
		return fmt.Errorf("make the datastore socket's folder: %w", err)
	}
	var run context.Context
	run, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	// None of these has a usable zero: a zero PollInterval, for one, makes every watch fail silently. The values are those of
	// kine's own command.
	_, err := endpoint.Listen(run, endpoint.Config{
		WaitGroup:            &s.wg,
		Listener:             s.Endpoint(),
		Endpoint:             s.opts.Endpoint,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 8},
		NotifyInterval:       5 * time.Second,
		EmulatedETCDVersion:  "3.6.11",
		CompactInterval:      5 * time.Minute,
		CompactTimeout:       5 * time.Second,
		CompactMinRetain:     1000,
		CompactBatchSize:     1000,
		PollBatchSize:        500,
		PollInterval:         time.Second,
	})
	if err != nil {
		s.cancel()
		return fmt.Errorf("open the datastore: %w", err)
	}
	return nil
}

// Ready implements lifecycle.Component; the socket is listening when Start returns.
func (s *Store) Ready(context.Context) error { return nil }

// startLocal starts the store in SQLite's file.
func (s *Store) startLocal(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(s.opts.Database), 0o700); err != nil {
		return fmt.Errorf("make the database's folder: %w", err)
	}
	local, err := sqlite.Open(ctx, sqlite.Options{Path: s.opts.Database, Say: s.opts.Say})
	if err != nil {
		return err
	}
	f := newFace(local, s.opts.Socket)
	if err := f.start(ctx); err != nil {
		return errors.Join(err, local.Close())
	}
	s.local, s.face = local, f
	return nil
}

// closing is how long a stop waits for kine, which itself waits two seconds for clients that are still connected.
const closing = 300 * time.Millisecond

// Stop implements lifecycle.Component: it ends the connections and closes the database. Every acknowledged write is on the disk, whether that is done in time or not.
func (s *Store) Stop(ctx context.Context) error {
	if s.local != nil {
		s.face.stop()
		return s.local.Close()
	}
	s.cancel()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closing):
	case <-ctx.Done():
	}
	return nil
}
