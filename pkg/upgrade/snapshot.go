package upgrade

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/datastore/snapshot"
	"github.com/labk/labk/pkg/datastore/sqlite"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/pkg/version"
)

// saveLimit is how long a snapshot may take: a large datastore on a slow disk.
const saveLimit = 15 * time.Minute

// save lets the labk that runs make a snapshot. One from before there were snapshots can't; where none runs there is nobody to make one.
func (u *upgrade) save(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	err := control.Call(ctx, paths.ControlSocket, http.MethodGet, snapshot.Route, nil, nil)
	if errors.Is(err, control.ErrNotRunning) {
		return u.withoutSnapshot()
	}
	if err != nil {
		u.Say("the labk that runs makes no snapshots")
		return nil
	}
	var found snapshot.Found
	if err := control.Call(ctx, paths.ControlSocket, http.MethodPost, snapshot.Route, snapshot.Wish{Reason: snapshot.Upgrade}, &found); err != nil {
		return fmt.Errorf("make a snapshot before the upgrade: %w", err)
	}
	u.Say("a snapshot of the cluster is in %s", found.File)
	return nil
}

// withoutSnapshot tells whether an upgrade can do without one. SQLite's file is copied; of etcd there would be nothing to go back to, or a snapshot from before an upgrade long ago.
func (u *upgrade) withoutSnapshot() error {
	if u.etcd() && u.otherMinor(u.next.Text) {
		return errors.New("make a snapshot before the upgrade to another minor version: labk does not run: start it first (systemctl start labk)")
	}
	u.Say("labk does not run, so that no snapshot is made")
	return nil
}

// etcd tells whether the datastore is a member of etcd on this PC.
func (u *upgrade) etcd() bool {
	_, err := os.Stat(u.data.EtcdFile())
	return u.Server && u.Config.DatastoreEndpoint == "" && err == nil
}

// clusters are the hashes of the authorities that this cluster has and had.
func (u *upgrade) clusters() ([]string, error) {
	hashes, err := join.CAHashes(pki.NewStore(u.data.ServerTLS(), time.Now).Files(pki.ServerCA)...)
	if err != nil {
		return nil, fmt.Errorf("look which cluster this is: %w", err)
	}
	return hashes, nil
}

// snapshotBefore finds the newest snapshot of this cluster that was made before an upgrade, by a labk of the minor version to go back to.
func (u *upgrade) snapshotBefore() (snapshot.Found, error) {
	clusters, err := u.clusters()
	if err != nil {
		return snapshot.Found{}, err
	}
	all, err := snapshot.Folder(u.Config.SnapshotFolder()).List()
	if err != nil {
		return snapshot.Found{}, err
	}
	for _, found := range all {
		if found.Problem == "" && found.Reason == snapshot.Upgrade && slices.Contains(clusters, found.Cluster) && !u.otherMinor(found.Version) {
			return found, nil
		}
	}
	return snapshot.Found{}, fmt.Errorf("there is no snapshot from before an upgrade of %s in %s", u.before, u.Config.SnapshotFolder())
}

// bringBack restores the snapshot from before the upgrade. The program before takes it over into etcd when it starts, as it does with SQLite's file.
func (u *upgrade) bringBack(ctx context.Context) error {
	found, err := u.snapshotBefore()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(u.data.Token())
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	token, err := join.ParseToken(string(text))
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	clusters, err := u.clusters()
	if err != nil {
		return err
	}
	_, err = snapshot.Stage(ctx, snapshot.RestoreOptions{
		Data: u.data, File: found.File, Secret: token.Bootstrap(), Clusters: clusters, Version: version.Version,
		Why: snapshot.Replaced, Cause: "labk upgrade was taken back", Build: sqlite.Build, Now: time.Now(),
	})
	if err != nil {
		return err
	}
	plan, err := snapshot.Apply(u.data)
	if err != nil {
		return err
	}
	u.Say("the datastore is that of the snapshot %s again; what there was after it is in %s", plan.Name, plan.Aside)
	return nil
}
