// Package fleet is the life of a lab: a server and two agents in hosts of their own, whose cables are cut, whose power fails, and whose addresses change.
package fleet

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// world is three PCs with names; a pod on each, and a Service of all three.
type world struct {
	*cluster.Cluster
	namespace string
	service   string // address
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
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec:
  selector: {app: hello}
  ports: [{port: 80, targetPort: 8080}]
`

func start(t *testing.T) *world {
	c := cluster.Start(t, cluster.Options{Hosts: 3, Each: map[int]lab.HostOptions{1: {Name: "first-pc"}, 2: {Name: "second-pc"}, 3: {Name: "third-pc"}}})
	for i := range 2 {
		// by name: the server's address is going to change
		c.Agent(t, 2+i, nil).Start(t, "--server", "https://first-pc:6443", "--token", c.Token(t))
	}
	for _, n := range c.Agents {
		n.WaitUp(t)
	}
	w := &world{Cluster: c, namespace: c.Namespace(t)}
	w.Apply(t, w.namespace, everywhere)
	service, err := w.Client(t).CoreV1().Services(w.namespace).Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.service = service.Spec.ClusterIP
	w.allAnswer(t)
	return w
}

// The subtests share one lab and change it: they run in this order.
func TestFleet(t *testing.T) {
	t.Parallel()
	w := start(t)
	t.Run("roles", func(t *testing.T) { testRoles(t, w) })
	t.Run("one node to another", func(t *testing.T) { testAcross(t, w) })
	agent := w.Agents[0]
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run("agent "+sig.String(), func(t *testing.T) {
			w.unharmed(t, func() { agent.Restart(t, sig) })
		})
		t.Run("server "+sig.String(), func(t *testing.T) {
			w.unharmed(t, func() { w.Server.Restart(t, sig) })
		})
	}
	t.Run("both at once", func(t *testing.T) { w.unharmed(t, func() { testBoth(t, w) }) })
	t.Run("agent before the server", func(t *testing.T) { w.unharmed(t, func() { testAgentFirst(t, w) }) })
	t.Run("expired certificates", func(t *testing.T) { w.unharmed(t, func() { testExpired(t, w, agent) }) })
	t.Run("torn certificates", func(t *testing.T) { w.unharmed(t, func() { testTorn(t, w, agent) }) })
	t.Run("agent's address", func(t *testing.T) { w.unharmed(t, func() { testAgentAddress(t, w, agent) }) })
	t.Run("server's address", func(t *testing.T) { w.unharmed(t, func() { testServerAddress(t, w) }) })
	t.Run("a night", func(t *testing.T) { testNight(t, w, agent) })
	t.Run("cable", func(t *testing.T) { testCable(t, w) })
	t.Run("deleted node", func(t *testing.T) { testDeleted(t, w, agent) })
}

func testRoles(t *testing.T, w *world) {
	for i, role := range []string{"control-plane", "worker", "worker"} {
		n := w.node(t, w.Lab.Host(1+i).Name())
		if _, ok := n.Labels["node-role.kubernetes.io/"+role]; !ok {
			t.Errorf("%s is not %s: %v", n.Name, role, n.Labels)
		}
	}
}

// Each pod reaches each other pod, and is seen by its own address there. VXLAN takes 50 bytes of what the cables carry.
func testAcross(t *testing.T, w *world) {
	pods := w.pods(t)
	for _, from := range pods {
		n := w.PodNet(t, w.host(t, from.Spec.NodeName), &from)
		if mtu := cluster.MTU(t, n); mtu != 1450 {
			t.Errorf("%s has MTU %d, want 1450", from.Name, mtu)
		}
		for _, to := range pods {
			body := get(t, n, to.Status.PodIP+":8080")
			if want := "you are " + from.Status.PodIP + ":"; !strings.Contains(body, want) {
				t.Errorf("from %s on %s to %s on %s: %q, want %q in it", from.Name, from.Spec.NodeName, to.Name, to.Spec.NodeName, body, want)
			}
		}
	}
}

// Server and agent are killed together; the agent comes back first.
func testBoth(t *testing.T, w *world) {
	for _, n := range []*cluster.Node{w.Server, w.Agents[0]} {
		n.Signal(t, syscall.SIGKILL)
		_ = n.Wait(t)
	}
	w.Agents[0].Start(t, "--server", "https://first-pc:6443")
	w.Server.Start(t)
	w.Server.WaitUp(t)
	w.Agents[0].WaitUp(t)
}

// An agent that is started while its server is off waits, and says so.
func testAgentFirst(t *testing.T, w *world) {
	w.Server.Stop(t)
	a := w.Agents[1]
	a.Signal(t, syscall.SIGTERM)
	_ = a.Wait(t)
	a.Start(t, "--server", "https://first-pc:6443")
	cluster.Eventually(t, cluster.Limit, "the agent says that it waits for the server", func() error {
		if strings.Contains(a.Log(), "can't be reached yet") {
			return nil
		}
		return fmt.Errorf("it says:\n%s", a.Log())
	})
	w.Server.Start(t)
	w.Server.WaitUp(t)
	a.WaitUp(t)
}

// A DHCP server gives the agent another address: node, tunnel and certificate follow without anybody's doing.
func testAgentAddress(t *testing.T, w *world, agent *cluster.Node) {
	next := netip.MustParseAddr("10.77.0.77")
	w.setAddr(t, agent.Host, next)
	began := time.Now()
	cluster.Eventually(t, cluster.Limit, "the node has its new address", func() error { return w.hasAddress(t, agent.Host.Name(), next) })
	w.ready(t, 3)
	w.logs(t, agent.Host.Name())
	t.Logf("node, network and serving certificate follow after %.1f s", time.Since(began).Seconds())
}

// The server's address changes; agents know it by name.
func testServerAddress(t *testing.T, w *world) {
	next := netip.MustParseAddr("10.77.0.78")
	w.setAddr(t, w.Host, next)
	began := time.Now()
	cluster.Eventually(t, cluster.Limit, "the node has its new address", func() error { return w.hasAddress(t, w.Host.Name(), next) })
	cluster.Eventually(t, cluster.Limit, "the service kubernetes has the new address alone", func() error {
		slices, err := w.Client(t).DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
		if err != nil {
			return err
		}
		for _, s := range slices.Items {
			if len(s.Endpoints) != 1 || s.Endpoints[0].Addresses[0] != next.String() {
				return fmt.Errorf("it has %+v", s.Endpoints)
			}
		}
		return nil
	})
	for _, n := range w.Agents {
		w.seen(t, n.Host.Name())
	}
	w.logs(t, w.Host.Name())
	t.Logf("the API, its service and the agents follow after %.1f s", time.Since(began).Seconds())
}

// An agent is off until the cluster has given it up, and comes back.
func testNight(t *testing.T, w *world, agent *cluster.Node) {
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Limit)
	defer cancel()
	if err := agent.Host.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait(t)
	w.gone(t, agent.Host.Name())
	if err := agent.Host.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	agent.Start(t, "--server", "https://first-pc:6443")
	w.ready(t, 3)
	t.Logf("Ready again %.1f s after its start", time.Since(began).Seconds())
	w.allAnswer(t)
	if pods := w.pods(t); len(pods) != 3 {
		t.Errorf("%d pods, want 3", len(pods))
	}
}

// The cable is out until the cluster has given the node up; its pod lives on.
func testCable(t *testing.T, w *world) {
	agent := w.Agents[1]
	before := w.containers(t)
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Limit)
	defer cancel()
	if err := agent.Host.Cut(ctx); err != nil {
		t.Fatal(err)
	}
	w.gone(t, agent.Host.Name())
	if err := agent.Host.Mend(ctx); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.ready(t, 3)
	t.Logf("Ready again %.1f s after the cable", time.Since(began).Seconds())
	w.allAnswer(t)
	if after := w.containers(t); !maps.Equal(before, after) {
		t.Errorf("containers before: %v, after: %v", before, after)
	}
}

// A deleted node joins again when its agent is started again. It gets another part of the pods' network, at the latest the second time, and its pods with it.
func testDeleted(t *testing.T, w *world, agent *cluster.Node) {
	name := agent.Host.Name()
	subnets := map[string]bool{w.node(t, name).Spec.PodCIDR: true}
	for range 2 {
		w.Kubectl(t, "delete", "node", name)
		agent.Restart(t, syscall.SIGTERM)
		w.ready(t, 3)
		w.allAnswer(t)
		testRoles(t, w)
		subnets[w.node(t, name).Spec.PodCIDR] = true
	}
	if len(subnets) < 2 {
		t.Errorf("the node kept its subnet: %v, so nothing was tried", subnets)
	}
}

// unharmed does it, and makes sure that afterwards all is well and no container was started anew.
func (w *world) unharmed(t *testing.T, do func()) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.KubectlErr(t, "get", "nodes,pods,csr", "-A", "-o", "wide").Stdout)
			for _, n := range append(w.Agents, w.Server) {
				t.Logf("%s:\n%s", n.Host.Name(), n.Tail(30))
			}
		}
	})
	before := w.containers(t)
	do()
	w.ready(t, 3)
	w.allAnswer(t)
	if after := w.containers(t); !maps.Equal(before, after) {
		t.Errorf("containers before: %v, after: %v", before, after)
	}
}

// allAnswer waits until there is a ready pod on each node, and each node and pod reaches all of them through the Service.
func (w *world) allAnswer(t *testing.T) {
	t.Helper()
	var names []string
	cluster.Eventually(t, cluster.Limit, "a ready pod on each of three nodes", func() error {
		pods := w.pods(t)
		names = nil
		for _, p := range pods {
			if err := cluster.Ready(&p); err != nil {
				return err
			}
			names = append(names, p.Name)
		}
		if len(pods) != 3 {
			return fmt.Errorf("%d pods", len(pods))
		}
		return nil
	})
	for _, n := range append([]*cluster.Node{w.Server}, w.Agents...) {
		missing := slices.Clone(names)
		cluster.Eventually(t, cluster.Limit, "all pods answer through the Service on "+n.Host.Name(), func() error {
			body, err := try(t, n.Host.Net(), w.service+":80")
			if err != nil {
				return err
			}
			missing = slices.DeleteFunc(missing, func(name string) bool { return strings.Contains(body, "Hello from "+name+",") })
			if len(missing) > 0 {
				return fmt.Errorf("no answer of %v yet", missing)
			}
			return nil
		})
	}
}

func (w *world) setAddr(t *testing.T, h *lab.Host, addr netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Limit)
	defer cancel()
	if err := h.SetAddr(ctx, addr); err != nil {
		t.Fatal(err)
	}
}

func (w *world) node(t *testing.T, name string) *corev1.Node {
	t.Helper()
	n, err := w.Client(t).CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (w *world) hasAddress(t *testing.T, name string, addr netip.Addr) error {
	n, err := w.Client(t).CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if n.Status.Addresses[0].Address != addr.String() {
		return fmt.Errorf("it has %v", n.Status.Addresses)
	}
	return nil
}

func (w *world) host(t *testing.T, name string) *lab.Host {
	t.Helper()
	for _, h := range w.Lab.Hosts() {
		if h.Name() == name {
			return h
		}
	}
	t.Fatalf("no host %s", name)
	return nil
}

// ready waits until so many nodes are Ready.
func (w *world) ready(t *testing.T, want int) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, fmt.Sprintf("%d nodes are Ready", want), func() error {
		list, err := w.Client(t).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		n := 0
		for _, node := range list.Items {
			if isReady(&node) {
				n++
			}
		}
		if n != want {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}

// gone waits until the cluster has given the node up.
func (w *world) gone(t *testing.T, name string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, name+" is not Ready", func() error {
		n, err := w.Client(t).CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && isReady(n) {
			err = fmt.Errorf("it still is")
		}
		return err
	})
}

// seen waits until the node has told the API something new: its next heartbeat.
func (w *world) seen(t *testing.T, name string) {
	t.Helper()
	lease, err := w.Client(t).CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, cluster.Limit, "a heartbeat of "+name, func() error {
		now, err := w.Client(t).CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && now.Spec.RenewTime.Equal(lease.Spec.RenewTime) {
			err = fmt.Errorf("the last one is of %v", lease.Spec.RenewTime)
		}
		return err
	})
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// pods are the DaemonSet's that are not on their way out.
func (w *world) pods(t *testing.T) []corev1.Pod {
	t.Helper()
	list, err := w.Client(t).CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

func (w *world) containers(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, p := range w.pods(t) {
		out[p.Name+" on "+p.Spec.NodeName] = fmt.Sprintf("%s, %d restarts", p.Status.ContainerStatuses[0].ContainerID, p.Status.ContainerStatuses[0].RestartCount)
	}
	return out
}

// logs reads the log of the node's pod through the API server: it checks the kubelet's serving certificate by the node's address.
func (w *world) logs(t *testing.T, node string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "the log of the pod on "+node, func() error {
		for _, p := range w.pods(t) {
			if p.Spec.NodeName == node {
				if r := w.KubectlErr(t, "logs", "-n", w.namespace, p.Name); r.Err != nil {
					return r.Err
				}
				return nil
			}
		}
		return fmt.Errorf("there is no pod")
	})
}

func get(t *testing.T, n *lab.Net, addr string) string {
	t.Helper()
	var body string
	cluster.Eventually(t, cluster.Limit, "an answer of "+addr, func() (err error) {
		body, err = try(t, n, addr)
		return err
	})
	return body
}

func try(t *testing.T, n *lab.Net, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	r, err := cluster.HTTPGet(ctx, n, "http://"+addr+"/")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return string(body), err
}
