// Package containerd runs containerd in this process. The shims, and with them the pods, are processes of their own and outlive it.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins" // registers the plugins
	"github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/version"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
)

// Options of a Runtime.
type Options struct {
	Data paths.Data
	// Config says whose CNI network lists count; read when containerd starts.
	Config *config.Config
	// PauseImage is the reference of the sandbox image, which must have been imported before the first pod.
	PauseImage string
	// SystemdCgroup makes runc create cgroups through systemd.
	SystemdCgroup bool
	// RestrictOOMScoreAdj: without CAP_SYS_RESOURCE the kernel refuses a lower score than our own.
	RestrictOOMScoreAdj bool
}

// Runtime is containerd; it implements lifecycle.Component.
type Runtime struct {
	opts   Options
	server *server.Server
	cancel context.CancelFunc
}

// New returns a containerd that is not yet running.
func New(opts Options) *Runtime { return &Runtime{opts: opts} }

// Name implements lifecycle.Component.
func (r *Runtime) Name() string { return "containerd" }

// Start implements lifecycle.Component: when it returns, the socket answers.
func (r *Runtime) Start(ctx context.Context) error {
	for _, dir := range []string{r.opts.Data.Containerd(), r.cniConf()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make containerd's folder: %w", err)
		}
	}
	cfg := r.config()
	if err := server.CreateTopLevelDirectories(cfg); err != nil {
		return fmt.Errorf("make containerd's folders: %w", err)
	}
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s, err := server.New(ctx, cfg)
	if err != nil {
		return fmt.Errorf("load containerd's plugins: %w", err)
	}
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("serve containerd: %w", err)
	}
	r.server = s
	return nil
}

// Ready implements lifecycle.Component: it waits until the CRI service has recovered the pods that are there.
func (r *Runtime) Ready(ctx context.Context) error {
	done := make(chan struct{})
	go func() { r.server.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop implements lifecycle.Component. Pods go on.
func (r *Runtime) Stop(ctx context.Context) error {
	defer r.cancel()
	done := make(chan struct{})
	go func() { r.server.Stop(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("its connections did not end in time")
	}
}

// cniConf is labk's own folder, or without labk's network the one where everybody else's plugins write.
func (r *Runtime) cniConf() string {
	if r.opts.Config.FlannelBackend == "none" {
		return "/etc/cni/net.d"
	}
	return r.opts.Data.CNIConf()
}

func (r *Runtime) config() *srvconfig.Config {
	bin := r.opts.Data.PayloadBin()
	runc := map[string]any{
		"runtime_type": "io.containerd.runc.v2",
		// Absolute and without the payload's hash: a shim keeps these for as long as its pod lives, over upgrades.
		"runtime_path": filepath.Join(bin, "containerd-shim-runc-v2"),
		"options":      map[string]any{"BinaryName": filepath.Join(bin, "runc"), "SystemdCgroup": r.opts.SystemdCgroup},
	}
	return &srvconfig.Config{
		Version: version.ConfigVersion,
		Root:    r.opts.Data.Containerd(),
		State:   paths.ContainerdState,
		// Snapshotters and extras that nobody here uses, each with a cost at start.
		DisabledPlugins: []string{
			"io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.native",
			"io.containerd.differ.v1.erofs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
			"io.containerd.image-verifier.v1.bindir", "io.containerd.nri.v1.nri",
		},
		Plugins: map[string]any{
			"io.containerd.server.v1.grpc":  map[string]any{"address": paths.ContainerdSocket},
			"io.containerd.server.v1.ttrpc": map[string]any{"address": paths.ContainerdSocket + ".ttrpc"},
			"io.containerd.internal.v1.opt": map[string]any{"path": filepath.Join(r.opts.Data.Containerd(), "opt")}, // not in /opt, which is others'
			"io.containerd.cri.v1.runtime": map[string]any{
				"restrict_oom_score_adj":    r.opts.RestrictOOMScoreAdj,
				"enable_unprivileged_ports": true,
				"enable_unprivileged_icmp":  true,
				"stats_collect_period":      "10s", // as often as the kubelet asks
				"cni": map[string]any{
					"bin_dirs":              []string{bin, "/opt/cni/bin"},
					"conf_dir":              r.cniConf(),
					"use_internal_loopback": true, // saves running a plugin per pod
				},
				"containerd": map[string]any{"default_runtime_name": "runc", "runtimes": map[string]any{"runc": runc}},
			},
			"io.containerd.cri.v1.images": map[string]any{
				"pinned_images": map[string]any{"sandbox": r.opts.PauseImage},
				// one folder: of containerd's own default of two, its puller makes one name that does not exist
				"registry": map[string]any{"config_path": paths.RegistryHosts},
			},
		},
	}
}
