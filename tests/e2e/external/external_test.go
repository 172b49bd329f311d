// Package external runs labk over databases that are not SQLite's file: real servers of PostgreSQL, MariaDB and etcd, from Debian's packages, which go away and come back; and etcd in labk's own process, to
// which a running cluster is taken over from SQLite and back.
package external

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/status"
	"github.com/labk/labk/tests/e2e/cluster"
)

var outage = flag.Duration("outage", 5*time.Second, "how long the databases are away")

func TestMain(m *testing.M) { cluster.Main(m) }

func TestPostgres(t *testing.T) { testElsewhere(t, postgres) }
func TestMariaDB(t *testing.T)  { testElsewhere(t, mariaDB) }
func TestEtcd(t *testing.T)     { testElsewhere(t, etcd) }

// configFile is where the endpoint stands: no command line shows its password.
const configFile = "/etc/labk/config.yaml"

// testElsewhere is the life of a cluster whose database is on another PC: what is wrong is said at once, one that is still off is waited for, and one that goes away and comes back costs nothing.
func testElsewhere(t *testing.T, prepare func(*testing.T, *cluster.Cluster) *database) {
	c := cluster.Start(t, cluster.Options{Hosts: 2, DontStart: true})
	db := prepare(t, c)
	for path, text := range db.files {
		c.WriteFile(t, path, text)
	}
	c.WriteFile(t, configFile, db.config(db.endpoint))
	c.Server.Start(t)
	cluster.Eventually(t, cluster.Limit, "it says what it waits for", func() error {
		if want := "waiting for the datastore at " + db.place; !strings.Contains(c.Server.Log(), want) {
			return fmt.Errorf("it does not say %q:\n%s", want, c.Server.Tail(20))
		}
		return nil
	})
	hasFault(t, c, "LABK090")
	db.start(t)
	c.Server.WaitUp(t)
	namespace := c.Namespace(t)
	pod := c.RunPod(t, namespace, hello("before"))
	if s := ask(t, c); s.Datastore == nil || s.Datastore.Kind != db.kind || s.Datastore.Place != db.place {
		t.Errorf("status: %+v", s.Datastore)
	}
	t.Run("away and back", func(t *testing.T) { testAway(t, c, db, namespace, pod) })
	t.Run("restart", func(t *testing.T) {
		log := c.Server.Log
		if c.Server.Stop(t); t.Failed() {
			t.Log(log())
		}
		for name, m := range db.mistakes {
			t.Run(name, func(t *testing.T) { testMistake(t, c, db, m) })
		}
		c.WriteFile(t, configFile, db.config(db.endpoint))
		c.Server.Start(t)
		c.Server.WaitUp(t)
		if same := c.WaitPod(t, namespace, "before", cluster.Ready); same.Status.ContainerStatuses[0].ContainerID != pod.Status.ContainerStatuses[0].ContainerID {
			t.Error("the pod was touched")
		}
	})
	keepsSecret(t, c, db)
}

// testMistake is a configuration with which no waiting helps.
func testMistake(t *testing.T, c *cluster.Cluster, db *database, m mistake) {
	for path, text := range m.files {
		c.WriteFile(t, path, text)
	}
	defer func() {
		for path, text := range db.files {
			c.WriteFile(t, path, text)
		}
	}()
	c.WriteFile(t, configFile, db.config(m.endpoint))
	c.Labk(t, "server").Refused(t, 1, append([]string{"use the datastore at " + m.place}, m.want...)...)
}

// testAway takes the database away while somebody writes.
func testAway(t *testing.T, c *cluster.Cluster, db *database, namespace string, pod *corev1.Pod) {
	w := write(t, c, namespace)
	w.waitFor(t, 20)
	pid := c.Server.Pid(t)
	db.kill(t)
	time.Sleep(*outage) // it is the outage that is tried
	hasFault(t, c, "LABK090")
	before := w.acknowledged()
	db.start(t)
	w.waitFor(t, len(before)+20)
	all := w.stop()
	if c.Server.Pid(t) != pid || strings.Count(c.Server.Log(), "the cluster is up") != 1 {
		t.Error("labk did not live through it")
	}
	list, err := c.Client(t).CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]string{}
	for _, m := range list.Items {
		there[m.Name] = m.Data["n"]
	}
	for _, name := range all {
		if there[name] != name {
			t.Errorf("%s was acknowledged, and is %q", name, there[name])
		}
	}
	if same := c.WaitPod(t, namespace, pod.Name, cluster.Ready); same.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the pod was touched")
	}
	c.RunPod(t, namespace, hello("after"))
	cluster.Eventually(t, cluster.Limit, "no fault is left", func() error {
		for _, f := range ask(t, c).Faults {
			if f.Code == "LABK090" || f.Code == "LABK081" {
				return fmt.Errorf("%+v", f)
			}
		}
		return nil
	})
}

func hello(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "hello", Image: "docker.io/labk/hello:1"}}},
	}
}

func ask(t *testing.T, c *cluster.Cluster) (s status.Status) {
	t.Helper()
	r := c.Labk(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("not the JSON of a status: %v:\n%s%s", err, r.Stdout, r.Stderr)
	}
	return s
}

func hasFault(t *testing.T, c *cluster.Cluster, code string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "labk status tells of "+code, func() error {
		s := ask(t, c)
		for _, f := range s.Faults {
			if f.Code == code && f.Status == health.Fail {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.Faults)
	})
}

// keepsSecret looks for the password where it could be read by others than root's config.yaml.
func keepsSecret(t *testing.T, c *cluster.Cluster, db *database) {
	if db.password == "" {
		return
	}
	if strings.Contains(c.Server.Log(), db.password) {
		t.Error("the log has the password")
	}
	if out := c.Labk(t, "status", "-o", "json").Stdout; strings.Contains(out, db.password) {
		t.Error("the status has the password")
	}
	if out := c.Sh(t, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /var/lib/labk/last-run.json"); strings.Contains(out, db.password) {
		t.Error("a command line or the record of the last run has the password")
	}
	if out := c.Kubectl(t, "get", "events", "-A", "-o", "yaml"); strings.Contains(out, db.password) {
		t.Error("an event has the password")
	}
}

// writer makes ConfigMaps, each after the other, and remembers which ones the API has acknowledged.
type writer struct {
	mu    sync.Mutex
	names []string
	stop  func() []string
}

func write(t *testing.T, c *cluster.Cluster, namespace string) *writer {
	ctx, cancel := context.WithCancel(t.Context())
	maps := c.Client(t).CoreV1().ConfigMaps(namespace)
	w, done := &writer{}, make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("note-%d", i)
			try, end := context.WithTimeout(ctx, 5*time.Second)
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": name}}
			_, err := maps.Create(try, m, metav1.CreateOptions{})
			end()
			if err == nil {
				w.mu.Lock()
				w.names = append(w.names, name)
				w.mu.Unlock()
			}
		}
	}()
	w.stop = func() []string { cancel(); <-done; return w.acknowledged() }
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *writer) acknowledged() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.names...)
}

func (w *writer) waitFor(t *testing.T, n int) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, fmt.Sprintf("%d objects are acknowledged", n), func() error {
		if have := len(w.acknowledged()); have < n {
			return fmt.Errorf("only %d are", have)
		}
		return nil
	})
}
