package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

func openTest(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Path: path, Say: t.Logf})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func newTest(t *testing.T) *Store { return openTest(t, filepath.Join(t.TempDir(), "state.db")) }

// reopen closes the store and opens it again.
func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	must(t, s.Close())
	return openTest(t, s.opts.Path)
}

func mustCreate(t *testing.T, s *Store, key, value string) int64 {
	t.Helper()
	revision, err := s.Create(t.Context(), key, []byte(value), 0)
	must(t, err)
	return revision
}

func mustUpdate(t *testing.T, s *Store, key, value string, at int64) int64 {
	t.Helper()
	revision, _, ok, err := s.Update(t.Context(), key, []byte(value), at, 0)
	must(t, err)
	if !ok {
		t.Fatalf("%s was not updated at %d", key, at)
	}
	return revision
}

func wantGet(t *testing.T, s *Store, key string, at int64, want string) {
	t.Helper()
	_, kv, err := s.Get(t.Context(), key, at, false)
	must(t, err)
	switch {
	case kv == nil && want == "":
	case kv == nil || string(kv.Value) != want:
		t.Errorf("%s at %d is %v, want %q", key, at, kv, want)
	}
}

func TestChanges(t *testing.T) {
	s := newTest(t)
	one := mustCreate(t, s, "/a", "one")
	if _, err := s.Create(t.Context(), "/a", nil, 0); !errors.Is(err, server.ErrKeyExists) {
		t.Errorf("a second create: %v", err)
	}
	two := mustUpdate(t, s, "/a", "two", one)
	_, kv, ok, err := s.Update(t.Context(), "/a", []byte("three"), one, 0)
	if ok || err != nil || string(kv.Value) != "two" || kv.ModRevision != two || kv.CreateRevision != one || kv.Version != 2 {
		t.Errorf("an update of what has changed: %v %v %v", kv, ok, err)
	}
	if _, kv, ok, err := s.Delete(t.Context(), "/a", one); ok || err != nil || kv.ModRevision != two {
		t.Errorf("a deletion of what has changed: %v %v %v", kv, ok, err)
	}
	_, kv, ok, err = s.Delete(t.Context(), "/a", two)
	if !ok || err != nil || string(kv.Value) != "two" {
		t.Errorf("a deletion: %v %v %v", kv, ok, err)
	}
	wantGet(t, s, "/a", 0, "")
	if _, kv, ok, err := s.Delete(t.Context(), "/a", two); ok || err != nil || kv != nil {
		t.Errorf("a second deletion: %v %v %v", kv, ok, err)
	}
	if _, kv, ok, err := s.Update(t.Context(), "/a", nil, two, 0); ok || err != nil || kv != nil {
		t.Errorf("an update of what was deleted: %v %v %v", kv, ok, err)
	}
	if again := mustCreate(t, reopen(t, s), "/a", "four"); again != two+2 {
		t.Errorf("after %d and a deletion came %d", two, again)
	}
}

// Nobody but its owner reads the file and its log, whoever made it.
func TestFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openTest(t, path)
	must(t, s.Close())
	must(t, os.Chmod(path, 0o644)) // as an earlier labk made it
	s = openTest(t, path)
	mustCreate(t, s, "/a", "one")
	for _, file := range []string{path, path + "-wal"} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
}

func TestReads(t *testing.T) {
	s := newTest(t)
	var at []int64
	for i := range 100 {
		at = append(at, mustCreate(t, s, fmt.Sprintf("/k/%02d", i), fmt.Sprint("v", i)))
	}
	last := mustUpdate(t, s, "/k/07", "new", at[7])
	check := func(t *testing.T, s *Store) {
		wantGet(t, s, "/k/07", 0, "new")
		wantGet(t, s, "/k/07", at[7], "v7")
		wantGet(t, s, "/k/07", at[6], "")
		wantGet(t, s, "/k", 0, "")
		for _, tc := range []struct {
			key, end        string
			limit, revision int64
			n               int
		}{
			{"/k/", "/k0", 0, 0, 100}, {"/k/", "/k0", 7, 0, 7}, {"/k/", "/k0", 0, at[49], 50}, {"", "", 0, 0, 100}, {"/k/90", "\x00", 0, 0, 10}, {"/k/10", "/k/20", 0, 0, 10}, {"/x/", "/y", 0, 0, 0},
		} {
			now, kvs, err := s.List(t.Context(), tc.key, tc.end, tc.limit, tc.revision, false)
			if err != nil || len(kvs) != tc.n || now != last {
				t.Errorf("%+v: %d, %v", tc, len(kvs), err)
			}
			for _, kv := range kvs {
				if len(kv.Value) == 0 {
					t.Errorf("%+v: %s has no value", tc, kv.Key)
				}
			}
			stream := s.ListStream(t.Context(), tc.key, tc.end, tc.limit, tc.revision, false)
			n := 0
			for range stream.KVc {
				n++
			}
			if err := <-stream.Errorc; err != nil || n != tc.n {
				t.Errorf("%+v as a stream: %d, %v", tc, n, err)
			}
			if tc.limit == 0 {
				if _, n, err := s.Count(t.Context(), tc.key, tc.end, tc.revision); err != nil || int(n) != tc.n {
					t.Errorf("%+v counted: %d, %v", tc, n, err)
				}
			}
		}
		if _, _, err := s.List(t.Context(), "", "", 0, last+1, false); !errors.Is(err, server.ErrFutureRev) {
			t.Errorf("of the future: %v", err)
		}
	}
	t.Run("in memory", func(t *testing.T) { check(t, s) })
	again := reopen(t, s)
	t.Run("from the file", func(t *testing.T) { check(t, again) })
}

