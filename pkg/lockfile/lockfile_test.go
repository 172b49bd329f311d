package lockfile

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain is also the other process of TestAnotherProcess: it takes the lock named by its environment and holds it until its
// standard input ends.
func TestMain(m *testing.M) {
	path := os.Getenv("LOCKFILE_TEST_HOLD")
	if path == "" {
		os.Exit(m.Run())
	}
	if _, err := AcquireLock(path); err != nil {
		os.Exit(1)
	}
	os.Stdout.WriteString("held\n")
	bufio.NewReader(os.Stdin).ReadString('\n')
	os.Exit(0)
}

func TestSameProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if pid, held, err := Holder(path); pid != 0 || held || err != nil {
		t.Fatalf("Holder of no file: %d, %v, %v", pid, held, err)
	}
	lock, err := AcquireLock(path)
	if err != nil {
		t.Fatal(err)
	}
	assertLocked(t, path, os.Getpid())
	if pid, held, err := Holder(path); pid != os.Getpid() || !held || err != nil {
		t.Fatalf("Holder: %d, %v, %v", pid, held, err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if pid, held, err := Holder(path); pid != 0 || held || err != nil {
		t.Fatalf("Holder after Release: %d, %v, %v", pid, held, err)
	}
	again, err := AcquireLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), "LOCKFILE_TEST_HOLD="+path)
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.StdinPipe(); err != nil { // kept open: the other one holds the lock until it is killed
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Process.Kill() })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "held\n" || err != nil {
		t.Fatalf("the other process said %q, %v", line, err)
	}
	assertLocked(t, path, other.Process.Pid)
	if pid, held, err := Holder(path); pid != other.Process.Pid || !held || err != nil {
		t.Fatalf("Holder: %d, %v, %v", pid, held, err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	other.Wait()
	lock, err := AcquireLock(path)
	if err != nil {
		t.Fatalf("the lock outlived its process: %v", err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
}

func assertLocked(t *testing.T, path string, pid int) {
	t.Helper()
	lock, err := AcquireLock(path)
	var locked *LockedError
	if lock != nil || !errors.As(err, &locked) || locked.PID != pid || locked.Path != path {
		t.Fatalf("AcquireLock of a held lock: %v, %v; want a LockedError of pid %d", lock, err, pid)
	}
	if !strings.Contains(err.Error(), path) {
		t.Errorf("%q does not name the file", err)
	}
}

func TestNoFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "lock")
	if _, err := AcquireLock(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("AcquireLock in no folder: %v", err)
	}
}
