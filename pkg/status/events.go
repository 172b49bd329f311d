package status

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/pkg/health"
)

const (
	// keep is how many changes wait for an API that does not answer; of more, the oldest are forgotten.
	keep = 50
	// sendLimit bounds the sending of an event, longest the text of one.
	sendLimit = 5 * time.Second
	longest   = 1000
)

// nodeEvents tells of faults as events of this PC's node: a warning when one appears, a normal one when it goes. The reason is the fault's code.
type nodeEvents struct {
	node string
	// client is an error for as long as the node has no credentials.
	client  func() (kubernetes.Interface, error)
	pending []change
}

func (e *nodeEvents) tell(c change) {
	e.pending = append(e.pending, c)
	if len(e.pending) > keep {
		e.pending = e.pending[len(e.pending)-keep:]
	}
}

func (e *nodeEvents) flush(ctx context.Context) {
	if len(e.pending) == 0 {
		return
	}
	client, err := e.client()
	if err != nil {
		return
	}
	for len(e.pending) > 0 {
		ctx, cancel := context.WithTimeout(ctx, sendLimit)
		_, err := client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, e.event(e.pending[0]), metav1.CreateOptions{})
		cancel()
		// An API that refuses an event will refuse it always; one that cannot be asked may answer later.
		if err != nil && !apierrors.IsInvalid(err) && !apierrors.IsAlreadyExists(err) {
			return
		}
		e.pending = e.pending[1:]
	}
}

func (e *nodeEvents) event(c change) *corev1.Event {
	kind, text := corev1.EventTypeWarning, fmt.Sprintf("%s: %s: %s", c.Title, c.Detail, c.Remedy)
	if c.Status == health.Pass {
		kind, text = corev1.EventTypeNormal, fmt.Sprintf("%s: no fault any more: %s", c.Title, c.Detail)
	}
	at := metav1.NewTime(c.at)
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s.%s.%x", e.node, strings.ToLower(c.Code), c.at.UnixNano())},
		// The kubelet's events name a node's UID so, and kubectl describe looks for it.
		InvolvedObject: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: e.node, UID: types.UID(e.node)},
		Type:           kind, Reason: c.Code, Message: fmt.Sprintf("%.*s", longest, text), Count: 1,
		FirstTimestamp: at, LastTimestamp: at,
		Source: corev1.EventSource{Component: "labk", Host: e.node}, ReportingController: "labk", ReportingInstance: e.node,
	}
}
