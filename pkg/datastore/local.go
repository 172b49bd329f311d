package datastore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/k3s-io/kine/pkg/server"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/datastore/etcd"
	"github.com/labk/labk/pkg/datastore/sqlite"
)

// place is where a datastore of the kind is in this PC's data folder: SQLite's file, or etcd's folder.
func (s *Store) place(kind string) string {
	if kind == config.Etcd {
		return s.opts.Data.Etcd()
	}
	return s.opts.Data.Database()
}

// local returns the engine of a datastore in this process.
func (s *Store) local(kind, place, socket string) engine {
	if kind == config.Etcd {
		return member{etcd.New(etcd.Options{
			Dir: place, Log: s.opts.Log, Listen: func(ctx context.Context) (net.Listener, error) { return listenPrivately(ctx, socket) },
		})}
	}
	return &behind{socket: socket, open: func(ctx context.Context) (backend, error) {
		if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
			return nil, fmt.Errorf("make the database's folder: %w", err)
		}
		return sqlite.Open(ctx, sqlite.Options{Path: place, Say: s.opts.Say})
	}}
}

// member is a member of etcd in this process.
type member struct{ *etcd.Member }

func (m member) start(ctx context.Context) error { return m.Start(ctx) }
func (m member) stop(ctx context.Context) error  { return m.Stop(ctx) }
func (m member) failed() <-chan error            { return m.Failed() }

// backend is what stands behind the etcd face. Close ends it; every acknowledged write is on the disk before.
type backend interface {
	server.Backend
	Close() error
}

// behind is a backend with its face.
type behind struct {
	socket string
	// open opens the backend; ctx ends only the opening.
	open func(ctx context.Context) (backend, error)

	backend backend
	face    *face
}

func (b *behind) start(ctx context.Context) (err error) {
	if b.backend, err = b.open(ctx); err != nil {
		return err
	}
	b.face = newFace(b.backend, b.socket)
	if err := b.face.start(ctx); err != nil {
		return errors.Join(err, b.backend.Close())
	}
	return nil
}

func (b *behind) stop(context.Context) error {
	b.face.stop()
	return b.backend.Close()
}

func (b *behind) failed() <-chan error { return nil }
