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
	// Hosts is how many hosts there are, by default one and one for each agent; the server runs in the first.
	Hosts int
	// Agents is how many agents join, in the hosts after the first; AgentArgs are added to their arguments.
	Agents    int
	AgentArgs []string
	// Each and MTU are lab.Options'.
	Each map[int]lab.HostOptions
	MTU  int
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
	// Root and Systemd are lab.Options'; see also Hosts.
	Root    string
	Systemd bool
}

// Cluster is a lab with labk's server in its first host and perhaps agents in others. Its methods may be used by parallel subtests, as long as their parent, for
// which Start was called, has not ended.
type Cluster struct {
	Lab    *lab.Lab
	Host   *lab.Host // where the server runs
	Server *Node
	Agents []*Node

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
		Name: labName(t), Hosts: max(o.Hosts, 1+o.Agents), Each: o.Each, MTU: o.MTU, Subnet: o.Subnet, NoDefaultRoute: o.NoDefaultRoute,
		Opt: filepath.Dir(Binary(t)), OwnerBound: true, Root: o.Root, Systemd: o.Systemd,
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
	c.Server = newNode(t, c.Host, ServerRole, o.Env, o.Args)
	for path, text := range o.Files {
		c.WriteFile(t, path, text)
	}
	if o.Before != nil {
		o.Before(c)
	}
	if !o.DontStart {
		c.Server.Start(t, o.Args...)
		c.Server.WaitUp(t)
		for i := range o.Agents {
			n := c.Agent(t, 2+i, o.Env)
			n.Start(t, append(c.JoinArgs(t), o.AgentArgs...)...)
		}
		for _, n := range c.Agents {
			n.WaitUp(t)
		}
	}
	return c
}

// Agent is an agent in host i, which the caller starts.
func (c *Cluster) Agent(t testing.TB, i int, env []string) *Node {
	t.Helper()
	n := newNode(t, c.Lab.Host(i), AgentRole, env, nil)
	c.Agents = append(c.Agents, n)
	return n
}

// URL is the server's, by its address.
func (c *Cluster) URL() string { return fmt.Sprintf("https://%s:6443", c.Host.Addr()) }

// JoinArgs are the arguments with which `labk agent` joins: the server's address and its own token.
func (c *Cluster) JoinArgs(t testing.TB) []string {
	t.Helper()
	return []string{"--server", c.URL(), "--token", c.Token(t)}
}

// Token is the server's own join token.
func (c *Cluster) Token(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(c.ReadFile(t, TokenFile))
}

// TokenFile is where the server keeps its own token.
const TokenFile = "/var/lib/labk/server/token"

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
func (c *Cluster) Program() string { return c.Server.Program() }

// nodes are the server and the agents.
func (c *Cluster) nodes() []*Node { return append([]*Node{c.Server}, c.Agents...) }

// WriteFile writes a file in the server's host; its folder is made.
func (c *Cluster) WriteFile(t testing.TB, path, text string) {
	t.Helper()
	c.Server.WriteFile(t, path, text)
}

// ReadFile reads a file of the server's host.
func (c *Cluster) ReadFile(t testing.TB, path string) string {
	t.Helper()
	return c.Server.ReadFile(t, path)
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
