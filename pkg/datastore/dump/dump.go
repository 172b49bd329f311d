// Package dump is all that a datastore holds at one revision, as one stream. Every kind of datastore can be read into it and built from it, so that snapshots, restores and migrations are the
// same for all of them.
//
// The format, version 1. Numbers are unsigned varints as encoding/binary writes them.
//
//	header   "labkdump", the version, the revision
//	record   the length of what follows; create revision, mod revision, version, TTL, the key's length, the key, the value
//	...      one record a key, keys strictly ascending byte by byte
//	trailer  0 (no record has that length), the number of records, SHA-256 of all before it, from the header on
//
// Nothing comes after the trailer.
package dump

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Limits of what a stream may contain. Kubernetes' keys are paths of a few hundred bytes; no datastore takes a value of more than a few MiB.
const (
	MaxKey   = 64 << 10
	MaxValue = 32 << 20
)

const (
	magic     = "labkdump"
	format    = 1
	maxRecord = 5*binary.MaxVarintLen64 + MaxKey + MaxValue
	// piece is how much of a record is read before more memory is taken: a false length costs no more.
	piece = 1 << 20
)

// Record is one key that lives.
type Record struct {
	Key, Value []byte
	// CreateRevision and ModRevision are when the key came to be and when it was changed last; Version counts its changes from 1, or is 0 where the datastore does not count.
	CreateRevision, ModRevision, Version int64
	// TTL is in how many seconds the key ends; 0 if it stays.
	TTL int64
}

// Writer writes a stream. It is for one goroutine.
type Writer struct {
	out      *bufio.Writer
	sum      hash.Hash
	revision int64
	count    uint64
	last     []byte
	scratch  []byte
	err      error
}

// NewWriter begins a stream of the revision. What is wrong with the writer underneath shows at Write or Close.
func NewWriter(w io.Writer, revision int64) *Writer {
	sum := sha256.New()
	d := &Writer{out: bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10), sum: sum, revision: revision}
	if revision < 0 {
		d.err = fmt.Errorf("write a dump: revision %d", revision)
		return d
	}
	head := binary.AppendUvarint([]byte(magic), format)
	_, d.err = d.out.Write(binary.AppendUvarint(head, uint64(revision)))
	return d
}

// Write adds a record; its key comes after all before. After an error the stream is worth nothing.
func (d *Writer) Write(r Record) error {
	if d.err == nil {
		d.err = check(r, d.last, d.revision)
	}
	if d.err != nil {
		return d.err
	}
	head := d.scratch[:0]
	for _, n := range []int64{r.CreateRevision, r.ModRevision, r.Version, r.TTL, int64(len(r.Key))} {
		head = binary.AppendUvarint(head, uint64(n))
	}
	d.scratch = head
	length := binary.AppendUvarint(nil, uint64(len(head)+len(r.Key)+len(r.Value)))
	for _, part := range [][]byte{length, head, r.Key, r.Value} {
		if _, d.err = d.out.Write(part); d.err != nil {
			return d.err
		}
	}
	d.last = append(d.last[:0], r.Key...)
	d.count++
	return nil
}

// Close ends the stream with its trailer; a stream without is not whole. It does not close the writer underneath.
func (d *Writer) Close() error {
	if d.err != nil {
		return d.err
	}
	if _, d.err = d.out.Write(binary.AppendUvarint([]byte{0}, d.count)); d.err != nil {
		return d.err
	}
	if d.err = d.out.Flush(); d.err != nil {
		return d.err
	}
	if _, d.err = d.out.Write(d.sum.Sum(nil)); d.err != nil {
		return d.err
	}
	if d.err = d.out.Flush(); d.err != nil {
		return d.err
	}
	d.err = errors.New("write a dump: it is closed")
	return nil
}

// check tells what is wrong with a record that comes after the key last, in a stream of the revision.
func check(r Record, last []byte, revision int64) error {
	switch {
	case len(r.Key) == 0 || len(r.Key) > MaxKey:
		return fmt.Errorf("a key of %d bytes; 1 to %d are possible", len(r.Key), MaxKey)
	case len(r.Value) > MaxValue:
		return fmt.Errorf("%q has a value of %d bytes; %d are possible", r.Key, len(r.Value), MaxValue)
	case bytes.Compare(last, r.Key) >= 0:
		return fmt.Errorf("%q comes after %q", r.Key, last)
	case r.CreateRevision < 0 || r.CreateRevision > r.ModRevision || r.ModRevision > revision:
		return fmt.Errorf("%q has create revision %d and mod revision %d in a dump of revision %d", r.Key, r.CreateRevision, r.ModRevision, revision)
	case r.Version < 0 || r.TTL < 0:
		return fmt.Errorf("%q has version %d and TTL %d", r.Key, r.Version, r.TTL)
	}
	return nil
}
