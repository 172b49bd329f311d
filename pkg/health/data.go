package health

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/lockfile"
)

// Free space in the data folder. Below the first the datastore and the images do not even fit at the first start; below the
// second the first pods do not. The kubelet itself begins to evict pods below 10 %.
const (
	spaceNeeded  = 200 << 20
	spaceWanted  = 2 << 30
	filesNeeded  = 10_000
	evictPercent = 10
)

func dataProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK040", Title: "data folder", Severity: Fatal,
			Cause:  "Nothing can be written in the data folder: mounted read-only, no folder at all, or forbidden.",
			Remedy: "make it writable (mount -o remount,rw), or choose another with --data-dir",
		}, look: lookWritable, asRoot: true, again: Often},
		{Fault: Fault{
			Code: "LABK041", Title: "disk space", Severity: Fatal,
			Cause:  "The disk of the data folder is full: less than 200 MiB or 10,000 files are free. Below 2 GiB or 10 % it is a warning: the kubelet evicts pods then.",
			Remedy: "free space there, or choose a folder on another disk with --data-dir",
		}, look: lookSpace, asRoot: true, again: Often},
		{Fault: Fault{
			Code: "LABK042", Title: "file system", Severity: Fatal,
			Cause:  "The data folder is on a file system that cannot hold containers: on a network file system SQLite's locks are not safe, and overlayfs does not work on top of another overlayfs. On tmpfs it is a warning: all is gone after a reboot.",
			Remedy: "choose a folder on a local disk (ext4, xfs, btrfs) with --data-dir",
		}, look: lookFileSystem},
		{Fault: Fault{
			Code: "LABK043", Title: "data folder's lock", Severity: Fatal,
			Cause:  "Another labk runs and uses the same data folder.",
			Remedy: "stop that one first (systemctl stop labk), or choose another folder with --data-dir",
		}, look: lookLock, asRoot: true},
		{Fault: Fault{
			Code: "LABK044", Title: "database", Severity: Fatal,
			Cause:  "The SQLite file of the datastore is damaged: not a database, or shorter than it says itself. Never written over: what is left in it can still be saved. It is a warning where labk has a snapshot: at its start labk sets the file aside and restores that.",
			Remedy: "bring a snapshot back with labk snapshot restore FILE (one other node keeps a copy in agent/snapshots of its data folder), or move the file aside to begin with an empty cluster",
		}, look: lookDatabase, asRoot: true}, // before a start only: see lookDatabase
		{Fault: Fault{
			Code: "LABK045", Title: "database's size", Severity: Warning,
			Cause:  "The file of the datastore is larger than 2 GiB. Starts, copies and many requests take long then. Something writes much: events, or objects that a program of yours makes without end.",
			Remedy: "find what there is much of with labk kubectl get --raw /metrics (apiserver_resource_objects), and delete it",
		}, look: lookDatabaseSize, asRoot: true, again: Often},
		{Fault: Fault{
			Code: "LABK046", Title: "disk speed", Severity: Warning,
			Cause:  "The disk of the datastore takes longer than 0.3 s to write 4 KiB for good. Every change in the cluster waits for that, and leases that are renewed too late end the control plane.",
			Remedy: "choose a folder on a faster disk with --data-dir, or find what keeps this one busy (iostat -x 1)",
		}, look: lookDiskSpeed, asRoot: true, again: Often},
		{Fault: Fault{
			Code: "LABK047", Title: "data folder's version", Severity: Fatal,
			Cause:  "A newer labk than this one has used the data folder. What it wrote there this one may not understand, and could spoil.",
			Remedy: "run that version or a newer one, or go back with labk upgrade --back",
		}, look: lookVersion},
	}
}

// standing returns the data folder, or the nearest folder above it that exists: there it would be made.
func (h Host) standing() (string, error) {
	for dir := filepath.Clean(h.Config.DataDir); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			return "", fmt.Errorf("%s is not a folder", dir)
		}
		if err == nil || !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir) {
			return dir, err
		}
	}
}

