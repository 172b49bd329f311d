package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/k3s-io/kine/pkg/server"
)

// The file has the log, a row a change, in the order of revisions; nothing but its row's number is indexed, so that a change is written to the end of the file alone. What is where, the index in memory
// knows. In settings, "compacted" is the revision of the last compaction: no revision at or before it is given out again.
const schema = `
CREATE TABLE log (
	rev INTEGER PRIMARY KEY, key BLOB NOT NULL, created INTEGER NOT NULL, count INTEGER NOT NULL,
	previous INTEGER NOT NULL, lease INTEGER NOT NULL, deleted INTEGER NOT NULL, value BLOB
);
CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO settings VALUES ('compacted', 0);
PRAGMA user_version = 1;
`

// format is the user_version of files that this package knows; kine's own have 0 or its schema's number, and another table.
const format = 1

// How the file is used. FULL: a commit is on the disk when it returns. psow=0: SQLite does not build upon the disk leaving alone the bytes beside those that it was writing when the power went. Each
// 512 pages (2 MiB) the log's content is moved into the file, by the writer after a commit: so little takes few milliseconds. Freed pages are given back to the file system in small steps (vacuum).
const (
	writing = "?psow=0&_auto_vacuum=INCREMENTAL&_journal_mode=WAL&_synchronous=FULL&_busy_timeout=10000&_pragma=wal_autocheckpoint(512)&_pragma=journal_size_limit(4194304)&_pragma=cache_size(-4096)&_pragma=temp_store(memory)"
	reading = "?psow=0&_busy_timeout=10000&_pragma=query_only(1)&_pragma=cache_size(-1024)&_pragma=wal_autocheckpoint(0)"
)

// making is for a file that counts only when it is whole.
const making = "?_auto_vacuum=INCREMENTAL&_journal_mode=OFF&_synchronous=FULL"

const (
	insertRow    = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
	setCompacted = "UPDATE settings SET value = ? WHERE name = 'compacted'"
)

// writer is the one connection that changes the file. It is the writing goroutine's alone.
type writer struct {
	db   *sql.DB
	conn *sql.Conn

	insert, remove, value, begin, commit *sql.Stmt

	failed bool // the last write: see usable
	spare  bool // there may be pages to give back
	shrunk bool // some were
}

func openWriter(ctx context.Context, path string) (_ *writer, err error) {
	w := &writer{spare: true}
	if err := makePrivate(path); err != nil {
		return nil, err
	}
	if w.db, err = open(path, writing); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.conn, err = w.db.Conn(ctx); err != nil {
		return nil, err
	}
	if err := w.ensureSchema(ctx); err != nil {
		return nil, err
	}
	for _, p := range []struct {
		to    **sql.Stmt
		query string
	}{
		{&w.insert, insertRow},
		{&w.remove, "DELETE FROM log WHERE rev = ?"},
		{&w.value, "SELECT value FROM log WHERE rev = ?"},
		{&w.begin, "BEGIN IMMEDIATE"},
		{&w.commit, "COMMIT"},
	} {
		if *p.to, err = w.conn.PrepareContext(ctx, p.query); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// makePrivate makes the file, or sees to it, that only its owner reads it; SQLite gives its log the same mode.
func makePrivate(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Chmod(0o600), file.Close())
}

func (w *writer) ensureSchema(ctx context.Context) error {
	var has int
	if err := w.conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&has); err != nil {
		return err
	}
	switch has {
	case format:
		return nil
	case 0:
		return w.inTransaction(ctx, func() error { return w.exec(ctx, schema) })
	}
	return fmt.Errorf("its format is %d, and this labk knows %d: it was written by a newer labk, use that", has, format)
}

func (w *writer) exec(ctx context.Context, query string, args ...any) error {
	_, err := w.conn.ExecContext(ctx, query, args...)
	return err
}

