package dump

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
)

func records() []Record {
	return []Record{
		{Key: []byte("/registry/a"), Value: []byte("one"), CreateRevision: 3, ModRevision: 9, Version: 4},
		{Key: []byte("/registry/b"), Value: []byte{}, CreateRevision: 12, ModRevision: 12, Version: 1, TTL: 3600},
		{Key: []byte("/registry/b/c"), Value: bytes.Repeat([]byte{0, 255}, piece), CreateRevision: 40, ModRevision: 40},
	}
}

func stream(t testing.TB, revision int64, all ...Record) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, revision)
	for _, r := range all {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func read(data []byte) (revision int64, all []Record, err error) {
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		return 0, nil, err
	}
	for {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r.Revision(), all, nil
		}
		if err != nil {
			return 0, nil, err
		}
		all = append(all, record)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, all := range [][]Record{nil, records()} {
		revision, got, err := read(stream(t, 40, all...))
		if err != nil || revision != 40 || !reflect.DeepEqual(got, all) {
			t.Errorf("of %d records: revision %d, %d records, %v", len(all), revision, len(got), err)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	good := Record{Key: []byte("/b"), CreateRevision: 1, ModRevision: 2}
	for name, change := range map[string]func(r *Record){
		"no key":            func(r *Record) { r.Key = nil },
		"a long key":        func(r *Record) { r.Key = bytes.Repeat([]byte("b"), MaxKey+1) },
		"a long value":      func(r *Record) { r.Value = make([]byte, MaxValue+1) },
		"a key twice":       func(r *Record) { r.Key = []byte("/a") },
		"a key too late":    func(r *Record) { r.Key = []byte("/A") },
		"made after change": func(r *Record) { r.CreateRevision = 3 },
		"of the future":     func(r *Record) { r.ModRevision = 11 },
		"a negative TTL":    func(r *Record) { r.TTL = -1 },
	} {
		w := NewWriter(io.Discard, 10)
		if err := w.Write(Record{Key: []byte("/a")}); err != nil {
			t.Fatal(err)
		}
		bad := good
		change(&bad)
		if err := w.Write(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := w.Write(good); err == nil {
			t.Errorf("%s: the writer went on", name)
		}
		if err := w.Close(); err == nil {
			t.Errorf("%s: the stream was ended as if it were whole", name)
		}
	}
}

// Wherever a byte is changed or the stream ends, it is refused.
func TestDamageIsFound(t *testing.T) {
	all := records()
	all[2].Value = []byte("short")
	good := stream(t, 40, all...)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, _, err := read(bad); err == nil {
			t.Errorf("byte %d of %d changed: no error", i, len(good))
		}
		if _, _, err := read(good[:i]); err == nil || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("cut off after %d of %d bytes: %v", i, len(good), err)
		}
	}
	if _, _, err := read(append(bytes.Clone(good), 0)); err == nil {
		t.Error("a byte after the end: no error")
	}
}

func TestNewerFormatIsSaid(t *testing.T) {
	_, err := NewReader(strings.NewReader(magic + "\x02\x05"))
	if format := new(FormatError); !errors.As(err, &format) || !strings.Contains(err.Error(), "newer") {
		t.Error(err)
	}
}

type failing struct{ after int }

func (f *failing) Read(p []byte) (int, error) {
	if f.after == 0 {
		return 0, errors.New("the disk is broken")
	}
	f.after--
	p[0] = magic[0]
	return 1, nil
}

// What is wrong underneath is not called the stream's fault.
func TestReadError(t *testing.T) {
	_, err := NewReader(&failing{after: 3})
	if format := new(FormatError); errors.As(err, &format) || err == nil || !strings.Contains(err.Error(), "the disk is broken") {
		t.Error(err)
	}
}

// A false length costs no memory that is not there to be read.
func TestFalseLength(t *testing.T) {
	data := binary.AppendUvarint([]byte(magic+"\x01\x28"), maxRecord)
	result := testing.Benchmark(func(b *testing.B) {
		for range b.N {
			if _, _, err := read(data); err == nil {
				b.Error("no error")
			}
		}
	})
	if got := result.AllocedBytesPerOp(); got > 4*piece {
		t.Errorf("%d bytes of memory for a stream of %d", got, len(data))
	}
	if _, _, err := read(binary.AppendUvarint([]byte(magic+"\x01\x28"), 1<<62)); err == nil || !strings.Contains(err.Error(), "possible") {
		t.Error(err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(stream(f, 40, records()[:2]...))
	f.Add(stream(f, 0))
	f.Add([]byte(magic + "\x01\x28\x07\x01\x01\x01\x00\x02/a"))
	f.Add([]byte(magic + "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		revision, all, err := read(data)
		if err != nil {
			return
		}
		// Whatever is accepted means the same when it is written anew.
		again, same, err := read(stream(t, revision, all...))
		if err != nil || again != revision || fmt.Sprint(same) != fmt.Sprint(all) {
			t.Fatalf("read %d records, again %d: %v", len(all), len(same), err)
		}
	})
}
