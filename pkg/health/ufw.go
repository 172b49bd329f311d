package health

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// Files of ufw. Its rules are read from its own notes beside the iptables rules: `ufw status` shows some by names of applications.
const (
	ufwConf     = "etc/ufw/ufw.conf"
	ufwDefaults = "etc/default/ufw"
	ufwRules    = "etc/ufw/user.rules"
)

// ufwRule is one of the administrator's.
type ufwRule struct {
	// number is that of `ufw status numbered`.
	number int
	// forward rules are for what is neither from nor for the machine itself.
	forward bool
	// action is allow, deny, reject or limit, perhaps with _log.
	action, proto, ports string
	from, to             netip.Prefix
	// iface, if set, is the only interface that it is for.
	iface string
}

func (r ufwRule) String() string {
	return fmt.Sprintf("rule %d: %s %s/%s from %s", r.number, r.action, r.ports, r.proto, or(r.from, "anywhere"))
}

func (r ufwRule) allows() bool { return strings.HasPrefix(r.action, "allow") }

// ufwActive tells whether ufw is switched on, without asking it: that takes Python's while.
func (h Host) ufwActive() bool {
	_, err := h.LookPath("ufw")
	return err == nil && h.setting(ufwConf, "ENABLED") == "yes"
}

// setting is a variable of a file for the shell.
func (h Host) setting(file, name string) string {
	for _, words := range h.fields(file) {
		if len(words) == 0 {
			continue
		}
		if value, ok := strings.CutPrefix(words[0], name+"="); ok {
			return strings.ToLower(strings.Trim(value, `"'`))
		}
	}
	return ""
}

func lookUFW(ctx context.Context, h Host) finding {
	program, err := h.LookPath("ufw")
	if err != nil || !h.ufwActive() {
		return pass("not in use")
	}
	status, err := h.Command(ctx, "", program, "status")
	if err != nil {
		return warn("switched on, but it does not tell its status: %v", err).do("look at what `ufw status` says")
	}
	if !strings.Contains(status, "Status: active") {
		return pass("switched on, but not active")
	}
	rules, err := h.ufwRules()
	if err != nil {
		return warn("active, but %v", err).do("look whether `ufw status` shows what labk needs")
	}
	return h.judgeUFW(rules)
}

