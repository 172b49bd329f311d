// Package payload is what labk carries inside: the programs that it starts (runc, the shim, CNI plugins) and the images that a
// cluster needs. `make build` puts them there (see package/bundle).
package payload

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/labk/labk/pkg/payload/manifest"
)

//go:embed all:bundle
var bundle embed.FS

// ErrMissing says that labk was built without a payload.
var ErrMissing = errors.New("this labk was built without its payload: run make build")

// DamagedError says that a part of the payload is not what was built in.
type DamagedError struct {
	// Part is the file of the payload.
	Part string
	Err  error
}

// Error names the part, what is wrong with it and what to do.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("the payload inside this labk is damaged (%s: %v): install labk again, or run make build", e.Part, e.Err)
}

// Unwrap returns what was wrong.
func (e *DamagedError) Unwrap() error { return e.Err }

// Bundle is a payload. It is read-only: its methods may be called concurrently, but for Unpack into the same folder.
type Bundle struct {
	fsys     fs.FS
	manifest *manifest.Manifest
}

// Open opens the payload inside this program. The error is ErrMissing or a *DamagedError.
func Open() (*Bundle, error) {
	fsys, err := fs.Sub(bundle, "bundle")
	if err != nil {
		return nil, err
	}
	return OpenFS(fsys)
}

// OpenFS opens a payload in a folder. The error is ErrMissing, a *DamagedError, or one of reading.
func OpenFS(fsys fs.FS) (*Bundle, error) {
	data, err := fs.ReadFile(fsys, manifest.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMissing
	}
	if err != nil {
		return nil, fmt.Errorf("read the payload: %w", err)
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return nil, &DamagedError{Part: manifest.File, Err: err}
	}
	return &Bundle{fsys: fsys, manifest: m}, nil
}

// Verify reads the whole payload and compares it with what was built in, unless its programs are in dir (see Unpack): then it was verified before.
// The error is a *DamagedError.
func (b *Bundle) Verify(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, b.Hash())); err == nil {
		return nil
	}
	for name, want := range b.manifest.Archives {
		data, err := fs.ReadFile(b.fsys, name)
		if err != nil {
			return &DamagedError{Part: name, Err: err}
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want.SHA256 {
			return &DamagedError{Part: name, Err: errors.New("its hash differs")}
		}
	}
	return nil
}

// Hash names the payload: 32 hexadecimal digits.
func (b *Bundle) Hash() string { return b.manifest.Hash }

// ImageRefs returns the names of the images with the digests of their manifests (sha256:...).
func (b *Bundle) ImageRefs() map[string]string {
	refs := map[string]string{}
	for _, image := range b.manifest.Images {
		refs[image.Ref] = image.Digest
	}
	return refs
}

// Images returns the archive of the images, an OCI layout in a tar file. Who reads it must read to the end and heed the error
// there: a *DamagedError when what was read is not what was built in.
func (b *Bundle) Images() (io.ReadCloser, error) { return b.open(manifest.Images) }

// open opens an archive of the payload, decompressed and verified while it is read.
func (b *Bundle) open(name string) (io.ReadCloser, error) {
	want := b.manifest.Archives[name]
	file, err := b.fsys.Open(name)
	if err != nil {
		return nil, &DamagedError{Part: name, Err: err}
	}
	a := &archive{name: name, want: want, file: file, sum: sha256.New()}
	if info, err := file.Stat(); err == nil && info.Size() != want.Size {
		file.Close()
		return nil, &DamagedError{Part: name, Err: fmt.Errorf("%d bytes where %d were built in", info.Size(), want.Size)}
	}
	if a.dec, err = zstd.NewReader(io.TeeReader(file, a.sum)); err != nil {
		file.Close()
		return nil, &DamagedError{Part: name, Err: err}
	}
	return a, nil
}

// archive reads a compressed archive and compares its hash at the end.
type archive struct {
	name string
	want manifest.Archive
	file fs.File
	sum  hash.Hash
	dec  *zstd.Decoder
}

func (a *archive) Read(p []byte) (int, error) {
	n, err := a.dec.Read(p)
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF:
		return n, &DamagedError{Part: a.name, Err: err}
	case hex.EncodeToString(a.sum.Sum(nil)) != a.want.SHA256:
		return n, &DamagedError{Part: a.name, Err: errors.New("its hash differs")}
	}
	return n, io.EOF
}

func (a *archive) Close() error {
	a.dec.Close()
	return a.file.Close()
}
