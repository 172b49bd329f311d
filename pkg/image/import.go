package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	importer "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Import puts the images of an archive (OCI layout or docker's, as it is or compressed with gzip or zstd) into containerd:
// unpacked for this machine's platform, and pinned, so that the kubelet never removes them. It returns their names. Nothing
// is named before everything is unpacked and the archive has been read to its end, so after an error there are no
// new images; the parts are left to containerd's garbage collection. Errors: ErrNotArchive, ErrTruncated, or what is wrong in words.
func Import(ctx context.Context, client *containerd.Client, r io.Reader) ([]string, error) {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	a, err := openArchive(r)
	if err != nil {
		return nil, err
	}
	defer a.close()
	// The lease keeps the garbage collector away until the images have names.
	ctx, done, err := client.WithLease(ctx)
	if err != nil {
		return nil, fmt.Errorf("import images: lease in containerd: %w", err)
	}
	defer done(context.WithoutCancel(ctx))
	i := &imports{Client: client, began: time.Now()}
	found, err := i.read(ctx, a)
	if err != nil {
		i.abandon(context.WithoutCancel(ctx))
		return nil, err
	}
	for _, image := range found {
		if err := i.unpack(ctx, image); err != nil {
			return nil, err
		}
	}
	return i.name(ctx, found)
}

// imports is one run of Import.
type imports struct {
	*containerd.Client
	began time.Time
}

// read stores the archive's content and returns its images.
func (i *imports) read(ctx context.Context, a *archive) ([]images.Image, error) {
	index, err := importer.ImportIndex(ctx, i.ContentStore(), a)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, i.explain(a, err)
	}
	if err := a.drain(); err != nil {
		return nil, err
	}
	data, err := content.ReadBlob(ctx, i.ContentStore(), index)
	if err != nil {
		return nil, i.explain(a, err)
	}
	var list ocispec.Index
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%w: its index: %v", ErrNotArchive, err)
	}
	var found []images.Image
	for _, desc := range list.Manifests {
		image, err := i.describe(ctx, desc)
		if err != nil {
			return nil, i.explain(a, err)
		}
		found = append(found, image)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: there is no image in it", ErrNotArchive)
	}
	return found, nil
}

// explain makes an error of the archive's content one that helps.
func (i *imports) explain(a *archive, err error) error {
	if strings.Contains(err.Error(), "unrecognized image format") && (!a.ended || a.whole) {
		return fmt.Errorf("%w: it has neither index.json nor manifest.json", ErrNotArchive)
	}
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w (%v)", ErrTruncated, err)
	}
	return a.explain(err)
}

// describe names an image and checks that it runs on this machine.
func (i *imports) describe(ctx context.Context, desc ocispec.Descriptor) (images.Image, error) {
	name, err := refOf(desc.Annotations)
	if err != nil {
		return images.Image{}, err
	}
	has, err := i.platformsOf(ctx, desc)
	if err != nil {
		return images.Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	if err := checkPlatform(name, has, platforms.DefaultSpec()); err != nil {
		return images.Image{}, err
	}
	labels := map[string]string{managedLabel: managed, pinnedLabel: pinned}
	return images.Image{Name: name, Target: desc, Labels: labels}, nil
}

func (i *imports) platformsOf(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Platform, error) {
	if desc.Platform != nil && !images.IsIndexType(desc.MediaType) {
		return []ocispec.Platform{*desc.Platform}, nil
	}
	return images.Platforms(ctx, i.ContentStore(), desc)
}

// checkPlatform returns an error unless one of the platforms that an image is for runs on the machine's.
func checkPlatform(name string, has []ocispec.Platform, machine ocispec.Platform) error {
	fits := platforms.Only(machine)
	var all []string
	for _, p := range has {
		if fits.Match(p) {
			return nil
		}
		all = append(all, platforms.Format(p))
	}
	return fmt.Errorf("image %s is for %s, this machine is %s: get the image for this platform", name, strings.Join(all, ", "),
		platforms.Format(machine))
}

// refOf returns an image's full name from the annotations of its entry in an index.
func refOf(annotations map[string]string) (string, error) {
	name := annotations[images.AnnotationImageName]
	if name == "" {
		name = annotations[ocispec.AnnotationRefName]
		if !strings.ContainsAny(name, "/:") { // a tag alone, as the OCI layout has it
			return "", fmt.Errorf("an image in the archive has no full name (found %q): save it by its name, as in "+
				"`docker save NAME:TAG`", name)
		}
	}
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("an image in the archive is named %q: %w", name, err)
	}
	return ref.String(), nil
}

// unpack marks what belongs to the image, for the garbage collector, and unpacks it into the default snapshotter.
func (i *imports) unpack(ctx context.Context, image images.Image) error {
	store := i.ContentStore()
	children := images.FilterPlatforms(images.ChildrenHandler(store), platforms.Default())
	err := images.WalkNotEmpty(ctx, images.SetChildrenLabels(store, children), image.Target)
	if err == nil {
		err = containerd.NewImage(i.Client, image).Unpack(ctx, "")
	}
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err):
		return fmt.Errorf("image %s: %w (%v)", image.Name, ErrTruncated, err)
	}
	return fmt.Errorf("unpack image %s: %w", image.Name, err)
}

// name makes the images known, to containerd's CRI plugin too, which hears of it by an event.
func (i *imports) name(ctx context.Context, all []images.Image) ([]string, error) {
	var names []string
	for _, image := range all {
		_, err := i.ImageService().Create(ctx, image)
		if errdefs.IsAlreadyExists(err) {
			_, err = i.ImageService().Update(ctx, image, "target", "labels")
		}
		if err != nil {
			return names, fmt.Errorf("name image %s in containerd: %w", image.Name, err)
		}
		names = append(names, image.Name)
	}
	return names, nil
}

// abandon drops what a failed import had half written: another archive with the same file names would be appended to it.
func (i *imports) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	writes, err := i.ContentStore().ListStatuses(ctx)
	if err != nil {
		return // it goes away by itself after a day
	}
	for _, w := range writes {
		if strings.HasPrefix(w.Ref, "tar-") && !w.StartedAt.Before(i.began) {
			if err := i.ContentStore().Abort(ctx, w.Ref); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
				return
			}
		}
	}
}

// isDigest tells whether an image's name is only a digest: the CRI plugin adds such names.
func isDigest(name string) bool {
	_, err := digest.Parse(name)
	return err == nil
}
