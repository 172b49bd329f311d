package external

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/tests/e2e/cluster"
)

// A running cluster goes from SQLite to etcd in the process and back: no object is lost, versions only grow, and the pods notice nothing.
func TestMigration(t *testing.T) {
	c := cluster.Start(t, cluster.Options{})
	m := &migration{Cluster: c, namespace: c.Namespace(t)}
	m.pod = c.RunPod(t, m.namespace, hello("hello"))
	for range 30 {
		m.note(t)
	}
	m.to(t, config.Etcd, "taking the datastore over from SQLite to etcd")
	// What etcd has acknowledged is there after a kill, too.
	c.Server.Restart(t, syscall.SIGKILL)
	m.look(t, config.Etcd)
	if strings.Contains(c.Server.Log(), "taking the datastore over") {
		t.Error("it was taken over again")
	}
	// Somebody forgets the option.
	m.to(t, config.SQLite, "taking the datastore over from etcd to SQLite")
}

type migration struct {
	*cluster.Cluster
	namespace string
	pod       *corev1.Pod
	notes     []corev1.ConfigMap
}

// note makes an object with a version that is newer than all before.
func (m *migration) note(t *testing.T) {
	t.Helper()
	name := fmt.Sprintf("note-%d", len(m.notes))
	made, err := m.Client(t).CoreV1().ConfigMaps(m.namespace).Create(t.Context(),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(m.notes); n > 0 && version(t, made) <= version(t, &m.notes[n-1]) {
		t.Errorf("version %s after %s", made.ResourceVersion, m.notes[n-1].ResourceVersion)
	}
	m.notes = append(m.notes, *made)
}

func version(t *testing.T, m *corev1.ConfigMap) int64 {
	t.Helper()
	n, err := strconv.ParseInt(m.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (m *migration) to(t *testing.T, kind, says string) {
	t.Helper()
	var args []string // SQLite is what one gets without
	if kind != config.SQLite {
		args = []string{"--datastore", kind}
	}
	m.Server.Stop(t)
	m.Server.Start(t, args...)
	m.Server.WaitUp(t)
	if !strings.Contains(m.Server.Log(), says) {
		t.Errorf("it does not say %q:\n%s", says, m.Server.Tail(20))
	}
	m.look(t, kind)
}

func (m *migration) look(t *testing.T, kind string) {
	t.Helper()
	if s := ask(t, m.Cluster); s.Datastore == nil || s.Datastore.Kind != kind {
		t.Errorf("status: %+v", s.Datastore)
	}
	for _, want := range m.notes {
		got, err := m.Client(t).CoreV1().ConfigMaps(m.namespace).Get(t.Context(), want.Name, metav1.GetOptions{})
		if err != nil || got.Data["n"] != want.Name || got.ResourceVersion != want.ResourceVersion || got.UID != want.UID {
			t.Errorf("%s: %+v, %v", want.Name, got, err)
		}
	}
	events, err := m.Client(t).CoreV1().Events(m.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(events.Items) == 0 {
		t.Errorf("the pod's events are gone: %v", err)
	}
	same := m.WaitPod(t, m.namespace, m.pod.Name, cluster.Ready)
	if was, is := m.pod.Status.ContainerStatuses[0], same.Status.ContainerStatuses[0]; was.ContainerID != is.ContainerID || is.RestartCount != 0 {
		t.Errorf("the pod was touched: %+v became %+v", was, is)
	}
	m.note(t)
	m.DeletePod(t, m.namespace, m.RunPod(t, m.namespace, hello("new")).Name)
}
