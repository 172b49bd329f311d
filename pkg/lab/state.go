package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stateFile = "lab.json"
	lockFile  = "lock"
	pollEvery = 10 * time.Millisecond
)

// labState is what the folder remembers of a lab. It does not change once Complete.
type labState struct {
	Options  Options
	Owner    process     // the process that called Up
	Complete bool        // Up came to its end
	Cgroups  []hierarchy // where the lab's groups are
}

// hostState is what the folder remembers of a host.
type hostState struct {
	Init process // the host's pid 1; zero without power
	Cut  bool    // the network cable is unplugged
	Addr string  `json:",omitempty"` // given by SetAddr
}

// process names a process beyond the reuse of its pid.
type process struct {
	Pid   int
	Start uint64 // clock ticks after the machine's start
}

// identify returns the process that has the pid now.
func identify(pid int) (process, error) {
	_, start, err := readStat(pid)
	if err != nil {
		return process{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return process{Pid: pid, Start: start}, nil
}

// alive says whether the process still runs; a zombie does not.
func (p process) alive() bool {
	if p.Pid == 0 {
		return false
	}
	state, start, err := readStat(p.Pid)
	return err == nil && start == p.Start && state != "Z" && state != "X"
}

func readStat(pid int) (state string, start uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, err
	}
	// the name in parentheses may itself contain anything
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return "", 0, fmt.Errorf("unexpected contents of /proc/%d/stat", pid)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], start, err
}

func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces the file in one step, so that readers and a sudden death never see half of it.
func writeJSON(path string, value any) error {
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	next := path + ".next"
	if err := os.WriteFile(next, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// lockDir takes the folder's lock and returns how to give it back. It waits for another holder until ctx ends.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	path := filepath.Join(dir, lockFile)
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock lab folder: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && sameFile(f, path) { // a Down in between may have removed it
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("lock %s: another process is working on this lab: %w", path, err)
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(path)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// pause waits one polling interval, or returns why ctx ended.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pollEvery):
		return nil
	}
}
