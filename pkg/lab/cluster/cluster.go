// Package cluster runs labk in the hosts of a lab: a server in the first one, agents in the others. Nobody supervises them: each is
// started detached in its host, as a unit of systemd would be on a PC, and lives until it ends by itself or its host loses power.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/pkg/lifecycle"
)

// Options of a cluster.
type Options struct {
	// Name and Dir are those of lab.Options.
	Name, Dir string
	// Agents is how many hosts there are beside the server's.
	Agents int
	// Program is labk on this machine. Hosts see its folder.
	Program string
	// InitCommand is that of lab.Options.
	InitCommand []string
	// Observe, if not nil, is told how hosts and nodes get ready, by several goroutines.
	Observe func(lifecycle.Event)
}

// Cluster is a lab with labk in its hosts. It may be used by several goroutines, and by several processes that opened it.
type Cluster struct {
	lab     *lab.Lab
	program string // its name, in the hosts' lab.OptDir
}

// Up brings up a lab with a server and agents, and returns when all nodes are Ready. When it fails, it leaves nothing; the error then
// has the last lines of labk's log. What an Up that was killed halfway left is cleared away; another lab is lab.ErrExists.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	if o.Observe == nil {
		o.Observe = func(lifecycle.Event) {}
	}
	began := time.Now()
	o.Observe(lifecycle.Event{Component: "hosts", State: lifecycle.Starting})
	_, err := lab.Up(ctx, lab.Options{
		Name: o.Name, Dir: o.Dir, Hosts: 1 + o.Agents, Each: names(o.Agents), Opt: filepath.Dir(o.Program), InitCommand: o.InitCommand,
		Then: func(ctx context.Context, l *lab.Lab) error {
			o.Observe(lifecycle.Event{Component: "hosts", State: lifecycle.Ready, Took: time.Since(began)})
			return newCluster(l, o.Program).start(ctx, o.Observe)
		},
	})
	if err != nil {
		return nil, err
	}
	return Open(o.Dir, o.Program)
}

// Open returns the cluster of the lab in the folder; program is labk.
func Open(dir, program string) (*Cluster, error) {
	l, err := lab.Open(dir)
	if err != nil {
		return nil, err
	}
	return newCluster(l, program), nil
}

func newCluster(l *lab.Lab, program string) *Cluster {
	return &Cluster{lab: l, program: filepath.Base(program)}
}

func names(agents int) map[int]lab.HostOptions {
	each := map[int]lab.HostOptions{1: {Name: "server"}}
	for i := range agents {
		each[2+i] = lab.HostOptions{Name: fmt.Sprintf("agent%d", 1+i)}
	}
	return each
}

// Lab is the cluster's lab.
func (c *Cluster) Lab() *lab.Lab { return c.lab }

// Nodes are labk in all hosts, in order; the server is the first.
func (c *Cluster) Nodes() (all []*Node) {
	for _, h := range c.lab.Hosts() {
		all = append(all, c.node(h))
	}
	return all
}

// Server is labk in the first host.
func (c *Cluster) Server() *Node { return c.node(c.lab.Host(1)) }

func (c *Cluster) node(h *lab.Host) *Node { return &Node{Host: h, cluster: c} }

// Node is labk in the host that is called so, or has that number.
func (c *Cluster) Node(name string) (*Node, error) {
	var known []string
	for _, n := range c.Nodes() {
		if name == n.Host.Name() || name == strconv.Itoa(n.Host.Index()) {
			return n, nil
		}
		known = append(known, n.Host.Name())
	}
	return nil, fmt.Errorf("no host %q in lab %s: there are %s", name, c.lab.Name(), strings.Join(known, ", "))
}

// start starts the server, and each agent as soon as there is a token, and waits until all nodes are Ready.
func (c *Cluster) start(ctx context.Context, observe func(lifecycle.Event)) error {
	all, cancel := context.WithCancel(ctx)
	defer cancel()
	nodes := c.Nodes()
	errs := make([]error, len(nodes))
	var running sync.WaitGroup
	for i, n := range nodes {
		running.Go(func() {
			err := n.startAndWait(all, observe)
			if cause := context.Cause(all); err != nil && (cause == nil || errors.Is(cause, context.DeadlineExceeded)) {
				errs[i] = err
				cancel() // the others would wait in vain
			}
		})
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (n *Node) startAndWait(ctx context.Context, observe func(lifecycle.Event)) error {
	began := time.Now()
	observe(lifecycle.Event{Component: n.Host.Name(), State: lifecycle.Starting})
	if err := n.start(ctx); err != nil {
		return err
	}
	if err := n.WaitReady(ctx); err != nil {
		return err
	}
	observe(lifecycle.Event{Component: n.Host.Name(), State: lifecycle.Ready, Took: time.Since(began)})
	return nil
}
