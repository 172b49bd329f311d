package health

import (
	"context"
	"slices"
)

func kernelProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK010", Title: "overlayfs", Severity: Fatal,
			Cause:  "The kernel has no overlayfs, neither built in nor as a module for the running kernel. containerd builds every container's root file system with it.",
			Remedy: "boot a kernel with CONFIG_OVERLAY_FS; after a kernel update, reboot",
		}, look: lookOverlay, asRoot: true},
		{Fault: Fault{
			Code: "LABK011", Title: "br_netfilter", Severity: Warning,
			Cause:  "The kernel has no br_netfilter. A pod then may not reach a service that a pod on the same node serves.",
			Remedy: "boot a kernel with CONFIG_BRIDGE_NETFILTER; after a kernel update, reboot",
		}, look: lookBridgeNetfilter, asRoot: true},
		{Fault: Fault{
			Code: "LABK012", Title: "vxlan", Severity: Warning,
			Cause:  "The kernel has no vxlan, by which pods reach pods on other nodes.",
			Remedy: "boot a kernel with CONFIG_VXLAN, or choose --flannel-backend host-gw when all nodes are on one network",
		}, look: lookVXLAN, asRoot: true},
	}
}

func lookOverlay(ctx context.Context, h Host) finding {
	if !h.Node() {
		return pass("not needed without a node")
	}
	has := func() bool { return slices.ContainsFunc(h.fields("proc/filesystems"), endsIn("overlay")) }
	if has() {
		return pass("there")
	}
	err := h.modprobe(ctx, "overlay")
	if has() {
		return pass("there, loaded just now")
	}
	return fail("not in /proc/filesystems%s", because(err))
}

func lookBridgeNetfilter(ctx context.Context, h Host) finding {
	if !h.Node() {
		return pass("not needed without a node")
	}
	has := func() bool { return h.exists("proc/sys/net/bridge") || h.exists("sys/module/br_netfilter") }
	if has() {
		return pass("there")
	}
	err := h.modprobe(ctx, "br_netfilter")
	if has() {
		return pass("there, loaded just now")
	}
	return warn("not there%s", because(err))
}

func lookVXLAN(ctx context.Context, h Host) finding {
	if !h.Node() || h.Config.FlannelBackend != "vxlan" {
		return pass("not needed")
	}
	if h.exists("sys/module/vxlan") {
		return pass("there")
	}
	// The kernel loads it by itself when an interface of that type is made: it is enough that it could.
	if err := h.modprobe(ctx, "--dry-run", "vxlan"); err != nil {
		return warn("not there%s", because(err))
	}
	return pass("there as a module")
}

// modprobe runs modprobe(8). A program that is missing is an error like any other: the feature is then built in or absent.
func (h Host) modprobe(ctx context.Context, args ...string) error {
	program, err := h.LookPath("modprobe")
	if err != nil {
		return err
	}
	_, err = h.Command(ctx, "", program, args...)
	return err
}

func endsIn(word string) func([]string) bool {
	return func(words []string) bool { return len(words) > 0 && words[len(words)-1] == word }
}

// because appends an error to a detail.
func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}
