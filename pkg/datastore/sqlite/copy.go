package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/paths"
)

// copySuffix marks a copy that is not whole yet.
const copySuffix = ".part"

// Copy writes a copy of SQLite's file, as it is at one moment, while labk may be using it. The copy has been opened and checked when Copy returns, and has its name only then.
func Copy(ctx context.Context, database, to string) error {
	part := to + copySuffix
	if err := removeDatabase(part); err != nil {
		return fmt.Errorf("copy the datastore: %w", err)
	}
	err := copyInto(ctx, database, part)
	if err == nil {
		err = finish(part, to)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("copy the datastore to %s: %w", to, err), removeDatabase(part))
	}
	return nil
}

func copyInto(ctx context.Context, database, part string) error {
	info, err := os.Stat(database)
	if err != nil {
		return err
	}
	if err := checkSpace(filepath.Dir(part), uint64(info.Size())); err != nil {
		return err
	}
	// Nobody has the file open where SQLite has no index of its log: then none is made either. But immutable means that a log is not read.
	mode := "?mode=ro"
	if _, err := os.Stat(database + "-shm"); errors.Is(err, fs.ErrNotExist) && !hasLog(database) {
		mode += "&immutable=1"
	}
	db, err := open(database, mode+"&_pragma=busy_timeout(30000)")
	if err != nil {
		return err
	}
	defer db.Close()
	before, err := revision(ctx, db)
	if err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", part); err != nil {
		return err
	}
	if err := os.Chmod(part, 0o600); err != nil {
		return err
	}
	if err := checkCopy(ctx, part); err != nil {
		return err
	}
	made, err := open(part, "?mode=ro&immutable=1")
	if err != nil {
		return err
	}
	defer made.Close()
	after, err := revision(ctx, made)
	if err == nil && after < before {
		err = fmt.Errorf("the copy ends at revision %d, and the datastore was at %d", after, before)
	}
	return err
}

// hasLog tells whether changes wait in SQLite's log beside the file.
func hasLog(database string) bool {
	info, err := os.Stat(database + "-wal")
	return err == nil && info.Size() > 0
}

// checkCopy is Check of a copy: what a person does about a damaged one is something else.
func checkCopy(ctx context.Context, path string) error {
	err := Check(ctx, path)
	var damaged *DamagedError
	if errors.As(err, &damaged) {
		return fmt.Errorf("the copy is damaged (%s)", damaged.Detail)
	}
	return err
}

func open(path, options string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+options)
	if err == nil {
		db.SetMaxOpenConns(1)
	}
	return db, err
}

// revision is the last change in a datastore, of this format or of kine's.
func revision(ctx context.Context, db *sql.DB) (id int64, err error) {
	query := "SELECT max(coalesce((SELECT max(rev) FROM log), 0), (SELECT value FROM settings WHERE name = 'compacted'))"
	if is, err := hasTable(ctx, db, "kine"); err != nil {
		return 0, err
	} else if is {
		query = "SELECT coalesce(max(id), 0) FROM kine"
	}
	err = db.QueryRowContext(ctx, query).Scan(&id)
	return id, err
}

func hasTable(ctx context.Context, db queryer, name string) (is bool, err error) {
	err = db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?", name).Scan(&is)
	return is, err
}

// spaceReserve is what a copy leaves free.
const spaceReserve = 64 << 20

func checkSpace(dir string, size uint64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < size+spaceReserve {
		return fmt.Errorf("%d MiB are free, and %d MiB are needed: free space in %s", free>>20, (size+spaceReserve)>>20, dir)
	}
	return nil
}

// finish gives a file that is whole its name.
func finish(part, name string) error {
	file, err := os.Open(part)
	if err != nil {
		return err
	}
	// The log that was beside the old file has to be gone before: SQLite would apply it to the new one.
	err = errors.Join(file.Sync(), file.Close(), paths.SyncDir(filepath.Dir(name)))
	if err != nil {
		return err
	}
	return paths.Rename(part, name)
}

// Restore puts a copy in the place of SQLite's file, which nobody may be using. The file that was there is kept as aside. At no moment is there no file.
func Restore(ctx context.Context, from, database, aside string) error {
	if err := restore(ctx, from, database, aside); err != nil {
		return fmt.Errorf("restore the datastore from %s: %w", from, err)
	}
	return nil
}

func restore(ctx context.Context, from, database, aside string) error {
	if err := checkCopy(ctx, from); err != nil {
		return err
	}
	part := database + copySuffix
	if err := copyFile(from, part); err != nil {
		return errors.Join(err, removeDatabase(part))
	}
	// The log belongs to the file that goes: SQLite would apply it to the one that comes. What cannot be brought from it into that file, of a damaged one or on a full disk, is set aside with it.
	inFile := EmptyLog(ctx, database) == nil
	err := removeDatabase(aside)
	if !inFile && hasLog(database) && err == nil {
		err = os.Rename(database+"-wal", aside+"-wal")
	}
	for _, log := range []string{database + "-wal", database + "-shm"} {
		err = errors.Join(err, removeIfThere(log))
	}
	if err == nil {
		err = os.Link(database, aside)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, removeDatabase(part))
	}
	return finish(part, database)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// KeepNewest removes all files of the pattern but the newest n.
func KeepNewest(pattern string, n int) error {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	age := map[string]int64{}
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			age[name] = info.ModTime().UnixNano()
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(age[b], age[a]) })
	for _, name := range names[min(n, len(names)):] {
		if err := removeDatabase(name); err != nil {
			return fmt.Errorf("remove an old copy of the datastore: %w", err)
		}
	}
	return nil
}

// removeDatabase removes a file of SQLite with what SQLite puts beside it.
func removeDatabase(path string) error {
	var all []error
	for _, name := range []string{path, path + "-wal", path + "-shm", path + "-journal"} {
		all = append(all, removeIfThere(name))
	}
	return errors.Join(all...)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// EmptyLog moves what is in SQLite's log into the file, or says that not all of it could be.
func EmptyLog(ctx context.Context, database string) error {
	db, err := open(database, "?mode=rw&_pragma=busy_timeout(500)")
	if err != nil {
		return err
	}
	defer db.Close()
	// Of three figures the first says whether somebody was in the way (sqlite.org/pragma.html#pragma_wal_checkpoint).
	var busy, pages, moved int
	if err := db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved); err != nil {
		return err
	}
	if busy != 0 {
		return errors.New("the datastore's log is in use")
	}
	return nil
}
