package storage

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/datastore"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/tests/databases"
)

// The back ends, as they are named in the tests' names.
const (
	sqliteName   = config.SQLite
	etcdName     = config.Etcd
	postgresName = "postgresql"
	mariadbName  = "mariadb"
)

// backend is a kind of datastore.
type backend struct {
	name string
	// database gives the endpoint of a new database in the server elsewhere; nil for what is in the process.
	database func() string
}

// place is where one datastore is; another process can be told it.
type place struct {
	Backend, Dir, Database string
	// Compacts makes kine compact when it is asked to, and all of it. As labk runs it, kine does so by itself, and keeps the last 1000 revisions.
	Compacts bool
}

// server is a running datastore.
type server interface {
	lifecycle.Component
	Endpoint() string
}

// component is the datastore of the place, not yet running.
func (p place) component() server {
	socket := filepath.Join(p.Dir, "s")
	if p.Compacts && p.Database != "" {
		return &kine{place: p, socket: socket}
	}
	c := &config.Config{Datastore: p.Backend, DatastoreEndpoint: p.Database}
	return labk{datastore.New(datastore.Options{Config: c, Data: paths.Data(p.Dir), Socket: socket, Log: slog.New(slog.DiscardHandler)})}
}

// labk is labk's own datastore, as the server runs it.
type labk struct{ *datastore.Store }

func (l labk) Endpoint() string { return l.Endpoints()[0] }

func (p place) endpoint() string { return p.component().Endpoint() }

// inProcess are the back ends without a server elsewhere.
func inProcess() []backend { return []backend{{name: sqliteName}, {name: etcdName}} }

// backends are all of them. The database servers end with the test.
func backends(t *testing.T) []backend {
	t.Helper()
	all := inProcess()
	for name, start := range map[string]func(testing.TB, databases.Options) *databases.Server{
		postgresName: databases.PostgreSQL,
		mariadbName:  databases.MariaDB,
	} {
		server, count := start(t, databases.Options{}), new(atomic.Int64)
		all = append(all, backend{name, func() string { return server.Endpoint(fmt.Sprintf("labk%d", count.Add(1))) }})
	}
	return all
}

// each runs a test against each back end, at the same time.
func each(t *testing.T, all []backend, test func(*testing.T, backend)) {
	t.Helper()
	for _, b := range all {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
		})
	}
}

// place makes one for a new, empty datastore; its files go with the test.
func (b backend) place(t testing.TB) place {
	t.Helper()
	p := place{Backend: b.name, Dir: shortDir(t)}
	if b.database != nil {
		p.Database = b.database()
	}
	return p
}

// shortDir is a folder for the test whose path leaves room for a socket's name in the 107 bytes that it may have.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "labk-st-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// run runs a new datastore in this process for the test and returns a client of it.
func (b backend) run(t testing.TB) *kubernetes.Client {
	t.Helper()
	return b.place(t).run(t)
}

func (p place) run(t testing.TB) *kubernetes.Client {
	t.Helper()
	s := p.component()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatalf("start the datastore: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stop the datastore: %v", err)
		}
	})
	if err := s.Ready(ctx); err != nil {
		t.Fatalf("wait for the datastore: %v", err)
	}
	return connect(t, s.Endpoint())
}

// connect returns a client for the test, which is soon back when the server was away.
func connect(t testing.TB, endpoint string) *kubernetes.Client {
	t.Helper()
	soon := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond}, MinConnectTimeout: time.Second}
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: 10 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(soon)},
		Logger:      zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}
