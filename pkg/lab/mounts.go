package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// runDir is the lab's own folder in a host.
const runDir = "/run/labk-lab"

// overlaid are the folders of the machine that hosts see and change each for itself.
func overlaid() []string { return []string{"/etc", "/opt", "/root", "/usr/libexec"} }

// makeHost turns the new namespaces into a host. It runs as their pid 1, on one thread.
func (o *initOrder) makeHost() error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil { // first of all: nothing may reach the machine
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make cgroup namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(o.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	disk := o.mountDisk
	if o.Root != "" {
		disk = o.enterRoot
	}
	steps := []func() error{
		disk, o.writeIdentity, mountVolatile, mountProc, o.mountSys, o.mountCgroups, shieldSysctls,
		// last: the kubelet and its volumes need shared propagation, among the host's own mounts
		func() error { return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mountDisk mounts what is kept over Kill and Boot. /var/lib and /var/log are plain folders, as overlayfs cannot lie on overlayfs.
func (o *initOrder) mountDisk() error {
	for _, dir := range overlaid() {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := o.mountOverlay(dir); err != nil {
			return err
		}
	}
	for _, dir := range plainFolders() {
		own := diskFolder(o.Dir, dir)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if err := mount(own, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := o.mountOpt("/"); err != nil {
		return err
	}
	// other hosts' disks and the lab's namespaces are out of sight, and not kept in use by this one
	if err := unmountBelow(o.LabDir); err != nil {
		return err
	}
	return mount("tmpfs", o.LabDir, "tmpfs", unix.MS_RDONLY, "mode=755,size=4k")
}

// plainFolders are those that are no overlays, as containerd's cannot lie on another one.
func plainFolders() []string { return []string{"/var/lib", "/var/log"} }

// diskFolder is where the disk in the folder disk has dir.
func diskFolder(disk, dir string) string {
	return filepath.Join(disk, strings.ReplaceAll(dir[1:], "/", "-"))
}

func (o *initOrder) mountOpt(root string) error {
	if o.Opt == "" {
		return nil
	}
	dir := filepath.Join(root, OptDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return bindReadOnly(o.Opt, dir)
}

func (o *initOrder) mountOverlay(dir string) error {
	layers := filepath.Join(o.Dir, "overlay", strings.ReplaceAll(dir[1:], "/", "-"))
	upper, work := filepath.Join(layers, "upper"), filepath.Join(layers, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := os.Chmod(upper, info.Mode().Perm()); err != nil { // /root is not for everybody
		return err
	}
	return mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+work)
}

// writeIdentity writes what makes the host another one than the machine: /etc/hosts at every boot, the rest once in the life of the disk.
func (o *initOrder) writeIdentity() error {
	var fs unix.Statfs_t
	if err := unix.Statfs("/etc", &fs); err != nil || fs.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("/etc is not the host's own (%w): not writing there", errOr(err, errors.New("no overlay")))
	}
	if err := replaceFile("/etc/hosts", o.Hosts); err != nil {
		return err
	}
	done := filepath.Join("/etc", ".labk-lab")
	if _, err := os.Stat(done); err == nil {
		return nil
	}
	for _, dir := range []string{"/etc/labk", "/etc/cni", "/etc/kubernetes"} { // the machine's own cluster is none of the host's
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	files := map[string]string{
		"hostname":    o.Name + "\n",
		"resolv.conf": "nameserver " + o.Gateway + "\n",
		"machine-id":  o.MachineID + "\n",
		".labk-lab":   "",
	}
	for name, text := range files {
		if err := replaceFile(filepath.Join("/etc", name), text); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile replaces the file itself, which may be a link out of its folder, in one step.
func replaceFile(path, text string) error {
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// mountVolatile mounts what a power cut empties.
func mountVolatile() error {
	for _, m := range []struct{ dir, data string }{{"/run", "mode=755"}, {"/tmp", "mode=1777"}, {"/dev/shm", "mode=1777"}} {
		if err := mount("tmpfs", m.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, m.data); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/lock", "/run/netns", "/run/log"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/dev/mqueue"); err == nil {
		return mount("mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	return nil
}

const sealed = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func mountProc() error {
	if err := detach("/proc"); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", sealed, ""); err != nil {
		return err
	}
	// A pod with a user namespace may only mount a /proc when one is there that nothing covers, as shieldSysctls does.
	whole := filepath.Join(runDir, "proc")
	if err := os.MkdirAll(whole, 0o700); err != nil {
		return err
	}
	return mount("proc", whole, "proc", sealed, "")
}

// mountSys mounts this network namespace's /sys. The machine's is taken away, not covered: programs that look for cgroups in
// the list of mounts must not find the machine's.
func (o *initOrder) mountSys() error {
	if err := detach("/sys"); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", sealed, ""); err != nil {
		return err
	}
	if _, err := os.Stat("/sys/fs/bpf"); err != nil {
		return nil // not in this kernel
	}
	return mount("bpf", "/sys/fs/bpf", "bpf", sealed, "mode=700")
}

// mountCgroups mounts each hierarchy as this cgroup namespace sees it, arranged as on the machine.
func (o *initOrder) mountCgroups() error {
	if len(o.Cgroups) == 1 && o.Cgroups[0].sole() {
		return o.mountSoleV2()
	}
	if err := mount("tmpfs", cgroupRoot, "tmpfs", sealed, "mode=755"); err != nil {
		return err
	}
	for _, h := range o.Cgroups {
		dir := filepath.Join(cgroupRoot, h.Name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		kind := "cgroup"
		if h.V2 {
			kind = "cgroup2"
		}
		if err := mount(kind, dir, kind, sealed, h.Options); err != nil {
			return err
		}
		for _, c := range strings.Split(h.Options, ",") { // "cpu" for "cpu,cpuacct"
			if strings.Contains(h.Options, ",") && c != "none" && !strings.HasPrefix(c, "name=") && c != h.Name {
				if err := os.Symlink(h.Name, filepath.Join(cgroupRoot, c)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// mountSoleV2 also leaves the namespace's root group free of processes, so that it can hand controllers down. systemd does that by itself.
func (o *initOrder) mountSoleV2() error {
	if err := mount("cgroup2", cgroupRoot, "cgroup2", sealed, ""); err != nil {
		return err
	}
	leaf := filepath.Join(cgroupRoot, leafGroup)
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return err
	}
	if o.Systemd {
		return nil
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	return enableControllers(cgroupRoot, nodeControllers(readWords(filepath.Join(cgroupRoot, "cgroup.controllers"))))
}

// shieldSysctls keeps the machine's sysctls from the host, but for those of its network namespace. Those that the kubelet sets,
// and dies if it may not, are private files that already have the value it wants.
func shieldSysctls() error {
	if err := bindReadOnly("/proc/sys", "/proc/sys"); err != nil {
		return err
	}
	if err := mount("/proc/sys/net", "/proc/sys/net", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := mount("", "/proc/sys/net", "", unix.MS_BIND|unix.MS_REMOUNT|sealed, ""); err != nil {
		return err
	}
	if err := bindReadOnly("/proc/sysrq-trigger", "/proc/sysrq-trigger"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	values := map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	}
	private := filepath.Join(runDir, "sysctl")
	if err := os.MkdirAll(private, 0o755); err != nil {
		return err
	}
	for name, value := range values {
		file := filepath.Join(private, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := mount(file, filepath.Join("/proc/sys", name), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", strings.TrimSpace(kind+" "+source), target, err)
	}
	return nil
}

func bindReadOnly(source, target string) error {
	if err := mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// detach takes away what is mounted at target, if anything is.
func detach(target string) error {
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}
