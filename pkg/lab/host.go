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

// Host is one host of a lab. Its methods may be used by several goroutines, and by several processes that opened the lab.
type Host struct {
	lab   *Lab
	index int

	mu     sync.Mutex
	keeper <-chan struct{} // closed when the init that this process started has been reaped
}

// Index counts hosts from 1.
func (h *Host) Index() int { return h.index }

// Name is the host's name, "<lab>-h<index>".
func (h *Host) Name() string { return fmt.Sprintf("%s-h%d", h.lab.Name(), h.index) }

// Addr is the address of the host's eth0.
func (h *Host) Addr() netip.Addr { return h.lab.state.Options.address(firstAddress + h.index) }

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

// Running says whether the host has power.
func (h *Host) Running() bool {
	s, err := h.load()
	return err == nil && s.Init.alive()
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
	if err := h.prepare(s.Cut); err != nil {
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
	return h.save(s)
}

// prepare makes what has to be there before the first process: folders, network, cgroups.
func (h *Host) prepare(cut bool) error {
	for _, dir := range []string{h.dir(), h.lab.netnsPath("")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	sw := h.lab.Net().path
	if err := buildSwitch(sw, h.lab.prefix(h.lab.Gateway())); err != nil {
		return err
	}
	w := &wiring{index: h.index, own: h.Net().path, sw: sw, addr: h.lab.prefix(h.Addr()), carryOff: cut}
	if !h.lab.state.Options.NoDefaultRoute {
		w.gateway = h.lab.Gateway()
	}
	if err := w.connect(); err != nil {
		return err
	}
	for i := range h.lab.state.Cgroups {
		if err := h.lab.state.Cgroups[i].makeGroup(h.index); err != nil {
			return err
		}
	}
	return nil
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
	w := &wiring{index: h.index, own: h.Net().path, sw: h.lab.Net().path}
	errs = append(errs, w.disconnect())
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
