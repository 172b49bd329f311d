package installer

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/install"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/paths"
)

// isFirewall tells whether a fault is one that openFirewall puts right.
func isFirewall(code string) bool { return code == "LABK015" || code == "LABK016" }

// firewallLimit bounds one command of a firewall.
const firewallLimit = 30 * time.Second

// openFirewall opens ufw and firewalld for what the cluster needs and nothing else, and notes each rule before it adds it. What its owner forbids stays so, with a warning; so does a failure: the node works
// without, but for others.
func (i *installation) openFirewall(ctx context.Context) {
	if i.SkipFirewall || i.opened {
		return
	}
	i.opened = true
	h := i.Host
	h.Config = i.cfg
	if i.Role == "agent" {
		if _, err := join.Recall(&h.Config, paths.Data(h.Config.DataDir)); err != nil {
			i.Warn("%v", err)
		}
	}
	for _, o := range h.Openings(ctx) {
		i.Say("opening %s: %s", o.Firewall, strings.Join(o.Add, " "))
		if err := i.addRule(ctx, install.Rule(o)); err != nil {
			i.Warn("open %s: %v: do it yourself, or run this again", o.Firewall, err)
		}
	}
	probes := slices.DeleteFunc(health.Probes(), func(p health.Probe) bool { return !isFirewall(p.Code) })
	for _, r := range health.Run(ctx, h, probes) {
		if r.Status == health.Warn {
			i.warn(r)
		}
	}
}

func (i *installation) addRule(ctx context.Context, rule install.Rule) error {
	noted := slices.ContainsFunc(i.record.Firewall, func(r install.Rule) bool { return slices.Equal(r.Add, rule.Add) })
	if !noted {
		i.record.Firewall = append(i.record.Firewall, rule)
		if err := i.record.Save(); err != nil {
			return err
		}
	}
	_, err := run(ctx, firewallLimit, rule.Add...)
	return err
}
