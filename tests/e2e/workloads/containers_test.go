package workloads

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/labk/labk/tests/e2e/cluster"
)

func testInitContainers(t *testing.T, w *world) {
	ns := w.Namespace(t)
	pod := w.pod("ordered", "echo main >> /d/log; cat /d/log")
	pod.Spec.InitContainers = []corev1.Container{
		w.container("first", "sleep 1; echo first >> /d/log"), w.container("second", "echo second >> /d/log"),
	}
	mount("/d", emptyDir())(pod)
	mustEqual(t, "order", strings.Join(strings.Fields(w.Output(t, ns, pod)), " "), "first second main")
}

// A native sidecar is up before the main container begins, and does not keep the pod from being done.
func testSidecar(t *testing.T, w *world) {
	ns := w.Namespace(t)
	always := corev1.ContainerRestartPolicyAlways
	sidecar := w.container("sidecar", "trap 'echo end >> /d/log; exit 0' TERM; sleep 1; echo sidecar >> /d/log; touch /d/up; while :; do sleep 0.2; done")
	sidecar.RestartPolicy = &always
	sidecar.StartupProbe = execProbe("test", "-e", "/d/up")
	sidecar.StartupProbe.FailureThreshold = 60
	pod := w.pod("pair", "echo main >> /d/log; cat /d/log")
	pod.Spec.InitContainers = []corev1.Container{sidecar}
	pod.Spec.TerminationGracePeriodSeconds = new(int64(20))
	mount("/d", emptyDir())(pod)
	w.CreatePod(t, ns, pod)
	done := w.WaitPod(t, ns, "pair", cluster.Succeeded)
	mustEqual(t, "order", strings.Join(strings.Fields(w.Logs(t, ns, "pair", "main")), " "), "sidecar main")
	if s := done.Status.InitContainerStatuses[0]; s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 || s.RestartCount != 0 {
		t.Errorf("the sidecar was not ended in peace: %+v", s)
	}
}

// The first run of the container loses its health and is replaced; the second stays.
func testLiveness(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.CreatePod(t, ns, w.pod("sick", "touch /tmp/well; [ -e /d/second ] || { touch /d/second; sleep 2; rm /tmp/well; }; exec sleep 3600",
		mount("/d", emptyDir()), restarting, func(p *corev1.Pod) { p.Spec.Containers[0].LivenessProbe = execProbe("test", "-e", "/tmp/well") }))
	w.WaitPod(t, ns, "sick", func(p *corev1.Pod) error {
		if s := p.Status.ContainerStatuses; len(s) == 1 && s[0].RestartCount > 0 && s[0].State.Running != nil {
			return nil
		}
		return fmt.Errorf("it was not restarted: %+v", p.Status.ContainerStatuses)
	})
	mustContain(t, "events", w.Kubectl(t, "events", "-n", ns, "--for=pod/sick"), "failed liveness probe")
}

// A command that is run each second takes a pod into its Service's endpoints and out of them, and is counted: it really runs.
func testReadiness(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.CreatePod(t, ns, w.pod("door", "exec sleep 3600", func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = execProbe("sh", "-c", "echo x >> /tmp/probes; test -e /tmp/open")
	}))
	w.Apply(t, ns, "{apiVersion: v1, kind: Service, metadata: {name: door}, spec: {selector: {app: door}, ports: [{port: 80}]}}")
	w.waitEndpoints(t, ns, "door", 0)
	w.InPod(t, ns, "door", "touch", "/tmp/open")
	w.waitEndpoints(t, ns, "door", 1)
	w.InPod(t, ns, "door", "rm", "/tmp/open")
	w.waitEndpoints(t, ns, "door", 0)
	cluster.Eventually(t, cluster.Limit, "ten probes", func() error {
		if n := strings.Count(w.InPod(t, ns, "door", "cat", "/tmp/probes"), "x"); n < 10 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	pod := w.WaitPod(t, ns, "door", func(*corev1.Pod) error { return nil })
	if n := pod.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("a readiness probe restarted the container %d times", n)
	}
}

// waitEndpoints waits until the Service has its one pod among its endpoints, and it is counted as ready so many times.
func (w *world) waitEndpoints(t *testing.T, ns, service string, ready int) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, fmt.Sprintf("%d ready endpoints of %s", ready, service), func() error {
		list, err := w.Client(t).DiscoveryV1().EndpointSlices(ns).List(t.Context(), listBy("kubernetes.io/service-name="+service))
		if err != nil {
			return err
		}
		total, n := 0, 0
		for _, slice := range list.Items {
			for _, e := range slice.Endpoints {
				total++
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					n++
				}
			}
		}
		if n != ready || total != 1 {
			return fmt.Errorf("%d of %d are ready", n, total)
		}
		return nil
	})
}

