package datastore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/datastore/dump"
	"github.com/labk/labk/pkg/datastore/etcd"
	"github.com/labk/labk/pkg/datastore/sqlite"
	"github.com/labk/labk/pkg/paths"
)

// names are how people call the kinds.
func name(kind string) string {
	if kind == config.Etcd {
		return "etcd"
	}
	return "SQLite"
}

func other(kind string) string {
	if kind == config.Etcd {
		return config.SQLite
	}
	return config.Etcd
}

// here tells whether a datastore of the kind is in this PC's data folder.
func (s *Store) here(kind string) bool {
	if kind == config.Etcd {
		return etcd.Exists(s.opts.Data.Etcd())
	}
	info, err := os.Stat(s.opts.Data.Database())
	return err == nil && info.Size() > 0
}

// settle sees to it that the datastore in this process is of the kind that is asked for, and returns the kind that it really is of: when a migration fails, all goes on with the old one.
func (s *Store) settle(ctx context.Context) (kind string, err error) {
	if err := s.finishMove(); err != nil {
		return "", err
	}
	if err := os.RemoveAll(s.opts.Data.Next()); err != nil { // of a migration that was cut short
		return "", fmt.Errorf("clear away what a migration has left: %w", err)
	}
	to := s.opts.Config.Datastore
	from := other(to)
	switch {
	case !s.here(from):
		return to, nil
	case s.here(to):
		return "", fmt.Errorf("open the datastore: both %s and %s are there, and only one can be the datastore: move the one that is not out of %s",
			s.place(from), s.place(to), filepath.Dir(s.opts.Data.Etcd()))
	}
	s.opts.Say("taking the datastore over from %s to %s", name(from), name(to))
	aside, objects, err := s.migrate(ctx, from, to)
	var damaged *sqlite.DamagedError
	switch {
	case errors.As(err, &damaged), ctx.Err() != nil:
		return "", err
	case err != nil:
		s.opts.Say("the datastore stays in %s, which has lost nothing: %v", name(from), errors.Join(err, os.RemoveAll(s.opts.Data.Next())))
		return from, nil
	}
	s.opts.Say("the datastore is in %s now, with all %d objects; what %s had is kept in %s", name(to), objects, name(from), aside)
	return to, nil
}

// migrate makes the new datastore beside the old one, looks whether all is in it, and only then lets them change places.
func (s *Store) migrate(ctx context.Context, from, to string) (aside string, objects int64, err error) {
	next := s.opts.Data.Next()
	if err := os.MkdirAll(next, 0o700); err != nil {
		return "", 0, err
	}
	file, err := os.OpenFile(filepath.Join(next, "dump"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	info, err := s.dumpOf(ctx, from, file)
	if err != nil {
		return "", 0, err
	}
	made := s.inNext(to)
	if err := build(ctx, to, made, file); err != nil {
		return "", 0, err
	}
	if err := s.with(ctx, to, made, func(client *clientv3.Client) error { return compare(ctx, client, info) }); err != nil {
		return "", 0, err
	}
	// All of what has to follow is in this file: from here on the next start would finish it.
	m := move{To: to, Aside: s.opts.Data.Migrated(from, time.Now().UTC().Format("20060102T150405Z"))}
	if err := m.write(s.opts.Data.Moving()); err != nil {
		return "", 0, err
	}
	return m.Aside, info.Objects, s.finishMove()
}

// dumpOf writes all of a datastore that nobody else uses.
func (s *Store) dumpOf(ctx context.Context, kind string, w io.Writer) (info dump.Info, err error) {
	err = s.with(ctx, kind, s.place(kind), func(client *clientv3.Client) error {
		info, err = dump.From(ctx, client, ttl(kind, client), w)
		return err
	})
	return info, err
}

// inNext is where a datastore of the kind is made.
func (s *Store) inNext(kind string) string {
	return filepath.Join(s.opts.Data.Next(), filepath.Base(s.place(kind)))
}

// build makes a datastore of the kind from a dump.
func build(ctx context.Context, kind, place string, file io.ReadSeeker) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r, err := dump.NewReader(file)
	if err != nil {
		return err
	}
	if kind == config.Etcd {
		return etcd.Build(ctx, place, r, r.Revision())
	}
	return sqlite.Build(ctx, place, r, r.Revision())
}

// with runs do with a client of a datastore that nobody else uses.
func (s *Store) with(ctx context.Context, kind, place string, do func(*clientv3.Client) error) (err error) {
	socket := s.opts.Socket + ".own"
	e := s.local(kind, place, socket)
	if err := e.start(ctx); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, e.stop(ctx))
	}()
	client, err := s.client(ctx, []string{"unix://" + socket}, s.TLS())
	if err != nil {
		return err
	}
	defer client.Close()
	return do(client)
}

