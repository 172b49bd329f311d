package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// What the face says of itself, and how it behaves. The limits are etcd's own, for the API server counts on them.
const (
	// emulatedEtcd is the version of etcd whose features the API server may count on.
	emulatedEtcd = "3.6.11"
	// notifyInterval is how often a watch without events learns how far it has come. It learns at once when it asks, as the API server does for a list: what is left is to keep what clients
	// have seen newer than a compaction. With etcd it is ten minutes; with kine's five seconds, a hundred watches are a tenth of what idling costs.
	notifyInterval = 10 * time.Second
	// requestOverhead is what gRPC adds to the largest request.
	requestOverhead = 512 << 10
)

// face is etcd's side of a backend: what etcd would serve on a unix socket.
type face struct {
	backend server.Backend
	socket  string
	server  *grpc.Server
	served  chan struct{}
}

func newFace(backend server.Backend, socket string) *face {
	return &face{backend: backend, socket: socket}
}

// start starts the backend, which lives as long as ctx, and listens: clients are served when it returns.
func (f *face) start(ctx context.Context) error {
	listener, err := listenPrivately(ctx, f.socket)
	if err != nil {
		return err
	}
	if err := f.backend.Start(ctx); err != nil {
		return errors.Join(err, listener.Close())
	}
	f.server = grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: embed.DefaultGRPCKeepAliveMinTime}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: embed.DefaultGRPCKeepAliveInterval, Timeout: embed.DefaultGRPCKeepAliveTimeout}),
		grpc.MaxConcurrentStreams(embed.DefaultMaxConcurrentStreams),
		grpc.MaxRecvMsgSize(embed.DefaultMaxRequestBytes+requestOverhead),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.UnaryInterceptor(guardCall),
		grpc.StreamInterceptor(guardStream),
		grpc.WaitForHandlers(true), // nobody may ask a backend that is closed
	)
	server.New(f.backend, "unix", notifyInterval, emulatedEtcd).Register(f.server)
	f.served = make(chan struct{})
	go func() {
		defer close(f.served)
		_ = f.server.Serve(listener) // it ends by stop only: a listener on a unix socket does not fail otherwise
	}()
	return nil
}

// stop hangs up on the clients, and waits for those of their requests that the backend has already begun. The backend is to be closed afterwards.
func (f *face) stop() {
	if f.server == nil {
		return
	}
	f.server.Stop()
	<-f.served
}

// listenPrivately listens on a unix socket that only root can open, in place of one that was left behind.
func listenPrivately(ctx context.Context, socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, fmt.Errorf("make the datastore socket's folder: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("clear the datastore's socket: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen for the API server: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the datastore's socket: %w", err), listener.Close())
	}
	return listener, nil
}
