package certificates

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/tests/e2e/cluster"
)

// Certificates that live for minutes are renewed before they end, in the running process: a watch goes on over their ends, no request fails, and the control plane does its work with new ones.
func TestRenewal(t *testing.T) {
	t.Parallel()
	w := start(t, cluster.Options{Agents: 1, Env: []string{"LABK_TEST_LEAF_LIFE=3m"}})
	first, shown := w.leaves(t), w.shown(t)
	var ended time.Time
	for _, c := range first {
		if c.NotAfter.After(ended) {
			ended = c.NotAfter
		}
	}
	client := w.client(t)
	counter, err := client.CoreV1().ConfigMaps(w.namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := client.CoreV1().ConfigMaps(w.namespace).Watch(t.Context(), metav1.SingleObject(metav1.ObjectMeta{Name: "counter", ResourceVersion: counter.ResourceVersion}))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	pods, err := client.CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for ; time.Now().Before(ended.Add(time.Second)); count++ {
		now := w.client(t) // a connection of its own, with the kubeconfig of this moment
		counter.Data = map[string]string{"count": fmt.Sprint(count)}
		if counter, err = now.CoreV1().ConfigMaps(w.namespace).Update(t.Context(), counter, metav1.UpdateOptions{}); err != nil {
			t.Fatalf("request %d: %v", count, err)
		}
		select {
		case e, ok := <-watch.ResultChan():
			if m, is := e.Object.(*corev1.ConfigMap); !ok || !is || m.Data["count"] != fmt.Sprint(count) {
				t.Fatalf("the watch ended, or brought %+v instead of %d", e, count)
			}
		case <-time.After(cluster.Limit):
			t.Fatalf("the watch does not bring %d", count)
		}
		for _, p := range pods.Items {
			if _, err := now.CoreV1().Pods(w.namespace).GetLogs(p.Name, &corev1.PodLogOptions{}).DoRaw(t.Context()); err != nil {
				t.Fatalf("logs from %s: %v", p.Spec.NodeName, err)
			}
		}
	}
	t.Logf("%d requests without an error", count*(1+len(pods.Items)))
	changed(t, first, w.leaves(t))
	if shown == w.shown(t) {
		t.Error("the API server still shows the first certificate")
	}
	w.Kubectl(t, "create", "deployment", "late", "-n", w.namespace, "--image", "docker.io/labk/hello:1", "--replicas", "2")
	w.Kubectl(t, "rollout", "status", "deployment/late", "-n", w.namespace, "--timeout", cluster.Limit.String())
	w.well(t, w.all()...)
	for _, n := range []*cluster.Node{w.Server, w.Agents[0]} {
		if strings.Contains(n.Log(), "starting anew") {
			t.Errorf("%s started anew:\n%s", n.Host.Name(), n.Tail(20))
		}
	}
}

// shown is the serial number of the certificate that the API server shows.
func (w *world) shown(t *testing.T) string {
	t.Helper()
	raw, err := w.Host.Net().DialContext(t.Context(), "tcp", fmt.Sprintf("%s:6443", w.Host.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // it is only looked at
	defer conn.Close()
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}
