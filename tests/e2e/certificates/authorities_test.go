package certificates

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/tests/e2e/cluster"
)

// before is what is out there of the authorities of before.
type before struct {
	client      kubernetes.Interface // the administrator's, on a laptop
	roots       string               // what a pod read at its start
	podToken    string
	joinToken   string
	secretToken string
}

const tokenSecret = `
apiVersion: v1
kind: Secret
metadata: {name: old-style, annotations: {kubernetes.io/service-account.name: default}}
type: kubernetes.io/service-account-token
`

// The subtests share one lab and change it: they run in this order. It is not parallel: its four PCs take most of the inotify instances that a user has.
func TestAuthorities(t *testing.T) {
	w := start(t, cluster.Options{Agents: 2, Hosts: 4})
	w.Apply(t, w.namespace, tokenSecret)
	b := before{client: w.client(t), roots: w.ReadFile(t, cluster.ServerTLS+"trust/server-ca.crt"), joinToken: w.Token(t)}
	b.podToken = strings.TrimSpace(w.Kubectl(t, "create", "token", "default", "-n", w.namespace))
	b.secretToken = w.secretToken(t, "")
	t.Run("change", func(t *testing.T) { testChange(t, w, b) })
	t.Run("one was off", func(t *testing.T) { testLate(t, w) })
	t.Run("finish", func(t *testing.T) { testFinish(t, w, b) })
	w.Agent(t, 4, nil)
	t.Run("a new PC with a token of before", func(t *testing.T) { testOldToken(t, w, b) })
	t.Run("left behind", func(t *testing.T) { testLeftBehind(t, w) })
}

// New authorities while pods run and one PC is off: what was issued before is good beside what is issued now.
func testChange(t *testing.T, w *world, b before) {
	here, off := w.Agents[0], w.Agents[1]
	containers, leaves, ofKubelet := w.containers(t), w.leaves(t), kubelet(t, here)
	off.Stop(t)
	if out := w.Sh(t, w.Program()+" certificate rotate-ca"); !strings.Contains(out, "agents follow") {
		t.Errorf("it says %s", out)
	}
	ups(t, w.Server, 2)
	ups(t, here, 2)
	w.well(t, w.Server, here)
	changed(t, leaves, w.leaves(t))
	changed(t, ofKubelet, kubelet(t, here))
	w.ofPresent(t, w.Server, 2)
	w.ofPresent(t, here, 2)

	if _, err := b.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("a kubeconfig of before: %v", err)
	}
	for name, token := range map[string]string{"of before": b.podToken, "present": strings.TrimSpace(w.Kubectl(t, "create", "token", "default", "-n", w.namespace))} {
		if code, err := w.asPod(t, b.roots, token); err != nil || code != http.StatusForbidden { // it is known, and may not
			t.Errorf("a pod's token %s: %d, %v", name, code, err)
		}
	}
	fresh := w.secretToken(t, b.secretToken)
	if code, err := w.asPod(t, b.roots, fresh); err != nil || code != http.StatusForbidden {
		t.Errorf("the new token in the Secret: %d, %v", code, err)
	}
	if w.Token(t) == b.joinToken {
		t.Error("the server's own token names the authority of before")
	}
	if _, progress, _ := checkAll(t, w.Server); progress.Rotation == nil || !slices.Equal(progress.Behind, []string{off.Host.Name()}) {
		t.Errorf("check says %+v", progress)
	}
	w.Labk(t, "certificate", "rotate-ca").Refused(t, 1, "still trusted")
	w.Labk(t, "certificate", "rotate-ca", "--finish").Refused(t, 1, off.Host.Name(), "--force")
	w.Labk(t, "certificate", "rotate-ca", "--force").Refused(t, 2, "--force is for --finish")
	here.Exec(t, nil, here.Program(), "certificate", "rotate-ca").Refused(t, 1, "run this on the server")
	if after := w.containers(t); !sameContainers(containers, after) {
		t.Errorf("containers before: %v, after: %v", containers, after)
	}
}

