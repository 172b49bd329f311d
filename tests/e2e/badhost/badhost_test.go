// Package badhost starts the real labk with bad input and on bad machines: it must say in one clear sentence what is wrong and what to
// do, end with the right exit code, and leave everything as it was.
//
// A kernel without overlayfs or nf_tables and a machine without the memory cgroup cannot be made in a lab host, which has the
// machine's kernel: the unit tests of pkg/health cover them.
package badhost

import (
	"maps"
	"slices"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// Exit codes.
const (
	failed = 1 // at run time, or the machine is not fit
	usage  = 2 // the command line or the configuration is wrong
)

// kept are the folders that a failed start must not change.
var kept = []string{"/var/lib", "/etc/labk", "/etc/cni", "/run/labk"}

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
	// began is set where only a start finds out: it leaves word of itself first, for `labk status`.
	began bool
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
	before := c.Server.Inventory(t, kept...)
	argv := slices.Clone(m.argv)
	if i := slices.Index(argv, "labk"); i >= 0 {
		argv[i] = c.Program()
	}
	run(argv)
	if m.began {
		maps.Copy(before, c.Server.Inventory(t, data.LastRun()))
	}
	c.Server.Unchanged(t, before, kept...)
}

// try looks at the answer, too.
func (m mistake) try(t *testing.T, c *cluster.Cluster) {
	m.with(t, c, func(argv []string) { c.Exec(t, nil, argv...).Refused(t, m.code, m.want...) })
}