// ufwRules reads lines such as "### tuple ### allow tcp 6443 0.0.0.0/0 any 192.168.1.0/24 in_eth0 comment=6d79".
func (h Host) ufwRules() (rules []ufwRule, err error) {
	text, err := h.read(ufwRules)
	if err != nil {
		return nil, fmt.Errorf("its rules cannot be read: %w", err)
	}
	number := 0
	for line := range strings.Lines(text) {
		tuple, ok := strings.CutPrefix(line, "### tuple ### ")
		if !ok {
			continue
		}
		number++
		tuple, _, _ = strings.Cut(tuple, " comment=")
		// action protocol port to source-port from [application application] direction
		f := strings.Fields(tuple)
		if len(f) < 7 || f[4] != "any" {
			continue
		}
		r := ufwRule{number: number, proto: f[1], ports: f[2], to: prefix(f[3]), from: prefix(f[5])}
		r.action, r.forward = strings.CutPrefix(f[0], "route:")
		direction, iface, _ := strings.Cut(f[len(f)-1], "_")
		r.iface = iface
		if direction == "in" && r.from.IsValid() && r.to.IsValid() {
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// first is the first rule that decides about packets between two networks. A rule that allows only some of them decides, too: whoever wrote
// it knows for whom. One that forbids some leaves it to the later ones.
func first(rules []ufwRule, from, to netip.Prefix, fits func(ufwRule) bool) (ufwRule, bool) {
	for _, r := range rules {
		if !fits(r) {
			continue
		}
		if r.allows() && r.from.Overlaps(from) && r.to.Overlaps(to) || covers(r.from, from) && covers(r.to, to) {
			return r, true
		}
	}
	return ufwRule{}, false
}

// block is something that does not get through, and by what.
type block struct{ what, why string }

// judgement collects what ufw blocks and how to open it.
type judgement struct {
	blocked []block
	doors   []door
	routes  []ufwRule
	// before is the number of the first rule in the way; 0 if only defaults are.
	before, routeBefore int
}

func (j *judgement) why(r ufwRule, found bool, setting string, before *int) string {
	if !found {
		return setting
	}
	if *before == 0 || r.number < *before {
		*before = r.number
	}
	return r.String()
}

func (h Host) judgeUFW(rules []ufwRule) finding {
	j := h.blockedByUFW(rules)
	if len(j.blocked) == 0 {
		return pass("active, and lets through what labk needs")
	}
	return warn("it blocks %s", j.detail()).do("%s", strings.Join(j.commands(rules), " && "))
}

func (h Host) blockedByUFW(rules []ufwRule) (j judgement) {
	need := h.reach()
	policy := h.setting(ufwDefaults, "DEFAULT_INPUT_POLICY")
	for _, d := range need.doors {
		r, found := need.ufwRule(rules, d)
		if found && r.allows() || !found && policy == "accept" {
			continue
		}
		why := j.why(r, found, fmt.Sprintf("DEFAULT_INPUT_POLICY=%q in /%s", strings.ToUpper(policy), ufwDefaults), &j.before)
		j.blocked = append(j.blocked, block{d.name() + " from " + or(d.from, "anywhere"), why})
		j.doors = append(j.doors, d)
	}
	if need.pods.IsValid() {
		h.judgeForwarding(&j, rules, need)
	}
	return j
}

// ufwRule is the rule that decides about a door.
func (need reach) ufwRule(rules []ufwRule, d door) (ufwRule, bool) {
	return first(rules, d.from, anywhere, func(r ufwRule) bool {
		return !r.forward && (r.proto == "any" || r.proto == d.proto) && hasPort(r.ports, d.port) &&
			(r.iface == "" || r.iface == need.iface && d.from == need.lan)
	})
}

// judgeForwarding looks at the ways between pods and other PCs; what opens them is for everybody, as pods reach further than those.
func (h Host) judgeForwarding(j *judgement, rules []ufwRule, need reach) {
	policy := h.setting(ufwDefaults, "DEFAULT_FORWARD_POLICY")
	for _, way := range []struct {
		word     string
		from, to netip.Prefix
		rule     ufwRule
	}{
		{"from", need.pods, need.lan, ufwRule{from: need.pods, to: anywhere}},
		{"to", need.lan, need.pods, ufwRule{from: anywhere, to: need.pods}},
	} {
		r, found := first(rules, way.from, way.to, func(r ufwRule) bool {
			return r.forward && r.iface == "" && r.proto == "any" && r.ports == "any"
		})
		if found && r.allows() || !found && policy == "accept" {
			continue
		}
		why := j.why(r, found, fmt.Sprintf("DEFAULT_FORWARD_POLICY=%q in /%s", strings.ToUpper(policy), ufwDefaults), &j.routeBefore)
		j.blocked = append(j.blocked, block{"forwarding " + way.word + " pods", why})
		way.rule.forward, way.rule.proto, way.rule.ports = true, "any", "any"
		j.routes = append(j.routes, way.rule)
	}
}

// detail names what is blocked for one reason together.
func (j *judgement) detail() string {
	var b strings.Builder
	for i, one := range j.blocked {
		b.WriteString(one.what)
		switch {
		case i+1 < len(j.blocked) && j.blocked[i+1].why == one.why:
			b.WriteString(", ")
		case i+1 < len(j.blocked):
			b.WriteString(" (" + one.why + "), ")
		default:
			b.WriteString(" (" + one.why + ")")
		}
	}
	return b.String()
}

// commands put each rule before the first that is in the way.
func (j *judgement) commands(rules []ufwRule) []string {
	var in, route []string
	for _, g := range gather(j.doors) {
		ports := strings.Join(g.ports, ",")
		spec := fmt.Sprintf("proto %s from %s to any port %s", g.proto, or(g.from, "any"), ports)
		in = append(in, place(rules, ufwRule{proto: g.proto, ports: ports, from: g.from, to: anywhere}, "ufw", spec, j.before)...)
	}
	for _, r := range j.routes {
		word, pods := "from", r.from
		if r.from == anywhere {
			word, pods = "to", r.to
		}
		route = append(route, place(rules, r, "ufw route", fmt.Sprintf("%s %s", word, pods), j.routeBefore)...)
	}
	// all rules are numbered together: one that is put before another shifts it
	if j.before > j.routeBefore {
		return append(in, route...)
	}
	return append(route, in...)
}

// place returns the commands that add a rule that allows, before the one with that number unless it is 0. ufw has a rule only once: it
// changes what is the same but for the action where it is, and puts nothing in before.
func place(rules []ufwRule, want ufwRule, command, spec string, before int) []string {
	for _, r := range rules {
		same := r.forward == want.forward && r.proto == want.proto && r.ports == want.ports && r.from == want.from && r.to == want.to && r.iface == ""
		if !same || before == 0 {
			continue
		}
		if r.number == before {
			return []string{fmt.Sprintf("%s allow %s", command, spec)}
		}
		action, _, _ := strings.Cut(r.action, "_")
		return []string{fmt.Sprintf("%s delete %s %s", command, action, spec), fmt.Sprintf("%s insert %d allow %s", command, before, spec)}
	}
	if before == 0 {
		return []string{fmt.Sprintf("%s allow %s", command, spec)}
	}
	return []string{fmt.Sprintf("%s insert %d allow %s", command, before, spec)}
}
