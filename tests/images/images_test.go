package images

import (
	"archive/tar"
	"context"
	"strings"
	"testing"
)

func TestTreeFollowsMergedUsr(t *testing.T) {
	tree := newTree()
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/tool", Typeflag: tar.TypeReg, Mode: 0o4755},
		{Name: "./usr/bin/same", Linkname: "./bin/tool", Typeflag: tar.TypeLink, Mode: 0o755},
		{Name: "./usr/share/doc/tool/readme", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "./opt/a/b", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := tree.addEntry(h, strings.NewReader(h.Name)); err != nil {
			t.Fatal(err)
		}
	}
	if h := tree.entries["usr/bin/tool"]; h.Typeflag != tar.TypeReg || h.Mode != 0o755 {
		t.Errorf("usr/bin/tool: %+v, want a file without set-uid", h)
	}
	if h := tree.entries["bin"]; h.Typeflag != tar.TypeSymlink {
		t.Errorf("bin: %+v, want the link", h)
	}
	if string(tree.bodies["usr/bin/same"]) != "./bin/tool" {
		t.Error("a hard link has not the content of its target")
	}
	if tree.has("usr/share/doc/tool/readme") {
		t.Error("documentation was kept")
	}
	if !tree.has("opt/a") {
		t.Error("a folder that no package lists is missing")
	}
}

// Made twice, an image comes out of the cache the second time.
func TestBusybox(t *testing.T) {
	dir := t.TempDir()
	first, ref, err := Busybox(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := Busybox(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if first != again || ref != "docker.io/labtest/busybox:1" {
		t.Errorf("got %s, then %s; ref %s", first, again, ref)
	}
}