// Until a container has started, its liveness is nobody's business.
func testStartup(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.CreatePod(t, ns, w.pod("slow", "exec sleep 3600", restarting, func(p *corev1.Pod) {
		c := &p.Spec.Containers[0]
		c.StartupProbe = execProbe("sh", "-c", "echo x >> /tmp/probes; test -e /tmp/started")
		c.StartupProbe.FailureThreshold = 600
		c.LivenessProbe = execProbe("test", "-e", "/tmp/started")
	}))
	w.WaitPod(t, ns, "slow", func(p *corev1.Pod) error {
		if s := p.Status.ContainerStatuses; len(s) == 1 && s[0].State.Running != nil {
			return nil
		}
		return fmt.Errorf("it does not run: %+v", p.Status.ContainerStatuses)
	})
	cluster.Eventually(t, cluster.Limit, "three startup probes", func() error {
		if n := strings.Count(w.KubectlErr(t, "exec", "-n", ns, "slow", "--", "cat", "/tmp/probes").Stdout, "x"); n < 3 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	w.InPod(t, ns, "slow", "touch", "/tmp/started")
	pod := w.WaitPod(t, ns, "slow", cluster.Ready)
	if s := pod.Status.ContainerStatuses[0]; s.RestartCount != 0 || s.Started == nil || !*s.Started {
		t.Errorf("after its start: %+v", s)
	}
}

func limited(name corev1.ResourceName, quantity string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{name: resource.MustParse(quantity)}
	}
}

func testOOM(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.CreatePod(t, ns, w.pod("greedy", "exec tail /dev/zero", limited(corev1.ResourceMemory, "32Mi")))
	pod := w.WaitPod(t, ns, "greedy", cluster.Failed)
	if e := pod.Status.ContainerStatuses[0].State.Terminated; e.Reason != "OOMKilled" || e.ExitCode != 137 {
		t.Errorf("got reason %s, code %d; want OOMKilled, 137", e.Reason, e.ExitCode)
	}
}

func testCPULimit(t *testing.T, w *world) {
	ns := w.Namespace(t)
	const script = `cd /sys/fs/cgroup; cat cpu.max 2>/dev/null || echo $(cat cpu/cpu.cfs_quota_us) $(cat cpu/cpu.cfs_period_us)`
	mustEqual(t, "quota and period", w.Output(t, ns, w.pod("quarter", script, limited(corev1.ResourceCPU, "250m"))), "25000 100000")
}

// The server was started with --kubelet-arg=pod-max-pids=256.
func testPidLimit(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.CreatePod(t, ns, w.pod("many", "i=0; while [ $i -lt 400 ]; do sleep 3600 & i=$((i+1)); done; echo all of them"))
	w.WaitPod(t, ns, "many", cluster.Failed)
	mustContain(t, "log", w.Logs(t, ns, "many", ""), "can't fork")
}

func testUserNamespace(t *testing.T, w *world) {
	ns := w.Namespace(t)
	out := w.Output(t, ns, w.pod("mapped", "id -u; cat /proc/self/uid_map; echo x > /d/f; stat -c %u /d/f", mount("/d", emptyDir()),
		func(p *corev1.Pod) { p.Spec.HostUsers = new(false) }))
	words := strings.Fields(out)
	if len(words) != 5 || words[0] != "0" || words[1] != "0" || words[2] == "0" || words[3] != "65536" || words[4] != "0" {
		t.Errorf("user, map and owner of a file: got %q, want root inside, somebody else outside", words)
	}
}

func testSeccomp(t *testing.T, w *world) {
	ns := w.Namespace(t)
	out := w.Output(t, ns, w.pod("filtered", "grep '^Seccomp:' /proc/self/status; unshare -U true 2>&1 || echo refused", func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	}))
	mustContain(t, "mode", out, "Seccomp:\t2")
	mustContain(t, "unshare", out, "refused")
}

// First the preStop command to its end, then SIGTERM, then time to finish.
func testTermination(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.RunPod(t, ns, w.pod("polite", "trap 'echo TERM >> /h/log; sleep 1; echo end >> /h/log; exit 0' TERM; while :; do sleep 0.2; done",
		mount("/h", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/lib/polite", Type: new(corev1.HostPathDirectoryOrCreate)}}),
		func(p *corev1.Pod) {
			p.Spec.TerminationGracePeriodSeconds = new(int64(60))
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{
				Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo preStop >> /h/log; sleep 1; echo stopped >> /h/log"}}}}
		}))
	w.DeletePod(t, ns, "polite")
	mustEqual(t, "order", strings.Join(strings.Fields(w.ReadFile(t, "/var/lib/polite/log")), " "), "preStop stopped TERM end")
}
