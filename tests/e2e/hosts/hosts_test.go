// Package hosts tries the PCs that other scenarios install labk on: lab hosts over a root file system of their own, with systemd as pid 1.
package hosts

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// Two PCs with disks and a systemd of their own. What is written stays there, over an orderly reboot and over a power cut.
func TestSystemdHosts(t *testing.T) {
	root := cluster.PlainRoot(t)
	c := cluster.HostsOver(t, 2, root)
	n, other := c.Server, c.Agents[0]
	if out := n.Sh(t, "cat /proc/1/comm; systemctl is-system-running --wait; hostname; ls /opt/labk/labk"); out != "systemd\nrunning\n"+n.Host.Name()+"\n/opt/labk/labk" {
		t.Errorf("the host says %q\n%s", out, n.Exec(t, nil, "systemctl", "--failed").Stdout)
	}
	if r := n.Exec(t, nil, "sh", "-c", "command -v labk"); r.Code == 0 {
		t.Errorf("labk is in PATH before it is installed: %s", r.Stdout)
	}
	if out := n.Sh(t, "bash -c 'exec 3<>/dev/tcp/"+other.Host.Addr().String()+"/1' 2>&1 || true"); !strings.Contains(out, "refused") {
		t.Errorf("the other host does not answer: %s", out)
	}
	n.WriteFile(t, "/etc/systemd/system/note.service", `[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh -c "echo started >>/usr/local/lib/notes"
ExecStop=sh -c "echo stopped >>/usr/local/lib/notes"
[Install]
WantedBy=multi-user.target
`)
	marks := []string{"/etc/mark", "/usr/local/bin/mark", "/usr/lib/mark", "/home/mark", "/var/lib/mark", "/var/log/mark", "/var/spool/mark", "/opt/mark", "/root/mark", "/srv/mark", "/mark"}
	n.Sh(t, "for f in "+strings.Join(marks, " ")+"; do echo mark >$f || exit 1; done; systemctl daemon-reload; systemctl enable --now note.service; touch /run/mark")
	n.Reboot(t)
	cluster.Eventually(t, cluster.Limit, "the service starts again", func() error {
		return n.Exec(t, nil, "systemctl", "is-active", "note.service").Err
	})
	power(t, n.Host.Kill)
	power(t, n.Host.Boot)
	cluster.Eventually(t, cluster.Limit, "the service starts again", func() error {
		return n.Exec(t, nil, "systemctl", "is-active", "note.service").Err
	})
	if out := n.Sh(t, "cat /usr/local/lib/notes | tr '\\n' ' '; cat "+strings.Join(marks, " ")+" | sort | uniq -c; ls /run/mark 2>&1 || true"); !strings.HasPrefix(out, "started stopped started started") ||
		!strings.Contains(out, "11 mark") || !strings.Contains(out, "cannot access") {
		t.Errorf("after a reboot and a power cut: %s", out)
	}
	for _, file := range marks {
		if _, err := os.Lstat(filepath.Join(root, file)); err == nil {
			t.Errorf("%s is in the root that all hosts share", file)
		}
		if r := other.Exec(t, nil, "cat", file); r.Code == 0 {
			t.Errorf("%s is on the other host", file)
		}
	}
	power(t, other.Host.Shutdown)
	if other.Host.Running() || !n.Host.Running() {
		t.Error("not exactly the other host is off")
	}
	// containerd's store needs a file system that is no overlay
	n.Sh(t, "cd /var/lib && mkdir -p o/l o/u o/w o/m && mount -t overlay overlay -o lowerdir=o/l,upperdir=o/u,workdir=o/w o/m && umount o/m")
}

// labk under systemd is up when `systemctl start` returns, and again after a reboot.
func TestSystemdRunsLabk(t *testing.T) {
	c := cluster.Hosts(t, 2)
	c.Server.InstallByHand(t)
	c.Agents[0].InstallByHand(t, c.JoinArgs(t)...)
	ready := func() {
		t.Helper()
		c.Server.WaitActive(t)
		c.Agents[0].WaitActive(t)
		c.Kubectl(t, "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
		if out := c.Kubectl(t, "get", "nodes", "-o", "name"); strings.Count(out, "node/") != 2 {
			t.Errorf("nodes: %s", out)
		}
	}
	ready()
	c.Server.Reboot(t)
	c.Agents[0].Reboot(t)
	ready()
}

func power(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatal(err)
	}
}
