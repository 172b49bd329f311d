package upgrade

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Service is how the PC runs labk.
type Service interface {
	// Name is what a person calls it by.
	Name() string
	// Active tells whether it is running or starting.
	Active(ctx context.Context) bool
	// Restart stops labk and starts it, with the program that is there now. It returns when the PC's service manager says that it is up or has failed, or when ctx ends. Under OpenRC
	// that is earlier than labk is ready.
	Restart(ctx context.Context) error
	// Stop stops labk; pods go on.
	Stop(ctx context.Context) error
	// LastWords is the last sentence that labk has printed since then, empty if that is not known.
	LastWords(ctx context.Context, since time.Time) string
}

// NewService returns the service that a manager ("systemd" or "openrc", as an installation records it) has under the name.
func NewService(manager, name string) (Service, error) {
	switch manager {
	case "systemd":
		return systemdUnit(name), nil
	case "openrc":
		return openRCScript(name), nil
	}
	return nil, fmt.Errorf("no service manager %q: systemd and openrc are known", manager)
}

// systemdUnit is the name of a unit of systemd.
type systemdUnit string

func (u systemdUnit) Name() string { return string(u) }

func (u systemdUnit) Active(ctx context.Context) bool {
	state, _ := manage(ctx, "systemctl", "show", "-P", "ActiveState", string(u)) // no unit, no systemd: not active
	return state == "active" || state == "activating" || state == "reloading"
}

func (u systemdUnit) Restart(ctx context.Context) error {
	// A unit that has failed too often would not be started again.
	_, _ = manage(ctx, "systemctl", "reset-failed", string(u))
	_, err := manage(ctx, "systemctl", "restart", string(u))
	return err
}

func (u systemdUnit) Stop(ctx context.Context) error {
	_, err := manage(ctx, "systemctl", "stop", string(u))
	return err
}

func (u systemdUnit) LastWords(ctx context.Context, since time.Time) string {
	log, _ := manage(ctx, "journalctl", "-u", string(u), "-o", "cat", "--no-pager", "--since", fmt.Sprintf("@%d", since.Unix()))
	return lastSentence(log)
}

// openRCScript is the name of an init script of OpenRC.
type openRCScript string

func (s openRCScript) Name() string { return string(s) }

func (s openRCScript) Active(ctx context.Context) bool {
	_, err := manage(ctx, "rc-service", string(s), "status")
	return err == nil
}

func (s openRCScript) Restart(ctx context.Context) error {
	_, err := manage(ctx, "rc-service", string(s), "restart")
	return err
}

func (s openRCScript) Stop(ctx context.Context) error {
	_, err := manage(ctx, "rc-service", string(s), "stop")
	return err
}

func (s openRCScript) LastWords(context.Context, time.Time) string { return "" }

// lastSentence is the last line of a log in which labk speaks to people.
func lastSentence(log string) string {
	last := ""
	for line := range strings.Lines(log) {
		if said, ok := strings.CutPrefix(line, "labk: "); ok {
			last = strings.TrimSpace(said)
		}
	}
	return last
}

// manage runs a command of the service manager.
func manage(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if complaint, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); complaint != "" {
			err = errors.New(complaint)
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(stdout.String()), nil
}
