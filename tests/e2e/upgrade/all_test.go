package upgrade

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A whole cluster is upgraded from its server, at first with a PC that can't be.
func TestAll(t *testing.T) {
	w := start(t, 2)
	first, second := w.Agents[0], w.Agents[1]
	namespace := w.Namespace(t)
	w.spread(t, namespace)
	upgrade(t, first, "--all").Refused(t, 2, "--all is for the server")
	upgrade(t, w.Server, "--from", "server").Refused(t, 2, "--from server is for agents")

	// A pod that nobody would make anew keeps its PC from being drained: that is found before any agent is touched.
	w.Kubectl(t, "run", "lonely", "-n", namespace, "--image", w.Busybox(t), "--overrides", fmt.Sprintf(`{"spec": {"nodeName": %q}}`, second.Host.Name()), "--", "sleep", "100000")
	upgrade(t, w.Server, "--all", "--from", w.nextFile).Refused(t, 1, second.Host.Name()+" can't be drained", "lonely", "--drain=false")
	w.runs(t, w.Server, w.next)
	w.runs(t, first, w.now)
	w.runs(t, second, w.now)
	w.Kubectl(t, "delete", "pod", "lonely", "-n", namespace, "--now")

	// One on which labk is only run by hand says so at once, although it can't even begin.
	first.Sh(t, "mv /etc/labk/install.json /root/")
	upgrade(t, w.Server, "--all").Refused(t, 1, first.Host.Name()+": the upgrade to "+w.next+" failed", "labk was not installed here")
	first.Sh(t, "mv /root/install.json /etc/labk/")

	second.Sh(t, "mount --bind -o ro /usr/local/bin /usr/local/bin && mount -o remount,bind,ro /usr/local/bin")
	upgrade(t, w.Server, "--all").Refused(t, 1, second.Host.Name()+": the upgrade to "+w.next+" failed", "read-only file system", "upgraded before: "+first.Host.Name())
	second.Sh(t, "umount /usr/local/bin")
	w.runs(t, first, w.next)
	w.runs(t, second, w.now)
	if out := w.Kubectl(t, "describe", "node", second.Host.Name()); !strings.Contains(out, "UpgradeFailed") {
		t.Errorf("the node's events do not tell of the failure:\n%s", out)
	}
	moved := w.where(t, namespace)
	if moved[first.Host.Name()] > 0 && moved[second.Host.Name()] > 0 {
		t.Errorf("no PC was drained: pods are on %v", moved)
	}

	// A PC that is off is left out, and named.
	second.Systemctl(t, "stop", "labk-agent")
	w.notReady(t, second.Host.Name())
	upgrade(t, w.Server, "--all").Refused(t, 1, "left out, because they are not Ready: "+second.Host.Name())
	second.Systemctl(t, "start", "labk-agent")

	// Again, without moving pods: the one that is left.
	before := w.containers(t, namespace)
	if r := upgrade(t, w.Server, "--all", "--drain=false"); r.Code != 0 {
		t.Errorf("the second try failed:\n%s", second.Journal(t))
	}
	w.runs(t, second, w.next)
	if now := w.containers(t, namespace); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("containers before: %v, after: %v", before, now)
	}
	if r := upgrade(t, w.Server, "--all"); r.Code != 0 || !strings.Contains(r.Stderr, "every agent has "+w.next) {
		t.Error("an upgrade with nothing to do failed, or said nothing")
	}
}

// spread starts pods on all PCs that may be moved.
func (w *world) spread(t *testing.T, namespace string) {
	t.Helper()
	w.Apply(t, namespace, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 4
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: hello, image: %s, command: [sleep, "100000"]}]
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: hello}}}]
`, w.Busybox(t)))
	w.Kubectl(t, "rollout", "status", "-n", namespace, "deployment/hello", "--timeout=60s")
}

// notReady marks a node whose labk is off as the controllers do half a minute later.
func (w *world) notReady(t *testing.T, name string) {
	t.Helper()
	nodes := w.Client(t).CoreV1().Nodes()
	n, err := nodes.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			n.Status.Conditions[i].Status = corev1.ConditionUnknown
		}
	}
	if _, err := nodes.UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// where counts a namespace's pods by their nodes.
func (w *world) where(t *testing.T, namespace string) map[string]int {
	t.Helper()
	pods, err := w.Client(t).CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, p := range pods.Items {
		out[p.Spec.NodeName]++
	}
	return out
}
