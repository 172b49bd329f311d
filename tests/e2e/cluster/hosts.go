package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/tests/images"
)

// rootTimeout bounds the making of a root file system, with all downloads.
const rootTimeout = 15 * time.Minute

// PlainRoot is a root file system with systemd and all that labk needs.
func PlainRoot(t testing.TB) string {
	t.Helper()
	return HostRoot(t, images.PlainHost()...)
}

// BareRoot is PlainRoot without nft and iptables.
func BareRoot(t testing.TB) string {
	t.Helper()
	return HostRoot(t, images.BareHost()...)
}

// HostRoot is a Debian root file system with these packages.
func HostRoot(t testing.TB, packages ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rootTimeout)
	defer cancel()
	root, err := images.HostRoot(ctx, os.Getenv("LABK_TEST_CACHE"), packages...)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// Hosts brings up n hosts over PlainRoot with systemd as pid 1, as PCs are before labk comes. The tested program's folder is at lab.OptDir, and not in PATH; the server
// is thought to be in host 1, and nodes 2 to n are c.Agents. Everything is taken down at the end of t.
func Hosts(t testing.TB, n int) *Cluster {
	t.Helper()
	return HostsOver(t, n, PlainRoot(t))
}

// HostsOver is Hosts over another root, which must have systemd.
func HostsOver(t testing.TB, n int, root string) *Cluster {
	t.Helper()
	c := Start(t, Options{Hosts: n, Root: root, Systemd: true, DontStart: true})
	for i := 2; i <= n; i++ {
		c.Agent(t, i, nil)
	}
	return c
}

// Nodes are the server and the agents.
func (c *Cluster) Nodes() []*Node { return c.nodes() }

// Unit is the node's unit file.
func (n *Node) Unit() string {
	if n.Role == AgentRole {
		return "labk-agent.service"
	}
	return "labk.service"
}

// InstallByHand does what a person without an installer would: program and unit into their places, the arguments into the unit's environment,
// then `systemctl enable --now`. It returns when systemd says that the node is ready.
func (n *Node) InstallByHand(t testing.TB, args ...string) {
	t.Helper()
	unit := n.Unit()
	text, err := os.ReadFile(filepath.Join(Root(t), "package", "systemd", unit))
	if err != nil {
		t.Fatal(err)
	}
	line := "ExecStart=/usr/local/bin/labk " + string(n.Role)
	if !strings.Contains(string(text), line+"\n") {
		t.Fatalf("%s has no line %q", unit, line)
	}
	n.WriteFile(t, "/etc/systemd/system/"+unit, strings.ReplaceAll(string(text), line, line+" "+strings.Join(args, " ")))
	n.Sh(t, "install -m 755 "+n.Program()+" /usr/local/bin/labk && systemctl daemon-reload")
	n.Systemctl(t, "enable", "--now", unit)
}

// Systemctl runs systemctl in the node's host and returns what it prints; the test fails when it fails.
func (n *Node) Systemctl(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Startup)
	defer cancel()
	r := runIn(t, n.Host.Command(ctx, append([]string{"systemctl"}, args...)...), nil)
	if r.Err != nil {
		t.Fatalf("%v\n%s", r.Err, n.Journal(t))
	}
	return strings.TrimSpace(r.Stdout)
}

// WaitActive waits until systemd says that the node's labk is ready, such as after a boot.
func (n *Node) WaitActive(t testing.TB) {
	t.Helper()
	Eventually(t, Startup, n.Unit()+" of "+n.Host.Name(), func() error {
		state := strings.TrimSpace(n.Exec(t, nil, "systemctl", "is-active", n.Unit()).Stdout)
		if state == "failed" {
			t.Fatalf("%s of %s has failed:\n%s", n.Unit(), n.Host.Name(), n.Journal(t))
		}
		if state != "active" {
			return fmt.Errorf("it is %s:\n%s", state, n.Journal(t))
		}
		return nil
	})
}

// Journal is the end of what labk has written to the journal.
func (n *Node) Journal(t testing.TB) string {
	t.Helper()
	return n.Exec(t, nil, "journalctl", "-u", n.Unit(), "--no-pager", "-o", "cat", "-n", "40").Stdout
}

// Reboot lets the node's systemd stop all services, and boots the host again; labk may still be starting then.
func (n *Node) Reboot(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Startup)
	defer cancel()
	if err := n.Host.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
}
