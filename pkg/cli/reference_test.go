package cli

import (
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "write docs/commands.md anew")

// TestCommandsDoc fails when docs/commands.md and the commands differ.
func TestCommandsDoc(t *testing.T) {
	const path = "../../docs/commands.md"
	want := markdown(newApp(io.Discard, io.Discard))
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what the commands say (%v): go test ./pkg/cli -run TestCommandsDoc -update", path, err)
	}
}

// Every command and flag says what it is for, in the form that the manual and the help want.
func TestEverythingIsDescribed(t *testing.T) {
	all := describe("labk", newApp(io.Discard, io.Discard).Commands)
	if len(all) < 20 {
		t.Errorf("only %d commands", len(all))
	}
	for _, d := range all {
		if d.Usage == "" || strings.HasSuffix(d.Usage, ".") || strings.Contains(d.Usage, "|\n") {
			t.Errorf("%s: its usage is %q: want a sentence without the stop", d.path, d.Usage)
		}
		for _, f := range d.flags {
			if f.usage == "" || strings.Contains(f.usage, "\n") {
				t.Errorf("%s %s: its usage is %q", d.path, f.names[0], f.usage)
			}
		}
	}
}

// mention is a call of labk in a document: a span of code, or a line of a block of code.
type mention struct{ file, text string }

var codeSpan = regexp.MustCompile("`([^`\n]+)`")

// mentions finds all calls of labk in the project's documents.
func mentions(t *testing.T) (all []mention) {
	t.Helper()
	var files []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		block := false
		for line := range strings.Lines(string(data)) {
			switch {
			case strings.HasPrefix(strings.TrimSpace(line), "```"):
				block = !block
			case block || strings.HasPrefix(line, "    "):
				all = append(all, mention{file, line})
			default:
				for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
					all = append(all, mention{file, m[1]})
				}
			}
		}
	}
	return all
}

// callOfLabk is where a line of shell begins a command, and that is labk.
var callOfLabk = regexp.MustCompile(`(?:^\s*|[;|&] *|\$\(|\b(?:sudo|do|then) |@\S+ )(?:[\w./~-]*/)?labk ([^|;&#)<>]*)`)

// A flag or command that a document tells people to use is one that there is.
func TestDocsNameOnlyWhatThereIs(t *testing.T) {
	commands := newApp(io.Discard, io.Discard).Commands
	checked := 0
	for _, m := range mentions(t) {
		code, _, _ := strings.Cut(m.text, " #")
		for _, call := range callOfLabk.FindAllStringSubmatch(code, -1) {
			checked++
			if problem := wrongCall(commands, strings.Fields(call[1])); problem != "" {
				t.Errorf("%s: %q: %s", m.file, strings.TrimSpace(m.text), problem)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d calls of labk found in the documents", checked)
	}
}

// wrongCall says what is wrong with the words after labk; empty if nothing.
func wrongCall(commands []*cli.Command, words []string) string {
	var flags []cli.Flag
	path := "labk"
	for n, word := range words {
		word = strings.Trim(word, "[]\"',.:")
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) })
		switch {
		case strings.HasPrefix(word, "--"):
			if name := strings.TrimPrefix(word, "--"); name != "help" && strings.ToUpper(name) != name && flagOf(flags, word) == nil {
				return path + " has no flag " + word
			}
		case i >= 0 && commands[i].SkipFlagParsing:
			return ""
		case i >= 0:
			path += " " + word
			commands, flags = commands[i].Subcommands, commands[i].Flags
		case n == 0 && regexp.MustCompile(`^[a-z-]+$`).MatchString(word):
			return "there is no command " + word
		}
		if word == "exec" || word == "--" {
			return "" // the rest is another program's
		}
	}
	return ""
}

func TestWrongCalls(t *testing.T) {
	commands := newApp(io.Discard, io.Discard).Commands
	for call, want := range map[string]string{
		"server --data-dir /x":              "",
		"server --date-dir /x":              "labk server has no flag --date-dir",
		"servant":                           "there is no command servant",
		"token create --ttl=1h":             "",
		"token create --agents 2":           "labk token create has no flag --agents",
		"kubectl get pods --all-namespaces": "",
		"lab exec agent1 -- ls --all":       "",
		"COMMAND --help":                    "",
	} {
		if got := wrongCall(commands, strings.Fields(call)); got != want {
			t.Errorf("%s: got %q, want %q", call, got, want)
		}
	}
}

func TestPlaceholder(t *testing.T) {
	for usage, want := range map[string][2]string{
		"Configuration `FILE`.":          {"FILE", "Configuration FILE."},
		"No value.":                      {"", "No value."},
		"What `labk token` printed.":     {"", "What `labk token` printed."},
		"`N` hosts, or `M`, as you like": {"N", "N hosts, or `M`, as you like"},
	} {
		if word, text := placeholder(usage); word != want[0] || text != want[1] {
			t.Errorf("%q: got %q, %q", usage, word, text)
		}
	}
}

// The real formatter of manual pages has nothing to say against ours, and shows every command.
func TestMan(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	path := filepath.Join(t.TempDir(), "labk.1")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := man(file, app); err != nil {
		t.Fatal(err)
	}
	file.Close()
	cmd := exec.Command("man", "--warnings=w", "-l", path)
	cmd.Env = append(os.Environ(), "MANWIDTH=200", "LC_ALL=C.UTF-8", "MANPAGER=cat", "PAGER=cat")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil || complaints.Len() > 0 {
		t.Fatalf("man: %v: %s (scripts/deps.sh --test installs it)", err, complaints.String())
	}
	text := strings.Join(strings.Fields(string(out)), " ")
	for _, d := range describe("labk", app.Commands) {
		if !strings.Contains(text, d.synopsis()) {
			t.Errorf("%q is not in the page", d.synopsis())
		}
	}
	for _, want := range []string{"--tls-san", "--output, -o FORMAT", "[$LABK_DATA_DIR]", "EXIT STATUS", "/run/labk/control.sock"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the page", want)
		}
	}
}

func TestRoff(t *testing.T) {
	for text, want := range map[string]string{".x": `\&.x`, "'x": `\&'x`, `a\b`: `a\eb`, "--x": `\-\-x`} {
		if got := roff(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
