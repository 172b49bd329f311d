// Package agent assembles a node: payload, container runtime, kubelet, pod network, kube-proxy. A server's own node is the same.
package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	containerdclient "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/containerd"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/image"
	"github.com/labk/labk/pkg/kubelet"
	"github.com/labk/labk/pkg/kubeproxy"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/network"
	"github.com/labk/labk/pkg/network/policy"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/payload"
)

// Options of a node.
type Options struct {
	Config  *config.Config
	Data    paths.Data
	Host    health.Host
	Payload *payload.Bundle
	Address network.NodeAddress
	// Kubeconfig is the node's identity, Serving its certificate for 10250.
	Kubeconfig         string
	Serving            paths.Pair
	ServerCA, ClientCA string
	// APIReady and RightsReady name the components after which the API can be asked, and a node has its rights there.
	APIReady, RightsReady string
}

// Add puts the node's components into the group. A mistake in the configuration is a *config.Error; nothing has been changed then.
func Add(ctx context.Context, g *lifecycle.Group, o Options) error {
	mode, err := o.Host.FirewallMode(ctx)
	if err != nil {
		return err
	}
	systemd, err := systemdCgroups(o.Host)
	if err != nil {
		return err
	}
	hasResource, err := o.Host.HasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil {
		return err
	}
	pause, err := o.Payload.ImageRef("pause")
	if err != nil {
		return err
	}
	resolv := network.ResolvConf{Nameservers: o.Host.Nameservers, Own: o.Data.ResolvConf()}
	cniConf := o.Data.CNIConf()
	if o.Config.FlannelBackend == "none" {
		cniConf = "/etc/cni/net.d" // where everybody else's plugins write
	}
	node, err := kubelet.New(kubelet.Options{
		Config: o.Config, Data: o.Data, NodeIP: o.Address.IP,
		Kubeconfig: o.Kubeconfig, Serving: o.Serving, ServerCA: o.ServerCA, ClientCA: o.ClientCA,
		ClusterDNS: o.Config.DNS(), ResolvConf: resolv.Path(), SystemdCgroup: systemd,
	})
	if err != nil {
		return err
	}
	proxy, err := kubeproxy.New(kubeproxy.Options{Config: o.Config, Kubeconfig: o.Kubeconfig, Mode: mode})
	if err != nil {
		return err
	}

	g.Add(lifecycle.NewStep("payload", func(ctx context.Context) error { return unpack(ctx, o) }))
	g.Add(lifecycle.NewStep("resolv.conf", func(context.Context) error { return resolv.Write(o.Address.IP) }))
	g.Add(containerd.New(containerd.Options{
		Data: o.Data, CNIConf: cniConf, PauseImage: pause, SystemdCgroup: systemd, RestrictOOMScoreAdj: !hasResource,
	}), "payload")
	g.Add(lifecycle.NewStep("images", func(ctx context.Context) error { return importImages(ctx, o.Payload) }), "containerd")
	g.Add(node, "containerd", "resolv.conf", o.APIReady)
	if o.Config.FlannelBackend != "none" {
		g.Add(network.New(network.Options{Config: o.Config, Kubeconfig: o.Kubeconfig, Node: o.Address, Mode: mode, CNIConf: cniConf}), "payload", o.RightsReady)
	}
	g.Add(proxy, "kubelet", o.RightsReady)
	g.Add(policy.New(policy.Options{
		Kubeconfig: o.Kubeconfig, Node: o.Config.NodeName, Mode: mode, CNIResults: paths.CNIResults, Disabled: o.Config.DisableNetworkPolicy,
	}), o.RightsReady)
	return nil
}

// unpack puts the payload's programs on the disk and first in PATH, where the components look for the programs that they start.
func unpack(ctx context.Context, o Options) error {
	if _, err := o.Payload.Unpack(ctx, o.Data.Payload()); err != nil {
		return err
	}
	return os.Setenv("PATH", o.Data.PayloadBin()+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

func importImages(ctx context.Context, src image.Source) error {
	client, err := containerdclient.New(paths.ContainerdSocket)
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	defer client.Close()
	_, err = image.Ensure(ctx, client, src)
	return err
}

// systemdCgroups tells whether pods' cgroups are to be made by systemd: it must be the machine's init and own the tree, as it does with
// cgroup v2. Elsewhere runc makes them itself.
func systemdCgroups(h health.Host) (bool, error) {
	version, _, err := h.Cgroups()
	if err != nil {
		return false, err
	}
	_, err = os.Stat("/run/systemd/system")
	return err == nil && version == health.CgroupV2, nil
}
