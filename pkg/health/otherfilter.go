package health

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// chain is one that the kernel asks by itself, and that drops what none of its rules accepts.
type chain struct {
	family, table, name, hook string
	// rules is its whole table as text; for iptables without nft, the rules of all chains.
	rules string
}

// legacy tells whether the chain is best changed with iptables, which made it.
func (c chain) legacy() bool {
	return c.table == "filter" && (c.name == "INPUT" || c.name == "FORWARD")
}

func (c chain) String() string {
	if c.legacy() {
		return fmt.Sprintf("chain %s of iptables' filter table", c.name)
	}
	return fmt.Sprintf("chain %s of nftables' table %s %s", c.name, c.family, c.table)
}

// mentions tells whether a rule has the word, such as a port or a network, in it. Whoever wrote it thought of that, and is not second-guessed.
func (c chain) mentions(word string) bool {
	return slices.Contains(strings.FieldsFunc(c.rules, func(r rune) bool { return strings.ContainsRune(" \t\n,{}", r) }), word)
}

// accepts tells whether a rule accepts all from or to a network.
func (c chain) accepts(word, network string) bool {
	for line := range strings.Lines(c.rules) {
		if strings.Contains(line, word+" "+network) && !strings.Contains(line, "port") &&
			(strings.Contains(line, "accept") || strings.Contains(line, "ACCEPT")) {
			return true
		}
	}
	return false
}

func lookOtherFilters(ctx context.Context, h Host) finding {
	chains, err := h.droppingChains(ctx)
	if err != nil {
		return pass("not looked at: %v", err) // LABK014 says what is wrong with the program
	}
	var blocked, remedies []string
	for _, c := range chains {
		if c.legacy() && h.ufwActive() {
			continue // LABK015 looks at those
		}
		what, how := h.judgeChain(ctx, c)
		if len(what) > 0 {
			blocked = append(blocked, fmt.Sprintf("%s drops what it does not accept (policy drop), and does not mention %s", c, strings.Join(what, ", ")))
			remedies = append(remedies, how...)
		}
	}
	if len(blocked) == 0 {
		return pass("none that drops what labk needs")
	}
	return warn("%s", strings.Join(blocked, "; ")).do("%s; and add the same where these rules are kept, often /etc/nftables.conf", strings.Join(remedies, " && "))
}

// droppingChains are the base chains for packets to the machine and through it whose policy is drop.
func (h Host) droppingChains(ctx context.Context) ([]chain, error) {
	if program, err := h.LookPath("nft"); err == nil {
		return h.nftChains(ctx, program)
	}
	program, err := h.LookPath("iptables")
	if err != nil {
		return nil, err
	}
	rules, err := h.Command(ctx, "", program, "--wait", "3", "--list-rules")
	if err != nil {
		return nil, err
	}
	var all []chain
	for _, name := range []string{"INPUT", "FORWARD"} {
		if strings.Contains(rules, "-P "+name+" DROP") {
			all = append(all, chain{family: "ip", table: "filter", name: name, hook: strings.ToLower(name), rules: rules})
		}
	}
	return all, nil
}

func (h Host) nftChains(ctx context.Context, program string) ([]chain, error) {
	list, err := h.Command(ctx, "", program, "list", "chains")
	if err != nil {
		return nil, err
	}
	var all []chain
	var c chain
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		switch {
		case len(f) > 2 && f[0] == "table":
			c = chain{family: f[1], table: f[2]}
		case len(f) > 1 && f[0] == "chain":
			c.name = f[1]
		case len(f) > 3 && f[0] == "type" && f[2] == "hook" && strings.Contains(line, "policy drop"):
			c.hook = f[3]
			own := strings.HasPrefix(c.table, "labk") || c.table == "kube-proxy"
			if !own && (c.family == "ip" || c.family == "inet") && (c.hook == "input" || c.hook == "forward") {
				all = append(all, c)
			}
		}
	}
	for i, c := range all {
		if all[i].rules, err = h.Command(ctx, "", program, "list", "table", c.family, c.table); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// judgeChain says what a chain does not seem to know, and how to tell it.
func (h Host) judgeChain(ctx context.Context, c chain) (what, how []string) {
	need := h.reach()
	if c.hook == "input" {
		var missing []door
		for _, d := range need.doors {
			if !c.mentions(strconv.Itoa(d.port)) && !c.accepts("saddr", d.from.String()) && !c.accepts("-s", d.from.String()) {
				missing = append(missing, d)
			}
		}
		for _, g := range gather(missing) {
			for _, port := range g.ports {
				what = append(what, port+"/"+g.proto+" from "+or(g.from, "anywhere"))
			}
			how = append(how, c.open(g))
		}
		return what, how
	}
	if !need.pods.IsValid() {
		return nil, nil
	}
	if mode, _, err := h.firewall(ctx); c.legacy() && err == nil && mode == IPTables {
		return nil, nil // labk's own rules are in that very chain
	}
	for _, way := range []struct{ word, nft, iptables string }{{"from", "saddr", "-s"}, {"to", "daddr", "-d"}} {
		pods := need.pods.String()
		if c.accepts(way.nft, pods) || c.accepts(way.iptables, pods) {
			continue
		}
		what = append(what, fmt.Sprintf("forwarding %s pods (%s)", way.word, pods))
		if c.legacy() {
			how = append(how, fmt.Sprintf("iptables -I FORWARD %s %s -j ACCEPT", way.iptables, pods))
		} else {
			how = append(how, fmt.Sprintf("nft insert rule %s %s %s ip %s %s accept", c.family, c.table, c.name, way.nft, pods))
		}
	}
	return what, how
}

// open is the command by which a chain accepts ports.
func (c chain) open(g gathered) string {
	if c.legacy() {
		return fmt.Sprintf("iptables -I INPUT -s %s -p %s -m multiport --dports %s -j ACCEPT", g.from, g.proto, strings.Join(g.ports, ","))
	}
	source := ""
	if g.from != anywhere {
		source = fmt.Sprintf("ip saddr %s ", g.from)
	}
	return fmt.Sprintf("nft insert rule %s %s %s %s%s dport '{ %s }' accept", c.family, c.table, c.name, source, g.proto, strings.Join(g.ports, ", "))
}
