package policy

import (
	"bytes"
	"context"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/util/iptables"
	iptablestest "k8s.io/kubernetes/pkg/util/iptables/testing"
	"sigs.k8s.io/knftables"
)

func compiled(t *testing.T, in Input, specs ...string) *Model {
	t.Helper()
	for _, spec := range specs {
		in.Policies = append(in.Policies, parse(t, spec, spec))
	}
	m, err := Compile(in)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const (
	mixed = `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress],
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}, {ipBlock: {cidr: 192.168.0.0/30, except: [192.168.0.1/32]}}],
             ports: [{port: 80}, {port: 8000, endPort: 8100}, {port: 53, protocol: UDP}, {protocol: SCTP}]}],
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: web}]}, {ports: [{port: 443}]}]}`
	denied = `{podSelector: {}}`
)

// names takes the hashes out of names.
func names(text string) string {
	return regexp.MustCompile("-[0-9a-fA-F]{12}").ReplaceAllString(text, "")
}

func TestNFTablesText(t *testing.T) {
	fake := knftables.NewFake(knftables.IPv4Family, nftTable)
	if err := newNFTWriter(fake).Write(context.Background(), compiled(t, example(), mixed)); err != nil {
		t.Fatal(err)
	}
	dump := names(fake.Dump())
	for _, want := range []string{
		"add chain ip labk-policy forward { type filter hook forward priority 5 ; }",
		"add rule ip labk-policy forward ct state established,related accept",
		"add rule ip labk-policy forward ip saddr vmap @egress",
		"add rule ip labk-policy forward ip daddr vmap @ingress",
		"add rule ip labk-policy input ip saddr vmap @egress",
		"add element ip labk-policy ingress { 10.0.0.1 : jump ingress }",
		"add element ip labk-policy egress { 10.0.0.1 : jump egress }",
		"add element ip labk-policy hairpin { 10.0.0.1 . 10.0.0.1 }",
		"ip saddr @pods tcp dport { 80, 8000-8100 } return",
		"ip saddr @pods udp dport { 53 } return",
		"ip saddr @pods meta l4proto sctp return",
		"ip saddr @blocks tcp dport { 80, 8000-8100 } return",
		"ip daddr . meta l4proto . th dport @endpoints return",
		" tcp dport { 443 } return",
		"counter drop",
		"add element ip labk-policy pods { 10.0.0.2 }",
		"add element ip labk-policy blocks { 192.168.0.0 }",
		"add element ip labk-policy blocks { 192.168.0.2/31 }",
		"add element ip labk-policy endpoints { 10.0.0.2 . tcp . 80 }",
		"flags interval",
	} {
		if !strings.Contains(dump, want) {
			t.Errorf("no %q in:\n%s", want, dump)
		}
	}
	if strings.Contains(dump, "10.0.0.2 : jump") {
		t.Errorf("a free pod is judged:\n%s", dump)
	}
}

// steps are models that follow each other.
func steps(t *testing.T) []*Model {
	moved := example()
	moved.Pods = moved.Pods[1:]
	grown := example()
	grown.Pods = append(grown.Pods, pod("a", "web3", "here", "10.0.0.33", func(p *v1.Pod) { p.Labels["app"] = "web" }))
	return []*Model{
		compiled(t, example(), denied), compiled(t, example(), mixed), compiled(t, example(), mixed, denied), compiled(t, grown, mixed, denied),
		compiled(t, example(), mixed, denied), compiled(t, moved, mixed), compiled(t, example(), mixed), compiled(t, example()), compiled(t, grown, denied),
	}
}

// Whatever was there before, step by step it becomes what a single write would have made.
func TestNFTablesSteps(t *testing.T) {
	ctx := context.Background()
	stepwise := knftables.NewFake(knftables.IPv4Family, nftTable)
	w := newNFTWriter(stepwise)
	for i, m := range steps(t) {
		if err := w.Write(ctx, m); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		for chain := range w.stale { // as if they had been empty for long
			w.stale[chain] = time.Now().Add(-time.Hour)
		}
		if !w.Intact(ctx) {
			t.Errorf("step %d: not intact", i)
		}
		fresh := knftables.NewFake(knftables.IPv4Family, nftTable)
		if err := newNFTWriter(fresh).Write(ctx, m); err != nil {
			t.Fatal(err)
		}
		if got, want := stepwise.Dump(), fresh.Dump(); got != want {
			t.Errorf("step %d: got\n%s\nwant\n%s", i, got, want)
		}
	}
}

// A profile that comes back before its chain could be deleted stays.
func TestNFTablesReturn(t *testing.T) {
	ctx := context.Background()
	fake := knftables.NewFake(knftables.IPv4Family, nftTable)
	w := newNFTWriter(fake)
	m := compiled(t, example(), mixed)
	if err := w.Write(ctx, m); err != nil {
		t.Fatal(err)
	}
	want := fake.Dump()
	for _, m := range []*Model{compiled(t, example(), denied), m} {
		if err := w.Write(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	for chain := range w.stale {
		w.stale[chain] = time.Now().Add(-time.Hour)
	}
	if !w.Intact(ctx) || fake.Dump() != want {
		t.Errorf("got\n%s\nwant\n%s", fake.Dump(), want)
	}
}

// A write that changes nothing asks the kernel for nothing; after the table was lost, all of it is written.
func TestNFTablesAgain(t *testing.T) {
	ctx := context.Background()
	fake := knftables.NewFake(knftables.IPv4Family, nftTable)
	w := newNFTWriter(fake)
	m := compiled(t, example(), mixed)
	if err := w.Write(ctx, m); err != nil {
		t.Fatal(err)
	}
	before := fake.LastTransaction
	if err := w.Write(ctx, compiled(t, example(), mixed)); err != nil || fake.LastTransaction != before {
		t.Errorf("it wrote again: %v", err)
	}
	want := fake.Dump()
	if err := w.Remove(ctx); err != nil || fake.Dump() != "" || w.Intact(ctx) {
		t.Errorf("left after Remove, which returned %v:\n%s", err, fake.Dump())
	}
	if err := w.Write(ctx, m); err != nil || fake.Dump() != want {
		t.Errorf("%v, got\n%s\nwant\n%s", err, fake.Dump(), want)
	}
}

func TestIPTablesText(t *testing.T) {
	rules := names(iptablesRules(compiled(t, example(), mixed)))
	for _, want := range []string{
		"-A LABK-POLICY -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n",
		"-A LABK-POLICY-NODE -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n",
		"-A LABK-POLICY -s 10.0.0.1/32 -d 10.0.0.1/32 -j RETURN\n",
		"-A LABK-POLICY -s 10.0.0.1/32 -j LABK-EGRESS\n",
		"-A LABK-POLICY-NODE -s 10.0.0.1/32 -j LABK-EGRESS\n",
		"-A LABK-POLICY -d 10.0.0.1/32 -j LABK-INGRESS\n",
		"-A LABK-EGRESS -p tcp -m multiport --dports 443 -j RETURN\n",
		"-A LABK-EGRESS -d 10.0.0.2/32 -p tcp -m tcp --dport 80 -j RETURN\n",
		"-A LABK-EGRESS -j DROP\n",
		"-A LABK-INGRESS -s 192.168.0.0/32 -p tcp -m multiport --dports 80,8000:8100 -j RETURN\n",
		"-A LABK-INGRESS -s 192.168.0.2/31 -p udp -m multiport --dports 53 -j RETURN\n",
		"-A LABK-INGRESS -s 10.0.0.2/32 -p sctp -j RETURN\n",
		"-A LABK-INGRESS -j DROP\n",
	} {
		if !strings.Contains(rules, want) {
			t.Errorf("no %q in:\n%s", want, rules)
		}
	}
	// within a chain, nothing may follow what drops all
	if last := strings.LastIndex(rules, "LABK-INGRESS"); !strings.HasPrefix(rules[last:], "LABK-INGRESS -j DROP") {
		t.Errorf("the drop is not last:\n%s", rules)
	}
}

func TestIPTablesPorts(t *testing.T) {
	var ranges []PortRange
	for i := range uint16(10) {
		ranges = append(ranges, PortRange{TCP, 10 * i, 10*i + 1}) // 20 of the 15 that fit
	}
	got := iptablesPorts(ranges)
	if len(got) != 2 || strings.Count(got[0], ":") != 7 || strings.Count(got[1], ":") != 3 {
		t.Errorf("got %q", got)
	}
}

// fakeIPTables has the kernel's own chains, which upstream's fake lacks in this table.
func fakeIPTables(t *testing.T) *iptablestest.FakeIPTables {
	t.Helper()
	f := iptablestest.NewFake()
	for _, chain := range []iptables.Chain{iptables.ChainForward, iptables.ChainInput} {
		if _, err := f.EnsureChain(iptables.TableMangle, chain); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestIPTablesSteps(t *testing.T) {
	ctx := context.Background()
	dump := func(f *iptablestest.FakeIPTables) string {
		var b bytes.Buffer
		if err := f.SaveInto(iptables.TableMangle, &b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	// The fake checks what the kernel would: that every chain that is jumped to is there, and none is deleted that is in use.
	fake := fakeIPTables(t)
	empty := dump(fake)
	w := newIPTablesWriter(fake)
	for i, m := range steps(t) {
		if err := w.Write(ctx, m); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if !w.Intact(ctx) {
			t.Errorf("step %d: not intact", i)
		}
		fresh := fakeIPTables(t)
		if err := newIPTablesWriter(fresh).Write(ctx, m); err != nil {
			t.Fatal(err)
		}
		if got, want := sortedChains(dump(fake)), sortedChains(dump(fresh)); got != want {
			t.Errorf("step %d: got\n%s\nwant\n%s", i, got, want)
		}
	}
	if err := w.Remove(ctx); err != nil || dump(fake) != empty {
		t.Errorf("left after Remove, which returned %v:\n%s", err, dump(fake))
	}
	if err := w.Remove(ctx); err != nil {
		t.Errorf("nothing to remove is no error: %v", err)
	}
}

// sortedChains sorts the lines of different chains, and keeps the order within each.
func sortedChains(saved string) string {
	chains := map[string]string{}
	for line := range strings.Lines(saved) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, ":"):
			chains[strings.TrimPrefix(f[0], ":")] += line
		case len(f) > 1 && f[0] == "-A":
			chains[f[1]] += line
		}
	}
	var b strings.Builder
	for _, chain := range sorted(chains) {
		b.WriteString(chains[chain])
	}
	return b.String()
}

func TestNFTablesPrefixes(t *testing.T) {
	for text, want := range map[string]string{"10.0.0.1/32": "10.0.0.1", "10.0.0.0/31": "10.0.0.0/31", "128.0.0.0/1": "128.0.0.0/1"} {
		if got := nftKey(Element{Net: netip.MustParsePrefix(text)}); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
