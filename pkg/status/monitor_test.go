package status

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-base/metrics"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/health"
)

// pc is a machine whose disk and resolv.conf a test changes, with the monitor that looks at them.
type pc struct {
	*monitor
	disk     health.FileSystem
	registry metrics.KubeRegistry
	client   *fake.Clientset
	away     bool // the API does not answer
}

func newPC(t *testing.T, found ...health.Result) *pc {
	t.Helper()
	cfg := config.Default()
	cfg.DataDir, cfg.NodeName = t.TempDir(), "pc1"
	h := health.ThisHost(cfg, true, time.Time{})
	h.Root, h.UID = t.TempDir(), 0
	p := &pc{disk: health.FileSystem{Type: 0xef53, Size: 100 << 30, Free: 50 << 30}, registry: metrics.NewKubeRegistry(), client: fake.NewClientset()}
	h.StatFS = func(string) (health.FileSystem, error) { return p.disk, nil }
	probes := slices.DeleteFunc(health.Probes(), func(x health.Probe) bool { return x.Code != "LABK041" && x.Code != "LABK061" && x.Code != "LABK004" })
	g, err := newGauge(probes, p.registry.Register)
	if err != nil {
		t.Fatal(err)
	}
	p.monitor = newMonitor(h, probes, found, g, &nodeEvents{node: "pc1", client: func() (kubernetes.Interface, error) {
		if p.away {
			return nil, errors.New("it does not answer")
		}
		return p.client, nil
	}})
	p.resolv(t, "nameserver 192.168.1.1\n")
	return p
}

func (p *pc) resolv(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(p.host.Root, "etc", "resolv.conf")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// series are the metrics that are 1, as code and severity.
func (p *pc) series(t *testing.T) (on []string) {
	t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "labk_fault" && m.GetGauge().GetValue() == 1 {
				on = append(on, m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue())
			}
		}
	}
	return on
}

// events are those that the API has, as type and reason, in the order of their times.
func (p *pc) events(t *testing.T) (all []string) {
	t.Helper()
	list, err := p.client.CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Event) int {
		return strings.Compare(a.Name[strings.LastIndex(a.Name, "."):], b.Name[strings.LastIndex(b.Name, "."):])
	})
	for _, e := range list.Items {
		if e.InvolvedObject.Kind != "Node" || e.InvolvedObject.Name != "pc1" || e.Message == "" {
			t.Errorf("got %+v", e)
		}
		all = append(all, e.Type+" "+e.Reason)
	}
	return all
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestFaultsAppearAndGo(t *testing.T) {
	p := newPC(t)
	p.now(t.Context())
	same(t, "metrics of a good PC", p.series(t))
	same(t, "events of a good PC", p.events(t))
	for _, step := range []struct {
		free   uint64
		status health.Status
		series []string
		event  string // the new one
	}{
		{1 << 30, health.Warn, []string{"LABK041 warning"}, "Warning LABK041"},
		{1 << 29, health.Warn, []string{"LABK041 warning"}, ""}, // another number is no news
		{1 << 20, health.Fail, []string{"LABK041 fatal"}, "Warning LABK041"},
		{50 << 30, health.Pass, nil, "Normal LABK041"},
	} {
		before := p.events(t)
		p.disk.Free = step.free
		results := p.now(t.Context())
		i := slices.IndexFunc(results, func(r health.Result) bool { return r.Code == "LABK041" })
		if results[i].Status != step.status {
			t.Errorf("with %d bytes free: %+v", step.free, results[i])
		}
		same(t, "metrics", p.series(t), step.series...)
		if step.event != "" {
			before = append(before, step.event)
		}
		same(t, "events", p.events(t), before...)
	}
}

// What was found before the start counts, and what is never looked at again stays.
func TestFaultsOfTheStart(t *testing.T) {
	p := newPC(t, health.Result{Code: "LABK004", Title: "mount program", Status: health.Warn, Detail: "x", Remedy: "y"})
	same(t, "metrics", p.series(t), "LABK004 warning")
	results := p.now(t.Context())
	same(t, "metrics", p.series(t), "LABK004 warning")
	same(t, "events", p.events(t), "Warning LABK004")
	if results[0].Detail != "x" {
		t.Errorf("got %+v", results[0])
	}
}

// An API that is away gets to know all of it later, in order; a refused event holds nothing up.
func TestEventsWait(t *testing.T) {
	p := newPC(t)
	p.away = true
	p.resolv(t, "")
	p.now(t.Context())
	p.resolv(t, "nameserver 192.168.1.1\n")
	p.now(t.Context())
	p.away = false
	same(t, "events while the API is away", p.events(t))
	p.now(t.Context())
	same(t, "events after that", p.events(t), "Warning LABK061", "Normal LABK061")
}

func TestEventsAreBounded(t *testing.T) {
	e := &nodeEvents{}
	for i := range 3 * keep {
		e.tell(change{at: time.Unix(int64(i), 0)})
	}
	if len(e.pending) != keep || e.pending[keep-1].at != time.Unix(3*keep-1, 0) {
		t.Errorf("got %d, the last of %v", len(e.pending), e.pending[len(e.pending)-1].at)
	}
}

// The component looks by itself only when something is due, and ends when it is told to.
func TestMonitorEnds(t *testing.T) {
	p := newPC(t)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func TestOnlyWhatIsDueIsLookedAt(t *testing.T) {
	p := newPC(t)
	p.resolv(t, "")
	p.look(t.Context(), isDue)
	same(t, "metrics before anything is due", p.series(t))
	for i := range p.due {
		if p.probes[i].Code == "LABK061" {
			p.due[i] = time.Now().Add(time.Second) // just after the tick
		}
	}
	p.disk.Free = 0
	p.look(t.Context(), isDue)
	same(t, "metrics of what was due", p.series(t), "LABK061 warning")
	for i, at := range p.due {
		if again := p.probes[i].Again(); again == 0 != at.IsZero() || again > 0 && time.Until(at) > again {
			t.Errorf("%s is due in %v", p.probes[i].Code, time.Until(at))
		}
	}
}
