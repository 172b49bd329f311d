package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/labk/labk/pkg/datastore/dump"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/version"
)

// bump is by how much the revision grows in a restore. The datastore that is lost has gone on after the snapshot: none of its revisions may be given to something else, or whoever remembers one would take the new
// thing for the old.
const bump = 1_000_000_000

// RestoreOptions of Stage.
type RestoreOptions struct {
	Data paths.Data
	// File is the snapshot's, Secret its token's.
	File, Secret string
	// Clusters are the hashes of the server CAs that the data folder's cluster has and had; empty if there is none in it.
	Clusters []string
	// Version is that of this labk.
	Version string
	// Why the datastore that is there is set aside: one word for its new name. Cause says more, for people.
	Why, Cause string
	// Build makes a file of SQLite (sqlite.Build).
	Build func(ctx context.Context, path string, content *dump.Reader, revision int64) error
	Now   time.Time
}

// Why something was set aside.
const (
	Replaced = "replaced"
	Damaged  = "damaged"
)

// Plan is a restore that is ready, or done.
type Plan struct {
	Header
	// From is the snapshot's file.
	From string `json:"from"`
	// At is when it was made ready. Stamp is how what is set aside is called, Aside where it was found to be in the end: empty if there was nothing.
	At    time.Time `json:"at"`
	Stamp string    `json:"stamp"`
	Aside string    `json:"aside,omitempty"`
	Why   string    `json:"why"`
	Cause string    `json:"cause,omitempty"`
	// NewRevision is the datastore's from now on.
	NewRevision int64 `json:"newRevision"`
	// Fresh tells that the data folder had no cluster: this PC takes the server's place.
	Fresh bool `json:"fresh,omitempty"`
}

// Names in the folder of a restore that is ready.
const (
	planFile   = "plan.json"
	stageFiles = "files"
	stageDB    = "db"
)

// ClusterError tells that a snapshot is of another cluster than the data folder.
type ClusterError struct {
	File, Snapshot, Present, Server string
}

func (e *ClusterError) Error() string {
	return fmt.Sprintf("%s is a snapshot of the cluster %s, and %s has the cluster %s: if this PC is to be the server of that one instead, stop labk, set this one aside with `mv %s %s.other` and restore again",
		e.File, Short(e.Snapshot), e.Server, Short(e.Present), e.Server, e.Server)
}

// Fits reads a snapshot wholly and tells why Stage would refuse it. It changes nothing.
func Fits(o RestoreOptions) error {
	s, err := Open(o.File)
	if err != nil {
		return err
	}
	if err := errors.Join(s.fits(o), s.Close()); err != nil {
		return err
	}
	_, err = Verify(o.File, o.Secret)
	return err
}

// Stage reads a snapshot wholly and makes everything ready that Apply puts in its place. Nothing that is in use is touched, so labk may run. Until the last moment a power cut leaves nothing; from then on the restore
// happens at the next start at the latest.
func Stage(ctx context.Context, o RestoreOptions) (*Plan, error) {
	s, err := Open(o.File)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.fits(o); err != nil {
		return nil, err
	}
	plan, err := stage(ctx, s, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("restore %s: %w", o.File, err), os.RemoveAll(o.Data.RestoreMaking()))
	}
	return plan, nil
}

// fits finds reasons why a snapshot must not be restored here, as far as its header tells.
func (s *Snapshot) fits(o RestoreOptions) error {
	made, err := version.Parse(s.Version)
	here, err2 := version.Parse(o.Version)
	if err == nil && err2 == nil && !made.IsDevelopment() && !here.IsDevelopment() {
		if minors, same := made.Minors(here); made.Compare(here) > 0 && (minors > 0 || !same) {
			return fmt.Errorf("restore %s: it was made by labk %s, and this is %s, which does not understand what a newer minor version of Kubernetes has written: use %s or a newer one", o.File, s.Version, o.Version, s.Version)
		}
	}
	if len(o.Clusters) > 0 && !slices.Contains(o.Clusters, s.Cluster) {
		return &ClusterError{File: o.File, Snapshot: s.Cluster, Present: o.Clusters[0], Server: o.Data.Server()}
	}
	return nil
}

