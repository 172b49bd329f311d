package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

const docsFile = "../../docs/configuration.md"

const docsHead = `# Configuration

English · [한국어](ko/configuration.md)

Every option can stand in four places; a later one wins: built-in default, ` + "`/etc/labk/config.yaml`" + ` and then
` + "`/etc/labk/config.yaml.d/*.yaml`" + ` in the order of their names (another file: ` + "`--config`" + `), environment, command line.

In a file an option is a key with the flag's name, a list is a YAML list:

` + "```yaml" + `
node-name: pc1
tls-san: [cluster.lab.example, 192.168.1.10]
kubelet-arg:
- max-pods=50
` + "```" + `

[examples/config.yaml](../examples/config.yaml) has every key, explained and switched off.

In the environment and on the command line lists are separated by commas or given several times; those that end in -arg only the latter. An unknown key, a value of the wrong type
or an unknown flag ends labk with exit code 2 before anything is changed.

<!-- Made from the comments in pkg/config/config.go: go test ./pkg/config -run TestDocs -update -->

| option | environment | for | default | |
| --- | --- | --- | --- | --- |
`

func docs() string {
	var b strings.Builder
	b.WriteString(docsHead)
	for _, o := range Options() {
		role := o.Role
		if role == "" {
			role = "both"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", o.Name, o.Env(), role, o.Default, o.Usage)
	}
	return b.String()
}

// TestDocs fails when the documentation and the options differ.
func TestDocs(t *testing.T) {
	if *update {
		if err := os.WriteFile(docsFile, []byte(docs()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(docsFile)
	if err != nil || string(data) != docs() {
		t.Errorf("%s is not what the comments in config.go say (%v): run this test with -update", docsFile, err)
	}
}

// The Korean page has a row for each option and for nothing else, with the same variable, role and default.
func TestKoreanDocs(t *testing.T) {
	const path = "../../docs/ko/configuration.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		if name, _, row := strings.Cut(strings.TrimPrefix(line, "| `"), "` | "); row && strings.HasPrefix(line, "| `") {
			rows[name] = line
		}
	}
	roles := map[string]string{"": "모두", "server": "서버", "agent": "에이전트"}
	for _, o := range Options() {
		start := fmt.Sprintf("| `%s` | `%s` | %s | %s | ", o.Name, o.Env(), roles[o.Role], o.Default)
		if usage, ok := strings.CutPrefix(rows[o.Name], start); !ok || strings.Trim(usage, " |") == "" {
			t.Errorf("%s has no row that begins with %q and goes on: %q", path, start, rows[o.Name])
		}
		delete(rows, o.Name)
	}
	for name := range rows {
		t.Errorf("%s has a row for %s, which is no option", path, name)
	}
}
