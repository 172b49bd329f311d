package nodes

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

// echo is the port on which the pods send everything back, over TCP and UDP. Before it comes the address of who sent, and a line feed.
const echo = 9000

// patience is how long a packet may take. On a machine too slow for it, a test tries again.
const patience = time.Second

// serve answers on the echo port until the end of the test.
func serve(t *testing.T, n *lab.Net) {
	t.Helper()
	where := fmt.Sprintf("0.0.0.0:%d", echo)
	l, err := n.Listen(t.Context(), "tcp4", where)
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
				go echoStream(conn)
			}
		}
	}()
	p, err := n.ListenPacket(t.Context(), "udp4", where)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	go echoDatagrams(p)
}

// echoStream ends with the connection, at the latest after a minute.
func echoStream(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintln(conn, hostOf(conn.RemoteAddr())); err == nil {
		_, _ = io.Copy(conn, conn) // the other end sees what is missing
	}
}

func echoDatagrams(p net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		size, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = p.WriteTo(append([]byte(hostOf(from)+"\n"), buf[:size]...), from)
		}
	}
}

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return host
}

// exchange sends data to the echo port, and returns as whom the other end sees the sender. Data that comes back changed is an error.
func exchange(t *testing.T, from *lab.Net, network, address string, data []byte) (seenAs string, err error) {
	conn, err := from.DialContext(t.Context(), network, address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- err
	}()
	r := bufio.NewReaderSize(conn, 1<<16) // a whole datagram
	seenAs, err = r.ReadString('\n')
	if err != nil {
		return "", errors.Join(fmt.Errorf("no answer: %w", err), <-sent)
	}
	back := make([]byte, len(data))
	if size, err := io.ReadFull(r, back); err != nil {
		return "", errors.Join(fmt.Errorf("%d of %d bytes come back: %w", size, len(data), err), <-sent)
	}
	if !bytes.Equal(back, data) {
		return "", errors.New("other data comes back")
	}
	return seenAs[:len(seenAs)-1], <-sent
}

// random is data that no offset repeats.
func random(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // never fails
	return data
}

// acrossAll exchanges data of each size between the pods of any two nodes, which see each other's own addresses.
func (w *world) acrossAll(t *testing.T, network string, sizes ...int) {
	for _, from := range w.members {
		for _, to := range w.others(from) {
			for _, size := range sizes {
				data := random(size)
				what := fmt.Sprintf("%d bytes over %s from the pod on %s to that on %s", size, network, from.Host.Name(), to.Host.Name())
				cluster.Eventually(t, cluster.Limit, what, func() error {
					seenAs, err := exchange(t, from.net, network, fmt.Sprintf("%s:%d", to.pod.Status.PodIP, echo), data)
					if err == nil && seenAs != from.pod.Status.PodIP {
						err = fmt.Errorf("%s is seen as %s", from.pod.Status.PodIP, seenAs)
					}
					return err
				})
			}
		}
	}
}

func testTCP(t *testing.T, w *world) { w.acrossAll(t, "tcp", 1, 1<<20) }

// Datagrams that just fit into a packet, that just don't, and that need many; the kernel forbids routers to cut the first in two.
func testUDP(t *testing.T, w *world) {
	fits := cluster.MTU(t, w.members[0].net) - 28
	w.acrossAll(t, "udp", 1, fits, fits+1, 4*fits)
}

// podsHaveMTU checks the pods' cards.
func (w *world) podsHaveMTU(t *testing.T, want int) {
	t.Helper()
	for _, m := range w.members {
		if got := cluster.MTU(t, m.net); got != want {
			t.Errorf("the pod on %s has MTU %d, want %d", m.Host.Name(), got, want)
		}
	}
}
