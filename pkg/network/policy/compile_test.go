package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// parse makes a policy of the namespace a out of its spec.
func parse(t testing.TB, name, spec string) *netv1.NetworkPolicy {
	t.Helper()
	p := &netv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatalf("%v in %s", err, spec)
	}
	return p
}

func pod(namespace, name, node, ip string, change func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}}}
	p.Spec.NodeName = node
	p.Spec.Containers = []v1.Container{{Ports: []v1.ContainerPort{
		{Name: "web", ContainerPort: 80}, {Name: "dns", ContainerPort: 53, Protocol: v1.ProtocolUDP}, {Name: "dns", ContainerPort: 5353},
	}}}
	p.Status = v1.PodStatus{Phase: v1.PodRunning, PodIP: ip}
	if change != nil {
		change(p)
	}
	return p
}

// example is a cluster of two nodes; what is compiled is "here".
func example() Input {
	namespace := func(name, team string) *v1.Namespace {
		return &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
	}
	now := metav1.Now()
	return Input{
		Node:       "here",
		Namespaces: []*v1.Namespace{namespace("a", "red"), namespace("b", "blue"), namespace("c", "blue")},
		Pods: []*v1.Pod{
			pod("a", "db", "here", "10.0.0.1", nil),
			pod("a", "web", "here", "10.0.0.2", nil),
			pod("a", "far", "there", "10.0.1.1", nil),
			pod("b", "web", "there", "10.0.1.2", func(p *v1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 8080 }),
			pod("c", "db", "there", "10.0.1.3", func(p *v1.Pod) { p.Labels["tier"] = "back" }),
			pod("a", "host", "here", "192.168.0.1", func(p *v1.Pod) { p.Spec.HostNetwork = true }),
			pod("a", "done", "there", "10.0.1.9", func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded }),
			pod("a", "failed", "here", "10.0.0.9", func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }),
			pod("a", "leaving", "there", "10.0.1.4", func(p *v1.Pod) { p.DeletionTimestamp = &now }),
			pod("a", "new", "here", "", nil),
		},
	}
}

// allows decides as the packet filter does.
func (m *Model) allows(d Direction, own, other netip.Addr, proto Protocol, port uint16) bool {
	name, isolated := m.Isolated[d][own]
	if !isolated || own == other {
		return true
	}
	return slices.ContainsFunc(m.Profiles[name].Rules, func(r Rule) bool {
		set, dest := m.Sets[r.Set], other
		if set.Kind == Endpoints {
			_, ok := set.Elements[Element{single(dest), proto, port}]
			return ok
		}
		if r.Set != "" && !slices.ContainsFunc(elements(set), func(e Element) bool { return e.Net.Contains(other) }) {
			return false
		}
		return len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p PortRange) bool {
			return p.Protocol == proto && p.First <= port && port <= p.Last
		})
	})
}

func elements(s Set) []Element {
	var out []Element
	for e := range s.Elements {
		out = append(out, e)
	}
	return out
}