func TestCompact(t *testing.T) {
	s := newTest(t)
	at := mustCreate(t, s, "/a", "0")
	first := at
	gone := mustCreate(t, s, "/b", "x")
	_, _, _, err := s.Delete(t.Context(), "/b", gone)
	must(t, err)
	for i := range 50 {
		at = mustUpdate(t, s, "/a", fmt.Sprint(i+1), at)
	}
	if _, err := s.Compact(t.Context(), at+1); !errors.Is(err, server.ErrFutureRev) {
		t.Errorf("to the future: %v", err)
	}
	_, err = s.Compact(t.Context(), at-10)
	must(t, err)
	if _, err := s.Compact(t.Context(), at-20); !errors.Is(err, server.ErrCompacted) {
		t.Errorf("to before the last: %v", err)
	}
	check := func(t *testing.T, s *Store) {
		wantGet(t, s, "/a", 0, "50")
		wantGet(t, s, "/a", at-10, "40")
		if _, _, err := s.Get(t.Context(), "/a", first, false); !errors.Is(err, server.ErrCompacted) {
			t.Errorf("what was compacted: %v", err)
		}
		if w := s.Watch(t.Context(), first); w.CompactRevision != at-10 {
			t.Errorf("a watch from there: %+v", w)
		}
	}
	check(t, s)
	waitFor(t, func() bool { return rows(t, s) == 11 })
	check(t, s)
	again := reopen(t, s)
	check(t, again)
	_, err = again.Compact(t.Context(), at)
	must(t, err)
	_, _, _, err = again.Delete(t.Context(), "/a", at)
	must(t, err)
	_, err = again.Compact(t.Context(), at+1)
	must(t, err)
	waitFor(t, func() bool { return rows(t, again) == 0 })
	again = reopen(t, again)
	if next := mustCreate(t, again, "/c", ""); next != at+2 {
		t.Errorf("after %d came %d", at+1, next)
	}
}

func rows(t *testing.T, s *Store) (n int) {
	t.Helper()
	must(t, s.readers.db.QueryRow("SELECT count(*) FROM log").Scan(&n))
	return n
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited 20 s")
		}
	}
}

// Each watcher gets each change once and in order, wherever it begins, while many write.
func TestWatch(t *testing.T) {
	s := newTest(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const writers, each = 8, 200
	first := mustCreate(t, s, "/first", "")
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := s.Create(ctx, fmt.Sprintf("/%d/%d", w, i), []byte("v"), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			seen, last := 0, first
			for b := range s.Watch(ctx, first+1).Eventc {
				for _, e := range b.Events {
					if e.KV.ModRevision != last+1 {
						t.Errorf("after %d came %d", last, e.KV.ModRevision)
					}
					last = e.KV.ModRevision
					if seen++; seen == writers*each {
						return
					}
				}
			}
			t.Errorf("it ended after %d", seen)
		})
	}
	wg.Wait()
	again := reopen(t, s)
	b := <-again.Watch(ctx, first+1).Eventc
	if len(b.Events) != eventsTogether || b.CurrentRev != first+eventsTogether {
		t.Errorf("from the file: %d events to %d", len(b.Events), b.CurrentRev)
	}
}

