package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Input is everything that decides what a node's packet filter does. Nothing in it is changed.
type Input struct {
	// Node is the name of the node whose pods are to be isolated.
	Node       string
	Policies   []*netv1.NetworkPolicy
	Pods       []*v1.Pod
	Namespaces []*v1.Namespace
	// Addresses are those that this node has given to pods, known here before the API tells them.
	Addresses map[netip.Addr]types.NamespacedName
}

// Compile decides what the node's packet filter does. The error names policies that could not be understood; the model is that of the others.
func Compile(in Input) (*Model, error) {
	c := &compiler{Model: newModel(), census: takeCensus(in), wanted: map[string]wantedSet{}}
	locals := map[string][]*target{}
	for namespace, members := range c.census.pods {
		for _, m := range members {
			if m.Spec.NodeName == in.Node {
				locals[namespace] = append(locals[namespace], &target{member: m})
			}
		}
	}
	var errs []error
	for _, p := range in.Policies {
		if err := c.add(p, locals[p.Namespace]); err != nil {
			errs = append(errs, fmt.Errorf("network policy %s/%s: %w", p.Namespace, p.Name, err))
		}
	}
	for _, targets := range locals {
		for _, t := range targets {
			c.finish(Ingress, t.addr, t.ingress)
			c.finish(Egress, t.addr, t.egress)
		}
	}
	c.fill()
	return c.Model, errors.Join(errs...)
}

// compiler is one run of Compile.
type compiler struct {
	*Model
	census *census
	wanted map[string]wantedSet
}

// wantedSet is a set that some rule names; it is filled when it is known that a profile has that rule.
type wantedSet struct {
	kind  Kind
	peers peers
	port  namedPort // of endpoints
}

// target is a pod of this node, with what the policies that select it allow. nil rules: not isolated.
type target struct {
	member
	ingress, egress []Rule
}

// takeCensus finds the pods that policies apply to, as targets or as peers: those with an address of their own that have not ended. A pod that is being
// deleted goes on being one until it has ended: what it still has to do may need the network.
func takeCensus(in Input) *census {
	c := &census{namespaces: map[string]labels.Set{}, pods: map[string][]member{}}
	for _, n := range in.Namespaces {
		c.namespaces[n.Name] = n.Labels
	}
	given := map[types.NamespacedName][]netip.Addr{}
	for addr, pod := range in.Addresses {
		given[pod] = append(given[pod], addr)
	}
	for _, p := range in.Pods {
		if p.Spec.HostNetwork || ended(p) {
			continue
		}
		pod := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		addrs := given[pod]
		if len(addrs) == 0 || p.Spec.NodeName != in.Node {
			addrs = nil
			// What the API tells may be from before a reboot: the address may be another pod's by now.
			if a, err := netip.ParseAddr(p.Status.PodIP); err == nil && in.Addresses[a] == (types.NamespacedName{}) {
				addrs = []netip.Addr{a}
			}
		}
		for _, a := range addrs {
			if a.Is4() {
				c.pods[p.Namespace] = append(c.pods[p.Namespace], member{p, a})
			}
		}
	}
	return c
}

// ended tells whether all of a pod's containers have ended for good: its address may be given to another.
func ended(p *v1.Pod) bool {
	return p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
}

// add adds what a policy allows to the targets that it selects.
func (c *compiler) add(p *netv1.NetworkPolicy, targets []*target) error {
	pods, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
	if err != nil {
		return fmt.Errorf("podSelector: %w", err)
	}
	targets = slices.DeleteFunc(slices.Clone(targets), func(t *target) bool { return !pods.Matches(labels.Set(t.Labels)) })
	if len(targets) == 0 {
		return nil
	}
	ingress, egress := directions(p)
	if ingress {
		for _, t := range targets {
			t.ingress = isolate(t.ingress)
		}
		for _, r := range p.Spec.Ingress {
			if err := c.allowIngress(p.Namespace, r, targets); err != nil {
				return err
			}
		}
	}
	if egress {
		for _, t := range targets {
			t.egress = isolate(t.egress)
		}
		for _, r := range p.Spec.Egress {
			if err := c.allowEgress(p.Namespace, r, targets); err != nil {
				return err
			}
		}
	}
	return nil
}

// isolate makes rules that allow nothing of none.
func isolate(rules []Rule) []Rule {
	if rules == nil {
		return []Rule{}
	}
	return rules
}

