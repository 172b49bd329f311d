package sqlite

import (
	"bytes"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/labk/labk/pkg/datastore/dump"
)

func TestBuild(t *testing.T) {
	var buf bytes.Buffer
	w := dump.NewWriter(&buf, 70)
	for i := range 20 {
		must(t, w.Write(dump.Record{Key: fmt.Appendf(nil, "/k/%02d", i), Value: fmt.Append(nil, "v", i), CreateRevision: int64(20 - i), ModRevision: int64(60 - i), Version: 3}))
	}
	must(t, w.Close())
	whole := buf.Bytes()
	path := filepath.Join(t.TempDir(), "state.db")
	for name, tc := range map[string]struct {
		data     []byte
		revision int64
	}{"cut off": {whole[:len(whole)-3], 70}, "revision before": {whole, 69}} {
		r, err := dump.NewReader(bytes.NewReader(tc.data))
		must(t, err)
		if err := Build(t.Context(), path, r, tc.revision); err == nil {
			t.Errorf("%s: no error", name)
		}
		if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
	r, err := dump.NewReader(bytes.NewReader(whole))
	must(t, err)
	must(t, Build(t.Context(), path, r, 1000))
	s := openTest(t, path)
	_, kv, err := s.Get(t.Context(), "/k/07", 0, false)
	must(t, err)
	if string(kv.Value) != "v7" || kv.ModRevision != 53 || kv.CreateRevision != 13 || kv.Version != 3 {
		t.Errorf("got %+v", kv)
	}
	if _, n, err := s.Count(t.Context(), "", "", 0); n != 20 || err != nil {
		t.Errorf("%d keys, %v", n, err)
	}
	if next := mustUpdate(t, s, "/k/07", "new", 53); next != 1001 {
		t.Errorf("the next revision is %d", next)
	}
	if w := s.Watch(t.Context(), 53); w.CompactRevision != 1000 {
		t.Errorf("a watch from before: %+v", w)
	}
}

// A file that kine's own driver has written is taken over with its revisions.
func TestConvert(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)")
	must(t, err)
	for _, statement := range []string{
		`CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)`,
		`INSERT INTO kine VALUES (1, 'compact_rev_key', 1, 0, 0, 0, 0, NULL, NULL), (2, '/a', 1, 0, 0, 0, 0, 'a1', NULL), (3, '/b', 1, 0, 0, 0, 0, 'b1', NULL), (4, 'gap-4', 0, 1, 0, 0, 0, NULL, NULL),
			(5, '/a', 0, 0, 2, 2, 0, 'a2', 'a1'), (6, '/c', 1, 0, 0, 0, 30, 'c', NULL), (7, '/b', 0, 1, 3, 3, 0, 'b1', 'b1')`,
	} {
		_, err := db.Exec(statement)
		must(t, err)
	}
	must(t, db.Close())
	s := openTest(t, path)
	for range 2 {
		revision, kvs, err := s.List(t.Context(), "", "", 0, 0, false)
		must(t, err)
		if revision != 7 || len(kvs) != 2 {
			t.Fatalf("at %d: %v", revision, kvs)
		}
		if a := kvs[0]; a.Key != "/a" || string(a.Value) != "a2" || a.ModRevision != 5 || a.CreateRevision != 2 || a.Version != 2 {
			t.Errorf("got %+v", a)
		}
		if c := kvs[1]; c.Key != "/c" || c.Lease != 30 || c.Version != 1 {
			t.Errorf("got %+v", c)
		}
		s = reopen(t, s)
	}
	if next := mustCreate(t, s, "/b", "b2"); next != 8 {
		t.Errorf("the next revision is %d", next)
	}
}
