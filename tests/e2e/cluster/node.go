package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/labk/labk/pkg/lab"
)

// Role is what labk runs as.
type Role string

// The roles.
const (
	ServerRole Role = "server"
	AgentRole  Role = "agent"
)

// upLine is what labk says when everything is ready.
func (r Role) upLine() string {
	if r == AgentRole {
		return "this PC is the node"
	}
	return "the cluster is up"
}

// Node is the process `labk server` or `labk agent` in a host. One goroutine at a time may start and stop it.
type Node struct {
	Host    *lab.Host
	Role    Role
	program string
	env     []string
	logs    string // folder, one file a start

	mu     sync.Mutex
	args   []string
	starts int
	run    *run
}

// run is one start of labk.
type run struct {
	cmd   *lab.Cmd
	began time.Time
	ended chan struct{} // closed when err is set
	err   error
}

func newNode(t testing.TB, h *lab.Host, role Role, env, args []string) *Node {
	n := &Node{Host: h, Role: role, program: filepath.Base(Binary(t)), env: env, args: args, logs: t.TempDir()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last words of %s %s:\n%s", n.Role, n.Host.Name(), n.Tail(80))
		}
	})
	return n
}

// Program is the path of labk inside the host.
func (n *Node) Program() string { return filepath.Join(lab.OptDir, n.program) }

// Start starts labk in its role with args and returns at once.
func (n *Node) Start(t testing.TB, args ...string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.starts++
	n.args = args
	log, err := os.Create(n.logFile())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := n.Host.Command(context.Background(), append([]string{n.Program(), string(n.Role)}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = n.env, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &run{cmd: cmd, began: time.Now(), ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = cmd.Wait()
	}()
	n.run = r
}

// Restart stops labk with the signal, waits for its end and starts it again with args, or with the same as before if there are none;
// it returns when the cluster is up again.
func (n *Node) Restart(t testing.TB, sig os.Signal, args ...string) {
	t.Helper()
	n.Signal(t, sig)
	_ = n.Wait(t) // how it ended is the matter of other tests
	if len(args) == 0 {
		args = n.args
	}
	n.Start(t, args...)
	n.WaitUp(t)
}

// Signal sends labk a signal.
func (n *Node) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := n.current(t).cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("send labk %v: %v", sig, err)
	}
}

// Stop ends labk with SIGTERM and returns how long that took.
func (n *Node) Stop(t testing.TB) time.Duration {
	t.Helper()
	began := time.Now()
	n.Signal(t, syscall.SIGTERM)
	if err := n.Wait(t); err != nil {
		t.Errorf("labk ended with: %v", err)
	}
	return time.Since(began)
}

// Wait waits for labk's end; the error is an *exec.ExitError when its exit code is not 0.
func (n *Node) Wait(t testing.TB) error {
	t.Helper()
	r := n.current(t)
	select {
	case <-r.ended:
		return r.err
	case <-time.After(Limit):
		t.Fatalf("labk does not end:\n%s", n.Tail(40))
		return nil
	}
}

// Pid is labk's process, as the machine counts.
func (n *Node) Pid(t testing.TB) int {
	t.Helper()
	return n.current(t).cmd.Process.Pid
}

// Began is when labk was started last.
func (n *Node) Began(t testing.TB) time.Time {
	t.Helper()
	return n.current(t).began
}

func (n *Node) current(t testing.TB) *run {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		t.Fatal("labk was not started")
	}
	return n.run
}

// WaitUp waits until labk says that the cluster is up, and fails when it ends before.
func (n *Node) WaitUp(t testing.TB) {
	t.Helper()
	r := n.current(t)
	Eventually(t, Startup, fmt.Sprintf("start of %s %s", n.Role, n.Host.Name()), func() error {
		if strings.Contains(n.Log(), n.Role.upLine()) {
			return nil
		}
		select {
		case <-r.ended:
			t.Fatalf("labk ended before it was up: %v\n%s", r.err, n.Tail(40))
		default:
		}
		return fmt.Errorf("it has not said %q:\n%s", n.Role.upLine(), n.Tail(20))
	})
}

// WriteFile writes a file in the node's host; its folder is made.
func (n *Node) WriteFile(t testing.TB, path, text string) {
	t.Helper()
	file, err := n.Host.Path(path)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatalf("write %s in the host: %v", path, err)
	}
}

// ReadFile reads a file of the node's host.
func (n *Node) ReadFile(t testing.TB, path string) string {
	t.Helper()
	file, err := n.Host.Path(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("read %s in the host: %v", path, err)
	}
	return string(data)
}

func (n *Node) logFile() string {
	return filepath.Join(n.logs, fmt.Sprintf("labk-%d.log", n.starts))
}

// Log is what labk has written since its last start, standard output and standard error together.
func (n *Node) Log() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	data, _ := os.ReadFile(n.logFile()) // not started: nothing said
	return string(data)
}

// Tail is the last lines of Log, the long ones cut.
func (n *Node) Tail(lines int) string {
	all := strings.Split(strings.TrimSpace(n.Log()), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = fmt.Sprintf("%.400s", line)
	}
	return strings.Join(all, "\n")
}
