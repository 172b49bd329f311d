package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Errors of an archive of images. Both are wrapped with what was found.
var (
	// ErrNotArchive says that the input is not an archive of images.
	ErrNotArchive = errors.New("not an archive of images (want what `docker save`, `podman save` or `ctr image export` write)")
	// ErrTruncated says that the archive ends too early.
	ErrTruncated = errors.New("the archive of images is truncated or incomplete: copy or make it again")
)

// tarBlock is the unit of tar files; two of them filled with zeros are the end of one.
const tarBlock = 512

// foreign are formats that people try, by their first bytes.
var foreign = []struct{ magic, name string }{
	{"\xfd7zXZ\x00", "xz-compressed: decompress it first, with `xz -d`"},
	{"BZh", "bzip2-compressed: decompress it first, with `bzip2 -d`"},
	{"PK\x03\x04", "a zip file"},
	{"\x7fELF", "a program"},
}

// openArchive returns the tar file in r, which may be compressed with gzip or zstd. Closing it leaves r open.
func openArchive(r io.Reader) (*archive, error) {
	raw := bufio.NewReaderSize(r, 1<<20)
	head, err := raw.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the archive of images: %w", err)
	}
	a := &archive{close: func() {}}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(raw)
		if err != nil {
			return nil, truncated(err)
		}
		a.r = bufio.NewReaderSize(z, 1<<20)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(raw)
		if err != nil {
			return nil, truncated(err)
		}
		a.close = z.Close
		a.r = bufio.NewReaderSize(z, 1<<20)
	default:
		a.r = raw
	}
	if err := a.check(); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// archive is an opened tar file that notes how it ended.
type archive struct {
	r     *bufio.Reader
	close func()
	// err is the first error of reading other than the end.
	err error
	// ended is set at the end of the input; whole tells that the last block read was the one that ends a tar file.
	ended, whole bool
	tail         [tarBlock]byte
}

// check looks at the first block.
func (a *archive) check() error {
	head, err := a.r.Peek(tarBlock)
	if len(head) == 0 && err == io.EOF {
		return fmt.Errorf("%w: it is empty", ErrNotArchive)
	}
	for _, f := range foreign {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return fmt.Errorf("%w: it is %s", ErrNotArchive, f.name)
		}
	}
	if err != nil && err != io.EOF {
		return truncated(err)
	}
	// Only a sound header, or one that goes on in the next block, is a tar file's.
	_, err = tar.NewReader(bytes.NewReader(head)).Next()
	switch {
	case err == nil:
		return nil
	case len(head) == tarBlock && errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	case err == io.EOF:
		return fmt.Errorf("%w: it is an empty tar file", ErrNotArchive)
	}
	return fmt.Errorf("%w: it is no tar file, nor one compressed with gzip or zstd", ErrNotArchive)
}

func (a *archive) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	a.note(p[:n])
	switch {
	case err == io.EOF:
		a.ended = true
		a.whole = a.tail == [tarBlock]byte{}
	case err != nil && a.err == nil:
		a.err = err
	}
	return n, err
}

// note keeps the last block's worth of what was read.
func (a *archive) note(p []byte) {
	if len(p) >= tarBlock {
		copy(a.tail[:], p[len(p)-tarBlock:])
		return
	}
	copy(a.tail[:], a.tail[len(p):])
	copy(a.tail[tarBlock-len(p):], p)
}

// drain reads the rest, behind the end of the tar file, so that what checks the input has seen all of it.
func (a *archive) drain() error {
	_, err := io.Copy(io.Discard, a)
	if err != nil {
		return truncated(err)
	}
	return nil
}

// explain tells the cause of an import's failure: the input's own error, if it had one.
func (a *archive) explain(err error) error {
	if a.err != nil {
		return truncated(a.err)
	}
	if a.ended && !a.whole {
		return fmt.Errorf("%w (%v)", ErrTruncated, err)
	}
	return truncated(err)
}

// truncated wraps an error of reading as ErrTruncated if that is what it means.
func truncated(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w (%v)", ErrTruncated, err)
	}
	return err
}
