// Package sqlite keeps the datastore in one file of SQLite.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"modernc.org/sqlite" // also the driver "sqlite", the same that kine uses in a build without cgo
	sqlite3 "modernc.org/sqlite/lib"
)

// DamagedError tells that SQLite's file can't be trusted.
type DamagedError struct {
	Path   string
	Detail string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("open the datastore: %s is damaged (%s); it was left as it is: bring a snapshot back with `labk snapshot restore`, or keep it aside and begin an empty cluster with `mv %s %s.damaged`",
		e.Path, e.Detail, strings.TrimSuffix(e.Path, "/state.db"), strings.TrimSuffix(e.Path, "/state.db"))
}

// Check runs SQLite's quick_check over the file, if there is one, without writing to it.
func Check(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the datastore: %w", err)
	case info.IsDir():
		return fmt.Errorf("look at the datastore: %s is a folder, not a file: move it away", path)
	case info.Size() == 0:
		return nil // SQLite makes the file before its first page
	}
	// Read-only, so that closing it does not checkpoint the log of a damaged file; where there is no log, immutable too, so that none is made.
	mode := "?mode=ro"
	if !hasLog(path) {
		mode += "&immutable=1"
	}
	db, err := open(path, mode)
	if err != nil {
		return fmt.Errorf("look at the datastore: %w", err)
	}
	defer db.Close()
	var result string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !damages(err) {
			return fmt.Errorf("look at the datastore: %s", reason(path, err))
		}
		return &DamagedError{Path: path, Detail: err.Error()}
	}
	if result != "ok" {
		return &DamagedError{Path: path, Detail: result}
	}
	return nil
}

// damages tells what is wrong with the file from what is wrong with its disk, with the machine, or with those who use it: from that it is well again, and nothing may take its place.
func damages(err error) bool {
	var failed *sqlite.Error
	if !errors.As(err, &failed) {
		return false
	}
	if failed.Code() == sqlite3.SQLITE_IOERR_SHORT_READ {
		return true
	}
	switch failed.Code() & 0xff {
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL,
		sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT:
		return false
	}
	return true
}
