// Package etcd keeps the datastore in a member of etcd that runs in this process.
//
// A member that is alone listens for nobody but the API server, on a unix socket, and opens no port: what it calls its address
// among members is a mere name then. When a second server comes, the name is changed to https://NODE-IP:2380 (etcd's MemberUpdate), the first is started
// anew with a listener there, and the second joins by MemberAdd; each API server goes on speaking to the member beside it.
package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
)

// What a member is called, and what it calls its address among members while it is alone.
const (
	memberName = "labk"
	aloneURL   = "http://127.0.0.1:2380"
)

// A lean member. etcd's own numbers are for machines that do nothing else.
const (
	// quota is the size of the file, in bytes, from which on etcd takes no more writes; etcd advises against more.
	quota = 8 << 30
	// entriesKept is how many entries of raft's log stay in memory before they are let go of, as the file has them; behind is how many stay for a member that is behind.
	entriesKept, behind = 2000, 500
	// filesKept is how many old files of raft's log are kept.
	filesKept = 2
	// tickMs and electionMs are how long, in milliseconds, a member waits for others before it leads: the start of one that is alone takes as long. They are for members on one network.
	tickMs, electionMs = 50, 250
	// progress is how often a watch without events learns how far it has come.
	progress = 5 * time.Second
)

// Options of a Member.
type Options struct {
	// Dir is the member's folder; it is made, 0700.
	Dir string
	// Listen returns the listener for the API server. It is called once the member can answer.
	Listen func(ctx context.Context) (net.Listener, error)
	// Log takes what etcd has to say.
	Log *slog.Logger
}

// Member is a member of etcd; it implements lifecycle.Component and Failer.
type Member struct {
	opts   Options
	logger *bridge
	etcd   *embed.Etcd
	rpc    *grpc.Server
	cancel context.CancelFunc
	done   chan struct{} // closed when the caretaker has ended
	free   func(dir string) (bytes int64, ok bool)
}

// New returns a member that is not yet running.
func New(o Options) *Member { return &Member{opts: o, logger: newBridge(o.Log), free: freeBytes} }

// Name implements lifecycle.Component.
func (m *Member) Name() string { return "etcd" }

// Failed implements lifecycle.Failer: etcd gives up when it can't write.
func (m *Member) Failed() <-chan error { return m.logger.gaveUp }

// Exists tells whether the folder has a member's data.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "member", "snap", "db"))
	return err == nil
}

// Start implements lifecycle.Component: the member leads and clients are served when it returns. Files that can't be trusted are a *DamagedError; they are left as they are.
func (m *Member) Start(ctx context.Context) error {
	if err := os.MkdirAll(m.opts.Dir, 0o700); err != nil {
		return fmt.Errorf("make etcd's folder: %w", err)
	}
	started := make(chan error, 1)
	go func() { // etcd that gives up while it starts never comes back from saying so
		var err error
		m.etcd, err = embed.StartEtcd(m.config())
		started <- err
	}()
	select {
	case err := <-started:
		if err != nil {
			return judge(m.opts.Dir, fmt.Errorf("start etcd over %s: %w", m.opts.Dir, err))
		}
	case err := <-m.logger.gaveUp:
		return judge(m.opts.Dir, fmt.Errorf("start etcd over %s: %w: if its disk is well, restore a snapshot", m.opts.Dir, err))
	}
	if err := m.serve(ctx); err != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
		defer cancel()
		return errors.Join(judge(m.opts.Dir, err), m.close(last))
	}
	care, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel, m.done = cancel, make(chan struct{})
	go func() { defer close(m.done); m.takeCare(care) }()
	return nil
}

// serve waits until the member leads, and lets the API server in.
func (m *Member) serve(ctx context.Context) error {
	server := m.etcd.Server
	select {
	case <-server.ReadyNotify():
	case err := <-m.logger.gaveUp:
		return err
	case <-server.StopNotify():
		return errors.New("etcd stopped while it started")
	case <-ctx.Done():
		return ctx.Err()
	}
	m.tidy(0) // before anybody waits for it
	listener, err := m.opts.Listen(ctx)
	if err != nil {
		return err
	}
	m.rpc = newRPC(server)
	go func() { _ = m.rpc.Serve(listener) }() // until Stop
	return nil
}

// Ready implements lifecycle.Component.
func (m *Member) Ready(context.Context) error { return nil }

// Stop implements lifecycle.Component. It hangs up on the clients, whose acknowledged writes are all on the disk.
func (m *Member) Stop(ctx context.Context) error {
	m.cancel()
	return m.close(ctx)
}

// closeLimit is how long a member that could not start may take to end.
const closeLimit = 5 * time.Second

// close ends etcd. One that gave up never ends.
func (m *Member) close(ctx context.Context) error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if m.done != nil { // it was started
			m.rpc.Stop()
			<-m.done
		}
		m.etcd.Close()
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return errors.New("etcd did not end in time; leaving it behind")
	}
}

// config is etcd's configuration. Its own listeners are not used: they would wait seconds for clients at a stop.
func (m *Member) config() *embed.Config {
	c := embed.NewConfig()
	c.Name, c.Dir = memberName, m.opts.Dir
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(m.logger.logger())
	c.ListenClientUrls, c.ListenPeerUrls = nil, nil
	alone, _ := url.Parse(aloneURL)
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = []url.URL{*alone}, []url.URL{{Scheme: "unix", Host: memberName}}
	c.InitialCluster = memberName + "=" + aloneURL
	c.InitialClusterToken = newToken()
	c.EnableGRPCGateway = false
	c.TickMs, c.ElectionMs = tickMs, electionMs
	c.QuotaBackendBytes = quota
	c.SnapshotCount, c.SnapshotCatchUpEntries = entriesKept, behind
	c.MaxSnapFiles, c.MaxWalFiles = filesKept, filesKept
	c.WatchProgressNotifyInterval = progress
	return c
}

// newToken makes the secret that tells this cluster's members from another cluster's. It counts only when a folder is made.
func newToken() string { return rand.Text() }
