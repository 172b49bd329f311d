package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/kine/pkg/server"

	"github.com/labk/labk/pkg/paths"
)

// Options of a Store.
type Options struct {
	// Path of SQLite's file. It is made if it is not there; its folder must be.
	Path string
	// Say is told what a person should know, once each: what was converted, that writing fails, that it works again. Nil for nobody.
	Say func(format string, args ...any)
}

// Store is a log of changes in one file of SQLite, and an index of it in memory: a server.Backend, which is what kine's etcd face asks.
//
// One goroutine writes. What was asked for while it wrote it takes together the next time, as one transaction with one fsync; only when that is on the disk do readers see it and callers get their
// answers. Readers find in the index which rows they want, and read those on connections of their own: they wait for nobody. Watchers follow the last changes in memory, and those that are behind, the
// file. All methods may be called concurrently, until Close.
type Store struct {
	opts    Options
	writer  *writer
	readers *readers

	mu      sync.RWMutex // of what follows; held shortly
	index   *index
	recent  recent
	changed chan struct{} // closed at the next change

	queue chan *change
	// refusing is why the last change was refused, nil if it was not.
	refusing atomic.Pointer[string]
	leases   *leases
	cancel   context.CancelFunc
	ended    <-chan struct{} // when the store is being closed
	wg       sync.WaitGroup

	closing sync.Once
}

var _ server.Backend = (*Store)(nil)

// Open opens a datastore, or makes one. The error is a *DamagedError if the file can't be trusted; it is left as it is then.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Say == nil {
		opts.Say = func(string, ...any) {}
	}
	if err := Check(ctx, opts.Path); err != nil {
		return nil, err
	}
	s, err := openStore(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open the datastore %s: %w", opts.Path, err)
	}
	return s, nil
}

func openStore(ctx context.Context, opts Options) (_ *Store, err error) {
	if err := removeDatabase(opts.Path + copySuffix); err != nil {
		return nil, err
	}
	if err := convert(ctx, opts); err != nil {
		return nil, err
	}
	s := &Store{opts: opts, index: newIndex(), changed: make(chan struct{}), queue: make(chan *change, queued), leases: newLeases()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeFile())
		}
	}()
	if s.writer, err = openWriter(ctx, opts.Path); err != nil {
		return nil, err
	}
	if s.readers, err = openReaders(ctx, opts.Path); err != nil {
		return nil, err
	}
	if err := paths.SyncDir(filepath.Dir(opts.Path)); err != nil { // SQLite does so for its log only
		return nil, err
	}
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.ended = cancel, run.Done()
	s.wg.Go(func() { s.write(run) })
	s.wg.Go(func() { s.expire(run) })
	return s, nil
}

// load reads the log into the index.
func (s *Store) load(ctx context.Context) error {
	compacted, err := readCompacted(ctx, s.readers.db)
	if err != nil {
		return err
	}
	rows, err := s.readers.db.QueryContext(ctx, "SELECT rev, key, created, count, lease, deleted, length(key) + coalesce(length(value), 0) FROM log ORDER BY rev")
	if err != nil {
		return err
	}
	defer rows.Close()
	x := s.index
	var key sql.RawBytes
	for rows.Next() {
		var v version
		if err := rows.Scan(&v.mod, &key, &v.created, &v.count, &v.lease, &v.deleted, &v.bytes); err != nil {
			return err
		}
		x.add(string(key), v)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	x.compacted, x.revision = compacted, max(x.revision, compacted)
	x.keys.Scan(func(e *entry) bool {
		if v := e.newest(); v.lease > 0 && !v.deleted {
			s.leases.add(e.key, v.mod, time.Duration(v.lease)*time.Second)
		}
		return true
	})
	return nil
}

// Start implements server.Backend; the store runs since Open.
func (s *Store) Start(context.Context) error { return nil }

// Close ends the store. What was acknowledged is on the disk whether Close is called or not; afterwards it is in the file alone, as far as nobody else uses it. Requests that come later, or were waiting,
// are refused. Only the first call does something.
func (s *Store) Close() (err error) {
	s.closing.Do(func() {
		s.cancel()
		s.wg.Wait()
		err = s.closeFile()
	})
	return err
}

func (s *Store) closeFile() error {
	var all []error
	if s.readers != nil {
		all = append(all, s.readers.db.Close()) // before the log can be emptied
	}
	if s.writer != nil {
		all = append(all, s.writer.close())
	}
	return errors.Join(all...)
}

// DbSize implements server.Backend: bytes of the file and its log.
func (s *Store) DbSize(context.Context) (int64, error) {
	info, err := os.Stat(s.opts.Path)
	if err != nil {
		return 0, err
	}
	size := info.Size()
	if info, err := os.Stat(s.opts.Path + "-wal"); err == nil {
		size += info.Size()
	}
	return size, nil
}

// CurrentRevision implements server.Backend.
func (s *Store) CurrentRevision(context.Context) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.revision, nil
}
