package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/labk/labk/tests/images"
)

// Kubeconfig is where the server writes the administrator's kubeconfig.
const Kubeconfig = "/etc/labk/kubeconfig.yaml"

// Client is the administrator's client. Its connections are made inside the server's host.
func (c *Cluster) Client(t testing.TB) kubernetes.Interface {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		c.config = c.ConfigOf(t, Kubeconfig)
		client, err := kubernetes.NewForConfig(c.config)
		if err != nil {
			t.Fatal(err)
		}
		c.client = client
	}
	return c.client
}

// Config is that of Client, a copy.
func (c *Cluster) Config(t testing.TB) *rest.Config {
	t.Helper()
	c.Client(t)
	return rest.CopyConfig(c.config)
}

// ConfigOf makes a client's configuration out of a kubeconfig of the server's host; files that it names are read there too.
func (c *Cluster) ConfigOf(t testing.TB, kubeconfig string) *rest.Config {
	t.Helper()
	loaded, err := clientcmd.Load([]byte(c.ReadFile(t, kubeconfig)))
	if err != nil {
		t.Fatalf("%s: %v", kubeconfig, err)
	}
	// through a shell, as links may be absolute
	inline := func(file *string, data *[]byte) {
		if *file != "" {
			*data, *file = []byte(c.Sh(t, "cat "+*file)+"\n"), ""
		}
	}
	for _, cluster := range loaded.Clusters {
		inline(&cluster.CertificateAuthority, &cluster.CertificateAuthorityData)
	}
	for _, user := range loaded.AuthInfos {
		inline(&user.ClientCertificate, &user.ClientCertificateData)
		inline(&user.ClientKey, &user.ClientKeyData)
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*loaded, nil).ClientConfig()
	if err != nil {
		t.Fatalf("%s: %v", kubeconfig, err)
	}
	cfg.Dial = c.Host.Net().DialContext
	cfg.QPS, cfg.Burst = 100, 200
	return cfg
}

// Namespace makes a namespace with a name of its own, in which pods can be created, and deletes it when t ends.
func (c *Cluster) Namespace(t testing.TB) string {
	t.Helper()
	client := c.Client(t)
	ns, err := client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		// only to free the node: the cluster goes away with all that is left
		_ = client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{})
	})
	Eventually(t, Limit, "default service account of "+ns.Name, func() error {
		_, err := client.CoreV1().ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return ns.Name
}

// Busybox imports the busybox image (shell and network tools) and returns its name.
func (c *Cluster) Busybox(t testing.TB) string {
	t.Helper()
	tar, ref, err := images.Busybox(t.Context(), os.Getenv("LABK_TEST_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	c.Import(t, tar)
	return ref
}

// Nginx imports the image of Debian's nginx (port 80) and returns its name.
func (c *Cluster) Nginx(t testing.TB) string {
	t.Helper()
	tar, ref, err := images.Nginx(t.Context(), os.Getenv("LABK_TEST_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	c.Import(t, tar)
	return ref
}

// Parse makes a typed object out of YAML; a field that the type has not fails the test.
func Parse[T any](t testing.TB, text string) *T {
	t.Helper()
	object := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), object); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return object
}

// CreatePod creates a pod and returns what the API made of it.
func (c *Cluster) CreatePod(t testing.TB, namespace string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	created, err := c.Client(t).CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// WaitPod waits until the pod satisfies the condition, for which nil means yes, and returns it. A timeout is told with the pod's events.
func (c *Cluster) WaitPod(t testing.TB, namespace, name string, condition func(*corev1.Pod) error) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	err := await(t.Context(), Limit, func() (err error) {
		if pod, err = c.Client(t).CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		return condition(pod)
	})
	if err != nil {
		t.Fatalf("pod %s/%s: not after %v: %v\n%s", namespace, name, Limit, err, c.events(namespace, name))
	}
	return pod
}

func (c *Cluster) events(namespace, name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	list, err := c.client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		return err.Error()
	}
	var text strings.Builder
	for _, e := range list.Items {
		fmt.Fprintln(&text, e.Reason, e.Message)
	}
	return text.String()
}

// Ready is a condition for WaitPod.
func Ready(p *corev1.Pod) error {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("it is %s, not ready: %s", p.Status.Phase, states(p))
}

// Succeeded is a condition for WaitPod.
func Succeeded(p *corev1.Pod) error { return phase(p, corev1.PodSucceeded) }

// Failed is a condition for WaitPod.
func Failed(p *corev1.Pod) error { return phase(p, corev1.PodFailed) }

func phase(p *corev1.Pod, want corev1.PodPhase) error {
	if p.Status.Phase == want {
		return nil
	}
	return fmt.Errorf("it is %s, not %s: %s", p.Status.Phase, want, states(p))
}

func states(p *corev1.Pod) string {
	var out []string
	for _, s := range append(append([]corev1.ContainerStatus(nil), p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		state := "running"
		if w := s.State.Waiting; w != nil {
			state = "waiting: " + w.Reason + " " + w.Message
		}
		if e := s.State.Terminated; e != nil {
			state = fmt.Sprintf("ended: %s, code %d %s", e.Reason, e.ExitCode, e.Message)
		}
		out = append(out, fmt.Sprintf("%s %s (%d restarts)", s.Name, state, s.RestartCount))
	}
	return strings.Join(out, "; ")
}

// RunPod creates a pod and waits until it is ready.
func (c *Cluster) RunPod(t testing.TB, namespace string, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	created := c.CreatePod(t, namespace, pod)
	return c.WaitPod(t, namespace, created.Name, Ready)
}

// Output creates a pod that ends by itself, waits for its success and returns what its only container has written, trimmed.
func (c *Cluster) Output(t testing.TB, namespace string, pod *corev1.Pod) string {
	t.Helper()
	created := c.CreatePod(t, namespace, pod)
	err := await(t.Context(), Limit, func() error {
		p, err := c.Client(t).CoreV1().Pods(namespace).Get(t.Context(), created.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Status.Phase == corev1.PodFailed {
			t.Fatalf("pod %s failed: %s\n%s", p.Name, states(p), c.Logs(t, namespace, p.Name, ""))
		}
		return Succeeded(p)
	})
	if err != nil {
		t.Fatalf("pod %s/%s: %v\n%s", namespace, created.Name, err, c.events(namespace, created.Name))
	}
	return strings.TrimSpace(c.Logs(t, namespace, created.Name, ""))
}

// Logs is what a container has written; its name may be empty when the pod has only one.
func (c *Cluster) Logs(t testing.TB, namespace, pod, container string) string {
	t.Helper()
	stream, err := c.Client(t).CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).Stream(t.Context())
	if err != nil {
		return "no log: " + err.Error()
	}
	defer stream.Close()
	data, err := io.ReadAll(stream)
	if err != nil {
		return "no log: " + err.Error()
	}
	return string(data)
}

// InPod runs a command in a pod with `labk kubectl exec` and returns its standard output, trimmed; the test fails when it fails.
func (c *Cluster) InPod(t testing.TB, namespace, pod string, argv ...string) string {
	t.Helper()
	return strings.TrimSpace(c.Kubectl(t, append([]string{"exec", "-n", namespace, pod, "--"}, argv...)...))
}

// DeletePod deletes a pod and waits until it is gone.
func (c *Cluster) DeletePod(t testing.TB, namespace, name string) {
	t.Helper()
	pods := c.Client(t).CoreV1().Pods(namespace)
	if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	Eventually(t, Limit, "end of pod "+name, func() error {
		_, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}
