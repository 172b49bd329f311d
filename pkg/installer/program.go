package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/upgrade"
	"github.com/labk/labk/pkg/version"
)

// running is the program that is to be installed: this one.
const running = "/proc/self/exe"

// scriptPrefix begins the name under which install.sh has put the program beside its place.
const scriptPrefix = ".labk."

// staged is the program beside its place; nil when it is there already.
type staged struct{ upgrade.Program }

// stage brings this program beside its place, where a rename puts it in.
func (i *installation) stage(ctx context.Context) (*staged, error) {
	same, err := sameContent(running, i.program)
	if err != nil {
		return nil, fmt.Errorf("compare this program with %s: %w", i.program, err)
	}
	if same {
		return nil, nil
	}
	if err := os.MkdirAll(i.BinDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the program's folder: %w: choose another with --bin-dir", err)
	}
	s := &staged{upgrade.Program{Text: version.Version}}
	if s.Version, err = version.Parse(version.Version); err != nil {
		return nil, err
	}
	if s.Path, err = os.Executable(); err != nil {
		return nil, err
	}
	byScript := filepath.Dir(s.Path) == i.BinDir && strings.HasPrefix(filepath.Base(s.Path), scriptPrefix) && s.Path != paths.Previous(i.program)
	if !byScript {
		s.Path, err = upgrade.Stage(running, i.program)
	}
	return s, err
}

// discard removes a staged program that is not to be used.
func (s *staged) discard() error {
	if s == nil {
		return nil
	}
	return os.Remove(s.Path)
}

// putInPlace renames the staged program into place; the one before is kept.
func (s *staged) putInPlace(ctx context.Context, i *installation) error {
	if s == nil {
		return nil
	}
	i.Say("%s is %s", i.program, s.Text)
	return upgrade.Replace(ctx, upgrade.Replacement{Program: i.program, New: s.Program, Say: i.Say})
}

// sameContent tells whether two files are the same to the byte; the second may be missing.
func sameContent(a, b string) (bool, error) {
	first, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer first.Close()
	second, err := os.Open(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer second.Close()
	one, err := first.Stat()
	if err != nil {
		return false, err
	}
	other, err := second.Stat()
	if err != nil || one.Size() != other.Size() {
		return false, err
	}
	if os.SameFile(one, other) {
		return true, nil
	}
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(first, x)
		if _, err := io.ReadFull(second, y[:n]); err != nil {
			return false, err
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return false, nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// makeLinks lets kubectl and ctr be labk where the PC has no such command.
func (i *installation) makeLinks() error {
	for _, name := range []string{"kubectl", "ctr"} {
		path := filepath.Join(i.BinDir, name)
		if _, err := exec.LookPath(name); err == nil || slices.Contains(i.record.Links, path) {
			continue
		}
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		i.record.Links = append(i.record.Links, path)
		if err := i.record.Save(); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Base(i.program), path); err != nil {
			return fmt.Errorf("make a link for %s: %w", name, err)
		}
	}
	return nil
}
