package cluster

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
)

// Refused looks at how a labk that had to fail has ended: with the code, and with one sentence that contains all that is wanted.
func (r Result) Refused(t testing.TB, code int, want ...string) {
	t.Helper()
	failed := false
	complain := func(format string, args ...any) {
		t.Helper()
		failed = true
		t.Errorf(format, args...)
	}
	if r.Code != code {
		complain("it ends with code %d, want %d", r.Code, code)
	}
	var sentences []string
	for line := range strings.Lines(r.Stderr) {
		if s, ok := strings.CutPrefix(line, "labk: "); ok && !strings.HasPrefix(s, "warning: ") {
			sentences = append(sentences, s)
		}
	}
	if len(sentences) != 1 {
		complain("it says %d sentences, want 1", len(sentences))
	}
	for _, w := range want {
		if len(sentences) > 0 && !strings.Contains(sentences[0], w) {
			complain("it does not say %q", w)
		}
	}
	for _, bad := range []string{"goroutine ", "panic", "SIGSEGV", "SIGBUS"} {
		if strings.Contains(r.Stderr, bad) {
			complain("it crashes")
		}
	}
	if failed {
		t.Logf("standard error:\n%s\nstandard output:\n%s", r.Stderr, r.Stdout)
	}
}

// Inventory is every file of the folders in the node's host, with its mode and a hash of its content.
func (n *Node) Inventory(t testing.TB, folders ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	root, err := n.Host.Path("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range folders {
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

// Unchanged compares the folders with their Inventory of before.
func (n *Node) Unchanged(t testing.TB, before map[string]string, folders ...string) {
	t.Helper()
	after := n.Inventory(t, folders...)
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
