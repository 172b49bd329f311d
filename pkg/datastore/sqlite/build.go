package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/labk/labk/pkg/datastore/dump"
)

// Build makes a file of all that a dump holds, with the revisions that it has there. What comes later gets revisions after the one given, which must not be before the dump's; all before it is compacted. The
// path must be free. The file is on the disk when Build returns; after an error there is none.
func Build(ctx context.Context, path string, in *dump.Reader, revision int64) error {
	part := path + copySuffix
	err := removeDatabase(part)
	if err == nil {
		err = build(ctx, part, in, revision)
	}
	if err == nil {
		err = finish(part, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make the datastore %s: %w", path, err), removeDatabase(part))
	}
	return nil
}

func build(ctx context.Context, part string, in *dump.Reader, revision int64) (err error) {
	if revision < in.Revision() {
		return fmt.Errorf("revision %d is before that of the dump, %d", revision, in.Revision())
	}
	db, err := open(part, making)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to take back
	insert, err := tx.PrepareContext(ctx, insertRow)
	if err != nil {
		return err
	}
	for {
		r, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if r.Value == nil {
			r.Value = []byte{}
		}
		if _, err := insert.ExecContext(ctx, r.ModRevision, r.Key, r.CreateRevision, max(r.Version, 1), 0, r.TTL, false, r.Value); err != nil {
			return fmt.Errorf("write %s: %w", r.Key, err)
		}
	}
	if _, err := tx.ExecContext(ctx, setCompacted, revision); err != nil {
		return err
	}
	return tx.Commit()
}
