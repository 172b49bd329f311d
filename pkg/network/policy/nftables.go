package policy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/knftables"
)

const (
	nftTable = "labk-policy"
	// hairpinSet holds pairs of the same isolated address: a pod may always talk to itself, also through a Service.
	hairpinSet = "hairpin"
	// nftPriority is just behind kube-proxy's filters, which answer for Services without endpoints. That others accept a packet ends
	// only their own chain, so the order decides nothing else.
	nftPriority = knftables.FilterPriority + "+5"
	// unreferenced is how long kernels before 6.2 may need to notice that a removed element was the last to name a chain.
	unreferenced = time.Second
)

// nftWriter writes a model into a table of its own. The base chains look an address up in a map, which names the chain of its profile.
type nftWriter struct {
	nft     knftables.Interface
	written *Model // nil: unknown, write all of it
	// stale are emptied chains to be deleted, with when they were emptied.
	stale map[string]time.Time
}

func newNFTWriter(nft knftables.Interface) *nftWriter { return &nftWriter{nft: nft} }

// Write implements writer. It is one transaction: no packet sees half of it.
func (w *nftWriter) Write(ctx context.Context, m *Model) error {
	tx := w.nft.NewTransaction()
	old := w.written
	if old == nil {
		old = newModel()
		w.stale = map[string]time.Time{}
		addBase(tx)
	}
	w.change(tx, old, m)
	if tx.NumOperations() == 0 {
		return w.tidy(ctx)
	}
	if err := w.nft.Run(ctx, tx); err != nil {
		w.written = nil
		return fmt.Errorf("write the table %s: %w", nftTable, err)
	}
	w.written = m
	return w.tidy(ctx)
}

// Intact implements writer.
func (w *nftWriter) Intact(ctx context.Context) bool {
	sets, err := w.nft.List(ctx, "sets")
	return err == nil && slices.Contains(sets, hairpinSet) && w.tidy(ctx) == nil
}

// Forget implements writer.
func (w *nftWriter) Forget() { w.written = nil }

// Remove implements writer.
func (w *nftWriter) Remove(ctx context.Context) error {
	w.written = nil
	tx := w.nft.NewTransaction()
	tx.Add(&knftables.Table{}) // so that there is something to delete
	tx.Delete(&knftables.Table{})
	return w.nft.Run(ctx, tx)
}

// tidy deletes chains that have been empty for long enough.
func (w *nftWriter) tidy(ctx context.Context) error {
	tx := w.nft.NewTransaction()
	for chain, since := range w.stale {
		if time.Since(since) > unreferenced {
			tx.Delete(&knftables.Chain{Name: chain})
			delete(w.stale, chain)
		}
	}
	if tx.NumOperations() == 0 {
		return nil
	}
	if err := w.nft.Run(ctx, tx); err != nil {
		w.written = nil
		return fmt.Errorf("delete unused chains of the table %s: %w", nftTable, err)
	}
	return nil
}

// addBase begins the table anew: what is the same for every model.
func addBase(tx *knftables.Transaction) {
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("network policies of the pods of this node")})
	for _, d := range []Direction{Ingress, Egress} {
		tx.Add(&knftables.Map{Name: string(d), Type: "ipv4_addr : verdict", Comment: knftables.PtrTo("isolated pods of this node")})
	}
	tx.Add(&knftables.Set{Name: hairpinSet, Type: "ipv4_addr . ipv4_addr"})
	// What the node itself sends to its pods passes the output hook, where nothing is judged.
	for _, base := range []struct {
		chain string
		hook  knftables.BaseChainHook
		rules []string
	}{
		{"forward", knftables.ForwardHook, []string{
			"ct state established,related accept",
			"ip saddr . ip daddr @" + hairpinSet + " accept",
			"ip saddr vmap @" + string(Egress),
			"ip daddr vmap @" + string(Ingress),
		}},
		{"input", knftables.InputHook, []string{
			"ct state established,related accept",
			"ip saddr vmap @" + string(Egress),
		}},
	} {
		tx.Add(&knftables.Chain{
			Name: base.chain, Type: knftables.PtrTo(knftables.FilterType),
			Hook: knftables.PtrTo(base.hook), Priority: knftables.PtrTo(nftPriority),
		})
		for _, rule := range base.rules {
			tx.Add(&knftables.Rule{Chain: base.chain, Rule: rule})
		}
	}
}

