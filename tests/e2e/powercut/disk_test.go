package powercut

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // labk's own driver

	"github.com/labk/labk/tests/powercut"
)

func roles() map[string]func(ended <-chan struct{}, args ...string) error {
	return map[string]func(<-chan struct{}, ...string) error{"files": useFiles, "rows": addRows, "list": listRows, "datastore": runDatastore, "kine": runKine, "integrity": checkIntegrity}
}

// TestFiles has a program do with files what the disk's own tests do by its methods.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	disk := powercut.New(1, powercut.ByFolder)
	start(t, disk, dir, "files", dir).stop(t)
	if lost := disk.Cut(powercut.All); lost.Names == 0 || lost.Blocks == 0 {
		t.Errorf("lost: %v", lost)
	}
	start(t, disk, dir, "files", dir, "again").stop(t)
}

func useFiles(_ <-chan struct{}, args ...string) error {
	at := func(name string) string { return filepath.Join(args[0], name) }
	if len(args) > 1 { // after the cut
		text, err := os.ReadFile(at("d/kept"))
		_, gone := os.Stat(at("d/gone"))
		if err != nil || string(text) != "kept" || !errors.Is(gone, os.ErrNotExist) {
			return fmt.Errorf("after the cut: %q, %w; %w", text, err, gone)
		}
		return nil
	}
	folder := func() (*os.File, error) { return os.Open(at("d")) }
	steps := []func() error{
		func() error { return os.Mkdir(at("d"), 0o700) },
		func() error { return os.WriteFile(at("d/a"), []byte("kept"), 0o600) },
		func() error { return syncClose(os.OpenFile(at("d/a"), os.O_WRONLY, 0)) },
		func() error { return os.Rename(at("d/a"), at("d/kept")) },
		func() error { return syncClose(folder()) },
		func() error { return syncClose(os.Open(args[0])) },
		func() error { return os.WriteFile(at("d/gone"), make([]byte, 300_000), 0o600) },
		func() error { return os.WriteFile(at("d/kept"), []byte("lost"), 0o600) },
		func() error { return os.RemoveAll(at("none")) },
		func() error {
			names, err := os.ReadDir(at("d"))
			if len(names) != 2 {
				return fmt.Errorf("names: %v, %w", names, err)
			}
			text, err := os.ReadFile(at("d/kept"))
			if string(text) != "lost" {
				return fmt.Errorf("read %q before the cut: %w", text, err)
			}
			return nil
		},
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func syncClose(f *os.File, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// TestShowsLoss is the control: on this disk SQLite loses committed rows when it is told not to sync, and none when it syncs; and its mapped index of the log works.
func TestShowsLoss(t *testing.T) {
	for _, tc := range []struct {
		synchronous string
		loses       bool
	}{{"OFF", true}, {"NORMAL", true}, {"FULL", false}} {
		t.Run(tc.synchronous, func(t *testing.T) {
			const rows = 300
			dir, lost := t.TempDir(), 0
			disk := powercut.New(2, powercut.ByFolder)
			for range 3 {
				c := start(t, disk, dir, "rows", dir, tc.synchronous)
				var told []string
				for line := range c.lines {
					if told = append(told, line); len(told) == rows {
						break
					}
				}
				c.kill(t)
				disk.Cut(powercut.All)
				if len(told) < rows {
					t.Fatalf("it ended by itself: %s", c.said())
				}
				c = start(t, disk, dir, "list", dir)
				var left []string
				for line := range c.lines {
					left = append(left, line)
				}
				c.wait(t)
				slices.Sort(left)
				for _, row := range told {
					if _, there := slices.BinarySearch(left, row); !there {
						lost++
					}
				}
			}
			if (lost > 0) != tc.loses {
				t.Errorf("%d of %d committed rows are lost", lost, 3*rows)
			}
		})
	}
}

func addRows(_ <-chan struct{}, args ...string) error {
	db, err := openDatabase(args[0], args[1])
	if err != nil {
		return err
	}
	if _, err := db.Exec("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER)"); err != nil {
		return err
	}
	for {
		result, err := db.Exec("INSERT INTO rows (run) VALUES (?)", os.Getpid())
		if err != nil {
			return err
		}
		id, _ := result.LastInsertId() // SQLite always knows
		fmt.Println(os.Getpid(), id)
	}
}

func listRows(_ <-chan struct{}, args ...string) error {
	db, err := openDatabase(args[0], "FULL")
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.Query("SELECT run || ' ' || id FROM rows")
	if err != nil && strings.Contains(err.Error(), "no such table") {
		return nil // lost, too
	} else if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var row string
		if err := rows.Scan(&row); err != nil {
			return err
		}
		fmt.Println(row)
	}
	return rows.Err()
}

func openDatabase(dir, synchronous string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+filepath.Join(dir, "rows.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous("+synchronous+")")
}
