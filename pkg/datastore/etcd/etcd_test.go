package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/datastore/dump"
)

// run runs a member over the folder until the test, or whoever calls stop, ends it.
func run(t *testing.T, dir string) (client *clientv3.Client, stop func()) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	m := New(Options{Dir: dir, Listen: func(context.Context) (net.Listener, error) { return net.Listen("unix", socket) }})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := m.Stop(ctx); err != nil {
			t.Error(err)
		}
		client.Close()
	}
	t.Cleanup(stop)
	return client, stop
}

// A write that was acknowledged is there after the next start, and a client that watches does not hold up the stop.
func TestMember(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	if Exists(dir) {
		t.Error("there is none yet")
	}
	client, stop := run(t, dir)
	put, err := client.Put(t.Context(), "/a", "1")
	if err != nil {
		t.Fatal(err)
	}
	watch := client.Watch(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithRev(put.Header.Revision))
	if first := <-watch; len(first.Events) != 1 {
		t.Fatalf("%+v", first)
	}
	stop()
	if !Exists(dir) {
		t.Error("there is one")
	}
	client, _ = run(t, dir)
	got, err := client.Get(t.Context(), "/a")
	if err != nil || len(got.Kvs) != 1 || got.Kvs[0].ModRevision != put.Header.Revision {
		t.Fatalf("%+v, %v", got, err)
	}
}

// written is the dump that the tests build from.
func written(t *testing.T, revision int64, records ...dump.Record) *dump.Reader {
	t.Helper()
	var b bytes.Buffer
	w := dump.NewWriter(&b, revision)
	for _, r := range records {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return reader(t, &b)
}

func reader(t *testing.T, from io.Reader) *dump.Reader {
	t.Helper()
	r, err := dump.NewReader(from)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestBuild(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "server", "etcd")
	records := []dump.Record{
		{Key: []byte("/a"), Value: []byte("1"), CreateRevision: 5, ModRevision: 900, Version: 7},
		{Key: []byte("/b"), Value: []byte{0, 1}, CreateRevision: 3, ModRevision: 3, Version: 1, TTL: 3600},
		{Key: []byte("/c"), Value: []byte{}, CreateRevision: 4, ModRevision: 3000, Version: 2, TTL: 3600},
		{Key: []byte("/d"), Value: []byte("4"), CreateRevision: 3000, ModRevision: 3000, Version: 1, TTL: 10},
	}
	if err := Build(t.Context(), dir, written(t, 3500, records...), 4000); err != nil {
		t.Fatal(err)
	}
	if err := Build(t.Context(), dir, written(t, 1), 1); err == nil {
		t.Error("a folder that is there must stay as it is")
	}
	client, stop := run(t, dir)
	for range 2 { // and after another start
		for _, want := range records {
			got, err := client.Get(t.Context(), string(want.Key))
			if err != nil || len(got.Kvs) != 1 {
				t.Fatalf("%s: %+v, %v", want.Key, got, err)
			}
			kv := got.Kvs[0]
			if !bytes.Equal(kv.Value, want.Value) || kv.CreateRevision != want.CreateRevision || kv.ModRevision != want.ModRevision || kv.Version != want.Version {
				t.Errorf("%+v became %+v", want, kv)
			}
			if want.TTL > 0 {
				left, err := client.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease))
				if err != nil || left.TTL > want.TTL || left.TTL < want.TTL-9 {
					t.Errorf("%s: %+v, %v", want.Key, left, err)
				}
			}
		}
		stop()
		client, stop = run(t, dir)
	}
	if _, err := client.Get(t.Context(), "/a", clientv3.WithRev(3999)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("what was before is compacted: %v", err)
	}
	if got, err := client.Get(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithRev(4000)); err != nil || len(got.Kvs) != 4 {
		t.Errorf("%+v, %v", got, err)
	}
	put, err := client.Put(t.Context(), "/a", "2", clientv3.WithPrevKV())
	if err != nil || put.Header.Revision != 4001 || put.PrevKv.Version != 7 {
		t.Errorf("%+v, %v", put, err)
	}
}

// A lease that is over takes its keys with it.
func TestBuiltLeaseEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	if err := Build(t.Context(), dir, written(t, 9, dump.Record{Key: []byte("/short"), CreateRevision: 2, ModRevision: 2, Version: 1, TTL: 2}), 9); err != nil {
		t.Fatal(err)
	}
	client, _ := run(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for response := range client.Watch(ctx, "/short", clientv3.WithRev(10)) {
		if len(response.Events) == 1 && response.Events[0].Type == clientv3.EventTypeDelete {
			return
		}
	}
	t.Error("it stays")
}