func TestCompile(t *testing.T) {
	for name, tc := range map[string]struct {
		specs string // several apart by |
		yes   string // "in OWN OTHER PROTOCOL/PORT" or "out ..."; 1.1 is 10.0.1.1
		no    string
	}{
		"none": {"", "in 0.1 1.1 tcp/80, out 0.1 1.1 udp/53", ""},
		"deny ingress": {`podSelector: {}`,
			"out 0.1 1.1 tcp/80, in 0.1 0.1 tcp/80", "in 0.1 1.1 tcp/80, in 0.2 0.1 udp/53, in 0.1 192.168.0.1 sctp/1"},
		"deny egress":        {`{podSelector: {}, policyTypes: [Egress]}`, "in 0.1 1.1 tcp/80", "out 0.1 1.1 tcp/80, out 0.2 8.8.8.8 udp/53"},
		"only the selected":  {`podSelector: {matchLabels: {app: db}}`, "in 0.2 1.1 tcp/80", "in 0.1 1.1 tcp/80"},
		"types by egress":    {`{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 9.0.0.0/8}}]}]}`, "out 0.1 9.1.1.1 tcp/80", "in 0.1 1.1 tcp/80, out 0.1 1.1 tcp/80"},
		"types without":      {`{podSelector: {}, egress: []}`, "out 0.1 1.1 tcp/80", "in 0.1 1.1 tcp/80"},
		"named types only":   {`{podSelector: {}, policyTypes: [Ingress], egress: [{to: [{ipBlock: {cidr: 9.0.0.0/8}}]}]}`, "out 0.1 1.1 tcp/80", "in 0.1 1.1 tcp/80"},
		"empty rule":         {`{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}`, "in 0.1 1.1 tcp/80, out 0.1 8.8.8.8 sctp/9", ""},
		"pods":               {`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`, "in 0.1 0.2 tcp/80, in 0.1 0.2 udp/1", "in 0.1 1.2 tcp/80, in 0.1 1.1 tcp/80"},
		"every pod of its":   {`{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, "in 0.1 0.2 tcp/80, in 0.1 1.1 tcp/1", "in 0.1 1.2 tcp/80, in 0.1 8.8.8.8 tcp/80"},
		"namespaces":         {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]}`, "in 0.1 1.2 tcp/80, in 0.1 1.3 tcp/80", "in 0.1 0.2 tcp/80"},
		"every namespace":    {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`, "in 0.1 1.2 tcp/80, in 0.1 0.2 tcp/80", "in 0.1 8.8.8.8 tcp/80"},
		"both":               {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: db}}}]}]}`, "in 0.1 1.3 tcp/80", "in 0.1 1.2 tcp/80"},
		"either":             {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}}, {podSelector: {matchLabels: {app: far}}}]}]}`, "in 0.1 1.3 tcp/80, in 0.1 1.1 tcp/80", "in 0.1 0.2 tcp/80"},
		"In and Exists":      {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [blue, green]}]}, podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]}`, "in 0.1 1.3 tcp/80", "in 0.1 1.2 tcp/80"},
		"NotIn, DoesNot":     {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [red]}]}, podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]}]}`, "in 0.1 1.2 tcp/80", "in 0.1 1.3 tcp/80, in 0.1 0.2 tcp/80"},
		"block":              {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.1.0/30, except: [10.0.1.2/32]}}]}]}`, "in 0.1 1.1 tcp/80, in 0.1 1.3 tcp/80", "in 0.1 1.2 tcp/80, in 0.1 1.4 tcp/80"},
		"everything":         {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 80}]}]}`, "in 0.1 8.8.8.8 tcp/80", "in 0.1 8.8.8.8 tcp/81"},
		"IPv6":               {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "::/0"}}]}]}`, "", "in 0.1 8.8.8.8 tcp/80"},
		"port":               {`{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`, "in 0.1 8.8.8.8 tcp/80", "in 0.1 1.1 tcp/81, in 0.1 1.1 udp/80"},
		"ports of protocols": {`{podSelector: {}, ingress: [{ports: [{port: 80, protocol: UDP}, {port: 90, protocol: SCTP}, {port: 70, protocol: TCP}]}]}`, "in 0.1 1.1 udp/80, in 0.1 1.1 sctp/90, in 0.1 1.1 tcp/70", "in 0.1 1.1 tcp/80, in 0.1 1.1 tcp/90"},
		"range":              {`{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 90}]}]}`, "in 0.1 1.1 tcp/80, in 0.1 1.1 tcp/90", "in 0.1 1.1 tcp/79, in 0.1 1.1 tcp/91"},
		"protocol":           {`{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}`, "in 0.1 1.1 udp/1, in 0.1 1.1 udp/65535", "in 0.1 1.1 tcp/1"},
		"named, ingress":     {`{podSelector: {}, ingress: [{ports: [{port: web}, {port: dns, protocol: UDP}]}]}`, "in 0.1 1.1 tcp/80, in 0.1 1.1 udp/53", "in 0.1 1.1 tcp/5353, in 0.1 1.1 tcp/8080"},
		"unknown name":       {`{podSelector: {}, ingress: [{ports: [{port: nothing}]}]}`, "", "in 0.1 1.1 tcp/80, in 0.1 1.1 tcp/0"},
		"named, egress":      {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: web}]}]}`, "out 0.1 1.2 tcp/8080, out 0.1 1.3 tcp/80", "out 0.1 1.2 tcp/80, out 0.1 0.2 tcp/80"},
		"named, to anywhere": {`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}, {port: 99}]}]}`, "out 0.1 1.2 tcp/8080, out 0.1 0.2 tcp/80, out 0.1 8.8.8.8 tcp/99", "out 0.1 8.8.8.8 tcp/80"},
		"named, to a block":  {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.1.2/32}}], ports: [{port: web}]}]}`, "out 0.1 1.2 tcp/8080", "out 0.1 1.3 tcp/80, out 0.1 1.2 tcp/80"},
		"peers and ports":    {`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 1}]}, {from: [{podSelector: {matchLabels: {app: far}}}], ports: [{port: 2}]}]}`, "in 0.1 0.2 tcp/1, in 0.1 1.1 tcp/2", "in 0.1 0.2 tcp/2, in 0.1 1.1 tcp/1"},
		"policies add up":    {`{podSelector: {}}|{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1}]}]}|{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 2}]}]}`, "in 0.1 1.1 tcp/1, in 0.1 1.1 tcp/2", "in 0.1 1.1 tcp/3, in 0.2 1.1 tcp/1"},
		"one opens all":      {`{podSelector: {}}|{podSelector: {matchLabels: {app: db}}, ingress: [{}]}`, "in 0.1 8.8.8.8 udp/3", "in 0.2 1.1 tcp/1"},
		"who is no peer":     {`{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`, "in 0.1 1.4 tcp/80", "in 0.1 1.9 tcp/80, in 0.1 192.168.0.1 tcp/80, in 0.1 0.9 tcp/80"},
		"who is no target":   {`{podSelector: {}, policyTypes: [Ingress, Egress]}`, "in 192.168.0.1 1.1 tcp/80, out 1.1 0.1 tcp/80, in 0.9 1.1 tcp/80", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := example()
			for i, spec := range strings.Split(tc.specs, "|") {
				if spec != "" {
					in.Policies = append(in.Policies, parse(t, fmt.Sprint("p", i), spec))
				}
			}
			m, err := Compile(in)
			if err != nil {
				t.Fatal(err)
			}
			check(t, m, tc.yes, true)
			check(t, m, tc.no, false)
		})
	}
}

