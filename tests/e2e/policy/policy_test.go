// Package policy tries NetworkPolicies on a real labk: it opens sockets inside the network namespaces of real pods, and sees which packets get through.
package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// Namespaces, each with the label team=NAME.
const (
	alpha = "alpha"
	beta  = "beta"
)

// world is a cluster with pods that listen on everything that the tests ask for:
//
//	namespace alpha  server    app=server, what policies are about
//	                 friend    app=friend
//	                 stranger  app=stranger
//	namespace beta   visitor   app=friend
//	                 guest     app=guest
type world struct {
	*cluster.Cluster
	pods     map[string]*pod
	outside  netip.Addr // a PC beside the nodes
	service  string     // of server: address
	nodePort string     // of server: address and port
}

// pod is a pod with its network namespace, in which the test opens sockets.
type pod struct {
	*corev1.Pod
	net *lab.Net
}

// Ports that every pod listens on, beside 8080, on which its own program does; the outside does on 9000.
var (
	tcpPorts = []int{9000, 9005}
	udpPorts = []int{5353}
)

func start(t *testing.T, o cluster.Options) *world {
	c := cluster.Start(t, o)
	w := &world{Cluster: c, pods: map[string]*pod{}, outside: c.Lab.Gateway()}
	for _, name := range []string{alpha, beta} {
		w.namespace(t, name)
	}
	for _, p := range []struct{ namespace, name, app string }{
		{alpha, "server", "server"}, {alpha, "friend", "friend"}, {alpha, "stranger", "stranger"}, {beta, "visitor", "friend"}, {beta, "guest", "guest"},
	} {
		w.CreatePod(t, p.namespace, hello(p.name, p.app))
		w.pods[p.name] = &pod{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name}}}
	}
	for _, p := range w.pods {
		p.Pod = w.WaitPod(t, p.Namespace, p.Name, cluster.Ready)
		p.net = c.PodNet(t, c.Host, p.Pod)
		serve(t, p.net, tcpPorts, udpPorts)
	}
	serve(t, c.Lab.Net(), []int{9000}, nil)
	w.expose(t)
	cluster.Eventually(t, cluster.Limit, "everything is open without policies", func() error { return w.differs(t, w.flows()) })
	return w
}

func (w *world) namespace(t *testing.T, name string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": name}}}
	if _, err := w.Client(t).CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, cluster.Limit, "default service account of "+name, func() error {
		_, err := w.Client(t).CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
}

// hello is a pod of the web server that comes with labk.
func hello(name, app string) *corev1.Pod {
	now := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &now, Containers: []corev1.Container{{
			Name: "hello", Image: "docker.io/labk/hello:1",
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "control", ContainerPort: 9000}},
			// a probe is the node's: it passes whatever policies say
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)}},
				PeriodSeconds: 1,
			},
		}}},
	}
}

// expose makes a Service for the server.
func (w *world) expose(t *testing.T) {
	t.Helper()
	s, err := w.Client(t).CoreV1().Services(alpha).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "server"},
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.service = s.Spec.ClusterIP
	w.nodePort = fmt.Sprintf("%s:%d", w.Host.Addr(), s.Spec.Ports[0].NodePort)
}

// apply applies policies in the namespace alpha.
func (w *world) apply(t *testing.T, yaml string) {
	t.Helper()
	for _, doc := range strings.Split(yaml, "\n---\n") {
		p := cluster.Parse[netv1.NetworkPolicy](t, doc)
		policies := w.Client(t).NetworkingV1().NetworkPolicies(alpha)
		old, err := policies.Get(t.Context(), p.Name, metav1.GetOptions{})
		if err == nil {
			p.ResourceVersion = old.ResourceVersion
			_, err = policies.Update(t.Context(), p, metav1.UpdateOptions{})
		} else {
			_, err = policies.Create(t.Context(), p, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// drop deletes all policies.
func (w *world) drop(t *testing.T) {
	t.Helper()
	if err := w.Client(t).NetworkingV1().NetworkPolicies(alpha).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
}

// label sets a label of a pod, or deletes it for null.
func (w *world) label(t *testing.T, pod, patch string) {
	t.Helper()
	p := w.pods[pod]
	_, err := w.Client(t).CoreV1().Pods(p.Namespace).Patch(t.Context(), p.Name, types.MergePatchType,
		[]byte(`{"metadata":{"labels":`+patch+`}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// expect waits until exactly these flows are open, and those that no policy may close.
func (w *world) expect(t *testing.T, open ...string) {
	t.Helper()
	w.expectExactly(t, append(open, always...))
}

// expectExactly waits until these flows are open and no others.
func (w *world) expectExactly(t *testing.T, open []string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "open: "+strings.Join(open, ", "), func() error { return w.differs(t, open) })
}

// differs tries all flows and tells which are open and should not be, or the other way round.
func (w *world) differs(t *testing.T, open []string) error {
	t.Helper()
	want := map[string]bool{}
	for _, f := range open {
		want[f] = true
	}
	type outcome struct {
		flow string
		err  error
	}
	outcomes := make(chan outcome)
	flows := w.flows()
	for _, f := range flows {
		go func() { outcomes <- outcome{f, w.try(t.Context(), f)} }()
	}
	var wrong []string
	for range flows {
		o := <-outcomes
		switch {
		case want[o.flow] && o.err != nil:
			wrong = append(wrong, fmt.Sprintf("%s is closed: %v", o.flow, o.err))
		case !want[o.flow] && o.err == nil:
			wrong = append(wrong, o.flow+" is open")
		}
		delete(want, o.flow)
	}
	for f := range want {
		t.Fatalf("the test knows no flow %q", f)
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "\n"))
	}
	return nil
}

// patience is how long a packet may take: what is dropped is only known by that. On a machine too slow for it, a test tries again.
const patience = 700 * time.Millisecond

// try sends something along a flow and waits for the answer.
func (w *world) try(ctx context.Context, flow string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	f, err := w.parse(flow)
	if err != nil {
		return err
	}
	if f.lookup {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return f.from.DialContext(ctx, network, f.address)
		}}
		_, err := r.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
		return err
	}
	conn, err := f.from.DialContext(ctx, f.network, f.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if f.network == "tcp" {
		return nil
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
