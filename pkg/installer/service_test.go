package installer

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/labk/labk/pkg/install"
)

func TestSystemdUnits(t *testing.T) {
	m := systemdManager()
	for role, name := range map[string]string{"server": "labk.service", "agent": "labk-agent.service"} {
		if got := m.unit(role); got != name {
			t.Errorf("%s is the unit %s, want %s", role, got, name)
		}
		text, err := m.text(role, "/opt/labk/bin/labk")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"\nExecStart=/opt/labk/bin/labk " + role + "\n", "\nType=notify\n", "\nKillMode=process\n", "\nDelegate=yes\n", "\nRestart=always\n"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %q:\n%s", name, want, text)
			}
		}
		if strings.Contains(string(text), BinDir) {
			t.Errorf("%s still names %s:\n%s", name, BinDir, text)
		}
	}
}

// What OpenRC is told is what a shell makes of the script, as openrc-run is one.
func TestOpenRCScripts(t *testing.T) {
	m := openRCManager()
	for role, name := range map[string]string{"server": "labk", "agent": "labk-agent"} {
		text, err := m.text(role, "/opt/labk/bin/labk")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "#!/sbin/openrc-run\n") || m.unit(role) != name || m.mode&0o111 == 0 {
			t.Errorf("%s is no script of OpenRC:\n%s", m.unit(role), text)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, text, 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "sh", "-euc", `need() { echo "need $*"; }; want() { :; }; after() { :; }
			. "$1"; echo "$supervisor|$command|$command_args|$retry|$respawn_max|$rc_cgroup_cleanup"; depend`, "sh", path).CombinedOutput()
		want := "supervise-daemon|/opt/labk/bin/labk|" + role + "|TERM/30|0|NO\nneed localmount cgroups\n"
		if err != nil || string(out) != want {
			t.Errorf("%s says %q, %v; want %q", name, out, err, want)
		}
	}
}

// Both managers have a unit for both roles, and no file that nobody installs.
func TestEveryUnitIsSomebodys(t *testing.T) {
	for _, m := range []manager{systemdManager(), openRCManager()} {
		entries, err := fs.ReadDir(m.files, ".")
		if err != nil || len(entries) != 2 {
			t.Errorf("%s has %v, %v", m.name, entries, err)
		}
	}
}

func TestWrote(t *testing.T) {
	const path = "/etc/systemd/system/labk.service"
	before := &install.Record{Service: &install.Service{Files: []install.File{{Path: path, SHA256: "11"}}}}
	for name, tc := range map[string]struct {
		before *install.Record
		sum    string
		want   bool
	}{
		"as it was written":      {before, "11", true},
		"changed by hand":        {before, "22", false},
		"never installed":        {nil, "11", false},
		"installed without unit": {&install.Record{}, "11", false},
	} {
		if got := (&installation{before: tc.before}).wrote(path, tc.sum); got != tc.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
