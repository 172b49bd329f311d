// The command `labk lab`, called on this machine as a user calls it.
package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
)

// lab is the command for one lab.
type lab struct{ name string }

// newLab chooses a lab that is not there, and takes it down when t ends.
func newLab(t *testing.T, name string) *lab {
	t.Helper()
	l := &lab{name: name}
	down := func() { l.run(t, nil, "down") }
	down() // what a killed run of this test left
	t.Cleanup(down)
	return l
}

func (l *lab) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), cluster.Startup)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, cluster.Binary(t), append([]string{"lab"}, args...)...)
	cmd.Env = append(os.Environ(), "LABK_LAB_NAME="+l.name)
	return cmd
}

// run runs `labk lab` with the arguments. Not to start at all fails the test.
func (l *lab) run(t *testing.T, stdin io.Reader, args ...string) cluster.Result {
	t.Helper()
	return result(t, l.command(t, args...), stdin)
}

func result(t *testing.T, cmd *exec.Cmd, stdin io.Reader) cluster.Result {
	t.Helper()
	var out, errout bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errout
	err := cmd.Run()
	r := cluster.Result{Stdout: out.String(), Stderr: errout.String()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		r.Code, r.Err = exit.ExitCode(), fmt.Errorf("%v: %w: %s", cmd.Args, err, errout.String())
	} else if err != nil {
		t.Fatal(err)
	}
	return r
}

// screen collects what a running command writes.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// must is run for what must not fail; it returns standard output.
func (l *lab) must(t *testing.T, args ...string) string {
	t.Helper()
	r := l.run(t, nil, args...)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r.Stdout
}

// status is what `labk lab status -o json` says.
type status struct {
	Host, Role, Address, Node string
	Running, Cable            bool
	PID                       int
}

