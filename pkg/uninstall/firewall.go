package uninstall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/labk/labk/pkg/install"
)

// closeFirewall takes back what was opened in ufw or firewalld, the last first.
func (r *removal) closeFirewall(ctx context.Context) error {
	if r.site.record == nil {
		return nil
	}
	var errs []error
	for _, rule := range slices.Backward(r.site.record.Firewall) {
		if len(rule.Remove) > 0 {
			errs = append(errs, r.closeRule(ctx, rule))
		}
	}
	return errors.Join(errs...)
}

func (r *removal) closeRule(ctx context.Context, rule install.Rule) error {
	command := strings.Join(rule.Remove, " ")
	cmd := exec.CommandContext(ctx, rule.Remove[0], rule.Remove[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	switch said := strings.TrimSpace(string(out)); {
	case errors.Is(err, exec.ErrNotFound): // the firewall is gone, and its rules with it
	case err == nil:
		r.o.Say("closed in %s: %s", rule.Firewall, command)
	case isClosed(rule, said):
		r.o.Say("closed in %s already: %s", rule.Firewall, command)
	default:
		return fmt.Errorf("close what was opened in %s: %s: %w: %s: see to it that this command works", rule.Firewall, command, err, said)
	}
	return nil
}

// isClosed tells from what a firewall says whether its owner has removed the rule, or what it was part of, or whether the rule ended with a firewalld that was stopped.
func isClosed(rule install.Rule, said string) bool {
	if strings.Contains(said, "not running") {
		return !slices.Contains(rule.Remove, "--permanent")
	}
	return slices.ContainsFunc([]string{"non-existent rule", "NOT_ENABLED", "INVALID_ZONE", "INVALID_POLICY"}, func(s string) bool { return strings.Contains(said, s) })
}
