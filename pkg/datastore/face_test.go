package datastore

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/labk/labk/pkg/datastore/sqlite"
)

// testFace is the face of a new store in SQLite's file.
func testFace(t *testing.T) *face {
	t.Helper()
	store, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	f := newFace(store, filepath.Join(t.TempDir(), "face", "etcd.sock"))
	if err := f.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFace(t *testing.T) {
	f := testFace(t)
	defer f.stop()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + f.socket}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	put, err := client.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/a"), "=", 0)).Then(clientv3.OpPut("/a", "1")).Commit()
	if err != nil || !put.Succeeded {
		t.Fatalf("%+v, %v", put, err)
	}
	got, err := client.Get(t.Context(), "/a")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" || got.Kvs[0].ModRevision != put.Header.Revision {
		t.Fatalf("%+v, %v", got, err)
	}
}

// A client that watches does not hold up the stop, and is told.
func TestFaceStops(t *testing.T) {
	f := testFace(t)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + f.socket}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := client.Watch(ctx, "/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if first := <-watch; !first.Created {
		t.Fatalf("%+v", first)
	}
	f.stop()
	again, short := context.WithTimeout(t.Context(), time.Second)
	defer short()
	if _, err := client.Get(again, "/a"); err == nil {
		t.Fatal("it still answers")
	}
}
