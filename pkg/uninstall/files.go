package uninstall

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/install"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/sysctl"
)

const (
	// What the shims and runc, of whichever containerd, have in common.
	runcState   = "/run/containerd/runc/k8s.io"
	shimSockets = "/run/containerd/s"
	// otherContainerd is there while a containerd of the distribution runs.
	otherContainerd = "/run/containerd/containerd.sock"
	// Where the kubelet writes, whatever its own folder is.
	podLogs       = "/var/log/pods"
	containerLogs = "/var/log/containers"
	devicePlugins = "/var/lib/kubelet/device-plugins"
)

// restoreSysctls puts the kernel's settings back. Forwarding stays on where other networks than labk's need it.
func (r *removal) restoreSysctls(context.Context) error {
	if len(r.others) > 0 {
		return nil // they want the same
	}
	var keep []string
	if links, err := list(netlink.LinkList); err == nil {
		for _, l := range links {
			if slices.Contains([]string{"bridge", "tun", "tuntap", "wireguard", "macvlan", "ipvlan"}, l.Type()) {
				keep = append(keep, "net/ipv4/ip_forward")
			}
		}
	}
	changed, err := sysctl.Restore(paths.Sysctls, keep...)
	if len(changed) > 0 {
		r.o.Say("put back %s", strings.Join(changed, ", "))
	}
	return err
}

// removeFiles deletes everything but the program and what starts it.
func (r *removal) removeFiles(ctx context.Context) error {
	uids := r.podUIDs()
	errs := []error{r.removeShims(), r.removeUnits(ctx)}
	for _, a := range attachments() {
		_, err := removeFile(a.file)
		errs = append(errs, err)
	}
	errs = append(errs, r.removeLogs(uids))
	if len(r.others) == 0 {
		_, err := removeFile(filepath.Join(devicePlugins, "kubelet.sock"))
		errs = append(errs, err)
	}
	if exists(paths.RunDir) {
		err := removeTree(paths.RunDir)
		if errs = append(errs, err); err == nil {
			r.o.Say("removed %s", paths.RunDir)
		}
	}
	if r.o.KeepData {
		r.o.Say("kept: %s", r.site.data)
	} else {
		errs = append(errs, r.removeData())
	}
	errs = append(errs, r.removeConfiguration())
	removeEmpty(paths.CNIResults, "/var/lib/cni", devicePlugins, "/var/lib/kubelet", runcState, filepath.Dir(runcState), shimSockets, "/run/containerd", podLogs, containerLogs)
	return errors.Join(errs...)
}

// removeShims deletes what shims and runc keep of labk's containers in folders that they share with other containerds'.
func (r *removal) removeShims() error {
	var errs []error
	states, _ := filepath.Glob(filepath.Join(runcState, "*", "state.json"))
	for _, state := range states {
		var container struct {
			Config struct {
				Rootfs string `json:"rootfs"`
			} `json:"config"`
		}
		text, err := os.ReadFile(state)
		if err == nil && json.Unmarshal(text, &container) == nil && strings.HasPrefix(container.Config.Rootfs, paths.ContainerdState+"/") {
			errs = append(errs, os.RemoveAll(filepath.Dir(state)))
		}
	}
	// The shims have been ended. A socket that nobody listens at is one of theirs, unless another containerd may come back to it.
	sockets, _ := filepath.Glob(filepath.Join(shimSockets, "*"))
	noted := notedSockets()
	for _, socket := range sockets {
		if !slices.Contains(noted, socket) && (exists(otherContainerd) || len(r.others) > 0 || listens(socket)) {
			continue
		}
		_, err := removeFile(socket)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// notedSockets are those of the shims that labk's containerd knows.
func notedSockets() (sockets []string) {
	files, _ := filepath.Glob(filepath.Join(paths.ContainerdState, "io.containerd.runtime.v2.task", "k8s.io", "*", "bootstrap.json"))
	for _, file := range files {
		var bootstrap struct {
			Address string `json:"address"`
		}
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &bootstrap) == nil {
			sockets = append(sockets, strings.TrimPrefix(bootstrap.Address, "unix://"))
		}
	}
	return sockets
}

func listens(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return !errors.Is(err, syscall.ECONNREFUSED)
	}
	_ = conn.Close()
	return true
}

// removeLogs deletes what pods have printed: of the pods that labk knows, or of all where there is no other node.
func (r *removal) removeLogs(uids map[string]bool) error {
	var errs []error
	folders, _ := filepath.Glob(filepath.Join(podLogs, "*_*_*"))
	gone := map[string]bool{}
	for _, folder := range folders {
		parts := strings.Split(filepath.Base(folder), "_")
		if uids[parts[len(parts)-1]] || len(r.others) == 0 {
			gone[folder] = true
			errs = append(errs, os.RemoveAll(folder))
		}
	}
	links, _ := filepath.Glob(filepath.Join(containerLogs, "*.log"))
	for _, link := range links {
		to, err := os.Readlink(link)
		if err == nil && gone[filepath.Dir(filepath.Dir(to))] {
			errs = append(errs, os.Remove(link))
		}
	}
	return errors.Join(errs...)
}

// removeConfiguration deletes the administrator's kubeconfig and, unless data are kept, the configuration that was installed.
func (r *removal) removeConfiguration() error {
	var errs []error
	if r.site.kubeconfig != "" && isOwn(r.site.kubeconfig) {
		removed, err := removeFile(r.site.kubeconfig)
		errs = append(errs, err)
		if removed {
			r.o.Say("removed %s", r.site.kubeconfig)
		}
	}
	if r.o.KeepData {
		for _, file := range r.site.config {
			r.o.Say("kept: %s", file)
		}
		return errors.Join(append(errs, install.Keep(r.site.config))...)
	}
	for _, file := range append(r.site.config, paths.KeptRecord) {
		removed, err := removeFile(file)
		errs = append(errs, err)
		if removed {
			r.o.Say("removed %s", file)
		}
	}
	removeEmpty(filepath.Dir(paths.ConfigFile))
	return errors.Join(errs...)
}

// isOwn tells whether a kubeconfig is as labk writes it: others' clusters may have been added to it.
func isOwn(path string) bool {
	c, err := clientcmd.LoadFromFile(path)
	return err == nil && len(c.Clusters) == 1 && c.Clusters["labk"] != nil && len(c.Contexts) == 1
}

// removeProgram deletes the program, the links to it and, last of all, the record: until then the uninstallation can be repeated.
func (r *removal) removeProgram() error {
	record := r.site.record
	if record == nil {
		if program, err := os.Executable(); err == nil {
			r.o.Say("left: %s, which no installation put there", program)
		}
		return nil
	}
	var errs []error
	files := []string{paths.Previous(record.Program), paths.Staged(record.Program)}
	for _, link := range record.Links {
		if to, err := os.Readlink(link); err == nil && (to == record.Program || filepath.Join(filepath.Dir(link), to) == record.Program) {
			files = append(files, link)
		}
	}
	for _, file := range append(files, record.Program, paths.InstallRecord) {
		removed, err := removeFile(file)
		errs = append(errs, err)
		if removed {
			r.o.Say("removed %s", file)
		}
	}
	removeEmpty(filepath.Dir(paths.InstallRecord))
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(paths.InstallRecord), "*")); len(left) > 0 && !r.o.KeepData {
		r.o.Say("left: %s", strings.Join(left, ", "))
	}
	return errors.Join(errs...)
}

// removeEmpty removes folders that have nothing in them, in this order.
func removeEmpty(folders ...string) {
	for _, f := range folders {
		_ = os.Remove(f) // the kernel refuses those that have something in them
	}
}