// change leads from the old model to the new one: what is named comes first and goes last.
func (w *nftWriter) change(tx *knftables.Transaction, old, m *Model) {
	for _, set := range sorted(m.Sets) {
		if _, ok := old.Sets[set]; !ok {
			tx.Add(nftSet(set, m.Sets[set].Kind))
		}
		changeElements(tx, set, old.Sets[set].Elements, m.Sets[set].Elements)
	}
	for _, profile := range sorted(m.Profiles) {
		if _, ok := old.Profiles[profile]; ok {
			continue
		}
		delete(w.stale, profile)
		tx.Add(&knftables.Chain{Name: profile})
		for _, rule := range nftRules(m.Profiles[profile]) {
			tx.Add(&knftables.Rule{Chain: profile, Rule: rule})
		}
	}
	for _, d := range []Direction{Ingress, Egress} {
		changeIsolated(tx, d, old.Isolated[d], m.Isolated[d])
	}
	changeHairpins(tx, old, m)
	for _, profile := range sorted(old.Profiles) {
		if _, ok := m.Profiles[profile]; !ok {
			tx.Flush(&knftables.Chain{Name: profile})
			w.stale[profile] = time.Now()
		}
	}
	for _, set := range sorted(old.Sets) {
		if _, ok := m.Sets[set]; !ok {
			tx.Delete(&knftables.Set{Name: set})
		}
	}
}

func nftSet(name string, k Kind) *knftables.Set {
	s := &knftables.Set{Name: name, Type: "ipv4_addr"}
	switch k {
	case Blocks:
		s.Flags = []knftables.SetFlag{knftables.IntervalFlag}
	case Endpoints:
		s.Type = "ipv4_addr . inet_proto . inet_service"
	}
	return s
}

func changeElements(tx *knftables.Transaction, set string, old, now map[Element]struct{}) {
	for _, e := range slices.SortedFunc(maps.Keys(old), Element.compare) {
		if _, ok := now[e]; !ok {
			tx.Delete(&knftables.Element{Set: set, Key: nftKey(e)})
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(now), Element.compare) {
		if _, ok := old[e]; !ok {
			tx.Add(&knftables.Element{Set: set, Key: nftKey(e)})
		}
	}
}

func nftKey(e Element) []string {
	switch {
	case e.Protocol != "":
		return []string{e.Net.Addr().String(), string(e.Protocol), strconv.Itoa(int(e.Port))}
	case e.Net.IsSingleIP():
		return []string{e.Net.Addr().String()}
	}
	return []string{e.Net.String()}
}

func changeIsolated(tx *knftables.Transaction, d Direction, old, now map[netip.Addr]string) {
	element := func(a netip.Addr, profile string) *knftables.Element {
		return &knftables.Element{Map: string(d), Key: []string{a.String()}, Value: []string{"jump " + profile}}
	}
	for _, a := range slices.SortedFunc(maps.Keys(old), netip.Addr.Compare) {
		if now[a] != old[a] {
			tx.Delete(element(a, old[a]))
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(now), netip.Addr.Compare) {
		if now[a] != old[a] {
			tx.Add(element(a, now[a]))
		}
	}
}

func changeHairpins(tx *knftables.Transaction, old, m *Model) {
	before, now := old.isolated(), m.isolated()
	for _, a := range slices.SortedFunc(maps.Keys(before), netip.Addr.Compare) {
		if !now[a] {
			tx.Delete(&knftables.Element{Set: hairpinSet, Key: []string{a.String(), a.String()}})
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(now), netip.Addr.Compare) {
		if !before[a] {
			tx.Add(&knftables.Element{Set: hairpinSet, Key: []string{a.String(), a.String()}})
		}
	}
}

// nftRules are the rules of a profile's chain. What is allowed returns to the base chain, where the other end's profile may judge it, too.
func nftRules(p Profile) []string {
	var out []string
	for _, r := range p.Rules {
		end := nftEnd(p.Direction, r.Set)
		if len(r.Ports) == 0 {
			out = append(out, knftables.Concat(end, "return"))
		}
		for _, ports := range nftPorts(r.Ports) {
			out = append(out, knftables.Concat(end, ports, "return"))
		}
	}
	return append(out, "counter drop")
}

// nftEnd matches the other end.
func nftEnd(d Direction, set string) string {
	switch {
	case set == "":
		return ""
	case strings.HasPrefix(set, string(Endpoints)):
		return "ip daddr . meta l4proto . th dport @" + set
	case d == Ingress:
		return "ip saddr @" + set
	}
	return "ip daddr @" + set
}

// nftPorts matches ports, each protocol by itself.
func nftPorts(ranges []PortRange) []string {
	var out []string
	for _, proto := range []Protocol{TCP, UDP, SCTP} {
		var list []string
		for _, r := range ranges {
			switch {
			case r.Protocol != proto:
			case r.all():
				out = append(out, "meta l4proto "+string(proto))
			case r.First == r.Last:
				list = append(list, strconv.Itoa(int(r.First)))
			default:
				list = append(list, fmt.Sprintf("%d-%d", r.First, r.Last))
			}
		}
		if len(list) > 0 {
			out = append(out, fmt.Sprintf("%s dport { %s }", proto, strings.Join(list, ", ")))
		}
	}
	return out
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
