package workloads

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/labk/labk/pkg/image"
)

// A program that knows nothing of labk: from another PC through a host port, and through the API server.
func testNginx(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.RunPod(t, ns, w.pod("nginx", "", restarting, func(p *corev1.Pod) {
		c := &p.Spec.Containers[0]
		c.Image, c.Command = w.nginx, nil
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8088}}
		get := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(80)}}
		c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: get}
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}}
	}))
	body, err := get(w.Outside(), "http://"+w.Host.Addr().String()+":8088/")
	if err != nil {
		t.Errorf("by the host's port: %v", err)
	}
	mustContain(t, "page by the host's port", body, "Welcome to nginx!")
	mustContain(t, "page by the API server", w.Kubectl(t, "get", "--raw", "/api/v1/namespaces/"+ns+"/pods/nginx:80/proxy/"), "Welcome to nginx!")
}

// The kubelet's garbage collection takes none of the images: no registry would give them back.
func testPinned(t *testing.T, w *world) {
	r := w.Labk(t, "image", "list", "-o", "json")
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	var list []image.Image
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
		t.Fatalf("%v in %s", err, r.Stdout)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Ref)
		if !i.Pinned {
			t.Errorf("%s is not pinned", i.Ref)
		}
	}
	for _, want := range []string{w.busybox, w.nginx, "docker.io/labk/hello:1", "docker.io/labk/pause:3.10.2"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s among the images %v", want, names)
		}
	}
	mustContain(t, "table", w.Labk(t, "image", "list").Stdout, "PINNED")
}

// The program is kubectl and ctr, by their names as its first argument or as its own.
func testNames(t *testing.T, w *world) {
	w.Sh(t, "mkdir -p /root/names && ln -sf "+w.Program()+" /root/names/kubectl && ln -sf "+w.Program()+" /root/names/ctr")
	for _, kubectl := range []string{w.Program() + " kubectl", "/root/names/kubectl"} {
		mustContain(t, kubectl, w.Sh(t, kubectl+" get nodes -o name"), "node/"+strings.ToLower(w.Host.Name()))
	}
	for _, ctr := range []string{w.Program() + " ctr", "/root/names/ctr"} {
		mustContain(t, ctr, w.Sh(t, ctr+" images list -q"), w.busybox)
	}
	version := w.Sh(t, w.Program()+" kubectl version")
	for _, side := range []string{"Client Version: v1.", "Server Version: v1."} {
		mustContain(t, "versions", version, side)
	}
	mustContain(t, "versions", version, "+labk")
	if r := w.KubectlErr(t, "get", "pods", "-n", "default", "no-such-pod"); r.Code != 1 || !strings.Contains(r.Stderr, "not found") {
		t.Errorf("a pod that is not there: code %d, %q", r.Code, r.Stderr)
	}
}