func (w *writer) inTransaction(ctx context.Context, do func() error) error {
	if err := w.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := do()
	if err == nil {
		err = w.exec(ctx, "COMMIT")
	}
	if err != nil {
		_ = w.exec(ctx, "ROLLBACK") // SQLite may have done it itself
	}
	return err
}

// empty moves all of the log into the file, so that nothing of what was written before is needed from the log any more.
func (w *writer) empty(ctx context.Context) error {
	var busy, pages, moved int
	if err := w.conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &moved); err != nil {
		return err
	}
	if busy != 0 {
		return errors.New("the datastore's log is in use")
	}
	return nil
}

// close closes the connection; as the last one it moves the log into the file.
func (w *writer) close() error {
	var all []error
	for _, s := range []*sql.Stmt{w.insert, w.remove, w.value, w.begin, w.commit} {
		if s != nil {
			all = append(all, s.Close())
		}
	}
	if w.conn != nil {
		all = append(all, w.conn.Close())
	}
	return errors.Join(append(all, w.db.Close())...)
}

// readers are the connections that read.
type readers struct {
	db                  *sql.DB
	value, values, next *sql.Stmt
}

// together is how many values one statement asks for.
const together = 32

// reading connections that are kept.
const readingConns = 4

func openReaders(ctx context.Context, path string) (_ *readers, err error) {
	r := &readers{}
	if r.db, err = sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+reading); err != nil {
		return nil, err
	}
	r.db.SetMaxOpenConns(readingConns)
	r.db.SetMaxIdleConns(readingConns)
	marks := "?"
	for range together - 1 {
		marks += ",?"
	}
	for _, p := range []struct {
		to    **sql.Stmt
		query string
	}{
		{&r.value, "SELECT value FROM log WHERE rev = ?"},
		{&r.values, "SELECT rev, value FROM log WHERE rev IN (" + marks + ")"},
		{&r.next, "SELECT l.rev, l.key, l.created, l.count, l.lease, l.deleted, l.value, p.rev, p.created, p.count, p.lease, p.value " +
			"FROM log l LEFT JOIN log p ON p.rev = l.previous WHERE l.rev > ? ORDER BY l.rev LIMIT ?"},
	} {
		if *p.to, err = r.db.PrepareContext(ctx, p.query); err != nil {
			return nil, errors.Join(err, r.db.Close())
		}
	}
	return r, nil
}

// queryer is a connection, or several.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func readCompacted(ctx context.Context, db queryer) (revision int64, err error) {
	err = db.QueryRowContext(ctx, "SELECT value FROM settings WHERE name = 'compacted'").Scan(&revision)
	return revision, err
}

// valueOf reads the value of one row. There is none when it was compacted: sql.ErrNoRows.
func valueOf(stmt *sql.Stmt, revision int64) (value []byte, err error) {
	// Not a request's context: the driver starts a goroutine to watch one.
	err = stmt.QueryRowContext(context.Background(), revision).Scan(&value)
	return value, err
}

// valuesOf reads the values of at most `together` rows into those that want them, and says whether all were there.
func (r *readers) valuesOf(want []*server.KeyValue) (all bool, err error) {
	args := make([]any, together)
	for i := range args {
		args[i] = want[min(i, len(want)-1)].ModRevision
	}
	rows, err := r.values.QueryContext(context.Background(), args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	found := make(map[int64][]byte, len(want))
	for rows.Next() {
		var revision int64
		var value []byte
		if err := rows.Scan(&revision, &value); err != nil {
			return false, err
		}
		found[revision] = value
	}
	if err := rows.Err(); err != nil {
		return false, err
	}
	for _, kv := range want {
		value, is := found[kv.ModRevision]
		if !is {
			return false, nil
		}
		kv.Value = value
	}
	return true, nil
}

// fill reads the value of one row, and says whether it was there.
func (r *readers) fill(kv *server.KeyValue) (bool, error) {
	value, err := valueOf(r.value, kv.ModRevision)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	kv.Value = value
	return err == nil, err
}
