package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// unwritable is what callers are told, and the log once.
func (s *Store) unwritable(err error) error {
	reason := reason(s.opts.Path, err)
	if s.refusing.Swap(&reason) == nil {
		s.opts.Say("the datastore refuses changes: %s", reason)
	}
	return status.Error(codes.ResourceExhausted, "labk's datastore can't write: "+reason)
}

// Refusing is an error while changes are refused, as the last one was: it says why and what to do.
func (s *Store) Refusing() error {
	if reason := s.refusing.Load(); reason != nil {
		return errors.New(*reason)
	}
	return nil
}

// reason says why SQLite has failed with its file, and what to do.
func reason(path string, err error) string {
	var failed *sqlite.Error
	if errors.As(err, &failed) {
		switch failed.Code() & 0xff {
		case sqlite3.SQLITE_FULL:
			return fmt.Sprintf("no space is left on the disk of %s: free some", path)
		case sqlite3.SQLITE_READONLY:
			return fmt.Sprintf("%s can't be written to (%v): is its disk mounted read-only?", path, err)
		case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
			if full(path) {
				return fmt.Sprintf("no space is left on the disk of %s: free some", path)
			}
			if readOnly(filepath.Dir(path)) {
				return fmt.Sprintf("%s can't be written to (%v): is its disk mounted read-only?", path, err)
			}
			return fmt.Sprintf("the disk of %s fails (%v): see dmesg", path, err)
		}
	}
	return fmt.Sprintf("%s: %v", path, err)
}

// full tells whether the disk is: SQLite takes that for a failure of the disk where it was its log's index that could not grow.
func full(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Bavail*uint64(fs.Bsize) < 1<<20
}

// readOnly tells whether the folder's disk has become read-only: SQLite takes that for a failure of the disk, as its files were opened before.
func readOnly(dir string) bool {
	file, err := os.CreateTemp(dir, ".labk-check-*")
	if err == nil {
		_ = errors.Join(file.Close(), os.Remove(file.Name())) // it is well again
	}
	return errors.Is(err, unix.EROFS)
}
