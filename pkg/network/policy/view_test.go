package policy

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What is stripped of an object makes no difference to Compile.
func TestStrip(t *testing.T) {
	in := example()
	in.Policies = []*netv1.NetworkPolicy{parse(t, "p", mixed)}
	want := names(iptablesRules(compiled(t, in)))
	for i, p := range in.Pods {
		p.Annotations = map[string]string{"long": "text"}
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "A", Value: "b"}}
		o, err := strip(p)
		if err != nil {
			t.Fatal(err)
		}
		in.Pods[i] = o.(*v1.Pod)
		if in.Pods[i].Annotations != nil || in.Pods[i].Spec.Containers[0].Env != nil {
			t.Errorf("kept too much: %v", in.Pods[i])
		}
	}
	for i, n := range in.Namespaces {
		o, _ := strip(n)
		in.Namespaces[i] = o.(*v1.Namespace)
	}
	o, _ := strip(in.Policies[0])
	in.Policies[0] = o.(*netv1.NetworkPolicy)
	if got := names(iptablesRules(compiled(t, in))); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSamePod(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*v1.Pod)
		same   bool
	}{
		"heartbeat":  {func(p *v1.Pod) { p.ResourceVersion = "7" }, true},
		"running":    {func(p *v1.Pod) { p.Status.Phase = v1.PodPending }, true},
		"label":      {func(p *v1.Pod) { p.Labels["app"] = "other" }, false},
		"address":    {func(p *v1.Pod) { p.Status.PodIP = "10.0.0.8" }, false},
		"end":        {func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }, false},
		"assignment": {func(p *v1.Pod) { p.Spec.NodeName = "there" }, false},
		"another":    {func(p *v1.Pod) { p.UID = "2" }, false},
	} {
		if got := samePod(pod("a", "p", "here", "10.0.0.1", nil), pod("a", "p", "here", "10.0.0.1", tc.change)); got != tc.same {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestSamePolicy(t *testing.T) {
	policy := func(generation int64) *netv1.NetworkPolicy {
		return &netv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{UID: "1", Generation: generation}}
	}
	if !samePolicy(policy(1), policy(1)) || samePolicy(policy(1), policy(2)) {
		t.Error("the generation tells whether the spec has changed")
	}
}
