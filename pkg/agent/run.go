package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	logsapi "k8s.io/component-base/logs/api/v1"
	nodeutil "k8s.io/kubernetes/pkg/util/node"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/datastore/snapshot/replica"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/kubelet"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/network"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/payload"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/status"
	"github.com/labk/labk/pkg/upgrade/request"
	"github.com/labk/labk/pkg/version"
)

// Run joins this PC to a cluster and runs its node until ctx ends; pods go on. A mistake in the configuration is a *config.Error, a fault of the machine a
// *health.Error, a data folder in use a *lockfile.LockedError; nothing on the disk has been changed then. A *process.RestartError asks for a fresh start.
func Run(ctx context.Context, o process.Options) error {
	if err := o.Config.Validate(); err != nil {
		return err
	}
	server, err := Server(o.Config)
	if err != nil {
		return err
	}
	data := paths.Data(o.Config.DataDir)
	found := health.Run(ctx, o.Host, health.Probes())
	if err := health.Err(found); err != nil {
		return err
	}
	address, err := network.FindNodeAddress(o.Config)
	if err != nil {
		return err
	}
	var node *kubelet.Kubelet
	return process.Run(ctx, o, process.Program{
		Data: data,
		Assemble: func(ctx context.Context, g *lifecycle.Group, control *http.ServeMux) (err error) {
			node, err = assemble(ctx, g, control, o, found, server, address)
			return err
		},
		Node:  func() net.IP { return address.IP },
		Alive: func(ctx context.Context) bool { return node.Alive(ctx) },
	})
}

// assemble puts everything into the group, and what commands may ask for into control. It changes nothing.
func assemble(ctx context.Context, g *lifecycle.Group, control *http.ServeMux, o process.Options, found []health.Result, server *url.URL, address network.NodeAddress) (*kubelet.Kubelet, error) {
	cfg, data := o.Config, paths.Data(o.Config.DataDir)
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	bundle, err := payload.Open()
	if err != nil {
		return nil, err
	}
	if err := bundle.Verify(data.Payload()); err != nil {
		return nil, err
	}
	machine, err := join.ThisMachine("/")
	if err != nil {
		return nil, err
	}
	known, err := join.Recall(cfg, data)
	if err != nil {
		return nil, err
	}
	joining := join.Options{
		Config: cfg, Data: data, Server: server, Token: cfg.ReadToken, Machine: machine, Address: address.IP, Version: version.Version, Say: o.Say,
	}
	if err := join.Check(joining); err != nil {
		return nil, err
	}
	g.Add(join.New(joining))
	files := join.NodeFiles(data)
	g.Add(renewal(control, files, func(ctx context.Context) error { return reachServer(ctx, files.Kubeconfig, server) }))
	g.Add(join.NewFollower(files), "join")
	g.Add(request.NewFollower(request.FollowOptions{
		Data: data, Kubeconfig: files.Kubeconfig, Node: cfg.NodeName, Version: version.Version, Say: o.Say,
	}), "join")
	g.Add(replica.NewFollower(replica.FollowOptions{Folder: data.Copies(), Kubeconfig: files.Kubeconfig, Node: cfg.NodeName, Say: o.Say}), "join")
	live := &health.Live{Server: func(ctx context.Context) (time.Time, error) { return askServer(ctx, files.Kubeconfig, server) }}
	node, err := Add(ctx, g, Options{Config: cfg, Data: data, Host: o.Host, Payload: bundle, Address: address, Known: known, Live: live})
	if err != nil {
		return nil, err
	}
	return node, status.Add(g, control, status.Options{
		Host: o.Host, Live: live, Found: found, Client: func() (kubernetes.Interface, error) { return nodeClient(files.Kubeconfig) },
	})
}

// Server is the server that an agent with this configuration joins. A mistake, such as that it is this PC itself, is a *config.Error.
func Server(c *config.Config) (*url.URL, error) {
	server, err := c.ServerURL()
	if err != nil {
		return nil, err
	}
	return server, checkOther(server, paths.Data(c.DataDir))
}

// checkOther makes sure that the server is another PC.
func checkOther(server *url.URL, data paths.Data) error {
	self := &config.Error{Option: "server", Problem: "it is this PC itself", Remedy: "run `labk agent` on the other PCs: the server's own node is part of `labk server`"}
	if ip := net.ParseIP(server.Hostname()); ip != nil {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return fmt.Errorf("list this machine's addresses: %w", err)
		}
		if slices.ContainsFunc(addrs, func(a net.Addr) bool { n, ok := a.(*net.IPNet); return ok && n.IP.Equal(ip) }) {
			return self
		}
	}
	if _, err := os.Stat(data.Database()); err == nil {
		return &config.Error{Option: "data-dir", Problem: "a server's data is in " + string(data), Remedy: "run `labk server` here, or remove the folder to make this PC an agent"}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// waitReady waits until this machine's node is Ready, as the node itself sees it in the API.
func waitReady(ctx context.Context, kubeconfig, name string) error {
	client, err := nodeClient(kubeconfig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector("metadata.name", name))
	_, err = watchtools.UntilWithSync(ctx, list, &v1.Node{}, nil, func(e watch.Event) (bool, error) {
		n, ok := e.Object.(*v1.Node)
		return ok && nodeutil.IsNodeReady(n), nil
	})
	return err
}
