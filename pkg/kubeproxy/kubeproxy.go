// Package kubeproxy runs kube-proxy in this process.
package kubeproxy

import (
	"context"

	"github.com/spf13/pflag"
	"k8s.io/kubernetes/cmd/kube-proxy/app"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
)

// Options of kube-proxy.
type Options struct {
	Config *config.Config
	// Kubeconfig is the node's.
	Kubeconfig string
	// Mode is nftables or iptables.
	Mode string
}

// New returns kube-proxy. A mistake in the user's extra arguments is a *config.Error. The cluster's options are read when it starts: an agent does
// not know them before.
func New(o Options) (lifecycle.Component, error) {
	if _, _, err := configure(o); err != nil {
		return nil, err
	}
	run := func(ctx context.Context) error {
		opts, fs, err := configure(o)
		if err != nil {
			return err
		}
		if err := opts.Complete(fs); err != nil {
			return err
		}
		if err := opts.Validate(); err != nil {
			return err
		}
		return untilDone(ctx, opts.Run)
	}
	return lifecycle.NewTask("kube-proxy", run, nil), nil
}

func configure(o Options) (*app.Options, *pflag.FlagSet, error) {
	opts := app.NewOptions()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	opts.AddFlags(fs)
	// Upstream keeps its typed configuration to itself: flags or a file, and beside a file the user's flags would not count.
	own := []string{
		"kubeconfig=" + o.Kubeconfig,
		"proxy-mode=" + o.Mode,
		"cluster-cidr=" + o.Config.ClusterCIDR,
		"hostname-override=" + o.Config.NodeName,
		// Machine-wide limits are the machine's owner's to set.
		"conntrack-max-per-core=0",
		"conntrack-tcp-timeout-established=0s",
		"conntrack-tcp-timeout-close-wait=0s",
	}
	err := config.ApplyArgs(fs, "kube-proxy-arg", append(own, o.Config.KubeProxyArgs...))
	return opts, fs, err
}

// untilDone runs run and returns when it has, or when ctx ends: upstream's loop ends only with an error, and has nothing to put away. The rules
// stay in the kernel, for the pods that go on.
func untilDone(ctx context.Context, run func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return nil
	}
}