// A watcher that is far behind large changes is told them in pieces, and all of them.
func TestWatchLargeChanges(t *testing.T) {
	s := newTest(t)
	const n = 20
	first := mustCreate(t, s, "/first", "")
	value := string(make([]byte, bytesTogether/2))
	for i := range n {
		mustCreate(t, s, fmt.Sprint("/", i), value)
	}
	s = reopen(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	last := first
	for b := range s.Watch(ctx, first+1).Eventc {
		if len(b.Events) > 3 {
			t.Errorf("%d changes at once", len(b.Events))
		}
		for _, e := range b.Events {
			if last++; e.KV.ModRevision != last {
				t.Errorf("%d came as %d", e.KV.ModRevision, last)
			}
		}
		if b.CurrentRev != last {
			t.Errorf("up to %d is up to %d", last, b.CurrentRev)
		}
		if last == first+n {
			return
		}
	}
	t.Errorf("it ended after %d", last)
}

// What a change replaced is told, from memory and from the file.
func TestPrevious(t *testing.T) {
	s := newTest(t)
	one := mustCreate(t, s, "/a", "one")
	s = reopen(t, s)
	two := mustUpdate(t, s, "/a", "two", one)
	_, _, _, err := s.Delete(t.Context(), "/a", two)
	must(t, err)
	for range 2 {
		b := <-s.Watch(t.Context(), one).Eventc
		if len(b.Events) != 3 || !b.Events[0].Create || string(b.Events[1].PrevKV.Value) != "one" || !b.Events[2].Delete || string(b.Events[2].PrevKV.Value) != "two" {
			t.Errorf("got %v", b)
		}
		s = reopen(t, s)
	}
}

func TestLease(t *testing.T) {
	s := newTest(t)
	_, err := s.Create(t.Context(), "/ends", nil, 1)
	must(t, err)
	_, err = s.Create(t.Context(), "/later", nil, 100)
	must(t, err)
	at, err := s.Create(t.Context(), "/prolonged", nil, 1)
	must(t, err)
	_, _, _, err = s.Update(t.Context(), "/prolonged", nil, at, 100)
	must(t, err)
	s = reopen(t, s)
	waitFor(t, func() bool {
		_, kv, err := s.Get(t.Context(), "/ends", 0, true)
		return err == nil && kv == nil
	})
	for _, key := range []string{"/later", "/prolonged"} {
		if _, kv, err := s.Get(t.Context(), key, 0, false); kv == nil || err != nil {
			t.Errorf("%s: %v, %v", key, kv, err)
		}
	}
}

// Leases need memory for the keys that have one, however often these are written.
func TestLeasesAreFew(t *testing.T) {
	s := newTest(t)
	lease := func(key string, at, seconds int64) int64 {
		t.Helper()
		revision, _, ok, err := s.Update(t.Context(), key, nil, at, seconds)
		must(t, err)
		if !ok {
			t.Fatalf("%s was not updated at %d", key, at)
		}
		return revision
	}
	at := map[string]int64{}
	for _, key := range []string{"/stays", "/goes", "/loses"} {
		revision, err := s.Create(t.Context(), key, nil, 3600)
		must(t, err)
		for range 100 {
			revision = lease(key, revision, 3600)
		}
		at[key] = revision
	}
	lease("/loses", at["/loses"], 0)
	_, _, _, err := s.Delete(t.Context(), "/goes", at["/goes"])
	must(t, err)
	lease("/stays", at["/stays"], 1) // ends before what was said first
	waitFor(t, func() bool {
		_, kv, err := s.Get(t.Context(), "/stays", 0, true)
		return err == nil && kv == nil
	})
	must(t, s.Close())
	if n, keys := len(s.leases.heap), len(s.leases.byKey); n != 0 || keys != 0 {
		t.Errorf("%d leases of %d keys are left", n, keys)
	}
}

// A flood of changes does not fill the disk, and what was deleted gives its space back.
func TestFileStaysSmall(t *testing.T) {
	s := newTest(t)
	at := map[int]int64{}
	value := string(make([]byte, 4000))
	for i := range 6000 {
		key := i % 10
		if at[key] == 0 {
			at[key] = mustCreate(t, s, fmt.Sprint("/", key), value)
		} else {
			at[key] = mustUpdate(t, s, fmt.Sprint("/", key), value, at[key])
		}
	}
	waitFor(t, func() bool {
		size, err := s.DbSize(t.Context())
		return err == nil && size < 20<<20
	})
	now, err := s.CurrentRevision(t.Context())
	must(t, err)
	_, err = s.Compact(t.Context(), now)
	must(t, err)
	waitFor(t, func() bool { return rows(t, s) == 10 })
	s = reopen(t, s)
	waitFor(t, func() bool {
		size, err := s.DbSize(t.Context())
		return err == nil && size < 5<<20
	})
}
