package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
)

// denyAll isolates the server in both directions.
const denyAll = `
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress, Egress]}`

// cases are policies for the server. Those that allow something come on top of denyAll: what they open had been closed before.
var cases = []struct {
	name  string
	spec  string // $OUTSIDE and $NODE are addresses
	alone bool   // without denyAll
	open  []string
}{
	{name: "nothing", spec: `{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress, Egress]}`},
	{name: "deny ingress", alone: true,
		spec: `{podSelector: {matchLabels: {app: server}}}`,
		open: []string{"server > *"}},
	{name: "deny egress", alone: true,
		spec: `{podSelector: {}, policyTypes: [Egress]}`,
		open: []string{"outside > nodeport", "visitor > *", "guest > *", "!friend > dns", "!friend > api", "!friend > visitor:tcp/8080"}},
	{name: "default types with egress", alone: true,
		spec: `{podSelector: {matchLabels: {app: server}}, egress: [{to: [{ipBlock: {cidr: $OUTSIDE/32}}]}]}`,
		open: []string{"server > outside:tcp/9000"}},
	{name: "all ingress",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{}]}`,
		open: []string{"outside > nodeport", "* > server:*", "* > service"}},
	{name: "all egress",
		spec: `{podSelector: {matchLabels: {app: server}}, policyTypes: [Egress], egress: [{}]}`,
		open: []string{"server > *"}},
	{name: "by pod",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]}`,
		open: []string{"friend > *"}},
	{name: "by expression",
		spec: `{podSelector: {matchExpressions: [{key: app, operator: In, values: [server, other]}]},
		        ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [friend]}, {key: app, operator: Exists}]}}]}]}`,
		open: []string{"stranger > *"}},
	{name: "by namespace",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: beta}}}]}]}`,
		open: []string{"visitor > *", "guest > *"}},
	{name: "by every namespace",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{namespaceSelector: {}}]}]}`,
		open: []string{"friend > *", "stranger > *", "visitor > *", "guest > *"}},
	{name: "by namespace and pod",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: beta}}, podSelector: {matchLabels: {app: friend}}}]}]}`,
		open: []string{"visitor > *"}},
	{name: "by namespace or pod",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: beta}}}, {podSelector: {matchLabels: {app: friend}}}]}]}`,
		open: []string{"visitor > *", "guest > *", "friend > *"}},
	{name: "port",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 9000}]}]}`,
		open: []string{"friend > server:tcp/9000", "stranger > server:tcp/9000"}},
	{name: "ports of two protocols",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 9000, protocol: TCP}, {port: 5353, protocol: UDP}]}]}`,
		open: []string{"* > server:tcp/9000", "* > server:udp/5353"}},
	{name: "range",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 8999, endPort: 9005}]}]}`,
		open: []string{"* > server:tcp/9000", "* > server:tcp/9005"}},
	{name: "a protocol's every port",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {}}], ports: [{protocol: UDP}]}]}`,
		open: []string{"friend > server:udp/5353", "stranger > server:udp/5353"}},
	{name: "named port",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: http}]}]}`,
		open: []string{"* > server:tcp/8080", "* > service", "outside > nodeport"}},
	{name: "two rules",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 9000}]},
		        {from: [{podSelector: {matchLabels: {app: stranger}}}], ports: [{port: 9005}]}]}`,
		open: []string{"friend > server:tcp/9000", "stranger > server:tcp/9005"}},
	{name: "block",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{ipBlock: {cidr: $OUTSIDE/24}}]}]}`,
		open: []string{"outside > nodeport"}},
	{name: "block with exception",
		spec: `{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [$OUTSIDE/32, 10.43.0.0/16]}}]}]}`,
		open: []string{"* > server:*", "* > service", "!outside > nodeport"}},
	{name: "egress by pod and port",
		spec: `{podSelector: {matchLabels: {app: server}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 9000}]}]}`,
		open: []string{"server > friend:tcp/9000"}},
	{name: "egress by namespace and named port",
		spec: `{podSelector: {matchLabels: {app: server}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: beta}}}], ports: [{port: control}, {port: 5353, protocol: UDP}]}]}`,
		open: []string{"server > visitor:tcp/9000", "server > guest:tcp/9000", "server > visitor:udp/5353", "server > guest:udp/5353"}},
	{name: "egress to DNS",
		spec: `{podSelector: {matchLabels: {app: server}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}},
		        podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53}]}]}`,
		open: []string{"server > dns"}},
	{name: "egress to the API",
		spec: `{podSelector: {matchLabels: {app: server}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: $NODE/32}}], ports: [{port: 6443}]}]}`,
		open: []string{"server > api"}},
	{name: "egress to a block with exception",
		spec: `{podSelector: {matchLabels: {app: server}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.42.0.0/16, $NODE/32]}}]}]}`,
		open: []string{"server > outside:tcp/9000"}},
}

func TestNFTables(t *testing.T) {
	t.Parallel()
	w := start(t, cluster.Options{})
	t.Run("features", func(t *testing.T) { testFeatures(t, w) })
	t.Run("life", func(t *testing.T) { testLife(t, w) })
}

// Where there is no nft, iptables does it.
func TestIPTables(t *testing.T) {
	t.Parallel()
	const path = "/root/programs"
	w := start(t, cluster.Options{
		Env: []string{"PATH=" + path},
		Before: func(c *cluster.Cluster) {
			c.Sh(t, `mkdir `+path+` && cd `+path+` && for d in /usr/sbin /usr/bin; do
				for f in $d/*; do [ -x "$f" ] && ln -sf "$f" .; done; done; rm nft`)
		},
	})
	w.apply(t, denyAll)
	w.expect(t)
	if rules := w.Sh(t, "iptables-save -t mangle"); !strings.Contains(rules, "LABK-POLICY") {
		t.Errorf("iptables has no rules of policies:\n%s", rules)
	}
	t.Run("features", func(t *testing.T) { testFeatures(t, w) })
	t.Run("life", func(t *testing.T) { testLife(t, w) })
}

func testFeatures(t *testing.T, w *world) {
	w.apply(t, denyAll)
	fill := strings.NewReplacer("$OUTSIDE/24", w.Lab.Subnet().String(), "$OUTSIDE", w.outside.String(), "$NODE", w.Host.Addr().String())
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.alone {
				w.drop(t)
				w.expect(t, w.flows()...)
			} else {
				w.expect(t)
			}
			w.apply(t, fmt.Sprintf("metadata: {name: tried}\nspec: %s", fill.Replace(c.spec)))
			w.expectExactly(t, w.match(c.open))
			w.drop(t)
			w.apply(t, denyAll)
		})
	}
	w.drop(t)
	w.expect(t, w.flows()...)
}

// match returns the flows that match one of the patterns, in which * is anything; those after ! are taken out again, and what is always open
// belongs to it unless taken out.
func (w *world) match(patterns []string) []string {
	open := slices.Clone(always)
	for _, p := range patterns {
		out := strings.HasPrefix(p, "!")
		for _, f := range w.flows() {
			switch hit := like(strings.TrimPrefix(p, "!"), f); {
			case hit && out:
				open = slices.DeleteFunc(open, func(o string) bool { return o == f })
			case hit:
				open = append(open, f)
			}
		}
	}
	return open
}

// like matches a pattern with at most two *: at its beginning, and at its end.
func like(pattern, text string) bool {
	middle := strings.TrimSuffix(strings.TrimPrefix(pattern, "*"), "*")
	switch {
	case pattern == text:
		return true
	case strings.HasPrefix(pattern, "*") && strings.HasSuffix(pattern, "*"):
		return strings.Contains(text, middle)
	case strings.HasPrefix(pattern, "*"):
		return strings.HasSuffix(text, middle)
	case strings.HasSuffix(pattern, "*"):
		return strings.HasPrefix(text, middle)
	}
	return false
}
