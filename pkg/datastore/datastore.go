// Package datastore is the etcd endpoint that the API server speaks to: SQLite or a member of etcd in this process, or a database elsewhere. SQLite and the SQL servers stand behind
// kine's etcd face.
package datastore

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/datastore/dump"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/paths"
)

// Options of a Store.
type Options struct {
	// Config says which datastore it is. It must be valid.
	Config *config.Config
	// Data is where a datastore in this process is.
	Data paths.Data
	// Socket is the path of the unix socket to listen on; its folder is made, 0700.
	Socket string
	// Log takes what etcd has to say; kine uses logrus.
	Log *slog.Logger
	// Say tells a person what happens, or is being waited for.
	Say func(format string, args ...any)
}

// Store is a running datastore; it implements lifecycle.Component and Failer.
type Store struct {
	opts Options

	mu     sync.Mutex
	engine engine
	kind   string
	asking *clientv3.Client // of Ping
	away   error            // why it has not started yet
}

// engine is what keeps the data, or speaks to what does. Its methods are those of a lifecycle.Component.
type engine interface {
	start(ctx context.Context) error
	stop(ctx context.Context) error
	// failed yields an error when the engine has ended by itself; it may be nil.
	failed() <-chan error
}

// New returns a store that is not yet running.
func New(o Options) *Store {
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	return &Store{opts: o, away: health.ErrStarting}
}

// Name implements lifecycle.Component.
func (s *Store) Name() string { return "datastore" }

// Endpoints are the etcd URLs that the API server connects to. They are known before Start.
func (s *Store) Endpoints() []string {
	if s.direct() {
		return strings.Split(s.opts.Config.DatastoreEndpoint, ",")
	}
	return []string{"unix://" + s.opts.Socket}
}

// direct tells that the API server itself speaks to etcd elsewhere.
func (s *Store) direct() bool {
	return s.opts.Config.DatastoreEndpoint != "" && s.opts.Config.DatastoreKind() == config.Etcd
}

// TLS are the files for connections to Endpoints; none for the socket.
func (s *Store) TLS() transport.TLSInfo {
	if !s.direct() {
		return transport.TLSInfo{}
	}
	return files(s.opts.Config)
}

func files(c *config.Config) transport.TLSInfo {
	return transport.TLSInfo{TrustedCAFile: c.DatastoreCAFile, CertFile: c.DatastoreCertFile, KeyFile: c.DatastoreKeyFile}
}

// Kind is what keeps the data: one of config's constants. After a Start it is what it really is: a migration that has failed leaves it in the old one.
func (s *Store) Kind() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kind == "" {
		return s.opts.Config.DatastoreKind()
	}
	return s.kind
}

// Start implements lifecycle.Component: clients are served when it returns. A datastore of the other kind in this process is migrated before, and a datastore elsewhere is waited for. A damaged SQLite
// file is an error and is left as it is.
func (s *Store) Start(ctx context.Context) error {
	var e engine
	kind := s.opts.Config.DatastoreKind()
	if s.opts.Config.DatastoreEndpoint != "" {
		if err := s.reach(ctx); err != nil {
			return err
		}
		e = s.elsewhere()
	} else {
		var err error
		if kind, err = s.settle(ctx); err != nil {
			return err
		}
		e = s.local(kind, s.place(kind), s.opts.Socket)
	}
	if err := e.start(ctx); err != nil {
		return s.hide(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine, s.kind = e, kind
	return nil
}

// Ready implements lifecycle.Component; clients are served when Start returns.
func (s *Store) Ready(context.Context) error { return nil }

// Failed implements lifecycle.Failer.
func (s *Store) Failed() <-chan error { return s.engine.failed() }

// Stop implements lifecycle.Component. Every acknowledged write is on the disk, whether it ends in time or not.
func (s *Store) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking != nil {
		_ = s.asking.Close()
	}
	return s.engine.stop(ctx)
}

// Client returns a client of the running datastore, which lives until it is closed or ctx ends.
func (s *Store) Client(ctx context.Context) (*clientv3.Client, error) {
	return s.client(ctx, s.Endpoints(), s.TLS())
}

func (s *Store) client(ctx context.Context, endpoints []string, files transport.TLSInfo) (*clientv3.Client, error) {
	cfg := clientv3.Config{Context: ctx, Endpoints: endpoints, Logger: zap.NewNop()}
	if files.TrustedCAFile != "" || files.CertFile != "" {
		tls, err := files.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("speak to the datastore: %w", err)
		}
		cfg.TLS = tls
	}
	if dial := s.Dial(); dial != nil {
		cfg.DialOptions = []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) })}
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("speak to the datastore: %w", err)
	}
	return client, nil
}

// Dump writes all of the datastore's newest revision (dump.From).
func (s *Store) Dump(ctx context.Context, w io.Writer) (dump.Info, error) {
	client, err := s.Client(ctx)
	if err != nil {
		return dump.Info{}, err
	}
	defer client.Close()
	return dump.From(ctx, client, ttl(s.Kind(), client), w)
}

// ttl is how a client of the kind tells when a lease ends.
func ttl(kind string, client *clientv3.Client) dump.TTL {
	if kind == config.Etcd {
		return dump.EtcdTTL(client)
	}
	return dump.KineTTL
}

// asked is a key that is there in no datastore but kine's, and in those always.
const asked = "/registry/health"

// Ping asks the datastore for something. While the one elsewhere is waited for at a start, the error is what keeps it away, and health.ErrStarting in the rest of that time.
func (s *Store) Ping(ctx context.Context) error {
	s.mu.Lock()
	started, away := s.engine != nil, s.away
	s.mu.Unlock()
	if !started {
		return away
	}
	client, err := s.pinger()
	if err != nil {
		return err
	}
	_, err = client.Get(ctx, asked)
	return s.hide(err)
}

// Room is an error while the datastore takes no writes, for want of room. It needs a store that has started.
func (s *Store) Room(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.engine.(member); ok {
		return m.Room()
	}
	return nil
}

// Writes is an error while the datastore in this process refuses changes, because its disk does. It needs a store that has started.
func (s *Store) Writes(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.engine.(*behind); ok {
		if r, ok := b.backend.(interface{ Refusing() error }); ok {
			return r.Refusing()
		}
	}
	return nil
}

func (s *Store) pinger() (*clientv3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking == nil {
		client, err := s.Client(context.Background())
		if err != nil {
			return nil, err
		}
		s.asking = client
	}
	return s.asking, nil
}
