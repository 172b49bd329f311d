package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstded(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func TestOpenArchive(t *testing.T) {
	plain := tarOf(t, map[string]string{"index.json": "{}"})
	long := tarOf(t, map[string]string{strings.Repeat("long/", 60) + "name": "{}"}) // begins with an extended header
	for name, data := range map[string][]byte{
		"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain), "extended": long,
	} {
		t.Run(name, func(t *testing.T) {
			a, err := openArchive(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			defer a.close()
			if err := a.drain(); err != nil {
				t.Fatal(err)
			}
			if !a.ended || !a.whole {
				t.Errorf("ended %v, whole %v; want both", a.ended, a.whole)
			}
		})
	}
}

func TestNoArchive(t *testing.T) {
	for name, c := range map[string]struct{ data, says string }{
		"empty":     {"", "empty"},
		"text":      {strings.Repeat("some text\n", 100), "no tar file"},
		"short":     {"x", "no tar file"},
		"xz":        {"\xfd7zXZ\x00....", "xz -d"},
		"zip":       {"PK\x03\x04....", "zip"},
		"gzip text": {string(gzipped(t, []byte("text"))), "no tar file"},
		"zeros":     {string(make([]byte, 10240)), "empty tar"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openArchive(strings.NewReader(c.data))
			if !errors.Is(err, ErrNotArchive) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want ErrNotArchive that says %q", err, c.says)
			}
		})
	}
}

func TestTruncatedCompression(t *testing.T) {
	plain := tarOf(t, map[string]string{"blob": strings.Repeat("0123456789", 1000), "index.json": "{}"})
	for name, data := range map[string][]byte{"gzip": gzipped(t, plain), "zstd": zstded(t, plain)} {
		t.Run(name, func(t *testing.T) {
			a, err := openArchive(bytes.NewReader(data[:len(data)-6]))
			if err == nil {
				err = a.drain()
			}
			if !errors.Is(err, ErrTruncated) {
				t.Errorf("got %v, want ErrTruncated", err)
			}
		})
	}
}

func TestRefOf(t *testing.T) {
	for _, c := range []struct{ name, ref, want, says string }{
		{name: "docker.io/labk/hello:1", want: "docker.io/labk/hello:1"},
		{name: "busybox", want: "docker.io/library/busybox:latest"},
		{ref: "quay.io/a/b:2", want: "quay.io/a/b:2"},
		{name: "docker.io/labk/hello:1", ref: "1", want: "docker.io/labk/hello:1"},
		{ref: "1", says: "no full name"},
		{says: "no full name"},
		{name: "a/UPPER", says: "named"},
	} {
		got, err := refOf(map[string]string{"io.containerd.image.name": c.name, "org.opencontainers.image.ref.name": c.ref})
		if got != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q %q: got %q, %v; want %q, %q", c.name, c.ref, got, err, c.want, c.says)
		}
	}
}

func TestCheckPlatform(t *testing.T) {
	amd := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm := ocispec.Platform{OS: "linux", Architecture: "arm64"}
	if err := checkPlatform("a", []ocispec.Platform{arm, amd}, amd); err != nil {
		t.Error(err)
	}
	err := checkPlatform("a", []ocispec.Platform{arm}, amd)
	if err == nil || !strings.Contains(err.Error(), "linux/arm64") || !strings.Contains(err.Error(), "linux/amd64") {
		t.Errorf("got %v, want an error that names both platforms", err)
	}
}
