package upgrade

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/digest"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/version"
)

// Program is a labk on the disk that has been looked at.
type Program struct {
	Path    string
	Version version.Number
	// Text is the version as it is written.
	Text   string
	SHA256 string
}

// runLimit bounds a run of a new program that is to say something of itself.
const runLimit = 30 * time.Second

// machine is the architecture of this program's in an ELF file.
func machine() elf.Machine {
	return map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
}

// Inspect makes sure that the file is a whole labk that runs on this PC: its checksum (in hexadecimal, unless empty), its architecture, and that it says its version. The file must be
// executable, as Stage makes it.
func Inspect(ctx context.Context, path, checksum string) (Program, error) {
	sum, err := digest.OfFile(path)
	if err != nil {
		return Program{}, fmt.Errorf("read the new program: %w", err)
	}
	if checksum != "" && !strings.EqualFold(sum, checksum) {
		return Program{}, fmt.Errorf("check the new program: its SHA-256 is %s, and %s was promised: it is another file, or only a part of it: fetch it again", sum, checksum)
	}
	if err := checkELF(path); err != nil {
		return Program{}, fmt.Errorf("check the new program: %w", err)
	}
	p := Program{Path: path, SHA256: sum}
	if p.Text, err = askVersion(ctx, path); err == nil {
		p.Version, err = version.Parse(p.Text)
	}
	if err != nil {
		return Program{}, fmt.Errorf("ask the new program for its version: %w", err)
	}
	return p, nil
}

// checkELF finds a file that is no program, one of another architecture, and one whose end is missing.
func checkELF(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header, err := elf.NewFile(file)
	if header == nil || err != nil {
		if magic := make([]byte, 4); err != nil {
			if n, _ := file.ReadAt(magic, 0); string(magic[:n]) == elf.ELFMAG {
				return errors.New("a part of it is missing: fetch it again")
			}
		}
		return errors.New("it is not a program for Linux: is it an archive, or a web page? Give the labk file itself")
	}
	if header.Machine != machine() {
		return fmt.Errorf("it is for another architecture (%s), and this PC is %s: fetch the labk for linux-%s", strings.TrimPrefix(header.Machine.String(), "EM_"), runtime.GOARCH, runtime.GOARCH)
	}
	for _, s := range header.Sections {
		if s.Type != elf.SHT_NOBITS && s.Offset+s.FileSize > uint64(info.Size()) {
			return errors.New("a part of it is missing: fetch it again")
		}
	}
	return nil
}

func askVersion(ctx context.Context, path string) (string, error) {
	out, err := runProgram(ctx, path, "version", "-o", "json")
	if err != nil {
		return "", err
	}
	var says struct{ Version string }
	if err := json.Unmarshal(out, &says); err != nil || says.Version == "" {
		return "", errors.New("it does not say one: is it a labk?")
	}
	return says.Version, nil
}

// runProgram runs the program for a short while and returns what it prints; an error tells its last words.
func runProgram(ctx context.Context, path string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return stdout.Bytes(), fmt.Errorf("%s %s: %w %.300s", filepath.Base(path), args[0], err, lines[len(lines)-1])
	}
	return stdout.Bytes(), nil
}

// Check has the program look at this PC by `labk check`, with args added; what it finds that would keep it from running is a *health.Error.
func (p Program) Check(ctx context.Context, args ...string) error {
	out, err := runProgram(ctx, p.Path, append([]string{"check", "-o", "json"}, args...)...)
	if err == nil {
		return nil
	}
	var results []health.Result
	if json.Unmarshal(out, &results) == nil {
		if found := health.Err(results); found != nil {
			return found
		}
	}
	return fmt.Errorf("let the new program look at this PC: %w", err)
}

// spaceReserve is what an upgrade leaves free.
const spaceReserve = 16 << 20

// Stage copies a program to beside the installed one, where a rename can put it in place, and returns where it is. It is whole and on the disk when Stage returns; the caller removes it if it is
// not used. The folder must be writable and have room for it.
func Stage(from, program string) (string, error) {
	in, err := os.Open(from)
	if err != nil {
		return "", fmt.Errorf("read the new program: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return "", fmt.Errorf("read the new program: %w", err)
	}
	dir := filepath.Dir(program)
	if err := checkSpace(dir, uint64(info.Size())); err != nil {
		return "", err
	}
	return StageFrom(in, program)
}

// StageFrom is Stage of what a reader gives.
func StageFrom(in io.Reader, program string) (string, error) {
	path := paths.Staged(program)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return "", stageError(path, err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close()); err != nil {
		return "", errors.Join(stageError(path, err), os.Remove(path))
	}
	return path, nil
}

func stageError(path string, err error) error {
	dir := filepath.Dir(path)
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
		err = fmt.Errorf("%w: make %s writable (mount -o remount,rw)", err, dir)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		err = fmt.Errorf("%w: free space in %s", err, dir)
	}
	return fmt.Errorf("write the new program: %w", err)
}

func checkSpace(dir string, size uint64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("ask for the space in %s: %w", dir, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); fs.Blocks > 0 && free < size+spaceReserve {
		return fmt.Errorf("no space in %s: %d MiB are free, and %d MiB are needed: free space there", dir, free>>20, (size+spaceReserve)>>20)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
