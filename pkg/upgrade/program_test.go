package upgrade

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/labk/labk/pkg/digest"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/paths"
)

// TestMain is also a labk: one that says the version that its environment names, and finds what that says.
func TestMain(m *testing.M) {
	if version := os.Getenv("UPGRADE_TEST_VERSION"); version != "" && len(os.Args) > 1 {
		switch os.Args[1] {
		case "version":
			os.Stdout.WriteString(`{"version": "` + version + `"}`)
			os.Exit(0)
		case "check":
			os.Stdout.WriteString(os.Getenv("UPGRADE_TEST_FOUND"))
			os.Stderr.WriteString("labk: " + strings.Join(os.Args, " "))
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func self(t *testing.T) []byte {
	t.Helper()
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func TestInspect(t *testing.T) {
	good := self(t)
	arm := bytes.Clone(good)
	binary.LittleEndian.PutUint16(arm[18:], uint16(elf.EM_AARCH64))
	for name, tc := range map[string]struct {
		program []byte
		version string
		sum     string
		says    string // empty if it is good
	}{
		"good":           {good, "v1.37.1+labk2", "", ""},
		"empty":          {nil, "v1.37.1+labk2", "", "not a program for Linux"},
		"a page":         {[]byte("<html>"), "v1.37.1+labk2", "", "not a program for Linux"},
		"half":           {good[:len(good)/2], "v1.37.1+labk2", "", "a part of it is missing"},
		"all but a byte": {good[:len(good)-1], "v1.37.1+labk2", "", "a part of it is missing"},
		"architecture":   {arm, "v1.37.1+labk2", "", "another architecture (AARCH64)"},
		"sum":            {good, "v1.37.1+labk2", strings.Repeat("ab", 32), "was promised"},
		"no labk":        {good, "hello", "", "no version of labk"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("UPGRADE_TEST_VERSION", tc.version)
			path := filepath.Join(t.TempDir(), "labk")
			write(t, path, tc.program)
			p, err := Inspect(t.Context(), path, tc.sum)
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || p.Text != tc.version || p.Path != path {
				t.Fatalf("got %+v, %v", p, err)
			}
			if _, err := Inspect(t.Context(), path, strings.ToUpper(p.SHA256)); err != nil {
				t.Errorf("with its own sum: %v", err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Setenv("UPGRADE_TEST_VERSION", "v1.37.1+labk2")
	p := Program{Path: "/proc/self/exe"}
	t.Setenv("UPGRADE_TEST_FOUND", `[{"code": "LABK001", "status": "pass"}, {"code": "LABK041", "status": "fail", "title": "disk space", "detail": "full", "remedy": "free space"}]`)
	if err := p.Check(t.Context()); !health.HasCode(err, "LABK041") || health.HasCode(err, "LABK001") {
		t.Errorf("got %v", err)
	}
	t.Setenv("UPGRADE_TEST_FOUND", "")
	if err := p.Check(t.Context(), "--agent"); err == nil || !strings.Contains(err.Error(), "check -o json --agent") {
		t.Errorf("without findings: %v", err)
	}
}

func TestStage(t *testing.T) {
	folder := t.TempDir()
	program := filepath.Join(folder, "labk")
	from := filepath.Join(t.TempDir(), "download")
	write(t, from, self(t))
	if err := os.Chmod(from, 0o600); err != nil {
		t.Fatal(err)
	}
	staged, err := Stage(from, program)
	if err != nil || staged != paths.Staged(program) {
		t.Fatalf("got %s, %v", staged, err)
	}
	if info, err := os.Stat(staged); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("what is staged: %v, %v", info, err)
	}
	a, errA := digest.OfFile(from)
	b, errB := digest.OfFile(staged)
	if a != b || errA != nil || errB != nil {
		t.Errorf("sums %s and %s: %v, %v", a, b, errA, errB)
	}
	if _, err := Stage(filepath.Join(folder, "none"), program); err == nil || !strings.Contains(err.Error(), "read the new program") {
		t.Errorf("without a file: %v", err)
	}
	if _, err := Stage(from, "/proc/labk"); err == nil {
		t.Error("it was staged in /proc")
	}
}

// At no moment there is no program, whatever was left by an upgrade that was cut off.
func TestPutInPlace(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, program string){
		"clean":                       func(*testing.T, string) {},
		"older one kept":              func(t *testing.T, program string) { write(t, paths.Previous(program), []byte("oldest")) },
		"cut off while keeping":       func(t *testing.T, program string) { link(t, program, paths.Previous(program)+".new") },
		"cut off between the renames": func(t *testing.T, program string) { link(t, program, paths.Previous(program)) },
	} {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "labk")
			write(t, program, []byte("old"))
			leave(t, program)
			write(t, paths.Staged(program), []byte("new"))
			if kept, err := putInPlace(paths.Staged(program), program); !kept || err != nil {
				t.Fatal(kept, err)
			}
			has(t, program, "new")
			has(t, paths.Previous(program), "old")
			if left, _ := os.ReadDir(filepath.Dir(program)); len(left) != 2 {
				t.Errorf("left are %v", left)
			}
		})
	}
	t.Run("first", func(t *testing.T) {
		program := filepath.Join(t.TempDir(), "labk")
		write(t, paths.Staged(program), []byte("new"))
		if kept, err := putInPlace(paths.Staged(program), program); kept || err != nil {
			t.Fatal(kept, err)
		}
		has(t, program, "new")
	})
}

// What is asked of OpenRC.
func TestOpenRC(t *testing.T) {
	folder := t.TempDir()
	write(t, filepath.Join(folder, "rc-service"), []byte("#!/bin/sh\necho \"$@\" >>"+folder+"/asked\n[ \"$2\" != stop ] || { echo no such service >&2; exit 1; }\n"))
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	s, err := NewService("openrc", "labk")
	if err != nil {
		t.Fatal(err)
	}
	if !s.Active(t.Context()) {
		t.Error("it is not active")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "no such service") {
		t.Errorf("a failed stop: %v", err)
	}
	has(t, filepath.Join(folder, "asked"), "labk status\nlabk restart\nlabk stop\n")
	if _, err := NewService("runit", "labk"); err == nil {
		t.Error("runit is taken for a manager")
	}
}

func TestManageEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := manage(ctx, "sleep", "1000"); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("got %v", err)
	}
	if _, err := exec.LookPath("sleep"); err != nil {
		t.Error(err)
	}
}

func TestLastSentence(t *testing.T) {
	log := "[  0.1s] labk v1\nlabk: warning: one\nE1122 something\nlabk: start kubelet: no memory: buy some\n[ 3s] stopped\n"
	if got := lastSentence(log); got != "start kubelet: no memory: buy some" {
		t.Errorf("got %q", got)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Link(from, to); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s has %q, %v; want %q", path, got, err, want)
	}
}
