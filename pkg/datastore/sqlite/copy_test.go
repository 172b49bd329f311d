package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A copy that is made while somebody writes is whole, and has at least what was there before.
func TestCopyWhileWriting(t *testing.T) {
	path := makeDatabase(t)
	ctx, cancel := context.WithCancel(t.Context())
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)")
	must(t, err)
	defer db.Close()
	_, err = db.Exec("DELETE FROM kine WHERE id = 2000") // the log is there when Copy looks
	must(t, err)
	wrote := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if _, err := db.Exec("INSERT INTO kine (name, value) VALUES (?, randomblob(500))", fmt.Sprint("new", n)); err != nil {
				t.Error(err)
			}
		}
		wrote <- n
	}()
	to := filepath.Join(t.TempDir(), "copy.db")
	must(t, Copy(t.Context(), path, to))
	cancel()
	if <-wrote == 0 {
		t.Error("nothing was written meanwhile")
	}
	made, err := open(to, "?mode=ro")
	must(t, err)
	defer made.Close()
	if n, err := revision(t.Context(), made); err != nil || n < 1999 {
		t.Errorf("the copy ends at %d, %v", n, err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy: %v, %v", info, err)
	}
	if left, _ := filepath.Glob(to + "?*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCopyOfADamagedFile(t *testing.T) {
	path := makeDatabase(t)
	overwrite(t, path, 100_000, make([]byte, 300_000))
	before, err := os.ReadFile(path)
	must(t, err)
	to := filepath.Join(t.TempDir(), "copy.db")
	if err := Copy(t.Context(), path, to); err == nil {
		t.Error("it was copied")
	}
	if left, _ := filepath.Glob(to + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestRestore(t *testing.T) {
	path := makeDatabase(t)
	folder := filepath.Dir(path)
	copied, aside := filepath.Join(folder, "before.db"), filepath.Join(folder, "failed.db")
	must(t, Copy(t.Context(), path, copied))
	for name, tc := range map[string]struct {
		spoil func(t *testing.T)
		rows  int64 // in the file that is set aside; -1 for one that can't be read
	}{
		"changed":  {func(t *testing.T) { execute(t, path, "DELETE FROM kine WHERE id > 1000") }, 1000},
		"damaged":  {func(t *testing.T) { overwrite(t, path, 0, make([]byte, 50_000)) }, -1},
		"log left": {func(t *testing.T) { leaveLog(t, path, "DELETE FROM kine WHERE id > 500") }, 500},
		"log in use": {func(t *testing.T) {
			for _, query := range []string{"SELECT id FROM kine", "DELETE FROM kine WHERE id > 600"} { // who reads what was before holds the log
				db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=wal_autocheckpoint(0)")
				must(t, err)
				t.Cleanup(func() { db.Close() })
				rows, err := db.Query(query)
				must(t, err)
				t.Cleanup(func() { rows.Close() })
				rows.Next()
			}
		}, 600},
	} {
		t.Run(name, func(t *testing.T) {
			tc.spoil(t)
			must(t, Restore(t.Context(), copied, path, aside))
			if n := last(t, path); n != 2000 {
				t.Errorf("the restored file ends at %d", n)
			}
			if n := last(t, aside); n != tc.rows {
				t.Errorf("the file set aside ends at %d, want %d", n, tc.rows)
			}
			if n := last(t, copied); n != 2000 {
				t.Errorf("the copy ends at %d", n)
			}
		})
	}
}

func TestRestoreRefusesADamagedCopy(t *testing.T) {
	path := makeDatabase(t)
	copied := filepath.Join(t.TempDir(), "before.db")
	must(t, os.WriteFile(copied, []byte("not a database at all"), 0o600))
	if err := Restore(t.Context(), copied, path, path+".aside"); err == nil || !strings.Contains(err.Error(), "the copy is damaged") {
		t.Errorf("got %v", err)
	}
	if n := last(t, path); n != 2000 {
		t.Errorf("the file ends at %d", n)
	}
}

func TestKeepNewest(t *testing.T) {
	folder := t.TempDir()
	now := time.Now()
	for i := range 5 {
		name := filepath.Join(folder, fmt.Sprintf("before-%d.db", i))
		must(t, os.WriteFile(name, nil, 0o600))
		must(t, os.Chtimes(name, now, now.Add(time.Duration(-i)*time.Hour)))
	}
	must(t, os.WriteFile(filepath.Join(folder, "state.db"), nil, 0o600))
	must(t, KeepNewest(filepath.Join(folder, "before-*.db"), 3))
	left, err := os.ReadDir(folder)
	must(t, err)
	want := []string{"before-0.db", "before-1.db", "before-2.db", "state.db"}
	for i, e := range left {
		if len(left) != len(want) || e.Name() != want[i] {
			t.Fatalf("left are %v, want %v", left, want)
		}
	}
}

// A log without SQLite's index of it, as a copy that was put back has it, is a part of the datastore too.
func TestCopyWithALogAlone(t *testing.T) {
	path := makeDatabase(t)
	leaveLog(t, path, "INSERT INTO kine (name, value) VALUES ('last', 'x')")
	copied := filepath.Join(t.TempDir(), "before.db")
	must(t, Copy(t.Context(), path, copied))
	if n := last(t, copied); n != 2001 {
		t.Errorf("the copy ends at %d", n)
	}
}

// leaveLog makes a change that is in the log alone, as a process that was killed leaves it.
func leaveLog(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=wal_autocheckpoint(0)")
	must(t, err)
	_, err = db.Exec(statement)
	must(t, err)
	log, err := os.ReadFile(path + "-wal")
	must(t, err)
	data, err := os.ReadFile(path)
	must(t, err)
	must(t, db.Close())
	must(t, os.WriteFile(path, data, 0o600))
	must(t, os.WriteFile(path+"-wal", log, 0o600))
}

func execute(t *testing.T, path, statement string) {
	t.Helper()
	db, err := open(path, "?mode=rw")
	must(t, err)
	defer db.Close()
	_, err = db.Exec(statement)
	must(t, err)
}

// last is the revision of a file, -1 if it can't be read.
func last(t *testing.T, path string) int64 {
	t.Helper()
	db, err := open(path, "?mode=ro")
	must(t, err)
	defer db.Close()
	n, err := revision(t.Context(), db)
	if err != nil {
		return -1
	}
	return n
}

// After EmptyLog the file alone has everything, though somebody has it open still.
func TestEmptyLog(t *testing.T) {
	path := makeDatabase(t)
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=wal_autocheckpoint(0)")
	must(t, err)
	defer db.Close()
	_, err = db.Exec("INSERT INTO kine (name, value) VALUES ('last', 'x')")
	must(t, err)
	alone := func() int64 {
		data, err := os.ReadFile(path)
		must(t, err)
		to := filepath.Join(t.TempDir(), "alone.db")
		must(t, os.WriteFile(to, data, 0o600))
		return last(t, to)
	}
	if n := alone(); n != 2000 {
		t.Fatalf("the file alone ends at %d before", n)
	}
	must(t, EmptyLog(t.Context(), path))
	if n := alone(); n != 2001 {
		t.Errorf("the file alone ends at %d", n)
	}
}
