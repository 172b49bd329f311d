package nodes

import (
	"context"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

// clusterDNS runs on one node and is asked from all.
const clusterDNS = "10.43.0.10:53"

// service creates a Service, port 80 for the pods' port 8080.
func (w *world) service(t *testing.T, name string, selector map[string]string, change func(*corev1.ServiceSpec)) *corev1.Service {
	t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: selector, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}
	if change != nil {
		change(&s.Spec)
	}
	s, err := w.Client(t).CoreV1().Services(w.namespace).Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// greeting is what the web server answers: its pod's name, and the address of who asked.
var greeting = regexp.MustCompile(`^Hello from (\S+), you are ([0-9.]+):\d+\n$`)

func ask(ctx context.Context, from *lab.Net, address string) (pod, asker string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := cluster.HTTPGet(ctx, from, "http://"+address+"/")
	if err != nil {
		return "", "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", "", err
	}
	m := greeting.FindSubmatch(text)
	if m == nil {
		return "", "", fmt.Errorf("unexpected answer %q", text)
	}
	return string(m[1]), string(m[2]), nil
}

// reaches waits until each of the pods has answered, and no other does. Who asks is seen as asker, unless that is empty.
func reaches(t *testing.T, what string, from *lab.Net, address, asker string, pods ...string) {
	t.Helper()
	missing := slices.Clone(pods)
	cluster.Eventually(t, cluster.Limit, fmt.Sprintf("%v answer at %s, asked from %s", pods, address, what), func() error {
		for range 3 * len(pods) {
			pod, as, err := ask(t.Context(), from, address)
			if err != nil {
				return err
			}
			if !slices.Contains(pods, pod) {
				return fmt.Errorf("%s answers", pod)
			}
			if asker != "" && as != asker {
				return fmt.Errorf("%s is seen as %s", asker, as)
			}
			missing = slices.DeleteFunc(missing, func(p string) bool { return p == pod })
		}
		if len(missing) > 0 {
			return fmt.Errorf("no answer of %v", missing)
		}
		return nil
	})
}

// names are those of the members' pods.
func (w *world) names() (out []string) {
	for _, m := range w.members {
		out = append(out, m.pod.Name)
	}
	return out
}

// Each node and each pod reaches the pods of all nodes. A pod is seen as itself, but not by itself.
func testClusterIP(t *testing.T, w *world) {
	s := w.service(t, "all", map[string]string{"app": "hello"}, nil)
	for _, m := range w.members {
		reaches(t, m.Host.Name(), m.Host.Net(), s.Spec.ClusterIP+":80", "", w.names()...)
		reaches(t, "a pod on "+m.Host.Name(), m.net, s.Spec.ClusterIP+":80", "", w.names()...)
	}
	for _, to := range w.members {
		s := w.service(t, "only-"+to.pod.Name, to.pod.Labels, nil)
		for _, m := range w.others(to) {
			reaches(t, "a pod on "+m.Host.Name(), m.net, s.Spec.ClusterIP+":80", m.pod.Status.PodIP, to.pod.Name)
		}
	}
}

// The cluster's DNS is asked from each node and each pod, over UDP and TCP.
func testHeadless(t *testing.T, w *world) {
	w.service(t, "headless", map[string]string{"app": "hello"}, func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })
	var want []string
	for _, m := range w.members {
		want = append(want, m.pod.Status.PodIP)
	}
	slices.Sort(want)
	for _, m := range w.members {
		for _, from := range []*lab.Net{m.Host.Net(), m.net} {
			for _, network := range []string{"udp", "tcp"} {
				cluster.Eventually(t, cluster.Limit, "addresses of a Service over "+network+" on "+m.Host.Name(), func() error {
					got, err := lookUp(t, from, network, "headless."+w.namespace+".svc.cluster.local.")
					if err == nil && !slices.Equal(got, want) {
						err = fmt.Errorf("got %v, want %v", got, want)
					}
					return err
				})
			}
		}
	}
}

// lookUp asks the cluster's DNS for addresses, which it returns sorted.
func lookUp(t *testing.T, from *lab.Net, network, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return from.DialContext(ctx, network, clusterDNS)
	}}
	got, err := r.LookupHost(ctx, name)
	slices.Sort(got)
	return got, err
}

// nodePort makes a Service for the member's pod alone and returns its port on all nodes, with a colon before it.
func (w *world) nodePort(t *testing.T, name string, m *member, policy corev1.ServiceExternalTrafficPolicy) string {
	t.Helper()
	s := w.service(t, fmt.Sprintf("%s-%d", name, m.Host.Index()), m.pod.Labels, func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, policy
	})
	return fmt.Sprintf(":%d", s.Spec.Ports[0].NodePort)
}

// A pod on one node is reached by the address of any: from outside, from nodes, and from pods.
func testNodePort(t *testing.T, w *world) {
	for _, to := range w.members {
		port := w.nodePort(t, "node-port", to, corev1.ServiceExternalTrafficPolicyCluster)
		for _, at := range w.members {
			reaches(t, "outside", w.Lab.Net(), at.address+port, "", to.pod.Name)
			reaches(t, at.Host.Name(), at.Host.Net(), at.address+port, "", to.pod.Name)
			reaches(t, "a pod on "+to.Host.Name(), to.net, at.address+port, "", to.pod.Name)
		}
	}
}

