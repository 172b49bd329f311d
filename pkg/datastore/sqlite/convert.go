package sqlite

import (
	"context"
	"errors"
	"fmt"
)

// convert makes a log of a file that kine's own driver has written, as labk did at first. The file is replaced by a whole new one: a power cut leaves the one or the other.
func convert(ctx context.Context, opts Options) error {
	is, err := isKines(ctx, opts.Path)
	if err != nil || !is {
		return err
	}
	part := opts.Path + copySuffix
	if err := intoLog(ctx, opts.Path, part); err != nil {
		return errors.Join(fmt.Errorf("convert the file to labk's own format: %w", err), removeDatabase(part))
	}
	if err := checkCopy(ctx, part); err != nil {
		return errors.Join(err, removeDatabase(part))
	}
	if err := finish(part, opts.Path); err != nil {
		return err
	}
	opts.Say("the datastore was converted to labk's own format")
	return nil
}

// isKines tells whether the file has kine's table. It leaves the file without a log.
func isKines(ctx context.Context, path string) (bool, error) {
	db, err := open(path, "?mode=rwc&_busy_timeout=10000")
	if err != nil {
		return false, err
	}
	defer db.Close()
	if is, err := hasTable(ctx, db, "kine"); err != nil || !is {
		return false, err
	}
	return true, EmptyLog(ctx, path)
}

func intoLog(ctx context.Context, from, to string) error {
	db, err := open(to, making)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, step := range []struct {
		query string
		args  []any
	}{
		{schema, nil},
		{"ATTACH ? AS old", []any{from}},
		// Of each key what it is now. kine counts no versions, keeps gaps as rows, and its compaction as one.
		{`INSERT INTO log SELECT id, CAST(name AS BLOB), CASE WHEN created THEN id ELSE create_revision END, CASE WHEN created THEN 1 ELSE 2 END, 0, coalesce(lease, 0), 0, value
			FROM old.kine WHERE id IN (SELECT max(id) FROM old.kine GROUP BY name) AND NOT deleted AND name != 'compact_rev_key' AND name NOT LIKE 'gap-%' ORDER BY id`, nil},
		// What was before is compacted.
		{"UPDATE settings SET value = (SELECT coalesce(max(id), 0) FROM old.kine) WHERE name = 'compacted'", nil},
		{"DETACH old", nil},
	} {
		if _, err := db.ExecContext(ctx, step.query, step.args...); err != nil {
			return err
		}
	}
	return nil
}
