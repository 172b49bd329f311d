package sqlite

import (
	"context"
	"fmt"

	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// kind of a change.
type kind int

const (
	create  kind = iota // if the key is not there
	update              // if it is at the revision that is expected
	remove              // the same
	compact             // not of a key: forget what was before the revision
)

// change is what somebody wants to be written.
type change struct {
	kind   kind
	key    string
	value  []byte
	lease  int64
	expect int64
	done   chan outcome // with room for one
}

// outcome of a change. With ok it is on the disk.
type outcome struct {
	revision int64
	ok       bool
	// kv is what was there before, or with ok false what is there instead: nil if nothing. Its value is nil if it has to be read.
	kv  *server.KeyValue
	err error
}

// queued is how many changes wait at most, and group how many are one transaction at most.
const (
	queued = 1024
	group  = 256
)

var errClosed = status.Error(codes.Unavailable, "the datastore is being closed")

// do hands a change to the writing goroutine and waits for its outcome. It does not end with a request's context: whether a change was made must be known.
func (s *Store) do(c *change) outcome {
	c.done = make(chan outcome, 1)
	select {
	case s.queue <- c:
	case <-s.ended:
		return outcome{err: errClosed}
	}
	select {
	case o := <-c.done:
		return o
	case <-s.ended:
	}
	s.wg.Wait() // the goroutine may have been about to answer
	select {
	case o := <-c.done:
		return o
	default:
		return outcome{err: errClosed}
	}
}

// Create implements server.Backend. The lease is a number of seconds, after which the key is deleted.
func (s *Store) Create(_ context.Context, key string, value []byte, lease int64) (int64, error) {
	o := s.do(&change{kind: create, key: key, value: value, lease: lease})
	if o.err == nil && !o.ok {
		return o.revision, server.ErrKeyExists
	}
	return o.revision, o.err
}

// Update implements server.Backend: if the key is not at the revision, nothing is changed, and what is there is returned.
func (s *Store) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	o := s.do(&change{kind: update, key: key, value: value, lease: lease, expect: revision})
	if o.ok {
		return o.revision, nil, true, nil
	}
	return s.refused(ctx, key, o)
}

// Delete implements server.Backend as Update does; with ok it returns what was deleted.
func (s *Store) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	o := s.do(&change{kind: remove, key: key, expect: revision})
	if o.ok {
		return o.revision, o.kv, true, nil
	}
	return s.refused(ctx, key, o)
}

// refused returns what is there instead of what was expected.
func (s *Store) refused(ctx context.Context, key string, o outcome) (int64, *server.KeyValue, bool, error) {
	if o.err != nil || o.kv == nil || o.kv.Value != nil {
		return o.revision, o.kv, false, o.err
	}
	revision, kv, err := s.Get(ctx, key, 0, false) // it may be newer by now
	return revision, kv, false, err
}

// Compact implements server.Backend: what was before the revision can't be asked for any more when it returns, and goes from the file little by little.
func (s *Store) Compact(_ context.Context, revision int64) (int64, error) {
	o := s.do(&change{kind: compact, expect: revision})
	return o.revision, o.err
}

// write is the writing goroutine.
func (s *Store) write(ctx context.Context) {
	for {
		var first *change
		if s.workLeft() {
			select {
			case <-ctx.Done():
				return
			case first = <-s.queue:
			default:
				s.work()
				continue
			}
		} else {
			select {
			case <-ctx.Done():
				return
			case first = <-s.queue:
			}
		}
		s.commit(s.gather(first))
	}
}

// gather takes what waits in the queue.
func (s *Store) gather(first *change) []*change {
	all := []*change{first}
	for len(all) < group {
		select {
		case c := <-s.queue:
			all = append(all, c)
		default:
			return all
		}
	}
	return all
}

// written is a change of which a row is to be written.
type written struct {
	key      string
	version  version
	previous int64
	event    *server.Event
}

// batch is what is written together.
type batch struct {
	rows      []written
	latest    map[string]*version // of the keys that rows change
	revision  int64
	compacted int64
	removed   []superseded
	outcomes  []outcome
}

// commit writes the changes, and answers. Before all is on the disk nobody sees any of it; also who was refused is answered only then, for what he was refused because of may be among the changes.
func (s *Store) commit(changes []*change) {
	// Nobody else changes the index, so it may be read without the lock.
	b := &batch{latest: map[string]*version{}, revision: s.index.revision, compacted: s.index.compacted}
	for _, c := range changes {
		b.outcomes = append(b.outcomes, s.decide(b, c))
	}
	s.limitHistory(b)
	b.removed = s.index.removable(removedTogether)
	err := s.save(b)
	if err == nil {
		s.publish(b)
	}
	for i, c := range changes {
		o := b.outcomes[i]
		if err != nil {
			o = outcome{revision: s.index.revision, err: err}
		}
		c.done <- o
	}
}

