// Package image puts container images into containerd and keeps them there: labk's own, and those that a person imports from a
// file where no registry can be reached.
package image

import (
	"context"
	"fmt"
	"io"
	"sort"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// Namespace is containerd's namespace for everything of Kubernetes.
const Namespace = "k8s.io"

// Labels by which containerd's CRI plugin knows an image as its own, and tells the kubelet never to remove it.
const (
	managedLabel, managed = labels.CRIContainerdPrefix + ".image", "managed"
	pinnedLabel, pinned   = labels.CRIContainerdPrefix + ".pinned", "pinned"
)

// Source is a set of images that comes with labk.
type Source interface {
	// ImageRefs returns the names of the images with the digests of their manifests.
	ImageRefs() map[string]string
	// Images returns the archive of the images, to be read to its end.
	Images() (io.ReadCloser, error)
}

// Ensure imports the images of src unless all are there already. It tells whether it had to import.
func Ensure(ctx context.Context, client *containerd.Client, src Source) (imported bool, err error) {
	there, err := Present(ctx, client, src.ImageRefs())
	if err != nil || there {
		return false, err
	}
	r, err := src.Images()
	if err != nil {
		return false, err
	}
	defer r.Close()
	_, err = Import(ctx, client, r)
	return err == nil, err
}

// Present tells whether all the images are in containerd with these digests, pinned, and unpacked for use. refs maps names to
// the digests of manifests (sha256:...).
func Present(ctx context.Context, client *containerd.Client, refs map[string]string) (bool, error) {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	for ref, digest := range refs {
		image, err := client.ImageService().Get(ctx, ref)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look up image %s: %w", ref, err)
		}
		if image.Target.Digest.String() != digest || !isPinned(image) {
			return false, nil
		}
		unpacked, err := containerd.NewImage(client, image).IsUnpacked(ctx, "")
		if errdefs.IsNotFound(err) || err == nil && !unpacked {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look up image %s: %w", ref, err)
		}
	}
	return true, nil
}

// Image is an image in containerd.
type Image struct {
	// Ref is the name.
	Ref string `json:"ref"`
	// Digest is that of the manifest or index, sha256:...
	Digest string `json:"digest"`
	// Size is what the image takes in containerd's content store, bytes; -1 if parts of it are not there.
	Size int64 `json:"size"`
	// Pinned tells that the kubelet never removes the image.
	Pinned bool `json:"pinned"`
}

// List returns the images that Kubernetes can use, by name. The names that containerd makes from digests are left out.
func List(ctx context.Context, client *containerd.Client) ([]Image, error) {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	all, err := client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []Image
	for _, i := range all {
		if isDigest(i.Name) {
			continue
		}
		size, err := containerd.NewImage(client, i).Size(ctx)
		if err != nil {
			size = -1
		}
		out = append(out, Image{Ref: i.Name, Digest: i.Target.Digest.String(), Size: size, Pinned: isPinned(i)})
	}
	sort.Slice(out, func(a, b int) bool { return out[a].Ref < out[b].Ref })
	return out, nil
}

func isPinned(i images.Image) bool {
	return i.Labels[managedLabel] == managed && i.Labels[pinnedLabel] == pinned
}