func check(t *testing.T, m *Model, questions string, want bool) {
	t.Helper()
	for question := range strings.SplitSeq(questions, ", ") {
		f := strings.Fields(question)
		if len(f) == 0 {
			continue
		}
		direction := map[string]Direction{"in": Ingress, "out": Egress}[f[0]]
		var proto string
		var port uint16
		if _, err := fmt.Sscanf(strings.Replace(f[3], "/", " ", 1), "%s %d", &proto, &port); err != nil || direction == "" {
			t.Fatalf("%q: %v", question, err)
		}
		if got := m.allows(direction, address(f[1]), address(f[2]), Protocol(proto), port); got != want {
			t.Errorf("%s: %v, want %v", question, got, want)
		}
	}
}

func address(short string) netip.Addr {
	if strings.Count(short, ".") == 1 {
		short = "10.0." + short
	}
	return netip.MustParseAddr(short)
}

// An address that this node has given is that pod's, whatever the API says still or not yet.
func TestGivenAddresses(t *testing.T) {
	in := example()
	in.Policies = []*netv1.NetworkPolicy{parse(t, "p", `{podSelector: {matchExpressions: [{key: app, operator: In, values: [new, db]}]}, ingress: [{from: [{podSelector: {matchLabels: {app: new}}}]}]}`)}
	in.Addresses = map[netip.Addr]types.NamespacedName{
		address("0.1"): {Namespace: "a", Name: "web"}, // the API says: db's
		address("0.7"): {Namespace: "a", Name: "new"}, // the API does not know any
	}
	m, err := Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	check(t, m, "in 0.7 0.7 tcp/80, in 0.1 1.1 tcp/80", true)
	check(t, m, "in 0.7 1.1 tcp/80", false)
	if len(m.Isolated[Ingress]) != 1 {
		t.Errorf("isolated: %v", m.Isolated[Ingress])
	}
	in.Addresses = nil
	if m, _ = Compile(in); m.allows(Ingress, address("0.1"), address("1.1"), TCP, 80) {
		t.Error("without it, what the API says counts")
	}
}

// Pods with the same rules share a profile; what does not change keeps its name, whatever else does.
func TestSharing(t *testing.T) {
	const spec = `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}`
	in := example()
	in.Policies = []*netv1.NetworkPolicy{parse(t, "one", spec), parse(t, "two", spec)}
	before, err := Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(before.Isolated[Ingress]) != 2 || len(before.Profiles) != 1 || len(before.Sets) != 1 {
		t.Errorf("got %d isolated, %d profiles, %d sets; want 2, 1, 1", len(before.Isolated[Ingress]), len(before.Profiles), len(before.Sets))
	}
	in.Policies = in.Policies[1:]
	in.Pods = append(in.Pods, pod("a", "web2", "there", "10.0.1.7", func(p *v1.Pod) { p.Labels["app"] = "web" }))
	after, err := Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(before.Profiles, after.Profiles) || !reflect.DeepEqual(before.Isolated, after.Isolated) {
		t.Errorf("a pod that came elsewhere changed more than a set:\n%v\n%v", before, after)
	}
	for name := range before.Sets {
		if len(after.Sets[name].Elements) != len(before.Sets[name].Elements)+1 {
			t.Errorf("set %s: %v, then %v", name, before.Sets[name], after.Sets[name])
		}
	}
}

