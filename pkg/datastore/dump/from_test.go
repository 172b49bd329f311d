package dump

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/endpoint"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// kine runs kine over SQLite, as clusters of former versions have it.
func kine(t *testing.T) *clientv3.Client {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	config, err := endpoint.Listen(ctx, endpoint.Config{
		WaitGroup: &wg, Listener: "unix://" + filepath.Join(dir, "s"), Endpoint: "sqlite://" + filepath.Join(dir, "db") + "?_journal_mode=WAL&_busy_timeout=30000",
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 2}, NotifyInterval: 5 * time.Second, EmulatedETCDVersion: "3.6.11",
		CompactInterval: time.Hour, CompactTimeout: 5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000, PollBatchSize: 500, PollInterval: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: config.Endpoints, DialTimeout: 10 * time.Second, Context: ctx})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func create(t *testing.T, client *clientv3.Client, key, value string, options ...clientv3.OpOption) int64 {
	t.Helper()
	answer, err := client.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value, options...)).Commit()
	if err != nil || !answer.Succeeded {
		t.Fatalf("create %s: %v", key, err)
	}
	return answer.Header.Revision
}

func TestFromKine(t *testing.T) {
	client := kine(t)
	const n = 250 // some pages
	want := map[string]int64{}
	for i := range n {
		key := fmt.Sprintf("/registry/things/%03d", i)
		want[key] = create(t, client, key, strings.Repeat("x", i))
	}
	lease, err := client.Grant(t.Context(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	leased := "/registry/events/one"
	want[leased] = create(t, client, leased, "value", clientv3.WithLease(lease.ID))

	var out bytes.Buffer
	info, err := From(t.Context(), client, KineTTL, &out)
	if err != nil {
		t.Fatal(err)
	}
	revision, all, err := read(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if revision != info.Revision || revision < want[leased] || int64(len(all)) != info.Objects {
		t.Errorf("revision %d, %d records; told %+v; the last write had %d", revision, len(all), info, want[leased])
	}
	for _, r := range all {
		key := string(r.Key)
		if key == leased && r.TTL != 3600 {
			t.Errorf("%s has TTL %d", key, r.TTL)
		}
		if strings.HasPrefix(key, "compact") {
			t.Errorf("%s is in the dump", key)
		}
		if mod, ok := want[key]; ok && (r.ModRevision != mod || r.CreateRevision != mod) {
			t.Errorf("%s has %d and %d, it was made at %d", key, r.CreateRevision, r.ModRevision, mod)
		}
		delete(want, key)
	}
	if len(want) > 0 {
		t.Errorf("%d keys are missing: %v", len(want), want)
	}
}

// A dump shows one revision, whatever is written meanwhile; a file that was longer before holds nothing else.
func TestFromIsOneRevision(t *testing.T) {
	client := kine(t)
	for i := range 120 {
		create(t, client, fmt.Sprintf("/registry/a/%03d", i), "old")
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "dump"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ttl := func(ctx context.Context, lease int64) (int64, error) { // is called in the first page
		create(t, client, "/registry/z", "new")
		return lease, nil
	}
	lease, err := client.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	create(t, client, "/registry/a/000-leased", "old", clientv3.WithLease(lease.ID))
	if _, err := From(t.Context(), client, ttl, file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	_, all, err := read(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if string(r.Value) == "new" {
			t.Errorf("%s was written after the dump began", r.Key)
		}
	}
}
