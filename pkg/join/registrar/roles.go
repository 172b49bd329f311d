package registrar

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// The label that kubectl shows as a node's role. A kubelet may not set it itself.
const (
	roleLabel    = "node-role.kubernetes.io/"
	controlPlane = "control-plane"
	worker       = "worker"
)

// labelRoles gives every node that appears in the informer its role.
func (r *registrar) labelRoles(ctx context.Context, nodes cache.SharedIndexInformer) error {
	err := nodes.SetTransform(func(o any) (any, error) {
		if n, ok := o.(*corev1.Node); ok { // only labels are looked at; images and conditions are most of a Node
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: n.Labels}}, nil
		}
		return o, nil
	})
	if err != nil {
		return err
	}
	label := func(o any) {
		n, ok := o.(*corev1.Node)
		if !ok {
			return
		}
		role := roleLabel + worker
		if n.Name == r.Config.NodeName {
			role = roleLabel + controlPlane
		}
		if _, ok := n.Labels[role]; ok {
			return
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{role: ""}}})
		if err == nil {
			_, err = r.client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "labk"})
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "label a node with its role", "node", n.Name) // its next change brings the next try
		}
	}
	_, err = nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: label, UpdateFunc: func(_, o any) { label(o) }})
	return err
}
