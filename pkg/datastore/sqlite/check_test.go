package sqlite

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// makeDatabase writes a database of a few hundred pages, with a part of it still in the write-ahead log.
func makeDatabase(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db", "state.db")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range []string{
		"CREATE TABLE kine (id INTEGER PRIMARY KEY, name TEXT, value BLOB)", "CREATE INDEX name ON kine (name)",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2000) INSERT INTO kine SELECT i, 'key' || i, randomblob(500) FROM n",
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestCheckSQLite(t *testing.T) {
	for name, tc := range map[string]struct {
		damage  func(t *testing.T, path string)
		damaged bool
	}{
		"sound":        {func(*testing.T, string) {}, false},
		"none":         {func(t *testing.T, path string) { must(t, os.RemoveAll(filepath.Dir(path))) }, false},
		"empty":        {func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) }, false},
		"garbage":      {func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("not a database at all"), 0o600)) }, true},
		"cut in half":  {func(t *testing.T, path string) { must(t, os.Truncate(path, 200_000)) }, true},
		"middle wiped": {func(t *testing.T, path string) { overwrite(t, path, 100_000, make([]byte, 300_000)) }, true},
		"header wiped": {func(t *testing.T, path string) { overwrite(t, path, 0, make([]byte, 100)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := makeDatabase(t)
			tc.damage(t, path)
			before, _ := os.ReadFile(path)
			files, _ := os.ReadDir(filepath.Dir(path))
			err := Check(t.Context(), path)
			var damaged *DamagedError
			if errors.As(err, &damaged) != tc.damaged || (err != nil) != tc.damaged {
				t.Errorf("got %v", err)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the check changed the file")
			}
			if now, _ := os.ReadDir(filepath.Dir(path)); len(now) != len(files) {
				t.Errorf("the check left files: %v", now)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(data, at)
	must(t, err)
}

// A file that cannot be read now, as on a disk that is full or fails, is not damaged: nothing may take its place.
func TestCheckUnreadable(t *testing.T) {
	path := makeDatabase(t)
	must(t, os.Mkdir(path+"-wal", 0o700)) // which SQLite cannot open
	err := Check(t.Context(), path)
	var damaged *DamagedError
	if err == nil || errors.As(err, &damaged) {
		t.Errorf("got %v", err)
	}
}
