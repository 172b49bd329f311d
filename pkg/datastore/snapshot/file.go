// Package snapshot keeps copies of a whole cluster in files, and brings one back: what the datastore holds, the authorities, keys and token, and the key by which Secrets are encrypted. A snapshot is all
// that a new PC needs to be the server of the same cluster.
//
// A file is one line of JSON, the Header, which anybody may read, and then an age file (age-encryption.org) that the secret of the cluster's token opens. In that is a zstd stream, and in that a tar:
//
//	header.json      the header once more: what stands outside could have been changed
//	files/...        files of the data folder, by their paths in it
//	datastore.dump   everything that the datastore holds (pkg/datastore/dump)
//
// So ordinary tools open one, too: tail -n +2 FILE | age -d | zstd -d | tar x
package snapshot

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/labk/labk/pkg/datastore/dump"
)

// format is that of the files; a labk refuses those of a later one.
const format = 1

// Reason is why a snapshot was made.
type Reason string

// The reasons.
const (
	Scheduled Reason = "schedule"
	ByHand    Reason = "hand"
	Upgrade   Reason = "upgrade"
)

// Header says what is in a snapshot.
type Header struct {
	Format int `json:"labkSnapshot"`
	// Name is the file's, without its ending.
	Name    string    `json:"name"`
	Reason  Reason    `json:"reason"`
	Created time.Time `json:"created"`
	// Cluster is the hash of the certificate of its server CA, as tokens name it.
	Cluster string `json:"cluster"`
	// Node is the server that made it, Version that of its labk.
	Node    string `json:"node"`
	Version string `json:"version"`
	// Datastore is the kind of it. It does not matter to a restore.
	Datastore string `json:"datastore"`
	Revision  int64  `json:"revision"`
	Objects   int64  `json:"objects"`
	// Options are those of the cluster that are not as they are by default: a server that takes its place needs the same.
	Options map[string]string `json:"options,omitempty"`
}

// File is one of the data folder.
type File struct {
	// Path in the data folder.
	Path string
	Mode fs.FileMode
	Data []byte
}

const (
	headerName = "header.json"
	filesDir   = "files/"
	dumpName   = "datastore.dump"
)

// Limits of what is believed of a file.
const (
	maxHeader = 64 << 10
	maxFile   = 1 << 20
	maxFiles  = 1000
	maxWindow = 64 << 20
)

// workFactor is scrypt's, as a power of two: 32 MiB of memory for a tenth of a second. A token that labk has made can't be guessed anyway. Of a passphrase that somebody chose it makes guessing slow, not impossible.
const (
	workFactor    = 15
	maxWorkFactor = 20
)

// ErrToken is that the token is not the one that a snapshot was made with.
var ErrToken = errors.New("the token is not the one that the snapshot was made with: give that with --token-file (on the server it was in server/token of the data folder)")

// FormatError tells that a file is no whole snapshot that this labk can read.
type FormatError struct{ Path, Detail string }

func (e *FormatError) Error() string {
	return fmt.Sprintf("read the snapshot %s: %s", e.Path, e.Detail)
}

// write writes a snapshot; size is how many bytes the dump has.
func write(w io.Writer, h Header, secret string, files []File, content io.Reader, size int64) error {
	line, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return err
	}
	recipient, err := age.NewScryptRecipient(secret)
	if err != nil {
		return err
	}
	recipient.SetWorkFactor(workFactor)
	sealed, err := age.Encrypt(w, recipient)
	if err != nil {
		return err
	}
	packed, err := zstd.NewWriter(sealed, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	archive := tar.NewWriter(packed)
	put := func(name string, mode fs.FileMode, size int64, data io.Reader) error {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: int64(mode.Perm()), Size: size, ModTime: h.Created}); err != nil {
			return err
		}
		_, err := io.Copy(archive, data)
		return err
	}
	if err := put(headerName, 0o600, int64(len(line)), bytes.NewReader(line)); err != nil {
		return err
	}
	for _, f := range files {
		if err := put(filesDir+f.Path, f.Mode, int64(len(f.Data)), bytes.NewReader(f.Data)); err != nil {
			return err
		}
	}
	if err := put(dumpName, 0o600, size, content); err != nil {
		return err
	}
	return errors.Join(archive.Close(), packed.Close(), sealed.Close())
}

// Snapshot is one that is being read. It is for one goroutine.
type Snapshot struct {
	Header
	path string
	file *os.File
	in   *bufio.Reader

	unpacked *zstd.Decoder
	archive  *tar.Reader
	dumpSize int64
}

