// Command bundle makes the payload that labk carries inside out of programs that have been built: their archive, the archive
// of the images, and the manifest of both. The same programs always give the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/labk/labk/package/ocitar"
	"github.com/labk/labk/pkg/payload/manifest"
)

func main() {
	out := flag.String("out", "pkg/payload/bundle", "folder to write the payload to")
	bin := flag.String("bin", "", "folder of the programs")
	arch := flag.String("arch", runtime.GOARCH, "architecture of the images")
	var images []string
	flag.Func("image", "REF=PROGRAM[,USER:GROUP]: an image that holds and runs one program (repeatable)", func(s string) error {
		images = append(images, s)
		return nil
	})
	flag.Parse()
	if err := run(*out, *bin, *arch, images); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func run(out, bin, arch string, images []string) error {
	m := &manifest.Manifest{Archives: map[string]manifest.Archive{}}
	programs, err := archivePrograms(bin, m)
	if err != nil {
		return fmt.Errorf("archive the programs in %s: %w", bin, err)
	}
	layout, err := archiveImages(images, arch, m)
	if err != nil {
		return err
	}
	// The manifest goes first and comes last: a payload without one counts as not built.
	if err := os.Remove(filepath.Join(out, manifest.File)); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := write(out, manifest.Programs, programs, m); err != nil {
		return err
	}
	if err := write(out, manifest.Images, layout, m); err != nil {
		return err
	}
	m.Hash = m.Sum()
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, manifest.File), append(data, '\n'), 0o644)
}

func archivePrograms(dir string, m *manifest.Manifest) ([]byte, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		p := manifest.Program{Name: e.Name(), Mode: 0o755, Size: int64(len(data)), SHA256: sum(data)}
		m.Programs = append(m.Programs, p)
		h := &tar.Header{Name: p.Name, Typeflag: tar.TypeReg, Mode: int64(p.Mode), Size: p.Size, ModTime: ocitar.Epoch}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), w.Close()
}

func archiveImages(specs []string, arch string, m *manifest.Manifest) ([]byte, error) {
	var images []ocitar.Image
	for _, spec := range specs {
		image, err := programImage(spec, arch)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", spec, err)
		}
		images = append(images, image)
	}
	var buf bytes.Buffer
	digests, err := ocitar.Write(&buf, images)
	if err != nil {
		return nil, err
	}
	for _, image := range images {
		m.Images = append(m.Images, manifest.Image{Ref: image.Ref, Digest: digests[image.Ref]})
	}
	return buf.Bytes(), nil
}

// programImage makes an image of one program: REF=PROGRAM[,USER:GROUP].
func programImage(spec, arch string) (ocitar.Image, error) {
	ref, file, ok := strings.Cut(spec, "=")
	if !ok {
		return ocitar.Image{}, fmt.Errorf("want REF=PROGRAM[,USER:GROUP]")
	}
	file, user, _ := strings.Cut(file, ",")
	name := filepath.Base(file)
	entries := []tar.Header{{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}}
	layer, err := ocitar.Layer(entries, func(string) ([]byte, error) { return os.ReadFile(file) })
	if err != nil {
		return ocitar.Image{}, err
	}
	return ocitar.Image{Ref: ref, Arch: arch, Layer: layer, Compress: true, Config: v1.Config{
		User:       user,
		Entrypoint: []string{"/" + name},
		WorkingDir: "/",
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}}, nil
}

// write compresses data into a file of the payload and notes it in the manifest.
func write(dir, name string, data []byte, m *manifest.Manifest) error {
	// One goroutine, so that the bytes do not depend on the number of CPUs.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	packed := enc.EncodeAll(data, nil)
	m.Archives[name] = manifest.Archive{Size: int64(len(packed)), SHA256: sum(packed)}
	if err := os.WriteFile(filepath.Join(dir, name), packed, 0o644); err != nil {
		return err
	}
	fmt.Printf("payload: %s: %.1f MiB, %.1f MiB unpacked\n", name, mib(len(packed)), mib(len(data)))
	return nil
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

func mib(n int) float64 { return float64(n) / (1 << 20) }
