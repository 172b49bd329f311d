package join

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/labk/labk/tests/e2e/cluster"
)

// joined is a cluster that has agents a and b, and the image of their pods.
type joined struct {
	*cluster.Cluster
	a, b  *cluster.Node
	image string
	// token is what a joined with.
	token string
}

// nameA is a's node's, by --node-name; b's is its host's.
const nameA = "pc-a"

// TestJoining has one server for everything that does not disturb it.
func TestJoining(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Hosts: 6, Args: []string{"--tls-san", known}})
	j := &joined{Cluster: c, a: c.Agent(t, 2, nil), b: c.Agent(t, 3, nil), token: createToken(t, c)}
	j.a.Start(t, "--server", c.URL(), "--token", j.token, "--node-name", nameA, "--node-label", "room=12,desk=3", "--node-taint", "exam=now:NoSchedule")
	j.b.Start(t, c.JoinArgs(t)...)
	j.a.WaitUp(t)
	j.b.WaitUp(t)
	j.image = c.Busybox(t)
	fresh, lost, elsewhere := c.Agent(t, 4, nil), c.Agent(t, 5, nil), c.Lab.Host(6)
	t.Run("group", func(t *testing.T) {
		t.Run("input", func(t *testing.T) {
			t.Parallel()
			testStrangers(t, c, fresh, elsewhere)
			testOnServer(t, c, elsewhere)
			testInput(t, c, fresh)
		})
		t.Run("unreachable", func(t *testing.T) {
			t.Parallel()
			testUnreachable(t, c, lost, elsewhere)
		})
		t.Run("tokens", func(t *testing.T) {
			t.Parallel()
			testTokens(t, c, lost)
		})
		t.Run("node", func(t *testing.T) {
			t.Parallel()
			testNode(t, j)
		})
		t.Run("files", func(t *testing.T) {
			t.Parallel()
			testFiles(t, j)
		})
		t.Run("requests", func(t *testing.T) {
			t.Parallel()
			testRequests(t, j)
		})
		t.Run("rights", func(t *testing.T) {
			t.Parallel()
			testRights(t, j)
		})
	})
	t.Run("the server's own token", func(t *testing.T) { testOwnToken(t, c) })
	t.Run("the server's new name", func(t *testing.T) {
		c.Server.Restart(t, syscall.SIGTERM, "--tls-san", known, "--node-name", "new-name")
		n := getNode(t, c, "new-name")
		if _, ok := n.Labels["node-role.kubernetes.io/control-plane"]; !ok || !isReady(n) {
			t.Errorf("its labels are %v, Ready: %v", n.Labels, isReady(n))
		}
	})
}

// testNode looks at the node that a is.
func testNode(t *testing.T, j *joined) {
	n, server := getNode(t, j.Cluster, nameA), getNode(t, j.Cluster, j.Host.Name())
	if _, ok := n.Labels["node-role.kubernetes.io/worker"]; !ok || n.Labels["room"] != "12" || n.Labels["desk"] != "3" {
		t.Errorf("its labels are %v", n.Labels)
	}
	_, worker := server.Labels["node-role.kubernetes.io/worker"]
	if _, ok := server.Labels["node-role.kubernetes.io/control-plane"]; !ok || worker {
		t.Errorf("the server's labels are %v", server.Labels)
	}
	if !slices.ContainsFunc(n.Spec.Taints, func(x corev1.Taint) bool {
		return x.Key == "exam" && x.Value == "now" && x.Effect == corev1.TaintEffectNoSchedule
	}) {
		t.Errorf("its taints are %v", n.Spec.Taints)
	}
	ns := j.Namespace(t)
	pod := j.RunPod(t, ns, j.pod(t, nameA, ""))
	if got := j.InPod(t, ns, pod.Name, "echo", "hello"); got != "hello" {
		t.Errorf("exec: got %q", got)
	}
	cluster.Eventually(t, cluster.Limit, "the pod's log", func() error {
		if got := j.Logs(t, ns, pod.Name, ""); !strings.Contains(got, "it runs") {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(j.ReadFile(t, "/var/lib/labk/server/tls/server-ca.crt")))
	conn, err := j.Lab.Net().DialContext(t.Context(), "tcp", address(n)+":10250")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: address(n)}).HandshakeContext(t.Context()); err != nil {
		t.Errorf("the kubelet's certificate: %v", err)
	}
}

// pod runs on a node, with a Secret mounted unless its name is empty.
func (j *joined) pod(t *testing.T, node, secret string) *corev1.Pod {
	p := cluster.Parse[corev1.Pod](t, fmt.Sprintf(`
metadata: {generateName: p-}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: %q, imagePullPolicy: Never, command: [sh, -c, "echo it runs; sleep 1d"]}
`, node, j.image))
	if secret != "" {
		p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/s"}}
	}
	return p
}

// testFiles looks at what a keeps.
func testFiles(t *testing.T, j *joined) {
	const dir = "/var/lib/labk/agent/tls"
	public := map[string]bool{"machine.crt": true, "server-ca.crt": true, "client-ca.crt": true}
	seen := map[string]bool{}
	for path, what := range j.a.Inventory(t, dir) {
		name := filepath.Base(path)
		seen[name] = true
		mode, _, _ := strings.Cut(what, " ")
		switch {
		case path == dir:
			if mode != (fs.ModeDir | 0o700).String() {
				t.Errorf("%s has mode %s", path, mode)
			}
		case strings.HasPrefix(what, "-> "), public[name]:
		case mode != fs.FileMode(0o600).String():
			t.Errorf("%s has mode %s", path, mode)
		}
	}
	for _, name := range []string{"machine.crt", "machine.key", "machine.json", "server-ca.crt", "client-ca.crt", "kubelet.kubeconfig", "kubelet-client-current.pem", "kubelet-server-current.pem"} {
		if !seen[name] {
			t.Errorf("there is no %s in %s", name, dir)
		}
	}
	secret := parse(t, j.token).Secret
	if strings.Contains(j.a.Log(), secret) {
		t.Error("the token is in the log")
	}
	if r := j.a.Exec(t, nil, "grep", "-rlF", "--exclude-dir=containerd", "--exclude-dir=data", secret, "/var/lib/labk", "/run/labk"); r.Code != 1 {
		t.Errorf("the token is in %s (%v)", r.Stdout, r.Err)
	}
}