func TestNotUnderstood(t *testing.T) {
	in := example()
	in.Policies = []*netv1.NetworkPolicy{
		parse(t, "bad", `{podSelector: {matchExpressions: [{key: a, operator: Perhaps}]}}`),
		parse(t, "worse", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Perhaps}]}}]}]}`),
		parse(t, "good", `podSelector: {matchLabels: {app: db}}`),
	}
	m, err := Compile(in)
	if err == nil || !strings.Contains(err.Error(), "a/bad") || !strings.Contains(err.Error(), "a/worse") || strings.Contains(err.Error(), "a/good") {
		t.Errorf("got %v", err)
	}
	check(t, m, "in 0.1 1.1 tcp/80, in 0.2 1.1 tcp/80", false) // a policy that selects, and cannot be read further, allows nothing
}

func TestSubtract(t *testing.T) {
	for name, tc := range map[string]struct {
		block  string
		except []string
		want   string
	}{
		"nothing":  {"10.0.0.0/8", nil, "[10.0.0.0/8]"},
		"half":     {"10.0.0.0/8", []string{"10.128.0.0/9"}, "[10.0.0.0/9]"},
		"one":      {"10.0.0.0/30", []string{"10.0.0.1/32"}, "[10.0.0.0/32 10.0.0.2/31]"},
		"first":    {"0.0.0.0/0", []string{"0.0.0.0/1"}, "[128.0.0.0/1]"},
		"two":      {"10.0.0.0/30", []string{"10.0.0.0/32", "10.0.0.3/32"}, "[10.0.0.1/32 10.0.0.2/32]"},
		"all":      {"10.0.0.0/30", []string{"10.0.0.0/30"}, "[]"},
		"elsewere": {"10.0.0.0/30", []string{"10.0.1.0/30", "::1/128"}, "[10.0.0.0/30]"},
		"IPv6":     {"fd00::/8", nil, "[]"},
		"unmasked": {"10.0.0.7/30", nil, "[10.0.0.4/30]"},
	} {
		if got := fmt.Sprint(networks(&netv1.IPBlock{CIDR: tc.block, Except: tc.except})); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func TestMergePorts(t *testing.T) {
	got := mergePorts([]PortRange{{UDP, 5, 5}, {TCP, 80, 90}, {TCP, 85, 100}, {TCP, 101, 101}, {TCP, 103, 103}, {UDP, 0, 65535}, {TCP, 80, 80}})
	want := []PortRange{{TCP, 80, 101}, {TCP, 103, 103}, {UDP, 0, 65535}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// BenchmarkCompile is a cluster of 1000 pods in 20 namespaces with 100 policies, of which 100 pods are here.
func BenchmarkCompile(b *testing.B) {
	in := large(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(in); err != nil {
			b.Fatal(err)
		}
	}
}

func large(t testing.TB) Input {
	in := Input{Node: "n0"}
	for n := range 20 {
		in.Namespaces = append(in.Namespaces, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("ns", n), Labels: map[string]string{"team": fmt.Sprint(n % 4)}}})
	}
	for i := range 1000 {
		p := pod(fmt.Sprint("ns", i%20), fmt.Sprint("pod", i), fmt.Sprint("n", i/100), fmt.Sprintf("10.42.%d.%d", i/100, 2+i%100), nil)
		p.Labels["app"] = fmt.Sprint("app", i%7)
		in.Pods = append(in.Pods, p)
	}
	for i := range 100 {
		p := parse(t, fmt.Sprint("policy", i), fmt.Sprintf(`{podSelector: {matchLabels: {app: app%d}}, policyTypes: [Ingress, Egress],
  ingress: [{from: [{podSelector: {matchLabels: {app: app%d}}}, {namespaceSelector: {matchLabels: {team: "%d"}}}], ports: [{port: 80}, {port: 8000, endPort: 8100}]},
    {from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: web}]}],
  egress: [{to: [{namespaceSelector: {matchLabels: {team: "0"}}}], ports: [{port: dns, protocol: UDP}]}, {to: [{podSelector: {}}]}]}`, i%7, (i+1)%7, i%4))
		p.Namespace = fmt.Sprint("ns", i%20)
		in.Policies = append(in.Policies, p)
	}
	return in
}
