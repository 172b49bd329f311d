// Package cluster is what the end-to-end scenarios share: it starts the real labk in a lab host and talks to it as a user would. All waits
// are on conditions and bounded; what a test started is taken down at its end, also when it is killed.
package cluster

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/labk/labk/pkg/lab"
)

// Limits of the waits: generous, as the machine may be slow and loaded.
const (
	// Startup bounds the start of a server.
	Startup = 3 * time.Minute
	// Limit bounds what usually takes seconds.
	Limit = 2 * time.Minute
)

// Main is the whole TestMain of a scenario: the program is also the init of its lab's hosts.
func Main(m *testing.M) {
	if err := lab.MaybeInit(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Parallel tests mostly wait; the number of processors is not what bounds them.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Options of a cluster. The zero value is one host with a plain server.
type Options struct {
	// Args of `labk server`.
	Args []string
	// Env is added to the server's environment.
	Env []string
	// Hosts is how many hosts there are, by default one; the server runs in the first.
	Hosts int
	// Files are written in host 1 before the server starts: absolute path to content.
	Files map[string]string
	// NoDefaultRoute is lab.Options.NoDefaultRoute.
	NoDefaultRoute bool
	// Subnet of the lab. Labs of several tests may have the same: they never meet.
	Subnet string
	// Before is run in the booted lab before the server starts.
	Before func(*Cluster)
	// DontStart leaves the server to the test: c.Server.Start.
	DontStart bool
}

// Cluster is a lab with labk's server in its first host. Its methods may be used by parallel subtests, as long as their parent, for
// which Start was called, has not ended.
type Cluster struct {
	Lab    *lab.Lab
	Host   *lab.Host // where the server runs
	Server *Server

	mu     sync.Mutex
	config *rest.Config
	client kubernetes.Interface
}

// Binary is the labk that is tested: $LABK_BINARY, or dist/labk of this repository.
func Binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("LABK_BINARY")
	if path == "" {
		path = filepath.Join(Root(t), "dist", "labk")
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the program to be tested: %v: run `make build` first, or name one in LABK_BINARY", err)
	}
	return path
}

// Root is the repository's folder.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	t.Fatal("no go.mod in this folder or above")
	return ""
}

// Start brings a lab up and starts the server in its first host; it returns when the server says that the cluster is up. Everything is
// taken down at the end of t; if t has failed, the last lines of the server's log are shown.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Startup)
	defer cancel()
	l, err := lab.Up(ctx, lab.Options{
		Name: labName(t), Hosts: o.Hosts, Subnet: o.Subnet, NoDefaultRoute: o.NoDefaultRoute,
		Opt: filepath.Dir(Binary(t)), OwnerBound: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
	})
	c := &Cluster{Lab: l, Host: l.Host(1)}
	c.Server = newServer(t, c, o)
	for path, text := range o.Files {
		c.WriteFile(t, path, text)
	}
	if o.Before != nil {
		o.Before(c)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's last words:\n%s", c.Server.Tail(80))
		}
	})
	if !o.DontStart {
		c.Server.Start(t, o.Args...)
		c.Server.WaitUp(t)
	}
	return c
}

// labName is the same for each run of a test, so that the next run clears away what a killed one left, and another one for every
// test and checkout.
func labName(t testing.TB) string {
	dir, _ := os.Getwd() // it only has to differ
	h := fnv.New32a()
	fmt.Fprint(h, dir, t.Name())
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(filepath.Base(dir)))
	return fmt.Sprintf("e2e-%.12s-%08x", name, h.Sum32())
}

// Program is the path of labk inside the hosts.
func (c *Cluster) Program() string { return filepath.Join(lab.OptDir, c.Server.program) }

// WriteFile writes a file in the server's host; its folder is made.
func (c *Cluster) WriteFile(t testing.TB, path, text string) {
	t.Helper()
	file, err := c.Host.Path(path)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatalf("write %s in the host: %v", path, err)
	}
}

// ReadFile reads a file of the server's host.
func (c *Cluster) ReadFile(t testing.TB, path string) string {
	t.Helper()
	file, err := c.Host.Path(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("read %s in the host: %v", path, err)
	}
	return string(data)
}

// Outside is an HTTP client on the lab's switch: a PC beside the nodes. Each request has a connection of its own. Give addresses, not names.
func (c *Cluster) Outside() *http.Client { return httpClient(c.Lab.Net()) }

// Inside is an HTTP client in the server's host.
func (c *Cluster) Inside() *http.Client { return httpClient(c.Host.Net()) }

func httpClient(n *lab.Net) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
}

// Eventually tries f until it returns nil, for at most limit; what says what is waited for.
func Eventually(t testing.TB, limit time.Duration, what string, f func() error) {
	t.Helper()
	if err := await(t.Context(), limit, f); err != nil {
		t.Fatalf("%s: not after %v: %v", what, limit, err)
	}
}

// await is Eventually for goroutines that may not end the test.
func await(ctx context.Context, limit time.Duration, f func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}
