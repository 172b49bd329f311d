// Package server assembles a server: the control plane and, unless told otherwise, a node. Read Run from top to bottom: it says what runs,
// in which order, and what feeds what.
package server

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/labk/labk"
	"github.com/labk/labk/pkg/agent"
	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/controlplane"
	"github.com/labk/labk/pkg/datastore"
	"github.com/labk/labk/pkg/datastore/snapshot"
	"github.com/labk/labk/pkg/handout"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/join/registrar"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/network"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/payload"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/status"
	"github.com/labk/labk/pkg/version"
)

// Run runs a server until ctx ends, then stops it; pods go on. A mistake in the configuration is a *config.Error, a fault of the machine a
// *health.Error, a data folder in use a *lockfile.LockedError; nothing on the disk has been changed then. A *process.RestartError asks for a fresh start.
func Run(ctx context.Context, o process.Options) error {
	if err := o.Config.Validate(); err != nil {
		return err
	}
	if err := o.Config.ValidateDatastoreFiles(); err != nil {
		return err
	}
	found := health.Run(ctx, o.Host, health.Probes())
	if err := health.Err(found); err != nil {
		return err
	}
	s := &server{cfg: o.Config, data: paths.Data(o.Config.DataDir), say: o.Say, restart: make(chan string, 1)}
	return process.Run(ctx, o, process.Program{
		Data: s.data,
		Assemble: func(ctx context.Context, g *lifecycle.Group, control *http.ServeMux) error {
			return s.assemble(ctx, g, control, o, found)
		},
		Node:  func() net.IP { return s.id.node },
		Alive: func(ctx context.Context) bool { return s.ping(ctx) == nil },
	})
}

// server is what the steps below share.
type server struct {
	cfg     *config.Config
	data    paths.Data
	id      *identity
	payload *payload.Bundle
	store   *datastore.Store
	say     func(format string, args ...any)
	// restart takes the reason for a fresh start.
	restart chan string
}

// assemble puts everything into the group, and what commands may ask for into control. It changes nothing.
func (s *server) assemble(ctx context.Context, g *lifecycle.Group, control *http.ServeMux, o process.Options, found []health.Result) error {
	cfg := s.cfg
	var err error
	if s.payload, err = payload.Open(); err != nil {
		return err
	}
	if err := s.payload.Verify(s.data.Payload()); err != nil {
		return err
	}
	address, err := network.FindNodeAddress(cfg)
	if err != nil {
		return err
	}
	if s.id, err = newIdentity(cfg, s.data, address.IP); err != nil {
		return err
	}
	machine, err := join.ThisMachine("/")
	if err != nil {
		return err
	}
	s.certificateRoutes(control)
	controllers, snapshots, err := s.addControlPlane(g, address.IP)
	if err != nil {
		return err
	}
	s.snapshotRoutes(control, g, snapshots)
	g.Add(registrar.New(registrar.Options{
		Config: cfg, Client: s.client, Token: func() join.Token { return s.id.token },
		Machines: func() registrar.Signer { return s.id.clientCA },
		ClientCA: s.id.credentials.ClientCA, ServerCA: s.id.credentials.ServerCA, SigningDuration: controllers.SigningDuration,
		TrustedClients: s.id.credentials.TrustedClients, TrustedServers: s.id.credentials.TrustedServers,
		Self: machine, Names: s.id.apiNames(), Addresses: s.id.apiAddresses(), Version: version.Version, Say: s.say,
		Replaced: s.replaced,
	}), "kube-apiserver") // it has all rights itself
	live := &health.Live{
		API:       agent.WhenReady(g, "kube-apiserver", s.ping),
		Datastore: s.store.Ping, Room: agent.WhenReady(g, "datastore", s.store.Room), Writes: agent.WhenReady(g, "datastore", s.store.Writes),
		Snapshots: snapshots.live,
	}
	beforeControllers := []string{"readyz"} // they ask for health once a second, and give up after ten
	if !cfg.DisableAgent {
		if err := s.addNode(ctx, g, o.Host, address, machine, live); err != nil {
			return err
		}
		// Upstream's CSI plugin is one in a process. It must have written the kubelet's CSINode before the attach-detach controller, which is of no node, begins with it anew.
		beforeControllers = append(beforeControllers, "kubelet")
	}
	g.Add(controllers, beforeControllers...)
	g.Add(lifecycle.NewStep("components", s.applyComponents), "rights")
	g.Add(lifecycle.NewStep("tokens", s.renewTokens), "rights")
	return status.Add(g, control, status.Options{Host: o.Host, Live: live, Found: found, Client: s.client, Snapshots: snapshots.status})
}

