// Package lockfile lets one process at a time use a folder. The kernel keeps the lock, so it ends with its process, however
// that ends; the file only tells who holds it.
package lockfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// LockedError says that another process, or another Lock of this one, holds the lock.
type LockedError struct {
	Path string
	// PID of the holder; 0 when the file does not tell.
	PID int
}

// Error implements error.
func (e *LockedError) Error() string {
	who := "another labk"
	if e.PID > 0 {
		who = fmt.Sprintf("another labk (pid %d)", e.PID)
	}
	return fmt.Sprintf("lock %s: in use by %s: stop that one first, or choose another folder with --data-dir", e.Path, who)
}

// Lock is a held lock. It is not for concurrent use.
type Lock struct{ file *os.File }

// AcquireLock takes the lock of the file at path, which it makes if needed in a folder that exists, and writes this process's
// pid in it. The error is a *LockedError when the lock is held. The lock is held until Release or the end of the process; children do
// not inherit it.
//
// It is an open-file-description lock: as with flock(2) each opening of the file counts by itself, but Holder can ask for it
// without taking it, and so never gets in the way of a process that is just starting.
func AcquireLock(path string) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: open the lock file: %w", err)
	}
	err = unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, whole(unix.F_WRLCK))
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		pid := readPID(file)
		file.Close()
		return nil, &LockedError{Path: path, PID: pid}
	}
	if err == nil {
		err = writePID(file)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{file: file}, nil
}

// Release gives the lock back. The file stays: removing it could take it from under a process that has just opened it.
func (l *Lock) Release() error {
	err := l.file.Truncate(0)
	return errors.Join(err, l.file.Close())
}

// Holder tells whether the lock at path is held, and by which pid (0 when the file does not tell). It changes nothing; a file
// that does not exist is not held.
func Holder(path string) (pid int, held bool, err error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("ask for a lock: %w", err)
	}
	defer file.Close()
	lock := whole(unix.F_WRLCK)
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, lock); err != nil {
		return 0, false, fmt.Errorf("ask for the lock %s: %w", path, err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, false, nil
	}
	return readPID(file), true, nil
}

// whole is a lock of the whole file.
func whole(kind int16) *unix.Flock_t { return &unix.Flock_t{Type: kind, Whence: io.SeekStart} }

func readPID(file *os.File) int {
	text := make([]byte, 32)
	n, _ := file.ReadAt(text, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		return 0
	}
	return pid
}

func writePID(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}
