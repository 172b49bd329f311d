package lab

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
)

func TestKilledOwner(t *testing.T) {
	before := inventory(t)
	name := "selftest-orphan"
	owner := exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), ownerEnv+"="+name)
	owner.Stderr = os.Stderr
	stdin, err := owner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 3)
	_, readErr := io.ReadFull(stdout, said)
	old, openErr := Open(DefaultDir(name))
	if err := errors.Join(readErr, openErr); err != nil {
		t.Fatal(err)
	}
	sh(t, old.Host(1), "setsid sleep 1000 >/dev/null 2>&1 &")
	_ = owner.Process.Kill()
	_ = owner.Wait()
	eventually(t, "the hosts die with their owner", func() bool {
		return !old.Host(1).Running() && !old.Host(2).Running() && len(processesIn("labk-lab-"+name)) == 0
	})
	l := bringUp(t, Options{Name: name, Hosts: 1, Subnet: "10.77.9.0/24", NoDefaultRoute: true})
	if out := sh(t, l.Host(1), "ls -A /var/lib; ip route show default"); out != "" {
		t.Errorf("left by the predecessor, or a default route: %q", out)
	}
	do(t, l.Down)
	asBefore(t, before)
}

// Hosts that are not bound to their owner go on when it has ended, as after the command `lab up`.
func TestUnboundHosts(t *testing.T) {
	before := inventory(t)
	const name = "selftest-left"
	if old, err := Open(DefaultDir(name)); err == nil { // of an earlier, killed test run
		do(t, old.Down)
	}
	owner := exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), leaveEnv+"="+name)
	if out, err := owner.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := Open(DefaultDir(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Down(context.Background()) })
	if out := sh(t, l.Host(1), "hostname; echo kept >/var/lib/note"); out != name+"-h1" {
		t.Errorf("hostname is %q", out)
	}
	if _, err := Up(testContext(t), Options{Name: name}); !errors.Is(err, ErrExists) {
		t.Errorf("a second Up: %v", err)
	}
	do(t, l.Host(1).Kill)
	do(t, l.Host(1).Boot)
	if out := sh(t, l.Host(1), "cat /var/lib/note"); out != "kept" {
		t.Errorf("the disk after boot: %q", out)
	}
	do(t, l.Down)
	asBefore(t, before)
}
