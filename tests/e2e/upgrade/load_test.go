package upgrade

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/tests/e2e/cluster"
)

const (
	// pause is between two requests of one client.
	pause = 20 * time.Millisecond
	// patience is how long a request between pods may take.
	patience = 3 * time.Second
)

// load are clients in pods that ask pods, by their addresses and by their Service's, each request over a connection of its own; and one that asks the API.
type load struct {
	namespace string
	cancel    context.CancelFunc
	clients   sync.WaitGroup

	mu       sync.Mutex
	requests int
	failed   []string
	away     time.Duration // of the API: the longest time between two answers
}

const greeting = "hello from a pod"

// startLoad starts a pod on each node, and clients in all of them that ask all.
func (w *world) startLoad(t *testing.T) *load {
	t.Helper()
	l := &load{namespace: w.Namespace(t)}
	image := w.Busybox(t)
	var pods []*corev1.Pod
	for _, n := range w.Nodes() {
		p := cluster.Parse[corev1.Pod](t, fmt.Sprintf(`
metadata: {name: hello-%[1]s, labels: {app: hello}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 0
  containers:
  - {name: hello, image: %[2]s, command: [sh, -c, "mkdir /www && echo %[3]s >/www/index.html && exec httpd -f -p 80 -h /www"], readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}}
`, n.Host.Name(), image, greeting))
		pods = append(pods, w.RunPod(t, l.namespace, p))
	}
	s := cluster.Parse[corev1.Service](t, "metadata: {name: hello}\nspec: {selector: {app: hello}, ports: [{port: 80}]}")
	s, err := w.Client(t).CoreV1().Services(l.namespace).Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	t.Cleanup(func() { cancel(); l.clients.Wait() })
	for i, p := range pods {
		pods[i] = w.WaitPod(t, l.namespace, p.Name, cluster.Ready)
	}
	for i, from := range pods {
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: w.PodNet(t, w.Nodes()[i].Host, from).DialContext, DisableKeepAlives: true}}
		targets := []string{s.Spec.ClusterIP}
		for _, to := range pods {
			targets = append(targets, to.Status.PodIP)
		}
		for _, target := range targets {
			cluster.Eventually(t, cluster.Limit, "pods reach "+target, func() error { return ask(ctx, client, target) })
			l.clients.Go(func() { l.run(ctx, client, from.Name, target) })
		}
	}
	cfg := w.Config(t)
	cfg.Timeout = time.Second
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.clients.Go(func() { l.watchAPI(ctx, client) })
	return l
}

func ask(ctx context.Context, client *http.Client, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && string(body) != greeting+"\n" {
		err = fmt.Errorf("it answers %q", body)
	}
	return err
}

func (l *load) run(ctx context.Context, client *http.Client, from, to string) {
	for ctx.Err() == nil {
		err := ask(ctx, client, to)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		l.requests++
		if err != nil {
			l.failed = append(l.failed, fmt.Sprintf("%s from %s: %v", time.Now().Format(time.TimeOnly), from, err))
		}
		l.mu.Unlock()
		wait(ctx, pause)
	}
}

// watchAPI measures for how long the API does not answer an administrator.
func (l *load) watchAPI(ctx context.Context, client kubernetes.Interface) {
	last := time.Now()
	for ; ctx.Err() == nil; wait(ctx, pause) {
		if _, err := client.CoreV1().Namespaces().Get(ctx, l.namespace, metav1.GetOptions{}); err != nil {
			continue
		}
		l.mu.Lock()
		l.away = max(l.away, time.Since(last))
		l.mu.Unlock()
		last = time.Now()
	}
}

func wait(ctx context.Context, pause time.Duration) {
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
}

func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	l.clients.Wait()
}

// check makes sure that no request has failed so far.
func (l *load) check(t *testing.T, when string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%s: %d requests between pods, %d failed; the API was away for %.1f s", when, l.requests, len(l.failed), l.away.Seconds())
	if l.requests == 0 {
		t.Error("there was no request")
	}
	if len(l.failed) > 0 {
		t.Errorf("%s: %d of %d requests between pods failed, the first and the last: %s; %s", when, len(l.failed), l.requests, l.failed[0], l.failed[len(l.failed)-1])
	}
}
