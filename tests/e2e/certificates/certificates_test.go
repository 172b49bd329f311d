// Package certificates is what happens to a cluster's certificates over the years: they are renewed while everything runs, on a person's wish, and after a long time off.
package certificates

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// world is a cluster with a pod on each node.
type world struct {
	*cluster.Cluster
	namespace string
}

const everywhere = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers:
      - {name: hello, image: "docker.io/labk/hello:1", readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
`

func start(t *testing.T, o cluster.Options) *world {
	t.Helper()
	c := cluster.Start(t, o)
	w := &world{Cluster: c, namespace: c.Namespace(t)}
	w.Apply(t, w.namespace, everywhere)
	w.well(t, w.all()...)
	return w
}

// client is the administrator's, with the kubeconfig that is there now.
func (w *world) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(w.ConfigOf(t, cluster.Kubeconfig))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// leaves are the server's own, by name.
func (w *world) leaves(t *testing.T) map[string]*x509.Certificate {
	t.Helper()
	out := map[string]*x509.Certificate{}
	for _, file := range strings.Fields(w.Sh(t, "ls "+cluster.ServerTLS+"*.pem")) {
		out[filepath.Base(file)] = cluster.Certificate(t, w.ReadFile(t, file))
	}
	return out
}

// kubelet are the kubelet's two certificates.
func kubelet(t *testing.T, n *cluster.Node) map[string]*x509.Certificate {
	t.Helper()
	out := map[string]*x509.Certificate{}
	for _, name := range []string{"kubelet-client-current.pem", "kubelet-server-current.pem"} {
		out[name] = cluster.Certificate(t, n.Sh(t, "cat "+cluster.AgentTLS+name))
	}
	return out
}

// changed makes sure that every certificate is another one, and valid now.
func changed(t *testing.T, before, after map[string]*x509.Certificate) {
	t.Helper()
	if len(before) == 0 || !slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))) {
		t.Errorf("certificates before: %v, after: %v", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
	for name, now := range after {
		old := before[name]
		if old != nil && (old.Equal(now) || old.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(now.PublicKey)) {
			t.Errorf("%s has not changed", name)
		}
		if time.Now().Before(now.NotBefore) || time.Now().After(now.NotAfter) {
			t.Errorf("%s is valid from %v to %v", name, now.NotBefore, now.NotAfter)
		}
	}
}

// all are the server and the agents.
func (w *world) all() []*cluster.Node { return append([]*cluster.Node{w.Server}, w.Agents...) }

// well waits until these nodes are Ready with a ready pod each, whose logs can be read.
func (w *world) well(t *testing.T, nodes ...*cluster.Node) {
	t.Helper()
	for _, n := range nodes {
		cluster.Eventually(t, cluster.Limit, n.Host.Name()+" is well", func() error { return w.isWell(t, n.Host.Name()) })
	}
}

func (w *world) isWell(t *testing.T, name string) error {
	client := w.client(t)
	n, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	ready := func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}
	if !slices.ContainsFunc(n.Status.Conditions, ready) {
		return errors.New("it is not Ready")
	}
	pods, err := client.CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=hello", FieldSelector: "spec.nodeName=" + name})
	if err != nil {
		return err
	}
	if len(pods.Items) != 1 {
		return fmt.Errorf("it has %d pods", len(pods.Items))
	}
	if err := cluster.Ready(&pods.Items[0]); err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(w.namespace).GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	return err
}

// containers tells which container of which pod runs where.
func (w *world) containers(t *testing.T) map[string]string {
	t.Helper()
	list, err := w.client(t).CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=hello"})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range list.Items {
		s := p.Status.ContainerStatuses[0]
		out[p.Name+" on "+p.Spec.NodeName] = fmt.Sprintf("%s, %d restarts", s.ContainerID, s.RestartCount)
	}
	return out
}

// unharmed does it, and makes sure that afterwards all is well and no container was started anew.
func (w *world) unharmed(t *testing.T, do func()) {
	t.Helper()
	before := w.containers(t)
	do()
	w.well(t, w.all()...)
	if after := w.containers(t); !maps.Equal(before, after) {
		t.Errorf("containers before: %v, after: %v", before, after)
	}
}

// check is what `labk certificate check` says on a node, and its exit code.
func check(t *testing.T, n *cluster.Node) (map[string]pki.Found, int) {
	t.Helper()
	list, _, code := checkAll(t, n)
	out := map[string]pki.Found{}
	for _, f := range list {
		out[f.Name] = f
	}
	return out, code
}

func checkAll(t *testing.T, n *cluster.Node) ([]pki.Found, pki.Progress, int) {
	t.Helper()
	r := n.Exec(t, nil, n.Program(), "certificate", "check", "-o", "json")
	var all struct {
		Certificates []pki.Found
		pki.Progress
	}
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil {
		t.Fatalf("%v: %s%s", err, r.Stdout, r.Stderr)
	}
	return all.Certificates, all.Progress, r.Code
}

// The subtests share one lab and change it: they run in this order.
func TestCertificates(t *testing.T) {
	t.Parallel()
	w := start(t, cluster.Options{Agents: 1})
	t.Run("check", func(t *testing.T) { testCheck(t, w) })
	t.Run("rotate", func(t *testing.T) { testRotate(t, w) })
	t.Run("rotate an agent's", func(t *testing.T) { testRotateAgent(t, w) })
	t.Run("rotate at rest", func(t *testing.T) { testAtRest(t, w) })
	t.Run("two years off", func(t *testing.T) { testTwoYears(t, w) })
}

func testCheck(t *testing.T, w *world) {
	server, code := check(t, w.Server)
	want := []string{
		"admin", "client-ca", "kube-apiserver", "kube-apiserver-kubelet", "kube-apiserver-proxy", "kube-controller-manager", "kube-scheduler",
		"kubelet-client", "kubelet-server", "machine", "request-header-ca", "server-ca", "system",
	}
	if got := slices.Sorted(maps.Keys(server)); !slices.Equal(got, want) || code != 0 {
		t.Errorf("the server has %v, code %d", got, code)
	}
	agent, code := check(t, w.Agents[0])
	if got := slices.Sorted(maps.Keys(agent)); !slices.Equal(got, []string{"kubelet-client", "kubelet-server", "machine"}) || code != 0 {
		t.Errorf("the agent has %v, code %d", got, code)
	}
	for _, f := range server {
		if f.State != pki.Good || f.From.After(time.Now()) {
			t.Errorf("%+v", f)
		}
	}
	if table := w.Sh(t, w.Program()+" certificate check"); !strings.Contains(table, "kube-apiserver-kubelet") || !strings.Contains(table, "authority") {
		t.Errorf("for people:\n%s", table)
	}
	r := w.Exec(t, nil, w.Program(), "certificate", "check", "--data-dir", "/var/lib/other")
	r.Refused(t, 1, "no certificates in /var/lib/other")
}

func testRotate(t *testing.T, w *world) {
	pid, before := w.Server.Pid(t), w.leaves(t)
	w.unharmed(t, func() {
		if out := w.Sh(t, w.Program()+" certificate rotate"); !strings.Contains(out, "kube-apiserver-kubelet") {
			t.Errorf("it says %s", out)
		}
		changed(t, before, w.leaves(t))
	})
	if pid != w.Server.Pid(t) || strings.Count(w.Server.Log(), "the cluster is up") != 1 {
		t.Error("the server started anew")
	}
}

func testRotateAgent(t *testing.T, w *world) {
	agent := w.Agents[0]
	before := kubelet(t, agent)
	w.unharmed(t, func() {
		if out := agent.Sh(t, agent.Program()+" certificate rotate"); !strings.Contains(out, "asked for anew: kubelet-client, kubelet-server") {
			t.Errorf("it says %s", out)
		}
		cluster.Eventually(t, cluster.Limit, "the agent has started anew", func() error {
			if n := strings.Count(agent.Log(), "this PC is the node"); n < 2 {
				return fmt.Errorf("it was up %d times", n)
			}
			return nil
		})
		changed(t, before, kubelet(t, agent))
	})
}

func testAtRest(t *testing.T, w *world) {
	agent := w.Agents[0]
	before, ofKubelet, ofAgent := w.leaves(t), kubelet(t, w.Server), kubelet(t, agent)
	w.unharmed(t, func() {
		w.Server.Stop(t)
		agent.Exec(t, nil, agent.Program(), "certificate", "rotate").Refused(t, 1, "nothing was changed", "try again when it runs")
		if out := w.Sh(t, w.Program()+" certificate rotate"); !strings.Contains(out, "its next start") {
			t.Errorf("it says %s", out)
		}
		w.Server.Start(t)
		w.Server.WaitUp(t)
	})
	changed(t, before, w.leaves(t))
	changed(t, ofKubelet, kubelet(t, w.Server))
	for name, now := range kubelet(t, agent) {
		if !now.Equal(ofAgent[name]) {
			t.Errorf("the agent's %s has changed, though there was no server to issue another", name)
		}
	}
}

// All PCs were off until every certificate but the authorities' and the PCs' own had ended. They start by themselves, without a token.
func testTwoYears(t *testing.T, w *world) {
	agent := w.Agents[0]
	before := w.leaves(t)
	for _, n := range []*cluster.Node{agent, w.Server} {
		n.Signal(t, syscall.SIGTERM)
		_ = n.Wait(t)
	}
	for name := range before {
		ca := map[string]string{"kube-apiserver.pem": "server-ca", "kube-apiserver-proxy.pem": "request-header-ca"}[name]
		if ca == "" {
			ca = "client-ca"
		}
		w.WriteFile(t, cluster.ServerTLS+name, w.Expired(t, w.ReadFile(t, cluster.ServerTLS+name), ca))
	}
	for _, n := range []*cluster.Node{agent, w.Server} {
		for name, ca := range map[string]string{"kubelet-client": "client-ca", "kubelet-server": "server-ca"} {
			link, old := cluster.AgentTLS+name+"-current.pem", cluster.AgentTLS+name+"-1999.pem"
			n.WriteFile(t, old, w.Expired(t, n.Sh(t, "cat "+link), ca))
			n.Sh(t, "ln -sf "+old+" "+link)
		}
	}
	if found, code := check(t, w.Server); code != 1 || found["kube-apiserver"].State != pki.Ended || found["server-ca"].State != pki.Good {
		t.Errorf("check says %v, code %d", found, code)
	}
	w.Server.Start(t)
	agent.Start(t, "--server", w.URL())
	w.Server.WaitUp(t)
	agent.WaitUp(t)
	w.well(t, w.all()...)
	changed(t, before, w.leaves(t))
	for _, n := range []*cluster.Node{agent, w.Server} {
		if found, code := check(t, n); code != 0 {
			t.Errorf("%s: check says %v", n.Host.Name(), found)
		}
	}
}
