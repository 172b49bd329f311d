package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/lab"
)

// backend is a way of packets between nodes: its rows, and the shell script that builds it between two hosts without labk. The script's arguments are
// the host's number, the other's, and the other's address. It makes a pod's network called bare, with the address 10.99.NUMBER.2.
type backend struct {
	share, pods, bare string
	script            string
}

const barePod = `set -e
number=$1 other=$2 address=$3
card() { ip link add bare0 mtu "$1" type veth peer name eth0 mtu "$1" netns bare; }
ip netns add bare
`

const bareWires = `
ip addr add 10.99.$number.1/24 dev bare0
ip link set bare0 up
ip -n bare addr add 10.99.$number.2/24 dev eth0
ip -n bare link set eth0 up
ip -n bare route add default via 10.99.$number.1
`

var (
	vxlan = backend{rowVXLANShare, rowVXLANPods, rowVXLANBare, barePod + `card 1450
ip link add bare.1 mtu 1450 type vxlan id 7 dev eth0 remote "$address" dstport 8472 nolearning
ip addr add 10.98.0.$number/24 dev bare.1
ip link set bare.1 up
ip route add 10.99.$other.0/24 via 10.98.0.$other
` + bareWires}
	hostGateway = backend{rowHostGWShare, rowHostGWPods, rowHostGWBare, barePod + `card 1500
ip route add 10.99.$other.0/24 via "$address"
` + bareWires}
)

// Short turns, and many: what else the machine does should meet both ways alike.
const (
	streamFor   = time.Second
	rounds      = 15
	quickStream = time.Second / 2
	quickRounds = 5
)

// path is a way of a TCP stream.
type path struct {
	from, to *lab.Net
	address  netip.Addr // of to
}

// measureThroughput compares the way from a pod on the server to one on the agent with the same kind of way between two hosts that have no labk: their cables are
// alike, there is no rule on the way, and nothing else. Both are measured in turn, as the machine may have other things to do.
func (f *fleet) measureThroughput(ctx context.Context, agent *lab.Host, b backend, quick bool) error {
	pods, err := f.podPath(ctx, agent)
	if err != nil {
		return err
	}
	bare, err := f.barePath(ctx, b)
	if err != nil {
		return err
	}
	count, length := rounds, streamFor
	if quick {
		count, length = quickRounds, quickStream
	}
	for i := range count + 1 {
		first, second := bare, pods
		if i%2 == 1 {
			first, second = pods, bare
		}
		rates := map[path]float64{}
		for _, p := range []path{first, second} {
			if rates[p], err = p.stream(ctx, length); err != nil {
				return fmt.Errorf("stream to %s: %w", p.address, err)
			}
		}
		if i == 0 {
			continue // caches and neighbours were cold
		}
		f.report.add(b.bare, sample{Value: rates[bare]})
		f.report.add(b.pods, sample{Value: rates[pods]})
		f.report.add(b.share, sample{Value: rates[pods] / rates[bare]})
	}
	return nil
}

// podPath makes a pod each on the server and the agent.
func (f *fleet) podPath(ctx context.Context, agent *lab.Host) (path, error) {
	var nets [2]*lab.Net
	var address netip.Addr
	for i, h := range []*lab.Host{f.host, agent} {
		name := "talks-on-" + h.Name()
		if err := f.create(ctx, name, h.Name()); err != nil {
			return path{}, err
		}
		if _, err := f.waitRunning(ctx, name); err != nil {
			return path{}, err
		}
		pod, err := f.observer.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return path{}, err
		}
		if address, err = netip.ParseAddr(pod.Status.PodIP); err != nil {
			return path{}, fmt.Errorf("pod %s has no address: %w", name, err)
		}
		if nets[i], err = h.NetOf(address); err != nil {
			return path{}, err
		}
	}
	return path{nets[0], nets[1], address}, nil
}

// barePath builds the way between the two hosts that have no labk.
func (f *fleet) barePath(ctx context.Context, b backend) (path, error) {
	hosts := []*lab.Host{f.lab.Host(f.hosts + 1), f.lab.Host(f.hosts + 2)}
	var nets [2]*lab.Net
	for i, h := range hosts {
		other := hosts[1-i]
		cmd := h.Command(ctx, "sh", "-c", b.script, "sh", fmt.Sprint(1+i), fmt.Sprint(2-i), other.Addr().String())
		if out, err := cmd.CombinedOutput(); err != nil {
			return path{}, fmt.Errorf("build the bare path in host %s: %w: %s", h.Name(), err, out)
		}
		var err error
		if nets[i], err = h.NetAt("/run/netns/bare"); err != nil {
			return path{}, err
		}
	}
	return path{nets[0], nets[1], netip.MustParseAddr("10.99.2.2")}, nil
}

// stream sends as much as it can over one connection for so long, and returns what came through in Gbit/s.
func (p path) stream(ctx context.Context, length time.Duration) (float64, error) {
	l, err := p.to.Listen(ctx, "tcp4", netip.AddrPortFrom(p.address, 0).String())
	if err != nil {
		return 0, err
	}
	defer l.Close()
	sent := make(chan error, 1)
	go func() { sent <- p.send(ctx, l.Addr().String(), length) }()
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(length + 10*time.Second)); err != nil {
		return 0, errors.Join(err, <-sent)
	}
	conn, err := l.Accept()
	if err != nil {
		return 0, errors.Join(err, <-sent)
	}
	defer conn.Close()
	bytes, took, err := receive(conn, time.Now().Add(length+10*time.Second))
	return float64(bytes) * 8 / 1e9 / took.Seconds(), errors.Join(err, <-sent)
}

// chunk is what is written and read at once.
const chunk = 256 << 10

func (p path) send(ctx context.Context, address string, length time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := p.from.DialContext(ctx, "tcp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(length + 10*time.Second)); err != nil {
		return err
	}
	data := make([]byte, chunk)
	for end := time.Now().Add(length); time.Now().Before(end); {
		if _, err := conn.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// receive counts what comes until the other end closes the connection.
func receive(conn net.Conn, deadline time.Time) (bytes int64, took time.Duration, err error) {
	if err := conn.SetDeadline(deadline); err != nil {
		return 0, 0, err
	}
	began, data := time.Now(), make([]byte, chunk)
	for {
		n, err := conn.Read(data)
		bytes += int64(n)
		if errors.Is(err, io.EOF) {
			return bytes, time.Since(began), nil
		}
		if err != nil {
			return bytes, time.Since(began), err
		}
	}
}
