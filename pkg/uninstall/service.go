package uninstall

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/labk/labk/pkg/lockfile"
)

// stopTime is how long a labk that was asked to end may take; it takes four seconds at most.
const stopTime = 8 * time.Second

// HandStartedError says that a labk runs that no service started: somebody may be sitting in front of it.
type HandStartedError struct{ PID int }

// Error implements error.
func (e *HandStartedError) Error() string {
	return fmt.Sprintf("labk runs as process %d, started by hand and not as a service: stop that one first, or run labk uninstall with --force", e.PID)
}

// stop ends labk itself; pods go on.
func (r *removal) stop(ctx context.Context) error {
	pid, held, err := lockfile.Holder(r.site.data.Lock())
	if err != nil {
		return err
	}
	if held && !r.site.runs(ctx, pid) {
		if !r.o.Force {
			return &HandStartedError{PID: pid}
		}
		if err := r.end(ctx, pid); err != nil {
			return err
		}
	}
	for _, u := range r.site.units {
		if err := u.stop(ctx); err != nil {
			return fmt.Errorf("stop %s: %w", u.name, err)
		}
		r.o.Say("stopped and disabled %s", u.name)
	}
	if pid, held, err := lockfile.Holder(r.site.data.Lock()); err != nil || held {
		return errors.Join(err, fmt.Errorf("labk still runs as process %d: end it, then run labk uninstall again", pid))
	}
	return nil
}

// runs tells whether the process is one of the site's services.
func (s *site) runs(ctx context.Context, pid int) bool {
	for _, u := range s.units {
		if !u.systemd {
			if exec.CommandContext(ctx, "rc-service", u.name, "status").Run() == nil {
				return true
			}
			continue
		}
		out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=MainPID", "--value", u.name).Output()
		if err == nil && strings.TrimSpace(string(out)) == strconv.Itoa(pid) {
			return true
		}
	}
	return false
}

func (u unit) stop(ctx context.Context) error {
	commands := [][]string{{"systemctl", "disable", "--now", u.name}}
	if !u.systemd {
		commands = [][]string{{"rc-service", "--ifstarted", u.name, "stop"}, {"rc-update", "--quiet", "--all", "delete", u.name}}
	} else if !systemdRuns() {
		return nil
	}
	for _, c := range commands {
		out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput()
		if err != nil && !errors.Is(err, exec.ErrNotFound) && c[0] != "rc-update" { // which complains of a service that was not enabled
			return fmt.Errorf("%s: %w: %s", strings.Join(c, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

func systemdRuns() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// end ends a labk that was started by hand.
func (r *removal) end(ctx context.Context, pid int) error {
	if pid <= 1 {
		return errors.New("a labk runs, and its lock does not tell which process it is: end it, then run labk uninstall again")
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end labk, process %d: %w", pid, err)
		}
		gone := func() bool {
			_, held, err := lockfile.Holder(r.site.data.Lock())
			return err == nil && !held
		}
		if await(ctx, stopTime, gone) {
			r.o.Say("ended labk, process %d, which was started by hand", pid)
			return nil
		}
	}
	return fmt.Errorf("labk, process %d, does not end: reboot, then run labk uninstall again", pid)
}

// removeUnits deletes the files that start labk.
func (r *removal) removeUnits(ctx context.Context) error {
	var errs []error
	files := map[string]bool{}
	for _, u := range r.site.units {
		files[u.file] = u.edited
	}
	if r.site.record != nil && r.site.record.Service != nil {
		for _, f := range r.site.record.Service.Files {
			if _, known := files[f.Path]; !known {
				files[f.Path] = false
			}
		}
	}
	for file, edited := range files {
		removed, err := removeFile(file)
		errs = append(errs, err)
		if removed && edited {
			r.o.Say("removed %s, which had been edited by hand", file)
		} else if removed {
			r.o.Say("removed %s", file)
		}
		if extra := file + ".d"; exists(extra) {
			r.o.Say("left: %s, which labk did not make", extra)
		}
	}
	if len(files) > 0 && systemdRuns() {
		for _, args := range [][]string{{"daemon-reload"}, {"reset-failed", "labk.service", "labk-agent.service"}} {
			out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
			if err != nil && args[0] != "reset-failed" { // units that systemd does not know have not failed
				errs = append(errs, fmt.Errorf("systemctl %s: %w: %s", args[0], err, out))
			}
		}
	}
	return errors.Join(errs...)
}

// closeFirewall takes back what was opened in ufw or firewalld, the last first.
func (r *removal) closeFirewall(ctx context.Context) error {
	if r.site.record == nil {
		return nil
	}
	rules := r.site.record.Firewall
	for i := len(rules) - 1; i >= 0; i-- {
		command := rules[i].Remove
		if len(command) == 0 {
			continue
		}
		out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			continue // the firewall is gone, and its rules with it
		}
		if err != nil { // such as a rule that its owner has removed already
			r.o.Say("left: %s says %q to: %s", rules[i].Firewall, strings.TrimSpace(string(out)), strings.Join(command, " "))
			continue
		}
		r.o.Say("closed in %s: %s", rules[i].Firewall, strings.Join(command, " "))
	}
	return nil
}

// sumOf is a file's sum as install.File has it.
func sumOf(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// await polls until the condition holds, and says whether it does, for at most limit.
func await(ctx context.Context, limit time.Duration, condition func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			return condition()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// removeFile removes a file and says whether it was there.
func removeFile(path string) (bool, error) {
	err := os.Remove(filepath.Clean(path))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
