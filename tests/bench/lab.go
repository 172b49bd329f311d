package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/pkg/lab/cluster"
)

const (
	labName   = "bench-up"
	labAgents = 2
)

// wholeLab is a lab that `labk lab up` brought up.
type wholeLab struct {
	*cluster.Cluster
	report *report
	binary string
	client kubernetes.Interface
}

// measureLab measures `labk lab up` as a person sees it: until it returns, and then until a DaemonSet answers. Then it kills the server.
func measureLab(ctx context.Context, o options, r *report) (err error) {
	busy, err := measureLoad(ctx)
	if err != nil {
		return err
	}
	r.Loads = append(r.Loads, busy)
	w := &wholeLab{report: r, binary: o.binary}
	_ = w.command(ctx, "down").Run() // what a killed run left, if anything
	defer func() { err = errors.Join(err, w.run(context.WithoutCancel(ctx), "down")) }()
	began := time.Now()
	if err := w.run(ctx, "up", "--agents", fmt.Sprint(labAgents)); err != nil {
		return err
	}
	r.add(rowLabNodes, sample{Value: time.Since(began).Seconds()})
	if w.Cluster, err = cluster.Open(lab.DefaultDir(labName), o.binary); err != nil {
		return err
	}
	if w.client, err = w.Client(); err != nil {
		return err
	}
	service, err := w.apply(ctx)
	if err != nil {
		return err
	}
	if err := w.allAnswer(ctx, service); err != nil {
		return err
	}
	used, err := w.used()
	if err != nil {
		return err
	}
	r.add(rowLabService, sample{Value: time.Since(began).Seconds(), CPU: used})
	if err := w.measureReturn(ctx); err != nil {
		return fmt.Errorf("server killed: %w", err)
	}
	return nil
}

func (w *wholeLab) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.binary, append([]string{"lab"}, args...)...)
	cmd.Env = append(os.Environ(), "LABK_LAB_NAME="+labName)
	return cmd
}

func (w *wholeLab) run(ctx context.Context, args ...string) error {
	if out, err := w.command(ctx, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("labk lab %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// used is the CPU time in seconds that all hosts have used so far.
func (w *wholeLab) used() (sum float64, err error) {
	for _, n := range w.Nodes() {
		m, err := newMeter(n.Host)
		if err != nil {
			return 0, err
		}
		cpu, err := m.hostCPU()
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
}

// apply makes a DaemonSet and a Service for it, whose address it returns.
func (w *wholeLab) apply(ctx context.Context) (string, error) {
	meta, labels := metav1.ObjectMeta{Name: "hello"}, map[string]string{"app": "hello"}
	_, err := w.client.AppsV1().DaemonSets("default").Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: v1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "hello", Image: image}}},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	service, err := w.client.CoreV1().Services("default").Create(ctx, &v1.Service{ObjectMeta: meta, Spec: v1.ServiceSpec{
		Selector: labels, Ports: []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return service.Spec.ClusterIP + ":80", nil
}

// allAnswer waits until on each node as many different pods as there are nodes have answered.
func (w *wholeLab) allAnswer(ctx context.Context, service string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var waits []func() error
	for _, n := range w.Nodes() {
		waits = append(waits, func() error { return answers(ctx, n.Host, service, len(w.Nodes())) })
	}
	return all(waits...)
}

// answers asks from inside a host, over a connection of its own each time, until so many pods have answered.
func answers(ctx context.Context, h *lab.Host, address string, pods int) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DialContext: h.Net().DialContext, DisableKeepAlives: true}}
	seen := map[string]bool{}
	for len(seen) < pods {
		if pod, err := greeting(client, address); err == nil {
			seen[pod] = true
		}
		if err := pause(ctx, poll); err != nil {
			return fmt.Errorf("wait for the pods' answers in host %s: %w", h.Name(), err)
		}
	}
	return nil
}

// greeting is which pod answers: it begins with "Hello from POD,".
func greeting(client *http.Client, address string) (string, error) {
	r, err := client.Get("http://" + address + "/")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	pod, _, ok := strings.Cut(string(text), ",")
	if err == nil && !ok {
		err = fmt.Errorf("unexpected answer %q", text)
	}
	return pod, err
}

// measureReturn kills the server, starts it again, and waits until the API answers and until all nodes are there: Ready, with a heartbeat that is younger than the
// kill, as their state from before would only say that nobody has looked.
func (w *wholeLab) measureReturn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	server := w.Server()
	pid, running := server.Pid()
	if !running {
		return errors.New("it is not running")
	}
	if err := pause(ctx, 10*time.Second); err != nil { // the start has come to rest
		return err
	}
	process, err := server.Host.Path(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return err
	}
	began := time.Now()
	if out, err := server.Host.Command(ctx, "kill", "-KILL", fmt.Sprint(pid)).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for err = nil; err == nil; _, err = os.Stat(process) { // what it has open is closed when it has gone
		if err := pause(ctx, poll); err != nil {
			return err
		}
	}
	if err := w.run(ctx, "boot", server.Host.Name()); err != nil {
		return err
	}
	back := func(row string, is func() bool) func() error {
		return func() error {
			for !is() {
				if _, running := server.Pid(); !running {
					return fmt.Errorf("%s: %w; labk's last words:\n%s", row, errGone, server.Tail(15))
				}
				if err := pause(ctx, 10*poll); err != nil {
					return fmt.Errorf("%s: %w", row, err)
				}
			}
			w.report.add(row, sample{Value: time.Since(began).Seconds()})
			return nil
		}
	}
	return all(
		back(rowBackAPI, func() bool { return w.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() == nil }),
		back(rowBackNodes, func() bool { return w.beatSince(ctx, began) }),
	)
}

// beatSince says whether all nodes are Ready and have renewed their leases since.
func (w *wholeLab) beatSince(ctx context.Context, since time.Time) bool {
	nodes, err := w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) != len(w.Nodes()) {
		return false
	}
	leases, err := w.client.CoordinationV1().Leases(v1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false
	}
	fresh := map[string]bool{}
	for _, l := range leases.Items {
		fresh[l.Name] = l.Spec.RenewTime != nil && l.Spec.RenewTime.After(since)
	}
	for _, n := range nodes.Items {
		if !nodeReady(&n) || !fresh[n.Name] {
			return false
		}
	}
	return true
}
