package datastore

import (
	"context"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
)

// oneWriter makes changes of a backend of kine over SQL one after the other.
//
// kine takes the order of a table's numbers for that of changes. But a database gives numbers out before it commits, and not in the order of commits: a list may say that it has
// a revision whose change it does not show, and a watch may go past a revision whose event comes later, and never tells it. One change at a time has neither. labk is the only one that writes.
type oneWriter struct {
	server.Backend
	mu sync.Mutex
}

// Create implements server.Backend. When the key had been there before and was deleted, kine answers with the newest revision it has noticed; here the answer is that of the change.
func (w *oneWriter) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	revision, err := w.Backend.Create(ctx, key, value, lease)
	if err != nil {
		return revision, err
	}
	_, made, err := w.Backend.Get(ctx, key, 0, true)
	if err != nil {
		return 0, err // the caller has to look; a wrong revision would be worse
	}
	if made != nil {
		revision = made.ModRevision
	}
	return revision, nil
}

// Update implements server.Backend.
func (w *oneWriter) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Backend.Update(ctx, key, value, revision, lease)
}

// Delete implements server.Backend.
func (w *oneWriter) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Backend.Delete(ctx, key, revision)
}
