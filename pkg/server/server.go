// Package server assembles a server: the control plane and, unless told otherwise, a node. Read Run from top to bottom: it says what runs,
// in which order, and what feeds what.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/agent"
	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/controlplane"
	"github.com/labk/labk/pkg/datastore"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/lockfile"
	"github.com/labk/labk/pkg/network"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/payload"
	"github.com/labk/labk/pkg/systemd"
)

// StopTimeout is how long a stop may take.
const StopTimeout = 4 * time.Second

// Options of a server.
type Options struct {
	Config *config.Config
	// Host is this machine.
	Host health.Host
	// Observe is told what starts, is ready, fails and stops.
	Observe func(lifecycle.Event)
	// Up is called once everything is ready, with the address of this machine's node.
	Up func(node net.IP)
	// Systemd is told too.
	Systemd *systemd.Notifier
	// Fatal yields an error when a component wanted to end the process.
	Fatal <-chan error
}

// Run runs a server until ctx ends, then stops it; pods go on. A mistake in the configuration is a *config.Error, a fault of the machine a
// *health.Error, a data folder in use a *lockfile.LockedError; nothing on the disk has been changed then.
func Run(ctx context.Context, o Options) error {
	if err := o.Config.Validate(); err != nil {
		return err
	}
	if err := health.Err(health.Run(ctx, o.Host, health.Probes())); err != nil {
		return err
	}
	saveTime()
	g := &lifecycle.Group{Observe: o.Observe}
	s, err := assemble(ctx, g, o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Config.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	lock, err := lockfile.AcquireLock(s.data.Lock())
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := paths.MakeRunDir(); err != nil {
		return fmt.Errorf("make the run folder: %w", err)
	}
	if err := start(ctx, g, o.Fatal); err != nil {
		if ctx.Err() != nil { // asked to stop while starting
			err = nil
		}
		return errors.Join(err, stop(g))
	}
	o.Systemd.Ready("up")
	if o.Up != nil {
		o.Up(s.id.node)
	}
	var background sync.WaitGroup
	running, cancel := context.WithCancel(ctx)
	defer background.Wait()
	defer cancel()
	background.Go(func() { saveSpace(running) })
	background.Go(func() { o.Systemd.Watch(running, s.alive) })

	select {
	case <-ctx.Done():
		err = nil
	case err = <-g.Failed():
	case err = <-o.Fatal:
	}
	o.Systemd.Stopping()
	return errors.Join(err, stop(g))
}

// start starts the group; a component that gives up ends it.
func start(ctx context.Context, g *lifecycle.Group, fatal <-chan error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-fatal:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	err := g.Start(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

func stop(g *lifecycle.Group) error {
	ctx, cancel := context.WithTimeout(context.Background(), StopTimeout)
	defer cancel()
	return g.Stop(ctx)
}

// server is what the steps below share.
type server struct {
	cfg     *config.Config
	data    paths.Data
	id      *identity
	payload *payload.Bundle
}

// assemble puts everything into the group. It changes nothing.
func assemble(ctx context.Context, g *lifecycle.Group, o Options) (*server, error) {
	cfg, data := o.Config, paths.Data(o.Config.DataDir)
	bundle, err := payload.Open()
	if err != nil {
		return nil, err
	}
	if err := bundle.Verify(data.Payload()); err != nil {
		return nil, err
	}
	address, err := network.FindNodeAddress(cfg)
	if err != nil {
		return nil, err
	}
	advertise := address.IP
	if cfg.AdvertiseAddress != "" {
		advertise = net.ParseIP(cfg.AdvertiseAddress)
	}
	s := &server{cfg: cfg, data: data, id: newIdentity(cfg, data, address.IP), payload: bundle}

	controlplane.Prepare()
	store := datastore.New(datastore.Options{Socket: paths.KineSocket, Database: data.Database(), Endpoint: cfg.DatastoreEndpoint})
	options := controlplane.Options{Config: cfg, Data: data, Credentials: s.id.credentials, Datastore: store.Endpoint(), Advertise: advertise}
	api, err := controlplane.NewAPIServer(options)
	if err != nil {
		return nil, err
	}
	controllers, err := controlplane.NewControllerManager(options)
	if err != nil {
		return nil, err
	}
	scheduler, err := controlplane.NewScheduler(options)
	if err != nil {
		return nil, err
	}

	g.Add(lifecycle.NewStep("certificates", func(context.Context) error { return s.id.ensure() }))
	g.Add(store, "certificates")
	g.Add(api, "certificates", "datastore")
	g.Add(lifecycle.NewStep("rights", s.grantRights), "kube-apiserver")
	g.Add(lifecycle.NewStep("readyz", func(ctx context.Context) error {
		return controlplane.WaitReady(ctx, s.id.credentials.System)
	}), "rights")
	g.Add(controllers, "readyz") // they ask for health once a second, and give up after ten
	g.Add(scheduler, "rights")
	if !cfg.DisableAgent {
		err = agent.Add(ctx, g, agent.Options{
			Config: cfg, Data: data, Host: o.Host, Payload: bundle, Address: address,
			Kubeconfig: s.id.kubelet, Serving: s.id.kubeletServing, ServerCA: s.id.credentials.ServerCA.Cert, ClientCA: s.id.credentials.ClientCA.Cert,
			APIReady: "kube-apiserver", RightsReady: "rights",
		})
		if err != nil {
			return nil, err
		}
		g.Add(lifecycle.NewStep("node", s.waitNode), "kubelet")
	}
	g.Add(lifecycle.NewStep("components", s.applyComponents), "rights")
	return s, nil
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

// alive tells whether the API server answers, for systemd's watchdog.
func (s *server) alive(ctx context.Context) bool {
	_, client, err := s.clients()
	if err != nil {
		return false
	}
	return client.Discovery().RESTClient().Get().AbsPath("/livez").Do(ctx).Error() == nil
}
