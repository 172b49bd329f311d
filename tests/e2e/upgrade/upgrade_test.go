// Package upgrade replaces the labk of PCs that run pods, by good programs and by bad ones.
package upgrade

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

const (
	installed = "/usr/local/bin/labk"
	previous  = "/usr/local/bin/.labk.previous"
)

// world is a cluster of PCs on which labk is installed.
type world struct {
	*cluster.Cluster
	now, next string // versions
	nextFile  string // the newer program, in every host
}

// start installs labk on a server and agents; the newer program is there, too.
func start(t *testing.T, agents int) *world {
	t.Helper()
	next := cluster.NextBinary(t)
	w := &world{Cluster: cluster.Hosts(t, 1+agents), now: versionOf(t, cluster.Binary(t)), next: versionOf(t, next)}
	w.nextFile = filepath.Join(lab.OptDir, filepath.Base(next))
	install(t, w.Server)
	for _, a := range w.Agents {
		install(t, a, w.JoinArgs(t)...)
	}
	return w
}

func install(t *testing.T, n *cluster.Node, args ...string) {
	t.Helper()
	if r := n.Exec(t, nil, append([]string{n.Program(), "install", string(n.Role)}, args...)...); r.Err != nil {
		t.Fatalf("%v\n%s", r.Err, n.Journal(t))
	}
}

func versionOf(t *testing.T, program string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, "version", "-o", "json").Output()
	var says struct{ Version string }
	if err == nil {
		err = json.Unmarshal(out, &says)
	}
	if err != nil {
		t.Fatalf("%s version: %v", program, err)
	}
	return says.Version
}

// upgrade runs `labk upgrade`.
func upgrade(t *testing.T, n *cluster.Node, args ...string) cluster.Result {
	t.Helper()
	began := time.Now()
	r := n.Exec(t, nil, append([]string{installed, "upgrade"}, args...)...)
	t.Logf("labk upgrade %s on %s: code %d after %.1f s\n%s%s", strings.Join(args, " "), n.Host.Name(), r.Code, time.Since(began).Seconds(), r.Stdout, r.Stderr)
	return r
}

// mainPID is the process of the node's labk, 0 if there is none.
func mainPID(t *testing.T, n *cluster.Node) string {
	t.Helper()
	unit := "labk.service"
	if n.Role == cluster.AgentRole {
		unit = "labk-agent.service"
	}
	return n.Systemctl(t, "show", "-P", "MainPID", unit)
}

// runs makes sure that the node runs a version, and nothing is left of another.
func (w *world) runs(t *testing.T, n *cluster.Node, version string) {
	t.Helper()
	n.WaitActive(t)
	if got := n.Sh(t, "/proc/"+mainPID(t, n)+"/exe version"); !strings.HasPrefix(got, "labk "+version+" ") {
		t.Errorf("%s runs %q, want %s", n.Host.Name(), got, version)
	}
	if got := n.Sh(t, installed+" version"); !strings.HasPrefix(got, "labk "+version+" ") {
		t.Errorf("%s has %q installed, want %s", n.Host.Name(), got, version)
	}
	if got := strings.TrimSpace(n.ReadFile(t, "/var/lib/labk/version")); got != version {
		t.Errorf("%s: the data folder was used by %s, want %s", n.Host.Name(), got, version)
	}
	if left := n.Sh(t, "cd /usr/local/bin && ls -A | grep -vx 'labk\\|kubectl\\|ctr\\|[.]labk[.]previous' || true"); left != "" {
		t.Errorf("%s: left in /usr/local/bin: %s", n.Host.Name(), left)
	}
	cluster.Eventually(t, cluster.Limit, "the node says its version", func() error {
		name := n.Host.Name()
		node, err := w.Client(t).CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := node.Status.NodeInfo.KubeletVersion; got != version {
			return fmt.Errorf("%s says it has %s", name, got)
		}
		if node.Spec.Unschedulable {
			return fmt.Errorf("%s is cordoned", name)
		}
		return nil
	})
}

