package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/labk/labk/package/ocitar"
)

// hashDiff takes a layer as applied when it could be read, so that nothing is mounted.
type hashDiff struct {
	diff.Comparer
	store content.Provider
}

func (d hashDiff) Apply(ctx context.Context, desc ocispec.Descriptor, _ []mount.Mount, _ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	_, err := content.ReadBlob(ctx, d.store, desc)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: desc.Digest, Size: desc.Size}, err
}

// newClient returns a client of containerd's own stores in a folder, without a daemon.
func newClient(t *testing.T) *containerd.Client {
	t.Helper()
	dir := t.TempDir()
	blobs, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	snapshotter, err := native.NewSnapshotter(filepath.Join(dir, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { snapshotter.Close() })
	file, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	db := metadata.NewDB(file, blobs, map[string]snapshots.Snapshotter{"overlayfs": snapshotter})
	if err := db.Init(context.Background()); err != nil {
		t.Fatal(err)
	}
	client, err := containerd.New("", containerd.WithServices(
		containerd.WithContentStore(db.ContentStore()),
		containerd.WithImageStore(metadata.NewImageStore(db)),
		containerd.WithLeasesService(metadata.NewLeaseManager(db)),
		containerd.WithSnapshotters(map[string]snapshots.Snapshotter{"overlayfs": db.Snapshotter("overlayfs")}),
		containerd.WithNamespaceService(noNamespaces{}),
		containerd.WithDiffService(hashDiff{store: db.ContentStore()}),
	))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// archiveOf returns an archive of images, whose layers contain the given text.
func archiveOf(t *testing.T, arch, text string, refs ...string) ([]byte, map[string]string) {
	t.Helper()
	var all []ocitar.Image
	for _, ref := range refs {
		entries := []tar.Header{{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644}}
		layer, err := ocitar.Layer(entries, func(string) ([]byte, error) { return []byte(text + ref), nil })
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ocitar.Image{Ref: ref, Arch: arch, Layer: layer})
	}
	var buf bytes.Buffer
	digests, err := ocitar.Write(&buf, all)
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), digests
}

// source is a Source in memory that counts its readings.
type source struct {
	data []byte
	refs map[string]string
	read int
}

func (s *source) ImageRefs() map[string]string { return s.refs }

func (s *source) Images() (io.ReadCloser, error) {
	s.read++
	return io.NopCloser(bytes.NewReader(s.data)), nil
}

const refA, refB = "docker.io/labtest/a:1", "docker.io/labtest/b:1"

func TestEnsureImportsOnce(t *testing.T) {
	ctx, client := context.Background(), newClient(t)
	data, refs := archiveOf(t, runtime.GOARCH, "one", refA, refB)
	src := &source{data: data, refs: refs}
	for _, want := range []bool{true, false} {
		if imported, err := Ensure(ctx, client, src); err != nil || imported != want {
			t.Fatalf("imported %v, error %v; want %v", imported, err, want)
		}
	}
	if src.read != 1 {
		t.Errorf("the archive was read %d times, want once", src.read)
	}
	list, err := List(ctx, client)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Ref != refA || list[1].Ref != refB {
		t.Fatalf("List: %+v", list)
	}
	for _, i := range list {
		if !i.Pinned || i.Digest != refs[i.Ref] || i.Size <= 0 {
			t.Errorf("List: %+v, want it pinned, with digest %s", i, refs[i.Ref])
		}
	}
}

