package replica

import (
	"context"
	"errors"
	"fmt"
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
)

func node(name string, ready bool) *corev1.Node {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}}}
}

func TestRequestText(t *testing.T) {
	want := Request{Name: "schedule-pc1-20261123-120000", SHA256: strings.Repeat("a", 64), Bytes: 12}
	if got, err := Parse(want.String()); got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	sum := strings.Repeat("a", 64)
	for _, text := range []string{"", "a", "a " + sum, "../a " + sum + " 1", "a/b " + sum + " 1", ".. " + sum + " 1", "a " + sum[1:] + " 1", "a " + sum + " -1", "a " + sum + " 1 2"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

func TestStateText(t *testing.T) {
	for _, want := range []State{{SHA256: "abc"}, {SHA256: "abc", Problem: "no room"}} {
		n := node("a", true)
		n.Annotations = map[string]string{StateAnnotation: want.String()}
		if got := StateOf(n); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// school is a server with other nodes.
type school struct {
	*Server
	client *fake.Clientset
	file   string
}

func newSchool(t *testing.T, nodes ...*corev1.Node) *school {
	t.Helper()
	s := &school{client: fake.NewClientset(node("server", true)), file: filepath.Join(t.TempDir(), "a.snapshot")}
	for _, n := range nodes {
		if err := s.client.Tracker().Add(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.file, []byte("a snapshot"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Server = &Server{Own: "server", Client: func() (kubernetes.Interface, error) { return s.client, nil }, Say: t.Logf}
	return s
}

// asked are the nodes that should have something.
func (s *school) asked(t *testing.T) (names []string) {
	t.Helper()
	list, err := s.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list.Items {
		if n.Annotations[Annotation] != "" {
			names = append(names, n.Name)
		}
	}
	return names
}

// says lets a node answer what it was asked.
func (s *school) says(t *testing.T, name, problem string) {
	t.Helper()
	n, err := s.client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(n.Annotations[Annotation])
	if err != nil {
		t.Fatal(err)
	}
	if err := annotate(t.Context(), s.client, name, StateAnnotation, State{SHA256: r.SHA256, Problem: problem}.String()); err != nil {
		t.Fatal(err)
	}
}

func TestOneReadyNodeIsAsked(t *testing.T) {
	s := newSchool(t, node("a-off", false), node("b", true), node("c", true))
	for range 3 {
		if err := s.See(t.Context(), "first", s.file); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.asked(t); !slices.Equal(got, []string{"b"}) {
		t.Errorf("asked: %q", got)
	}
	if holder, _ := s.Holder(); holder != "" {
		t.Errorf("%s has said nothing yet", holder)
	}
	s.says(t, "b", "")
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Fatal(err)
	}
	if holder, name := s.Holder(); holder != "b" || name != "first" {
		t.Errorf("%q has %q", holder, name)
	}
	// The next one goes to the same node, whatever its name says.
	if err := s.See(t.Context(), "second", s.file); err != nil {
		t.Fatal(err)
	}
	if got := s.asked(t); !slices.Equal(got, []string{"b"}) {
		t.Errorf("asked for the second: %q", got)
	}
}

func TestAnotherNodeIsAsked(t *testing.T) {
	s := newSchool(t, node("b", true), node("c", true))
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Fatal(err)
	}
	s.says(t, "b", "3 MiB are free on its disk")
	if err := s.See(t.Context(), "first", s.file); err == nil || !strings.Contains(err.Error(), "b: 3 MiB") {
		t.Errorf("%v", err)
	}
	if got := s.asked(t); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("asked: %q", got)
	}
	s.says(t, "c", "")
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Fatal(err)
	}
	if holder, _ := s.Holder(); holder != "c" {
		t.Errorf("%q has it", holder)
	}
}

// A node without room is asked again later: it may have some then.
func TestAskedAgain(t *testing.T) {
	s := newSchool(t, node("b", true))
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Fatal(err)
	}
	s.says(t, "b", "3 MiB are free on its disk")
	for range 2 {
		if err := s.See(t.Context(), "first", s.file); err == nil || !strings.Contains(err.Error(), "b: 3 MiB") {
			t.Errorf("%v", err)
		}
		if got := s.asked(t); len(got) > 0 {
			t.Errorf("%q are still asked: asking again would be no news", got)
		}
	}
	s.chosen.again = time.Now()
	for range 2 {
		if err := s.See(t.Context(), "first", s.file); err == nil || !strings.Contains(err.Error(), "b: 3 MiB") {
			t.Errorf("it has no copy yet, and that is no fault any more: %v", err)
		}
		if got := s.asked(t); !slices.Equal(got, []string{"b"}) {
			t.Errorf("asked again: %q", got)
		}
	}
	s.says(t, "b", "")
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Error(err)
	}
}

func TestHolderLeaves(t *testing.T) {
	s := newSchool(t, node("b", true), node("c", true))
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Fatal(err)
	}
	s.says(t, "b", "")
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Fatal(err)
	}
	if err := s.client.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Error(err)
	}
	if holder, _ := s.Holder(); holder != "" {
		t.Errorf("%s is no node any more", holder)
	}
	if got := s.asked(t); !slices.Equal(got, []string{"c"}) {
		t.Errorf("asked: %q", got)
	}
}

func TestNobodyCan(t *testing.T) {
	s := newSchool(t)
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Errorf("a cluster of one PC has no fault: %v", err)
	}
	s = newSchool(t, node("b", false))
	if err := s.See(t.Context(), "first", s.file); err == nil {
		t.Error("the only other node is off, and that is no fault")
	}
	s.Client = func() (kubernetes.Interface, error) { return nil, errors.New("the API is away") }
	if err := s.See(t.Context(), "first", s.file); err == nil || !strings.Contains(err.Error(), "away") {
		t.Errorf("%v", err)
	}
}

// What a restart of the server has forgotten, the nodes know.
func TestHolderIsFoundAgain(t *testing.T) {
	s := newSchool(t, node("b", true), node("c", true))
	if err := s.See(t.Context(), "first", s.file); err != nil {
		t.Fatal(err)
	}
	s.says(t, "b", "")
	again := &Server{Own: "server", Client: s.Client, Say: t.Logf}
	if err := again.See(context.Background(), "first", s.file); err != nil {
		t.Fatal(err)
	}
	if holder, _ := again.Holder(); holder != "b" {
		t.Errorf("%q has it", holder)
	}
}

func TestTheNewestTwoAreKept(t *testing.T) {
	f := &follower{FollowOptions{Folder: t.TempDir()}}
	now := time.Now()
	for i := range 4 {
		file := filepath.Join(f.Folder, fmt.Sprint(i)+suffix)
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chtimes(file, now, now.Add(time.Duration(i)*time.Hour))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(f.Folder, "x"+suffix+part), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.prune(kept); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(f.Folder, "*"))
	if err != nil || len(left) != 2 || filepath.Base(left[0]) != "2.snapshot" || filepath.Base(left[1]) != "3.snapshot" {
		t.Errorf("%q, %v", left, err)
	}
}
