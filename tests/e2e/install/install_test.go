// Package install installs labk as a person does, with install.sh, on PCs with systemd: from a file, from a checkout and from the server; again over what is there; and with input that is
// bad, after which the labk of before runs on.
package install

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	labkinstall "github.com/labk/labk/pkg/install"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// script is where the tests have install.sh: alone, as after a download.
const script = "/root/install.sh"

// putScript brings install.sh onto the node's host.
func putScript(t *testing.T, n *cluster.Node) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cluster.Root(t), "install.sh"))
	if err != nil {
		t.Fatal(err)
	}
	n.WriteFile(t, script, string(text))
}

// install runs install.sh with variables and arguments, and returns how long it took.
func install(t *testing.T, n *cluster.Node, variables string, args ...string) (cluster.Result, time.Duration) {
	t.Helper()
	began := time.Now()
	r := n.Exec(t, nil, "sh", "-c", fmt.Sprintf("%s sh %s %s", variables, script, strings.Join(args, " ")))
	took := time.Since(began)
	t.Logf("install.sh on %s: %.1f s, code %d\n%s%s", n.Host.Name(), took.Seconds(), r.Code, r.Stdout, r.Stderr)
	return r, took
}

// installed is install that must succeed.
func installed(t *testing.T, n *cluster.Node, variables string, args ...string) time.Duration {
	t.Helper()
	r, took := install(t, n, variables, args...)
	if r.Code != 0 {
		t.Fatalf("install.sh fails; the journal:\n%s", n.Journal(t))
	}
	return took
}

// fromFile takes the program that is tested.
func fromFile(n *cluster.Node) string { return "LABK_BINARY=" + n.Program() }

// mainPID is the process of the node's labk.
func mainPID(t *testing.T, n *cluster.Node) string {
	t.Helper()
	return n.Systemctl(t, "show", "-P", "MainPID", n.Unit())
}

