// Package controlplane runs kube-apiserver, kube-controller-manager and kube-scheduler in this process: upstream's options, filled
// from labk's configuration, completed, validated and run. Each may be made once per process: feature gates, metrics and
// configz are one per process upstream.
package controlplane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
)

// Credentials are the files that the control plane proves itself and checks others with.
type Credentials struct {
	// ServerCA and ClientCA sign.
	ServerCA, ClientCA paths.Pair
	// TrustedServers, TrustedClients and TrustedProxies are files of the authorities that are trusted: more than one while they are being changed.
	TrustedServers, TrustedClients, TrustedProxies string
	// Serving is the API's certificate, Kubelet the API server's as a client of kubelets, Proxy as a client of
	// aggregated API servers.
	Serving, Kubelet, Proxy paths.Pair
	// ServiceAccount is the key pair that signs and checks service-account tokens.
	ServiceAccount paths.Pair
	// ControllerManager and Scheduler are their kubeconfigs, System that of labk itself, which may do everything.
	ControllerManager, Scheduler, System string
}

// Options of the control plane.
type Options struct {
	Config *config.Config
	Data   paths.Data
	Credentials
	// Datastore are the URLs of the etcd endpoint, DatastoreTLS the files to connect with.
	Datastore    []string
	DatastoreTLS transport.TLSInfo
	// DatastoreDial connects to them; nil for the ordinary way.
	DatastoreDial func(ctx context.Context, network, address string) (net.Conn, error)
	// Advertise is the address at which nodes and pods reach the API.
	Advertise net.IP
	// Open answers paths that begin with OpenPrefix, for everybody and however long it takes: outside of the API's authentication and time limits. Nil for none; it is made
	// with a context that ends when the API server is to stop.
	OpenPrefix string
	Open       func(context.Context) http.Handler
}

// Prepare sets what upstream has once per process. Call it before anything else of Kubernetes starts.
func Prepare() {
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
}

// URL of the API as this machine's own components reach it.
func URL(c *config.Config) string {
	host := "127.0.0.1"
	if ip := net.ParseIP(c.BindAddress); ip != nil && !ip.IsUnspecified() {
		host = ip.String()
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(c.HTTPSListenPort))
}

// WaitReady polls the API server's /readyz until it says ok, as the kubeconfig's user: before there are roles, an anonymous one may not even ask.
// exclude names checks that do not count. 20 ms is far below anything a person or the figures notice and costs little while the
// process is busy starting.
func WaitReady(ctx context.Context, kubeconfig string, exclude ...string) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	cfg.QPS, cfg.Timeout = -1, 5*time.Second
	client, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return err
	}
	return wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		request := client.RESTClient().Get().AbsPath("/readyz")
		for _, check := range exclude {
			request.Param("exclude", check)
		}
		return request.Do(ctx).Error() == nil, nil
	})
}

// flagSet joins a component's named flag sets into one, for the user's extra arguments.
func flagSet(sets cliflag.NamedFlagSets) *pflag.FlagSet {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, fs := range sets.FlagSets {
		all.AddFlagSet(fs)
	}
	return all
}

// joinErrors makes one error of what a component's Validate returned.
func joinErrors(component string, errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("configure %s: %w", component, errs[0])
}
