// Package network connects pods: it gets this node's subnet from its Node object, lets flannel's library carry packets between
// nodes, and only then tells the container runtime how to plug pods in.
package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw" // registers host-gw
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"  // registers vxlan
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/trafficmngr"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/paths"
)

// resyncSeconds is how often the iptables rules are looked after; nftables' are in a table of their own and need none.
const resyncSeconds = 60

// Options of the pod network.
type Options struct {
	Config *config.Config
	// Kubeconfig is the node's.
	Kubeconfig string
	Node       NodeAddress
	// Mode is nftables or iptables.
	Mode string
	// CNIConf is the folder that the container runtime reads.
	CNIConf string
	// StopPods stops the running pods whose addresses are stale, to be started anew.
	StopPods func(ctx context.Context, stale func(net.IP) bool) (int, error)
}

type podNetwork struct {
	opts  Options
	ready chan struct{}
	tasks sync.WaitGroup
}

// New returns the pod network; it is ready when pods can be plugged in. With the back end none, somebody else plugs them in, and it does nothing.
func New(o Options) lifecycle.Component {
	n := &podNetwork{opts: o, ready: make(chan struct{})}
	return lifecycle.NewTask("network", n.run, func(ctx context.Context) error {
		select {
		case <-n.ready:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func (n *podNetwork) run(ctx context.Context) error {
	if n.opts.Config.FlannelBackend == "none" {
		close(n.ready)
		<-ctx.Done()
		return nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", n.opts.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	conf, err := n.flannelConfig()
	if err != nil {
		return err
	}
	leases := newLeases(client, n.opts.Config.NodeName, conf)
	n.tasks.Go(func() { leases.run(ctx) })
	defer n.tasks.Wait()

	iface := &backend.ExternalInterface{Iface: n.opts.Node.Interface, IfaceAddr: n.opts.Node.IP, ExtAddr: n.opts.Node.IP}
	be, err := backend.NewManager(ctx, leases, iface).GetBackend(n.opts.Config.FlannelBackend)
	if err != nil {
		return fmt.Errorf("make the %s network: %w", n.opts.Config.FlannelBackend, err)
	}
	bn, err := be.RegisterNetwork(ctx, &n.tasks, conf)
	if err != nil {
		return fmt.Errorf("join the %s network: %w", n.opts.Config.FlannelBackend, err)
	}
	if err := n.addRules(ctx, conf, bn); err != nil {
		return err
	}
	if err := ensureServiceRoute(n.opts.Config.ServiceCIDR, n.opts.Node); err != nil {
		return err
	}
	if err := n.writeCNI(bn); err != nil {
		return err
	}
	if err := n.renumber(ctx, bn); err != nil {
		return err
	}
	close(n.ready)
	bn.Run(ctx)
	return ctx.Err()
}

// renumber stops pods with addresses of a subnet that is not this node's any more, as after the Node was deleted and made anew: nobody would find
// the way to them.
func (n *podNetwork) renumber(ctx context.Context, bn backend.Network) error {
	subnet := bn.Lease().Subnet.ToIPNet()
	stopped, err := n.opts.StopPods(ctx, func(address net.IP) bool { return !subnet.Contains(address) })
	if stopped > 0 {
		klog.FromContext(ctx).Info("Pods had addresses of another subnet and start anew", "pods", stopped, "subnet", subnet)
	}
	return err
}

func (n *podNetwork) flannelConfig() (*subnet.Config, error) {
	_, cidr, err := net.ParseCIDR(n.opts.Config.ClusterCIDR)
	if err != nil {
		return nil, fmt.Errorf("read cluster-cidr: %w", err)
	}
	be := map[string]any{"Type": n.opts.Config.FlannelBackend}
	if n.opts.Config.FlannelBackend == "vxlan" {
		be["Port"] = 8472
	}
	raw, err := json.Marshal(be)
	if err != nil {
		return nil, err
	}
	return &subnet.Config{
		EnableIPv4:     true,
		EnableNFTables: n.opts.Mode == "nftables",
		Network:        ip.FromIPNet(cidr),
		BackendType:    n.opts.Config.FlannelBackend,
		Backend:        raw,
	}, nil
}

// addRules lets pods' packets through the host and gives them the host's address when they leave the cluster.
func (n *podNetwork) addRules(ctx context.Context, conf *subnet.Config, bn backend.Network) error {
	var rules trafficmngr.TrafficManager = &iptables.IPTablesManager{}
	if conf.EnableNFTables {
		rules = &nftables.NFTablesManager{}
	}
	if err := rules.Init(ctx); err != nil {
		return fmt.Errorf("prepare the pod network's %s rules: %w", n.opts.Mode, err)
	}
	// The rules are in a chain that is emptied first, so what was there before does not matter.
	lease := bn.Lease()
	err := rules.SetupAndEnsureMasqRules(ctx, conf.Network, lease.Subnet, conf.Network, ip.IP6Net{}, ip.IP6Net{}, ip.IP6Net{}, lease, resyncSeconds, false)
	if err != nil {
		return fmt.Errorf("add the pod network's %s rules: %w", n.opts.Mode, err)
	}
	rules.SetupAndEnsureForwardRules(ctx, conf.Network, ip.IP6Net{}, resyncSeconds)
	return nil
}

// writeCNI writes the network list. ptp gives every pod a link of its own to the host: no bridge, whose packets would bypass
// the host's service rules, and no hairpin mode. Addresses in use are noted on tmpfs, as no pod survives a reboot.
func (n *podNetwork) writeCNI(bn backend.Network) error {
	list := map[string]any{
		"cniVersion": "1.0.0",
		"name":       "labk",
		"plugins": []any{
			map[string]any{
				"type": "ptp", "mtu": bn.MTU(),
				"ipam": map[string]any{
					"type": "host-local", "dataDir": filepath.Join(paths.RunDir, "cni"),
					"ranges": [][]any{{map[string]string{"subnet": bn.Lease().Subnet.String()}}},
					"routes": []any{map[string]string{"dst": "0.0.0.0/0"}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "backend": n.opts.Mode},
		},
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.opts.CNIConf, 0o755); err != nil {
		return fmt.Errorf("write the CNI network list: %w", err)
	}
	return paths.WriteFile(filepath.Join(n.opts.CNIConf, "10-labk.conflist"), append(data, '\n'), 0o600)
}
