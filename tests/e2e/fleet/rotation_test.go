package fleet

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/labk/labk/tests/e2e/cluster"
)

// A kubelet renews its certificates by itself, and everything that uses them follows: after the first ones have ended, the node is Ready, its pods' logs can be
// read, and a new Service answers on it.
func TestRotation(t *testing.T) {
	t.Parallel()
	c := cluster.Start(t, cluster.Options{Agents: 1, Args: []string{"--kube-controller-manager-arg", "cluster-signing-duration=2m"}})
	w := &world{Cluster: c, namespace: c.Namespace(t)}
	agent := c.Agents[0]
	first := map[string]time.Time{}
	var ended time.Time
	for _, name := range []string{"kubelet-client-current.pem", "kubelet-server-current.pem"} {
		first[name] = cluster.Certificate(t, agent.Sh(t, "cat "+filepath.Join(agentTLS, name))).NotAfter
		if first[name].After(ended) {
			ended = first[name]
		}
	}
	cluster.Eventually(t, 2*cluster.Limit, "the first certificates have ended", func() error {
		if time.Now().Before(ended) {
			return fmt.Errorf("the last one ends at %v", ended)
		}
		return nil
	})
	for name, old := range first {
		if now := cluster.Certificate(t, agent.Sh(t, "cat "+filepath.Join(agentTLS, name))).NotAfter; !now.After(old) || !now.After(time.Now()) {
			t.Errorf("%s ends at %v, as the first one did at %v", name, now, old)
		}
	}
	w.seen(t, agent.Host.Name())
	pod := hello(agent.Host.Name())
	w.RunPod(t, w.namespace, pod)
	w.logs(t, agent.Host.Name())
	service, err := c.Client(t).CoreV1().Services(w.namespace).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "late"},
		Spec:       corev1.ServiceSpec{Selector: pod.Labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	get(t, agent.Host.Net(), service.Spec.ClusterIP+":80")
}

func hello(node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "hello", Labels: map[string]string{"app": "hello"}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "hello", Image: "docker.io/labk/hello:1"}}},
	}
}
