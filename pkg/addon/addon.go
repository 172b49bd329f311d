// Package addon applies packaged components to the cluster: server-side apply, so that what an administrator changed beside labk's own fields
// stays.
package addon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"
)

// fieldManager owns the fields that labk sets.
const fieldManager = "labk"

// Applier applies manifests. Its methods may be called concurrently.
type Applier struct {
	client dynamic.Interface
	mapper meta.RESTMapper
}

// NewApplier returns an applier that works with cfg's rights. It asks the API server which kinds there are, so that must be ready.
func NewApplier(cfg *rest.Config) (*Applier, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	disco, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, err
	}
	groups, err := restmapper.GetAPIGroupResources(disco)
	if err != nil {
		return nil, fmt.Errorf("ask which kinds the API has: %w", err)
	}
	return &Applier{client: client, mapper: restmapper.NewDiscoveryRESTMapper(groups)}, nil
}

// Apply applies every object of a manifest, in its order, and joins the errors of those that were refused.
func (a *Applier) Apply(ctx context.Context, manifest []byte) error {
	objects, err := parse(manifest)
	if err != nil {
		return err
	}
	var all []error
	for _, o := range objects {
		all = append(all, a.apply(ctx, o))
	}
	return errors.Join(all...)
}

func (a *Applier) apply(ctx context.Context, o *unstructured.Unstructured) error {
	gvk := o.GroupVersionKind()
	mapping, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", gvk.Kind, o.GetName(), err)
	}
	resource := a.client.Resource(mapping.Resource)
	var target dynamic.ResourceInterface = resource
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		target = resource.Namespace(o.GetNamespace())
	}
	if _, err := target.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
		return fmt.Errorf("apply %s %s: %w", gvk.Kind, o.GetName(), err)
	}
	return nil
}

func parse(manifest []byte) ([]*unstructured.Unstructured, error) {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifest)))
	var out []*unstructured.Unstructured
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		var o unstructured.Unstructured
		if err := yaml.Unmarshal(doc, &o.Object); err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		if len(o.Object) > 0 {
			out = append(out, &o)
		}
	}
}

var placeholder = regexp.MustCompile(`\$\{[A-Z_]+\}`)

// Fill replaces each ${NAME} of a manifest by its value. One without a value is an error.
func Fill(manifest []byte, values map[string]string) ([]byte, error) {
	var missing []string
	out := placeholder.ReplaceAllStringFunc(string(manifest), func(p string) string {
		v, ok := values[p[2:len(p)-1]]
		if !ok {
			missing = append(missing, p)
		}
		return v
	})
	if len(missing) > 0 {
		return nil, fmt.Errorf("fill in manifest: no value for %s", strings.Join(missing, ", "))
	}
	return []byte(out), nil
}