func TestEnsureImportsAgain(t *testing.T) {
	ctx := namespaces.WithNamespace(context.Background(), Namespace)
	for name, change := range map[string]func(*containerd.Client) error{
		"removed": func(c *containerd.Client) error { return c.ImageService().Delete(ctx, refA) },
		"unpinned": func(c *containerd.Client) error {
			image, err := c.ImageService().Get(ctx, refA)
			if err != nil {
				return err
			}
			delete(image.Labels, pinnedLabel)
			_, err = c.ImageService().Update(ctx, image, "labels")
			return err
		},
		"not unpacked": func(c *containerd.Client) error {
			image, err := c.GetImage(ctx, refA)
			if err != nil {
				return err
			}
			chain, err := image.RootFS(ctx)
			if err != nil {
				return err
			}
			return c.SnapshotService("overlayfs").Remove(ctx, chain[0].String())
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t)
			data, refs := archiveOf(t, runtime.GOARCH, "one", refA)
			src := &source{data: data, refs: refs}
			if _, err := Ensure(ctx, client, src); err != nil {
				t.Fatal(err)
			}
			if err := change(client); err != nil {
				t.Fatal(err)
			}
			if imported, err := Ensure(ctx, client, src); err != nil || !imported {
				t.Fatalf("imported %v, error %v; want it imported again", imported, err)
			}
			if there, err := Present(ctx, client, refs); err != nil || !there {
				t.Errorf("Present: %v, %v", there, err)
			}
		})
	}
}

func TestImportReplaces(t *testing.T) {
	ctx, client := context.Background(), newClient(t)
	for _, text := range []string{"old", "new"} {
		data, refs := archiveOf(t, runtime.GOARCH, text, refA)
		names, err := Import(ctx, client, bytes.NewReader(data))
		if err != nil || len(names) != 1 || names[0] != refA {
			t.Fatalf("Import: %v, %v", names, err)
		}
		if there, err := Present(ctx, client, refs); err != nil || !there {
			t.Errorf("%s image: Present: %v, %v", text, there, err)
		}
	}
}

// A cut anywhere must be told as such and leave no image.
func TestImportTruncated(t *testing.T) {
	ctx, client := context.Background(), newClient(t)
	data, _ := archiveOf(t, runtime.GOARCH, strings.Repeat("0123456789abcdef", 1000), refA)
	end := len(bytes.TrimRight(data, "\x00"))
	for cut := 600; cut < end; cut += 700 {
		_, err := Import(ctx, client, bytes.NewReader(data[:cut]))
		if !errors.Is(err, ErrTruncated) {
			t.Fatalf("cut at %d of %d: got %v, want ErrTruncated", cut, len(data), err)
		}
	}
	if list, err := List(ctx, client); err != nil || len(list) != 0 {
		t.Errorf("List: %v, %v; want none", list, err)
	}
	if _, err := Import(ctx, client, bytes.NewReader(data)); err != nil {
		t.Errorf("the whole archive after the truncated ones: %v", err)
	}
}

func TestImportOtherPlatform(t *testing.T) {
	ctx, client := context.Background(), newClient(t)
	data, _ := archiveOf(t, "s390x", "one", refA)
	_, err := Import(ctx, client, bytes.NewReader(data))
	if err == nil || !strings.Contains(err.Error(), "is for linux/s390x, this machine is") {
		t.Errorf("got %v, want an error that names both platforms", err)
	}
	if list, err := List(ctx, client); err != nil || len(list) != 0 {
		t.Errorf("List: %v, %v; want none", list, err)
	}
}

func TestImportAnotherTar(t *testing.T) {
	_, err := Import(context.Background(), newClient(t), bytes.NewReader(tarOf(t, map[string]string{"notes.txt": "text"})))
	if !errors.Is(err, ErrNotArchive) {
		t.Errorf("got %v, want ErrNotArchive", err)
	}
}

// The error at the end of the source counts, though the tar file ends before.
func TestImportHeedsLateError(t *testing.T) {
	data, _ := archiveOf(t, runtime.GOARCH, "one", refA)
	client, late := newClient(t), errors.New("the hash differs")
	_, err := Import(context.Background(), client, io.MultiReader(bytes.NewReader(data), failing{late}))
	if !errors.Is(err, late) {
		t.Errorf("got %v, want %v", err, late)
	}
	if list, err := List(context.Background(), client); err != nil || len(list) != 0 {
		t.Errorf("List: %v, %v; want none", list, err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// noNamespaces is a namespace service in which no namespace has labels.
type noNamespaces struct{ namespaces.Store }

func (noNamespaces) Labels(context.Context, string) (map[string]string, error) { return nil, nil }
