package lifecycle

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/tests/e2e/cluster"
)

// What the API has acknowledged is there after a power cut, and so are the pods.
func testPowerCut(t *testing.T, w *world) {
	maps := w.Client(t).CoreV1().ConfigMaps(w.namespace)
	const acknowledged = 50
	for i := range acknowledged {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("note-%d", i)}, Data: map[string]string{"n": fmt.Sprint(i)}}
		if _, err := maps.Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Limit)
	defer cancel()
	if err := w.Host.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	_ = w.Server.Wait(t) // it was killed
	if err := w.Host.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	w.Server.Start(t)
	w.Server.WaitUp(t)
	for i := range acknowledged {
		m, err := maps.Get(t.Context(), fmt.Sprintf("note-%d", i), metav1.GetOptions{})
		if err != nil || m.Data["n"] != fmt.Sprint(i) {
			t.Errorf("note %d: %v, %v", i, m.Data, err)
		}
	}
	w.pod = w.WaitPod(t, w.namespace, w.pod.Name, func(p *corev1.Pod) error {
		if p.Status.ContainerStatuses[0].RestartCount == 0 { // what the API remembers of the time before
			return fmt.Errorf("not started again: %+v", p.Status.ContainerStatuses[0].State)
		}
		return cluster.Ready(p)
	})
	w.answers(t)
	w.waitDNS(t)
}