// addNode adds what makes this PC a node of its own cluster.
func (s *server) addNode(ctx context.Context, g *lifecycle.Group, host health.Host, address network.NodeAddress, machine join.Machine, live *health.Live) error {
	server, err := url.Parse(controlplane.URL(s.cfg))
	if err != nil {
		return err
	}
	g.Add(join.New(join.Options{
		Config: s.cfg, Data: s.data, Server: server, Token: func() (string, error) { return s.id.token.String(), nil }, Own: true,
		Machine: machine, Address: address.IP, Version: version.Version, Say: s.say,
	}), "registrar", "rights")
	g.Add(lifecycle.NewStep("own-node", func(context.Context) error { return snapshot.Settled(s.data) }), "join")
	node := agent.Options{Config: s.cfg, Data: s.data, Host: host, Payload: s.payload, Address: address, Known: true, Live: live}
	_, err = agent.Add(ctx, g, node)
	return err
}

// addControlPlane adds what a cluster has once, but the controllers.
func (s *server) addControlPlane(g *lifecycle.Group, node net.IP) (*controlplane.ControllerManager, *snapshots, error) {
	advertise := node
	if s.cfg.AdvertiseAddress != "" {
		advertise = net.ParseIP(s.cfg.AdvertiseAddress)
	}
	controlplane.Prepare()
	s.store = datastore.New(datastore.Options{Config: s.cfg, Data: s.data, Socket: paths.KineSocket, Log: slog.New(logr.ToSlogHandler(klog.Background())), Say: s.say})
	snapshots, err := s.newSnapshots(s.store)
	if err != nil {
		return nil, nil, err
	}
	options := controlplane.Options{Config: s.cfg, Data: s.data, Credentials: s.id.credentials, Datastore: s.store.Endpoints(), DatastoreTLS: s.store.TLS(), DatastoreDial: s.store.Dial(), Advertise: advertise,
		OpenPrefix: handout.Prefix, Open: snapshots.beside(func(ctx context.Context) http.Handler { return handout.New(ctx, labk.InstallScript) })}
	api, err := controlplane.NewAPIServer(options)
	if err != nil {
		return nil, nil, err
	}
	controllers, err := controlplane.NewControllerManager(options)
	if err != nil {
		return nil, nil, err
	}
	scheduler, err := controlplane.NewScheduler(options)
	if err != nil {
		return nil, nil, err
	}
	g.Add(lifecycle.NewStep("restore", s.applyRestore))
	g.Add(lifecycle.NewStep("certificates", func(context.Context) error { return s.id.ensure() }), "restore")
	g.Add(s.renewal(), "certificates")
	g.Add(&mended{s.store, s}, "certificates")
	g.Add(api, "certificates", "datastore")
	g.Add(lifecycle.NewStep("rights", s.grantRights), "kube-apiserver")
	g.Add(lifecycle.NewStep("readyz", func(ctx context.Context) error {
		return controlplane.WaitReady(ctx, s.id.credentials.System)
	}), "rights")
	g.Add(scheduler, "rights")
	g.Add(snapshots.keeper, "readyz")
	return controllers, snapshots, nil
}

// clients returns a client with labk's own rights, which are all. Call it when the certificates are there.
func (s *server) clients() (*rest.Config, kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", s.id.credentials.System)
	if err != nil {
		return nil, nil, err
	}
	cfg.QPS, cfg.Burst = 500, 1000
	client, err := kubernetes.NewForConfig(cfg)
	return cfg, client, err
}

// client is a client with all rights, without its configuration.
func (s *server) client() (kubernetes.Interface, error) {
	_, client, err := s.clients()
	return client, err
}

// ping asks the API server whether it is alive. One whose database elsewhere is away is: a fresh start would not help it.
func (s *server) ping(ctx context.Context) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	ask := client.Discovery().RESTClient().Get().AbsPath("/livez")
	if s.cfg.DatastoreEndpoint != "" {
		ask = ask.Param("exclude", "etcd")
	}
	return ask.Do(ctx).Error()
}
