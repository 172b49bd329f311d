package installer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/labk/labk/pkg/health"
)

// need is something that a distribution has a package for.
type need string

const (
	filter    need = "nft"
	protocols need = "/etc/protocols"
	mount     need = "mount"
)

// repairs is what puts a fault right, by the fault's code.
func repairs(code string) (n need, ok bool) {
	n, ok = map[string]need{"LABK004": mount, "LABK013": filter, "LABK014": protocols}[code]
	return n, ok
}

// missing are the needs that failed probes tell of.
func missing(results []health.Result) (all []need) {
	for _, r := range results {
		n, ok := repairs(r.Code)
		if r.Status == health.Fail && ok && (n != protocols || strings.Contains(r.Detail, string(protocols))) {
			all = append(all, n)
		}
	}
	return all
}

// packager is a distribution's package manager. Those are asked in turn whose program is there.
type packager struct {
	program string
	// commands are tried until one works; the packages' names follow the last word of each.
	commands [][]string
	names    map[need]string
}

func packagers() []packager {
	return []packager{
		{"apt-get", [][]string{
			{"apt-get", "install", "-y", "-q", "--no-install-recommends"},
			{"sh", "-c", `apt-get update -q && apt-get install -y -q --no-install-recommends "$@"`, "sh"}, // lists may be missing, or old
		}, map[need]string{filter: "nftables", protocols: "netbase", mount: "mount"}},
		{"dnf", [][]string{{"dnf", "install", "-y", "-q"}}, map[need]string{filter: "nftables", protocols: "setup", mount: "util-linux"}},
		{"zypper", [][]string{{"zypper", "--non-interactive", "--quiet", "install"}}, map[need]string{filter: "nftables", protocols: "netcfg", mount: "util-linux"}},
		{"pacman", [][]string{{"pacman", "-S", "--noconfirm", "--needed"}}, map[need]string{filter: "nftables", protocols: "iana-etc", mount: "util-linux"}},
		{"apk", [][]string{{"apk", "add", "--no-progress"}}, map[need]string{filter: "nftables", protocols: "alpine-baselayout-data", mount: "mount"}},
	}
}

// packageLimit bounds one command of a package manager.
const packageLimit = 5 * time.Minute

// installPackages installs what is missing; the error names the command with which a person can try it.
func (i *installation) installPackages(ctx context.Context, needs []need) error {
	all := packagers()
	k := slices.IndexFunc(all, func(p packager) bool { _, err := i.Host.LookPath(p.program); return err == nil })
	if k < 0 {
		return nil // what the probes say has to do
	}
	p := all[k]
	var names []string
	for _, n := range needs {
		names = append(names, p.names[n])
	}
	i.Say("installing %s", strings.Join(names, " "))
	var err error
	for _, command := range p.commands {
		if _, err = run(ctx, packageLimit, slices.Concat(command, names)...); err == nil {
			return nil
		}
	}
	return fmt.Errorf("install packages: %w: connect this PC to where its packages come from, or install them yourself: %s",
		err, strings.Join(slices.Concat(p.commands[0], names), " "))
}