// compare looks whether the new datastore has as many objects as the dump, at the same revision.
func compare(ctx context.Context, client *clientv3.Client, info dump.Info) error {
	got, err := client.Get(ctx, "/", clientv3.WithRange("0"), clientv3.WithCountOnly(), clientv3.WithRev(info.Revision))
	if err != nil {
		return err
	}
	if got.Count != info.Objects || got.Header.Revision < info.Revision {
		return fmt.Errorf("%d objects at revision %d became %d at %d", info.Objects, info.Revision, got.Count, got.Header.Revision)
	}
	return nil
}

// move is a change of places that has been decided: the datastore of the kind To in Next is whole, and that of the other kind goes to Aside.
type move struct {
	To    string `json:"to"`
	Aside string `json:"aside"`
}

// write puts the decision on the disk, wholly or not at all.
func (m move) write(path string) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return paths.WriteFile(path, text, 0o600)
}

// finishMove does what is left of a change of places; a power cut at any moment only means that it is called again.
func (s *Store) finishMove() error {
	path := s.opts.Data.Moving()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var m move
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err == nil {
		err = s.finish(m)
	}
	if err == nil {
		err = errors.Join(os.Remove(path), paths.SyncDir(filepath.Dir(path)))
	}
	if err != nil {
		return fmt.Errorf("finish taking the datastore over, as %s says: %w", path, err)
	}
	return nil
}

func (s *Store) finish(m move) error {
	from := other(m.To)
	if err := s.setAside(from, m.Aside); err != nil {
		return err
	}
	place, made := s.place(m.To), s.inNext(m.To)
	if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(made); err == nil {
		for _, suffix := range []string{"-wal", "-shm", ""} { // of an empty one, at most
			if err := os.RemoveAll(place + suffix); err != nil {
				return err
			}
		}
		if err := os.Rename(made, place); err != nil {
			return err
		}
	}
	return errors.Join(paths.SyncDir(filepath.Dir(place)), os.RemoveAll(s.opts.Data.Next()), s.keepNewest(from, m.Aside))
}

// setAside moves what there still is of the datastore of the kind. SQLite's folder has other things, too.
func (s *Store) setAside(kind, aside string) error {
	if kind == config.Etcd {
		err := os.Rename(s.place(kind), aside)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, paths.SyncDir(filepath.Dir(aside)))
	}
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	for _, suffix := range []string{"-wal", "-shm", ""} { // a log without its file means nothing to anybody
		file := s.place(kind) + suffix
		if err := os.Rename(file, filepath.Join(aside, filepath.Base(file))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errors.Join(paths.SyncDir(aside), paths.SyncDir(filepath.Dir(aside)), paths.SyncDir(filepath.Dir(s.place(kind))))
}

// keepNewest removes what earlier migrations from the kind have left.
func (s *Store) keepNewest(kind, newest string) error {
	all, err := filepath.Glob(s.opts.Data.Migrated(kind, "*"))
	for _, old := range all {
		if old != newest {
			err = errors.Join(err, os.RemoveAll(old))
		}
	}
	return err
}
