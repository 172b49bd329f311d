package policy

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/labk/labk/tests/e2e/cluster"
)

// friends allows the server only what comes from friends.
const friends = `
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress, Egress],
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]}`

var fromFriend = []string{
	"friend > server:tcp/8080", "friend > server:tcp/9000", "friend > server:tcp/9005", "friend > server:udp/5353", "friend > service",
}

func fromStranger() []string {
	var out []string
	for _, f := range fromFriend {
		out = append(out, strings.Replace(f, "friend", "stranger", 1))
	}
	return out
}

// The subtests share one cluster and change it: they run in this order.
func testLife(t *testing.T, w *world) {
	t.Run("update", func(t *testing.T) { testUpdate(t, w) })
	t.Run("labels", func(t *testing.T) { testLabels(t, w) })
	t.Run("established", func(t *testing.T) { testEstablished(t, w) })
	t.Run("start of a pod", func(t *testing.T) { testPodStart(t, w) })
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) { testRestart(t, w, sig) })
	}
	t.Run("flush", func(t *testing.T) { testFlush(t, w) })
	t.Run("disabled", func(t *testing.T) { testDisabled(t, w) })
}

func testUpdate(t *testing.T, w *world) {
	w.apply(t, denyAll)
	w.expect(t)
	w.apply(t, friends)
	w.expect(t, fromFriend...)
	w.apply(t, denyAll)
	w.expect(t)
}

func testLabels(t *testing.T, w *world) {
	w.apply(t, friends)
	w.expect(t, fromFriend...)
	w.label(t, "stranger", `{"app": "friend"}`)
	w.expect(t, append(fromStranger(), fromFriend...)...)
	w.label(t, "friend", `{"app": null}`)
	w.expect(t, fromStranger()...)
	w.label(t, "friend", `{"app": "friend"}`)
	w.label(t, "stranger", `{"app": "stranger"}`)
	w.expect(t, fromFriend...)

	w.label(t, "server", `{"free": "yes"}`)
	w.apply(t, `
metadata: {name: deny}
spec: {podSelector: {matchExpressions: [{key: app, operator: In, values: [server]}, {key: free, operator: DoesNotExist}]}, policyTypes: [Ingress, Egress]}`)
	w.expect(t, w.flows()...)
	w.label(t, "server", `{"free": null}`)
	w.expect(t)

	w.apply(t, `
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress, Egress], ingress: [{from: [{namespaceSelector: {matchLabels: {open: "yes"}}}], ports: [{port: 9000}]}]}`)
	w.expect(t)
	w.labelNamespace(t, beta, `{"open": "yes"}`)
	w.expect(t, "visitor > server:tcp/9000", "guest > server:tcp/9000")
	w.labelNamespace(t, beta, `{"open": null}`)
	w.expect(t)
}

func (w *world) labelNamespace(t *testing.T, name, patch string) {
	t.Helper()
	_, err := w.Client(t).CoreV1().Namespaces().Patch(t.Context(), name, types.MergePatchType,
		[]byte(`{"metadata":{"labels":`+patch+`}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// A connection that was allowed when it was made goes on, in both directions.
func testEstablished(t *testing.T, w *world) {
	w.drop(t)
	w.expect(t, w.flows()...)
	l, err := w.pods["server"].net.Listen(t.Context(), "tcp4", "0.0.0.0:9100")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := w.pods["stranger"].net.DialContext(t.Context(), "tcp", w.pods["server"].Status.PodIP+":9100")
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	w.apply(t, denyAll)
	w.expect(t)
	buf := make([]byte, 4)
	for range 3 {
		if _, err := near.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Read(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Write([]byte("pong")); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
}

// A new pod is isolated before its first program runs: the first thing that these do is to ask.
func testPodStart(t *testing.T, w *world) {
	w.apply(t, `
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: prisoner}}, policyTypes: [Ingress, Egress]}`)
	w.expect(t, w.flows()...)
	image := w.Busybox(t)
	ask := fmt.Sprintf("nc -w 1 %s 9000 </dev/null 2>/dev/null && echo open || echo closed", w.pods["friend"].Status.PodIP)
	names := map[string]string{"free": "open"} // what the question is worth
	for i := range 8 {
		names[fmt.Sprintf("prisoner-%d", i)] = "closed"
	}
	for name := range names {
		app, _, _ := strings.Cut(name, "-")
		pod := hello(name, app)
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Spec.Containers = []corev1.Container{{Name: "main", Image: image, Command: []string{"sh", "-c", ask}}}
		w.CreatePod(t, alpha, pod)
	}
	for name, want := range names {
		w.WaitPod(t, alpha, name, cluster.Succeeded)
		if got := strings.TrimSpace(w.Logs(t, alpha, name, "")); got != want {
			t.Errorf("%s found it %s, want %s", name, got, want)
		}
		w.DeletePod(t, alpha, name)
	}
	w.drop(t)
}

// The rules are in force while labk is down, and at each moment while it starts again.
func testRestart(t *testing.T, w *world, sig syscall.Signal) {
	w.apply(t, friends)
	w.expect(t, fromFriend...)
	w.Server.Signal(t, sig)
	_ = w.Server.Wait(t) // how it ended is the matter of other tests
	// DNS is a pod and goes on; only the API is away.
	down := w.match(append([]string{"!friend > api"}, fromFriend...))
	if err := w.differs(t, down); err != nil {
		t.Errorf("while labk is down: %v", err)
	}
	stop := w.watch(t, "stranger > server:tcp/9000")
	w.Server.Start(t)
	w.Server.WaitUp(t)
	w.expect(t, fromFriend...)
	w.apply(t, denyAll)
	w.expect(t)
	stop()
	w.drop(t)
	w.expect(t, w.flows()...)
}

// watch tries a closed flow until the returned function is called; should it ever be open, the test fails.
func (w *world) watch(t *testing.T, closed string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := w.try(ctx, closed); err == nil {
				t.Errorf("%s was open for a moment", closed)
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// Somebody else's tool may flush the whole packet filter; the rules come back.
func testFlush(t *testing.T, w *world) {
	w.apply(t, denyAll)
	w.expect(t)
	w.Sh(t, `if nft list table ip labk-policy >/dev/null 2>&1; then nft delete table ip labk-policy; else iptables -t mangle -F; fi`)
	w.expect(t)
	w.drop(t)
	w.expect(t, w.flows()...)
}

// Without enforcement nothing is left of an earlier run, though the policies are still there.
func testDisabled(t *testing.T, w *world) {
	w.apply(t, denyAll)
	w.expect(t)
	w.Server.Restart(t, syscall.SIGTERM, "--disable-network-policy")
	w.expect(t, w.flows()...)
	if rules := w.Sh(t, "nft list tables; iptables-save -t mangle"); strings.Contains(strings.ToLower(rules), "labk-p") {
		t.Errorf("rules are left:\n%s", rules)
	}
}