func stage(ctx context.Context, s *Snapshot, o RestoreOptions) (*Plan, error) {
	files, content, err := s.Unlock(o.Secret)
	if err != nil {
		return nil, err
	}
	making := o.Data.RestoreMaking()
	if err := errors.Join(os.RemoveAll(making), os.MkdirAll(filepath.Join(making, stageDB), 0o700)); err != nil {
		return nil, err
	}
	// The dump is SQLite's file once more, with its indices and the log that it is written through.
	if err := checkSpace(making, 3*s.dumpSize); err != nil {
		return nil, err
	}
	plan := &Plan{
		Header: s.Header, From: o.File, At: o.Now.UTC(), Stamp: freeStamp(o), Why: o.Why, Cause: o.Cause,
		NewRevision: s.Revision + bump, Fresh: len(o.Clusters) == 0,
	}
	if last, err := LastRestore(o.Data); err != nil {
		return nil, err
	} else if last != nil { // the same one a second time, perhaps
		plan.NewRevision = max(plan.NewRevision, last.NewRevision+bump)
	}
	if err := o.Build(ctx, filepath.Join(making, stageDB, filepath.Base(o.Data.Database())), content, plan.NewRevision); err != nil {
		return nil, err
	}
	if _, err := content.Next(); err != io.EOF || content.Count() != s.Objects {
		return nil, errors.Join(fmt.Errorf("it should have %d objects and has %d", s.Objects, content.Count()), err)
	}
	if err := s.End(); err != nil {
		return nil, err
	}
	for _, f := range files {
		if !plan.Fresh && !o.replaces(f.Path) {
			continue
		}
		if err := paths.WriteFile(filepath.Join(making, stageFiles, f.Path), f.Data, f.Mode); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	if err := paths.WriteFile(filepath.Join(making, planFile), text, 0o600); err != nil {
		return nil, err
	}
	if err := errors.Join(paths.SyncTree(making), os.RemoveAll(o.Data.Restore())); err != nil {
		return nil, err
	}
	return plan, paths.Rename(making, o.Data.Restore())
}

// freeStamp is one that nothing is set aside with yet: of two restores within a second, too, the second must not write over what the first has kept.
func freeStamp(o RestoreOptions) string {
	stamp := o.Why + "-" + o.Now.UTC().Format("20060102-150405")
	free := stamp
	for i := 2; ; i++ {
		p := Plan{Stamp: free}
		_, noDatabase := os.Lstat(p.aside(o.Data.DatabaseFolder()))
		if _, noEtcd := os.Lstat(p.aside(o.Data.Etcd())); noDatabase != nil && noEtcd != nil {
			return free
		}
		free = fmt.Sprintf("%s-%d", stamp, i)
	}
}

// replaces tells whether a file of the snapshot takes the place of that of the cluster that is there: only the key that the snapshot's Secrets are encrypted with must, and what is missing.
func (o RestoreOptions) replaces(path string) bool {
	in := filepath.Join(string(o.Data), path)
	_, err := os.Lstat(in)
	return in == o.Data.Encryption() || errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(in, o.Data.ServerTLS())
}

// Pending tells whether a restore is ready.
func Pending(data paths.Data) bool {
	_, err := os.Lstat(filepath.Join(data.Restore(), planFile))
	return err == nil
}

// Apply does a restore that is ready, and returns nil if none is. Nobody may be using the data folder. What was the datastore is set aside, never removed. Whatever ends it in the middle, the next call goes on: call it before
// anything opens the datastore.
func Apply(data paths.Data) (*Plan, error) {
	text, err := os.ReadFile(filepath.Join(data.Restore(), planFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	plan := new(Plan)
	if err == nil {
		err = json.Unmarshal(text, plan)
	}
	if err == nil {
		err = plan.apply(data)
	}
	if err != nil {
		return nil, fmt.Errorf("put the restored datastore in its place: %w", err)
	}
	return plan, nil
}

func (p *Plan) apply(data paths.Data) error {
	from := filepath.Join(data.Restore(), stageFiles)
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == from {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		to := filepath.Join(string(data), path[len(from):])
		if err := p.keep(data, to, content); err != nil {
			return err
		}
		return paths.WriteFile(to, content, info.Mode().Perm())
	})
	if err != nil {
		return err
	}
	if err := p.exchange(data); err != nil {
		return err
	}
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	if err := paths.WriteFile(data.Restored(), append(text, '\n'), 0o600); err != nil {
		return err
	}
	// The plan goes first: without it the rest is nothing.
	if err := os.Remove(filepath.Join(data.Restore(), planFile)); err != nil {
		return err
	}
	return errors.Join(paths.SyncDir(data.Restore()), os.RemoveAll(data.Restore()))
}

// keep sets a file aside that is to have another content.
func (p *Plan) keep(data paths.Data, path string, content []byte) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && string(old) == string(content) {
		return nil
	}
	if err != nil {
		return err
	}
	return paths.WriteFile(filepath.Join(p.aside(data.DatabaseFolder()), filepath.Base(path)), old, 0o600)
}

// aside is where a folder of the datastore is set aside.
func (p *Plan) aside(dir string) string { return dir + "." + p.Stamp }

// exchange sets the present datastore aside and puts the new one in its place. Each step is one rename, and is left out if it was done before.
func (p *Plan) exchange(data paths.Data) error {
	staged := filepath.Join(data.Restore(), stageDB, filepath.Base(data.Database()))
	if _, err := os.Lstat(staged); err == nil {
		// A migration that was not finished has its beginning in what is set aside now; its end is not wanted any more.
		if err := os.Remove(data.Moving()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := errors.Join(paths.SyncDir(data.Server()), os.RemoveAll(data.Next())); err != nil {
			return err
		}
		// SQLite's log goes with its file; copies from before upgrades stay where they are looked for.
		old, err := os.ReadDir(data.DatabaseFolder()) // no Glob: the path may have signs that mean something to it
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, file := range old {
			if !strings.HasPrefix(file.Name(), filepath.Base(data.Database())) {
				continue
			}
			if err := move(filepath.Join(data.DatabaseFolder(), file.Name()), filepath.Join(p.aside(data.DatabaseFolder()), file.Name())); err != nil {
				return err
			}
		}
		if _, err := os.Lstat(data.Etcd()); err == nil {
			if err := move(data.Etcd(), p.aside(data.Etcd())); err != nil {
				return err
			}
		}
		if err := move(staged, data.Database()); err != nil {
			return err
		}
	}
	for _, dir := range []string{data.DatabaseFolder(), data.Etcd()} {
		if _, err := os.Lstat(p.aside(dir)); err == nil {
			p.Aside = p.aside(dir)
		}
	}
	return nil
}

// move renames so that it outlasts a power cut; the folder is made.
func move(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(paths.SyncDir(filepath.Dir(to)), paths.SyncDir(filepath.Dir(from)), paths.SyncDir(filepath.Dir(filepath.Dir(to))))
}

// LastRestore tells of the last restore; nil if there was none.
func LastRestore(data paths.Data) (*Plan, error) {
	text, err := os.ReadFile(data.Restored())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	p := new(Plan)
	if err == nil {
		err = json.Unmarshal(text, p)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w: remove it if it is damaged", data.Restored(), err)
	}
	return p, nil
}

// Settled notes that this PC is the server of the cluster now: Fresh no more.
func Settled(data paths.Data) error {
	p, err := LastRestore(data)
	if err != nil || p == nil || !p.Fresh {
		return err
	}
	p.Fresh = false
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return paths.WriteFile(data.Restored(), append(text, '\n'), 0o600)
}
