// Package replica brings the newest snapshot to one other node, so that the loss of the server's disk loses little. The server notes on a Node which file it should have; the node fetches it through the API's port with its own
// certificate, and says on its Node what has become of it. Only the node that the server has chosen gets it. The file is encrypted with the cluster's token: the node need not be trusted with what is in it.
package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// The annotations: what the node should have, and what has become of it.
const (
	Annotation      = "labk.io/snapshot"
	StateAnnotation = "labk.io/snapshot-state"
)

// Prefix is where the server hands them out, on the API's port.
const Prefix = "/labk/snapshots/"

// Request names a file. As text its fields stand one after another with spaces between.
type Request struct {
	// Name is the snapshot's, without the file's ending.
	Name   string
	SHA256 string
	Bytes  int64
}

func (r Request) String() string { return fmt.Sprintf("%s %s %d", r.Name, r.SHA256, r.Bytes) }

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,199}$`)
	sumForm  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Parse reads the text of a request.
func Parse(text string) (Request, error) {
	fields := strings.Fields(text)
	if len(fields) == 3 && nameForm.MatchString(fields[0]) && sumForm.MatchString(fields[1]) {
		if size, err := strconv.ParseInt(fields[2], 10, 64); err == nil && size > 0 {
			return Request{Name: fields[0], SHA256: fields[1], Bytes: size}, nil
		}
	}
	return Request{}, fmt.Errorf("%q names no snapshot: it needs a name, a SHA-256 and a size", text)
}

// State is what a node says: the SHA-256 of the request it is about, and why it failed; no reason if the file is there.
type State struct{ SHA256, Problem string }

func (s State) String() string {
	if s.Problem == "" {
		return s.SHA256 + " done"
	}
	return s.SHA256 + " failed " + fmt.Sprintf("%.500s", strings.Join(strings.Fields(s.Problem), " "))
}

// StateOf is what the Node says of its last request.
func StateOf(n *corev1.Node) State {
	sum, rest, _ := strings.Cut(n.Annotations[StateAnnotation], " ")
	outcome, problem, _ := strings.Cut(rest, " ")
	if outcome != "done" && problem == "" {
		problem = "it does not say why"
	}
	return State{SHA256: sum, Problem: problem}
}

func annotate(ctx context.Context, client kubernetes.Interface, node, key, value string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
