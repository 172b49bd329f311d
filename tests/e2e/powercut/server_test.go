package powercut

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/labk/labk/tests/e2e/cluster"
	"github.com/labk/labk/tests/powercut"
)

// serverFolder is all that a server keeps: the datastore, the certificates, the token.
const serverFolder = "/var/lib/labk/server"

// TestServerCuts cuts the power of a whole server under load, at some step of what it does to its disk.
func TestServerCuts(t *testing.T) {
	cuts := 4 * times(t)
	disk := powercut.New(11, powercut.ByFile)
	s := newServer(t, disk)
	for i := range cuts {
		s.up(t)
		s.verify(t)
		s.loadUntil(t, disk.CutAt(50+s.rand.IntN(1500)))
		s.off(t)
		lost := disk.Cut(both[i%2])
		t.Logf("cut after %d acknowledged writes: %v", s.acked.Load(), lost)
	}
	s.up(t)
	s.verify(t)
}

// TestServerKills kills a whole server under load.
func TestServerKills(t *testing.T) {
	kills := 5 * times(t)
	s := newServer(t, nil)
	for range kills {
		s.up(t)
		s.verify(t)
		enough := make(chan struct{})
		time.AfterFunc(time.Duration(s.rand.IntN(1000))*time.Millisecond, func() { close(enough) })
		s.loadUntil(t, enough)
		s.off(t)
	}
	s.up(t)
	s.verify(t)
	t.Logf("%d acknowledged writes, %d kills", s.acked.Load(), kills)
}

// server is a server in a lab host, with what the API told its clients.
type server struct {
	*cluster.Cluster
	disk  *powercut.Disk // of serverFolder; nil for the host's own
	mount *powercut.Mount
	rand  *rand.Rand

	mu    sync.Mutex
	known map[string]value
	// open are the names whose last change was not answered, with what they would hold.
	open  map[string]string
	given map[string]string // resourceVersion to what it was given for
	last  int64             // the highest of them
	next  int
	acked atomic.Int64
}

func newServer(t *testing.T, disk *powercut.Disk) *server {
	return &server{
		Cluster: cluster.Start(t, cluster.Options{DontStart: true}), disk: disk, rand: rand.New(rand.NewPCG(1, 2)),
		known: map[string]value{}, open: map[string]string{}, given: map[string]string{},
	}
}

// up mounts the disk and starts the server.
func (s *server) up(t *testing.T) {
	t.Helper()
	if s.disk != nil {
		s.mount = s.Server.Mount(t, s.disk, serverFolder)
	}
	s.Server.Start(t, "--disable-agent", "--disable=coredns")
	s.Server.WaitUp(t)
}

// off kills the server and takes its disk away.
func (s *server) off(t *testing.T) {
	t.Helper()
	s.Server.Signal(t, syscall.SIGKILL)
	if s.disk != nil {
		s.disk.Killed()
	}
	_ = s.Server.Wait(t) // it was killed
	if s.disk != nil {
		if err := s.mount.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// loadUntil has clients write until the channel is closed, and the server is killed then; each ends with its first request that is not answered.
func (s *server) loadUntil(t *testing.T, enough <-chan struct{}) {
	t.Helper()
	config := s.Config(t)
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Limit)
	defer cancel()
	var all sync.WaitGroup
	for w := range writers {
		random := rand.New(rand.NewPCG(s.rand.Uint64(), 0))
		all.Go(func() {
			for ctx.Err() == nil && s.write(ctx, t, client.CoreV1().ConfigMaps("default"), fmt.Sprintf("writer-%d-%d", w, random.IntN(6)), random) {
			}
		})
	}
	select {
	case <-enough:
	case <-ctx.Done():
		t.Errorf("not enough after %v", cluster.Limit)
	}
	s.Server.Signal(t, syscall.SIGKILL)
	if s.disk != nil {
		s.disk.Killed()
	}
	cancel()
	all.Wait()
}

// write does one change and says whether it was answered.
func (s *server) write(ctx context.Context, t *testing.T, maps typed.ConfigMapInterface, name string, random *rand.Rand) bool {
	s.mu.Lock()
	s.next++
	old, text := s.known[name], fmt.Sprint(s.next, strings.Repeat(".", random.IntN(1000)))
	if old.text != "" && random.IntN(4) == 0 {
		text = ""
	}
	s.open[name] = text
	s.mu.Unlock()
	version := strconv.FormatInt(old.revision, 10)
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"text": text}}
	var err error
	switch {
	case text == "":
		err = maps.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	case old.text == "":
		m, err = maps.Create(ctx, m, metav1.CreateOptions{})
	default:
		m.ResourceVersion = version
		m, err = maps.Update(ctx, m, metav1.UpdateOptions{})
	}
	if err != nil {
		return false
	}
	s.acked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, name)
	s.known[name] = value{}
	if text == "" {
		return true
	}
	now := s.revision(t, m)
	s.known[name] = value{text, now}
	return true
}

// revision reads an object's resourceVersion, which must not have been another's. It is called with the lock held.
func (s *server) revision(t *testing.T, m *corev1.ConfigMap) int64 {
	n, err := strconv.ParseInt(m.ResourceVersion, 10, 64)
	if err != nil {
		t.Errorf("%s has the resourceVersion %q", m.Name, m.ResourceVersion)
	}
	what := m.Name + "=" + m.Data["text"]
	if given, ok := s.given[m.ResourceVersion]; ok && given != what {
		t.Errorf("resourceVersion %d was given out for %.40s and for %.40s", n, given, what)
	}
	s.given[m.ResourceVersion], s.last = what, max(s.last, n)
	return n
}

// verify compares what there is with what was acknowledged.
func (s *server) verify(t *testing.T) {
	t.Helper()
	list, err := s.Client(t).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if at, err := strconv.ParseInt(list.ResourceVersion, 10, 64); err != nil || at < s.last {
		t.Errorf("the list's resourceVersion is %q, and %d was given out", list.ResourceVersion, s.last)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[string]value{}
	for i := range list.Items {
		if m := &list.Items[i]; strings.HasPrefix(m.Name, "writer-") {
			there[m.Name] = value{m.Data["text"], s.revision(t, m)}
		}
	}
	for name, known := range s.known {
		text, open := s.open[name]
		if now := there[name]; now != known && (!open || now.text != text) {
			t.Errorf("%s is %.20q of %d, and was acknowledged as %.20q of %d", name, now.text, now.revision, known.text, known.revision)
		}
	}
	for name, text := range s.open {
		if _, known := s.known[name]; !known && there[name].text != text && there[name].text != "" {
			t.Errorf("%s is %.20q, which nobody wrote", name, there[name].text)
		}
		s.known[name] = there[name]
	}
	clear(s.open)
}
