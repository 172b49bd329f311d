package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/labk/labk/pkg/datastore/dump"
	"github.com/labk/labk/pkg/paths"
)

// Build makes the folder of a member that is alone from a dump: every object keeps its revisions and its version, the next revision is after the one given,
// which must not be before the dump's, and all revisions before it are compacted. Leases begin anew with the time that was left of them. The folder must not be there, and everything in it is
// on the disk when Build returns; after an error nothing is left.
func Build(ctx context.Context, dir string, from *dump.Reader, revision int64) (err error) {
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("build an etcd member: %s is there already", dir)
	}
	if revision < from.Revision() {
		return fmt.Errorf("build an etcd member: revision %d is before the dump's, %d", revision, from.Revision())
	}
	source := dir + ".db"
	defer func() {
		err = errors.Join(err, os.RemoveAll(source))
		if err != nil {
			err = errors.Join(fmt.Errorf("build an etcd member in %s: %w", dir, err), os.RemoveAll(dir))
		}
	}()
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(source); err != nil {
		return err
	}
	logger := newBridge(nil)
	built := make(chan error, 1)
	go func() { built <- build(ctx, logger.logger(), source, dir, from, revision) }() // etcd that gives up, as on a full disk, never comes back from saying so
	select {
	case err := <-built:
		return err
	case err := <-logger.gaveUp:
		return err
	}
}

func build(ctx context.Context, logger *zap.Logger, source, dir string, from *dump.Reader, revision int64) error {
	if err := writeFile(ctx, logger, source, from, revision); err != nil {
		return err
	}
	if err := snapshot.NewV3(logger).Restore(snapshot.RestoreConfig{
		SnapshotPath: source, SkipHashCheck: true, OutputDataDir: dir,
		Name: memberName, PeerURLs: []string{aloneURL}, InitialCluster: memberName + "=" + aloneURL, InitialClusterToken: newToken(),
	}); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(paths.SyncTree(dir), paths.SyncDir(filepath.Dir(dir)))
}

// place is where the file has an object: in the order of their last change, as etcd writes them.
type place struct {
	revision int64
	value    []byte
}

// writeFile writes the file that etcd would have written.
func writeFile(ctx context.Context, logger *zap.Logger, path string, from *dump.Reader, revision int64) error {
	objects, leases, err := read(ctx, from)
	if err != nil {
		return err
	}
	slices.SortStableFunc(objects, func(a, b place) int { return cmp.Compare(a.revision, b.revision) })
	file := backend.NewDefaultBackend(logger, path)
	defer file.Close()
	tx := file.BatchTx()
	tx.LockOutsideApply()
	defer tx.Unlock()
	tx.UnsafeCreateBucket(schema.Key)
	schema.UnsafeCreateMetaBucket(tx)
	schema.UnsafeCreateLeaseBucket(tx)
	for ttl := range leases {
		schema.MustUnsafePutLease(tx, &leasepb.Lease{ID: ttl, TTL: ttl})
	}
	at := mvcc.Revision{}
	for _, o := range objects {
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.revision == at.Main {
			at.Sub++ // of one transaction
		} else {
			at = mvcc.Revision{Main: o.revision}
		}
		tx.UnsafeSeqPut(schema.Key, mvcc.RevToBytes(at, mvcc.NewRevBytes()), o.value)
	}
	mvcc.UnsafeSetScheduledCompact(tx, revision)
	mvcc.UnsafeSetFinishedCompact(tx, revision)
	return nil
}

// read reads the dump. There is one lease for each time to live, whose number is that of its seconds.
func read(ctx context.Context, from *dump.Reader) (objects []place, leases map[int64]bool, err error) {
	leases = map[int64]bool{}
	for {
		r, err := from.Next()
		if errors.Is(err, io.EOF) {
			return objects, leases, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		value, err := proto.Marshal(&mvccpb.KeyValue{
			Key: r.Key, Value: r.Value, CreateRevision: r.CreateRevision, ModRevision: r.ModRevision, Version: r.Version, Lease: r.TTL,
		})
		if err != nil {
			return nil, nil, err
		}
		if r.TTL > 0 {
			leases[r.TTL] = true
		}
		objects = append(objects, place{r.ModRevision, value})
	}
}