// A pod is only reached by its own node's address, and sees who really asks.
func testLocalPolicy(t *testing.T, w *world) {
	for _, to := range w.members {
		port := w.nodePort(t, "local", to, corev1.ServiceExternalTrafficPolicyLocal)
		reaches(t, "outside", w.Lab.Net(), to.address+port, w.Lab.Gateway().String(), to.pod.Name)
		for _, at := range w.others(to) {
			if pod, _, err := ask(t.Context(), w.Lab.Net(), at.address+port); err == nil {
				t.Errorf("%s on %s answers at %s", pod, to.Host.Name(), at.Host.Name())
			}
		}
	}
}

// expose is a pod on the member's node, one of whose ports is the node's.
func (w *world) expose(t *testing.T, m *member, app string, port corev1.ContainerPort) string {
	t.Helper()
	pod := hello(m, app)
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{port}
	w.CreatePod(t, w.namespace, pod)
	return pod.Name
}

// One port of a node may be one pod's for TCP and another's for UDP. Both are reached from outside, other nodes and their pods.
func testHostPort(t *testing.T, w *world) {
	for _, at := range w.members[1:] {
		tcp := w.expose(t, at, "host-tcp", corev1.ContainerPort{HostPort: 18080, ContainerPort: 8080})
		udp := w.expose(t, at, "host-udp", corev1.ContainerPort{HostPort: 18080, ContainerPort: echo, Protocol: corev1.ProtocolUDP})
		w.ready(t, at, tcp)
		_, inside := w.ready(t, at, udp)
		serve(t, inside)
		for what, from := range w.beside(at) {
			reaches(t, what, from, at.address+":18080", "", tcp)
			cluster.Eventually(t, cluster.Limit, "an answer over UDP at "+at.Host.Name()+" "+what, func() error {
				_, err := exchange(t, from, "udp", at.address+":18080", random(100))
				return err
			})
		}
	}
}

// beside are networks from which the member's node is reached over a cable.
func (w *world) beside(m *member) map[string]*lab.Net {
	out := map[string]*lab.Net{"outside": w.Lab.Net()}
	for _, o := range w.others(m) {
		out[o.Host.Name()] = o.Host.Net()
		out["a pod on "+o.Host.Name()] = o.net
	}
	return out
}

// Two pods have the same port at two addresses of one node.
func testHostIP(t *testing.T, w *world) {
	at := w.members[1]
	byAddress := map[string]string{}
	for i, address := range []string{at.Host.Addr().String(), secondAddress} {
		byAddress[address] = w.expose(t, at, fmt.Sprintf("host-ip-%d", i), corev1.ContainerPort{HostPort: 18081, HostIP: address, ContainerPort: 8080})
	}
	for _, pod := range byAddress {
		w.ready(t, at, pod)
	}
	for what, from := range w.beside(at) {
		for address, pod := range byAddress {
			reaches(t, what, from, address+":18081", "", pod)
		}
	}
}

// A pod that has its node's network reaches pods on other nodes and is reached by them.
func testHostNetwork(t *testing.T, w *world) {
	for _, at := range w.members {
		pod := hello(at, "host-network")
		pod.Spec.HostNetwork = true
		c := &pod.Spec.Containers[0]
		c.Ports, c.Env = nil, []corev1.EnvVar{{Name: "HELLO_ADDRESS", Value: ":18082"}}
		c.ReadinessProbe.HTTPGet.Port = intstr.FromInt32(18082)
		w.RunPod(t, w.namespace, pod)
		for _, o := range w.others(at) {
			// its host name is the node's
			reaches(t, "a pod on "+o.Host.Name(), o.net, at.address+":18082", "", at.Host.Name())
			reaches(t, at.Host.Name(), at.Host.Net(), o.pod.Status.PodIP+":8080", "", o.pod.Name)
		}
	}
}

// testDeleted takes the last node away for good: the others forget the way there, and go on.
func testDeleted(t *testing.T, w *world) {
	gone := w.members[2]
	node, err := w.Client(t).CoreV1().Nodes().Get(t.Context(), gone.Host.Name(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	subnet := strings.TrimSuffix(node.Spec.PodCIDR, ".0/24") + "."
	for _, m := range w.others(gone) {
		if ways := waysTo(t, m, subnet, gone.address); len(ways) == 0 {
			t.Fatalf("%s knows no way to %s", m.Host.Name(), node.Spec.PodCIDR)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := gone.Host.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	_ = gone.Wait(t)
	if err := w.Client(t).CoreV1().Nodes().Delete(t.Context(), node.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.members = w.others(gone)
	for _, m := range w.members {
		cluster.Eventually(t, cluster.Limit, m.Host.Name()+" forgets the way to "+node.Spec.PodCIDR, func() error {
			if ways := waysTo(t, m, subnet, gone.address); len(ways) > 0 {
				return fmt.Errorf("it has %q", ways)
			}
			return nil
		})
	}
	testTCP(t, w)
}

// waysTo are the member's routes to pods' addresses that begin so, and what its tunnel notes of them and of the node that has them.
func waysTo(t *testing.T, m *member, subnet, address string) (ways []string) {
	t.Helper()
	const show = "ip route; if [ -e /sys/class/net/flannel.1 ]; then ip neigh show dev flannel.1; bridge fdb show dev flannel.1; fi"
	for line := range strings.Lines(m.Sh(t, show)) {
		if strings.Contains(line, subnet) || strings.Contains(line, "dst "+address+" ") {
			ways = append(ways, strings.TrimSpace(line))
		}
	}
	return ways
}
