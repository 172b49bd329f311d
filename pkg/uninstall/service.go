package uninstall

import (
	"context"
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
	for _, c := range u.stopCommands() {
		out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput()
		if err == nil || errors.Is(err, exec.ErrNotFound) || c[0] == "rc-update" { // which complains of a service that was not enabled
			continue
		}
		if exit := new(exec.ExitError); u.gone && errors.As(err, &exit) && exit.ExitCode() == notLoaded {
			continue
		}
		return fmt.Errorf("%s: %w: %s", strings.Join(c, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// notLoaded is what systemctl ends with when it does not know the unit.
const notLoaded = 5

// stopCommands stop and disable the unit. One whose file is gone may still run under systemd, but can only be stopped; the links that start it at boot are removed
// with the files.
func (u unit) stopCommands() [][]string {
	switch {
	case u.systemd && !systemdRuns(), !u.systemd && u.gone:
		return nil
	case u.systemd && u.gone:
		return [][]string{{"systemctl", "stop", u.name}}
	case u.systemd:
		return [][]string{{"systemctl", "disable", "--now", u.name}}
	}
	return [][]string{{"rc-service", "--ifstarted", u.name, "stop"}, {"rc-update", "--quiet", "--all", "delete", u.name}}
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
	for _, u := range r.site.units {
		for _, file := range append(u.bootLinks("/etc"), u.logs()...) {
			_, err := removeFile(file)
			errs = append(errs, err)
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

// bootLinks are the links below /etc by which the unit is started at boot, where nobody could disable it.
func (u unit) bootLinks(etc string) (links []string) {
	patterns := []string{"runlevels/*/"}
	if u.systemd {
		patterns = []string{"systemd/system/*.wants/", "systemd/system/*.requires/"}
	}
	for _, p := range patterns {
		some, _ := filepath.Glob(filepath.Join(etc, p, u.name)) // the patterns are right
		links = append(links, some...)
	}
	return links
}

// logs are where labk's words go under OpenRC; systemd's journal is everybody's.
func (u unit) logs() []string {
	if u.systemd {
		return nil
	}
	return []string{"/var/log/" + u.name + ".log"}
}

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
