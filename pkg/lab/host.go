package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Host is one host of a lab, told from others by its index, as names may repeat. Its methods may be used by several goroutines, and by
// several processes that opened the lab.
type Host struct {
	lab   *Lab
	index int

	mu     sync.Mutex
	keeper <-chan struct{} // closed when the init that this process started has been reaped
}

// Index counts hosts from 1.
func (h *Host) Index() int { return h.index }

// Net is the host's network namespace. Each Boot makes a new one; a Net always means the present one.
func (h *Host) Net() *Net { return &Net{path: h.lab.netnsPath(fmt.Sprintf("h%d", h.index))} }

// NetAt is the network namespace that is mounted at a file of the host, such as a pod's. It means that one, also after the next Boot.
func (h *Host) NetAt(file string) (*Net, error) {
	path, err := h.Path(file)
	if err != nil {
		return nil, err
	}
	return &Net{path: path}, nil
}

// NetOf is the network namespace of the host's /run/netns that has an address, such as a pod's.
func (h *Host) NetOf(addr netip.Addr) (*Net, error) {
	const folder = "/run/netns"
	dir, err := h.Path(folder)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the networks of host %s: %w", h.Name(), err)
	}
	for _, e := range entries {
		n, err := h.NetAt(filepath.Join(folder, e.Name()))
		if err != nil {
			return nil, err
		}
		if found, err := n.has(addr); err == nil && found { // another one may be going away
			return n, nil
		}
	}
	return nil, fmt.Errorf("no network of host %s has the address %s", h.Name(), addr)
}

// Running says whether the host has power.
func (h *Host) Running() bool {
	s, err := h.load()
	return err == nil && s.Init.alive()
}

// Plugged says whether the host's network cable is plugged in.
func (h *Host) Plugged() bool {
	s, err := h.load()
	return err == nil && !s.Cut
}

// Path is where the caller finds the host's file, while the host is running. Absolute symbolic links on the way would lead
// to the machine's files.
func (h *Host) Path(file string) (string, error) {
	s, err := h.running()
	if err != nil {
		return "", err
	}
	return filepath.Join("/proc", fmt.Sprint(s.Init.Pid), "root", file), nil
}

// Boot starts the host with its disk as it was, or does nothing when it is running. An owner-bound host dies with the process
// that booted it last.
func (h *Host) Boot(ctx context.Context) error {
	return h.locked(ctx, h.boot)
}

// Kill is a power cut: every process of the host is killed at once, and its network, /run and /tmp are gone. The disk stays.
func (h *Host) Kill(ctx context.Context) error {
	return h.locked(ctx, h.powerOff)
}

// Cut unplugs the host's network cable: eth0 loses its carrier. It stays unplugged over Kill and Boot, until Mend.
func (h *Host) Cut(ctx context.Context) error {
	return h.locked(ctx, func(context.Context) error { return h.setCable(true) })
}

// Mend plugs the cable in again.
func (h *Host) Mend(ctx context.Context) error {
	return h.locked(ctx, func(context.Context) error { return h.setCable(false) })
}

func (h *Host) locked(ctx context.Context, f func(context.Context) error) error {
	if _, err := os.Stat(filepath.Join(h.lab.Dir(), stateFile)); err != nil {
		return fmt.Errorf("host %s: the lab is down: %w", h.Name(), err)
	}
	unlock, err := lockDir(ctx, h.lab.Dir())
	if err != nil {
		return err
	}
	defer unlock()
	return f(ctx)
}

func (h *Host) setCable(cut bool) error {
	s, err := h.load()
	if err != nil {
		return err
	}
	s.Cut = cut
	if err := h.save(s); err != nil {
		return err
	}
	if !s.Init.alive() {
		return nil // Boot looks at the note
	}
	return plug(h.lab.Net().path, h.index, !cut)
}

// dir is the host's disk and notes.
func (h *Host) dir() string { return filepath.Join(h.lab.Dir(), fmt.Sprintf("h%d", h.index)) }

