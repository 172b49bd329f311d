package server

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/labk/labk/manifests"
	"github.com/labk/labk/pkg/addon"
	"github.com/labk/labk/pkg/controlplane"
)

// grantRights gives Kubernetes' and labk's own parts their rights and returns when the API server heeds them.
func (s *server) grantRights(ctx context.Context) error {
	_, client, err := s.clients()
	if err != nil {
		return err
	}
	if err := controlplane.Bootstrap(ctx, client); err != nil {
		return err
	}
	if err := s.apply(ctx, "rbac"); err != nil {
		return err
	}
	return wait.PollUntilContextCancel(ctx, 10*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		return controlplane.Heeded(ctx, client, "system:node:"+s.cfg.NodeName), nil
	})
}

// applyComponents applies the packaged components that are not disabled.
func (s *server) applyComponents(ctx context.Context) error {
	for _, name := range []string{"coredns"} {
		if slices.Contains(s.cfg.Disable, name) {
			continue
		}
		if err := s.apply(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) apply(ctx context.Context, name string) error {
	manifest, err := fs.ReadFile(manifests.FS, name+".yaml")
	if err != nil {
		return err
	}
	coredns, err := s.payload.ImageRef("coredns")
	if err != nil {
		return err
	}
	filled, err := addon.Fill(manifest, map[string]string{
		"CLUSTER_DNS": s.cfg.DNS(), "CLUSTER_DOMAIN": s.cfg.ClusterDomain, "IMAGE_COREDNS": coredns,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	cfg, _, err := s.clients()
	if err != nil {
		return err
	}
	applier, err := addon.NewApplier(cfg)
	if err != nil {
		return err
	}
	return applier.Apply(ctx, filled)
}

// waitNode waits until this machine's node is Ready, and gives it the role that kubectl shows; the kubelet may not do that itself.
func (s *server) waitNode(ctx context.Context) error {
	_, client, err := s.clients()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector("metadata.name", s.cfg.NodeName))
	labelled := false
	_, err = watchtools.UntilWithSync(ctx, list, &v1.Node{}, nil, func(e watch.Event) (bool, error) {
		n, ok := e.Object.(*v1.Node)
		if !ok {
			return false, nil
		}
		if !labelled {
			if err := label(ctx, client, n.Name); err != nil {
				return false, err
			}
			labelled = true
		}
		return ready(n), nil
	})
	return err
}

func label(ctx context.Context, client kubernetes.Interface, node string) error {
	const patch = `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`
	_, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "labk"})
	return err
}

func ready(n *v1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}
