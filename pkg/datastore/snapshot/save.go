package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/datastore/dump"
	"github.com/labk/labk/pkg/paths"
)

// Source is what snapshots are made of.
type Source struct {
	Folder Folder
	// Scratch is an existing folder of the data folder, for what is not encrypted yet; nothing there ever has a name.
	Scratch string
	// Header is what is the same for all; Revision, Objects and the like are filled in.
	Header Header
	// Secret is the token's, Files what is needed beside the datastore.
	Secret string
	Files  []File
	// Dump writes all that the datastore holds into a file, Size tells about how many bytes that are at most.
	Dump func(ctx context.Context, w io.Writer) (dump.Info, error)
	Size func() int64
}

// reserve is what a snapshot leaves free on a disk: a datastore that can't write is worse than no snapshot.
const reserve = 100 << 20

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// CheckName tells whether a person may call a snapshot so.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%q can't be the name of a snapshot: use lower-case letters, digits, -, _ and .", name)
	}
	return nil
}

// Save makes a snapshot with a name that begins with prefix. It has been read wholly back when Save returns, and has its name only then; on any error there is nothing new. Only one may be made in a folder at a
// time.
func (s Source) Save(ctx context.Context, reason Reason, prefix string, now time.Time) (Found, error) {
	if err := CheckName(prefix); err != nil {
		return Found{}, err
	}
	found, err := s.save(ctx, reason, prefix, now.UTC().Truncate(time.Second))
	if err != nil {
		return Found{}, fmt.Errorf("make a snapshot: %w", err)
	}
	return found, nil
}

func (s Source) save(ctx context.Context, reason Reason, prefix string, now time.Time) (Found, error) {
	if err := os.MkdirAll(string(s.Folder), 0o700); err != nil {
		return Found{}, err
	}
	if err := s.Folder.clear(); err != nil {
		return Found{}, err
	}
	content, size, info, err := s.dump(ctx)
	if err != nil {
		return Found{}, err
	}
	defer content.Close()
	if err := checkSpace(string(s.Folder), size); err != nil {
		return Found{}, err
	}
	h := s.Header
	h.Format, h.Reason, h.Created, h.Revision, h.Objects = format, reason, now, info.Revision, info.Objects
	h.Name = s.freeName(fmt.Sprintf("%s-%s-%s", prefix, h.Node, now.Format("20060102-150405")))
	name := s.Folder.File(h.Name)
	part := name + partSuffix
	if err := s.writePart(ctx, part, h, content, size); err != nil {
		return Found{}, errors.Join(err, s.Folder.clear())
	}
	if err := paths.Rename(part, name); err != nil {
		return Found{}, err
	}
	return Look(name)
}

// freeName is the name, or one like it that no snapshot has yet.
func (s Source) freeName(name string) string {
	free := name
	for i := 2; ; i++ {
		if _, err := os.Lstat(s.Folder.File(free)); err != nil {
			return free
		}
		free = fmt.Sprintf("%s-%d", name, i)
	}
}

// dump reads the datastore into a file without a name: how large it is must be known before.
func (s Source) dump(ctx context.Context) (file *os.File, size int64, info dump.Info, err error) {
	if err := checkSpace(s.Scratch, s.Size()); err != nil {
		return nil, 0, dump.Info{}, err
	}
	file, err = os.CreateTemp(s.Scratch, ".dump-*")
	if err != nil {
		return nil, 0, dump.Info{}, err
	}
	err = os.Remove(file.Name())
	if err == nil {
		info, err = s.Dump(ctx, file)
	}
	if err == nil {
		size, err = file.Seek(0, io.SeekEnd)
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, 0, dump.Info{}, errors.Join(err, file.Close())
	}
	return file, size, info, nil
}

// writePart writes the file and reads it wholly back.
func (s Source) writePart(ctx context.Context, part string, h Header, content io.Reader, size int64) error {
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = write(until{ctx, out}, h, s.Secret, s.Files, content, size)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	got, err := Verify(part, s.Secret)
	if err != nil {
		return fmt.Errorf("it was written and can't be read back: %w: look whether the disk is broken (dmesg)", err)
	}
	want, err := json.Marshal(h)
	if err != nil {
		return err
	}
	have, err := json.Marshal(got)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, have) {
		return errors.New("it was written and reads otherwise: look whether the disk is broken (dmesg)")
	}
	return nil
}

// until writes until the context ends.
type until struct {
	ctx context.Context
	w   io.Writer
}

func (u until) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

func checkSpace(dir string, size int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look how much is free in %s: %w", dir, err)
	}
	free, needed := fs.Bavail*uint64(fs.Bsize), uint64(size)+reserve
	if free < needed {
		return &SpaceError{Dir: dir, Free: free, Needed: needed}
	}
	return nil
}

// SpaceError tells that a disk has no room for a snapshot. In bytes.
type SpaceError struct {
	Dir          string
	Free, Needed uint64
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%d MiB are free in %s, and %d MiB are needed: free space there, or delete old snapshots (labk snapshot delete)", e.Free>>20, e.Dir, e.Needed>>20)
}

// Short is a cluster's hash as people compare it.
func Short(cluster string) string {
	return strings.ToLower(cluster[:min(12, len(cluster))])
}
