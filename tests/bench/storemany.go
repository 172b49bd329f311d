package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
)

const (
	manyUpdates   = 100_000
	updateObjects = 100
	manyObjects   = 100_000
	// compactedAfter is how long a compaction may take.
	compactedAfter = 30 * time.Second
)

// measureMany measures what 100,000 updates leave, and then a start with 100,000 objects.
func (s *store) measureMany(parent, ctx context.Context) error {
	if err := s.manyUpdates(ctx); err != nil {
		return err
	}
	m := s.all.maps("many", manyObjects)
	if _, err := s.all.each(ctx, manyObjects, m.create); err != nil {
		return err
	}
	if _, err := s.stop(); err != nil {
		return err
	}
	s.end()
	ctx, started, err := s.bench.launch(parent, s.args...)
	if err != nil {
		return err
	}
	s.started = started
	if err := s.bench.note(started, rowManyReadyz, func() (time.Time, error) { return s.waitReadyz(ctx) }); err != nil {
		return s.explain(err)
	}
	if err := pause(ctx, 2*lull); err != nil {
		return err
	}
	used, err := s.meter.memory(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	s.bench.report.add(rowManyRSS, sample{Value: used.labk})
	return s.noteSize(rowManyFile)
}

// manyUpdates updates few objects very often, and then lets the datastore forget all but the last versions.
func (s *store) manyUpdates(ctx context.Context) error {
	m := s.all.maps("few", updateObjects)
	if _, err := s.all.each(ctx, updateObjects, m.create); err != nil {
		return err
	}
	// Each object belongs to one client at a time: two would fight for its version.
	const turns = manyUpdates / updateObjects
	_, err := s.all.each(ctx, updateObjects, func(c *caller, i int) error {
		for range turns {
			if err := m.update(c, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.noteSize(rowGrown); err != nil {
		return err
	}
	if err := s.compact(ctx); err != nil {
		return err
	}
	if err := pause(ctx, compactedAfter); err != nil {
		return err
	}
	return s.noteSize(rowCompacted)
}

// compact asks for what the API server asks for every five minutes.
func (s *store) compact(ctx context.Context) error {
	client, err := s.datastore()
	if err != nil {
		return err
	}
	defer client.Close()
	now, err := client.Get(ctx, "/registry/health")
	if err == nil {
		_, err = client.Compact(ctx, now.Header.Revision)
	}
	if err != nil {
		return fmt.Errorf("compact the datastore: %w", err)
	}
	return nil
}

// datastore is a client of the server's datastore itself.
func (s *store) datastore() (*clientv3.Client, error) {
	socket, err := s.host.Path(paths.KineSocket)
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, DialTimeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("connect to the datastore: %w", err)
	}
	return client, nil
}

// noteSize notes the size of the datastore's files in MB (2^20 bytes).
func (s *store) noteSize(row string) error {
	dir, err := s.host.Path(filepath.Join(config.Default().DataDir, "server"))
	if err != nil {
		return err
	}
	var size int64
	for _, folder := range []string{"db", "etcd"} { // one of them is there
		err := filepath.WalkDir(filepath.Join(dir, folder), func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			if err == nil {
				size += info.Size()
			}
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("measure the datastore's files: %w", err)
		}
	}
	s.bench.report.add(row, sample{Value: float64(size) / (1 << 20)})
	return nil
}