// decide says what becomes of a change after those before it in the batch.
func (s *Store) decide(b *batch, c *change) outcome {
	if c.kind == compact {
		switch {
		case c.expect > b.revision:
			return outcome{revision: b.revision, err: server.ErrFutureRev}
		case c.expect <= b.compacted:
			return outcome{revision: b.revision, err: server.ErrCompacted}
		}
		b.compacted = c.expect
		return outcome{revision: b.revision, ok: true}
	}
	before := b.latest[c.key]
	if before == nil {
		before = s.index.newest(c.key)
	} else if before.deleted {
		before = nil
	}
	o := outcome{revision: b.revision}
	if before != nil {
		if o.kv = before.kv; o.kv == nil {
			o.kv = before.describe(c.key)
		}
	}
	switch {
	case c.kind == create && before != nil, c.kind != create && (before == nil || before.mod != c.expect):
		return o
	case o.kv != nil && o.kv.Value == nil: // watchers are told it
		value, err := valueOf(s.writer.value, before.mod)
		if err != nil {
			return outcome{revision: b.revision, err: fmt.Errorf("read what %s was before: %w", c.key, err)}
		}
		o.kv.Value = value
	}
	b.add(c, o.kv)
	o.ok, o.revision = true, b.revision
	return o
}

// add appends the row of a change.
func (b *batch) add(c *change, before *server.KeyValue) {
	b.revision++
	w := written{key: c.key, version: version{mod: b.revision, created: b.revision, count: 1, lease: c.lease}}
	kv := &server.KeyValue{Key: c.key, ModRevision: b.revision}
	w.event = &server.Event{Create: before == nil, KV: kv, PrevKV: before}
	if before != nil {
		w.previous = before.ModRevision
		w.version.created, w.version.count = before.CreateRevision, before.Version+1
	}
	if c.kind == remove {
		w.event.Delete = true
		w.version.created, w.version.count, w.version.deleted = 0, 0, true
	} else {
		kv.CreateRevision, kv.Version, kv.Lease = w.version.created, w.version.count, c.lease
		if kv.Value = c.value; kv.Value == nil {
			kv.Value = []byte{} // nil is one that has to be read
		}
		w.version.kv = kv
	}
	w.version.bytes = int64(len(c.key) + len(c.value))
	b.rows = append(b.rows, w)
	b.latest[c.key] = &w.version
}

// save writes a batch in one transaction.
func (s *Store) save(b *batch) error {
	if len(b.rows) == 0 && len(b.removed) == 0 && b.compacted == s.index.compacted {
		return nil
	}
	if err := s.writer.usable(); err != nil {
		return s.unwritable(err)
	}
	err := s.writer.save(b, s.index.compacted)
	if err != nil {
		s.writer.failed = true
		return s.unwritable(err)
	}
	if s.refusing.Swap(nil) != nil {
		s.opts.Say("the datastore takes changes again")
	}
	return nil
}

func (w *writer) save(b *batch, compacted int64) (err error) {
	ctx := context.Background()
	if _, err := w.begin.ExecContext(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = w.exec(ctx, "ROLLBACK") // SQLite may have done it itself
		}
	}()
	for i := range b.rows {
		r := &b.rows[i]
		v := &r.version
		if _, err := w.insert.ExecContext(ctx, v.mod, []byte(r.key), v.created, v.count, r.previous, v.lease, v.deleted, r.event.KV.Value); err != nil {
			return err
		}
	}
	for _, r := range b.removed {
		if _, err := w.remove.ExecContext(ctx, r.mod); err != nil {
			return err
		}
	}
	if b.compacted != compacted {
		if err := w.exec(ctx, setCompacted, b.compacted); err != nil {
			return err
		}
	}
	_, err = w.commit.ExecContext(ctx)
	return err
}

// usable makes sure that what is written next can be trusted. After a failure it is not known what the kernel has of SQLite's log (a fsync that failed may succeed the next time and have lost something): so
// all of it is brought into the file first, and the log begun anew.
func (w *writer) usable() error {
	if !w.failed {
		return nil
	}
	_ = w.exec(context.Background(), "ROLLBACK") // if one was left
	if err := w.empty(context.Background()); err != nil {
		return err
	}
	w.failed = false
	return nil
}

// publish shows a batch to readers and watchers.
func (s *Store) publish(b *batch) {
	s.mu.Lock()
	s.index.compacted = b.compacted
	s.index.remove(len(b.removed))
	for i := range b.rows {
		s.index.add(b.rows[i].key, b.rows[i].version)
		s.recent.add(b.rows[i].event, s.index)
	}
	changed := s.changed
	if len(b.rows) > 0 {
		s.changed = make(chan struct{})
	}
	s.mu.Unlock()
	if len(b.rows) == 0 {
		return
	}
	close(changed)
	for i := range b.rows {
		if v := &b.rows[i].version; v.lease > 0 && !v.deleted {
			s.leases.add(b.rows[i].key, v.mod, life(v.lease))
		} else {
			s.leases.remove(b.rows[i].key)
		}
	}
}
