package storage

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"golang.org/x/sync/errgroup"
)

// TestNoStaleRead lets many clients write, and looks by another client's connection, at once after each answer: every kind of read must show the change.
func TestNoStaleRead(t *testing.T) {
	each(t, backends(t), func(t *testing.T, b backend) {
		p := b.place(t)
		p.run(t)
		group, ctx := errgroup.WithContext(t.Context())
		for id := range 12 {
			w := witness{connect(t, p.endpoint()), connect(t, p.endpoint()), fmt.Sprintf("%s%d/", prefix, id)}
			group.Go(func() error { return w.run(ctx, 25) })
		}
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// witness writes keys in a folder of its own by one client and looks by another.
type witness struct {
	writer, reader *kubernetes.Client
	folder         string
}

func (w witness) run(ctx context.Context, rounds int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for i := range rounds {
		key := fmt.Sprintf("%s%d", w.folder, i%5)
		made, err := w.writer.OptimisticPut(ctx, key, []byte(fmt.Sprint(i)), 0, kubernetes.PutOptions{GetOnFailure: true})
		if err != nil || !made.Succeeded {
			return fmt.Errorf("create %s: %+v, %w", key, made, err)
		}
		if err := w.look(ctx, key, fmt.Sprint(i), made.Revision); err != nil {
			return fmt.Errorf("after the create at %d: %w", made.Revision, err)
		}
		gone, err := w.writer.OptimisticDelete(ctx, key, made.Revision, kubernetes.DeleteOptions{GetOnFailure: true})
		if err != nil || !gone.Succeeded {
			return fmt.Errorf("delete %s: %+v, %w", key, gone, err)
		}
		if err := w.look(ctx, key, "", gone.Revision); err != nil {
			return fmt.Errorf("after the delete at %d: %w", gone.Revision, err)
		}
	}
	return nil
}

// look checks that every read shows what a key has since a revision; no value if it was deleted.
func (w witness) look(ctx context.Context, key, value string, since int64) error {
	for _, at := range []int64{0, since} {
		got, err := w.reader.Kubernetes.Get(ctx, key, kubernetes.GetOptions{Revision: at})
		if err != nil || string(got.KV.GetValue()) != value || got.Revision < since {
			return fmt.Errorf("get %s at %d says %v at %d: %w", key, at, got.KV, got.Revision, err)
		}
		list, err := w.reader.List(ctx, w.folder, kubernetes.ListOptions{Revision: at})
		if err != nil || list.Revision < since {
			return fmt.Errorf("list at %d is of %d: %w", at, list.Revision, err)
		}
		var listed string
		for _, kv := range list.Kvs {
			if string(kv.Key) == key {
				listed = string(kv.Value)
			}
		}
		if listed != value {
			return fmt.Errorf("list at %d has %q of %s, not %q", at, listed, key, value)
		}
	}
	want := int64(1)
	if value == "" {
		want = 0
	}
	if count, err := w.reader.Count(ctx, w.folder, kubernetes.CountOptions{}); err != nil || count != want {
		return fmt.Errorf("count %d, not %d: %w", count, want, err)
	}
	return w.watch(ctx, key, value, since)
}

// watch begins a watch at the revision, which must tell the change first.
func (w witness) watch(ctx context.Context, key, value string, since int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for got := range w.reader.Watch(ctx, w.folder, clientv3.WithPrefix(), clientv3.WithRev(since)) {
		if err := got.Err(); err != nil {
			return fmt.Errorf("watch from %d: %w", since, err)
		}
		for _, e := range got.Events {
			if string(e.Kv.Key) != key || string(e.Kv.Value) != value || e.Kv.ModRevision != since {
				return fmt.Errorf("watch from %d begins with %v", since, e)
			}
			return nil
		}
	}
	return fmt.Errorf("watch from %d ended: %w", since, ctx.Err())
}
