package workloads

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/tests/e2e/cluster"
)

func (w *world) label(t *testing.T, ns, key, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, key, value)
	if _, err := w.Client(t).CoreV1().Namespaces().Patch(t.Context(), ns, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func testPodSecurity(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.label(t, ns, "pod-security.kubernetes.io/enforce", "restricted")
	modest := w.pod("modest", "id -u", func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(1000)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}
	})
	mustEqual(t, "user of a modest pod", w.Output(t, ns, modest), "1000")
	w.refused(t, ns, w.pod("plain", "true"), `violates PodSecurity "restricted`)
	privileged := w.pod("privileged", "true", func(p *corev1.Pod) {
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
	})
	w.refused(t, ns, privileged, `violates PodSecurity "restricted`)
	w.label(t, ns, "pod-security.kubernetes.io/enforce", "baseline")
	w.refused(t, ns, w.pod("hosted", "true", func(p *corev1.Pod) { p.Spec.HostNetwork = true }), `violates PodSecurity "baseline`)
	w.Output(t, ns, w.pod("plain", "true"))
	w.label(t, ns, "pod-security.kubernetes.io/enforce", "privileged")
	cluster.Eventually(t, cluster.Limit, "admission of a privileged pod", func() error { return w.dryRun(t, ns, privileged) })
	w.Output(t, ns, privileged)
}

// refused waits until the pod is refused for the reason: the API server notices a change of a namespace's labels a moment later.
func (w *world) refused(t *testing.T, ns string, pod *corev1.Pod, reason string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "refusal of pod "+pod.Name, func() error {
		err := w.dryRun(t, ns, pod)
		if err == nil || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), reason) {
			return fmt.Errorf("got %v, want %q", err, reason)
		}
		return nil
	})
}

func (w *world) dryRun(t *testing.T, ns string, pod *corev1.Pod) error {
	_, err := w.Client(t).CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

func testAdmissionPolicy(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.Apply(t, "", strings.ReplaceAll(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAMESPACE}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]
  validations:
  - expression: "has(object.data) && 'owner' in object.data"
    message: say whose it is
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAMESPACE}
spec:
  policyName: NAMESPACE
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}}
`, "NAMESPACE", ns))
	cluster.Eventually(t, cluster.Limit, "refusal by the policy", func() error {
		_, err := w.Client(t).CoreV1().ConfigMaps(ns).Create(t.Context(),
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "nobodys"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil || !strings.Contains(err.Error(), "say whose it is") {
			return fmt.Errorf("got: %v", err)
		}
		return nil
	})
	w.configMap(t, ns, "mine", map[string]string{"owner": "me"})
	w.Kubectl(t, "delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", ns)
}

// Without credentials one may ask whether the server is well, and nothing else, there and at the kubelet.
func testAnonymous(t *testing.T, w *world) {
	client := w.Outside()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // this stranger has no CA
	for path, want := range map[string]bool{
		":6443/livez": true, ":6443/readyz": true, ":6443/healthz": true,
		":6443/version": false, ":6443/api": false, ":6443/metrics": false, ":6443/openid/v1/jwks": false,
		":6443/api/v1/namespaces": false, ":6443/.well-known/openid-configuration": false,
		":10250/pods": false, ":10250/healthz": false, ":10250/metrics": false,
	} {
		resp, err := client.Get("https://" + w.Host.Addr().String() + path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if want && resp.StatusCode != http.StatusOK || !want && resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s answered a stranger: %s: %.200s", path, resp.Status, body)
		}
	}
}

// The kubelet's credentials are good for what its own node's pods need, not for another node's.
func testNodeRights(t *testing.T, w *world) {
	ns := w.Namespace(t)
	other := ns + "-node"
	nodes, pods := w.Client(t).CoreV1().Nodes(), w.Client(t).CoreV1().Pods(ns)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: other}, Spec: corev1.NodeSpec{
		Unschedulable: true, Taints: []corev1.Taint{{Key: "labtest/nowhere", Effect: corev1.TaintEffectNoSchedule}}}}
	if _, err := nodes.Create(t.Context(), node, createOptions); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"own", "other"} {
		w.secret(t, ns, name, map[string]string{"key": name})
		source := corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}
		pod := w.pod(name, "exec sleep 3600", mount("/s", source))
		if name == "other" {
			pod.Spec.NodeName = other
		}
		w.CreatePod(t, ns, pod)
	}
	w.WaitPod(t, ns, "own", cluster.Ready)
	client, err := kubernetes.NewForConfig(w.ConfigOf(t, "/var/lib/labk/agent/tls/kubelet.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Secrets(ns).Get(t.Context(), "own", getOptions); err != nil {
		t.Errorf("a secret that one of its pods has: %v", err)
	}
	mustBeForbidden := func(what string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) {
			t.Errorf("the kubelet may %s: %v", what, err)
		}
	}
	_, err = client.CoreV1().Secrets(ns).Get(t.Context(), "other", getOptions)
	mustBeForbidden("read another node's secret", err)
	_, err = client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
	mustBeForbidden("list secrets", err)
	_, err = client.CoreV1().Nodes().Patch(t.Context(), other, types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
	mustBeForbidden("change another node", err)
	mustBeForbidden("delete another node's pod", client.CoreV1().Pods(ns).Delete(t.Context(), "other", deleteOptions))
	own := strings.ToLower(w.Host.Name())
	_, err = client.CoreV1().Nodes().Patch(t.Context(), own, types.MergePatchType, []byte(`{"metadata":{"labels":{"node-restriction.kubernetes.io/a":"b"}}}`), metav1.PatchOptions{})
	mustBeForbidden("give its node a restricted label", err)

	if err := pods.Delete(t.Context(), "other", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Error(err)
	}
	if err := nodes.Delete(t.Context(), other, deleteOptions); err != nil {
		t.Error(err)
	}
}
