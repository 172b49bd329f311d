// Package request is how a server asks a PC of its cluster to upgrade itself, and how the PC answers: by annotations of its Node. Only administrators need write the request, and it can't do more than let
// the PC fetch the program that its own server runs.
package request

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// The annotations: what the server asks for, and what has become of it.
const (
	Annotation      = "labk.io/upgrade"
	StateAnnotation = "labk.io/upgrade-state"
)

// Request asks for a program. As text its fields stand one after another with spaces between.
type Request struct {
	Version, SHA256 string
	// ID tells two requests for the same program apart: a failed one can be tried again.
	ID string
}

func (r Request) String() string { return r.Version + " " + r.SHA256 + " " + r.ID }

// Parse reads the text of a request.
func Parse(text string) (Request, error) {
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return Request{}, fmt.Errorf("%q is no request for an upgrade: it needs a version, a SHA-256 and an ID", text)
	}
	return Request{Version: fields[0], SHA256: fields[1], ID: fields[2]}, nil
}

// Outcome is what a PC says of a request.
type Outcome string

// The outcomes; the last two are final.
const (
	Running Outcome = "running"
	Done    Outcome = "done"
	Failed  Outcome = "failed"
)

// State is an Outcome of one request. As text: the ID, the outcome, and why.
type State struct {
	ID      string
	Outcome Outcome
	// Reason is a sentence for people when it has failed.
	Reason string
}

func (s State) String() string {
	return strings.TrimSpace(s.ID + " " + string(s.Outcome) + " " + strings.Join(strings.Fields(s.Reason), " "))
}

// Final tells that nothing more is to come.
func (s State) Final() bool { return s.Outcome == Done || s.Outcome == Failed }

// StateOf is what the Node says of its last request.
func StateOf(n *corev1.Node) State {
	var s State
	id, rest, _ := strings.Cut(n.Annotations[StateAnnotation], " ")
	outcome, reason, _ := strings.Cut(rest, " ")
	s.ID, s.Outcome, s.Reason = id, Outcome(outcome), reason
	return s
}

// Ask puts a request on a Node.
func Ask(ctx context.Context, client kubernetes.Interface, node string, r Request) error {
	return annotate(ctx, client, node, Annotation, r.String())
}

// Report says on this PC's Node what has become of a request, and as an event when that is final.
func Report(ctx context.Context, client kubernetes.Interface, node string, r Request, s State) error {
	if err := annotate(ctx, client, node, StateAnnotation, s.String()); err != nil {
		return err
	}
	if !s.Final() {
		return nil
	}
	kind, reason, message := corev1.EventTypeNormal, "Upgraded", "labk "+r.Version+" runs on this PC"
	if s.Outcome == Failed {
		kind, reason, message = corev1.EventTypeWarning, "UpgradeFailed", "the upgrade to labk "+r.Version+" failed: "+s.Reason
	}
	now := metav1.NewTime(time.Now())
	_, err := client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: node + ".", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: node, UID: types.UID(node), APIVersion: "v1"}, // by name, as the kubelet does
		Type:           kind, Reason: reason, Message: fmt.Sprintf("%.1000s", message),
		Source: corev1.EventSource{Component: "labk", Host: node}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	return err
}

func annotate(ctx context.Context, client kubernetes.Interface, node, key, value string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
