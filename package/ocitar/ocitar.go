// Package ocitar assembles container images without a container engine and writes them as one OCI image layout in a tar file,
// which containerd and others import. The same input always gives the same bytes.
package ocitar

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"sort"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Epoch is the time of everything in an image.
var Epoch = time.Unix(0, 0).UTC()

// Image is a container image of one layer.
type Image struct {
	// Ref is the full name with tag, docker.io/labk/hello:1.
	Ref string
	// Arch is the architecture as Go spells it.
	Arch string
	// Layer is the layer as a tar file (see Layer).
	Layer []byte
	// Compress stores the layer compressed (zstd).
	Compress bool
	// Config is what the image says about running it.
	Config v1.Config
}

// Layer makes a layer of the given entries, sorted by name, at time Epoch. An entry's Name is relative to the root; body is
// asked for the content of regular files and may be nil when there are none.
func Layer(entries []tar.Header, body func(name string) ([]byte, error)) ([]byte, error) {
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name })
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e
		h.ModTime, h.AccessTime, h.ChangeTime = Epoch, time.Time{}, time.Time{}
		h.Format = tar.FormatPAX
		var data []byte
		if h.Typeflag == tar.TypeReg {
			var err error
			if data, err = body(h.Name); err != nil {
				return nil, err
			}
			h.Size = int64(len(data))
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("add %s to a layer: %w", h.Name, err)
		}
		if _, err := w.Write(data); err != nil {
			return nil, fmt.Errorf("add %s to a layer: %w", h.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Write writes the images as one archive and returns the digest of each image's manifest (sha256:...) by its ref.
func Write(w io.Writer, images []Image) (map[string]string, error) {
	out := tar.NewWriter(w)
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	digests := map[string]string{}
	blobs := map[string][]byte{}
	for _, image := range images {
		layer, err := image.layer()
		if err != nil {
			return nil, fmt.Errorf("assemble %s: %w", image.Ref, err)
		}
		built, err := image.build(layer)
		if err != nil {
			return nil, fmt.Errorf("assemble %s: %w", image.Ref, err)
		}
		desc, err := image.describe(built, layer, blobs)
		if err != nil {
			return nil, fmt.Errorf("assemble %s: %w", image.Ref, err)
		}
		index.Manifests = append(index.Manifests, desc)
		digests[image.Ref] = desc.Digest.String()
	}
	list, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": list}
	for name, data := range blobs {
		files[name] = data
	}
	if err := writeFiles(out, files); err != nil {
		return nil, err
	}
	return digests, out.Close()
}

func writeFiles(w *tar.Writer, files map[string][]byte) error {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[name])), ModTime: Epoch}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(files[name]); err != nil {
			return err
		}
	}
	return nil
}

func (i Image) build(layer v1.Layer) (v1.Image, error) {
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.Append(base, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: Epoch}, CreatedBy: "labk"},
	})
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created, file.Config = "linux", i.Arch, v1.Time{Time: Epoch}, i.Config
	return mutate.ConfigFile(image, file)
}

// describe adds the image's blobs to the given ones, by their path in the layout, and returns its entry for the index.
func (i Image) describe(image v1.Image, layer v1.Layer, blobs map[string][]byte) (v1.Descriptor, error) {
	content, err := read(layer.Compressed())
	if err != nil {
		return v1.Descriptor{}, err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return v1.Descriptor{}, err
	}
	var digest v1.Hash
	for _, data := range [][]byte{config, content, manifest} {
		if digest, _, err = v1.SHA256(bytes.NewReader(data)); err != nil {
			return v1.Descriptor{}, err
		}
		blobs[path.Join("blobs", digest.Algorithm, digest.Hex)] = data
	}
	_, tag, _ := cutTag(i.Ref)
	return v1.Descriptor{
		MediaType: types.OCIManifestSchema1,
		Size:      int64(len(manifest)),
		Digest:    digest,
		Platform:  &v1.Platform{OS: "linux", Architecture: i.Arch},
		Annotations: map[string]string{
			"io.containerd.image.name":          i.Ref,
			"org.opencontainers.image.ref.name": tag,
		},
	}, nil
}

// cutTag splits an image's name from its tag.
func cutTag(ref string) (name, tag string, ok bool) {
	for i := len(ref) - 1; i >= 0 && ref[i] != '/'; i-- {
		if ref[i] == ':' {
			return ref[:i], ref[i+1:], true
		}
	}
	return ref, "", false
}
