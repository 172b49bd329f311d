package lifecycle

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/tests/e2e/cluster"
)

// labk tells systemd how it does, and its pods do not.
func TestSystemd(t *testing.T) {
	const socket = "/run/notify.sock"
	c := cluster.Start(t, cluster.Options{DontStart: true, Env: []string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=3000000"}})
	path, err := c.Host.Path(socket)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := &systemd{conn: conn}

	c.Server.Start(t)
	s.wait(t, "READY=1", cluster.Startup)
	nodeIsReady(t, c)
	c.Server.WaitUp(t)
	s.wait(t, "WATCHDOG=1", cluster.Limit)
	s.wait(t, "WATCHDOG=1", cluster.Limit)
	cluster.Eventually(t, cluster.Limit, "a shim runs", func() error {
		if c.Exec(t, nil, "pgrep", "-f", "containerd-shim").Err != nil {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	shims := c.Sh(t, `for p in $(pgrep -f containerd-shim); do tr '\0' '\n' </proc/$p/environ; done`)
	if strings.Contains(shims, "NOTIFY_SOCKET") || strings.Contains(shims, "WATCHDOG") {
		t.Errorf("shims have systemd's variables:\n%s", shims)
	}
	c.Server.Signal(t, syscall.SIGTERM)
	s.wait(t, "STOPPING=1", cluster.Limit)
	if err := c.Server.Wait(t); err != nil {
		t.Errorf("labk ends with %v:\n%s", err, c.Server.Tail(20))
	}
}

// systemd is the other end of NOTIFY_SOCKET.
type systemd struct {
	conn *net.UnixConn
	said []string
}

// wait reads messages until one has this line.
func (s *systemd) wait(t *testing.T, want string, limit time.Duration) {
	t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	for {
		n, err := s.conn.Read(buffer)
		if err != nil {
			t.Fatalf("no %s: %v; there came %q", want, err, s.said)
		}
		s.said = append(s.said, string(buffer[:n]))
		for line := range strings.SplitSeq(string(buffer[:n]), "\n") {
			if line == want {
				return
			}
		}
	}
}

func nodeIsReady(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	nodes, err := c.Client(t).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				return
			}
		}
	}
	t.Errorf("READY=1 came before the node was: %+v", nodes.Items)
}
