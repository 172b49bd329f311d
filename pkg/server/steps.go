package server

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"

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
	// The API server makes its own namespaces a moment after it began to serve.
	err = wait.PollUntilContextCancel(ctx, 10*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		err := s.apply(ctx, "rbac")
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
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
