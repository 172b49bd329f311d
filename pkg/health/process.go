package health

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func processProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK001", Title: "user", Severity: Fatal,
			Cause:  "labk was started by an ordinary user. It mounts file systems, makes network interfaces and starts containers, which only root may.",
			Remedy: "run it as root, for example with sudo",
		}, look: lookUser},
		{Fault: Fault{
			Code: "LABK002", Title: "capabilities", Severity: Fatal,
			Cause:  "The process is root but lacks CAP_SYS_ADMIN or CAP_NET_ADMIN, as in an unprivileged container.",
			Remedy: "run labk on the machine itself, or in a privileged container",
		}, look: lookCapabilities, asRoot: true},
		{Fault: Fault{
			Code: "LABK003", Title: "CAP_SYS_RESOURCE", Severity: Warning,
			Cause:  "The capability is missing. labk then runs containers without lowering their OOM score below its own, so that the kernel may choose another victim when memory runs out.",
			Remedy: "give the capability to the service or container that labk runs in, if you can",
		}, look: lookSysResource, asRoot: true},
		{Fault: Fault{
			Code: "LABK004", Title: "mount program", Severity: Fatal,
			Cause:  "The kubelet calls mount(8), which is not in PATH.",
			Remedy: "install the package mount (Debian, Ubuntu) or util-linux (others)",
		}, look: lookMount},
	}
}

func lookUser(_ context.Context, h Host) finding {
	if h.UID != 0 {
		return fail("not root but user %d", h.UID)
	}
	return pass("root")
}

// HasCapability tells whether this process has a capability, such as unix.CAP_SYS_RESOURCE, in its effective set.
func (h Host) HasCapability(capability uint) (bool, error) {
	for _, words := range h.fields("proc/self/status") {
		if len(words) == 2 && words[0] == "CapEff:" {
			set, err := strconv.ParseUint(words[1], 16, 64)
			if err != nil {
				return false, fmt.Errorf("read this process's capabilities: %w", err)
			}
			return set>>capability&1 == 1, nil
		}
	}
	return false, fmt.Errorf("read this process's capabilities: no line CapEff in %s", h.path("proc/self/status"))
}

func lookCapabilities(_ context.Context, h Host) finding {
	var missing []string
	for _, c := range []struct {
		number uint
		name   string
	}{{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}} {
		has, err := h.HasCapability(c.number)
		if err != nil {
			return warn("%v", err).do("mount /proc")
		}
		if !has {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return fail("%s missing", strings.Join(missing, " and "))
	}
	return pass("CAP_SYS_ADMIN and CAP_NET_ADMIN")
}

func lookSysResource(_ context.Context, h Host) finding {
	has, err := h.HasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil {
		return warn("%v", err).do("mount /proc")
	}
	if !has {
		return warn("missing: OOM scores of containers stay at labk's own or above")
	}
	return pass("there")
}

func lookMount(_ context.Context, h Host) finding {
	if !h.Node() {
		return pass("not needed without a node")
	}
	where, err := h.LookPath("mount")
	if err != nil {
		return fail("mount is not in PATH")
	}
	return pass("%s", where)
}
