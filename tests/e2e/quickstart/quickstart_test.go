// Package quickstart follows docs/quickstart.md word by word, on two PCs that know nothing of labk.
package quickstart

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// step is a block of commands of the page. Its fence says where a reader types them ("sh pc1"): blocks without a PC are no part of the way.
type step struct {
	pc, mark, script string
	line             int
}

func steps(t *testing.T, page string) (all []step) {
	t.Helper()
	var open *step
	for i, line := range strings.Split(page, "\n") {
		switch words := strings.Fields(line); {
		case open == nil && strings.HasPrefix(line, "```"):
			open = &step{line: i + 1}
			if len(words) > 1 {
				open.pc = words[1]
			}
			if len(words) > 2 {
				open.mark = words[2]
			}
		case line == "```":
			if open.pc != "" {
				all = append(all, *open)
			}
			open = nil
		case open != nil:
			open.script += line + "\n"
		}
	}
	if len(all) < 10 {
		t.Fatalf("the page has only %d steps", len(all))
	}
	return all
}

func TestQuickstart(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(cluster.Root(t), "docs", "quickstart.md"))
	if err != nil {
		t.Fatal(err)
	}
	installer, err := os.ReadFile(filepath.Join(cluster.Root(t), "install.sh"))
	if err != nil {
		t.Fatal(err)
	}
	c := cluster.Start(t, cluster.Options{
		Hosts: 2, Root: cluster.PlainRoot(t), Systemd: true, DontStart: true, Each: map[int]lab.HostOptions{1: {Name: "pc1"}, 2: {Name: "pc2"}},
	})
	pcs := map[string]*cluster.Node{"pc1": c.Server, "pc2": c.Agent(t, 2, nil)}
	// The folder that the first step speaks of.
	const stick = "/root/stick"
	pcs["pc1"].WriteFile(t, stick+"/install.sh", string(installer))
	pcs["pc1"].Sh(t, "cp "+pcs["pc1"].Program()+" "+stick+"/labk; mkdir -p "+stick)

	var line string
	for _, s := range steps(t, string(page)) {
		script := s.script
		if s.mark == "pasted" {
			if script = line; strings.Count(line, "\n") != 0 || line == "" {
				t.Fatalf("to be pasted is one line, not %q", line)
			}
		}
		pc := pcs[s.pc]
		if pc == nil {
			t.Fatalf("docs/quickstart.md:%d: there is no PC %q", s.line, s.pc)
		}
		folder := "/root"
		if s.pc == "pc1" {
			folder = stick
		}
		r := pc.Exec(t, nil, "bash", "-ec", "cd "+folder+"\n"+script)
		t.Logf("docs/quickstart.md:%d, on %s:\n%s%s%s", s.line, s.pc, script, r.Stdout, r.Stderr)
		if r.Err != nil {
			t.Fatalf("docs/quickstart.md:%d: %v\n%s", s.line, r.Err, pc.Journal(t))
		}
		if s.mark == "join" {
			line = strings.TrimSpace(r.Stdout)
		}
	}
	if out := pcs["pc1"].Sh(t, "kubectl get nodes -o name"); out != "node/pc1" {
		t.Errorf("at the end of the page the cluster's nodes are %q", out)
	}
	if out := pcs["pc2"].Sh(t, "ls -d /var/lib/labk /etc/labk /usr/local/bin/labk 2>/dev/null || true"); out != "" {
		t.Errorf("at the end of the page the second PC has %s", out)
	}
}
