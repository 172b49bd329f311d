package health

import (
	"context"
	"slices"
	"strings"
)

// Opening is a command that opens something of a firewall, and the one that closes it again.
type Opening struct {
	// Firewall is "ufw" or "firewalld".
	Firewall    string
	Add, Remove []string
}

// Openings are the commands that let other PCs and pods through ufw and firewalld, as far as the firewalls' defaults are in the way; none if nothing is. What the machine's owner
// forbids by a rule of their own stays forbidden: the probes tell of it.
func (h Host) Openings(ctx context.Context) []Opening {
	return append(h.ufwOpenings(ctx), h.firewalldOpenings(ctx)...)
}

func (h Host) ufwOpenings(ctx context.Context) (all []Opening) {
	program, err := h.LookPath("ufw")
	if err != nil || !h.ufwActive() {
		return nil
	}
	status, err := h.Command(ctx, "", program, "status")
	if err != nil || !strings.Contains(status, "Status: active") {
		return nil
	}
	rules, err := h.ufwRules()
	if err != nil {
		return nil
	}
	j := h.blockedByUFW(rules)
	need := h.reach()
	j.doors, j.before = slices.DeleteFunc(j.doors, func(d door) bool { _, forbidden := need.ufwRule(rules, d); return forbidden }), 0
	if j.routeBefore != 0 {
		j.routes, j.routeBefore = nil, 0
	}
	for _, command := range j.commands(rules) { // each is "ufw [route] allow ..."
		all = append(all, Opening{"ufw", strings.Fields(command), strings.Fields(strings.Replace(command, " allow ", " delete allow ", 1))})
	}
	return all
}

func (h Host) firewalldOpenings(ctx context.Context) (all []Opening) {
	z, unknown := h.firewalldZones(ctx)
	if unknown != nil {
		return nil
	}
	_, commands := h.blockedByFirewalld(z)
	moved := false // the pods' network would have to leave a zone that somebody gave it
	for _, command := range commands {
		moved = moved || strings.Contains(command, " --remove-source=")
		if strings.Contains(command, " --remove-") || moved && strings.Contains(command, " --add-source=") {
			continue
		}
		// Now and after a reboot; a reload would take away what others have opened for now only.
		for _, add := range []string{strings.Replace(command, " --permanent", "", 1), command} {
			all = append(all, Opening{"firewalld", strings.Fields(add), strings.Fields(strings.ReplaceAll(add, " --add-", " --remove-"))})
		}
	}
	return all
}