// A server and an agent are upgraded under a load of requests between their pods.
func TestUpgrade(t *testing.T) {
	w := start(t, 1)
	load := w.startLoad(t)
	pods := w.containers(t, load.namespace)
	agent := w.Agents[0]

	if r := upgrade(t, w.Server, "--from", w.nextFile); r.Code != 0 {
		t.Fatalf("the upgrade failed:\n%s", w.Server.Journal(t))
	}
	w.runs(t, w.Server, w.next)
	load.check(t, "upgrade of the server")
	if r := upgrade(t, agent, "--from", "server"); r.Code != 0 {
		t.Fatalf("the upgrade failed:\n%s", agent.Journal(t))
	}
	w.runs(t, agent, w.next)
	load.stop(t)
	load.check(t, "both upgrades")
	if now := w.containers(t, load.namespace); fmt.Sprint(now) != fmt.Sprint(pods) {
		t.Errorf("containers before: %v, after: %v", pods, now)
	}
	for _, n := range w.Nodes() {
		if got := n.Sh(t, previous+" version"); !strings.HasPrefix(got, "labk "+w.now+" ") {
			t.Errorf("%s keeps %q", n.Host.Name(), got)
		}
	}
	t.Run("copy", func(t *testing.T) { testCopy(t, w) })
	t.Run("again", func(t *testing.T) { testAgain(t, w) })
	t.Run("older", func(t *testing.T) { testOlder(t, w) })
	t.Run("back", func(t *testing.T) { testBack(t, w) })
}

// Going back within a minor version keeps what happened since, and can be taken back itself.
func testBack(t *testing.T, w *world) {
	upgrade(t, w.Server, "--back", "--from", w.nextFile).Refused(t, 2, "--back goes with --restore alone")
	w.Kubectl(t, "create", "configmap", "since")
	for _, version := range []string{w.now, w.next} {
		if r := upgrade(t, w.Server, "--back"); r.Code != 0 {
			t.Fatal(w.Server.Journal(t))
		}
		w.runs(t, w.Server, version)
		w.Kubectl(t, "get", "configmap", "since")
	}
	if r := upgrade(t, w.Agents[0], "--back"); r.Code != 0 {
		t.Fatal(w.Agents[0].Journal(t))
	}
	w.runs(t, w.Agents[0], w.now)
}

// The copy of the datastore from before is whole.
func testCopy(t *testing.T, w *world) {
	file := "/var/lib/labk/server/db/before-" + w.next + ".db"
	if mode := w.Server.Sh(t, "stat -c %a "+file); mode != "600" {
		t.Errorf("the copy has the mode %s", mode)
	}
	if names := keysIn(t, w.Server, file); !strings.Contains(names, "/registry/pods/") {
		t.Errorf("the copy has no pods: %s", names)
	}
	if list := w.Server.Sh(t, "labk snapshot list"); !strings.Contains(list, "upgrade-"+w.Host.Name()) {
		t.Errorf("no snapshot from before the upgrade: %s", list)
	}
}

// The same program again changes nothing.
func testAgain(t *testing.T, w *world) {
	before := mainPID(t, w.Server)
	if r := upgrade(t, w.Server, "--from", w.nextFile); r.Code != 0 || !strings.Contains(r.Stderr, "already") {
		t.Errorf("the upgrade to what is there: code %d", r.Code)
	}
	if mainPID(t, w.Server) != before {
		t.Error("labk was restarted")
	}
}

// A program that is older than the data is refused, by the upgrade and by the program itself.
func testOlder(t *testing.T, w *world) {
	before := mainPID(t, w.Server)
	upgrade(t, w.Server, "--from", w.Program()).Refused(t, 1, w.now+" is older than "+w.next)
	if mainPID(t, w.Server) != before {
		t.Error("labk was restarted")
	}
	w.runs(t, w.Server, w.next)
	w.Server.Systemctl(t, "stop", "labk")
	w.Exec(t, nil, w.Program(), "server").Refused(t, 1, "LABK047", "was used by "+w.next, "the older "+w.now)
	w.Server.Systemctl(t, "start", "labk")
	w.runs(t, w.Server, w.next)
}

// containers are the IDs of all containers, with how often they were restarted.
func (w *world) containers(t *testing.T, namespace string) map[string]string {
	t.Helper()
	pods, err := w.Client(t).CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			out[p.Name+"/"+c.Name] = fmt.Sprint(c.ContainerID, " ", c.RestartCount)
		}
	}
	if len(out) == 0 {
		t.Fatal("there are no containers")
	}
	return out
}
