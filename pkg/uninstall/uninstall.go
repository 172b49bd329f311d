// Package uninstall takes labk away from a PC: service, pods, and whatever they left in the kernel and on the disk, and nothing else.
//
// It needs no labk that runs, no datastore and no packet filter program: it looks for things by what they are. So it also clears away a labk that was only run by
// hand, and one that somebody else has half removed.
package uninstall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Options of an uninstallation.
type Options struct {
	// Data is the data folder; empty for that of the configuration.
	Data string
	// KeepData leaves the data folder and the configuration, so that a later installation goes on where this one ended.
	KeepData bool
	// Force also ends a labk that somebody started by hand.
	Force bool
	// Say tells a person what was removed, and what was left and why: one line, as fmt.Sprintf.
	Say func(format string, args ...any)
}

// timeout bounds the whole.
const timeout = time.Minute

// removal is one uninstallation.
type removal struct {
	o      Options
	site   *site
	others []string // signs of other Kubernetes nodes of this PC, whether they run or not
	errs   []error
}

// Run uninstalls. It goes on after a failure and returns all of them; what could not be removed can be tried again, as program and record then stay.
// A *HandStartedError is returned before anything is changed.
func Run(ctx context.Context, o Options) error {
	if os.Geteuid() != 0 {
		return errors.New("uninstalling needs root: run this with sudo")
	}
	if err := sameNamespace(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s, err := findSite(ctx, o)
	if err != nil {
		return err
	}
	r := &removal{o: o, site: s}
	if err := r.stop(ctx); err != nil {
		return err
	}
	r.others = slices.Concat(runningNodes(), stoppedNodes("/"), r.strangePods())
	if len(r.others) > 0 {
		o.Say("left: what %s may share: cgroups of other pods, rules of Services", strings.Join(r.others, ", "))
	}
	for _, step := range []func(context.Context) error{
		r.endPods, r.unmount, r.removeNetworks, r.removeRules, r.restoreSysctls, r.closeFirewall, r.removeFiles,
	} {
		if err := step(ctx); err != nil {
			r.errs = append(r.errs, err)
		}
	}
	if len(r.errs) > 0 {
		return fmt.Errorf("%w: run labk uninstall again when that is solved", errors.Join(r.errs...))
	}
	if s.agentNode != "" {
		o.Say("the cluster still knows this PC: on its server, run kubectl delete node %s", s.agentNode)
	}
	return r.removeProgram()
}

// sameNamespace refuses to work from inside a container or a lab host: what is seen there is not this PC's.
func sameNamespace() error {
	for _, kind := range []string{"mnt", "net", "pid"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return err
		}
		first, err := os.Readlink("/proc/1/ns/" + kind)
		if err != nil {
			return err
		}
		if own != first {
			return fmt.Errorf("this is another %s namespace than that of the PC's first process: run labk uninstall outside of it", kind)
		}
	}
	return nil
}

// count says how many: "1 mount", "3 mounts".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
