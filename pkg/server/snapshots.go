package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/datastore"
	"github.com/labk/labk/pkg/datastore/snapshot"
	"github.com/labk/labk/pkg/datastore/snapshot/replica"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/pkg/status"
	"github.com/labk/labk/pkg/version"
)

// snapshots is what makes them and what brings them to another node.
type snapshots struct {
	keeper *snapshot.Keeper
	copies *replica.Server
	folder snapshot.Folder
	// elsewhere tells that the datastore is not on this PC.
	elsewhere bool
}

func (s *server) newSnapshots(store *datastore.Store) (*snapshots, error) {
	schedule, err := s.cfg.Snapshots()
	if err != nil {
		return nil, err
	}
	all := &snapshots{folder: snapshotFolder(s.cfg), elsewhere: s.cfg.DatastoreEndpoint != "", copies: &replica.Server{
		Own: s.cfg.NodeName, Client: s.client, TrustedClients: s.id.credentials.TrustedClients, Say: s.say,
	}}
	o := snapshot.KeeperOptions{Folder: all.folder, Schedule: schedule, Retention: s.cfg.SnapshotRetention, Cluster: s.cluster, Say: s.say}
	o.Save = func(ctx context.Context, reason snapshot.Reason, prefix string, now time.Time) (snapshot.Found, error) {
		source, err := s.snapshotSource(store)
		if err != nil {
			return snapshot.Found{}, fmt.Errorf("make a snapshot: %w", err)
		}
		return source.Save(ctx, reason, prefix, now)
	}
	if !s.cfg.DisableSnapshotCopy {
		o.Copy = func(ctx context.Context, newest snapshot.Found) error {
			return all.copies.See(ctx, newest.Name, newest.File)
		}
	}
	all.keeper = snapshot.NewKeeper(o)
	return all, nil
}

// snapshotFolder is where a server with this configuration keeps its snapshots.
func snapshotFolder(c *config.Config) snapshot.Folder { return snapshot.Folder(c.SnapshotFolder()) }

// cluster is the hash of the present server CA.
func (s *server) cluster() (hash string, err error) {
	err = s.id.locked(func(p *pki.Store) error {
		ca, err := p.CA(pki.ServerCA)
		if err == nil {
			hash = join.CAHash(ca.Certificate())
		}
		return err
	})
	return hash, err
}

// snapshotSource is what a snapshot is made of at the moment.
func (s *server) snapshotSource(store *datastore.Store) (snapshot.Source, error) {
	cluster, err := s.cluster()
	if err != nil {
		return snapshot.Source{}, err
	}
	files, err := s.snapshotFiles()
	if err != nil {
		return snapshot.Source{}, err
	}
	return snapshot.Source{
		Folder: snapshotFolder(s.cfg), Scratch: s.data.Server(),
		Header: snapshot.Header{
			Cluster: cluster, Node: s.cfg.NodeName, Version: version.Version, Datastore: store.Kind(), Options: unusual(s.cfg),
		},
		Secret: s.id.token.Bootstrap(), Files: files, Dump: store.Dump,
		Size: func() int64 { _, bytes := health.Database(s.data); return bytes },
	}, nil
}

// snapshotFiles are what a new PC needs beside the datastore: authorities and keys, the token, and the key that Secrets are encrypted with.
func (s *server) snapshotFiles() (files []snapshot.File, err error) {
	add := func(path string) error {
		info, err := os.Lstat(path)
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		in, err := filepath.Rel(string(s.data), path)
		files = append(files, snapshot.File{Path: in, Mode: info.Mode().Perm(), Data: data})
		return err
	}
	err = s.id.locked(func(*pki.Store) error {
		return filepath.WalkDir(s.data.ServerTLS(), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), ".") { // that of a write under way
				return err
			}
			return add(path)
		})
	})
	for _, path := range []string{s.data.Token(), s.data.Encryption()} {
		err = errors.Join(err, add(path))
	}
	return files, err
}

