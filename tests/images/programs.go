package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
)

// Programs makes a tar archive of Debian packages with all that they depend on, as one file system. Nothing is installed: what the
// packages would do then (start services, above all) is not done. dir is as for Busybox; name is that of the archive.
func Programs(ctx context.Context, dir, name string, packages ...string) (tarPath string, err error) {
	tarPath, err = cached(ctx, dir, name, packages, func(debs []string) ([]byte, error) {
		t := newTree()
		for _, deb := range debs {
			if err := t.add(ctx, deb); err != nil {
				return nil, err
			}
		}
		return t.archive()
	})
	if err != nil {
		return "", fmt.Errorf("get the programs %s for the tests: %w", name, err)
	}
	return tarPath, nil
}

// archive is the tree as a tar file.
func (t *tree) archive() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		h := t.entries[name]
		h.Size = int64(len(t.bodies[name]))
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(t.bodies[name]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}
