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

// upLine is what the server says when everything is ready.
const upLine = "the cluster is up"

// Server is the process `labk server` in the first host. One goroutine at a time may start and stop it.
type Server struct {
	host    *lab.Host
	program string
	env     []string
	logs    string // folder, one file a start

	mu     sync.Mutex
	args   []string
	starts int
	run    *run
}

// run is one start of the server.
type run struct {
	cmd   *lab.Cmd
	began time.Time
	ended chan struct{} // closed when err is set
	err   error
}

func newServer(t testing.TB, c *Cluster, o Options) *Server {
	return &Server{host: c.Host, program: filepath.Base(Binary(t)), env: o.Env, args: o.Args, logs: t.TempDir()}
}

// Start starts `labk server` with args and returns at once.
func (s *Server) Start(t testing.TB, args ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts++
	s.args = args
	log, err := os.Create(s.logFile())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := s.host.Command(context.Background(), append([]string{filepath.Join(lab.OptDir, s.program), "server"}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &run{cmd: cmd, began: time.Now(), ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = cmd.Wait()
	}()
	s.run = r
}

// Restart stops the server with the signal, waits for its end and starts it again with args, or with the same as before if there are none;
// it returns when the cluster is up again.
func (s *Server) Restart(t testing.TB, sig os.Signal, args ...string) {
	t.Helper()
	s.Signal(t, sig)
	_ = s.Wait(t) // how it ended is the matter of other tests
	if len(args) == 0 {
		args = s.args
	}
	s.Start(t, args...)
	s.WaitUp(t)
}

// Signal sends the server a signal.
func (s *Server) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := s.current(t).cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("send the server %v: %v", sig, err)
	}
}

// Stop ends the server with SIGTERM and returns how long that took.
func (s *Server) Stop(t testing.TB) time.Duration {
	t.Helper()
	began := time.Now()
	s.Signal(t, syscall.SIGTERM)
	if err := s.Wait(t); err != nil {
		t.Errorf("the server ended with: %v", err)
	}
	return time.Since(began)
}

// Wait waits for the server's end; the error is an *exec.ExitError when its exit code is not 0.
func (s *Server) Wait(t testing.TB) error {
	t.Helper()
	r := s.current(t)
	select {
	case <-r.ended:
		return r.err
	case <-time.After(Limit):
		t.Fatalf("the server does not end:\n%s", s.Tail(40))
		return nil
	}
}

// Pid is the server's process, as the machine counts.
func (s *Server) Pid(t testing.TB) int {
	t.Helper()
	return s.current(t).cmd.Process.Pid
}

// Began is when the server was started last.
func (s *Server) Began(t testing.TB) time.Time {
	t.Helper()
	return s.current(t).began
}

func (s *Server) current(t testing.TB) *run {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		t.Fatal("the server was not started")
	}
	return s.run
}

// WaitUp waits until the server says that the cluster is up, and fails when it ends before.
func (s *Server) WaitUp(t testing.TB) {
	t.Helper()
	r := s.current(t)
	Eventually(t, Startup, "start of the server", func() error {
		if strings.Contains(s.Log(), upLine) {
			return nil
		}
		select {
		case <-r.ended:
			t.Fatalf("the server ended before it was up: %v\n%s", r.err, s.Tail(40))
		default:
		}
		return fmt.Errorf("it has not said %q:\n%s", upLine, s.Tail(20))
	})
}

func (s *Server) logFile() string {
	return filepath.Join(s.logs, fmt.Sprintf("server-%d.log", s.starts))
}

// Log is what the server has written since its last start, standard output and standard error together.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, _ := os.ReadFile(s.logFile()) // not started: nothing said
	return string(data)
}

// Tail is the last lines of Log, the long ones cut.
func (s *Server) Tail(lines int) string {
	all := strings.Split(strings.TrimSpace(s.Log()), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = fmt.Sprintf("%.400s", line)
	}
	return strings.Join(all, "\n")
}
