package uninstall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
)

// The rules are changed through the kernel's own interface, so that neither nft nor iptables is needed, which may be gone by now. What iptables-nft writes is
// found there too; only the old iptables has rules elsewhere (legacy.go).

// rule is a rule of a packet filter, as far as it matters here.
type rule struct {
	chain, target, comment string
	// text is the rule as iptables-save prints it, or number which of nft's it is.
	text   string
	number int
}

// hostPorts is the chain in which the CNI plugin portmap, which others use too, has a rule for each pod with ports of the host.
const hostPorts = "CNI-HOSTPORT-DNAT"

// condemned picks from a table of iptables the chains that are labk's parts', and rules elsewhere that lead to them or are about labk's pods.
func condemned(chains []string, rules []rule) (dead []string, doomed []rule) {
	isOurs := func(r rule) bool { return strings.Contains(r.comment, `"labk"`) }
	prefixes := []string{"KUBE-", "FLANNEL-", "LABK-"}
	ports := slices.DeleteFunc(slices.Clone(rules), func(r rule) bool { return r.chain != hostPorts })
	if !slices.ContainsFunc(ports, func(r rule) bool { return !isOurs(r) }) {
		prefixes = append(prefixes, "CNI-HOSTPORT-", "CNI-DN-")
	} else {
		for _, r := range ports {
			if isOurs(r) {
				dead = append(dead, r.target)
			}
		}
	}
	for _, c := range chains {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(c, p) }) {
			dead = append(dead, c)
		}
	}
	for _, r := range rules {
		if slices.Contains(dead, r.target) && !slices.Contains(dead, r.chain) {
			doomed = append(doomed, r)
		}
	}
	return dead, doomed
}

// removeRules takes labk's rules out of the kernel's packet filter.
func (r *removal) removeRules(ctx context.Context) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open the packet filter: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil { // a kernel without nftables
		return r.removeLegacyRules(ctx)
	}
	var errs []error
	for _, t := range tables {
		var removed bool
		var err error
		switch {
		case t.Name == "labk-policy", len(r.others) == 0 && slices.Contains([]string{"kube-proxy", "flannel-ipv4", "flannel-ipv6"}, t.Name):
			conn.DelTable(t)
			removed = true
		case t.Name == "cni_hostport":
			removed, err = r.removeHostPorts(conn, t)
		case len(r.others) == 0 && slices.Contains([]string{"nat", "filter", "mangle", "raw"}, t.Name):
			removed, err = removeChains(conn, t)
		}
		if err == nil {
			err = conn.Flush()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove rules from the table %s %s: %w", family(t), t.Name, err))
		} else if removed {
			r.o.Say("removed the rules in the table %s %s", family(t), t.Name)
		}
	}
	return errors.Join(append(errs, r.removeLegacyRules(ctx))...)
}

func family(t *nftables.Table) string {
	if t.Family == nftables.TableFamilyIPv6 {
		return "ip6"
	}
	return "ip"
}

// tableRules reads a table's chains and rules.
func tableRules(conn *nftables.Conn, t *nftables.Table) (chains map[string]*nftables.Chain, rules []*nftables.Rule, err error) {
	all, err := conn.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return nil, nil, err
	}
	chains = map[string]*nftables.Chain{}
	for _, c := range all {
		if c.Table.Name != t.Name {
			continue
		}
		chains[c.Name] = c
		some, err := conn.GetRules(t, c)
		if err != nil {
			return nil, nil, err
		}
		rules = append(rules, some...)
	}
	return chains, rules, nil
}

// describe is what the rule does, as far as it matters here.
func describe(number int, r *nftables.Rule) rule {
	out := rule{chain: r.Chain.Name, number: number}
	out.comment, _ = userdata.GetString(r.UserData, userdata.TypeComment)
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Verdict:
			out.target = e.Chain
		case *expr.Match:
			if c, ok := e.Info.(*xt.Comment); ok {
				out.comment += string(*c)
			}
		}
	}
	return out
}

// removeChains removes labk's chains from a table of iptables-nft and, if nothing else is in it, the table: it is made at iptables' first call, as its own
// chains are when they are needed.
func removeChains(conn *nftables.Conn, t *nftables.Table) (bool, error) {
	chains, rules, err := tableRules(conn, t)
	if err != nil {
		return false, err
	}
	var names []string
	for name := range chains {
		names = append(names, name)
	}
	var described []rule
	for i, r := range rules {
		described = append(described, describe(i, r))
	}
	dead, doomed := condemned(names, described)
	if len(dead) == 0 {
		return false, nil
	}
	stay, left := len(rules)-len(doomed), map[string]int{}
	for _, d := range described {
		left[d.chain]++
		if slices.Contains(dead, d.chain) {
			stay--
		}
	}
	if stay == 0 && !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(dead, name) && !plain(chains[name]) }) {
		conn.DelTable(t)
		return true, nil
	}
	for _, d := range doomed {
		if err := conn.DelRule(rules[d.number]); err != nil {
			return false, err
		}
		if left[d.chain]--; left[d.chain] == 0 && plain(chains[d.chain]) { // made for that rule alone
			dead = append(dead, d.chain)
		}
	}
	for _, name := range dead {
		if chains[name] != nil {
			conn.FlushChain(chains[name])
		}
	}
	for _, name := range dead {
		if chains[name] != nil {
			conn.DelChain(chains[name])
		}
	}
	return true, nil
}

// plain tells whether an empty chain does the same as none.
func plain(c *nftables.Chain) bool {
	return c.Hooknum != nil && (c.Policy == nil || *c.Policy == nftables.ChainPolicyAccept)
}

// removeHostPorts removes the rules for labk's pods from the table of the CNI plugin portmap and, if nobody else's are in it, the table.
func (r *removal) removeHostPorts(conn *nftables.Conn, t *nftables.Table) (bool, error) {
	_, rules, err := tableRules(conn, t)
	if err != nil {
		return false, err
	}
	pods := map[string]bool{}
	for _, a := range attachments() {
		pods[a.ContainerID] = true
	}
	var ours []*nftables.Rule
	others := false
	for i, one := range rules {
		id := describe(i, one).comment
		switch {
		case id == "": // the table's own frame
		case pods[id] || len(r.others) == 0 && r.leadsToPod(one):
			ours = append(ours, one)
		default:
			others = true
		}
	}
	if !others {
		conn.DelTable(t)
		return true, nil
	}
	for _, one := range ours {
		if err := conn.DelRule(one); err != nil {
			return false, err
		}
	}
	return len(ours) > 0, nil
}

// leadsToPod tells whether the rule mentions an address of labk's pods.
func (r *removal) leadsToPod(one *nftables.Rule) bool {
	return slices.ContainsFunc(one.Exprs, func(e expr.Any) bool {
		switch e := e.(type) {
		case *expr.Immediate:
			return within(r.site.pods, e.Data)
		case *expr.Cmp:
			return within(r.site.pods, e.Data)
		}
		return false
	})
}
