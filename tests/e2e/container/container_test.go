// Package container builds the image of the Dockerfile and runs it. There is no Docker engine here: buildah executes the Dockerfile's steps, and a lab host is the privileged container.
package container

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// lint runs BuildKit's linter, which is a module of its own.
func lint(t *testing.T, dockerfile string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "run", "-C", filepath.Join(cluster.Root(t), "tests", "dockerfile", "lint"), ".", dockerfile)
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestDockerfile(t *testing.T) {
	if out, err := lint(t, filepath.Join(cluster.Root(t), "Dockerfile")); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	bad := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(bad, []byte("FROM debian AS Build\nENTRYPOINT labk server\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := lint(t, bad); err == nil || !strings.Contains(out, "StageNameCasing") || !strings.Contains(out, "JSONArgsRecommended") {
		t.Errorf("the linter finds nothing wrong with a bad file: %v\n%s", err, out)
	}
}

// The container's processes are in a PID namespace of their own, with the entry point as process 1, as in a privileged container. Its data outlive it, as in a volume.
func TestContainer(t *testing.T) {
	b := newBuilder(t)
	b.baseImages()
	b.build()
	root, command := b.mount()
	c := cluster.Start(t, cluster.Options{Root: root, DontStart: true})
	run := func() *container { return start(t, c, command) }

	first := run()
	first.eventually("wait", "--for=condition=Ready", "node/"+c.Host.Name(), "--timeout=5s")
	first.kubectl("create", "deployment", "hello", "--image=docker.io/labk/hello:1", "--replicas=2")
	first.kubectl("rollout", "status", "deployment/hello", "--timeout=90s")
	first.kubectl("create", "service", "nodeport", "hello", "--tcp=80:8080", "--node-port=30080")
	answers(t, c)
	if out := c.Server.Sh(t, "grep NSpid: /proc/"+first.pid+"/status"); !strings.HasSuffix(out, "\t1") {
		t.Errorf("the container's entry point is not its process 1: %s", out)
	}
	first.stop()

	second := run()
	second.eventually("wait", "--for=condition=Ready", "node/"+c.Host.Name(), "--timeout=5s")
	second.eventually("rollout", "status", "deployment/hello", "--timeout=5s")
	answers(t, c)
	second.stop()
}

func answers(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	url := fmt.Sprintf("http://%s:30080/", c.Host.Addr())
	cluster.Eventually(t, cluster.Limit, "the pods answer at the node's port", func() error {
		response, err := c.Outside().Get(url)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != 200 {
			return fmt.Errorf("it answers %s", response.Status)
		}
		return nil
	})
}

// container is one run of the image.
type container struct {
	t     *testing.T
	c     *cluster.Cluster
	pid   string // of the container's process 1, as the host sees it
	ended chan error
}

func start(t *testing.T, c *cluster.Cluster, command []string) *container {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	// A tmpfs on /run, as the documentation says: what is there belongs to processes that end with the container.
	script := `mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"`
	unshare := []string{"unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "sh", "-c", script, "sh"}
	cmd := c.Host.Command(context.WithoutCancel(t.Context()), append(unshare, command...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &container{t: t, c: c, ended: make(chan error, 1)}
	go func() { r.ended <- cmd.Wait(); out.Close() }()
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("the container said:\n%s", text)
		}
	})
	cluster.Eventually(t, cluster.Limit, "the container starts", func() error {
		r.pid = c.Server.Sh(t, `for p in /proc/[0-9]*; do if [ "$(cat $p/comm 2>/dev/null)" = tini ]; then echo ${p#/proc/}; fi; done`)
		if r.pid == "" {
			return fmt.Errorf("there is no tini")
		}
		return nil
	})
	return r
}

func (r *container) stop() {
	r.t.Helper()
	r.c.Server.Sh(r.t, "kill -TERM "+r.pid)
	cluster.Eventually(r.t, cluster.Limit, "the container ends", func() error {
		select {
		case <-r.ended:
			return nil
		default:
			return fmt.Errorf("it is still there")
		}
	})
	if out := r.c.Server.Sh(r.t, `for p in /proc/[0-9]*; do cat $p/comm 2>/dev/null; done | grep -e shim -e labk || true`); out != "" {
		r.t.Errorf("processes are left: %s", out)
	}
}

// kubectl runs the image's own kubectl inside, as `docker exec` does.
func (r *container) kubectl(args ...string) string {
	r.t.Helper()
	return r.c.Server.Sh(r.t, r.enter(args))
}

func (r *container) eventually(args ...string) {
	r.t.Helper()
	cluster.Eventually(r.t, cluster.Startup, "kubectl "+strings.Join(args, " "), func() error {
		select {
		case err := <-r.ended:
			r.t.Fatalf("the container has ended: %v", err)
		default:
		}
		result := r.c.Server.Exec(r.t, nil, "sh", "-c", r.enter(args))
		if result.Err != nil {
			return fmt.Errorf("%w: %s", result.Err, result.Stderr)
		}
		return nil
	})
}

func (r *container) enter(args []string) string {
	return `nsenter --mount --pid --target "` + r.pid + `" /usr/local/bin/kubectl ` + strings.Join(args, " ")
}
