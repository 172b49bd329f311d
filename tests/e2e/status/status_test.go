// Package status asks the labk of a server and of agents how they are: up, in the middle of a start, with something wrong, without a server, and
// not running at all; and looks for what is wrong among the node's events and in the metrics.
package status

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/status"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// dataOnTmpfs is a data folder whose disk can become smaller and larger.
const dataOnTmpfs = "mkdir -p /var/lib/labk && mount -t tmpfs -o size=16g tmpfs /var/lib/labk"

func TestStatus(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Hosts: 3, Agents: 1, Before: func(c *cluster.Cluster) {
		r := c.Lab.Host(2).Command(t.Context(), "sh", "-c", dataOnTmpfs)
		if out, err := r.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}})
	agent, late := c.Agents[0], c.Agent(t, 3, nil)
	t.Run("never run", func(t *testing.T) { testNeverRun(t, late) })
	t.Run("version", func(t *testing.T) { testVersion(t, c) })
	t.Run("up", func(t *testing.T) { testUp(t, c, agent) })
	t.Run("each minute", func(t *testing.T) { testEachMinute(t, c) })
	t.Run("small disk", func(t *testing.T) { testSmallDisk(t, c, agent) })
	t.Run("server away", func(t *testing.T) { testServerAway(t, c, agent, late) })
	t.Run("stopped", func(t *testing.T) { testStopped(t, c, agent) })
}

// ask runs labk status on the node's PC and wants the exit code.
func ask(t *testing.T, n *cluster.Node, code int) status.Status {
	t.Helper()
	r := n.Exec(t, nil, n.Program(), "status", "-o", "json")
	var s status.Status
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("not the JSON of a status: %v:\n%s%s", err, r.Stdout, r.Stderr)
	}
	if r.Code != code {
		t.Errorf("it ends with code %d, want %d:\n%s", r.Code, code, r.Stdout)
	}
	return s
}

// says runs labk status for people and looks for the words in what it prints.
func says(t *testing.T, n *cluster.Node, words ...string) {
	t.Helper()
	r := n.Exec(t, nil, n.Program(), "status")
	for _, w := range words {
		if !strings.Contains(r.Stdout, w) {
			t.Errorf("it does not say %q:\n%s%s", w, r.Stdout, r.Stderr)
		}
	}
}

// fault is the result of the code among the faults, the zero one if it is not there.
func fault(s status.Status, code string) health.Result {
	for _, f := range s.Faults {
		if f.Code == code {
			return f
		}
	}
	return health.Result{}
}

func component(t *testing.T, s status.Status, name string) status.Component {
	t.Helper()
	i := slices.IndexFunc(s.Components, func(c status.Component) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("there is no component %s: %+v", name, s.Components)
	}
	return s.Components[i]
}

// waitEvent waits for an event of the node with the fault's code and the type.
func waitEvent(t *testing.T, c *cluster.Cluster, node, code, kind string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, kind+" event "+code+" of "+node, func() error {
		list, err := c.Client(t).CoreV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node,reason=" + code})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == node && e.Type == kind {
				return nil
			}
		}
		return fmt.Errorf("not among %d events", len(list.Items))
	})
}

