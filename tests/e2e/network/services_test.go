package network

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/labk/labk/tests/e2e/cluster"
)

func testClusterIP(t *testing.T, w *world) {
	s := w.service(t, "plain", "hello", nil)
	url := "http://" + s.Spec.ClusterIP + "/"
	reachAll(t, "from a pod", w.fromPod(t, w.client.Name), url, len(w.hellos))
	reachAll(t, "from the node", with(w.Inside()), url, len(w.hellos))
}

// nodePort is the URL of a Service's only port on the node.
func (w *world) nodePort(s *corev1.Service) string {
	return "http://" + net.JoinHostPort(w.Host.Addr().String(), strconv.Itoa(int(s.Spec.Ports[0].NodePort))) + "/"
}

func testNodePort(t *testing.T, w *world) {
	s := w.service(t, "node-port", "hello", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	reachAll(t, "from outside", with(w.Outside()), w.nodePort(s), len(w.hellos))
	reachAll(t, "from the node", with(w.Inside()), w.nodePort(s), len(w.hellos))
	reachAll(t, "from a pod", w.fromPod(t, w.client.Name), w.nodePort(s), len(w.hellos))
}

// With externalTrafficPolicy Local, a pod sees who really asks.
func testLocalPolicy(t *testing.T, w *world) {
	s := w.service(t, "local", "hello", func(s *corev1.ServiceSpec) {
		s.Type = corev1.ServiceTypeNodePort
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	reachAll(t, "from outside", with(w.Outside()), w.nodePort(s), len(w.hellos))
	if _, from, err := with(w.Outside())(t.Context(), w.nodePort(s)); err != nil || from != w.Lab.Gateway().String() {
		t.Errorf("a pod was asked by %q, want %s: %v", from, w.Lab.Gateway(), err)
	}
}

func testAffinity(t *testing.T, w *world) {
	s := w.service(t, "affinity", "hello", func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP })
	ask, url := w.fromPod(t, w.client.Name), "http://"+s.Spec.ClusterIP+"/"
	var first string
	cluster.Eventually(t, cluster.Limit, "an answer at "+url, func() (err error) {
		first, _, err = ask(t.Context(), url)
		return err
	})
	for range 10 { // without affinity, chance would have to choose it each time
		if pod, _, err := ask(t.Context(), url); err != nil || pod != first {
			t.Fatalf("%q answers after %q: %v", pod, first, err)
		}
	}
}

func testHostPort(t *testing.T, w *world) {
	pod := hello("host-port", "host-port")
	pod.Spec.Containers[0].Ports[0].HostPort = 18080
	w.RunPod(t, w.namespace, pod)
	url := "http://" + net.JoinHostPort(w.Host.Addr().String(), "18080") + "/"
	reachAll(t, "from outside", with(w.Outside()), url, 1)
	reachAll(t, "from the node", with(w.Inside()), url, 1)
	reachAll(t, "from a pod", w.fromPod(t, w.client.Name), url, 1)
}

// A pod reaches itself through its own Service.
func testHairpin(t *testing.T, w *world) {
	image := w.client.Spec.Containers[0].Image
	pod := w.RunPod(t, w.namespace, shell("hairpin", image, "mkdir /www; echo myself >/www/index.html; exec httpd -f -p 8080 -h /www"))
	s := w.service(t, "hairpin", "hairpin", nil)
	cluster.Eventually(t, cluster.Limit, "the pod reaches itself", func() error {
		text, err := w.wget(t, pod.Name, "http://"+s.Spec.ClusterIP+"/")
		if err == nil && text != "myself\n" {
			err = fmt.Errorf("it got %q", text)
		}
		return err
	})
}

// The cluster's DNS is what answers on UDP in every cluster; here it gets a NodePort, too.
func testUDP(t *testing.T, w *world) {
	services := w.Client(t).CoreV1().Services(metav1.NamespaceSystem)
	s, err := services.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "dns-outside"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"k8s-app": "kube-dns"},
			Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(53)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from    string
		network dialer
		address string
	}{
		{"from outside", w.Lab.Net(), net.JoinHostPort(w.Host.Addr().String(), strconv.Itoa(int(s.Spec.Ports[0].NodePort)))},
		{"from the node", w.Host.Net(), s.Spec.ClusterIP + ":53"},
	} {
		cluster.Eventually(t, cluster.Limit, "an answer at "+c.address+" "+c.from, func() error {
			answer, err := query(t.Context(), c.network, c.address, "kubernetes.default.svc.cluster.local.", dns.TypeA)
			if err != nil {
				return err
			}
			if len(answer.Answer) != 1 {
				return errors.New(answer.String())
			}
			return nil
		})
	}
}
