package cli

import (
	"strings"
	"testing"
)

// A wrong command line is told from a failure by its code, and the sentence names the command to ask for help.
func TestWrongCommandLine(t *testing.T) {
	for line, help := range map[string]string{
		"nonsense":                   "labk --help",
		"snapshot nonsense":          "labk snapshot --help",
		"token nonsense":             "labk token --help",
		"snapshot list nonsense":     "labk snapshot list --help",
		"snapshot save --nonsense":   "labk snapshot save --help",
		"snapshot restore a -- b":    "labk snapshot restore --help",
		"snapshot restore a b c":     "labk snapshot restore --help",
		"snapshot restore a --x y":   "labk snapshot restore --help",
		"certificate check nonsense": "labk certificate check --help",
	} {
		var out strings.Builder
		code := Run(append([]string{"labk"}, strings.Fields(line)...), &out, &out)
		if code != codeUsage || !strings.Contains(out.String(), "`"+help+"`") {
			t.Errorf("%s: code %d, %s", line, code, out.String())
		}
	}
	for _, line := range []string{"snapshot", "snapshot --help", "token"} {
		var out strings.Builder
		if code := Run(append([]string{"labk"}, strings.Fields(line)...), &out, &out); code != codeDone || !strings.Contains(out.String(), "COMMANDS") {
			t.Errorf("%s: code %d, %s", line, code, out.String())
		}
	}
}