// unusual are the options that all servers of the cluster need and that are not as they are by default.
func unusual(c *config.Config) map[string]string {
	usual := config.Default()
	before, out := usual.Shared(), map[string]string{}
	for name, value := range c.Shared() {
		if value != before[name] {
			out[name] = value
		}
	}
	return out
}

// beside puts the handing out of snapshots to nodes in front of what the server hands out to everybody.
func (a *snapshots) beside(open func(context.Context) http.Handler) func(context.Context) http.Handler {
	return func(ctx context.Context) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/", open(ctx))
		mux.Handle("GET "+replica.Prefix, a.copies)
		return mux
	}
}

// report tells how snapshots stand.
func (a *snapshots) report() snapshot.Report {
	r := snapshot.Report{State: a.keeper.State(), Folder: a.folder, Elsewhere: a.elsewhere}
	r.Holder, r.Copied = a.copies.Holder()
	return r
}

// status is what labk status says.
func (a *snapshots) status() *status.Snapshots {
	r := a.report()
	out := &status.Snapshots{Next: r.Next, Folder: string(r.Folder)}
	if r.Newest != nil {
		out.Newest, out.Created, out.Objects = r.Newest.Name, r.Newest.Created, r.Newest.Objects
	}
	if r.Copied == out.Newest {
		out.Holder = r.Holder
	}
	return out
}

// live is what health wants to know.
func (a *snapshots) live() health.Snapshots {
	s := a.keeper.State()
	return health.Snapshots{Error: s.Error, Overdue: s.Overdue, CopyError: s.CopyError}
}

// snapshotRoutes answers `labk snapshot`.
func (s *server) snapshotRoutes(mux *http.ServeMux, g *lifecycle.Group, all *snapshots) {
	mux.HandleFunc("GET "+snapshot.Route, func(w http.ResponseWriter, _ *http.Request) { control.WriteJSON(w, all.report(), nil) })
	mux.HandleFunc("POST "+snapshot.Route, func(w http.ResponseWriter, r *http.Request) {
		var wish snapshot.Wish
		err := json.NewDecoder(r.Body).Decode(&wish)
		if err == nil && !isReady(g, "kube-apiserver") {
			err = errors.New("labk is still starting: try again when `labk status` says that it is up")
		}
		if err != nil {
			control.WriteJSON(w, nil, err)
			return
		}
		if wish.Prefix == "" {
			wish.Prefix = string(wish.Reason)
		}
		found, err := all.keeper.Make(r.Context(), wish.Reason, wish.Prefix)
		control.WriteJSON(w, found, err)
	})
	mux.HandleFunc("POST "+snapshot.RestoreRoute, func(w http.ResponseWriter, _ *http.Request) {
		if !snapshot.Pending(s.data) {
			control.WriteJSON(w, nil, errors.New("no restore is ready"))
			return
		}
		control.WriteJSON(w, nil, nil)
		s.startAnew("a snapshot is restored: starting anew with it")
	})
}

func isReady(g *lifecycle.Group, name string) bool {
	for _, m := range g.Members() {
		if m.Name == name {
			return m.State == lifecycle.Ready
		}
	}
	return false
}

// applyRestore does what somebody has asked for, or what a power cut has interrupted.
func (s *server) applyRestore(context.Context) error {
	plan, err := snapshot.Apply(s.data)
	if err == nil && plan != nil {
		s.sayRestored(plan)
	}
	return err
}

func (s *server) sayRestored(plan *snapshot.Plan) {
	s.say("the datastore is that of the snapshot %s (%s, %d objects) now", plan.Name, plan.Created.Format("2006-01-02 15:04 UTC"), plan.Objects)
	if plan.Aside != "" {
		s.say("what was there before is kept in %s", plan.Aside)
	}
}

// replaced tells that this PC has taken the place of the cluster's server, and its own node is not yet known to be this PC.
func (s *server) replaced() bool {
	plan, err := snapshot.LastRestore(s.data)
	return err == nil && plan != nil && plan.Fresh
}
