package ocitar

import (
	"bytes"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// layer is a v1.Layer in memory; go-containerregistry's own know gzip only.
type layer struct {
	tar, stored []byte
	mediaType   types.MediaType
}

// layer is the image's layer as it is stored.
func (i Image) layer() (v1.Layer, error) {
	if !i.Compress {
		return &layer{tar: i.Layer, stored: i.Layer, mediaType: types.OCIUncompressedLayer}, nil
	}
	// One goroutine, so that the bytes do not depend on the number of CPUs.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return &layer{tar: i.Layer, stored: enc.EncodeAll(i.Layer, nil), mediaType: types.OCILayerZStd}, nil
}

func (l *layer) Digest() (v1.Hash, error)            { return hash(l.stored) }
func (l *layer) DiffID() (v1.Hash, error)            { return hash(l.tar) }
func (l *layer) Size() (int64, error)                { return int64(len(l.stored)), nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.mediaType, nil }
func (l *layer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.stored)), nil
}
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.tar)), nil
}

func hash(data []byte) (v1.Hash, error) {
	h, _, err := v1.SHA256(bytes.NewReader(data))
	return h, err
}

func read(r io.ReadCloser, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
