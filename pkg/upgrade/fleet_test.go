package upgrade

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlan(t *testing.T) {
	node := func(name, version string, ready corev1.ConditionStatus) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			NodeInfo: corev1.NodeSystemInfo{KubeletVersion: version}, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
	}
	var said []string
	o := FleetOptions{Own: "server", Version: "v1.38.0+labk1", Say: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }}
	todo, off := o.plan([]corev1.Node{
		node("pc9", "v1.37.1+labk2", corev1.ConditionTrue),
		node("server", "v1.37.1+labk1", corev1.ConditionTrue), // it has just been upgraded, and its kubelet has not said so yet
		node("pc1", "v1.36.0+labk1", corev1.ConditionTrue),
		node("done", "v1.38.0+labk1", corev1.ConditionTrue),
		node("done-off", "v1.38.0+labk1", corev1.ConditionUnknown),
		node("off", "v1.37.1+labk2", corev1.ConditionUnknown),
		node("newer", "v1.38.0+labk2", corev1.ConditionTrue),
		node("other", "v1.37.1+k3s1", corev1.ConditionTrue), // the PC itself will say whether it can
	})
	if !slices.Equal(todo, []string{"other", "pc1", "pc9"}) || !slices.Equal(off, []string{"off"}) {
		t.Errorf("to upgrade are %v, off are %v", todo, off)
	}
	if !slices.Equal(said, []string{"newer: left as it is, because its v1.38.0+labk2 is newer"}) {
		t.Errorf("it says %v", said)
	}
}
