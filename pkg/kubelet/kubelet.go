// Package kubelet runs the kubelet in this process: upstream's typed configuration, filled and run.
package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/wait"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/paths"
)

// Options of the kubelet.
type Options struct {
	Config *config.Config
	Data   paths.Data
	NodeIP net.IP
	// Kubeconfig is the node's; Certificates the folder of its client and serving certificates, which the kubelet rotates.
	Kubeconfig, Certificates string
	// ServerCA signed the serving certificate, ClientCA those of callers.
	ServerCA, ClientCA string
	// ResolvConf is what pods with the machine's own DNS get.
	ResolvConf string
	// SystemdCgroup must be what containerd was told.
	SystemdCgroup bool
}

// Kubelet is the kubelet of this node.
type Kubelet struct {
	*lifecycle.Task
	opts Options
}

// New returns the kubelet; it is ready when it answers on its own port. A mistake in the user's extra arguments is a *config.Error. The
// cluster's options are read when it starts: an agent does not know them before.
func New(o Options) (*Kubelet, error) {
	if _, err := configure(o); err != nil {
		return nil, err
	}
	run := func(ctx context.Context) error {
		s, err := configure(o)
		if err != nil {
			return err
		}
		deps, err := app.UnsecuredDependencies(ctx, s, utilfeature.DefaultFeatureGate)
		if err != nil {
			return err
		}
		return app.Run(ctx, s, deps, utilfeature.DefaultFeatureGate)
	}
	return &Kubelet{Task: lifecycle.NewTask("kubelet", run, func(ctx context.Context) error { return answers(ctx, o) }), opts: o}, nil
}

// Alive tells whether the kubelet answers before ctx ends.
func (k *Kubelet) Alive(ctx context.Context) bool { return answers(ctx, k.opts) == nil }

// configure fills upstream's configuration.
func configure(o Options) (*options.KubeletServer, error) {
	s, err := options.NewKubeletServer()
	if err != nil {
		return nil, err
	}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.KubeletFlags.AddFlags(fs)
	options.AddKubeletConfigFlags(fs, &s.KubeletConfiguration)
	set(s, o) // after the flags: some put their default into the struct
	for _, a := range []struct {
		option, flag string
		values       []string
	}{
		{"node-label", "node-labels=", o.Config.NodeLabels},
		{"node-taint", "register-with-taints=", o.Config.NodeTaints},
	} {
		if len(a.values) > 0 {
			if err := config.ApplyArgs(fs, a.option, []string{a.flag + strings.Join(a.values, ",")}); err != nil {
				return nil, err
			}
		}
	}
	if err := config.ApplyArgs(fs, "kubelet-arg", o.Config.KubeletArgs); err != nil {
		return nil, err
	}
	if err := options.ValidateKubeletServer(s); err != nil {
		return nil, &config.Error{Option: "kubelet-arg", Problem: err.Error(), Remedy: "correct the node's options"}
	}
	return s, nil
}

func set(s *options.KubeletServer, o Options) {
	s.HostnameOverride = o.Config.NodeName
	s.NodeIP = o.NodeIP.String()
	s.KubeConfig = o.Kubeconfig
	s.RootDirectory = o.Data.Kubelet()
	s.CertDirectory = o.Certificates

	c := &s.KubeletConfiguration
	c.ContainerRuntimeEndpoint = "unix://" + paths.ContainerdSocket
	c.CgroupDriver = "cgroupfs"
	if o.SystemdCgroup {
		c.CgroupDriver = "systemd"
	}
	// Old PCs with cgroup v1, and desktops with swap, are what labs have.
	c.FailCgroupV1 = false
	c.FailSwapOn = false
	c.Authentication.X509.ClientCAFile = o.ClientCA
	c.Authentication.Anonymous.Enabled = false
	c.Authentication.Webhook.Enabled = true
	c.Authorization.Mode = "Webhook"
	c.RotateCertificates, c.ServerTLSBootstrap = true, true
	c.TLSMinVersion = "VersionTLS12"
	c.ReadOnlyPort = 0
	c.ClusterDNS = []string{o.Config.DNS()}
	c.ClusterDomain = o.Config.ClusterDomain
	c.ResolverConfig = o.ResolvConf
	c.SerializeImagePulls = false
	c.VolumePluginDir = filepath.Join(o.Data.Kubelet(), "volume-plugins")
	c.EnableProfilingHandler = false
	// The kubelet's own cgroup is not known before it runs: systemd's unit or a shell's.
	c.EnforceNodeAllocatable = []string{"pods"}
}

// answers polls the kubelet's port until it speaks TLS with our certificate: it has then a runtime, an API and its managers.
func answers(ctx context.Context, o Options) error {
	pem, err := os.ReadFile(o.ServerCA)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New("no certificate in " + o.ServerCA)
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}
	defer client.CloseIdleConnections()
	url := "https://" + net.JoinHostPort(o.NodeIP.String(), "10250") + "/healthz"
	return wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return false, nil
		}
		resp.Body.Close()
		return true, nil // whatever it says: without a certificate of ours, it is 401
	})
}