// Open opens a file and reads its header, for which no token is needed. What is wrong with the file is a *FormatError. Close it.
func Open(path string) (*Snapshot, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read a snapshot: %w", err)
	}
	s := &Snapshot{path: path, file: file, in: bufio.NewReaderSize(file, maxHeader)}
	if err := s.readHeader(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

func (s *Snapshot) readHeader() error {
	line, err := s.in.ReadSlice('\n')
	switch {
	case err == io.EOF && bytes.HasPrefix(line, []byte(`{"labkSnapshot":`)):
		return s.broken("it is cut off")
	case err == io.EOF || err == bufio.ErrBufferFull:
		return s.broken("it is no snapshot of labk")
	case err != nil:
		return fmt.Errorf("read the snapshot %s: %w", s.path, err)
	}
	// The format first: a later one may have a header that means something else.
	var only struct {
		Format int `json:"labkSnapshot"`
	}
	if json.Unmarshal(line, &only) != nil || only.Format < 1 {
		return s.broken("it is no snapshot of labk")
	}
	if only.Format > format {
		return s.broken(fmt.Sprintf("it has format %d, and this labk knows %d: use the labk that made it, or a newer one", only.Format, format))
	}
	if err := json.Unmarshal(line, &s.Header); err != nil {
		return s.broken("its header is damaged")
	}
	return nil
}

func (s *Snapshot) broken(detail string) error { return &FormatError{Path: s.path, Detail: detail} }

// Close closes the file.
func (s *Snapshot) Close() error {
	if s.unpacked != nil {
		s.unpacked.Close()
	}
	return s.file.Close()
}

// Unlock opens the secret part with the secret of the token and returns the files in it, and the dump. The dump is read next; what was read is good only when End has said so. A wrong token is ErrToken.
func (s *Snapshot) Unlock(secret string) ([]File, *dump.Reader, error) {
	identity, err := age.NewScryptIdentity(secret)
	if err != nil {
		return nil, nil, err
	}
	identity.SetMaxWorkFactor(maxWorkFactor)
	opened, err := age.Decrypt(s.in, identity)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, nil, fmt.Errorf("open the snapshot %s: %w", s.path, ErrToken)
	}
	if err != nil {
		return nil, nil, s.broken("it is cut off or damaged: " + err.Error())
	}
	if s.unpacked, err = zstd.NewReader(opened, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err != nil {
		return nil, nil, s.broken(err.Error())
	}
	s.archive = tar.NewReader(s.unpacked)
	if err := s.compareHeader(); err != nil {
		return nil, nil, err
	}
	files, err := s.readFiles()
	if err != nil {
		return nil, nil, err
	}
	content, err := dump.NewReader(s.archive)
	if err != nil {
		return nil, nil, s.broken(err.Error())
	}
	if content.Revision() != s.Revision {
		return nil, nil, s.broken("its header does not fit what it contains")
	}
	return files, content, nil
}

// compareHeader makes sure that the header outside is the one that was made with the rest.
func (s *Snapshot) compareHeader() error {
	entry, err := s.archive.Next()
	if err != nil {
		return s.damaged(err)
	}
	data, err := io.ReadAll(io.LimitReader(s.archive, maxHeader))
	if err != nil {
		return s.damaged(err)
	}
	outside, err := json.Marshal(s.Header)
	if err != nil {
		return err
	}
	if entry.Name != headerName || !bytes.Equal(data, outside) {
		return s.broken("its header was changed")
	}
	return nil
}

// readFiles reads the files, up to the dump.
func (s *Snapshot) readFiles() (files []File, err error) {
	for len(files) <= maxFiles {
		entry, err := s.archive.Next()
		if err != nil {
			return nil, s.damaged(err)
		}
		if entry.Name == dumpName {
			s.dumpSize = entry.Size
			return files, nil
		}
		path, ok := strings.CutPrefix(entry.Name, filesDir)
		if !ok || !filepath.IsLocal(path) || entry.Typeflag != tar.TypeReg || entry.Size > maxFile {
			return nil, s.broken(fmt.Sprintf("it contains %q, which does not belong there", entry.Name))
		}
		data, err := io.ReadAll(s.archive)
		if err != nil {
			return nil, s.damaged(err)
		}
		files = append(files, File{Path: path, Mode: fs.FileMode(entry.Mode).Perm(), Data: data})
	}
	return nil, s.broken("it contains too many files")
}

func (s *Snapshot) damaged(err error) error {
	return s.broken("it is cut off or damaged: " + err.Error())
}

// End reads to the end of the file: only then it is sure that nothing is missing and nothing was changed. The dump must have been read to its io.EOF.
func (s *Snapshot) End() error {
	if _, err := s.archive.Next(); err != io.EOF {
		return s.broken("something comes after the dump")
	}
	if _, err := io.Copy(io.Discard, s.unpacked); err != nil {
		return s.damaged(err)
	}
	return nil
}

// Verify reads a snapshot wholly.
func Verify(path, secret string) (Header, error) {
	s, err := Open(path)
	if err != nil {
		return Header{}, err
	}
	defer s.Close()
	_, content, err := s.Unlock(secret)
	if err != nil {
		return s.Header, err
	}
	for err == nil {
		_, err = content.Next()
	}
	if err != io.EOF {
		return s.Header, s.damaged(err)
	}
	if content.Count() != s.Objects {
		return s.Header, s.broken(fmt.Sprintf("it should have %d objects and has %d", s.Objects, content.Count()))
	}
	return s.Header, s.End()
}