// record is what the installation noted.
func record(t *testing.T, n *cluster.Node) (r labkinstall.Record) {
	t.Helper()
	if err := json.Unmarshal([]byte(n.ReadFile(t, paths.InstallRecord)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// A server from a file: it is a service that is there again after a reboot, and running the script again changes nothing that runs.
func TestFromFile(t *testing.T) {
	c := cluster.Hosts(t, 1)
	n := c.Server
	putScript(t, n)
	installed(t, n, fromFile(n), "server", "--node-label", "room=204")
	n.WaitActive(t)
	if out := c.Kubectl(t, "get", "nodes", "-L", "room", "--no-headers"); !strings.Contains(out, " Ready ") || !strings.Contains(out, " 204") {
		t.Errorf("the node is %s", out)
	}
	if out := n.Sh(t, "systemctl is-enabled labk; kubectl get nodes -o name; ls -A /usr/local/bin | tr '\n' ' '; stat -c '%a %U %n' /usr/local/bin/labk /etc/labk/*"); out !=
		"enabled\nnode/"+n.Host.Name()+"\nctr kubectl labk 755 root /usr/local/bin/labk\n600 root /etc/labk/config.yaml\n600 root /etc/labk/install.json\n600 root /etc/labk/kubeconfig.yaml" {
		t.Errorf("it is installed as\n%s", out)
	}
	if r := record(t, n); r.Role != "server" || r.Program != "/usr/local/bin/labk" || len(r.Links) != 2 || !slices.Equal(r.Config, []string{paths.ConfigFile}) ||
		r.Service == nil || r.Service.Name != "labk.service" || len(r.Service.Files) != 1 || len(r.Firewall) != 0 {
		t.Errorf("it is noted as %+v", r)
	}
	n.Reboot(t)
	n.WaitActive(t)
	c.Kubectl(t, "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")

	t.Run("again", func(t *testing.T) {
		pid, before := mainPID(t, n), n.Inventory(t, folders()...)
		installed(t, n, fromFile(n))
		installed(t, n, "INSTALL_LABK_SKIP_DOWNLOAD=true")
		n.Sh(t, "mkdir -p /root/release/download/v1.37.1+labk1 && cd /root/release/download/v1.37.1+labk1 && ln -s "+n.Program()+" labk && sha256sum labk >labk.sha256")
		installed(t, n, "INSTALL_LABK_RELEASE_URL=file:///root/release INSTALL_LABK_VERSION=v1.37.1+labk1")
		n.Unchanged(t, before, folders()...)
		if now := mainPID(t, n); now != pid {
			t.Errorf("labk was restarted: process %s, now %s", pid, now)
		}
	})
	t.Run("another configuration", func(t *testing.T) { testConfiguration(t, c) })
	t.Run("unit changed by hand", func(t *testing.T) { testOwnUnit(t, c) })
}

// folders are those that an installation writes into.
func folders() []string { return []string{"/usr/local", "/etc/labk", "/etc/systemd/system"} }

func testConfiguration(t *testing.T, c *cluster.Cluster) {
	n := c.Server
	n.WriteFile(t, paths.ConfigFile, "# the lab's first PC\n"+n.ReadFile(t, paths.ConfigFile))
	pid := mainPID(t, n)
	installed(t, n, "INSTALL_LABK_EXEC='server --tls-san first-pc' "+fromFile(n), "--tls-san", "first")
	if text := n.ReadFile(t, paths.ConfigFile); text != "# the lab's first PC\nnode-label:\n  - room=204\ntls-san:\n  - first-pc\n  - first\n" {
		t.Errorf("the configuration is now\n%s", text)
	}
	if now := mainPID(t, n); now == pid {
		t.Error("labk was not restarted for it")
	}
	// One that the server does not come up with is taken back.
	before := n.Inventory(t, folders()...)
	r, _ := install(t, n, fromFile(n), "server", "--kube-apiserver-arg", "no-such-flag=1")
	if r.Code != 1 || !strings.Contains(r.Stderr, "no-such-flag") || !strings.Contains(r.Stderr, "runs again") {
		t.Errorf("a configuration that does not work: code %d\n%s", r.Code, r.Stderr)
	}
	n.Unchanged(t, before, folders()...)
	n.WaitActive(t)
	c.Kubectl(t, "get", "nodes")
}

func testOwnUnit(t *testing.T, c *cluster.Cluster) {
	n := c.Server
	const unit = "/etc/systemd/system/labk.service"
	mine := strings.Replace(n.ReadFile(t, unit), "[Service]\n", "[Service]\nNice=-5\n", 1)
	n.WriteFile(t, unit, mine)
	r, _ := install(t, n, fromFile(n), "server", "--tls-san", "second")
	if r.Code != 0 || !strings.Contains(r.Stderr, unit+" was changed by hand and is kept") {
		t.Errorf("code %d, and no warning:\n%s", r.Code, r.Stderr)
	}
	if n.ReadFile(t, unit) != mine {
		t.Error("it was overwritten")
	}
	if noted := record(t, n).Service.Files[0].SHA256; noted == fmt.Sprintf("%x", sha256.Sum256([]byte(mine))) {
		t.Error("it is noted as labk's own: an uninstallation would not see that it was changed")
	}
}

// A newer program by running the script again: pods go on, and the API is away for a moment only.
func TestUpgradeByRunningAgain(t *testing.T) {
	next := "/opt/labk/" + filepath.Base(cluster.NextBinary(t))
	c := cluster.Hosts(t, 1)
	n := c.Server
	putScript(t, n)
	installed(t, n, fromFile(n))
	pods := func() string {
		return c.Kubectl(t, "get", "pods", "-A", "-o", `jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{"\n"}{end}`)
	}
	c.Kubectl(t, "wait", "--for=condition=Ready", "pod", "--all", "-A", "--timeout=60s")
	before := pods()
	away := watchAPI(t, c)
	upgradedUnseen(t, n, next)
	t.Logf("the API did not answer for %.1f s", away().Seconds())
	if out := n.Sh(t, "labk version"); !strings.Contains(out, "+labk2 ") {
		t.Errorf("the version is %s", out)
	}
	if after := pods(); after != before {
		t.Errorf("pods were\n%sand are\n%s", before, after)
	}
	if r, _ := install(t, n, fromFile(n)); r.Code == 0 || !strings.Contains(r.Stderr, "older") {
		t.Errorf("the program before is not refused: code %d", r.Code)
	}
	if out := n.Sh(t, "labk version; ls -A /usr/local/bin | tr '\n' ' '"); !strings.Contains(out, "+labk2 ") || !strings.HasSuffix(out, "\n.labk.previous ctr kubectl labk") {
		t.Errorf("then there is %s", out)
	}
}

// upgradedUnseen runs install.sh in a session whose terminal goes while labk is being replaced.
func upgradedUnseen(t *testing.T, n *cluster.Node, program string) {
	t.Helper()
	r := n.Exec(t, nil, "sh", "-c", `LABK_BINARY=`+program+` setsid sh `+script+` >/root/said 2>&1 & pid=$!
		until grep -q restarting /root/said; do kill -0 $pid || exit 99; done
		kill -HUP -$pid; wait $pid; code=$?; cat /root/said; exit $code`)
	t.Logf("install.sh: code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	if r.Code != 0 {
		t.Fatalf("install.sh fails; the journal:\n%s", n.Journal(t))
	}
}

// watchAPI asks the API again and again until the function that it returns is called; that tells the longest time between two answers.
func watchAPI(t *testing.T, c *cluster.Cluster) (away func() time.Duration) {
	t.Helper()
	cfg := c.Config(t)
	cfg.Timeout = time.Second
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	longest := make(chan time.Duration)
	go func() {
		var longestYet time.Duration
		last := time.Now()
		for ctx.Err() == nil {
			if _, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err == nil {
				longestYet, last = max(longestYet, time.Since(last)), time.Now()
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		longest <- longestYet
	}()
	return func() time.Duration { cancel(); return <-longest }
}

// A checkout has the script beside the program that it builds. (Without Go, as here, it takes what is built.) The data folder of this PC is named where only the unit looks.
func TestFromCheckout(t *testing.T) {
	c := cluster.Hosts(t, 1)
	n := c.Server
	n.Sh(t, "mkdir -p /home/me/labk/cmd/labk /home/me/labk/dist && touch /home/me/labk/cmd/labk/main.go && cp "+n.Program()+" /home/me/labk/dist/labk")
	text, err := os.ReadFile(filepath.Join(cluster.Root(t), "install.sh"))
	if err != nil {
		t.Fatal(err)
	}
	n.WriteFile(t, "/home/me/labk/install.sh", string(text))
	n.WriteFile(t, "/etc/default/labk", "LABK_DATA_DIR=/var/lib/labk/mine\n")
	r := n.Exec(t, nil, "sh", "-c", "INSTALL_LABK_SKIP_START=true sh /home/me/labk/install.sh server && systemctl is-enabled labk && ! systemctl is-active labk && systemctl start labk")
	if r.Code != 0 || r.Stdout != "enabled\ninactive\n" {
		t.Fatalf("code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	c.Kubectl(t, "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
	t.Run("newer, while it is stopped", func(t *testing.T) { testStopped(t, c) })
}

// A newer program over a labk that is stopped is an upgrade, too: there is a copy of the datastore to go back to.
func testStopped(t *testing.T, c *cluster.Cluster) {
	const copies = "ls /var/lib/labk/mine/server/db | grep ^before- || true"
	n := c.Server
	n.Systemctl(t, "stop", "labk")
	putScript(t, n)
	next := "LABK_BINARY=/opt/labk/" + filepath.Base(cluster.NextBinary(t))
	if out := n.Sh(t, copies); out != "" {
		t.Fatalf("there are copies already: %s", out)
	}
	installed(t, n, next+" INSTALL_LABK_SKIP_START=true")
	if out := n.Sh(t, copies+"; labk version; systemctl is-active labk || true"); !strings.HasPrefix(out, "before-") || !strings.Contains(out, "+labk2 ") || !strings.HasSuffix(out, "\ninactive") {
		t.Errorf("then there is\n%s", out)
	}
	n.Sh(t, "mv -f /usr/local/bin/.labk.previous /usr/local/bin/labk && rm /var/lib/labk/mine/server/db/before-*")
	installed(t, n, next)
	if out := n.Sh(t, copies+"; labk version"); !strings.HasPrefix(out, "before-") || !strings.Contains(out, "+labk2 ") {
		t.Errorf("then there is\n%s", out)
	}
	c.Kubectl(t, "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
	n.Systemctl(t, "stop", "labk")
	if r, _ := install(t, n, fromFile(n)); r.Code == 0 || !strings.Contains(r.Stderr, "older") {
		t.Errorf("the program before is not refused: code %d", r.Code)
	}
}
