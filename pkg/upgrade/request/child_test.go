package request

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestMain is also a `labk upgrade`: one that does what its environment says.
func TestMain(m *testing.M) {
	if does := os.Getenv("REQUEST_TEST_CHILD"); does != "" && len(os.Args) > 1 && os.Args[1] == "upgrade" {
		switch does {
		case "say":
			os.Stdout.WriteString("labk was not installed here\n")
			os.Exit(1)
		case "usage":
			os.Exit(2)
		case "hang":
			time.Sleep(time.Hour)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A failure that the child has not reported itself is reported; what it has said itself stays.
func TestWatch(t *testing.T) {
	r := Request{Version: "v1.37.1+labk2", SHA256: "abc", ID: "7"}
	for name, tc := range map[string]struct {
		child, asks, before, want string
	}{
		"failed before it could report": {"say", r.String(), "7 running", "7 failed labk was not installed here"},
		"failed without a word":         {"usage", r.String(), "", "7 failed `labk upgrade` ended with code 2"},
		"has reported itself":           {"say", r.String(), "7 failed no space", "7 failed no space"},
		"done":                          {"done", r.String(), "7 running", "7 running"},
		"another request since":         {"say", "v1.37.1+labk2 abc 8", "8 running", "8 running"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("REQUEST_TEST_CHILD", tc.child)
			client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "pc", Annotations: map[string]string{Annotation: tc.asks, StateAnnotation: tc.before}}})
			c, err := start(r)
			if err != nil {
				t.Fatal(err)
			}
			(&follower{FollowOptions: FollowOptions{Node: "pc"}}).watch(t.Context(), client, c, r)
			n, err := client.CoreV1().Nodes().Get(t.Context(), "pc", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := n.Annotations[StateAnnotation]; !strings.HasPrefix(got, tc.want) {
				t.Errorf("the state is %q, want %q", got, tc.want)
			}
		})
	}
}

// The end of this process is not waited for by the child, nor the other way round.
func TestWaitEndsWithItsContext(t *testing.T) {
	t.Setenv("REQUEST_TEST_CHILD", "hang")
	c, err := start(Request{ID: "7"})
	if err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(c.process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := process.Kill(); err != nil {
			t.Error(err)
		}
		_, _ = process.Wait()
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.wait(ctx); err != nil {
		t.Errorf("got %v", err)
	}
}