// directions tells in which directions a policy isolates.
func directions(p *netv1.NetworkPolicy) (ingress, egress bool) {
	if len(p.Spec.PolicyTypes) == 0 {
		return true, len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, netv1.PolicyTypeIngress), slices.Contains(p.Spec.PolicyTypes, netv1.PolicyTypeEgress)
}

func (c *compiler) allowIngress(namespace string, r netv1.NetworkPolicyIngressRule, targets []*target) error {
	from, err := newPeers(namespace, r.From)
	if err != nil {
		return err
	}
	ranges, named := splitPorts(r.Ports)
	sets := c.sets(from)
	for _, t := range targets {
		own := slices.Clone(ranges)
		for _, n := range named { // a name is that of a port of the pod itself
			for _, port := range n.resolve(t.Pod) {
				own = append(own, PortRange{n.protocol, port, port})
			}
		}
		if own = mergePorts(own); len(own) == 0 && len(r.Ports) > 0 {
			continue
		}
		for _, set := range sets {
			t.ingress = append(t.ingress, Rule{Set: set, Ports: own})
		}
	}
	return nil
}

func (c *compiler) allowEgress(namespace string, r netv1.NetworkPolicyEgressRule, targets []*target) error {
	to, err := newPeers(namespace, r.To)
	if err != nil {
		return err
	}
	ranges, named := splitPorts(r.Ports)
	var rules []Rule
	if len(ranges) > 0 || len(r.Ports) == 0 {
		for _, set := range c.sets(to) {
			rules = append(rules, Rule{Set: set, Ports: ranges})
		}
	}
	for _, n := range named { // a name is that of a port of the other end, which only pods have
		set := c.want(Endpoints, fmt.Sprintf("%s %s/%s", to.key(), n.protocol, n.name), wantedSet{peers: to, port: n})
		rules = append(rules, Rule{Set: set})
	}
	for _, t := range targets {
		t.egress = append(t.egress, rules...)
	}
	return nil
}

// sets names the sets that together are the peers; "" is everybody.
func (c *compiler) sets(p peers) []string {
	if p.everybody {
		return []string{""}
	}
	var out []string
	if len(p.selectors) > 0 {
		out = append(out, c.want(Pods, p.podsKey(), wantedSet{peers: p}))
	}
	if len(p.blocks) > 0 {
		out = append(out, c.want(Blocks, fmt.Sprint(p.blocks), wantedSet{peers: p}))
	}
	return out
}

func (c *compiler) want(kind Kind, key string, w wantedSet) string {
	set := name(string(kind), key)
	w.kind = kind
	c.wanted[set] = w
	return set
}

// finish gives an isolated address its profile.
func (c *compiler) finish(d Direction, addr netip.Addr, rules []Rule) {
	if rules == nil || slices.ContainsFunc(rules, func(r Rule) bool { return r.Set == "" && len(r.Ports) == 0 }) {
		return // not isolated, or everything is allowed
	}
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.key(), b.key()) })
	rules = slices.CompactFunc(rules, func(a, b Rule) bool { return a.key() == b.key() })
	var content strings.Builder
	for _, r := range rules {
		content.WriteString(r.key() + "\n")
	}
	profile := name(string(d), content.String())
	c.Isolated[d][addr] = profile
	c.Profiles[profile] = Profile{Direction: d, Rules: rules}
}

// fill makes the sets that profiles name.
func (c *compiler) fill() {
	for _, p := range c.Profiles {
		for _, r := range p.Rules {
			if _, done := c.Sets[r.Set]; !done && r.Set != "" {
				c.Sets[r.Set] = c.make(c.wanted[r.Set])
			}
		}
	}
}

func (c *compiler) make(w wantedSet) Set {
	s := Set{Kind: w.kind, Elements: map[Element]struct{}{}}
	switch w.kind {
	case Pods:
		c.census.choose(w.peers.selectors, func(m member) {
			s.Elements[Element{Net: single(m.addr)}] = struct{}{}
		})
	case Blocks:
		for _, b := range w.peers.blocks {
			s.Elements[Element{Net: b}] = struct{}{}
		}
	case Endpoints:
		c.census.among(w.peers, func(m member) {
			for _, port := range w.port.resolve(m.Pod) {
				s.Elements[Element{single(m.addr), w.port.protocol, port}] = struct{}{}
			}
		})
	}
	return s
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