func (h *Host) load() (s hostState, err error) {
	err = readJSON(filepath.Join(h.dir(), "host.json"), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	return s, err
}

func (h *Host) save(s hostState) error {
	if err := writeJSON(filepath.Join(h.dir(), "host.json"), s); err != nil {
		return fmt.Errorf("note the state of host %s: %w", h.Name(), err)
	}
	return nil
}

func (h *Host) running() (hostState, error) {
	s, err := h.load()
	if err == nil && !s.Init.alive() {
		err = errors.New("it is not running: boot it first")
	}
	if err != nil {
		return s, fmt.Errorf("host %s: %w", h.Name(), err)
	}
	return s, nil
}

// boot is Boot in a locked folder.
func (h *Host) boot(ctx context.Context) error {
	s, err := h.load()
	if err != nil || s.Init.alive() {
		return err
	}
	if err := h.powerOff(ctx); err != nil { // what a crashed init left
		return err
	}
	if err := h.prepare(ctx, s); err != nil {
		return fmt.Errorf("boot host %s: %w", h.Name(), err)
	}
	init, keeper, err := h.startInit(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("boot host %s: %w", h.Name(), err), h.powerOff(context.WithoutCancel(ctx)))
	}
	h.mu.Lock()
	h.keeper = keeper
	h.mu.Unlock()
	s.Init = init
	if err := h.save(s); err != nil {
		return err
	}
	if !h.lab.state.Options.Systemd {
		return nil
	}
	if err := h.awaitSystemd(ctx, init); err != nil {
		return errors.Join(fmt.Errorf("boot host %s: %w", h.Name(), err), h.powerOff(context.WithoutCancel(ctx)))
	}
	return nil
}

// prepare makes what has to be there before the first process: folders, network, cgroups.
func (h *Host) prepare(ctx context.Context, s hostState) error {
	if err := os.MkdirAll(h.dir(), 0o755); err != nil {
		return err
	}
	if err := h.fillDisk(ctx); err != nil {
		return err
	}
	if err := h.lab.makeSwitch(); err != nil { // it is gone after a restart of the machine
		return err
	}
	if err := h.wiring().connect(!s.Cut); err != nil {
		return err
	}
	for i := range h.lab.state.Cgroups {
		if err := h.lab.state.Cgroups[i].makeGroup(h.index); err != nil {
			return err
		}
	}
	return nil
}

// wiring describes the host's cable.
func (h *Host) wiring() *wiring {
	w := &wiring{
		index: h.index, own: h.Net().path, sw: h.lab.Net().path, mac: h.mac(), mtu: h.lab.state.Options.MTU, addr: h.lab.prefix(h.Addr()),
	}
	if !h.lab.state.Options.NoDefaultRoute {
		w.gateway = h.lab.Gateway()
	}
	return w
}

// powerOff is Kill in a locked folder. It also clears away a host that was only half built.
func (h *Host) powerOff(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	s, err := h.load()
	if err != nil {
		return err
	}
	if s.Init.alive() { // the kernel ends the whole PID namespace with it
		_ = unix.Kill(s.Init.Pid, unix.SIGKILL)
	}
	var errs []error
	for i := range h.lab.state.Cgroups {
		errs = append(errs, h.lab.state.Cgroups[i].killGroup(ctx, h.index))
	}
	errs = append(errs, h.awaitEnd(ctx, s.Init))
	errs = append(errs, h.wiring().disconnect())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("power host %s off: %w", h.Name(), err)
	}
	if s.Init == (process{}) {
		return nil
	}
	s.Init = process{}
	return h.save(s)
}

// awaitEnd waits until the init is dead and, if this process started it, reaped.
func (h *Host) awaitEnd(ctx context.Context, init process) error {
	for init.alive() {
		if err := pause(ctx); err != nil {
			return fmt.Errorf("wait for the end of its init (process %d): %w", init.Pid, err)
		}
	}
	h.mu.Lock()
	keeper := h.keeper
	h.mu.Unlock()
	if keeper == nil {
		return nil
	}
	select {
	case <-keeper:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("reap its init: %w", context.Cause(ctx))
	}
}