// What is damaged makes nothing.
func TestBuildLeavesNothingHalf(t *testing.T) {
	var b bytes.Buffer
	w := dump.NewWriter(&b, 9)
	for i := range 100 {
		if err := w.Write(dump.Record{Key: fmt.Appendf(nil, "/%03d", i), Value: []byte("x"), CreateRevision: 2, ModRevision: 2, Version: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	dir := filepath.Join(parent, "etcd")
	if err := Build(t.Context(), dir, reader(t, bytes.NewReader(b.Bytes()[:b.Len()/2])), 9); err == nil {
		t.Error("half a dump was taken")
	}
	if err := Build(t.Context(), dir, reader(t, bytes.NewReader(b.Bytes())), 8); err == nil {
		t.Error("a revision was handed out twice")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Build(ended, dir, reader(t, bytes.NewReader(b.Bytes())), 9); err == nil {
		t.Error("it went on")
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// A disk that is too small is an error, and no end of the process.
func TestBuildOnFullDisk(t *testing.T) {
	var b bytes.Buffer
	w := dump.NewWriter(&b, 9)
	for i := range 8 {
		if err := w.Write(dump.Record{Key: fmt.Appendf(nil, "/%03d", i), Value: make([]byte, 1<<20), CreateRevision: 2, ModRevision: 2, Version: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	err := Build(t.Context(), filepath.Join(parent, "etcd"), reader(t, &b), 9)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err == nil || !strings.Contains(err.Error(), "file too large") {
		t.Error(err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// A folder that can't be one of etcd is an error, and no end of the process.
func TestDamagedFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	_, stop := run(t, dir)
	stop()
	db := filepath.Join(dir, "member", "snap", "db")
	if err := os.WriteFile(db, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	m := New(Options{Dir: dir, Listen: func(context.Context) (net.Listener, error) { return nil, errors.New("not reached") }})
	if err := m.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "snapshot") {
		t.Fatal(err)
	}
}

// A file of which most is garbage is written anew.
// What says nothing of the file is no damage: else a snapshot would take its place.
func TestExamine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	client, stop := run(t, dir)
	if _, err := client.Put(t.Context(), "/a", strings.Repeat("a", 100000)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "member", "snap", "db")
	if err := Examine(file); err == nil || errors.As(err, new(*DamagedError)) {
		t.Errorf("somebody uses it: %v", err)
	}
	stop()
	if err := Examine(file); err != nil {
		t.Errorf("a good one: %v", err)
	}
	if err := Examine("/proc/self/mem"); err == nil || errors.As(err, new(*DamagedError)) { // reading it is an I/O error
		t.Errorf("a disk that fails: %v", err)
	}
	if err := os.WriteFile(file, bytes.Repeat([]byte("damage"), 100000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Examine(file); !errors.As(err, new(*DamagedError)) {
		t.Errorf("written over: %v", err)
	}
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	if err := Examine(file); err != nil {
		t.Errorf("not yet begun: %v", err)
	}
}

func TestTidy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	client, stop := run(t, dir)
	value := strings.Repeat("x", 1<<20)
	var last int64
	for i := range 100 {
		put, err := client.Put(t.Context(), "/a", value+fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		last = put.Header.Revision
	}
	if _, err := client.Compact(t.Context(), last, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	stop()
	db := filepath.Join(dir, "member", "snap", "db")
	if size := fileSize(t, db); size < garbageAllowed {
		t.Fatalf("%d bytes are not worth it", size)
	}
	client, _ = run(t, dir)
	if size := fileSize(t, db); size > 16<<20 {
		t.Errorf("%d bytes are left", size)
	}
	if got, err := client.Get(t.Context(), "/a"); err != nil || got.Kvs[0].ModRevision != last {
		t.Errorf("%+v, %v", got, err)
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// On a full disk etcd takes no writes, answers reads, and goes on when there is room.
func TestFullDisk(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	m := New(Options{Dir: filepath.Join(t.TempDir(), "etcd"), Listen: func(context.Context) (net.Listener, error) { return net.Listen("unix", socket) }})
	var free atomic.Int64
	free.Store(1 << 30)
	m.free = func(string) (int64, bool) { return free.Load(), true }
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Put(t.Context(), "/a", "1"); err != nil {
		t.Fatal(err)
	}
	free.Store(diskFull - 1)
	m.makeSpace(t.Context())
	if _, err := client.Put(t.Context(), "/a", "2"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("a write on a full disk: %v", err)
	}
	if err := m.Room(); err == nil || !strings.Contains(err.Error(), "63 MiB are free") {
		t.Errorf("it says %v", err)
	}
	if got, err := client.Get(t.Context(), "/a"); err != nil || string(got.Kvs[0].Value) != "1" {
		t.Errorf("%+v, %v", got, err)
	}
	free.Store(diskAgain - 1)
	m.makeSpace(t.Context())
	if m.Room() == nil {
		t.Error("that is not enough")
	}
	free.Store(diskAgain)
	m.makeSpace(t.Context())
	if _, err := client.Put(t.Context(), "/a", "2"); err != nil || m.Room() != nil {
		t.Errorf("%v, %v", err, m.Room())
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
