package policy

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/kubernetes/pkg/util/iptables"
)

// The chains that the kernel's own jump to; those of profiles begin with chainPrefix, too.
const (
	chainPrefix  = "LABK-"
	forwardChain = "LABK-POLICY"
	inputChain   = "LABK-POLICY-NODE"
	// maxPorts is how many ports one multiport match takes; a range counts as two.
	maxPorts = 15
)

// iptablesWriter writes a model into chains of the table mangle, where packets to be forwarded come past after Services have been resolved
// and before the table filter: there kube-proxy, flannel, ufw and others accept packets in an order that nobody can rely on. What is allowed goes on
// to all of them. Without ipset, each peer is a rule.
type iptablesWriter struct {
	ipt     iptables.Interface
	written string // "": unknown
}

func newIPTablesWriter(ipt iptables.Interface) *iptablesWriter { return &iptablesWriter{ipt: ipt} }

// Write implements writer. iptables-restore replaces all of the chains at once.
func (w *iptablesWriter) Write(_ context.Context, m *Model) error {
	rules := iptablesRules(m)
	if rules == w.written {
		return nil
	}
	existing, err := w.chains()
	if err != nil {
		return err
	}
	text := iptablesRestore(rules, existing, m)
	if err := w.ipt.Restore(iptables.TableMangle, []byte(text), iptables.NoFlushTables, iptables.NoRestoreCounters); err != nil {
		w.written = ""
		return fmt.Errorf("write the iptables chain %s: %w", forwardChain, err)
	}
	for _, jump := range jumps() {
		if _, err := w.ipt.EnsureRule(iptables.Prepend, iptables.TableMangle, jump.from, jump.args...); err != nil {
			return fmt.Errorf("use the iptables chain %s: %w", jump.args[1], err)
		}
	}
	w.written = rules
	return nil
}

// Intact implements writer.
func (w *iptablesWriter) Intact(context.Context) bool {
	for _, jump := range jumps() {
		if existed, err := w.ipt.EnsureRule(iptables.Prepend, iptables.TableMangle, jump.from, jump.args...); err != nil || !existed {
			return false
		}
	}
	return true
}

// Forget implements writer.
func (w *iptablesWriter) Forget() { w.written = "" }

// Remove implements writer.
func (w *iptablesWriter) Remove(context.Context) error {
	w.written = ""
	existing, err := w.chains()
	if err != nil || len(existing) == 0 {
		return err
	}
	for _, jump := range jumps() {
		if !slices.Contains(existing, jump.args[1]) {
			continue
		}
		if err := w.ipt.DeleteRule(iptables.TableMangle, jump.from, jump.args...); err != nil {
			return fmt.Errorf("remove the iptables chain %s: %w", jump.args[1], err)
		}
	}
	var b strings.Builder
	b.WriteString("*mangle\n")
	for _, verb := range []string{":%s - [0:0]\n", "-X %s\n"} {
		for _, chain := range existing {
			fmt.Fprintf(&b, verb, chain)
		}
	}
	b.WriteString("COMMIT\n")
	return w.ipt.Restore(iptables.TableMangle, []byte(b.String()), iptables.NoFlushTables, iptables.NoRestoreCounters)
}

type jump struct {
	from iptables.Chain
	args []string
}

// jumps lead into the writer's chains. What the node itself sends to its pods passes OUTPUT, where nothing is judged.
func jumps() []jump {
	return []jump{
		{iptables.ChainForward, []string{"-j", forwardChain}},
		{iptables.ChainInput, []string{"-j", inputChain}},
	}
}

// chains lists the writer's chains that are there.
func (w *iptablesWriter) chains() ([]string, error) {
	var saved bytes.Buffer
	if err := w.ipt.SaveInto(iptables.TableMangle, &saved); err != nil {
		return nil, fmt.Errorf("list the iptables chains: %w", err)
	}
	var out []string
	for line := range strings.Lines(saved.String()) {
		if rest, ok := strings.CutPrefix(line, ":"+chainPrefix); ok {
			chain, _, _ := strings.Cut(rest, " ")
			out = append(out, chainPrefix+chain)
		}
	}
	return out, nil
}

