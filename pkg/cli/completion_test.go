package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
)

// asLabk makes the test's program be labk, for the shells below.
const asLabk = "LABK_TEST_AS_LABK"

func TestMain(m *testing.M) {
	if os.Getenv(asLabk) != "" {
		os.Exit(Run(append([]string{"labk"}, os.Args[1:]...), os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestComplete(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	for line, want := range map[string][]string{
		"sta":                       {"status"},
		"token ":                    {"create", "list", "delete"},
		"token cr":                  {"create"},
		"status --da":               {"--data-dir"},
		"status --config x --da":    {"--data-dir"},
		"status -o ":                {"table", "json", "yaml"},
		"status --output j":         {"json"},
		"status --output = j":       {"json"}, // as bash has it
		"status -c ":                nil,      // a file
		"image import ":             nil,
		"completion ":               {"bash", "fish", "zsh"},
		"__":                        nil,
		"nonsense --":               nil,
		"token create --desc":       {"--description"},
		"token create --uses 3 --t": {"--ttl"},
	} {
		var out strings.Builder
		complete(&out, app.Commands, strings.Split(line, " "))
		var got []string
		for l := range strings.Lines(out.String()) {
			word, _, ok := strings.Cut(l, "\t")
			if !ok {
				t.Errorf("%q: a line without a tab: %q", line, l)
			}
			got = append(got, word)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// prompt is what the shells below show when they wait for a line: with the number of calls so far, as a shell may draw its prompt more than once.
func prompt(calls int) string { return fmt.Sprintf("READY%d>", calls) }

// shells are what each reads before it shows its prompt, and how it is started.
var shells = map[string]struct {
	rc    string // file in the home folder
	setup string
	argv  []string
}{
	"bash": {".bashrc", `PS1='READY$(wc -l <calls)>'; bind 'set enable-bracketed-paste off'; eval "$(labk completion bash)"`, []string{"bash", "-i"}},
	"zsh": {".zshrc", `unsetopt prompt_sp; autoload -Uz compinit && compinit -u -D; eval "$(labk completion zsh)"; setopt prompt_subst; PS1='READY$(wc -l <calls)>'`,
		[]string{"zsh", "-i"}},
	"fish": {".config/fish/config.fish", "function fish_prompt; echo -n READY(wc -l <calls)'>'; end\nset -g fish_greeting\nlabk completion fish | source",
		[]string{"fish", "-i"}},
}

// A person types the beginning of a word and the tab key in the real shells.
func TestShells(t *testing.T) {
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(name); err != nil {
				t.Fatalf("%v: scripts/deps.sh --test installs it", err)
			}
			home := t.TempDir()
			calls := filepath.Join(home, "calls")
			program, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			// labk for completions, and for the rest a witness of what the line had become
			write(t, filepath.Join(home, "bin", "labk"), 0o755, fmt.Sprintf(`#!/bin/sh
case $1 in
completion | __complete) %s=1 exec %s "$@" ;;
esac
echo "$*" >>%s
`, asLabk, program, calls))
			write(t, filepath.Join(home, shell.rc), 0o644, shell.setup+"\n")
			write(t, filepath.Join(home, "here.yaml"), 0o644, "")
			write(t, calls, 0o644, "")
			s := startShell(t, home, shell.argv)
			for typed, want := range map[string]string{
				"labk stat\t":            "status",
				"labk image imp\thell":   "image import hell",
				"labk status --data-d\t": "status --data-dir",
				"labk status -o js\t":    "status -o json",
				"labk kubectl versi\t":   "kubectl version", // kubectl's own completion
				"labk status -c here\t":  "status -c here.yaml",
			} {
				s.line(t, typed)
				all, err := os.ReadFile(calls)
				if err != nil {
					t.Fatal(err)
				}
				lines := strings.Split(strings.TrimSpace(string(all)), "\n")
				if got := strings.TrimSpace(lines[len(lines)-1]); got != want {
					t.Errorf("%q became %q, want %q; on the screen:\n%q", typed, got, want, s.shown)
				}
			}
		})
	}
}

func write(t *testing.T, path string, mode os.FileMode, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
		t.Fatal(err)
	}
}

// shell is one on a terminal.
type shell struct {
	terminal console.Console
	text     chan string
	shown    string
	lines    int
}

func startShell(t *testing.T, home string, argv []string) *shell {
	t.Helper()
	terminal, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := terminal.Resize(console.WinSize{Height: 50, Width: 200}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir = tty, tty, tty, home
	cmd.Env = []string{"HOME=" + home, "TERM=xterm", "PATH=" + filepath.Join(home, "bin") + ":/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	s := &shell{terminal: terminal, text: make(chan string, 1000)}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := terminal.Read(buf)
			if err != nil {
				close(s.text)
				return
			}
			s.text <- string(buf[:n])
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		terminal.Close()
	})
	s.wait(t)
	return s
}

// wait reads until the next prompt.
func (s *shell) wait(t *testing.T) {
	t.Helper()
	s.shown = ""
	limit := time.After(time.Minute)
	for !strings.Contains(s.shown, prompt(s.lines)) {
		select {
		case text, ok := <-s.text:
			if !ok {
				t.Fatalf("the shell has ended: %q", s.shown)
			}
			s.shown += text
		case <-limit:
			t.Fatalf("no prompt after a minute: %q", s.shown)
		}
	}
}

// line types the text, a call of labk, and the enter key, and waits until the shell is ready for another line.
func (s *shell) line(t *testing.T, typed string) {
	t.Helper()
	if _, err := io.WriteString(s.terminal, typed+"\r"); err != nil {
		t.Fatal(err)
	}
	s.lines++
	s.wait(t)
}
