package cluster

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/labk/labk/pkg/lab"
)

// PodNet finds a pod's network namespace on the host where it runs: the one that has the pod's address.
func (c *Cluster) PodNet(t testing.TB, h *lab.Host, p *corev1.Pod) *lab.Net {
	t.Helper()
	addr, err := netip.ParseAddr(p.Status.PodIP)
	if err != nil {
		t.Fatalf("pod %s has no address: %v", p.Name, err)
	}
	n, err := h.NetOf(addr)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// MTU is that of eth0 inside a network, in bytes.
func MTU(t testing.TB, n *lab.Net) (mtu int) {
	t.Helper()
	err := n.Do(func() error {
		card, err := net.InterfaceByName("eth0")
		if err == nil {
			mtu = card.MTU
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mtu
}

// HTTPGet gets a URL from inside a network, over a connection of its own. The URL has an address, no name.
func HTTPGet(ctx context.Context, n *lab.Net, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return httpClient(n).Do(request)
}