// iptablesRestore wraps the rules: chains are emptied by being named, and those that are no longer used deleted.
func iptablesRestore(rules string, existing []string, m *Model) string {
	used := []string{forwardChain, inputChain}
	for _, profile := range sorted(m.Profiles) {
		used = append(used, profileChain(profile))
	}
	var unused []string
	for _, chain := range existing {
		if !slices.Contains(used, chain) {
			unused = append(unused, chain)
		}
	}
	var b strings.Builder
	b.WriteString("*mangle\n")
	for _, chain := range slices.Concat(used, unused) {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chain)
	}
	b.WriteString(rules)
	for _, chain := range unused {
		fmt.Fprintf(&b, "-X %s\n", chain)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func profileChain(profile string) string { return chainPrefix + strings.ToUpper(profile) }

// iptablesRules are the rules of all the chains.
func iptablesRules(m *Model) string {
	var b strings.Builder
	for _, chain := range []string{forwardChain, inputChain} {
		fmt.Fprintf(&b, "-A %s -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n", chain)
	}
	for _, a := range slices.SortedFunc(maps.Keys(m.isolated()), netip.Addr.Compare) { // a pod may always talk to itself
		fmt.Fprintf(&b, "-A %s -s %s/32 -d %s/32 -j RETURN\n", forwardChain, a, a)
	}
	for _, a := range slices.SortedFunc(maps.Keys(m.Isolated[Egress]), netip.Addr.Compare) {
		for _, chain := range []string{forwardChain, inputChain} {
			fmt.Fprintf(&b, "-A %s -s %s/32 -j %s\n", chain, a, profileChain(m.Isolated[Egress][a]))
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(m.Isolated[Ingress]), netip.Addr.Compare) {
		fmt.Fprintf(&b, "-A %s -d %s/32 -j %s\n", forwardChain, a, profileChain(m.Isolated[Ingress][a]))
	}
	for _, name := range sorted(m.Profiles) {
		profile := m.Profiles[name]
		for _, r := range profile.Rules {
			for _, match := range iptablesMatches(profile.Direction, r, m.Sets[r.Set]) {
				fmt.Fprintf(&b, "-A %s%s -j RETURN\n", profileChain(name), match)
			}
		}
		fmt.Fprintf(&b, "-A %s -j DROP\n", profileChain(name))
	}
	return b.String()
}

// iptablesMatches matches what a rule allows, each with a space before it.
func iptablesMatches(d Direction, r Rule, s Set) []string {
	end := " -d "
	if d == Ingress {
		end = " -s "
	}
	ends := []string{""}
	if r.Set != "" {
		ends = nil
	}
	for _, e := range slices.SortedFunc(maps.Keys(s.Elements), Element.compare) {
		match := end + e.Net.String()
		if e.Protocol != "" {
			match += fmt.Sprintf(" -p %s -m %s --dport %d", e.Protocol, e.Protocol, e.Port)
		}
		ends = append(ends, match)
	}
	if len(r.Ports) == 0 {
		return ends
	}
	var out []string
	for _, ports := range iptablesPorts(r.Ports) {
		for _, e := range ends {
			out = append(out, e+ports)
		}
	}
	return out
}

// iptablesPorts matches ports, as many at once as iptables can.
func iptablesPorts(ranges []PortRange) []string {
	var out []string
	for _, proto := range []Protocol{TCP, UDP, SCTP} {
		var list []string
		room := maxPorts
		flush := func() {
			if len(list) > 0 {
				out = append(out, fmt.Sprintf(" -p %s -m multiport --dports %s", proto, strings.Join(list, ",")))
			}
			list, room = nil, maxPorts
		}
		for _, r := range ranges {
			if r.Protocol != proto {
				continue
			}
			if r.all() {
				out = append(out, " -p "+string(proto))
				continue
			}
			text, size := strconv.Itoa(int(r.First)), 1
			if r.Last > r.First {
				text, size = fmt.Sprintf("%d:%d", r.First, r.Last), 2
			}
			if size > room {
				flush()
			}
			list, room = append(list, text), room-size
		}
		flush()
	}
	return out
}