// A PC that was off follows when it is switched on, without a token.
func testLate(t *testing.T, w *world) {
	late := w.Agents[1]
	_, without, _ := checkAll(t, w.Server)
	late.Start(t, "--server", w.URL())
	late.WaitUp(t)
	w.well(t, w.all()...)
	w.ofPresent(t, late, 2)
	if _, progress, _ := checkAll(t, w.Server); progress.Rotation == nil || len(progress.Behind) > 0 || !progress.Followed.After(without.Followed) || !without.Followed.After(without.Rotation.Began) {
		t.Errorf("check says %+v, and said %+v", progress, without)
	}
}

// Afterwards nothing of before is accepted. The server's power fails in the middle.
func testFinish(t *testing.T, w *world, b before) {
	containers := w.containers(t)
	was := []int{strings.Count(w.Agents[0].Log(), upLine), strings.Count(w.Agents[1].Log(), upLine)}
	w.Sh(t, w.Program()+" certificate rotate-ca --finish")
	w.Server.Signal(t, syscall.SIGKILL)
	_ = w.Server.Wait(t)
	w.Server.Start(t)
	w.Server.WaitUp(t)
	for i, a := range w.Agents {
		ups(t, a, was[i]+1)
	}
	w.well(t, w.all()...)
	for _, n := range w.all() {
		w.ofPresent(t, n, 1)
	}
	if after := w.containers(t); !sameContainers(containers, after) {
		t.Errorf("containers before: %v, after: %v", containers, after)
	}
	if _, err := b.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a kubeconfig of before: %v", err)
	}
	for name, token := range map[string]string{"a pod's token": b.podToken, "the token in the Secret": b.secretToken} {
		if code, err := w.asPod(t, b.roots, token); err != nil || code != http.StatusUnauthorized {
			t.Errorf("%s of before: %d, %v", name, code, err)
		}
	}
	cluster.Eventually(t, cluster.Limit, "pods get the present authority alone", func() error {
		m, err := w.client(t).CoreV1().ConfigMaps(w.namespace).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		if err == nil && m.Data["ca.crt"] != w.ReadFile(t, cluster.ServerTLS+"server-ca.crt") {
			err = fmt.Errorf("they get %s", m.Data["ca.crt"])
		}
		return err
	})
	if _, progress, code := checkAll(t, w.Server); progress.Rotation != nil || code != 0 {
		t.Errorf("check says %+v", progress)
	}
	w.Labk(t, "certificate", "rotate-ca", "--finish").Refused(t, 1, "nothing to finish")
}

// A token that was handed out before still finds its server.
func testOldToken(t *testing.T, w *world, b before) {
	n := w.Agents[2]
	n.Start(t, "--server", w.URL(), "--token", b.joinToken)
	n.WaitUp(t)
	w.well(t, n)
	w.ofPresent(t, n, 1)
	n.Restart(t, syscall.SIGTERM) // its token still names the authority of before
	w.well(t, n)
}

// PCs that were off, or without a cable, until all was over are told what to do, and are the same nodes again when that was done.
func testLeftBehind(t *testing.T, w *world) {
	here, cut, off := w.Agents[0], w.Agents[1], w.Agents[2]
	off.Stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Limit)
	defer cancel()
	if err := cut.Host.Cut(ctx); err != nil {
		t.Fatal(err)
	}
	w.atRest(t)
	cluster.Eventually(t, cluster.Limit, "all but those two have followed", func() error {
		_, progress, _ := checkAll(t, w.Server)
		behind := []string{cut.Host.Name(), off.Host.Name()}
		if slices.Sort(behind); progress.Rotation == nil || !slices.Equal(progress.Behind, behind) {
			return fmt.Errorf("check says %+v", progress)
		}
		return nil
	})
	w.atRest(t, "--finish", "--force")
	w.well(t, w.Server, here)
	if err := cut.Host.Mend(ctx); err != nil {
		t.Fatal(err)
	}
	off.Start(t, "--server", w.URL())
	for _, n := range []*cluster.Node{off, cut} {
		if n.Wait(t) == nil || !strings.Contains(n.Log(), "give it a new token") {
			t.Errorf("it says:\n%s", n.Tail(10))
		}
		n.Start(t, "--server", w.URL(), "--token", strings.TrimSpace(w.Sh(t, w.Program()+" token create")))
	}
	for _, n := range []*cluster.Node{off, cut} {
		n.WaitUp(t)
		w.well(t, n)
		w.ofPresent(t, n, 1)
	}
}

