package join

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/pkg/join"
)

// right is something that one may do or not.
type right struct {
	name    string
	do      func(context.Context, kubernetes.Interface) error
	allowed bool
}

func testRights(t *testing.T, j *joined) {
	ns := j.Namespace(t)
	for _, name := range []string{"of-a", "of-b"} {
		_, err := j.Client(t).CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	b := j.b.Host.Name()
	j.RunPod(t, ns, j.pod(t, nameA, "of-a"))
	podB := j.RunPod(t, ns, j.pod(t, b, "of-b"))
	t.Run("node", func(t *testing.T) {
		a := j.asNode(t, j.a)
		for _, r := range append(j.nodeRights(t, ns, podB), j.everyone(t, ns)...) {
			r.try(t, a)
		}
	})
	for name, c := range map[string]credential{"machine": j.asMachine(t, j.a), "token": j.asToken(t, j.a)} {
		t.Run(name, func(t *testing.T) {
			for _, r := range j.everyone(t, ns) {
				r.try(t, c)
			}
			testRules(t, c)
		})
	}
}

// try looks at the API's answer; one that is not about rights is a failure of the test.
func (r right) try(t *testing.T, c credential) {
	t.Run(r.name, func(t *testing.T) {
		err := r.do(t.Context(), c)
		switch {
		case r.allowed && err != nil:
			t.Errorf("it may not: %v", err)
		case !r.allowed && !apierrors.IsForbidden(err):
			t.Errorf("it is not forbidden: %v", err)
		}
	})
}

func getSecret(namespace, name string) func(context.Context, kubernetes.Interface) error {
	return func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		return err
	}
}

func getConfigMap(name string) func(context.Context, kubernetes.Interface) error {
	return func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoreV1().ConfigMaps(join.Namespace).Get(ctx, name, metav1.GetOptions{})
		return err
	}
}

func patchNode(name, patch string, subresources ...string) func(context.Context, kubernetes.Interface) error {
	return func(ctx context.Context, c kubernetes.Interface) error {
		_, err := c.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
		return err
	}
}

// nodeRights are those of node a.
func (j *joined) nodeRights(t *testing.T, ns string, podB *corev1.Pod) []right {
	b := j.b.Host.Name()
	label := func(key string) string { return fmt.Sprintf(`{"metadata":{"labels":{%q:""}}}`, key) }
	onB := j.pod(t, b, "")
	onB.GenerateName, onB.Name = "", "mirror"
	return []right{
		{"the Secret of its pod", getSecret(ns, "of-a"), true},
		{"the Secret of another node's pod", getSecret(ns, "of-b"), false},
		{"label itself", patchNode(nameA, label("example.org/mine")), true},
		{"label itself control-plane", patchNode(nameA, label("node-role.kubernetes.io/control-plane")), false},
		{"label itself worker", patchNode(nameA, label("node-role.kubernetes.io/other")), false},
		{"take its taints away", patchNode(nameA, `{"spec":{"taints":[]}}`), false},
		{"label another node", patchNode(b, label("example.org/mine")), false},
		{"label the server", patchNode(j.Host.Name(), label("example.org/mine")), false},
		{"another node's status", patchNode(b, `{"status":{"phase":"Terminated"}}`, "status"), false},
		{"delete another node", func(ctx context.Context, c kubernetes.Interface) error {
			return c.CoreV1().Nodes().Delete(ctx, b, metav1.DeleteOptions{})
		}, false},
		{"delete another node's pod", func(ctx context.Context, c kubernetes.Interface) error {
			return c.CoreV1().Pods(ns).Delete(ctx, podB.Name, metav1.DeleteOptions{})
		}, false},
		{"create a pod on another node", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().Pods(ns).Create(ctx, onB, metav1.CreateOptions{})
			return err
		}, false},
		{"what it must know", getConfigMap(join.ClusterConfigMap), true},
	}
}

// everyone lists what neither a node, nor a machine, nor a token may.
func (j *joined) everyone(t *testing.T, ns string) []right {
	own := parse(t, j.Token(t))
	csr, err := j.asMachine(t, j.a).request(t.Context(), forAdmin, nodeRequest(nameA), client)
	if err != nil {
		t.Fatal(err)
	}
	return []right{
		{"a token", getSecret(join.Namespace, "bootstrap-token-"+own.ID), false},
		{"all Secrets", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
			return err
		}, false},
		{"the Secrets of a namespace", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
			return err
		}, false},
		{"which PC is which node", getConfigMap("labk-nodes"), false},
		{"change what nodes must know", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CoreV1().ConfigMaps(join.Namespace).Patch(ctx, join.ClusterConfigMap, types.MergePatchType, []byte(`{"data":{"x":"y"}}`), metav1.PatchOptions{})
			return err
		}, false},
		{"approve its own request", func(ctx context.Context, c kubernetes.Interface) error {
			_, err := c.CertificatesV1().CertificateSigningRequests().Patch(ctx, csr, types.MergePatchType,
				[]byte(`{"status":{"conditions":[{"type":"Approved","status":"True","reason":"Me","message":"me"}]}}`), metav1.PatchOptions{}, "approval")
			return err
		}, false},
		{"be the administrator", func(ctx context.Context, c kubernetes.Interface) error {
			cfg := j.anonymous(t)
			own := c.(credential).config
			cfg.CertData, cfg.KeyData, cfg.BearerToken = own.CertData, own.KeyData, own.BearerToken
			cfg.Impersonate.UserName, cfg.Impersonate.Groups = "admin", []string{"system:masters"}
			as, err := kubernetes.NewForConfig(cfg)
			if err != nil {
				return err
			}
			_, err = as.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
			return err
		}, false},
	}
}

// testRules asks the API for everything that a token or a machine may do, in the namespace where something is given to it.
func testRules(t *testing.T, c credential) {
	review, err := c.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: join.Namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range review.Status.ResourceRules {
		slices.Sort(r.Verbs)
		for _, resource := range r.Resources {
			got = append(got, strings.Join([]string{resource, strings.Join(r.ResourceNames, ","), strings.Join(r.Verbs, ",")}, " "))
		}
	}
	slices.Sort(got)
	want := []string{
		"certificatesigningrequests  create,get,list,watch", "configmaps " + join.ClusterConfigMap + " get",
		// what everybody who is known may
		"selfsubjectaccessreviews  create", "selfsubjectreviews  create", "selfsubjectrulesreviews  create",
	}
	if !slices.Equal(slices.Compact(got), want) {
		t.Errorf("it may:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
