package sqlite

import (
	"context"
	"fmt"
)

// How much of what was is kept. The API server asks for a compaction every five minutes, to what was five minutes before. So that a flood of changes in between does not fill the disk, history is cut earlier when it is
// larger than both historyBytes and half of what lives; historyKept changes stay in any case.
const (
	historyBytes = 8 << 20
	historyKept  = 1000
)

// removedTogether is how many rows one transaction removes: together with what is written it takes a few milliseconds.
const removedTogether = 200

// Pages of the file that nothing is in are given back to the file system, vacuumed together in a step, when there are more than both sparePages and a quarter of the file.
const (
	sparePages = 512
	vacuumed   = 64
)

// limitHistory moves the compaction on when there is too much history.
func (s *Store) limitHistory(b *batch) {
	x := s.index
	if x.old <= max(historyBytes, x.live/2) || len(x.history) <= historyKept || len(x.removable(1)) > 0 {
		return // or it is being removed
	}
	// A quarter of it at once, so that this is seldom.
	b.compacted = max(b.compacted, min(x.history[len(x.history)/4].by, x.revision-historyKept))
}

// workLeft tells whether there is something to tidy up.
func (s *Store) workLeft() bool {
	return !s.writer.failed && (len(s.index.removable(1)) > 0 || s.writer.spare)
}

// work does a little of it.
func (s *Store) work() {
	if len(s.index.removable(1)) > 0 {
		s.commit(nil)
		s.writer.spare = true // perhaps
		return
	}
	if err := s.writer.vacuum(context.Background()); err != nil {
		s.writer.failed = true
		_ = s.unwritable(err) // it is said
	}
}

// vacuum gives some pages back, and notes whether there are more.
func (w *writer) vacuum(ctx context.Context) error {
	var free, all int
	if err := w.conn.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&free); err != nil {
		return err
	}
	if err := w.conn.QueryRowContext(ctx, "PRAGMA page_count").Scan(&all); err != nil {
		return err
	}
	if w.spare = free > max(sparePages, all/4); !w.spare {
		if !w.shrunk {
			return nil
		}
		w.shrunk = false
		return w.exec(ctx, "PRAGMA wal_checkpoint(PASSIVE)") // only that cuts the file
	}
	w.shrunk = true
	rows, err := w.conn.QueryContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", vacuumed)) // a row a page: it goes on as they are read
	if err != nil {
		return err
	}
	for rows.Next() {
	}
	if err := rows.Err(); err != nil {
		_ = rows.Close()
		return err
	}
	return rows.Close()
}
