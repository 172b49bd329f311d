package dump

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// FormatError tells that a stream is not what a Writer has made: damaged, cut off, or of a newer format.
type FormatError struct{ Detail string }

func (e *FormatError) Error() string { return "read a dump: " + e.Detail }

// Reader reads a stream. It trusts nothing in it. It is for one goroutine.
type Reader struct {
	in       *hashed
	revision int64
	count    int64
	last     []byte
	err      error
}

// NewReader reads a stream's header. A *FormatError is that it has none that this labk knows.
func NewReader(r io.Reader) (*Reader, error) {
	d := &Reader{in: &hashed{in: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}}
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(d.in, head); err != nil {
		return nil, broken(err)
	}
	if string(head) != magic {
		return nil, &FormatError{"it does not begin as one"}
	}
	version, err := binary.ReadUvarint(d.in)
	if err != nil {
		return nil, broken(err)
	}
	if version != format {
		return nil, &FormatError{fmt.Sprintf("it has format %d, and this labk knows %d: use the labk that wrote it, or a newer one", version, format)}
	}
	if d.revision, err = d.number(d.in); err != nil {
		return nil, err
	}
	return d, nil
}

// Revision is the datastore's revision that the stream shows.
func (d *Reader) Revision() int64 { return d.revision }

// Count is how many records Next has returned.
func (d *Reader) Count() int64 { return d.count }

// Next returns the next record, whose memory is the caller's. It is io.EOF only when the trailer was there and right: whoever has not seen that must use nothing of what came before. Any other
// error is final.
func (d *Reader) Next() (Record, error) {
	if d.err != nil {
		return Record{}, d.err
	}
	record, err := d.next()
	d.err = err
	return record, err
}

func (d *Reader) next() (Record, error) {
	length, err := binary.ReadUvarint(d.in)
	switch {
	case err != nil:
		return Record{}, broken(err)
	case length == 0:
		return Record{}, d.trailer()
	case length > maxRecord:
		return Record{}, &FormatError{fmt.Sprintf("record %d has %d bytes; %d are possible", d.count+1, length, maxRecord)}
	}
	data, err := d.in.bytes(int(length))
	if err != nil {
		return Record{}, broken(err)
	}
	record, err := d.parse(data)
	if err != nil {
		return Record{}, err
	}
	if err := check(record, d.last, d.revision); err != nil {
		return Record{}, &FormatError{err.Error()}
	}
	d.last = append(d.last[:0], record.Key...)
	d.count++
	return record, nil
}

func (d *Reader) parse(data []byte) (r Record, err error) {
	in := bytes.NewReader(data)
	var key int64
	for _, n := range []*int64{&r.CreateRevision, &r.ModRevision, &r.Version, &r.TTL, &key} {
		if *n, err = d.number(in); err != nil {
			return Record{}, err
		}
	}
	rest := data[len(data)-in.Len():]
	if key > int64(len(rest)) {
		return Record{}, &FormatError{fmt.Sprintf("record %d has a key of %d bytes in %d", d.count+1, key, len(rest))}
	}
	r.Key, r.Value = rest[:key:key], rest[key:]
	return r, nil
}

// number reads a number that an int64 can hold.
func (d *Reader) number(in io.ByteReader) (int64, error) {
	n, err := binary.ReadUvarint(in)
	if err != nil {
		return 0, broken(err)
	}
	if int64(n) < 0 {
		return 0, &FormatError{fmt.Sprintf("number %d near record %d", n, d.count+1)}
	}
	return int64(n), nil
}

// trailer reads what comes after the last record: io.EOF if that is right.
func (d *Reader) trailer() error {
	count, err := d.number(d.in)
	if err != nil {
		return err
	}
	if count != d.count {
		return &FormatError{fmt.Sprintf("it should have %d records and has %d", count, d.count)}
	}
	want := d.in.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(d.in.in, got); err != nil {
		return broken(err)
	}
	if subtle.ConstantTimeCompare(want, got) != 1 {
		return &FormatError{"its checksum is wrong: it was changed or damaged"}
	}
	if _, err := d.in.in.ReadByte(); err == nil {
		return &FormatError{"something comes after its end"}
	} else if !errors.Is(err, io.EOF) {
		return broken(err)
	}
	return io.EOF
}

// broken is the error of a stream that can't be read on: an end before the trailer is the stream's fault, all else the fault of what is underneath.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &FormatError{"it is cut off"}
	}
	return fmt.Errorf("read a dump: %w", err)
}

// hashed adds up what is read through it, and no byte more than that.
type hashed struct {
	in  *bufio.Reader
	sum hash.Hash
	one [1]byte
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.in.Read(p)
	h.sum.Write(p[:n])
	return n, err
}

func (h *hashed) ReadByte() (byte, error) {
	b, err := h.in.ReadByte()
	if err == nil {
		h.one[0] = b
		h.sum.Write(h.one[:])
	}
	return b, err
}

// bytes reads n bytes, and takes memory as they come.
func (h *hashed) bytes(n int) ([]byte, error) {
	data := make([]byte, 0, min(n, piece))
	for len(data) < n {
		more := min(n-len(data), piece)
		from := len(data)
		data = append(data, make([]byte, more)...)
		if _, err := io.ReadFull(h, data[from:]); err != nil {
			return nil, err
		}
	}
	return data, nil
}
