package health

import (
	"context"
	"strings"
)

func selinuxProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK018", Title: "SELinux", Severity: Warning,
			Cause:  "SELinux is enforcing. labk brings no policy of its own and labels nothing: what the system's policy says of an unconfined service holds for pods, and volumes of the machine's own folders may be denied to them.",
			Remedy: "if something is denied (ausearch -m avc -ts recent), allow it (audit2allow), or make SELinux permissive: setenforce 0, and SELINUX=permissive in /etc/selinux/config",
		}, look: lookSELinux},
	}
}

func lookSELinux(_ context.Context, h Host) finding {
	mode, err := h.read("sys/fs/selinux/enforce")
	switch {
	case err != nil:
		return pass("not in use")
	case strings.TrimSpace(mode) == "1":
		return warn("enforcing, and labk has no policy for it")
	}
	return pass("permissive")
}
