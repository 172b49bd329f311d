// Package badhost starts the real labk with bad input and on bad machines: it must say in one clear sentence what is wrong and what to
// do, end with the right exit code, and leave everything as it was.
//
// A kernel without overlayfs or nf_tables and a machine without the memory cgroup cannot be made in a lab host, which has the
// machine's kernel: the unit tests of pkg/health cover them.
package badhost

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// Exit codes.
const (
	failed = 1 // at run time, or the machine is not fit
	usage  = 2 // the command line or the configuration is wrong
)

// mistake is a way to start labk that must fail.
type mistake struct {
	name string
	// setup is a shell script that makes the host bad, undo one that makes it good again.
	setup, undo string
	// files are written before; they are removed afterwards.
	files map[string]string
	// argv is the command; "labk" at its beginning is the tested program.
	argv []string
	code int
	// want are parts of the sentence.
	want []string
}

// with makes the mistake, hands the command to run, and looks whether the disk is as before.
func (m mistake) with(t *testing.T, c *cluster.Cluster, run func(argv []string)) {
	for path, text := range m.files {
		c.WriteFile(t, path, text)
		defer c.Sh(t, "rm -f "+path)
	}
	if m.setup != "" {
		c.Sh(t, m.setup)
	}
	if m.undo != "" {
		defer c.Sh(t, m.undo)
	}
	before := inventory(t, c)
	argv := slices.Clone(m.argv)
	if i := slices.Index(argv, "labk"); i >= 0 {
		argv[i] = c.Program()
	}
	run(argv)
	compare(t, before, inventory(t, c))
}

// try looks at the answer, too.
func (m mistake) try(t *testing.T, c *cluster.Cluster) {
	m.with(t, c, func(argv []string) { check(t, c.Exec(t, nil, argv...), m.code, m.want...) })
}

// check looks at how a failed labk has ended: the code, and one sentence that contains all that is wanted.
func check(t *testing.T, r cluster.Result, code int, want ...string) {
	t.Helper()
	if r.Code != code {
		t.Errorf("it ends with code %d, want %d", r.Code, code)
	}
	var sentences []string
	for line := range strings.Lines(r.Stderr) {
		if s, ok := strings.CutPrefix(line, "labk: "); ok {
			sentences = append(sentences, s)
		}
	}
	if len(sentences) != 1 {
		t.Errorf("it says %d sentences, want 1", len(sentences))
	}
	for _, w := range want {
		if len(sentences) > 0 && !strings.Contains(sentences[0], w) {
			t.Errorf("it does not say %q", w)
		}
	}
	for _, bad := range []string{"goroutine ", "panic", "SIGSEGV", "SIGBUS"} {
		if strings.Contains(r.Stderr, bad) {
			t.Errorf("it crashes")
		}
	}
	if t.Failed() {
		t.Logf("standard error:\n%s\nstandard output:\n%s", r.Stderr, r.Stdout)
	}
}

// kept are the folders that a failed start must not change.
var kept = []string{"/var/lib", "/etc/labk", "/etc/cni", "/run/labk"}

// inventory is every file of those folders with its mode and a hash of its content.
func inventory(t *testing.T, c *cluster.Cluster) map[string]string {
	t.Helper()
	out := map[string]string{}
	root, err := c.Host.Path("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range kept {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil {
				return err
			}
			what, err := describe(path, e)
			out[strings.TrimPrefix(path, root)] = what
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func describe(path string, e fs.DirEntry) (string, error) {
	info, err := e.Info()
	if err != nil {
		return "", err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(path)
		return "-> " + to, err
	case info.Mode().IsRegular():
		data, err := os.ReadFile(path)
		return fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(data)), err
	}
	return info.Mode().String(), nil
}

func compare(t *testing.T, before, after map[string]string) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if was, ok := before[path]; !ok {
			t.Errorf("it made %s (%s)", path, after[path])
		} else if was != after[path] {
			t.Errorf("it changed %s from %s to %s", path, was, after[path])
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			t.Errorf("it removed %s", path)
		}
	}
}
