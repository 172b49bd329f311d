package uninstall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// removeLegacyRules takes labk's rules out of the tables of the old iptables, if that is installed.
func (r *removal) removeLegacyRules(ctx context.Context) error {
	if len(r.others) > 0 {
		return nil
	}
	var errs []error
	for _, program := range []string{"iptables", "ip6tables"} {
		legacy, ok := legacyProgram(ctx, program)
		if !ok {
			continue
		}
		saved, err := exec.CommandContext(ctx, legacy+"-save").Output()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s-save: %w", legacy, err))
			continue
		}
		script := cleansing(string(saved))
		if script == "" {
			continue
		}
		restore := exec.CommandContext(ctx, legacy+"-restore", "--noflush", "--wait", "5")
		restore.Stdin = strings.NewReader(script)
		if out, err := restore.CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("remove rules by %s-restore: %w: %s", legacy, err, out))
			continue
		}
		r.o.Say("removed the rules of %s", legacy)
	}
	return errors.Join(errs...)
}

// legacyProgram is the name of the old iptables, the one whose rules nftables does not see.
func legacyProgram(ctx context.Context, program string) (string, bool) {
	if _, err := exec.LookPath(program + "-legacy-save"); err == nil {
		return program + "-legacy", true
	}
	version, err := exec.CommandContext(ctx, program, "--version").Output()
	return program, err == nil && !strings.Contains(string(version), "nf_tables")
}

// cleansing is what iptables-restore is given to remove labk's chains and the rules that lead to them; empty if there are none.
func cleansing(saved string) string {
	var script strings.Builder
	var table string
	var chains []string
	var rules []rule
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table, chains, rules = line, nil, nil
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			chains = append(chains, name)
		case strings.HasPrefix(line, "-A "):
			rules = append(rules, parseRule(line))
		case line == "COMMIT":
			dead, doomed := condemned(chains, rules)
			if len(dead) == 0 {
				continue
			}
			fmt.Fprintln(&script, table)
			for _, name := range dead { // naming a chain empties it
				fmt.Fprintf(&script, ":%s - [0:0]\n", name)
			}
			for _, d := range doomed {
				fmt.Fprintln(&script, "-D "+strings.TrimPrefix(d.text, "-A "))
			}
			for _, name := range dead {
				fmt.Fprintf(&script, "-X %s\n", name)
			}
			fmt.Fprintln(&script, "COMMIT")
		}
	}
	return script.String()
}

// parseRule reads a line of iptables-save. The whole line stands for the comment, where quotes are escaped.
func parseRule(line string) rule {
	f := strings.Fields(line)
	r := rule{chain: f[1], text: line, comment: strings.ReplaceAll(line, `\"`, `"`)}
	for i, word := range f[:len(f)-1] {
		if word == "-j" || word == "-g" {
			r.target = f[i+1]
		}
	}
	return r
}
