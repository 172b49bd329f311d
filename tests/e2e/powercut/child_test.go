package powercut

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/endpoint"
	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc"

	"github.com/labk/labk/pkg/datastore/etcd"
	"github.com/labk/labk/pkg/datastore/sqlite"
)

// runDatastore is the datastore by itself, as a server has it, until the test ends it: the folder, the socket, the kind.
func runDatastore(ended <-chan struct{}, args ...string) error {
	ctx := context.Background()
	listen := func(context.Context) (net.Listener, error) {
		_ = os.Remove(args[1]) // of the one that was killed
		return net.Listen("unix", args[1])
	}
	run := map[string]func(context.Context, string, listener) (func() error, error){"sqlite": runSQLite, "etcd": runEtcd, "kine": runKine}[args[2]]
	end, err := run(ctx, args[0], listen)
	if err != nil {
		return err
	}
	fmt.Println(ready)
	<-ended
	return end()
}

type listener func(context.Context) (net.Listener, error)

func runSQLite(ctx context.Context, dir string, listen listener) (func() error, error) {
	if err := os.MkdirAll(filepath.Join(dir, "db"), 0o700); err != nil {
		return nil, err
	}
	s, err := sqlite.Open(ctx, sqlite.Options{Path: filepath.Join(dir, "db", "state.db")})
	if err != nil {
		return nil, err
	}
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	g := grpc.NewServer()
	server.New(s, "unix", 5*time.Second, "3.6.11").Register(g)
	go func() { _ = g.Serve(l) }() // it ends with Stop only
	return func() error { g.Stop(); return s.Close() }, nil
}

func runEtcd(ctx context.Context, dir string, listen listener) (func() error, error) {
	m := etcd.New(etcd.Options{Dir: filepath.Join(dir, "etcd"), Listen: listen, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err := m.Start(ctx); err != nil {
		return nil, err
	}
	return func() error { return m.Stop(ctx) }, m.Ready(ctx)
}

// runKine is the driver of kine that labk had at first.
func runKine(ctx context.Context, dir string, listen listener) (func() error, error) {
	if err := os.MkdirAll(filepath.Join(dir, "db"), 0o700); err != nil {
		return nil, err
	}
	l, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	socket := l.Addr().String()
	if err := l.Close(); err != nil { // kine listens by itself
		return nil, err
	}
	_, err = endpoint.Listen(ctx, endpoint.Config{
		WaitGroup:            &sync.WaitGroup{},
		Listener:             "unix://" + socket,
		Endpoint:             "sqlite://" + filepath.Join(dir, "db", "state.db") + "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate",
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
	return func() error { return nil }, err
}
