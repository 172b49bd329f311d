// Package datastore is the etcd endpoint that the API server speaks to: kine in this process over SQLite, or over a database
// elsewhere.
package datastore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/endpoint"

	"github.com/labk/labk/pkg/datastore/sqlite"
)

// The DSN of the SQLite file. FULL puts every acknowledged write on the disk, so that a power cut loses none; readers and the
// writer have connections of their own (no shared cache), so that none waits for another's lock.
const sqliteParams = "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_kine_disable_startup_vacuum" +
	"&_pragma=cache_size(-16384)&_pragma=temp_store(memory)"

// Options of a Store.
type Options struct {
	// Socket is the path of the unix socket to listen on; its folder is made, 0700.
	Socket string
	// Database is the path of SQLite's file; used when Endpoint is empty.
	Database string
	// Endpoint is the URL of a database elsewhere, as kine understands it.
	Endpoint string
}

// Store is a running datastore; it implements lifecycle.Component.
type Store struct {
	opts   Options
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
	url := s.opts.Endpoint
	if url == "" {
		if err := sqlite.Check(ctx, s.opts.Database); err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(s.opts.Database), 0o700); err != nil {
			return fmt.Errorf("make the database's folder: %w", err)
		}
		url = "sqlite://" + s.opts.Database + sqliteParams
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
		Endpoint:             url,
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

// closing is how long a stop waits for kine, which itself waits two seconds for clients that are still connected. Nobody needs it any more by then, and every acknowledged write is on the disk: the
// API is back so much earlier after a restart.
const closing = 300 * time.Millisecond

// Stop implements lifecycle.Component: it ends the connections and closes the database, or leaves that to the end of the process. SQLite's file alone has everything then, as far as SQLite could do that
// in time; otherwise the log beside it is needed, too.
func (s *Store) Stop(ctx context.Context) error {
	s.cancel()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closing):
		if s.opts.Endpoint == "" {
			_ = sqlite.EmptyLog(ctx, s.opts.Database) // the next start does it, or the one after a power cut
		}
	case <-ctx.Done():
	}
	return nil
}
