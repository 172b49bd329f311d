package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/labk/labk/pkg/lab"
)

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	// Code is the exit code, -1 when a signal ended it.
	Code int
	// Err is nil for code 0.
	Err error
}

// Exec runs a command in the server's host, with stdin as its standard input if not nil. It fails the test only when the command could not be started.
func (c *Cluster) Exec(t testing.TB, stdin io.Reader, argv ...string) Result {
	t.Helper()
	return c.Server.Exec(t, stdin, argv...)
}

// Exec runs a command in the node's host, with stdin as its standard input if not nil. It fails the test only when the command could not be started.
func (n *Node) Exec(t testing.TB, stdin io.Reader, argv ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	defer cancel()
	return runIn(t, n.Host.Command(ctx, argv...), stdin)
}

func runIn(t testing.TB, cmd *lab.Cmd, stdin io.Reader) Result {
	t.Helper()
	var out, errout bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errout
	err := cmd.Run()
	r := Result{Stdout: out.String(), Stderr: errout.String(), Err: err}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		r.Code = exit.ExitCode()
		r.Err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(r.Stderr))
	} else if err != nil {
		t.Fatal(err)
	}
	return r
}

// Sh runs a shell script in the server's host and returns its standard output, trimmed.
func (c *Cluster) Sh(t testing.TB, script string) string {
	t.Helper()
	return c.Server.Sh(t, script)
}

// Sh runs a shell script in the node's host and returns its standard output, trimmed.
func (n *Node) Sh(t testing.TB, script string) string {
	t.Helper()
	r := n.Exec(t, nil, "sh", "-c", script)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return strings.TrimSpace(r.Stdout)
}

// Labk runs the tested program with args in the server's host.
func (c *Cluster) Labk(t testing.TB, args ...string) Result {
	t.Helper()
	return c.Exec(t, nil, append([]string{c.Program()}, args...)...)
}

// Kubectl runs `labk kubectl` in the server's host and returns its standard output; the test fails when it fails.
func (c *Cluster) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	r := c.KubectlIn(t, nil, args...)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r.Stdout
}

// KubectlErr is Kubectl for commands that may fail.
func (c *Cluster) KubectlErr(t testing.TB, args ...string) Result {
	t.Helper()
	return c.KubectlIn(t, nil, args...)
}

// KubectlIn is KubectlErr with standard input.
func (c *Cluster) KubectlIn(t testing.TB, stdin io.Reader, args ...string) Result {
	t.Helper()
	return c.Exec(t, stdin, append([]string{c.Program(), "kubectl"}, args...)...)
}

// KubectlCommand prepares a `labk kubectl` that the test starts and ends itself; it is killed at the end of the test, or after Limit.
func (c *Cluster) KubectlCommand(t testing.TB, args ...string) *lab.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	t.Cleanup(cancel)
	return c.Host.Command(ctx, append([]string{c.Program(), "kubectl"}, args...)...)
}

// Apply applies YAML with `labk kubectl apply`, in the namespace unless it is empty.
func (c *Cluster) Apply(t testing.TB, namespace, yaml string) {
	t.Helper()
	args := []string{"apply", "-f", "-"}
	if namespace != "" {
		args = append(args, "-n", namespace)
	}
	if r := c.KubectlIn(t, strings.NewReader(yaml), args...); r.Err != nil {
		t.Fatal(r.Err)
	}
}

// Import imports an image archive of the machine with `labk image import` on every node and returns the names of its images.
func (c *Cluster) Import(t testing.TB, tar string) (names []string) {
	t.Helper()
	for _, n := range c.nodes() {
		f, err := os.Open(tar)
		if err != nil {
			t.Fatal(err)
		}
		// the archive need not lie where the host can see it
		r := n.Exec(t, f, n.Program(), "image", "import", "/dev/stdin")
		f.Close()
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		names = strings.Fields(r.Stdout)
	}
	return names
}
