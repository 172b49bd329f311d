package datastore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
)

// pc is a server's data folder.
type pc struct {
	data   paths.Data
	socket string
	said   []string
}

func newPC(t *testing.T) *pc {
	t.Helper()
	return &pc{data: paths.Data(t.TempDir()), socket: filepath.Join(t.TempDir(), "s")}
}

// store is one of the kind over the folder, not yet started.
func (p *pc) store(kind string) *Store {
	cfg := config.Default()
	cfg.Datastore = kind
	return New(Options{Config: &cfg, Data: p.data, Socket: p.socket, Say: func(format string, args ...any) {
		p.said = append(p.said, fmt.Sprintf(format, args...))
	}})
}

// run starts one, lets do use it, and stops it.
func (p *pc) run(t *testing.T, kind string, do func(*Store, *clientv3.Client)) {
	t.Helper()
	s := p.store(kind)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := s.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	do(s, client)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// create creates a key as the API server does; a lease of 0 is none.
func create(t *testing.T, client *clientv3.Client, key, value string, lease clientv3.LeaseID) int64 {
	t.Helper()
	put := clientv3.OpPut(key, value, clientv3.WithLease(lease))
	done, err := client.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(put).Commit()
	if err != nil || !done.Succeeded {
		t.Fatalf("%s: %+v, %v", key, done, err)
	}
	return done.Header.Revision
}

func update(t *testing.T, client *clientv3.Client, key, value string, revision int64) int64 {
	t.Helper()
	done, err := client.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err != nil || !done.Succeeded {
		t.Fatalf("%s: %+v, %v", key, done, err)
	}
	return done.Header.Revision
}

// There and back again: objects, their revisions, what is left of a lease, and revisions that only grow.
func TestMigration(t *testing.T) {
	p := newPC(t)
	const many = 300
	var last, updated int64
	p.run(t, config.SQLite, func(s *Store, client *clientv3.Client) {
		for i := range many {
			last = create(t, client, fmt.Sprintf("/registry/x/%03d", i), fmt.Sprint(i), 0)
		}
		updated = update(t, client, "/registry/x/007", "seven", last-many+1+7)
		lease, err := client.Grant(t.Context(), 3600)
		if err != nil {
			t.Fatal(err)
		}
		last = create(t, client, "/registry/events/a", "event", lease.ID)
	})
	look := func(kind string) func(*Store, *clientv3.Client) {
		return func(s *Store, client *clientv3.Client) {
			t.Helper()
			if s.Kind() != kind {
				t.Errorf("it is %s", s.Kind())
			}
			if err := s.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			all, err := client.Get(t.Context(), "/registry/x/", clientv3.WithPrefix())
			if err != nil || len(all.Kvs) != many {
				t.Fatalf("%d, %v", len(all.Kvs), err)
			}
			if seven := all.Kvs[7]; string(seven.Value) != "seven" || seven.ModRevision != updated || seven.CreateRevision == updated {
				t.Errorf("%+v", seven)
			}
			event, err := client.Get(t.Context(), "/registry/events/a")
			if err != nil || len(event.Kvs) != 1 || event.Kvs[0].Lease == 0 {
				t.Fatalf("%+v, %v", event, err)
			}
			seconds, err := ttl(kind, client)(t.Context(), event.Kvs[0].Lease)
			if err != nil || seconds > 3600 || seconds < 3500 {
				t.Errorf("%d s, %v", seconds, err)
			}
			if now := create(t, client, fmt.Sprintf("/registry/y/%d", last), "", 0); now <= last {
				t.Errorf("revision %d after %d", now, last)
			} else {
				last = now
			}
		}
	}
	p.run(t, config.Etcd, look(config.Etcd))
	if said := strings.Join(p.said, "\n"); !strings.Contains(said, "taking the datastore over from SQLite to etcd") || !strings.Contains(said, "with all 30") {
		t.Error(said)
	}
	p.said = nil
	p.run(t, config.Etcd, look(config.Etcd))
	p.run(t, config.SQLite, look(config.SQLite))
	p.run(t, config.SQLite, look(config.SQLite))
	if said := strings.Join(p.said, "\n"); !strings.Contains(said, "from etcd to SQLite") {
		t.Error(said)
	}
	p.holds(t, "db", "db.migrated-*", "etcd.migrated-*")
}

// holds checks what is in the server's folder.
func (p *pc) holds(t *testing.T, patterns ...string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(string(p.data), "server"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		found := false
		for _, pattern := range patterns {
			ok, _ := filepath.Match(pattern, entry.Name())
			found = found || ok
		}
		if !found {
			t.Errorf("%s is left", entry.Name())
		}
	}
	if len(left) != len(patterns) {
		t.Errorf("%v, want %v", left, patterns)
	}
}

// A power cut after the decision, at each of its steps, loses nothing: the next start finishes what there is left to do.
func TestMigrationIsFinished(t *testing.T) {
	for name, tc := range map[string]struct {
		to  string
		cut func(t *testing.T, p *pc, m move)
	}{
		"nothing done": {config.Etcd, func(*testing.T, *pc, move) {}},
		"log aside": {config.Etcd, func(t *testing.T, p *pc, m move) {
			rename(t, p.data.Database()+"-wal", filepath.Join(m.Aside, "state.db-wal"))
		}},
		"old aside": {config.Etcd, func(t *testing.T, p *pc, m move) { rename(t, p.data.Database(), filepath.Join(m.Aside, "state.db")) }},
		"places changed": {config.Etcd, func(t *testing.T, p *pc, m move) {
			rename(t, p.data.Database(), filepath.Join(m.Aside, "state.db"))
			rename(t, filepath.Join(p.data.Next(), "etcd"), p.data.Etcd())
		}},
		"back":              {config.SQLite, func(*testing.T, *pc, move) {}},
		"back, old aside":   {config.SQLite, func(t *testing.T, p *pc, m move) { rename(t, p.data.Etcd(), m.Aside) }},
		"and other program": {config.Etcd, func(t *testing.T, p *pc, m move) { rename(t, p.data.Database(), filepath.Join(m.Aside, "state.db")) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPC(t)
			from := other(tc.to)
			p.run(t, from, func(_ *Store, client *clientv3.Client) { create(t, client, "/a", "1", 0) })
			s := p.store(tc.to)
			m := prepare(t, s, from, tc.to)
			if from == config.SQLite {
				write(t, p.data.Database()+"-wal", "")
			}
			tc.cut(t, p, m)
			ask := tc.to
			if name == "and other program" { // somebody has changed his mind before the next start
				ask = from
			}
			p.run(t, ask, func(s *Store, client *clientv3.Client) {
				got, err := client.Get(t.Context(), "/a")
				if err != nil || len(got.Kvs) != 1 || s.Kind() != ask {
					t.Errorf("%+v, %v", got, err)
				}
			})
			if _, err := os.Stat(p.data.Moving()); err == nil {
				t.Error("it is not finished")
			}
		})
	}
}

// prepare does what a migration does until its decision.
func prepare(t *testing.T, s *Store, from, to string) move {
	t.Helper()
	next := s.opts.Data.Next()
	if err := os.MkdirAll(next, 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(next, "dump"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := s.dumpOf(t.Context(), from, file); err != nil {
		t.Fatal(err)
	}
	if err := build(t.Context(), to, s.inNext(to), file); err != nil {
		t.Fatal(err)
	}
	m := move{To: to, Aside: s.opts.Data.Migrated(from, "x")}
	if err := m.write(s.opts.Data.Moving()); err != nil {
		t.Fatal(err)
	}
	return m
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What was cut short before the decision is forgotten, and begins anew.
func TestMigrationBeginsAnew(t *testing.T) {
	p := newPC(t)
	p.run(t, config.SQLite, func(_ *Store, client *clientv3.Client) { create(t, client, "/a", "1", 0) })
	if err := os.MkdirAll(filepath.Join(p.data.Next(), "etcd", "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.data.Next(), "dump"), "half")
	p.run(t, config.Etcd, func(s *Store, client *clientv3.Client) {
		if got, err := client.Get(t.Context(), "/a"); err != nil || len(got.Kvs) != 1 || s.Kind() != config.Etcd {
			t.Errorf("%+v, %v", got, err)
		}
	})
	p.holds(t, "db", "db.migrated-*", "etcd")
}

// When the new one can't be made, the old one serves on, and that is said.
func TestMigrationFails(t *testing.T) {
	p := newPC(t)
	p.run(t, config.SQLite, func(_ *Store, client *clientv3.Client) { create(t, client, "/a", "1", 0) })
	// A file where the folder should be made.
	if err := os.Mkdir(p.socket+".own", 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.socket+".own", "in the way"), "")
	p.run(t, config.Etcd, func(s *Store, client *clientv3.Client) {
		if got, err := client.Get(t.Context(), "/a"); err != nil || len(got.Kvs) != 1 || s.Kind() != config.SQLite {
			t.Errorf("%+v, %v, %s", got, err, s.Kind())
		}
	})
	if said := strings.Join(p.said, "\n"); !strings.Contains(said, "the datastore stays in SQLite, which has lost nothing") {
		t.Error(said)
	}
	p.holds(t, "db")
}

// Of two datastores nobody can tell which one counts.
func TestTwoDatastores(t *testing.T) {
	p := newPC(t)
	p.run(t, config.Etcd, func(_ *Store, client *clientv3.Client) { create(t, client, "/a", "1", 0) })
	if err := os.MkdirAll(filepath.Dir(p.data.Database()), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, p.data.Database(), "something")
	for _, kind := range []string{config.Etcd, config.SQLite} {
		if err := p.store(kind).Start(t.Context()); err == nil || !strings.Contains(err.Error(), "only one can be the datastore") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// A damaged one is not migrated, and stays as it is.
func TestDamagedIsNotMigrated(t *testing.T) {
	p := newPC(t)
	if err := os.MkdirAll(filepath.Dir(p.data.Database()), 0o700); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("no database", 1000)
	write(t, p.data.Database(), text)
	if err := p.store(config.Etcd).Start(t.Context()); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Fatal(err)
	}
	if left, err := os.ReadFile(p.data.Database()); err != nil || string(left) != text {
		t.Error("it was touched")
	}
}
