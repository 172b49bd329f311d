package container

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
)

const (
	// buildTimeout bounds the building of the image: a first one compiles all of Kubernetes.
	buildTimeout = 40 * time.Minute
	imageName    = "localhost/labk-e2e"
	debianImage  = "docker.io/library/debian:bookworm-slim"
)

// builder is buildah with a store of its own. It executes steps in a chroot, so it needs no engine and no registry.
type builder struct {
	t     testing.TB
	dir   string
	flags []string
}

// newBuilder returns a builder whose images and containers are gone at the end of t.
func newBuilder(t testing.TB) *builder {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "labk-e2e-container-*") // not below a folder that hosts have of their own
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{t: t, dir: dir, flags: []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "overlay"}}
	t.Cleanup(func() {
		// The test's own context has ended. What is mounted must go before the folder does.
		for _, args := range [][]string{{"umount", "--all"}, {"rm", "--all"}} {
			if out, err := b.command(context.Background(), args...).CombinedOutput(); err != nil {
				t.Errorf("buildah %s: %v: %s", args[0], err, out)
			}
		}
		_ = exec.Command("umount", filepath.Join(dir, "root", "overlay")).Run() // storage mounts its folder upon itself
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the builder's folder: %v", err)
		}
	})
	return b
}

func (b *builder) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "buildah", append(b.flags, args...)...)
	cmd.Env = append(os.Environ(), "BUILDAH_ISOLATION=chroot", "TMPDIR="+b.dir)
	return cmd
}

// run runs buildah and returns what it prints.
func (b *builder) run(args ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), buildTimeout)
	defer cancel()
	cmd := b.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("buildah %s: %v\n%s\n%s", strings.Join(args, " "), err, tail(stdout.String()), tail(stderr.String()))
	}
	return strings.TrimSpace(stdout.String())
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// baseImages makes what the Dockerfile's stages begin with, as the registry's images are: Debian, and Debian with a compiler and this machine's Go.
func (b *builder) baseImages() {
	b.t.Helper()
	root := cluster.HostRoot(b.t, "ca-certificates")
	c := b.run("from", "scratch")
	b.run("add", "--quiet", c, root, "/")
	b.run("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", c)
	b.run("commit", "--quiet", "--rm", c, debianImage)

	c = b.run("from", "--pull-never", debianImage)
	b.run("run", c, "--", "sh", "-c", "apt-get -qq update && apt-get -qq install -y --no-install-recommends gcc libc6-dev git make pkg-config")
	b.run("add", "--quiet", c, b.goenv("GOROOT"), "/usr/local/go")
	b.run("config", "--env", "PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "--env", "GOPATH=/go", "--env", "GOTOOLCHAIN=local", c)
	b.run("commit", "--quiet", "--rm", c, b.golangImage())
}

// golangImage is the image that the Dockerfile's first stage names.
func (b *builder) golangImage() string {
	text, err := os.ReadFile(filepath.Join(cluster.Root(b.t), "Dockerfile"))
	if err != nil {
		b.t.Fatal(err)
	}
	arg := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "ARG "); ok {
			name, value, _ := strings.Cut(strings.TrimSpace(rest), "=")
			arg[name] = value
		}
	}
	return fmt.Sprintf("docker.io/library/golang:%s-%s", arg["GO_VERSION"], arg["DEBIAN"])
}

func (b *builder) goenv(name string) string {
	out, err := exec.CommandContext(b.t.Context(), "go", "env", name).Output()
	if err != nil {
		b.t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// build executes the Dockerfile over the checkout, with this machine's Go caches.
func (b *builder) build() {
	b.t.Helper()
	b.run("bud", "--pull-never", "--layers=false", "--tag", imageName,
		"--volume", b.goenv("GOMODCACHE")+":/go/pkg/mod", "--volume", b.goenv("GOCACHE")+":/root/.cache/go-build", cluster.Root(b.t))
}

// mount returns the root file system of a new container of the image, and what an engine would start in it.
func (b *builder) mount() (root string, command []string) {
	b.t.Helper()
	var about struct {
		OCIv1 struct {
			Config struct {
				Entrypoint, Cmd []string
				Volumes         map[string]struct{}
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(b.run("inspect", "--type", "image", imageName)), &about); err != nil {
		b.t.Fatal(err)
	}
	if _, ok := about.OCIv1.Config.Volumes["/var/lib/labk"]; !ok {
		b.t.Error("the image has no volume for its data: containers' overlays don't stack on its own")
	}
	c := b.run("from", "--pull-never", imageName)
	return b.run("mount", c), append(about.OCIv1.Config.Entrypoint, about.OCIv1.Config.Cmd...)
}
