// Package nodes tries the pod network over three PCs: what pods, Services and policies do when the other end is on another node. The PCs are not
// alike: one has two addresses, one a second card and no nft.
package nodes

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// world is three nodes with a web server on each. Pods have the label on=INDEX of their node's host.
type world struct {
	*cluster.Cluster
	namespace string
	members   []*member
}

// member is a node and its pod.
type member struct {
	*cluster.Node
	address string // the node's
	pod     *corev1.Pod
	net     *lab.Net // the pod's
}

// The agents are joined in these ways: with the second of two addresses, and by the card that the default route does not leave from.
const (
	secondAddress = "10.77.0.99"
	twoAddresses  = "ip addr add " + secondAddress + "/24 dev eth0"
	twoCards      = "ip link add wlan0 type veth peer name far && ip link set far up && ip link set wlan0 up && " +
		"ip addr add 192.168.66.2/24 dev wlan0 && ip route replace default via 192.168.66.1 dev wlan0"
)

// start starts a server and two agents, the last of them without nft.
func start(t *testing.T, o cluster.Options) *world {
	o.Hosts, o.Subnet = 3, "10.77.0.0/24"
	c := cluster.Start(t, o)
	second := c.Agent(t, 2, nil)
	second.Sh(t, twoAddresses)
	second.Start(t, append(c.JoinArgs(t), "--node-ip", secondAddress)...)
	third := c.Agent(t, 3, cluster.EnvWithoutNft())
	third.HideNft(t)
	third.Sh(t, twoCards)
	third.Start(t, append(c.JoinArgs(t), "--flannel-iface", "eth0")...)
	w := &world{Cluster: c, namespace: c.Namespace(t)}
	for _, n := range []*cluster.Node{c.Server, second, third} {
		n.WaitUp(t)
		w.members = append(w.members, w.join(t, n))
	}
	for _, m := range w.members {
		m.pod, m.net = w.ready(t, m, m.pod.Name)
		serve(t, m.net)
	}
	return w
}

// join looks the node up and creates its pod.
func (w *world) join(t *testing.T, n *cluster.Node) *member {
	t.Helper()
	node, err := w.Client(t).CoreV1().Nodes().Get(t.Context(), n.Host.Name(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := &member{Node: n, address: node.Status.Addresses[0].Address}
	m.pod = w.CreatePod(t, w.namespace, hello(m, "hello"))
	return m
}

// ready waits until a pod of the member's node is ready, and finds its network.
func (w *world) ready(t *testing.T, m *member, name string) (*corev1.Pod, *lab.Net) {
	t.Helper()
	pod := w.WaitPod(t, w.namespace, name, cluster.Ready)
	return pod, w.PodNet(t, m.Host, pod)
}

// others are the members but for one.
func (w *world) others(m *member) (out []*member) {
	for _, o := range w.members {
		if o != m {
			out = append(out, o)
		}
	}
	return out
}

// tests may run at the same time.
var tests = []struct {
	name string
	run  func(*testing.T, *world)
}{
	{"TCP", testTCP},
	{"UDP", testUDP},
	{"ClusterIP", testClusterIP},
	{"headless", testHeadless},
	{"NodePort", testNodePort},
	{"externalTrafficPolicy Local", testLocalPolicy},
	{"hostPort", testHostPort},
	{"hostIP", testHostIP},
	{"hostNetwork", testHostNetwork},
	{"NetworkPolicy", testPolicy},
}

func testAll(t *testing.T, w *world) {
	t.Run("together", func(t *testing.T) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				test.run(t, w)
			})
		}
	})
	t.Run("deleted node", func(t *testing.T) { testDeleted(t, w) })
}

// Cables that carry less than usual, as those of some VPNs.
func TestVXLAN(t *testing.T) {
	const mtu = 1400
	w := start(t, cluster.Options{MTU: mtu})
	w.haveTunnels(t, true)
	w.podsHaveMTU(t, mtu-50)
	testAll(t, w)
}

// Cables that carry more than usual, and a lab without a way out. Only the server is told how packets travel.
func TestHostGateway(t *testing.T) {
	const mtu = 9000
	w := start(t, cluster.Options{Args: []string{"--flannel-backend", "host-gw"}, MTU: mtu, NoDefaultRoute: true, Files: map[string]string{"/etc/resolv.conf": ""}})
	w.haveTunnels(t, false)
	w.podsHaveMTU(t, mtu)
	testAll(t, w)
}

func (w *world) haveTunnels(t *testing.T, want bool) {
	t.Helper()
	for _, m := range w.members {
		if r := m.Exec(t, nil, "ip", "link", "show", "flannel.1"); want != (r.Err == nil) {
			t.Errorf("%s has a tunnel: want %v, got %s", m.Host.Name(), want, r.Stdout+r.Stderr)
		}
	}
}

// hello is a pod of the web server that comes with labk, on the member's node.
func hello(m *member, app string) *corev1.Pod {
	now := int64(0)
	on := fmt.Sprint(m.Host.Index())
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: app + "-" + on, Labels: map[string]string{"app": app, "on": on}},
		Spec: corev1.PodSpec{
			NodeName: m.Host.Name(), TerminationGracePeriodSeconds: &now,
			Containers: []corev1.Container{{
				Name: "hello", Image: "docker.io/labk/hello:1",
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				ReadinessProbe: &corev1.Probe{
					ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)}},
					PeriodSeconds: 1,
				},
			}},
		},
	}
}
