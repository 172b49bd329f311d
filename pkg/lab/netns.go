package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on an operating-system thread of its own, which ends with f: whatever namespaces f enters, nobody else is
// ever scheduled there. It never is the process's main thread, which could not end and whose namespaces /proc/self shows.
func onThread(f func() error) error {
	result := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			result <- f()
			return // still locked: the thread ends here
		}
		defer runtime.UnlockOSThread() // keep the main thread occupied while another one is found
		done := make(chan struct{})
		go func() { defer close(done); run() }()
		<-done
	}
	go run()
	return <-result
}

// Net is a network namespace of the lab. Its methods only take IP addresses, as names would be resolved by the machine.
// Connections stay in the namespace wherever they are used; close them before Kill and Down.
type Net struct {
	path string
}

// Do runs f on a thread inside the namespace. Goroutines that f starts are not inside.
func (n *Net) Do(f func() error) error {
	return onThread(func() error {
		if err := enterNetns(n.path); err != nil {
			return err
		}
		return f()
	})
}

// has says whether one of the namespace's interfaces has the address.
func (n *Net) has(addr netip.Addr) (found bool, err error) {
	err = n.Do(func() error {
		all, err := net.InterfaceAddrs()
		for _, a := range all {
			prefix, ok := a.(*net.IPNet)
			found = found || ok && prefix.IP.Equal(addr.AsSlice())
		}
		return err
	})
	return found, err
}

// DialContext connects like net.Dialer.DialContext, from inside the namespace; it fits http.Transport.DialContext.
func (n *Net) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial %s in the lab: give an IP address and a port: %w", addr, err)
	}
	err = n.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen listens for connections inside the namespace.
func (n *Net) Listen(ctx context.Context, network, addr string) (l net.Listener, err error) {
	err = n.Do(func() error {
		var c net.ListenConfig
		l, err = c.Listen(ctx, network, addr)
		return err
	})
	return l, err
}

// ListenPacket listens for datagrams inside the namespace.
func (n *Net) ListenPacket(ctx context.Context, network, addr string) (p net.PacketConn, err error) {
	err = n.Do(func() error {
		var c net.ListenConfig
		p, err = c.ListenPacket(ctx, network, addr)
		return err
	})
	return p, err
}

func enterNetns(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s (is the host or the lab down?): %w", path, err)
	}
	return nil
}

// newNetns makes a network namespace that lives for as long as it is mounted at path, which is created.
func newNetns(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make network namespace: %w", err)
	}
	_ = f.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace (this needs root with CAP_SYS_ADMIN): %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keep network namespace at %s: %w", path, err)
		}
		return nil
	})
}

// dropNetns takes away what newNetns made, or does nothing.
func dropNetns(path string) error {
	if isNetns(path) { // unmounting needs rights that an Up which made nothing may not have had
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("drop network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("drop network namespace: %w", err)
	}
	return nil
}

// isNetns says whether a namespace is mounted at path.
func isNetns(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}
