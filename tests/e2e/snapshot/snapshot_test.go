// Package snapshot loses a server's disk and gets the cluster back on another PC, goes back to what was, and damages the datastore.
package snapshot

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/datastore/snapshot"
	"github.com/labk/labk/pkg/datastore/snapshot/replica"
	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

const (
	database = "/var/lib/labk/server/db/state.db"
	copies   = "/var/lib/labk/agent/snapshots/"
)

// TestSnapshot is one story: each part begins with what the one before has left.
func TestSnapshot(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Agents: 1, Hosts: 3})
	s := &story{Cluster: c, agent: c.Agents[0], fresh: c.Agent(t, 3, nil), token: c.Token(t), serverName: c.Host.Name()}
	s.fresh.Role, c.Agents = cluster.ServerRole, c.Agents[:1]
	_ = t.Run("save, and a copy on the agent", s.save) &&
		t.Run("the server is lost", s.loseServer) &&
		t.Run("go back while labk runs", s.goBack) &&
		t.Run("damaged datastore", s.damage) &&
		t.Run("damaged datastore without a snapshot", s.damageForGood)
}

type story struct {
	*cluster.Cluster
	agent             *cluster.Node
	fresh             *cluster.Node // the PC that takes the server's place
	token, serverName string

	saved     snapshot.Found
	pod       *corev1.Pod
	image     string
	container string
	revision  int64 // the newest that a client has seen
}

func (s *story) save(t *testing.T) {
	s.image = s.Busybox(t)
	client := s.Client(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, StringData: map[string]string{"word": "xyzzy"}}
	if _, err := client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.configMap(t, "kept")
	s.pod = s.run(t, "steady")
	s.container = s.pod.Status.ContainerStatuses[0].ContainerID

	result := s.Labk(t, "snapshot", "save", "--name", "before-the-flood", "-o", "json")
	if result.Code != 0 {
		t.Fatalf("%+v", result)
	}
	if err := json.Unmarshal([]byte(result.Stdout), &s.saved); err != nil {
		t.Fatal(err)
	}
	if s.saved.Objects < 100 || s.saved.Reason != snapshot.ByHand || !strings.HasPrefix(s.saved.Name, "before-the-flood-") {
		t.Errorf("%+v", s.saved)
	}
	for _, word := range []string{"xyzzy", s.token, "PRIVATE KEY"} {
		if strings.Contains(s.ReadFile(t, s.saved.File), word) {
			t.Errorf("%.5s... can be read in the snapshot", word)
		}
	}
	if mode := s.Sh(t, "stat -c %a "+s.saved.File); mode != "600" {
		t.Errorf("its mode is %s", mode)
	}
	sum := strings.Fields(s.Sh(t, "sha256sum "+s.saved.File))[0]
	cluster.Eventually(t, cluster.Limit, "the agent has the same file", func() error {
		n, err := client.CoreV1().Nodes().Get(t.Context(), s.agent.Host.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if state := replica.StateOf(n); state.SHA256 != sum || state.Problem != "" {
			return fmt.Errorf("it says %+v of %s", state, n.Annotations[replica.Annotation])
		}
		return nil
	})
	if got := strings.Fields(s.agent.Sh(t, "sha256sum "+copies+s.saved.Name+".snapshot"))[0]; got != sum {
		t.Errorf("the agent's has SHA-256 %s, the server's %s", got, sum)
	}
	s.strangersGetNothing(t)
	s.configMap(t, "too-late") // is lost with the server
	s.see(t)
}

// strangersGetNothing asks for the snapshot as all those who are not the chosen node.
func (s *story) strangersGetNothing(t *testing.T) {
	ask := func(name string, certs []tls.Certificate, want int) {
		t.Helper()
		client := s.Outside()
		client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true, Certificates: certs} //nolint:gosec // it is about the other side
		response, err := client.Get(s.URL() + replica.Prefix + name)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s with %d certificates: %s", name, len(certs), response.Status)
		}
	}
	load := func(cert, key string) []tls.Certificate {
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{pair}
	}
	admin := s.Config(t)
	other := s.Sh(t, "cat /var/lib/labk/agent/tls/kubelet-client-current.pem")
	chosen := s.agent.Sh(t, "cat /var/lib/labk/agent/tls/kubelet-client-current.pem")
	machine := load(s.agent.Sh(t, "cat /var/lib/labk/agent/tls/machine.crt"), s.agent.Sh(t, "cat /var/lib/labk/agent/tls/machine.key"))
	ask(s.saved.Name, nil, http.StatusUnauthorized)
	ask(s.saved.Name, load(string(admin.CertData), string(admin.KeyData)), http.StatusUnauthorized)
	ask(s.saved.Name, machine, http.StatusUnauthorized)
	ask(s.saved.Name, load(other, other), http.StatusForbidden)
	ask("another", load(chosen, chosen), http.StatusForbidden)
	ask(s.saved.Name, load(chosen, chosen), http.StatusOK)
}

