package storage

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// placeVariable tells this program to be the datastore of a place, in JSON, instead of testing.
const placeVariable = "LABK_TEST_STORAGE_PLACE"

// serve runs the datastore until standard input ends, which is when the test does. It is the whole of the other process.
func serve(described string) error {
	var p place
	if err := json.Unmarshal([]byte(described), &p); err != nil {
		return err
	}
	s := p.component()
	ctx := context.Background()
	if err := s.Start(ctx); err != nil {
		return err
	}
	if err := s.Ready(ctx); err != nil {
		return err
	}
	fmt.Println("serving")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return s.Stop(ctx)
}

// process is a datastore in a process of its own. Its methods are for one goroutine.
type process struct {
	t     testing.TB
	place place
	cmd   *exec.Cmd
	stdin io.Closer
}

// spawn runs the datastore of the place in a process, which ends with the test.
func (p place) spawn(t testing.TB) *process {
	t.Helper()
	s := &process{t: t, place: p}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start starts it and returns when it serves.
func (s *process) start() {
	s.t.Helper()
	described, err := json.Marshal(s.place)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), placeVariable+"="+string(described))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd = cmd
	overdue := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer overdue.Stop()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "serving\n" {
		s.t.Fatalf("the datastore's process did not come up: %q, %v", line, err)
	}
}

// kill ends it with SIGKILL, in the middle of whatever it does. After it, start goes on with the same files.
func (s *process) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGKILL)
	_ = s.cmd.Wait()
	_ = s.stdin.Close()
	s.cmd = nil
}
