// Package powercut lets the power of the disk below the datastore fail, and kills its process, under load: what was acknowledged must be there afterwards, under the same revisions.
// The disk is that of tests/powercut, and it is first tried by itself: it must be able to show a loss.
package powercut

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
	"github.com/labk/labk/tests/powercut"
)

// roleEnv makes this program a child, which does what the function of that name says.
const roleEnv = "LABK_TEST_CHILD"

// ready is what a child says when it has begun.
const ready = "ready"

func TestMain(m *testing.M) {
	role, ok := roles()[os.Getenv(roleEnv)]
	if !ok {
		cluster.Main(m)
		return
	}
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil { // the disk is there
		os.Exit(1)
	}
	ended := make(chan struct{})
	go func() { // a child does not outlive the test
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}()
	if err := role(ended, os.Args[1:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// limit bounds what usually takes much less than a second.
const limit = time.Minute

// child is a process of its own on a disk, in a mount namespace of its own: the disk is mounted nowhere else and goes with it.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	disk  *powercut.Disk // nil for none
	mount *powercut.Mount
	// lines are those of its standard output; closed at its end.
	lines chan string
	ended chan struct{}
	err   error // valid when ended is closed

	mu     sync.Mutex
	errors strings.Builder // its standard error
}

// where the disk is mounted for a child. The folder is the test's own.
func start(t *testing.T, disk *powercut.Disk, where, role string, args ...string) *child {
	t.Helper()
	c := &child{cmd: exec.Command("/proc/self/exe", args...), disk: disk, lines: make(chan string, 1<<16), ended: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), roleEnv+"="+role)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdin = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = c
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			c.lines <- in.Text()
		}
		close(c.lines)
		c.err = c.cmd.Wait()
	}()
	t.Cleanup(func() { c.kill(t) })
	if disk != nil {
		if c.mount, err = disk.Mount(where, c.cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	return c
}

// Write takes the child's standard error.
func (c *child) Write(text []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.errors.Write(text)
}

// said is the end of what the child wrote to standard error.
func (c *child) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.errors.String()
	return all[max(0, len(all)-4000):]
}

// awaitReady waits until the child has begun; false when it has ended, or the power has failed.
func (c *child) awaitReady(t *testing.T, fails <-chan struct{}) bool {
	t.Helper()
	deadline := time.After(limit)
	for {
		select {
		case line, ok := <-c.lines:
			if !ok || line == ready {
				return ok
			}
		case <-fails:
			return false
		case <-deadline:
			t.Fatalf("the child is not ready after %v: %s", limit, c.said())
		}
	}
}

// kill ends the child by SIGKILL, and waits until its disk is in nobody's use.
func (c *child) kill(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	if c.disk != nil {
		c.disk.Killed()
	}
	c.wait(t)
}

// wait waits for its end.
func (c *child) wait(t *testing.T) {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(limit):
		t.Fatalf("the child does not end: %s", c.said())
	}
	if c.mount != nil {
		if err := c.mount.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// stop lets the child end by itself, and fails when it ends badly.
func (c *child) stop(t *testing.T) {
	t.Helper()
	c.stdin.Close()
	c.wait(t)
	if c.err != nil {
		t.Fatalf("the child: %v: %s", c.err, c.said())
	}
}