// atRest changes the authorities while the server is off.
func (w *world) atRest(t *testing.T, args ...string) {
	t.Helper()
	w.Server.Stop(t)
	if _, progress, _ := checkAll(t, w.Server); progress.Rotation != nil {
		if out := w.Sh(t, w.Program()+" certificate check"); !strings.Contains(out, "Which nodes have followed is not known: labk does not run") {
			t.Errorf("check says of what nobody can know:\n%s", out)
		}
	}
	r := w.Labk(t, append([]string{"certificate", "rotate-ca"}, args...)...)
	if r.Err != nil || !strings.Contains(r.Stdout, "at its next start") {
		t.Errorf("it says %s, %v", r.Stdout, r.Err)
	}
	w.Server.Start(t)
	w.Server.WaitUp(t)
}

const upLine = "this PC is the node"

// ups waits until labk has said so often that it is up.
func ups(t *testing.T, n *cluster.Node, times int) {
	t.Helper()
	line := upLine
	if n.Role == cluster.ServerRole {
		line = "the cluster is up"
	}
	cluster.Eventually(t, cluster.Limit, fmt.Sprintf("start %d of %s", times, n.Host.Name()), func() error {
		if got := strings.Count(n.Log(), line); got < times {
			return fmt.Errorf("%d starts:\n%s", got, n.Tail(15))
		}
		return nil
	})
}

// ofPresent makes sure that a node trusts so many authorities, and that its certificates are of the present ones.
func (w *world) ofPresent(t *testing.T, n *cluster.Node, trusted int) {
	t.Helper()
	for file, ca := range map[string]string{"kubelet-client-current.pem": pki.ClientCA, "kubelet-server-current.pem": pki.ServerCA, "machine.crt": pki.ClientCA} {
		present := cluster.Certificate(t, w.ReadFile(t, cluster.ServerTLS+ca+".crt"))
		if err := cluster.Certificate(t, n.Sh(t, "cat "+cluster.AgentTLS+file)).CheckSignatureFrom(present); err != nil {
			t.Errorf("%s of %s: %v", file, n.Host.Name(), err)
		}
	}
	for _, ca := range []string{pki.ClientCA, pki.ServerCA} {
		if got, want := n.ReadFile(t, cluster.AgentTLS+ca+".crt"), w.ReadFile(t, cluster.ServerTLS+"trust/"+ca+".crt"); got != want || strings.Count(got, "BEGIN") != trusted {
			t.Errorf("%s trusts as %s: %s\nthe server: %s", n.Host.Name(), ca, got, want)
		}
	}
}

// asPod asks the API as a pod does that trusts these authorities, and returns what it answers.
func (w *world) asPod(t *testing.T, roots, token string) (int, error) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(roots))
	client := w.Inside()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL()+"/api/v1/namespaces/kube-system/secrets", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// secretToken waits until the Secret has another token.
func (w *world) secretToken(t *testing.T, than string) (token string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "a token in the Secret", func() error {
		data, err := base64.StdEncoding.DecodeString(w.Kubectl(t, "get", "secret", "old-style", "-n", w.namespace, "-o", "jsonpath={.data.token}"))
		if token = string(data); err == nil && (token == "" || token == than) {
			err = errors.New("not yet")
		}
		return err
	})
	return token
}

// sameContainers compares what ran before with what runs now; pods may have been added.
func sameContainers(before, after map[string]string) bool {
	for pod, container := range before {
		if after[pod] != container {
			return false
		}
	}
	return len(before) > 0
}
