package ocitar

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func write(t *testing.T) ([]byte, map[string]string) {
	t.Helper()
	entries := []tar.Header{
		{Name: "b", Typeflag: tar.TypeReg, Mode: 0o755},
		{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b", Mode: 0o777},
	}
	layer, err := Layer(entries, func(name string) ([]byte, error) { return []byte("content of " + name), nil })
	if err != nil {
		t.Fatal(err)
	}
	images := []Image{
		{Ref: "docker.io/labtest/one:1", Arch: "amd64", Layer: layer, Config: v1.Config{User: "65532:65532", Entrypoint: []string{"/b"}}},
		{Ref: "docker.io/labtest/two:2", Arch: "amd64", Layer: layer},
	}
	var buf bytes.Buffer
	digests, err := Write(&buf, images)
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), digests
}

// unpack writes the files of a tar file into a new folder.
func unpack(t *testing.T, data []byte) string {
	t.Helper()
	dir := t.TempDir()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWriteIsAnImageLayout(t *testing.T) {
	data, digests := write(t)
	index, err := layout.ImageIndexFromPath(unpack(t, data))
	if err != nil {
		t.Fatal(err)
	}
	// Not the layers: the check takes all of them for compressed.
	if err := validate.Index(index, validate.Fast); err != nil {
		t.Error(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, desc := range list.Manifests {
		name := desc.Annotations["io.containerd.image.name"]
		if digests[name] != desc.Digest.String() {
			t.Errorf("%s: digest %s, want %s", name, desc.Digest, digests[name])
		}
	}
	first := list.Manifests[0]
	if tag := first.Annotations["org.opencontainers.image.ref.name"]; tag != "1" {
		t.Errorf("tag %q, want 1", tag)
	}
	image, err := index.Image(first.Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Layers) != 1 || len(config.RootFS.DiffIDs) != 1 || manifest.Layers[0].Digest != config.RootFS.DiffIDs[0] {
		t.Errorf("layers %v, diff ids %v; want one, the same", manifest.Layers, config.RootFS.DiffIDs)
	}
	if config.Config.User != "65532:65532" || config.OS != "linux" || config.Architecture != "amd64" {
		t.Errorf("config: %+v", config)
	}
}

func TestWriteIsReproducible(t *testing.T) {
	one, _ := write(t)
	two, _ := write(t)
	if !bytes.Equal(one, two) {
		t.Error("the same images gave different bytes")
	}
}
