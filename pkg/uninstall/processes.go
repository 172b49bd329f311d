package uninstall

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/labk/labk/pkg/payload/manifest"
)

// nodePrograms are what other distributions' nodes run as.
var nodePrograms = [...]string{"kubelet", "kube-proxy", "k3s", "k3s-server", "k3s-agent", "k0s", "rke2", "kubelite"}

// nodeFolders are where other distributions' nodes keep their pods and data, also while they are stopped; what removes such a node removes them.
var nodeFolders = [...]string{"/var/lib/kubelet/pods", "/var/lib/rancher/k3s", "/var/lib/rancher/rke2", "/var/lib/k0s", "/var/snap/microk8s"}

// stoppedNodes are Kubernetes nodes that have data below root: such as "the node with /var/lib/k0s". Their pods may run on without them.
func stoppedNodes(root string) (all []string) {
	for _, folder := range nodeFolders {
		if entries, err := os.ReadDir(filepath.Join(root, folder)); err == nil && len(entries) > 0 {
			all = append(all, "the node with "+folder)
		}
	}
	return all
}

// runningNodes are Kubernetes nodes of this PC that are not labk's, with their pids: such as "kubelet (812)". Pods may run such programs too, and
// are not meant.
func runningNodes() (all []string) {
	own, _ := os.Readlink("/proc/self/ns/mnt")
	for _, pid := range processes() {
		if ns, err := os.Readlink(procFile(pid, "ns/mnt")); err != nil || ns != own {
			continue
		}
		name, _ := os.ReadFile(procFile(pid, "comm"))
		if n := strings.TrimSpace(string(name)); slices.Contains(nodePrograms[:], n) {
			all = append(all, n+" ("+strconv.Itoa(pid)+")")
		}
	}
	return all
}

// processes are the pids of all processes.
func processes() (pids []int) {
	entries, _ := os.ReadDir("/proc") // without it nothing works
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func procFile(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// helpers are the shims and other programs of the payload that run on this PC itself, and not in a lab host on it.
func (r *removal) helpers() (pids []int) {
	own, _ := os.Readlink("/proc/self/ns/mnt")
	for _, pid := range processes() {
		if ns, err := os.Readlink(procFile(pid, "ns/mnt")); err == nil && ns == own && r.isHelper(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (r *removal) isHelper(pid int) bool {
	exe, err := os.Readlink(procFile(pid, "exe"))
	program, ok := strings.CutPrefix(exe, r.site.data.Payload()+"/")
	payload, _, _ := strings.Cut(program, "/")
	return err == nil && ok && manifest.IsHash(payload)
}

// ofContainer tells whether the process's root is a container's of labk's containerd, also when that has been deleted.
func (r *removal) ofContainer(pid int) bool {
	root, ok := rootOf(pid)
	return ok && strings.Contains(root.options, r.site.data.Containerd()+"/")
}

// hasRoot is false for a process that is ending.
func hasRoot(pid int) bool {
	_, ok := rootOf(pid)
	return ok
}

// rootOf is what a process sees at /.
func rootOf(pid int) (mount, bool) {
	mounts, _ := os.ReadFile(procFile(pid, "mountinfo"))
	for _, m := range parseMounts(string(mounts)) {
		if m.point == "/" {
			return m, true
		}
	}
	return mount{}, false
}

// isInit tells whether the process is a container's first, which is asked to end: a child of a shim or, where that is dead, the first of a PID namespace.
func (r *removal) isInit(pid int) bool {
	status, _ := os.ReadFile(procFile(pid, "status"))
	for line := range strings.Lines(string(status)) {
		switch f := strings.Fields(line); {
		case len(f) == 2 && f[0] == "PPid:":
			if parent, err := strconv.Atoi(f[1]); err == nil && r.isHelper(parent) {
				return true
			}
		case len(f) > 2 && f[0] == "NSpid:":
			return f[len(f)-1] == "1"
		}
	}
	return false
}
