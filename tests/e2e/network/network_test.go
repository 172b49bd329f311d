// Package network tries Services, DNS and addresses on a real single-node labk, also on machines that are set up in other ways.
package network

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// world is a cluster with what the tests share: a client pod with a shell, and web servers that tell who asked.
type world struct {
	*cluster.Cluster
	namespace string
	client    *corev1.Pod
	hellos    []*corev1.Pod
}

// start starts a cluster with a DNS server outside, a client and so many web servers.
func start(t *testing.T, servers int, o cluster.Options) *world {
	before := o.Before
	o.Before = func(c *cluster.Cluster) {
		serveOutsideNames(t, c)
		if before != nil {
			before(c)
		}
	}
	c := cluster.Start(t, o)
	w := &world{Cluster: c, namespace: c.Namespace(t)}
	c.CreatePod(t, w.namespace, shell("client", c.Busybox(t), "while :; do sleep 3600; done"))
	for i := range servers {
		c.CreatePod(t, w.namespace, hello(fmt.Sprintf("hello-%d", i), "hello"))
	}
	w.client = c.WaitPod(t, w.namespace, "client", cluster.Ready)
	for i := range servers {
		w.hellos = append(w.hellos, c.WaitPod(t, w.namespace, fmt.Sprintf("hello-%d", i), cluster.Ready))
	}
	return w
}

func TestNetwork(t *testing.T) {
	w := start(t, 3, cluster.Options{})
	for _, test := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"ClusterIP", testClusterIP},
		{"NodePort", testNodePort},
		{"headless", testHeadless},
		{"externalTrafficPolicy Local", testLocalPolicy},
		{"session affinity", testAffinity},
		{"host port", testHostPort},
		{"hairpin", testHairpin},
		{"UDP", testUDP},
		{"names of services", testServiceNames},
		{"names outside", testOutsideNames},
		{"unknown names", testUnknownNames},
		{"pod to node", testPodToNode},
		{"pod to pod", testPodToPod},
		{"pod to outside", testPodToOutside},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, w)
		})
	}
}

// hello is a pod of the web server that comes with labk.
func hello(name, app string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "hello", Image: "docker.io/labk/hello:1",
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)}},
				PeriodSeconds: 1,
			},
		}}},
	}
}

// shell is a pod that runs a script, killed as soon as it is to end.
func shell(name, image, script string) *corev1.Pod {
	now := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &now,
			Containers:                    []corev1.Container{{Name: "main", Image: image, Command: []string{"sh", "-c", script}}},
		},
	}
}

// service creates a Service for the pods with the label app, port 80 for their port 8080.
func (w *world) service(t *testing.T, name, app string, change func(*corev1.ServiceSpec)) *corev1.Service {
	t.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": app},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	if change != nil {
		change(&s.Spec)
	}
	s, err := w.Client(t).CoreV1().Services(w.namespace).Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// greeting is what the web server answers: its pod's name, and the address of who asked.
var greeting = regexp.MustCompile(`^Hello from (\S+), you are ([0-9.]+):\d+\n$`)

func parseGreeting(text string) (pod, asker string, err error) {
	m := greeting.FindStringSubmatch(text)
	if m == nil {
		return "", "", fmt.Errorf("unexpected answer %q", text)
	}
	return m[1], m[2], nil
}

// asker asks a web server.
type asker func(ctx context.Context, url string) (pod, asker string, err error)

// with asks from the host or from outside.
func with(client *http.Client) asker {
	return func(ctx context.Context, url string) (string, string, error) {
		text, err := get(ctx, client, url)
		if err != nil {
			return "", "", err
		}
		return parseGreeting(text)
	}
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// fromPod asks from a pod that has wget.
func (w *world) fromPod(t *testing.T, pod string) asker {
	return func(_ context.Context, url string) (string, string, error) {
		text, err := w.wget(t, pod, url)
		if err != nil {
			return "", "", err
		}
		return parseGreeting(text)
	}
}

func (w *world) wget(t *testing.T, pod, url string) (string, error) {
	// wget's own -T crashes in Debian's static busybox
	r := w.KubectlErr(t, "exec", "-n", w.namespace, pod, "--", "timeout", "5", "wget", "-q", "-O", "-", url)
	return r.Stdout, r.Err
}

// reachAll asks until each of so many pods has answered.
func reachAll(t *testing.T, from string, ask asker, url string, pods int) {
	t.Helper()
	seen := map[string]bool{}
	cluster.Eventually(t, cluster.Limit, fmt.Sprintf("%d pods answer at %s %s", pods, url, from), func() error {
		for range 3 * pods {
			pod, _, err := ask(t.Context(), url)
			if err != nil {
				return err
			}
			seen[pod] = true
		}
		if len(seen) != pods {
			return fmt.Errorf("only %v answered", seen)
		}
		return nil
	})
}
