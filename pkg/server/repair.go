package server

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/labk/labk/pkg/datastore"
	"github.com/labk/labk/pkg/datastore/etcd"
	"github.com/labk/labk/pkg/datastore/snapshot"
	"github.com/labk/labk/pkg/datastore/sqlite"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/version"
)

// ExamineCommand is labk's hidden command that looks at the file of etcd that it is given (etcd.Examine). ExaminedDamage is its code when that is damaged; examinePanics is Go's when a program panics.
const (
	ExamineCommand = "examine-etcd"
	ExaminedDamage = 3
	examinePanics  = 2
)

// mended is a datastore that is restored from the newest good snapshot if it is damaged.
type mended struct {
	*datastore.Store
	s *server
}

// Start implements lifecycle.Component.
func (m *mended) Start(ctx context.Context) error {
	err := m.examine(ctx)
	if err == nil {
		err = m.Store.Start(ctx)
	}
	if err == nil || !damaged(err) || ctx.Err() != nil {
		return err
	}
	if mending := m.s.mend(ctx, err); mending != nil {
		return errors.Join(err, mending)
	}
	// etcd that has given up leaves something behind in its process.
	return &process.RestartError{Reason: "the datastore was restored: starting anew with it"}
}

// examine looks at etcd's file before etcd does, which would end this process if it came upon damage: in another one.
func (m *mended) examine(ctx context.Context) error {
	if m.s.cfg.DatastoreEndpoint != "" || !etcd.Exists(m.s.data.Etcd()) {
		return nil
	}
	out, err := exec.CommandContext(ctx, "/proc/self/exe", ExamineCommand, m.s.data.EtcdFile()).CombinedOutput()
	exit := new(exec.ExitError)
	if !errors.As(err, &exit) {
		return nil
	}
	detail, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return examined(m.s.data, exit.ExitCode(), detail)
}

// examined judges by the code and the first line of the examination. Only what proves damage is a *DamagedError: from a disk that fails the file may be well again, and nothing may take its place.
func examined(data paths.Data, code int, detail string) error {
	memory := strings.Contains(detail, "out of memory") || strings.Contains(detail, "cannot allocate memory")
	switch {
	case code == ExaminedDamage, code == examinePanics && !memory:
		return &etcd.DamagedError{Dir: data.Etcd(), Detail: detail}
	case code < 0, memory: // killed, or in want of memory: that says nothing
		return nil
	}
	return fmt.Errorf("look at the datastore %s: %s", data.EtcdFile(), detail)
}

func damaged(err error) bool {
	return errors.As(err, new(*sqlite.DamagedError)) || errors.As(err, new(*etcd.DamagedError))
}

// mend puts the newest good snapshot in the place of a damaged datastore, and says so as loudly as it can: here, in labk status and in an event (LABK088).
func (s *server) mend(ctx context.Context, cause error) error {
	s.say("THE DATASTORE IS DAMAGED: %v", cause)
	all, err := snapshotFolder(s.cfg).List()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("there is no snapshot in %s that could take its place", snapshotFolder(s.cfg))
	}
	clusters, err := join.CAHashes(pki.NewStore(s.data.ServerTLS(), time.Now).Files(pki.ServerCA)...)
	if err != nil {
		return err
	}
	var bad []error
	for _, found := range all {
		plan, err := snapshot.Stage(ctx, snapshot.RestoreOptions{
			Data: s.data, File: found.File, Secret: s.id.token.Bootstrap(), Clusters: clusters, Version: version.Version,
			Why: snapshot.Damaged, Cause: cause.Error(), Build: sqlite.Build, Now: time.Now(),
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.As(err, new(*snapshot.SpaceError)) {
			return err // an older one may be smaller, but more would be lost than need be
		}
		if err != nil {
			s.say("a snapshot that can't take its place: %v", err)
			bad = append(bad, err)
			continue
		}
		s.say("taking the newest good snapshot, %s of %s: what changed in the cluster since then is lost", plan.Name, plan.Created.Format("2006-01-02 15:04 UTC"))
		return nil // the next start puts it in its place
	}
	return fmt.Errorf("and no snapshot can take its place: %w", errors.Join(bad...))
}
