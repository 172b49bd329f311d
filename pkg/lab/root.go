package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fillDisk gives a fresh disk the root's content of those folders that are no overlays.
func (h *Host) fillDisk(ctx context.Context) error {
	root := h.lab.state.Options.Root
	if root == "" {
		return nil
	}
	for _, dir := range plainFolders() {
		own := diskFolder(h.dir(), dir)
		if _, err := os.Stat(own); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		next := own + ".next" // a copy that was cut short does not count
		if err := os.RemoveAll(next); err != nil {
			return err
		}
		if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(root, dir), next).CombinedOutput(); err != nil {
			return fmt.Errorf("copy %s of the root: %w: %s", dir, err, out)
		}
		if err := os.Rename(next, own); err != nil {
			return err
		}
	}
	return nil
}

// enterRoot makes an overlay over the root file system the process's root, with the host's own disk and devices in it. The machine's
// root is out of sight then.
func (o *initOrder) enterRoot() error {
	layers := filepath.Join(o.Dir, "overlay", "root")
	upper, work, merged := filepath.Join(layers, "upper"), filepath.Join(layers, "work"), filepath.Join(layers, "merged")
	for _, d := range []string{upper, work, merged} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := mount("overlay", merged, "overlay", 0, "lowerdir="+o.Root+",upperdir="+upper+",workdir="+work); err != nil {
		return err
	}
	for _, dir := range plainFolders() {
		if err := mount(diskFolder(o.Dir, dir), filepath.Join(merged, dir), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := o.mountOpt(merged); err != nil {
		return err
	}
	if err := makeDevices(filepath.Join(merged, "dev")); err != nil {
		return err
	}
	if err := os.Chdir(merged); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil { // the old root lies over the new one then
		return fmt.Errorf("change the root to %s: %w", merged, err)
	}
	if err := detach("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// makeDevices fills /dev: no disks, no consoles, no devices that PCs do not share.
func makeDevices(dev string) error {
	if err := mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_STRICTATIME, "mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{"pts", "shm", "mqueue", "net"} {
		if err := os.Mkdir(filepath.Join(dev, dir), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty", "kmsg", "fuse", "net/tun"} {
		if err := copyDevice(filepath.Join("/dev", name), filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(to, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return mount("devpts", filepath.Join(dev, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
}

// copyDevice makes a device node like the machine's, if the machine has it.
func copyDevice(from, to string) error {
	var st unix.Stat_t
	err := unix.Stat(from, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return fmt.Errorf("%s is no character device", from)
	}
	if err == nil {
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	}
	if err == nil {
		err = unix.Chmod(to, st.Mode&0o777) // the umask took some of it
	}
	if err != nil {
		return fmt.Errorf("make the device %s: %w", strings.TrimPrefix(from, "/dev/"), err)
	}
	return nil
}
