package firewall

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
)

// patience is how long a knock is waited for that ought not to be heard: it bounds what a broken test costs, not what a good one needs.
const patience = time.Second

// knockTCP connects from the lab's switch to a listener in the host.
func knockTCP(t *testing.T, c *cluster.Cluster, port int) error {
	t.Helper()
	address := fmt.Sprintf("%s:%d", c.Host.Addr(), port)
	l, err := c.Host.Net().Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := c.Lab.Net().DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// knockUDP sends a packet from the lab's switch to a listener in the host.
func knockUDP(t *testing.T, c *cluster.Cluster, port int) error {
	t.Helper()
	address := fmt.Sprintf("%s:%d", c.Host.Addr(), port)
	l, err := c.Host.Net().ListenPacket(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := c.Lab.Net().DialContext(t.Context(), "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("knock")); err != nil {
		return err
	}
	if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	_, _, err = l.ReadFrom(make([]byte, 16))
	return err
}

// open looks whether every port that other PCs need is.
func open(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, port := range []int{6443, 10250} {
		cluster.Eventually(t, cluster.Limit, fmt.Sprintf("port %d/tcp", port), func() error { return knockTCP(t, c, port) })
	}
	cluster.Eventually(t, cluster.Limit, "port 8472/udp", func() error { return knockUDP(t, c, 8472) })
}

// closed looks whether none is, as `labk check` has said.
func closed(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, port := range []int{6443, 10250} {
		if err := knockTCP(t, c, port); err == nil {
			t.Errorf("port %d/tcp is open", port)
		}
	}
	closedUDP(t, c)
}

func closedUDP(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if err := knockUDP(t, c, 8472); err == nil {
		t.Error("port 8472/udp is open")
	}
}
