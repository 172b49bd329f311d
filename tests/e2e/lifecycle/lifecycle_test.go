// Package lifecycle starts, stops, kills and restarts the real labk, and looks at what pods and people notice of it.
package lifecycle

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// The subtests share one cluster and change it: they run in this order.
func TestLifecycle(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	w := &world{Cluster: c, namespace: c.Namespace(t)}
	t.Run("what a person sees", func(t *testing.T) { testOutput(t, c) })
	w.pod = w.RunPod(t, w.namespace, hello())
	w.waitDNS(t)
	t.Run("second server", func(t *testing.T) { testSecondServer(t, c) })
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) { testRestart(t, w, sig) })
	}
	t.Run("debug", func(t *testing.T) { testDebug(t, c) })
	t.Run("power cut", func(t *testing.T) { testPowerCut(t, w) })
}

type world struct {
	*cluster.Cluster
	namespace string
	pod       *corev1.Pod
}

func hello() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "hello"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "hello", Image: "docker.io/labk/hello:1"}}},
	}
}

// waitDNS waits until the cluster's own pod is ready, too.
func (w *world) waitDNS(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "CoreDNS is ready", func() error {
		d, err := w.Client(t).AppsV1().Deployments(metav1.NamespaceSystem).Get(t.Context(), "coredns", metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas == 0 {
			err = fmt.Errorf("no replica is ready: %+v", d.Status)
		}
		return err
	})
}

// answers waits until the pod answers on its own address.
func (w *world) answers(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "the pod answers", func() error {
		r, err := w.Inside().Get("http://" + w.pod.Status.PodIP + ":8080/")
		if err != nil {
			return err
		}
		return r.Body.Close()
	})
}

// About fifteen lines, each with its time; the last ones tell where the kubeconfig is and what to type.
func testOutput(t *testing.T, c *cluster.Cluster) {
	lines := strings.Split(strings.TrimSpace(c.Server.Log()), "\n")
	if len(lines) < 10 || len(lines) > 20 {
		t.Errorf("it says %d lines", len(lines))
	}
	for _, line := range lines {
		if !progressLine.MatchString(line) {
			t.Errorf("a line without its time: %q", line)
		}
	}
	if last := strings.Join(lines[max(0, len(lines)-2):], "\n"); !strings.Contains(last, cluster.Kubeconfig) || !strings.Contains(last, "labk kubectl") {
		t.Errorf("the last two lines tell neither kubeconfig nor next command:\n%s", last)
	}
	if t.Failed() {
		t.Log("all of it:\n" + c.Server.Log())
	}
}

var (
	progressLine = regexp.MustCompile(`^\[ *\d+\.\ds\] \S`)
	logLine      = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d) (DEBUG|INFO |WARN |ERROR) \S`)
)

// With --debug, Kubernetes, containerd and labk speak with one voice.
func testDebug(t *testing.T, c *cluster.Cluster) {
	c.Server.Restart(t, syscall.SIGTERM, "--debug")
	log := c.Server.Log()
	for _, part := range []string{"[kubernetes] ", "[containerd] "} {
		if !strings.Contains(log, part) {
			t.Errorf("nothing is said by %s", part)
		}
	}
	odd := 0
	for line := range strings.Lines(log) {
		if line = strings.TrimSuffix(line, "\n"); !progressLine.MatchString(line) && !logLine.MatchString(line) {
			odd++
			if odd <= 10 {
				t.Errorf("a line in another format: %q", line)
			}
		}
	}
}

func testSecondServer(t *testing.T, c *cluster.Cluster) {
	pid := strings.TrimSpace(c.ReadFile(t, string(paths.Data("/var/lib/labk").Lock())))
	r := c.Labk(t, "server")
	if r.Code != 1 || !strings.Contains(r.Stderr, "pid "+pid) {
		t.Errorf("code %d, want 1 and pid %s:\n%s", r.Code, pid, r.Stderr)
	}
}

// life is what must be the same after a restart as before.
type life struct {
	containers map[string]string // name of pod and container -> id and restarts
	processes  map[string]string // pid -> program
	images     map[string]string // name -> when it was imported
}

// programs are those whose processes must outlive a restart.
var programs = regexp.MustCompile(`^(hello|coredns|pause|containerd-shim.*)$`)

func (w *world) life(t *testing.T) life {
	t.Helper()
	l := life{containers: map[string]string{}, processes: map[string]string{}, images: w.images(t)}
	pods, err := w.Client(t).CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			l.containers[p.Name+"/"+s.Name] = fmt.Sprintf("%s, %d restarts", s.ContainerID, s.RestartCount)
		}
	}
	for line := range strings.Lines(w.Sh(t, "ps -e -o pid= -o comm=")) {
		if f := strings.Fields(line); len(f) == 2 && programs.MatchString(f[1]) {
			l.processes[f[0]] = f[1]
		}
	}
	if len(l.containers) < 2 || len(l.processes) < 6 { // of two pods: shim, pause and program each
		t.Fatalf("too little to compare: %v", l)
	}
	return l
}

// images tells when each image was last written, by containerd.
func (w *world) images(t *testing.T) map[string]string {
	t.Helper()
	socket, err := w.Host.Path(paths.ContainerdSocket)
	if err != nil {
		t.Fatal(err)
	}
	client, err := containerd.New(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	list, err := client.ImageService().List(namespaces.WithNamespace(t.Context(), "k8s.io"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, i := range list {
		out[i.Name] = i.UpdatedAt.String()
	}
	return out
}

func (l life) compare(t *testing.T, after life) {
	t.Helper()
	if !maps.Equal(l.containers, after.containers) {
		t.Errorf("containers before: %v, after: %v", l.containers, after.containers)
	}
	if !maps.Equal(l.processes, after.processes) {
		t.Errorf("processes before: %v, after: %v", l.processes, after.processes)
	}
	if !maps.Equal(l.images, after.images) {
		t.Errorf("images before: %v, after: %v", l.images, after.images)
	}
}

// Pods live on without labk, and the next labk takes them over.
func testRestart(t *testing.T, w *world, sig syscall.Signal) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\n%s", w.KubectlErr(t, "describe", "nodes").Stdout, w.Server.Tail(60))
		}
	})
	before := w.life(t)
	old := filepath.Join(string(paths.Data("/var/lib/labk").Payload()), strings.Repeat("0123", 8))
	w.WriteFile(t, filepath.Join(old, "bin", "runc"), "of an older labk")

	w.Server.Signal(t, sig)
	if err := w.Server.Wait(t); sig == syscall.SIGTERM && err != nil {
		t.Errorf("labk ends with %v:\n%s", err, w.Server.Tail(20))
	}
	w.answers(t)
	w.Server.Start(t)
	w.Server.WaitUp(t)
	w.WaitPod(t, w.namespace, w.pod.Name, cluster.Ready)
	w.waitDNS(t)
	w.answers(t)
	before.compare(t, w.life(t))
	if r := w.Exec(t, nil, "ls", old); r.Err == nil {
		t.Errorf("the payload of another labk is still there: %s", old)
	}
	// what was taken over can still be ended, and new pods come
	extra := hello()
	extra.Name = "after-" + strings.ToLower(strings.ReplaceAll(sig.String(), " ", "-"))
	w.RunPod(t, w.namespace, extra)
	w.DeletePod(t, w.namespace, extra.Name)
}
