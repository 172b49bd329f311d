package health

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// CgroupVersion is the kind of the machine's cgroup tree.
type CgroupVersion string

// The kinds. A hybrid machine has its controllers in version 1 and an empty version 2 tree beside them: containers use version 1.
const (
	CgroupV1     CgroupVersion = "v1"
	CgroupV2     CgroupVersion = "v2"
	CgroupHybrid CgroupVersion = "hybrid"
)

func cgroupProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK020", Title: "cgroups", Severity: Fatal,
			Cause:  "No cgroup file system is mounted at /sys/fs/cgroup, as on a machine without systemd, or in a namespace whose /sys was mounted anew.",
			Remedy: "mount -t cgroup2 cgroup2 /sys/fs/cgroup, or start the machine's cgroups service (OpenRC: rc-service cgroups start)",
		}, look: lookCgroups, again: Often},
		{Fault: Fault{
			Code: "LABK021", Title: "memory cgroup", Severity: Fatal,
			Cause:  "The memory controller is switched off, as some boards' (Raspberry Pi OS) default command line does. The kubelet cannot limit or count memory without it.",
			Remedy: "boot with cgroup_enable=memory (and cgroup_memory=1 on a Raspberry Pi) on the kernel's command line",
		}, look: lookController("memory")},
		{Fault: Fault{
			Code: "LABK022", Title: "cpu cgroup", Severity: Fatal,
			Cause:  "The cpu controller is missing. The kubelet cannot give containers their share of the processors without it.",
			Remedy: "boot a kernel with CONFIG_CGROUP_SCHED and without cgroup_disable=cpu; in a container, have the controller delegated",
		}, look: lookController("cpu")},
		{Fault: Fault{
			Code: "LABK023", Title: "pids cgroup", Severity: Fatal,
			Cause:  "The pids controller is missing. The kubelet cannot limit processes without it.",
			Remedy: "boot a kernel with CONFIG_CGROUP_PIDS and without cgroup_disable=pids; in a container, have the controller delegated",
		}, look: lookController("pids")},
	}
}

// Cgroups tells the kind of the cgroup tree at /sys/fs/cgroup and the controllers that containers can be limited by.
func (h Host) Cgroups() (CgroupVersion, []string, error) {
	const top = "/sys/fs/cgroup"
	var v1 []string
	unified := false
	for _, m := range h.fields("proc/self/mounts") {
		if len(m) < 4 {
			continue
		}
		point, kind, options := m[1], m[2], strings.Split(m[3], ",")
		switch {
		case kind == "cgroup2" && point == top:
			text, err := h.read(filepath.Join(top, "cgroup.controllers"))
			if err != nil {
				return "", nil, fmt.Errorf("read the cgroup controllers: %w", err)
			}
			return CgroupV2, strings.Fields(text), nil
		case kind == "cgroup2":
			unified = true
		case kind == "cgroup" && strings.HasPrefix(point, top+"/"):
			v1 = append(v1, options...)
		}
	}
	controllers := h.enabledV1(v1)
	if len(controllers) == 0 {
		return "", nil, fmt.Errorf("no cgroup file system at %s", top)
	}
	if unified {
		return CgroupHybrid, controllers, nil
	}
	return CgroupV1, controllers, nil
}

// enabledV1 is what of the mount options names a controller that the kernel has switched on.
func (h Host) enabledV1(options []string) []string {
	var out []string
	for _, c := range h.fields("proc/cgroups") {
		if len(c) == 4 && c[3] == "1" && slices.Contains(options, c[0]) {
			out = append(out, c[0])
		}
	}
	return out
}

func lookCgroups(_ context.Context, h Host) finding {
	if !h.Node() {
		return pass("not needed without a node")
	}
	version, controllers, err := h.Cgroups()
	if err != nil {
		return fail("%v", err)
	}
	return pass("%s with %s", version, strings.Join(controllers, ", "))
}

func lookController(name string) func(context.Context, Host) finding {
	return func(_ context.Context, h Host) finding {
		if !h.Node() {
			return pass("not needed without a node")
		}
		version, controllers, err := h.Cgroups()
		if err != nil {
			return pass("not looked at: %v", err) // LABK020 says what to do
		}
		if slices.Contains(controllers, name) {
			return pass("there (%s)", version)
		}
		if version == CgroupV2 {
			return fail("cgroup v2 without the %s controller in /sys/fs/cgroup/cgroup.controllers", name)
		}
		return fail("cgroup %s without the %s controller, which is off in /proc/cgroups or not mounted", version, name)
	}
}
