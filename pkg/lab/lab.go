package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// killTimeout bounds how long Kill and Down wait for a host's processes to be gone.
const killTimeout = 20 * time.Second

// ErrExists is what Up returns when there is a lab in the folder that Up may not clear away.
var ErrExists = errors.New("there is a lab already")

// Lab is a switch and its hosts. See the package's comment for its states.
type Lab struct {
	state labState
	hosts []*Host
}

// Up builds a lab, boots its hosts and returns when all are up. What an owner-bound predecessor whose owner is dead, or an Up
// that died halfway, left in the folder is taken down first; any other lab there is ErrExists. When Up fails, it leaves nothing.
func Up(ctx context.Context, options Options) (*Lab, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	if err := checkFolder(options.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make lab folder: %w", err)
	}
	unlock, err := lockDir(ctx, options.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := clearPredecessor(ctx, options.Dir); err != nil {
		return nil, err
	}
	l, err := build(ctx, options)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lab %s: %w", options.Name, err), l.destroy(context.WithoutCancel(ctx)))
	}
	return l, nil
}

// Open returns the lab in the folder, from any process. It does not wait for an Up that is still building it.
func Open(dir string) (*Lab, error) {
	var state labState
	err := readJSON(filepath.Join(dir, stateFile), &state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open lab: there is none in %s: bring one up first: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open lab: %w", err)
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	state.Options.Dir = dir
	return newLab(state), nil
}

// Down ends every process of the lab and leaves nothing of it: no cgroup, mount, namespace or folder. It may be repeated.
func (l *Lab) Down(ctx context.Context) error {
	if _, err := os.Stat(l.Dir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := lockDir(ctx, l.Dir())
	if err != nil {
		return err
	}
	defer unlock()
	return l.destroy(ctx)
}

// Name is the lab's name.
func (l *Lab) Name() string { return l.state.Options.Name }

// Dir is the lab's folder of state.
func (l *Lab) Dir() string { return l.state.Options.Dir }

// Gateway is the switch's own address, the hosts' default route and name server.
func (l *Lab) Gateway() netip.Addr { return l.state.Options.address(1) }

// Subnet is the network that switch and hosts share.
func (l *Lab) Subnet() netip.Prefix { return netip.MustParsePrefix(l.state.Options.Subnet) }

// Net is the switch's network namespace, where the gateway address is.
func (l *Lab) Net() *Net { return &Net{path: l.netnsPath("switch")} }

// Hosts are all hosts in order.
func (l *Lab) Hosts() []*Host { return append([]*Host(nil), l.hosts...) }

// Host is host i, counted from 1, or nil when the lab has none such.
func (l *Lab) Host(i int) *Host {
	if i < 1 || i > len(l.hosts) {
		return nil
	}
	return l.hosts[i-1]
}

func newLab(state labState) *Lab {
	l := &Lab{state: state}
	for i := range state.Options.Hosts {
		l.hosts = append(l.hosts, &Host{lab: l, index: i + 1})
	}
	return l
}

func (l *Lab) netnsPath(name string) string { return filepath.Join(l.Dir(), "netns", name) }

func (l *Lab) prefix(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, l.Subnet().Bits()) }

// build makes the lab in a clean, locked folder. It returns the lab also when it fails, to be destroyed.
func build(ctx context.Context, options Options) (*Lab, error) {
	l := newLab(labState{Options: options})
	var err error
	if l.state.Owner, err = identify(os.Getpid()); err != nil {
		return l, err
	}
	if l.state.Cgroups, err = findHierarchies("labk-lab-" + options.Name); err != nil {
		return l, err
	}
	if err := l.save(); err != nil { // before anything is made that would have to be found again
		return l, err
	}
	if err := l.bootAll(ctx); err != nil {
		return l, err
	}
	if options.Then != nil {
		if err := options.Then(ctx, l); err != nil {
			return l, err
		}
	}
	l.state.Complete = true
	return l, l.save()
}

// bootAll boots the hosts at the same time: where init is a big program, they would take long one after another.
func (l *Lab) bootAll(ctx context.Context) error {
	if err := l.makeSwitch(); err != nil {
		return err
	}
	errs := make([]error, len(l.hosts))
	var all sync.WaitGroup
	for i, h := range l.hosts {
		all.Go(func() { errs[i] = h.boot(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (l *Lab) makeSwitch() error {
	if err := os.MkdirAll(l.netnsPath(""), 0o755); err != nil {
		return err
	}
	return buildSwitch(l.Net().path, l.prefix(l.Gateway()))
}

func (l *Lab) save() error {
	if err := writeJSON(filepath.Join(l.Dir(), stateFile), l.state); err != nil {
		return fmt.Errorf("note the lab's state: %w", err)
	}
	return nil
}

// checkFolder refuses to use a folder that has something else in it, as Down removes all of it.
func checkFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lab folder: %w", err)
	}
	other := ""
	for _, e := range entries {
		if e.Name() == stateFile {
			return nil
		}
		if e.Name() != lockFile {
			other = e.Name()
		}
	}
	if other != "" {
		return fmt.Errorf("lab folder %s is in use for something else (%s is there): name another", dir, other)
	}
	return nil
}

// clearPredecessor takes down the lab that is in the locked folder, if it may.
func clearPredecessor(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, stateFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old, err := Open(dir)
	if err != nil {
		return err
	}
	s := &old.state
	if s.Owner.alive() && (s.Options.OwnerBound || !s.Complete) {
		return fmt.Errorf("%w in %s, of process %d: wait for its end or use another name", ErrExists, dir, s.Owner.Pid)
	}
	if s.Complete && !s.Options.OwnerBound {
		return fmt.Errorf("%w in %s: take it down first", ErrExists, dir)
	}
	if err := old.empty(ctx); err != nil {
		return fmt.Errorf("clear away the lab of process %d, which is dead: %w", s.Owner.Pid, err)
	}
	return nil
}

// destroy is Down in a locked folder.
func (l *Lab) destroy(ctx context.Context) error {
	if err := l.empty(ctx); err != nil {
		return fmt.Errorf("take lab %s down: %w", l.Name(), err)
	}
	if err := os.RemoveAll(l.Dir()); err != nil {
		return fmt.Errorf("take lab %s down: %w", l.Name(), err)
	}
	return nil
}

// empty ends and removes everything but the folder itself and its lock.
func (l *Lab) empty(ctx context.Context) error {
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.powerOff(ctx))
	}
	errs = append(errs, dropNetns(l.netnsPath("switch")))
	for _, c := range l.state.Cgroups {
		errs = append(errs, removeTree(c.Base))
	}
	errs = append(errs, checkUnmounted(l.Dir()))
	if err := errors.Join(errs...); err != nil {
		return err // the folder stays: it says what is left to be done
	}
	entries, err := os.ReadDir(l.Dir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); name != lockFile && name != stateFile {
			errs = append(errs, os.RemoveAll(filepath.Join(l.Dir(), name)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(filepath.Join(l.Dir(), stateFile))
}

// checkUnmounted makes sure that removing the folder removes nothing that is mounted there.
func checkUnmounted(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("%s is still mounted: unmount it", strings.Join(points, ", "))
	}
	return nil
}

// mountsBelow lists what is mounted below dir in the caller's mount namespace.
func mountsBelow(dir string) (points []string, err error) {
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			points = append(points, f[4])
		}
	}
	return points, nil
}

// unmountBelow takes away everything mounted below dir in the caller's mount namespace.
func unmountBelow(dir string) error {
	points, err := mountsBelow(dir)
	for i := len(points) - 1; i >= 0 && err == nil; i-- {
		err = unix.Unmount(points[i], unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount what is below %s: %w", dir, err)
	}
	return nil
}
