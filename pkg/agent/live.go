package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	containerdclient "github.com/containerd/containerd/v2/client"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/kubelet"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/network"
	"github.com/labk/labk/pkg/paths"
)

// watchNode lets the probes of a running labk ask the node's parts.
func watchNode(g *lifecycle.Group, live *health.Live, address network.NodeAddress, node *kubelet.Kubelet) {
	live.Address, _ = netip.AddrFromSlice(address.IP)
	live.Kubelet = WhenReady(g, "kubelet", func(ctx context.Context) error {
		if !node.Alive(ctx) {
			return errors.New("no answer on port 10250")
		}
		return nil
	})
	live.Runtime = WhenReady(g, "containerd", func(ctx context.Context) error {
		client, err := containerdclient.New(paths.ContainerdSocket)
		if err != nil {
			return err
		}
		defer client.Close()
		_, err = client.Version(ctx)
		return err
	})
}

// WhenReady makes a function of health.Live that asks a component only when that is ready.
func WhenReady(g *lifecycle.Group, name string, ask func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, m := range g.Members() {
			if m.Name == name && m.State != lifecycle.Ready {
				return health.ErrStarting
			}
		}
		return ask(ctx)
	}
}

// nodeConfig is that of the node's own client.
func nodeConfig(kubeconfig string) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this PC has not joined yet")
	}
	return cfg, err
}

func nodeClient(kubeconfig string) (kubernetes.Interface, error) {
	cfg, err := nodeConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// askServer asks for what everybody may know, and returns the time of the server's answer. Its connection is the one that all clients of the node's
// kubeconfig share.
func askServer(ctx context.Context, kubeconfig string, server *url.URL) (time.Time, error) {
	cfg, err := nodeConfig(kubeconfig)
	if err != nil {
		return time.Time{}, health.ErrStarting // join tells what keeps it
	}
	response, err := askVersion(ctx, cfg, server)
	if err != nil {
		return time.Time{}, err
	}
	if response.StatusCode != http.StatusOK {
		return time.Time{}, fmt.Errorf("%s says %s", server, response.Status)
	}
	return http.ParseTime(response.Header.Get("Date"))
}

// reachServer tells whether the server answers, be it that it does not accept the node's certificate any more.
func reachServer(ctx context.Context, kubeconfig string, server *url.URL) error {
	cfg, err := nodeConfig(kubeconfig)
	if err != nil {
		return err
	}
	_, err = askVersion(ctx, cfg, server)
	return err
}

// askVersion asks for the server's version. Of the answer it returns all but the text.
func askVersion(ctx context.Context, cfg *rest.Config, server *url.URL) (*http.Response, error) {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.JoinPath("/version").String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	return response, response.Body.Close()
}
