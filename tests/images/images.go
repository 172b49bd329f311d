package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/labk/labk/package/ocitar"
)

// recipe counts the changes of how images are made here, which make those in the cache old.
const recipe = 1

// image is what to make.
type image struct {
	name     string
	packages []string
	config   v1.Config
	// fill adds to the tree what the packages leave out.
	fill func(context.Context, *tree) error
}

var defaultPath = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// Busybox makes an image of Debian's static busybox with all its applets, which runs a shell. It returns the archive and the
// image's name. dir is the folder for downloads and results, by default ~/.cache/labk-tests; what is there is used again. Needs
// apt-get, root only if apt has no package lists yet.
func Busybox(ctx context.Context, dir string) (tarPath, ref string, err error) {
	return build(ctx, dir, image{
		name:     "busybox",
		packages: []string{"busybox-static"},
		config:   v1.Config{Cmd: []string{"sh"}, Env: defaultPath, WorkingDir: "/"},
		fill:     addApplets,
	})
}

// Nginx makes an image of Debian's nginx, which listens on port 80 with its workers as www-data; busybox's applets are beside it. See
// Busybox for the rest.
func Nginx(ctx context.Context, dir string) (tarPath, ref string, err error) {
	return build(ctx, dir, image{
		name:     "nginx",
		packages: []string{"nginx", "busybox-static"},
		config: v1.Config{
			Cmd:          []string{"nginx", "-g", "daemon off;"},
			Env:          defaultPath,
			WorkingDir:   "/",
			ExposedPorts: map[string]struct{}{"80/tcp": {}},
			StopSignal:   "SIGQUIT",
		},
		fill: func(ctx context.Context, t *tree) error {
			addNginxFiles(t)
			return addApplets(ctx, t)
		},
	})
}

func build(ctx context.Context, dir string, i image) (tarPath, ref string, err error) {
	ref = "docker.io/labtest/" + i.name + ":1"
	tarPath, err = cached(ctx, dir, i.name, i.packages, func(debs []string) ([]byte, error) { return assemble(ctx, i, ref, debs) })
	if err != nil {
		return "", "", fmt.Errorf("make the image %s for the tests: %w", i.name, err)
	}
	return tarPath, ref, nil
}

// cached returns the archive that make makes of packages with all that they depend on, or the one that it made before.
func cached(ctx context.Context, dir, name string, packages []string, make func(debs []string) ([]byte, error)) (tarPath string, err error) {
	if dir, err = cacheDir(dir); err != nil {
		return "", err
	}
	unlock, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	debs, err := download(ctx, dir, name, packages...)
	if err != nil {
		return "", err
	}
	tarPath = filepath.Join(dir, name+"-"+version(debs)+".tar")
	if _, err := os.Stat(tarPath); err == nil {
		return tarPath, nil
	}
	data, err := make(debs)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(tarPath+".new", data, 0o644); err != nil {
		return "", err
	}
	return tarPath, os.Rename(tarPath+".new", tarPath)
}

// version is a short hash of what an image is made of.
func version(debs []string) string {
	h := sha256.New()
	fmt.Fprintln(h, recipe)
	for _, deb := range debs {
		fmt.Fprintln(h, filepath.Base(deb))
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:12]
}

func assemble(ctx context.Context, i image, ref string, debs []string) ([]byte, error) {
	t := newTree()
	addUsers(t)
	for _, deb := range debs {
		if err := t.add(ctx, deb); err != nil {
			return nil, err
		}
	}
	if err := i.fill(ctx, t); err != nil {
		return nil, err
	}
	entries := make([]tar.Header, 0, len(t.entries))
	for _, h := range t.entries {
		entries = append(entries, h)
	}
	layer, err := ocitar.Layer(entries, func(name string) ([]byte, error) { return t.bodies[name], nil })
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	_, err = ocitar.Write(&buf, []ocitar.Image{{Ref: ref, Arch: runtime.GOARCH, Layer: layer, Config: i.config}})
	return buf.Bytes(), err
}

func addUsers(t *tree) {
	t.file("etc/passwd", 0o644, []byte(`root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
`))
	t.file("etc/group", 0o644, []byte("root:x:0:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n"))
	t.file("etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
}

// addApplets links every applet of the tree's busybox that the tree has no other program for.
func addApplets(ctx context.Context, t *tree) error {
	program, ok := t.bodies["usr/bin/busybox"]
	if !ok {
		return fmt.Errorf("busybox-static has no /bin/busybox")
	}
	dir, err := os.MkdirTemp("", "labk-busybox-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "busybox")
	if err := os.WriteFile(file, program, 0o755); err != nil {
		return err
	}
	list, err := output(ctx, file, "--list")
	if err != nil {
		return err
	}
	for _, applet := range strings.Fields(string(list)) {
		if !t.has("usr/bin/"+applet) && !t.has("usr/sbin/"+applet) {
			t.link("usr/bin/"+applet, "/bin/busybox")
		}
	}
	return nil
}

func addNginxFiles(t *tree) {
	for _, dir := range []string{"var/lib/nginx", "var/log/nginx", "var/www/html"} {
		t.mkdir(dir, 0o755)
	}
	t.file("etc/nginx/nginx.conf", 0o644, []byte(`worker_processes 1;
user www-data;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 256; }
http {
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  access_log /dev/stdout;
  include /etc/nginx/conf.d/*.conf;
}
`))
	t.file("etc/nginx/conf.d/default.conf", 0o644, []byte("server {\n  listen 80;\n  root /var/www/html;\n}\n"))
	t.file("var/www/html/index.html", 0o644, []byte("<!DOCTYPE html>\n<title>nginx</title>\n<h1>Welcome to nginx!</h1>\n"))
}
