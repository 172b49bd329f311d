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
	"github.com/labk/labk/pkg/join"
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
	// Known tells that the cluster's options are known before "join" is ready: containerd need not wait for it then.
	Known bool
	// Live is given what the probes of a running labk can ask of the node.
	Live *health.Live
}

// How soon a connection to the server counts as dead that nothing comes through, in seconds: client-go reads both from the environment, and would take
// 30 and 15. A server that came back with another address is found so much earlier.
var connectionLimits = [...][2]string{{"HTTP2_READ_IDLE_TIMEOUT_SECONDS", "10"}, {"HTTP2_PING_TIMEOUT_SECONDS", "5"}}

// Add puts the node's components into the group, which has a component "join" that leaves the node's credentials (join.NodeFiles). A mistake in the
// configuration is a *config.Error; nothing has been changed then. It returns the kubelet, which can tell whether it is alive.
func Add(ctx context.Context, g *lifecycle.Group, o Options) (*kubelet.Kubelet, error) {
	mode, err := o.Host.FirewallMode(ctx)
	if err != nil {
		return nil, err
	}
	systemd, err := systemdCgroups(o.Host)
	if err != nil {
		return nil, err
	}
	hasResource, err := o.Host.HasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil {
		return nil, err
	}
	pause, err := o.Payload.ImageRef("pause")
	if err != nil {
		return nil, err
	}
	for _, limit := range connectionLimits {
		if os.Getenv(limit[0]) == "" {
			os.Setenv(limit[0], limit[1])
		}
	}
	files := join.NodeFiles(o.Data)
	resolv := network.ResolvConf{Nameservers: o.Host.Nameservers, Own: o.Data.ResolvConf()}
	node, err := kubelet.New(kubelet.Options{
		Config: o.Config, Data: o.Data, NodeIP: o.Address.IP,
		Kubeconfig: files.Kubeconfig, Certificates: files.Dir, ServerCA: files.ServerCA, ClientCA: files.ClientCA,
		ResolvConf: resolv.Path(), SystemdCgroup: systemd,
	})
	if err != nil {
		return nil, err
	}
	proxy, err := kubeproxy.New(kubeproxy.Options{Config: o.Config, Kubeconfig: files.Kubeconfig, Mode: mode})
	if err != nil {
		return nil, err
	}

	g.Add(lifecycle.NewStep("payload", func(ctx context.Context) error { return unpack(ctx, o) }))
	g.Add(lifecycle.NewStep("resolv.conf", func(context.Context) error { return resolv.Write(o.Address.IP) }))
	// Whatever the server does: without containerd nobody reads what pods print, and they come to a halt.
	runtimeAfter := []string{"payload"}
	if !o.Known {
		runtimeAfter = append(runtimeAfter, "join")
	}
	runtime := containerd.New(containerd.Options{
		Data: o.Data, Config: o.Config, PauseImage: pause, SystemdCgroup: systemd, RestrictOOMScoreAdj: !hasResource,
	})
	g.Add(runtime, runtimeAfter...)
	g.Add(lifecycle.NewStep("images", func(ctx context.Context) error { return importImages(ctx, o.Payload) }), "containerd")
	g.Add(node, "containerd", "resolv.conf", "join")
	g.Add(network.New(network.Options{
		Config: o.Config, Kubeconfig: files.Kubeconfig, Node: o.Address, Mode: mode, CNIConf: o.Data.CNIConf(), StopPods: runtime.StopSandboxes,
	}), "containerd", "join")
	g.Add(proxy, "kubelet", "join")
	g.Add(policy.New(policy.Options{Config: o.Config, Kubeconfig: files.Kubeconfig, Mode: mode, CNIResults: paths.CNIResults}), "join")
	g.Add(network.NewAddressWatch(o.Config, o.Address))
	g.Add(lifecycle.NewStep("node", func(ctx context.Context) error { return waitReady(ctx, files.Kubeconfig, o.Config.NodeName) }), "kubelet")
	watchNode(g, o.Live, o.Address, node)
	return node, nil
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
