package policy

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/labk/labk/pkg/lab"
)

// A flow is written "FROM > TO:PROTOCOL/PORT". FROM and TO are pods, or node and outside. TO may also be
//
//	service   the server's Service, by its cluster address
//	nodeport  the same, by the node's address
//	dns       a name is asked for, from the cluster's DNS
//	api       the API, by its cluster address: it is on the node itself

// always are the flows that no policy may close: from the node to its pods, between pods without a policy, and of a pod to itself.
var always = []string{
	"node > server:tcp/8080", "node > service", "server > service", "server > nodeport",
	"friend > visitor:tcp/8080", "guest > stranger:tcp/9000", "friend > dns", "friend > api",
}

// flows are all that are tried.
func (w *world) flows() []string {
	out := append([]string{"outside > nodeport", "server > outside:tcp/9000", "server > dns", "server > api"}, always...)
	for _, pod := range []string{"friend", "stranger", "visitor", "guest"} {
		for _, port := range []string{"tcp/8080", "tcp/9000", "tcp/9005", "udp/5353"} {
			out = append(out, fmt.Sprintf("%s > server:%s", pod, port))
		}
		out = append(out, pod+" > service")
		for _, port := range []string{"tcp/8080", "tcp/9000", "udp/5353"} {
			out = append(out, fmt.Sprintf("server > %s:%s", pod, port))
		}
	}
	return out
}

type flow struct {
	from             *lab.Net
	network, address string
	lookup           bool
}

func (w *world) parse(text string) (flow, error) {
	from, to, ok := strings.Cut(text, " > ")
	if !ok {
		return flow{}, fmt.Errorf("no flow: %q", text)
	}
	f := flow{network: "tcp"}
	switch from {
	case "node":
		f.from = w.Host.Net()
	case "outside":
		f.from = w.Lab.Net()
	default:
		f.from = w.pods[from].net
	}
	switch to {
	case "service":
		f.address = w.service + ":80"
	case "nodeport":
		f.address = w.nodePort
	case "dns":
		f.address, f.lookup = "10.43.0.10:53", true
	case "api":
		f.address = "10.43.0.1:443"
	default:
		name, rest, _ := strings.Cut(to, ":")
		network, port, _ := strings.Cut(rest, "/")
		address := w.outside.String()
		if name != "outside" {
			address = w.pods[name].Status.PodIP
		}
		f.network, f.address = network, net.JoinHostPort(address, port)
	}
	return f, nil
}

// serve listens in a network namespace until the end of the test: it accepts connections, and sends every datagram back.
func serve(t *testing.T, n *lab.Net, tcp, udp []int) {
	t.Helper()
	for _, port := range tcp {
		l, err := n.Listen(t.Context(), "tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					conn.Close()
				}
			}
		}()
	}
	for _, port := range udp {
		p, err := n.ListenPacket(t.Context(), "udp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				size, from, err := p.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = p.WriteTo(buf[:size], from)
				}
			}
		}()
	}
}
