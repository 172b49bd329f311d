// Package workloads runs on a real single-node labk what users run on Kubernetes, one subtest a thing that must work.
package workloads

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// world is the cluster and the images that the subtests share.
type world struct {
	*cluster.Cluster
	busybox, nginx string
}

func TestWorkloads(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Args: []string{
		"--kubelet-arg=pod-max-pids=256",
		"--kubelet-arg=sync-frequency=10s", // by default a mounted ConfigMap follows after up to 90 s
	}})
	w := &world{Cluster: c, busybox: c.Busybox(t), nginx: c.Nginx(t)}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		// first, what waits for minutes
		{"CronJob", testCronJob},
		{"ConfigMap", testConfigMap},
		{"HorizontalPodAutoscaler", testAutoscaler},
		{"hello example", testHello},
		{"logs", testLogs},
		{"exec", testExec},
		{"cp", testCopy},
		{"port-forward", testPortForward},
		{"attach", testAttach},
		{"debug", testDebug},
		{"ephemeral container", testEphemeralContainer},
		{"Secret", testSecret},
		{"service account token", testToken},
		{"emptyDir", testEmptyDir},
		{"hostPath", testHostPath},
		{"subPath", testSubPath},
		{"init containers", testInitContainers},
		{"sidecar", testSidecar},
		{"liveness probe", testLiveness},
		{"readiness probe", testReadiness},
		{"startup probe", testStartup},
		{"OOM kill", testOOM},
		{"CPU limit", testCPULimit},
		{"pid limit", testPidLimit},
		{"user namespace", testUserNamespace},
		{"seccomp", testSeccomp},
		{"termination", testTermination},
		{"Job", testJob},
		{"DaemonSet", testDaemonSet},
		{"StatefulSet", testStatefulSet},
		{"rolling update", testRollingUpdate},
		{"PodSecurity", testPodSecurity},
		{"admission policy", testAdmissionPolicy},
		{"anonymous access", testAnonymous},
		{"node's rights", testNodeRights},
		{"nginx", testNginx},
		{"pinned images", testPinned},
		{"program's names", testNames},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, w)
		})
	}
}

// pod is a pod with one container, main, that runs a shell script. It is not restarted, and killed one second after it was asked to end.
func (w *world) pod(name, script string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers:                    []corev1.Container{w.container("main", script)},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func (w *world) container(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: w.busybox, Command: []string{"sh", "-c", script}}
}

// yaml fills the names of images into a manifest.
func (w *world) yaml(text string) string {
	return strings.NewReplacer("BUSYBOX", w.busybox, "NGINX", w.nginx).Replace(text)
}

// mount gives the pod a volume and mounts it in each of its containers.
func mount(path string, source corev1.VolumeSource) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		name := strings.ReplaceAll(strings.Trim(path, "/"), "/", "-")
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
			}
		}
	}
}

func emptyDir() corev1.VolumeSource {
	return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
}

// restarting lets the kubelet restart the pod's containers.
func restarting(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyAlways }

// execProbe is a probe by a command, each second.
func execProbe(argv ...string) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: argv}},
		PeriodSeconds: 1, TimeoutSeconds: 10, FailureThreshold: 1,
	}
}

func mustEqual(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func mustContain(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: got %q, want %q in it", what, got, want)
	}
}