// metric is the value of the fault's metric in the text of /metrics at an API path.
func metric(t *testing.T, c *cluster.Cluster, path, code string, severity health.Severity) string {
	t.Helper()
	series := fmt.Sprintf("labk_fault{code=%q,severity=%q} ", code, severity)
	for line := range strings.Lines(c.Kubectl(t, "get", "--raw", path)) {
		if value, ok := strings.CutPrefix(line, series); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("%s is not in %s", series, path)
	return ""
}

func testNeverRun(t *testing.T, fresh *cluster.Node) {
	if s := ask(t, fresh, 1); s.State != status.Stopped || s.Role != "" || s.Last != nil || len(s.Certificates) > 0 {
		t.Errorf("got %+v", s)
	}
	says(t, fresh, "does not run", "nor has it run with the data folder /var/lib/labk")
}

// The program knows what it is made of.
func testVersion(t *testing.T, c *cluster.Cluster) {
	r := c.Labk(t, "version", "-o", "json")
	var v struct {
		Version, Commit, Go, Platform string
		Components                    map[string]string
	}
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil {
		t.Fatalf("%v: %s", err, r.Stdout)
	}
	if len(v.Commit) != 40 || !strings.HasPrefix(v.Go, "go1") || !strings.HasPrefix(v.Version, v.Components["kubernetes"]+"+labk") {
		t.Errorf("got %+v", v)
	}
	for _, name := range []string{"cni-plugins", "containerd", "coredns", "etcd-api", "flannel", "kine", "kubernetes", "modernc-sqlite", "runc"} {
		if !strings.HasPrefix(v.Components[name], "v") {
			t.Errorf("%s is %q", name, v.Components[name])
		}
	}
}

func testUp(t *testing.T, c *cluster.Cluster, agent *cluster.Node) {
	for role, n := range map[string]*cluster.Node{"server": c.Server, "agent": agent} {
		s := ask(t, n, 0)
		if s.State != status.Up || s.Role != role || s.Version == "" || s.PID == 0 || s.Since.IsZero() || s.Node != n.Host.Name() || s.Address != n.Host.Addr().String() {
			t.Errorf("%s: got %+v", role, s)
		}
		for _, part := range []string{"containerd", "kubelet", "join", "faults"} {
			if state := component(t, s, part).State; state != lifecycle.Ready {
				t.Errorf("%s: %s is %s", role, part, state)
			}
		}
		for _, code := range []string{"LABK046", "LABK052", "LABK053", "LABK063", "LABK080", "LABK081", "LABK082", "LABK083", "LABK084"} {
			if f := fault(s, code); f.Code != "" {
				t.Errorf("%s: got %+v", role, f)
			}
		}
		if len(s.Certificates) == 0 {
			t.Errorf("%s: it has no certificates", role)
		}
		says(t, n, "labk "+role, "up", n.Host.Name(), "Ready", "certificates")
	}
	s := ask(t, c.Server, 0)
	if len(s.Nodes) != 2 || !s.Nodes[0].Ready || !s.Nodes[1].Ready || s.Datastore == nil || s.Datastore.Bytes == 0 {
		t.Errorf("the server's nodes and datastore: %+v, %+v", s.Nodes, s.Datastore)
	}
	s = ask(t, agent, 0)
	if len(s.Nodes) != 1 || s.Nodes[0].Name != agent.Host.Name() || !s.Nodes[0].Ready || s.Datastore != nil || s.Server != c.URL() {
		t.Errorf("the agent's node, datastore and server: %+v, %+v, %s", s.Nodes, s.Datastore, s.Server)
	}
	// what was found before the start is known too
	if f := fault(s, "LABK042"); f.Status != health.Warn {
		t.Errorf("the agent's data folder is in memory, and that is not among the faults: %+v", s.Faults)
	}
	waitEvent(t, c, agent.Host.Name(), "LABK042", corev1.EventTypeWarning)
}

// A fault is found without anybody asking for the status.
func testEachMinute(t *testing.T, c *cluster.Cluster) {
	resolv := c.Sh(t, "cat /etc/resolv.conf")
	write := func(text string) {
		// into the file itself: it may be mounted
		if r := c.Exec(t, strings.NewReader(text+"\n"), "sh", "-c", "cat >/etc/resolv.conf"); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	is := func(want string) {
		t.Helper()
		cluster.Eventually(t, cluster.Limit, "metric of LABK061", func() error {
			if got := metric(t, c, "/metrics", "LABK061", health.Warning); got != want {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
	}
	write("nameserver 192.0.2.53")
	ask(t, c.Server, 0) // which looks at once
	is("0")
	write("nameserver 127.0.0.1")
	is("1")
	waitEvent(t, c, c.Host.Name(), "LABK061", corev1.EventTypeWarning)
	write(resolv)
}

// The disk of an agent becomes small, and large again.
func testSmallDisk(t *testing.T, c *cluster.Cluster, agent *cluster.Node) {
	name := agent.Host.Name()
	metrics := "/api/v1/nodes/" + name + "/proxy/metrics"
	used := agent.Sh(t, "df --output=used -BM /var/lib/labk | tail -n 1 | tr -dc 0-9")
	agent.Sh(t, "mount -o remount,size=$((("+used+" + 1024)))m /var/lib/labk")
	if f := fault(ask(t, agent, 0), "LABK041"); f.Status != health.Warn || !strings.Contains(f.Detail, "/var/lib/labk has ") {
		t.Errorf("got %+v", f)
	}
	says(t, agent, "LABK041", "-> free space there")
	waitEvent(t, c, name, "LABK041", corev1.EventTypeWarning)
	if text := c.Kubectl(t, "describe", "node", name); !strings.Contains(text, "LABK041") {
		t.Errorf("kubectl describe does not show it:\n%s", text)
	}
	if w, f := metric(t, c, metrics, "LABK041", health.Warning), metric(t, c, metrics, "LABK041", health.Fatal); w != "1" || f != "0" {
		t.Errorf("the metric is %s as a warning and %s as a fatal one", w, f)
	}
	agent.Sh(t, "mount -o remount,size=16g /var/lib/labk")
	if f := fault(ask(t, agent, 0), "LABK041"); f.Code != "" {
		t.Errorf("it is still there: %+v", f)
	}
	waitEvent(t, c, name, "LABK041", corev1.EventTypeNormal)
	if got := metric(t, c, metrics, "LABK041", health.Warning); got != "0" {
		t.Errorf("the metric is %s", got)
	}
}

// While the server is off, an agent says so, and one that is started then says what it waits for.
func testServerAway(t *testing.T, c *cluster.Cluster, agent, late *cluster.Node) {
	args := c.JoinArgs(t)
	c.Server.Stop(t)
	s := ask(t, agent, 0)
	if f := fault(s, "LABK080"); f.Status != health.Warn || s.NodesError == "" || s.State != status.Up {
		t.Errorf("got %+v", s)
	}
	says(t, agent, "LABK080", "nodes", "unknown")
	says(t, c.Server, "labk server", "was stopped at")

	late.Start(t, args...)
	cluster.Eventually(t, cluster.Limit, "the answer of an agent that starts", func() error {
		if r := late.Exec(t, nil, late.Program(), "status"); !strings.Contains(r.Stdout, "starting") {
			return fmt.Errorf("it says: %s%s", r.Stdout, r.Stderr)
		}
		return nil
	})
	s = ask(t, late, 1)
	if join, kubelet := component(t, s, "join"), component(t, s, "kubelet"); s.State != status.Starting || join.State != lifecycle.Starting ||
		kubelet.State != lifecycle.Waiting || !slices.Contains(kubelet.WaitsFor, "join") {
		t.Errorf("got %s, %+v, %+v", s.State, join, kubelet)
	}
	says(t, late, "join, for ", "kubelet, for ", "join")

	c.Server.Start(t)
	c.Server.WaitUp(t)
	late.WaitUp(t)
	cluster.Eventually(t, cluster.Limit, "an agent whose server is back", func() error {
		if s := ask(t, agent, 0); fault(s, "LABK080").Code != "" || len(s.Nodes) != 1 || !s.Nodes[0].Ready {
			return fmt.Errorf("it says %+v", s)
		}
		return nil
	})
	// what could not be told is told now
	waitEvent(t, c, agent.Host.Name(), "LABK080", corev1.EventTypeWarning)
	waitEvent(t, c, agent.Host.Name(), "LABK080", corev1.EventTypeNormal)
}

func testStopped(t *testing.T, c *cluster.Cluster, agent *cluster.Node) {
	agent.Stop(t)
	if s := ask(t, agent, 1); s.State != status.Stopped || s.Role != "agent" || s.Last == nil || s.Last.Ended.IsZero() || s.Last.Error != "" || len(s.Certificates) == 0 {
		t.Errorf("stopped: got %+v", s)
	}
	says(t, agent, "labk agent", "does not run", "was stopped at", "LABK042")
	agent.Start(t, c.JoinArgs(t)...)
	agent.WaitUp(t)
	agent.Signal(t, syscall.SIGKILL)
	_ = agent.Wait(t)
	if s := ask(t, agent, 1); s.Last == nil || !s.Last.Ended.IsZero() {
		t.Errorf("killed: got %+v", s)
	}
	says(t, agent, "did not end in order")
}
