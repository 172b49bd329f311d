package request

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
)

// child is a `labk upgrade` that was started for a request.
type child struct {
	process *os.Process
	// output is a file in memory, not a pipe: the child outlives this process, and must not fail for want of a reader.
	output *os.File
}

// start starts the upgrade in a session of its own. What it says goes where this process's errors go; its standard output has why it failed.
func start(r Request) (*child, error) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	memory, err := unix.MemfdCreate("labk-upgrade", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("start `labk upgrade`: %w", err)
	}
	output := os.NewFile(uintptr(memory), "labk-upgrade")
	cmd := exec.Command("/proc/self/exe", "upgrade", "--from", "server", "--request", r.String())
	cmd.Args[0] = program
	cmd.Stdout, cmd.Stderr = output, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start `labk upgrade`: %w", err), output.Close())
	}
	return &child{process: cmd.Process, output: output}, nil
}

// reapEvery is how often it is asked whether a child has ended.
const reapEvery = 200 * time.Millisecond

// wait waits for the child's end and returns why it failed: nil if it did not, and also when ctx ends before it.
func (c *child) wait(ctx context.Context) error {
	defer c.output.Close()
	defer func() { _ = c.process.Release() }()
	var status syscall.WaitStatus
	// Process.Wait would not end with ctx.
	err := wait.PollUntilContextCancel(ctx, reapEvery, true, func(context.Context) (bool, error) {
		pid, err := syscall.Wait4(c.process.Pid, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			return false, nil
		}
		return pid == c.process.Pid, err
	})
	switch {
	case ctx.Err() != nil, err == nil && status.Exited() && status.ExitStatus() == 0:
		return nil
	case err != nil:
		return fmt.Errorf("wait for `labk upgrade`: %w", err)
	}
	text, _ := io.ReadAll(io.NewSectionReader(c.output, 0, 4<<10)) // no reason is one, too
	if reason := strings.TrimSpace(string(text)); reason != "" {
		return errors.New(reason)
	}
	if status.Signaled() {
		return fmt.Errorf("`labk upgrade` was ended by a signal (%v): ask again", status.Signal())
	}
	return fmt.Errorf("`labk upgrade` ended with code %d: the log of this PC's labk says why", status.ExitStatus())
}
