package nodes

import (
	"errors"
	"fmt"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/tests/e2e/cluster"
)

// onlyFirst lets only the pod of the first node in. Other nodes know that pod by its labels.
const onlyFirst = `
metadata: {name: only-first}
spec:
  podSelector: {matchLabels: {app: guarded}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: hello, "on": "1"}}}]
`

// guarded is a pod that the policy is about, and where it is asked: at its own address and that of its Service.
type guarded struct {
	on        *member
	addresses []string
}

// A policy of pods on the second node, which has nftables, and on the third, which has iptables, tells pods on other nodes by their labels,
// directly and through a Service.
func testPolicy(t *testing.T, w *world) {
	var all []guarded
	for _, m := range w.members[1:] {
		w.CreatePod(t, w.namespace, hello(m, "guarded"))
	}
	for _, m := range w.members[1:] {
		pod, _ := w.ready(t, m, hello(m, "guarded").Name)
		s := w.service(t, pod.Name, map[string]string{"app": "guarded", "on": pod.Labels["on"]}, nil)
		g := guarded{on: m, addresses: []string{pod.Status.PodIP + ":8080", s.Spec.ClusterIP + ":80"}}
		for _, from := range w.others(m) {
			for _, address := range g.addresses {
				reaches(t, "a pod on "+from.Host.Name(), from.net, address, "", pod.Name)
			}
		}
		all = append(all, g)
	}
	policy := cluster.Parse[networkingv1.NetworkPolicy](t, onlyFirst)
	if _, err := w.Client(t).NetworkingV1().NetworkPolicies(w.namespace).Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, cluster.Limit, "only the first node's pod is let in", func() error {
		var wrong []error
		for _, g := range all {
			wrong = append(wrong, w.onlyFirst(t, g))
		}
		return errors.Join(wrong...)
	})
}

// onlyFirst tells which pods on other nodes are let in and should not be, or the other way round.
func (w *world) onlyFirst(t *testing.T, g guarded) error {
	for _, from := range w.others(g.on) {
		for _, address := range g.addresses {
			_, _, err := ask(t.Context(), from.net, address)
			if want := from == w.members[0]; want != (err == nil) {
				return fmt.Errorf("from %s to %s at %s: want let in %v, error %v", from.Host.Name(), g.on.Host.Name(), address, want, err)
			}
		}
	}
	return nil
}
