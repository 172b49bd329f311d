package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	systemdProgram = "/lib/systemd/systemd"
	// bootTimeout bounds how long systemd may take to reach basic.target.
	bootTimeout = time.Minute
	// shutdownTimeout bounds how long systemd may take to stop its services: more than the 90 s it gives to each.
	shutdownTimeout = 2 * time.Minute
)

// sigPowerOff tells systemd to stop everything and power off: its SIGRTMIN+4.
const sigPowerOff = syscall.Signal(34 + 4)

// execSystemd makes the process systemd. The variable tells it that hardware, clock and kernel are none of its business.
func execSystemd() error {
	return unix.Exec(systemdProgram, []string{systemdProgram, "--system", "--unit=multi-user.target"},
		[]string{"PATH=" + hostPath(true), "container=labk-lab"})
}

// awaitSystemd waits until basic.target is reached. Services may still be starting then, as after any boot.
func (h *Host) awaitSystemd(ctx context.Context, init process) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	for {
		out, err := h.Command(ctx, "systemctl", "is-active", "basic.target").CombinedOutput()
		if err == nil {
			return nil
		}
		if !init.alive() {
			return errors.New("its systemd ended before the host was up")
		}
		if pauseErr := pause(ctx); pauseErr != nil {
			return fmt.Errorf("wait for systemd's basic.target: %w: %s", errors.Join(pauseErr, err), strings.TrimSpace(string(out)))
		}
	}
}

// Shutdown lets systemd stop the host's services and power it off, in contrast to Kill. The disk stays. It is an error in a host without systemd, and does
// nothing in one without power.
func (h *Host) Shutdown(ctx context.Context) error { return h.locked(ctx, h.shutdown) }

// Reboot is Shutdown and Boot.
func (h *Host) Reboot(ctx context.Context) error {
	return h.locked(ctx, func(ctx context.Context) error {
		if err := h.shutdown(ctx); err != nil {
			return err
		}
		return h.boot(ctx)
	})
}

// shutdown is Shutdown in a locked folder.
func (h *Host) shutdown(ctx context.Context) error {
	if !h.lab.state.Options.Systemd {
		return fmt.Errorf("shut host %s down: it has no systemd: use Kill", h.Name())
	}
	s, err := h.load()
	if err != nil {
		return err
	}
	if s.Init.alive() {
		if err := unix.Kill(s.Init.Pid, sigPowerOff); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("shut host %s down: %w", h.Name(), err)
		}
		ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
		defer cancel()
		if err := h.awaitEnd(ctx, s.Init); err != nil {
			return fmt.Errorf("shut host %s down: %w", h.Name(), err)
		}
	}
	return h.powerOff(ctx) // what is left of its network and groups
}
