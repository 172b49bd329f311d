package payload

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/labk/labk/pkg/payload/manifest"
)

// Names in the folder that payloads are unpacked into, beside one folder for each payload's hash.
const (
	currentLink = "current"
	tempPrefix  = ".unpack-"
)

// Unpack makes the programs available below dir and returns the folder to call them from, dir/current/bin. That path stays
// the same when a newer labk brings other programs, so running shims find them too. What is there already is verified by its
// hash and replaced if it is damaged; other payloads' folders are removed. Every step is atomic: after an error, or a
// power cut, dir is as before or as wanted. Unpack must not run twice at the same time for one dir.
func (b *Bundle) Unpack(ctx context.Context, dir string) (string, error) {
	if err := b.unpack(ctx, dir); err != nil {
		var damaged *DamagedError
		if errors.Is(err, syscall.ENOSPC) {
			return "", fmt.Errorf("unpack programs into %s: %w: free %d MiB there", dir, err, b.programBytes()>>20+1)
		}
		if errors.As(err, &damaged) {
			return "", damaged
		}
		return "", fmt.Errorf("unpack programs into %s: %w", dir, err)
	}
	return filepath.Join(dir, currentLink, "bin"), nil
}

func (b *Bundle) unpack(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	home := filepath.Join(dir, b.Hash())
	bad, err := b.verify(ctx, filepath.Join(home, "bin"))
	if err != nil {
		return err
	}
	if len(bad) > 0 {
		if err := b.install(ctx, dir, home, bad); err != nil {
			return err
		}
	}
	if err := b.point(dir); err != nil {
		return err
	}
	return b.removeOld(dir)
}

// verify returns the programs that are missing from bin or not as they were built.
func (b *Bundle) verify(ctx context.Context, bin string) (map[string]bool, error) {
	bad := map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range b.manifest.Programs {
		wg.Go(func() {
			if ctx.Err() == nil && intact(filepath.Join(bin, p.Name), p) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			bad[p.Name] = true
		})
	}
	wg.Wait()
	return bad, ctx.Err()
}

// intact tells whether the file is the program. Whatever keeps it from being read makes it one to write again.
func intact(path string, p manifest.Program) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != p.Size || info.Mode().Perm() != fs.FileMode(p.Mode) {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false
	}
	return hex.EncodeToString(h.Sum(nil)) == p.SHA256
}

// install extracts the wanted programs beside home, then moves them to their place: the folder as a whole when it is new, each
// file on its own over a damaged one.
func (b *Bundle) install(ctx context.Context, dir, home string, want map[string]bool) error {
	temp, err := os.MkdirTemp(dir, tempPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	bin := filepath.Join(temp, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	if err := b.extract(ctx, bin, want); err != nil {
		return err
	}
	err = os.Rename(temp, home)
	if err == nil {
		return syncDir(dir)
	}
	if !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	target := filepath.Join(home, "bin")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	for name := range want {
		if err := os.Rename(filepath.Join(bin, name), filepath.Join(target, name)); err != nil {
			return err
		}
	}
	return syncDir(target)
}

// extract writes the wanted programs into bin, verified and flushed to the disk.
func (b *Bundle) extract(ctx context.Context, bin string, want map[string]bool) (err error) {
	programs := map[string]manifest.Program{}
	for _, p := range b.manifest.Programs {
		if want[p.Name] {
			programs[p.Name] = p
		}
	}
	r, err := b.open(manifest.Programs)
	if err != nil {
		return err
	}
	defer r.Close()
	// Flushing one file goes on while the next is written.
	var flush flusher
	defer func() { err = errors.Join(err, flush.wait()) }()
	archive := tar.NewReader(r)
	for len(programs) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := archive.Next()
		if err != nil {
			return damaged(err)
		}
		p, ok := programs[h.Name]
		if !ok {
			continue
		}
		delete(programs, h.Name)
		f, err := writeProgram(filepath.Join(bin, p.Name), p, archive)
		if err != nil {
			return err
		}
		flush.add(f)
	}
	return syncDir(bin)
}

// damaged makes an error of reading the archive of programs say so.
func damaged(err error) error {
	var known *DamagedError
	if errors.As(err, &known) {
		return known
	}
	if err == io.EOF {
		err = errors.New("a program is not in it")
	}
	return &DamagedError{Part: manifest.Programs, Err: err}
}

// writeProgram writes a program and leaves the file open, for flushing.
func writeProgram(path string, p manifest.Program, r io.Reader) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(p.Mode))
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	src := &source{Reader: r}
	n, err := io.CopyBuffer(io.MultiWriter(f, h), src, make([]byte, 256<<10))
	if err == nil {
		err = f.Chmod(fs.FileMode(p.Mode)) // whatever the umask
	}
	if src.err != nil {
		err = damaged(src.err)
	} else if err == nil && (n != p.Size || hex.EncodeToString(h.Sum(nil)) != p.SHA256) {
		err = &DamagedError{Part: manifest.Programs, Err: fmt.Errorf("%s is not what was built in", p.Name)}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// source remembers an error of reading, to tell it from one of writing.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// flusher flushes and closes files in the background.
type flusher struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	err error
}

func (f *flusher) add(file *os.File) {
	f.wg.Go(func() {
		if err := errors.Join(file.Sync(), file.Close()); err != nil {
			f.mu.Lock()
			f.err = errors.Join(f.err, err)
			f.mu.Unlock()
		}
	})
}

func (f *flusher) wait() error {
	f.wg.Wait()
	return f.err
}

// point makes the link to the payload in use.
func (b *Bundle) point(dir string) error {
	link := filepath.Join(dir, currentLink)
	if to, err := os.Readlink(link); err == nil && to == b.Hash() {
		return nil
	}
	temp := filepath.Join(dir, tempPrefix+currentLink)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(b.Hash(), temp); err != nil {
		return err
	}
	if err := os.Rename(temp, link); err != nil {
		return fmt.Errorf("%w: %s must be a link that labk makes: move it away", err, link)
	}
	return syncDir(dir)
}

// removeOld removes the folders of other payloads and what an interrupted Unpack left.
func (b *Bundle) removeOld(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		temp := len(name) > len(tempPrefix) && name[:len(tempPrefix)] == tempPrefix
		if temp || manifest.IsHash(name) && name != b.Hash() {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}

func (b *Bundle) programBytes() (n int64) {
	for _, p := range b.manifest.Programs {
		n += p.Size
	}
	return n
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
