// Package images assembles container images for the tests out of Debian packages: images that nobody here wrote, without a
// registry.
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
)

// cacheDir returns the folder for downloads and images.
func cacheDir(dir string) (string, error) {
	if dir == "" {
		home, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a folder for the tests' downloads: %w", err)
		}
		dir = filepath.Join(home, "labk-tests")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// lock keeps other test programs out of the folder until the returned function is called.
func lock(dir string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// download fetches packages with all that they depend on into dir/debs/name, once, and returns the files.
func download(ctx context.Context, dir, name string, packages ...string) ([]string, error) {
	to := filepath.Join(dir, "debs", name)
	done := filepath.Join(to, "done")
	if text, err := os.ReadFile(done); err != nil || string(text) != strings.Join(packages, " ") {
		if err := fetch(ctx, to, packages); err != nil {
			return nil, fmt.Errorf("download Debian packages %s: %w", strings.Join(packages, " "), err)
		}
		if err := os.WriteFile(done, []byte(strings.Join(packages, " ")), 0o644); err != nil {
			return nil, err
		}
	}
	files, err := filepath.Glob(filepath.Join(to, "*.deb"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s has no packages: remove it and try again", to)
	}
	sort.Strings(files)
	return files, err
}

// fetch asks apt what to download by pretending that nothing is installed.
func fetch(ctx context.Context, to string, packages []string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(to, "partial"), 0o755); err != nil {
		return err
	}
	status := filepath.Join(to, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return err
	}
	if _, err := output(ctx, "apt-cache", append([]string{"show"}, packages...)...); err != nil {
		if _, err := output(ctx, "apt-get", "-qq", "update"); err != nil {
			return err
		}
	}
	args := []string{"-qq", "-y", "--download-only", "--no-install-recommends",
		"-o", "Dir::State::status=" + status, "-o", "Dir::Cache::archives=" + to,
		"-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "install"}
	_, err := output(ctx, "apt-get", append(args, packages...)...)
	return err
}

// output runs a command and returns its standard output; the error tells what it said on the other.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}

// tree is the content of an image: entries by their path without the leading slash.
type tree struct {
	entries map[string]tar.Header
	bodies  map[string][]byte
}

func newTree() *tree {
	t := &tree{entries: map[string]tar.Header{}, bodies: map[string][]byte{}}
	for _, dir := range []string{"dev", "etc", "home", "proc", "root", "run", "sys", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "var/log"} {
		t.mkdir(dir, 0o755)
	}
	t.mkdir("tmp", 0o1777)
	t.mkdir("var/tmp", 0o1777)
	for _, name := range merged {
		t.link(name, "usr/"+name)
	}
	return t
}

// merged are the top-level folders that are links into /usr.
var merged = []string{"bin", "lib", "lib64", "sbin"}

// clean returns a path as the tree has it.
func clean(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for _, top := range merged {
		if strings.HasPrefix(name, top+"/") {
			return "usr/" + name
		}
	}
	return name
}

func (t *tree) has(name string) bool {
	_, ok := t.entries[clean(name)]
	return ok
}

func (t *tree) mkdir(name string, mode int64) {
	if parent := path.Dir(name); parent != "." && !t.has(parent) {
		t.mkdir(parent, 0o755)
	}
	t.entries[name] = tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}
}

func (t *tree) link(name, to string) {
	t.entries[name] = tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink, Mode: 0o777}
}

func (t *tree) file(name string, mode int64, body []byte) {
	if parent := path.Dir(name); !t.has(parent) {
		t.mkdir(parent, 0o755)
	}
	t.entries[name] = tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}
	t.bodies[name] = body
}

// unneeded are the parts of packages that no test wants.
var unneeded = []string{"usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/",
	"usr/share/bash-completion/", "usr/share/perl", "usr/lib/x86_64-linux-gnu/perl", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/systemd/"}

// add puts a package's files into the tree.
func (t *tree) add(ctx context.Context, deb string) error {
	data, err := output(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	if err != nil {
		return err
	}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = t.addEntry(*h, r)
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
}

func (t *tree) addEntry(h tar.Header, r io.Reader) error {
	name := clean(h.Name)
	for _, prefix := range unneeded {
		if strings.HasPrefix(name, prefix) {
			return nil
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if !t.has(name) && name != "" {
			t.mkdir(name, h.Mode)
		}
	case tar.TypeReg:
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		t.file(name, h.Mode&0o777, body) // no test wants set-uid programs
	case tar.TypeSymlink:
		if t.entries[name].Typeflag != tar.TypeDir {
			t.link(name, h.Linkname)
		}
	case tar.TypeLink:
		body, ok := t.bodies[clean(h.Linkname)]
		if !ok {
			return errors.New(h.Name + " is a link to nothing")
		}
		t.file(name, h.Mode&0o777, body)
	}
	return nil
}
