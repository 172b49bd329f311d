package registrar

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/pkg/join"
)

// recordsConfigMap notes which PC is which node: a key a node, only the server writes it.
const recordsConfigMap = "labk-nodes"

// record is what is noted of a node.
type record struct {
	Machine join.Machine `json:"machine"`
	// Address is what the PC said when it joined.
	Address string `json:"address"`
	// Credential is that of its machine certificate, as the API server names it in requests.
	Credential string `json:"credential"`
	// Previous is that of the machine certificate with which the PC asked for its present one: good as long as its authority is, for a PC whose power
	// failed before it had the new one.
	Previous string `json:"previous,omitempty"`
	// Authority is the hash of the CA that signed the machine certificate.
	Authority string `json:"authority,omitempty"`
	// Followed is when the PC got a machine certificate of that CA for one of the CA before it; zero if it never did.
	Followed time.Time `json:"followed,omitzero"`
	Since    time.Time `json:"since"`
}

// has tells whether the PC may come with this credential.
func (r *record) has(credential string) bool {
	return credential != "" && (credential == r.Credential || credential == r.Previous)
}

// records are kept in the API: nothing here is remembered, so that nothing is ever stale.
type records struct{ client kubernetes.Interface }

// get returns a node's record, nil if there is none.
func (r records) get(ctx context.Context, node string) (*record, error) {
	m, err := r.client.CoreV1().ConfigMaps(join.Namespace).Get(ctx, recordsConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up which PC node %s is: %w", node, err)
	}
	text, ok := m.Data[node]
	if !ok {
		return nil, nil
	}
	var rec record
	if err := json.Unmarshal([]byte(text), &rec); err != nil {
		return nil, fmt.Errorf("read the record of node %s in ConfigMap %s: %w", node, recordsConfigMap, err)
	}
	return &rec, nil
}

// Behind names the nodes whose machine certificate is not of the CA with this hash: those that have not followed a change of authorities. last is when the last of the
// others did.
func Behind(ctx context.Context, client kubernetes.Interface, caHash string) (names []string, last time.Time, err error) {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, last, fmt.Errorf("look which nodes there are: %w", err)
	}
	for _, n := range nodes.Items {
		rec, err := records{client}.get(ctx, n.Name)
		if err != nil {
			return nil, last, err
		}
		switch {
		case rec == nil || rec.Authority != caHash:
			names = append(names, n.Name)
		case rec.Followed.After(last):
			last = rec.Followed
		}
	}
	return names, last, nil
}

// put notes a node's record.
func (r records) put(ctx context.Context, node string, rec record) error {
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	maps := r.client.CoreV1().ConfigMaps(join.Namespace)
	m, err := maps.Get(ctx, recordsConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		m = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: recordsConfigMap, Namespace: join.Namespace}, Data: map[string]string{node: string(text)}}
		_, err = maps.Create(ctx, m, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return fmt.Errorf("note which PC node %s is: %w", node, err)
	}
	if m.Data == nil {
		m.Data = map[string]string{}
	}
	m.Data[node] = string(text)
	if _, err := maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("note which PC node %s is: %w", node, err)
	}
	return nil
}
