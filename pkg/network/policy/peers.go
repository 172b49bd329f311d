package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// peers is the other end of a rule: everybody, or pods that one of the selectors chooses and addresses in one of the blocks.
type peers struct {
	everybody bool
	selectors []selector
	blocks    []netip.Prefix
}

// selector chooses pods: those with the labels in the namespaces with the labels, or in the one namespace.
type selector struct {
	namespace  string
	namespaces labels.Selector // nil: only namespace
	pods       labels.Selector
}

// key is the same for selectors that choose the same.
func (s selector) key() string {
	if s.namespaces == nil {
		return fmt.Sprintf("%s/%s", s.namespace, s.pods)
	}
	return fmt.Sprintf("{%s}/%s", s.namespaces, s.pods)
}

// newPeers reads a rule's from or to.
func newPeers(namespace string, list []netv1.NetworkPolicyPeer) (peers, error) {
	if len(list) == 0 {
		return peers{everybody: true}, nil
	}
	var out peers
	for _, p := range list {
		if p.IPBlock != nil {
			out.blocks = append(out.blocks, networks(p.IPBlock)...)
			continue
		}
		s := selector{namespace: namespace, pods: labels.Everything()}
		var err error
		if p.NamespaceSelector != nil {
			if s.namespaces, err = metav1.LabelSelectorAsSelector(p.NamespaceSelector); err != nil {
				return peers{}, fmt.Errorf("namespaceSelector: %w", err)
			}
		}
		if p.PodSelector != nil {
			if s.pods, err = metav1.LabelSelectorAsSelector(p.PodSelector); err != nil {
				return peers{}, fmt.Errorf("podSelector: %w", err)
			}
		}
		out.selectors = append(out.selectors, s)
	}
	out.blocks = disjoint(out.blocks)
	if everything(out.blocks) {
		return peers{everybody: true}, nil
	}
	slices.SortFunc(out.selectors, func(a, b selector) int { return strings.Compare(a.key(), b.key()) })
	return out, nil
}

// podsKey names what the selectors choose.
func (p peers) podsKey() string {
	var b strings.Builder
	for _, s := range p.selectors {
		b.WriteString(s.key() + "\n")
	}
	return b.String()
}

// key names all of it.
func (p peers) key() string { return fmt.Sprint(p.everybody, p.blocks, p.podsKey()) }

// census is the pods that have an address of their own, by namespace.
type census struct {
	namespaces map[string]labels.Set
	pods       map[string][]member
}

// member is a pod with its address.
type member struct {
	*v1.Pod
	addr netip.Addr
}

// choose calls f with the pods that the selectors choose, some perhaps twice.
func (c *census) choose(selectors []selector, f func(member)) {
	for _, s := range selectors {
		if s.namespaces == nil {
			c.chooseIn(s.namespace, s.pods, f)
			continue
		}
		for name, set := range c.namespaces {
			if s.namespaces.Matches(set) {
				c.chooseIn(name, s.pods, f)
			}
		}
	}
}

func (c *census) chooseIn(namespace string, pods labels.Selector, f func(member)) {
	for _, m := range c.pods[namespace] {
		if pods.Matches(labels.Set(m.Labels)) {
			f(m)
		}
	}
}

// among calls f with the pods that belong to the peers, also those in their blocks.
func (c *census) among(p peers, f func(member)) {
	c.choose(p.selectors, f)
	if !p.everybody && len(p.blocks) == 0 {
		return
	}
	for _, members := range c.pods {
		for _, m := range members {
			if p.everybody || slices.ContainsFunc(p.blocks, func(b netip.Prefix) bool { return b.Contains(m.addr) }) {
				f(m)
			}
		}
	}
}
