// Package join lets PCs join a server and tries what must not succeed: wrong input, other PCs' names, requests for more than a node may have.
//
// Clocks are all the machine's, so what a wrong clock or another version brings is tested beside pkg/join.
package join

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// Exit codes.
const (
	failed = 1 // at run time
	usage  = 2 // the command line or the configuration is wrong
)

// Folders of an agent: all that labk keeps, and the credentials alone.
var (
	kept        = []string{"/var/lib", "/etc/labk", "/etc/cni", "/run/labk"}
	credentials = []string{"/var/lib/labk/agent/tls", "/var/lib/labk/agent/etc/cluster.json"}
)

// agent runs `labk agent` in the node's host until it ends; one that joins after all is killed after the limit.
func agent(t testing.TB, n *cluster.Node, args ...string) cluster.Result {
	t.Helper()
	return n.Exec(t, nil, append([]string{n.Program(), "agent"}, args...)...)
}

// createToken runs `labk token create` on the server.
func createToken(t testing.TB, c *cluster.Cluster, args ...string) string {
	t.Helper()
	r := c.Labk(t, append([]string{"token", "create"}, args...)...)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	text := strings.TrimSpace(r.Stdout)
	if _, err := join.ParseToken(text); err != nil {
		t.Fatalf("token create printed %q: %v", r.Stdout, err)
	}
	return text
}

func parse(t testing.TB, token string) join.Token {
	t.Helper()
	out, err := join.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// getNode asks the administrator's API.
func getNode(t testing.TB, c *cluster.Cluster, name string) *corev1.Node {
	t.Helper()
	n, err := c.Client(t).CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func isReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// address is the node's, as the cluster knows it.
func address(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

// bounded is a context for switching hosts on and off.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
