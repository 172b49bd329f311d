package network

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

// serveAddresses runs a web server in a network of the lab that answers with the address of who asked, and returns its port.
func serveAddresses(t *testing.T, n *lab.Net, address string) (port string) {
	t.Helper()
	listener, err := n.Listen(t.Context(), "tcp4", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, host)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	_, port, err = net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// seenAs waits until the client pod reaches a server of serveAddresses and is seen there with the wanted address.
func (w *world) seenAs(t *testing.T, address, port, want string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "a pod reaches "+address, func() error {
		from, err := w.wget(t, w.client.Name, "http://"+net.JoinHostPort(address, port)+"/")
		if err == nil && from != want {
			err = fmt.Errorf("it is seen as %q, want %s", from, want)
		}
		return err
	})
}

func testPodToNode(t *testing.T, w *world) {
	address := w.Host.Addr().String()
	w.seenAs(t, address, serveAddresses(t, w.Host.Net(), address), w.client.Status.PodIP)
}

// Between pods nothing translates addresses, directly or through a Service.
func testPodToPod(t *testing.T, w *world) {
	s := w.service(t, "sees-clients", "hello", nil)
	for _, address := range []string{w.hellos[0].Status.PodIP + ":8080", s.Spec.ClusterIP} {
		cluster.Eventually(t, cluster.Limit, "a pod reaches "+address, func() error {
			_, from, err := w.fromPod(t, w.client.Name)(t.Context(), "http://"+address+"/")
			if err == nil && from != w.client.Status.PodIP {
				err = fmt.Errorf("%s is seen as %s", w.client.Status.PodIP, from)
			}
			return err
		})
	}
}

// Outside, nobody knows pods' addresses: a pod has the node's there.
func testPodToOutside(t *testing.T, w *world) {
	gateway := w.Lab.Gateway().String()
	w.seenAs(t, gateway, serveAddresses(t, w.Lab.Net(), gateway), w.Host.Addr().String())
}
