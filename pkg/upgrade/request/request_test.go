package request

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRequestText(t *testing.T) {
	want := Request{Version: "v1.37.1+labk2", SHA256: "abc", ID: "7"}
	if got, err := Parse(want.String()); got != want || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, text := range []string{"", "v1.37.1+labk2", "v1.37.1+labk2 abc", "v1.37.1+labk2 abc 7 8"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %+v", text, got)
		}
	}
}

func TestStateText(t *testing.T) {
	for _, want := range []State{
		{ID: "7", Outcome: Running}, {ID: "7", Outcome: Done}, {ID: "7", Outcome: Failed, Reason: "no space: free some"}, {},
	} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{StateAnnotation: want.String()}}}
		if got := StateOf(n); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if final := want.Outcome == Done || want.Outcome == Failed; want.Final() != final {
			t.Errorf("%+v is final: %v", want, want.Final())
		}
	}
	if got := (State{ID: "7", Outcome: Failed, Reason: "two\nlines"}).String(); got != "7 failed two lines" {
		t.Errorf("got %q", got)
	}
}