func (l *lab) status(t *testing.T) (all []status) {
	t.Helper()
	if err := json.Unmarshal([]byte(l.must(t, "status", "-o", "json")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// ask asks the NodePort of agent2 for a page, from another host.
func (l *lab) ask(t *testing.T, from string) cluster.Result {
	t.Helper()
	const script = `exec 3<>/dev/tcp/agent2/30080 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && grep -a Hello <&3`
	return l.run(t, nil, "exec", from, "--", "timeout", "3", "bash", "-c", script)
}

func TestLab(t *testing.T) {
	l := newLab(t, "e2e-lab")
	before := inventory(t, l.name)
	if r := l.run(t, nil, "up", "--agents", "2"); r.Err != nil || !strings.Contains(r.Stderr, "labk lab kubectl get nodes") {
		t.Fatalf("%v: %s", r.Err, r.Stderr)
	}
	for i, s := range l.status(t) {
		name, role := "server", "server"
		if i > 0 {
			name, role = fmt.Sprintf("agent%d", i), "agent"
		}
		want := status{Host: name, Role: role, Address: fmt.Sprintf("10.77.0.%d", 11+i), Node: "Ready", Running: true, Cable: true, PID: s.PID}
		if s != want || s.PID == 0 {
			t.Errorf("host %d: %+v", i+1, s)
		}
	}
	t.Run("exec", func(t *testing.T) { testExec(t, l) })
	t.Run("pods", func(t *testing.T) { testPods(t, l) })
	t.Run("refused", func(t *testing.T) { testRefused(t, l) })
	t.Run("cable", func(t *testing.T) { testCable(t, l) })
	t.Run("power", func(t *testing.T) { testPower(t, l) })
	l.must(t, "down")
	asBefore(t, l.name, before)
}

func testExec(t *testing.T, l *lab) {
	r := l.run(t, strings.NewReader("typed\n"), "exec", "agent1", "--", "sh", "-c", "cat; hostname; echo problem >&2; exit 7")
	if r.Code != 7 || r.Stdout != "typed\nagent1\n" || r.Stderr != "problem\n" {
		t.Errorf("code %d, output %q, errors %q", r.Code, r.Stdout, r.Stderr)
	}
	if out := l.must(t, "exec", "3", "hostname"); out != "agent2\n" {
		t.Errorf("host 3 is %q", out)
	}
	if r := l.run(t, nil, "exec", "server", "--", "sh", "-c", "kill -9 $$"); r.Code != 128+9 {
		t.Errorf("killed: code %d", r.Code)
	}
	if out := l.must(t, "exec", "agent1", "--", "labk", "version"); !strings.HasPrefix(out, "labk ") {
		t.Errorf("labk in the host: %q", out)
	}
	// a terminal, as script(1) makes one: an interrupt is for the command alone
	typed := fmt.Sprintf("%s lab exec server -- sh -c 'trap \"echo interrupted; exit 5\" INT; tty; read line'", cluster.Binary(t))
	cmd := exec.Command("script", "-qec", typed, "/dev/null")
	cmd.Env = append(os.Environ(), "LABK_LAB_NAME="+l.name)
	keys, keyboard := io.Pipe()
	var screen screen
	cmd.Stdin, cmd.Stdout = keys, &screen
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, cluster.Limit, "a terminal in the host", func() error {
		if text := screen.text(); !strings.Contains(text, "/dev/pts/") {
			return fmt.Errorf("the screen shows %q", text)
		}
		return nil
	})
	go func() { _, _ = keyboard.Write([]byte{3}); _ = keyboard.Close() }()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 5 || !strings.Contains(screen.text(), "interrupted") {
		t.Errorf("on a terminal: %v, %q", err, screen.text())
	}
}

// testPods has a pod on every node, from a file of this machine, and asks each through the others.
func testPods(t *testing.T, l *lab) {
	const yaml = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers: [{name: hello, image: "docker.io/labk/hello:1", ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {type: NodePort, selector: {app: hello}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
`
	file := filepath.Join(t.TempDir(), "hello.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must(t, "kubectl", "apply", "-f", file)
	l.must(t, "kubectl", "rollout", "status", "daemonset/hello", "--timeout=2m")
	nodes := map[string]bool{}
	for _, node := range strings.Fields(l.must(t, "kubectl", "get", "pods", "-l", "app=hello", "-o", "jsonpath={.items[*].spec.nodeName}")) {
		nodes[node] = true
	}
	if len(nodes) != 3 {
		t.Errorf("pods are on %v", nodes)
	}
	// one node's port leads to the pods of all nodes
	answered := map[string]bool{}
	cluster.Eventually(t, cluster.Limit, "answers of three pods", func() error {
		r := l.ask(t, "agent1")
		if r.Err != nil {
			return r.Err
		}
		if answered[strings.Join(strings.Fields(r.Stdout)[:3], " ")] = true; len(answered) < 3 {
			return fmt.Errorf("only %v answered", answered)
		}
		return nil
	})
}

func testRefused(t *testing.T, l *lab) {
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"up once more":    {[]string{"up"}, 1, "`labk lab down`"},
		"unknown host":    {[]string{"kill", "agent7"}, 2, "server, agent1, agent2"},
		"no host":         {[]string{"boot"}, 2, "which host?"},
		"no command":      {[]string{"exec", "server"}, 2, "which command"},
		"unknown program": {[]string{"exec", "server", "--", "nonesuch"}, 1, `no program "nonesuch"`},
		"another lab":     {[]string{"status", "--name", "nonesuch"}, 1, "labk lab up"},
		"name":            {[]string{"up", "--name", "My Lab"}, 1, "lower-case"},
		"agents":          {[]string{"up", "--agents", "-1"}, 2, "0 or more"},
		"many agents":     {[]string{"up", "--name", "e2e-lab-many", "--agents", "1000"}, 1, "at most"},
		"folder":          {[]string{"up", "--name", "e2e-lab-other", "--data-dir", "/etc/lab"}, 1, "hosts have of their own"},
		"an argument":     {[]string{"up", "now"}, 2, `"now"`},
		"subcommand":      {[]string{"explode"}, 2, `no command "explode"`},
		"format":          {[]string{"status", "-o", "xml"}, 2, "json or yaml"},
	} {
		t.Run(name, func(t *testing.T) { refuses(t, l.run(t, nil, c.args...), c.code, c.want) })
	}
	t.Run("not root", func(t *testing.T) {
		cmd := l.command(t, "status")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		refuses(t, result(t, cmd, nil), 1, "sudo")
	})
	t.Run("root without rights", func(t *testing.T) {
		cmd := l.command(t, "up", "--name", "e2e-lab-weak")
		cmd.Args = append([]string{"setpriv", "--bounding-set", "-sys_admin", "--"}, cmd.Args...)
		cmd.Path, cmd.Err = "/usr/bin/setpriv", nil
		refuses(t, result(t, cmd, nil), 1, "CAP_SYS_ADMIN")
	})
}

// refuses checks for one sentence that says what to do.
func refuses(t *testing.T, r cluster.Result, code int, want string) {
	t.Helper()
	last := strings.TrimSpace(r.Stderr)
	last = last[strings.LastIndex(last, "\n")+1:]
	if r.Code != code || !strings.HasPrefix(last, "labk: ") || !strings.Contains(last, want) {
		t.Errorf("code %d, want %d; errors %q, want %q", r.Code, code, r.Stderr, want)
	}
}

func testCable(t *testing.T, l *lab) {
	l.must(t, "cut", "agent2")
	if s := l.status(t)[2]; s.Cable || !s.Running {
		t.Errorf("status after cut: %+v", s)
	}
	if r := l.ask(t, "server"); r.Err == nil {
		t.Errorf("agent2 answers without a cable: %q", r.Stdout)
	}
	l.must(t, "mend", "agent2")
	cluster.Eventually(t, cluster.Limit, "an answer of agent2", func() error { return l.ask(t, "server").Err })
}

func testPower(t *testing.T, l *lab) {
	l.must(t, "exec", "agent1", "--", "touch", "/var/lib/kept", "/run/volatile")
	l.must(t, "kill", "agent1")
	if s := l.status(t)[1]; s.Running || s.PID != 0 {
		t.Errorf("status after a power cut: %+v", s)
	}
	refuses(t, l.run(t, nil, "exec", "agent1", "--", "true"), 1, "boot it first")
	l.must(t, "boot", "agent1")
	l.must(t, "exec", "agent1", "--", "sh", "-c", "test -e /var/lib/kept && ! test -e /run/volatile")
	l.must(t, "kubectl", "wait", "--for=condition=Ready", "node/agent1", "--timeout=2m")
	// labk may also end alone; booting starts it again
	l.must(t, "exec", "server", "--", "pkill", "-TERM", "labk")
	cluster.Eventually(t, cluster.Limit, "end of labk in the server's host", func() error {
		if s := l.status(t)[0]; !s.Running || s.PID != 0 || s.Node != "unknown" {
			return fmt.Errorf("status is %+v", s)
		}
		return nil
	})
	if r := l.run(t, nil, "kubectl", "get", "nodes", "--request-timeout=2s"); r.Code != 1 {
		t.Errorf("kubectl without a server: code %d, %q", r.Code, r.Stderr)
	}
	l.must(t, "boot", "server")
	cluster.Eventually(t, cluster.Limit, "three nodes Ready again", func() error {
		for _, s := range l.status(t) {
			if s.Node != "Ready" {
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
}

// An Up that was killed, or interrupted, hinders nobody.
func TestEndedHalfway(t *testing.T) {
	l := newLab(t, "e2e-lab-half")
	before := inventory(t, l.name)
	for _, c := range []struct {
		sig  os.Signal
		left bool
	}{{syscall.SIGINT, false}, {syscall.SIGKILL, true}} {
		cmd := l.command(t, "up", "--agents", "1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cluster.Eventually(t, cluster.Limit, "a lab with a starting server", func() error {
			if r := l.run(t, nil, "status"); !strings.Contains(r.Stdout, "pid ") {
				return fmt.Errorf("status says %q, %v", r.Stdout, r.Err)
			}
			return nil
		})
		if err := cmd.Process.Signal(c.sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatalf("it was up before %v", c.sig)
		}
		if r := l.run(t, nil, "status"); (r.Err == nil) != c.left {
			t.Errorf("after %v: %v", c.sig, r.Err)
		}
		if !c.left {
			asBefore(t, l.name, before)
		}
	}
	l.must(t, "up", "--agents", "0")
	if s := l.status(t); len(s) != 1 || s[0].Node != "Ready" {
		t.Errorf("%+v", s)
	}
	l.must(t, "down")
	asBefore(t, l.name, before)
	refuses(t, l.run(t, nil, "down"), 1, "no lab")
}