func lookWritable(_ context.Context, h Host) finding {
	dir, err := h.standing()
	if err == nil {
		_, err = h.WriteDisk(dir)
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return pass("not looked at: %s is full", dir) // LABK041 says what to do
	case err != nil:
		return fail("%s cannot be written: %v", h.Config.DataDir, err)
	case dir != filepath.Clean(h.Config.DataDir):
		return pass("%s can be made", h.Config.DataDir)
	}
	return pass("%s", h.Config.DataDir)
}

// tryWrite writes 4 KiB to a file that never has a name, so that nothing is left whatever happens; where the file system cannot do
// that, to one that is removed at once. It returns how long the disk took.
func tryWrite(dir string) (took time.Duration, err error) {
	var file *os.File
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) {
		file, err = os.CreateTemp(dir, ".labk-check-*")
		if err == nil {
			err = os.Remove(file.Name())
		}
	} else if err == nil {
		file = os.NewFile(uintptr(fd), dir)
	}
	if err != nil {
		return 0, err
	}
	began := time.Now()
	_, err = file.Write(make([]byte, 4096))
	if err == nil {
		err = unix.Fdatasync(int(file.Fd()))
	}
	took = time.Since(began)
	return took, errors.Join(err, file.Close())
}

func lookSpace(_ context.Context, h Host) finding {
	dir, err := h.standing()
	if err != nil {
		return pass("not looked at: %v", err) // LABK040 says what to do
	}
	fs, err := h.StatFS(dir)
	if err != nil {
		return warn("%v", err)
	}
	// A few network and memory file systems tell no size.
	if fs.Size == 0 {
		return pass("%s tells no size", dir)
	}
	text := fmt.Sprintf("%s has %s free of %s", dir, amount(fs.Free), amount(fs.Size))
	switch {
	case fs.Free < spaceNeeded:
		return fail("%s, and labk needs %s", text, amount(spaceNeeded))
	case fs.Files > 0 && fs.FreeFiles < filesNeeded:
		return fail("%s can take only %d more files, and labk needs %d", dir, fs.FreeFiles, filesNeeded)
	case fs.Free < spaceWanted, fs.Free < fs.Size/100*evictPercent:
		return warn("%s: the kubelet evicts pods below %d %%", text, evictPercent)
	}
	return pass("%s", text)
}

// amount writes a size as people do.
func amount(n uint64) string {
	if n < 10<<30 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d GiB", n>>30)
}

func lookFileSystem(_ context.Context, h Host) finding {
	dir, err := h.standing()
	if err != nil {
		return pass("not looked at: %v", err) // LABK040 says what to do
	}
	fs, err := h.StatFS(dir)
	if err != nil {
		return warn("%v", err)
	}
	if where := fs.network(); where != "" {
		return fail("%s is on %s", dir, where)
	}
	switch uint32(fs.Type) { // as the kernel does: some architectures sign-extend it
	case unix.OVERLAYFS_SUPER_MAGIC:
		return fail("%s is on overlayfs, as inside a container", dir).
			do("mount a volume or a folder of the machine's disk there, or choose another with --data-dir")
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return warn("%s is in memory: all of it is gone after a reboot", dir)
	}
	return pass("a local one")
}

// network names the kind of a file system on another machine; empty for others.
func (fs FileSystem) network() string {
	switch uint32(fs.Type) {
	case unix.NFS_SUPER_MAGIC:
		return "NFS"
	case unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		return "a Windows share"
	case unix.V9FS_MAGIC:
		return "a shared folder of the virtual machine's host (9p)"
	}
	return ""
}

func lookLock(_ context.Context, h Host) finding {
	pid, held, err := lockfile.Holder(h.data().Lock())
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.ENOTDIR):
		return pass("not looked at: %v", err) // LABK001 or LABK040 says what to do
	case err != nil:
		return warn("%v", err)
	case !held:
		return pass("free")
	case pid == h.PID:
		return pass("held by this process")
	case h.Starting:
		return fail("%s is in use by another labk (pid %d)", h.Config.DataDir, pid)
	}
	return pass("labk runs (pid %d)", pid)
}
