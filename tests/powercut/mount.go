package powercut

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Mount is a disk that the kernel shows somewhere.
type Mount struct {
	target string
	pid    int
	ended  chan struct{}
}

// unmounting is how long the last programs on the disk have to let it go.
const unmounting = 30 * time.Second

// Mount shows the disk at the folder target in the mount namespace of the process pid, or of this one when it is 0. It needs root. This process serves it until Close, or until the
// namespace is gone.
func (d *Disk) Mount(target string, pid int) (*Mount, error) {
	const most = 128 << 10 // bytes that are read or written at once
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		err = inMounts(pid, func() error {
			options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,max_read=%d", fd, most)
			return unix.Mount("powercut", target, "fuse.powercut", unix.MS_NOSUID|unix.MS_NODEV, options)
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount a disk at %s: %w", target, err), closeFD(fd))
	}
	m := &Mount{target: target, pid: pid, ended: make(chan struct{})}
	s, err := fuse.NewServer(&server{RawFileSystem: fuse.NewDefaultRawFileSystem(), Disk: d, lists: map[uint64][]fuse.DirEntry{}}, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		MaxWrite: most, DisableReadDirPlus: true, DisableXAttrs: true,
		Logger:                   log.New(io.Discard, "", 0), // what it has to say is that a connection ends when its programs do
		ExplicitDataCacheControl: true,                       // else a write makes the kernel drop pages that are mapped, SQLite's index of its log
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve a disk at %s: %w", target, err), m.unmount())
	}
	go func() { defer close(m.ended); s.Serve() }()
	return m, nil
}

// Close takes the disk away. All programs that use it must have ended.
func (m *Mount) Close() error {
	if err := m.unmount(); err != nil {
		return err
	}
	select {
	case <-m.ended:
		return nil
	case <-time.After(unmounting):
		return fmt.Errorf("unmount the disk at %s: it is still in use after %v", m.target, unmounting)
	}
}

// unmount does nothing when the namespace is gone, or going.
func (m *Mount) unmount() error {
	for deadline := time.Now().Add(unmounting); ; time.Sleep(10 * time.Millisecond) {
		select {
		case <-m.ended:
			return nil
		default:
		}
		err := inMounts(m.pid, func() error { return unix.Unmount(m.target, 0) })
		switch {
		case err == nil, errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
			return nil
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			return fmt.Errorf("unmount the disk at %s: %w", m.target, err)
		}
	}
}

func closeFD(fd int) error {
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// inMounts runs f in the mount namespace of a process, on a thread that ends with it.
func inMounts(pid int, f func() error) error {
	if pid == 0 {
		return f()
	}
	result := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread() // and never unlocked: nobody else runs on this thread
		if unix.Gettid() != unix.Getpid() {
			result <- enterMounts(pid, f)
			return
		}
		defer runtime.UnlockOSThread() // the main thread cannot end: keep it occupied while another one is found
		done := make(chan struct{})
		go func() { defer close(done); run() }()
		<-done
	}
	go run()
	return <-result
}

func enterMounts(pid int, f func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mounts of process %d: %w", pid, err)
	}
	return f()
}