// loseServer takes the server's PC away and makes another one with its address out of what the agent has, and the token.
func (s *story) loseServer(t *testing.T) {
	address := s.Host.Addr()
	s.see(t)
	if err := s.Host.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = s.Server.Wait(t)                                                                   // its end is that of the PC
	if err := s.Host.SetAddr(t.Context(), netip.MustParseAddr("10.77.0.99")); err != nil { // the lab gives each to one host only
		t.Fatal(err)
	}
	fresh := s.fresh
	if err := fresh.Host.SetAddr(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	s.Cluster = &cluster.Cluster{Lab: s.Lab, Host: fresh.Host, Server: fresh, Agents: []*cluster.Node{s.agent}}

	fresh.WriteFile(t, "/root/copy.snapshot", s.agent.ReadFile(t, copies+s.saved.Name+".snapshot"))
	fresh.WriteFile(t, "/root/token", s.token+"\n")
	fresh.WriteFile(t, "/root/wrong", strings.Replace(s.token, ".", ".zz", 1)[:len(s.token)]+"\n")
	untouched := func() {
		t.Helper()
		if out := s.Sh(t, "ls -A /var/lib/labk/server 2>/dev/null || true"); out != "" {
			t.Errorf("it left %s", out)
		}
	}
	for what, args := range map[string][]string{
		"--token-file":          {"/root/copy.snapshot"},
		"the token is not":      {"/root/copy.snapshot", "--token-file", "/root/wrong"},
		"no snapshot":           {"nothing", "--token-file", "/root/token"},
		"it is no snapshot of ": {"/root/token", "--token-file", "/root/token"},
	} {
		result := s.Labk(t, append([]string{"snapshot", "restore"}, args...)...)
		if result.Code == 0 || !strings.Contains(result.Stderr, what) {
			t.Errorf("restore %q: code %d, %s", args, result.Code, result.Stderr)
		}
		untouched()
	}
	result := s.Labk(t, "snapshot", "restore", "/root/copy.snapshot", "--token-file", "/root/token")
	if result.Code != 0 || !strings.Contains(result.Stdout, "--node-name "+s.serverName) {
		t.Fatalf("%+v", result)
	}
	fresh.Start(t, "--node-name", s.serverName)
	fresh.WaitUp(t)
	s.asBefore(t)
	// The agent, which nobody has touched, gets work.
	s.run(t, "after")
}

// asBefore makes sure that all of the snapshot is there, nothing else, and that the agent and its pod go on.
func (s *story) asBefore(t *testing.T) {
	client := s.Client(t)
	secret, err := client.CoreV1().Secrets("default").Get(t.Context(), "kept", metav1.GetOptions{})
	if err != nil || string(secret.Data["word"]) != "xyzzy" {
		t.Errorf("the Secret: %v, %v", secret.Data, err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "too-late", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what came after the snapshot: %v", err)
	}
	before := s.revision
	s.see(t)
	if s.revision <= before {
		t.Errorf("revision %d after %d", s.revision, before)
	}
	began := time.Now()
	for _, name := range []string{s.agent.Host.Name(), s.serverName} {
		cluster.Eventually(t, cluster.Limit, name+" is Ready", func() error {
			n, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			lease, err := client.CoordinationV1().Leases("kube-node-lease").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, c := range n.Status.Conditions { // the restored Node says so, too
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && lease.Spec.RenewTime.After(began.Add(-time.Second)) {
					return nil
				}
			}
			return fmt.Errorf("%v, last heard of at %v", n.Status.Conditions, lease.Spec.RenewTime)
		})
	}
	cluster.Eventually(t, cluster.Limit, "the agent's pod runs", func() error {
		p, err := client.CoreV1().Pods("default").Get(t.Context(), "steady", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodRunning || p.UID != s.pod.UID || p.Status.ContainerStatuses[0].ContainerID != s.container {
			return fmt.Errorf("%s, %+v", p.Status.Phase, p.Status.ContainerStatuses)
		}
		return nil
	})
}

// goBack takes the cluster back in one command.
func (s *story) goBack(t *testing.T) {
	s.configMap(t, "too-late")
	s.see(t)
	// What is refused leaves nothing, not even a snapshot of what is there.
	if result := s.Labk(t, "snapshot", "restore", "/root/copy.snapshot", "--token-file", "/root/wrong"); result.Code != 1 || !strings.Contains(result.Stderr, "the token is not") {
		t.Errorf("with another token: %+v", result)
	}
	if out := s.Sh(t, "find /var/lib/labk/server"); strings.Contains(out, "before-restore") || strings.Contains(out, "restore.new") {
		t.Errorf("it left\n%s", out)
	}
	if result := s.Labk(t, "snapshot", "restore", "/root/copy.snapshot"); result.Code != 0 {
		t.Fatalf("%+v", result)
	}
	s.asBefore(t)
	// And forward again: what was there before the restore can be had back, too.
	name := strings.TrimSuffix(s.Sh(t, "basename /var/lib/labk/server/snapshots/before-restore-*.snapshot"), ".snapshot")
	if result := s.Labk(t, "snapshot", "restore", name); result.Code != 0 {
		t.Fatalf("%+v", result)
	}
	client := s.Client(t)
	cluster.Eventually(t, cluster.Limit, "what was there before", func() error {
		_, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "too-late", metav1.GetOptions{})
		return err
	})
	if err := client.CoreV1().ConfigMaps("default").Delete(t.Context(), "too-late", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// damage writes over the middle of the datastore, as a dying disk does.
func (s *story) damage(t *testing.T) {
	if result := s.Labk(t, "snapshot", "save"); result.Code != 0 {
		t.Fatalf("%+v", result)
	}
	s.configMap(t, "too-late")
	s.see(t)
	spoil(t, s.Cluster, database)
	s.Server.Start(t, "--node-name", s.serverName)
	s.Server.WaitUp(t)
	if log := s.Server.Log(); !strings.Contains(log, "DATASTORE IS DAMAGED") {
		t.Errorf("it says nothing of it:\n%s", log)
	}
	s.asBefore(t)
	if out := s.Sh(t, "ls /var/lib/labk/server/db.damaged-*"); !strings.Contains(out, "state.db") {
		t.Errorf("set aside: %s", out)
	}
	if result := s.Labk(t, "status"); !strings.Contains(result.Stdout, "LABK088") {
		t.Errorf("%+v", result)
	}
	cluster.Eventually(t, cluster.Limit, "an event", func() error {
		list, err := s.Client(t).CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=LABK088"})
		if err == nil && len(list.Items) == 0 {
			err = fmt.Errorf("none")
		}
		return err
	})
	s.Sh(t, "rm -r /var/lib/labk/server/db.damaged-*")
	if result := s.Labk(t, "status"); strings.Contains(result.Stdout, "LABK088") {
		t.Errorf("acknowledged, and told all the same: %s", result.Stdout)
	}
}

// damageForGood leaves nothing to restore from: nothing is touched then.
func (s *story) damageForGood(t *testing.T) {
	spoil(t, s.Cluster, database)
	s.Sh(t, "for f in /var/lib/labk/server/snapshots/*.snapshot; do truncate -s 3000 $f; done")
	sum := s.Sh(t, "sha256sum "+database)
	s.Server.Start(t, "--node-name", s.serverName)
	if err := s.Server.Wait(t); err == nil {
		t.Error("it ended well")
	}
	if log := s.Server.Log(); !strings.Contains(log, "cut off") || !strings.Contains(log, "is damaged") {
		t.Errorf("it says\n%s", log)
	}
	if now := s.Sh(t, "sha256sum "+database); now != sum {
		t.Errorf("the file was changed: %s", now)
	}
}

// TestEtcd restores etcd: the same, but for the files.
func TestEtcd(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Args: []string{"--datastore", "etcd", "--disable-agent"}})
	s := &story{Cluster: c}
	s.configMap(t, "kept")
	if result := s.Labk(t, "snapshot", "save"); result.Code != 0 {
		t.Fatalf("%+v", result)
	}
	s.configMap(t, "too-late")
	s.see(t)
	before := s.revision
	spoil(t, c, "/var/lib/labk/server/etcd/member/snap/db")
	c.Server.Start(t, "--datastore", "etcd", "--disable-agent")
	c.Server.WaitUp(t)
	if _, err := s.Client(t).CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := s.Client(t).CoreV1().ConfigMaps("default").Get(t.Context(), "too-late", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what came after the snapshot: %v", err)
	}
	if s.see(t); s.revision <= before {
		t.Errorf("revision %d after %d", s.revision, before)
	}
	if out := s.Sh(t, "ls -d /var/lib/labk/server/etcd.damaged-* /var/lib/labk/server/etcd/member"); len(strings.Fields(out)) != 2 {
		t.Errorf("the folders: %s", out)
	}
	if result := s.Labk(t, "status"); !strings.Contains(result.Stdout, "LABK088") {
		t.Errorf("%+v", result)
	}
}

// spoil kills labk and writes over most pages of its datastore.
func spoil(t *testing.T, c *cluster.Cluster, database string) {
	t.Helper()
	c.Server.Signal(t, syscall.SIGKILL)
	_ = c.Server.Wait(t) // it was killed
	file, err := c.Host.Path(database)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for at := int64(2 * 4096); at < info.Size()*3/4; at += 4096 { // not the first two: that it is a database is still to be seen
		if _, err := out.WriteAt([]byte(strings.Repeat("damage", 500)), at); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *story) configMap(t *testing.T, name string) {
	t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"text": strings.Repeat(name, 1000)}}
	if _, err := s.Client(t).CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// see notes the newest revision that a client can know of.
func (s *story) see(t *testing.T) {
	t.Helper()
	list, err := s.Client(t).CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s.revision, err = strconv.ParseInt(list.ResourceVersion, 10, 64); err != nil {
		t.Fatal(err)
	}
}

// run runs a pod on the agent.
func (s *story) run(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		NodeSelector:                  map[string]string{"kubernetes.io/hostname": s.agent.Host.Name()},
		TerminationGracePeriodSeconds: new(int64),
		Containers:                    []corev1.Container{{Name: "main", Image: s.image, Command: []string{"sleep", "3600"}, ImagePullPolicy: corev1.PullNever}},
	}}
	pods := s.Client(t).CoreV1().Pods("default")
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, cluster.Limit, name+" runs", func() (err error) {
		if pod, err = pods.Get(t.Context(), name, metav1.GetOptions{}); err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("%+v", pod.Status)
		}
		return err
	})
	return pod
}
