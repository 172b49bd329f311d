package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// suffix is what files of snapshots end with; partSuffix comes after that of one that is not whole.
const (
	suffix     = ".snapshot"
	partSuffix = ".part"
)

// Folder is where snapshots lie.
type Folder string

// Found is a file of a folder.
type Found struct {
	Header
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
	// Problem is why it can't be read, empty if it can. That is known of the header only; Verify looks at all.
	Problem string `json:"problem,omitempty"`
}

// File is the path of the snapshot with the name.
func (f Folder) File(name string) string { return filepath.Join(string(f), name+suffix) }

// ahead is how far in the future a snapshot's time may lie for it to be believed.
const ahead = time.Hour

// List lists the snapshots, the newest first. One from the future was made while the clock was wrong: it comes after all others, or it would count as the newest for as long as the clock was ahead. A folder that is not
// there has none.
func (f Folder) List() ([]Found, error) {
	files, err := os.ReadDir(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var all []Found
	for _, file := range files {
		name, ok := strings.CutSuffix(file.Name(), suffix)
		if !ok || !file.Type().IsRegular() {
			continue
		}
		found, err := Look(f.File(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		found.Name = name // that is what a person calls it by
		all = append(all, found)
	}
	now := time.Now()
	rank := func(s Found) int {
		if s.Created.After(now.Add(ahead)) {
			return 1
		}
		return 0
	}
	slices.SortFunc(all, func(a, b Found) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), b.Created.Compare(a.Created), cmp.Compare(b.Revision, a.Revision), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

// Look reads what a file says of itself. An error is only that there is no such file: one that can't be read must not hide the others from whoever lists them.
func Look(path string) (Found, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Found{}, fmt.Errorf("look at a snapshot: %w", err)
	}
	found := Found{File: path, Bytes: info.Size()}
	s, err := Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Found{}, err
	}
	if err != nil {
		found.Created, found.Problem = info.ModTime().UTC().Truncate(time.Second), err.Error()
		if bad := new(FormatError); errors.As(err, &bad) {
			found.Problem = bad.Detail
		}
		return found, nil
	}
	found.Header = s.Header
	return found, s.Close()
}

// Find returns the file that a person means: the name of a snapshot in one of the folders, or the path of a file.
func Find(what string, folders ...Folder) (string, error) {
	if strings.ContainsRune(what, filepath.Separator) {
		return what, nil
	}
	for _, f := range folders {
		for _, path := range []string{f.File(what), filepath.Join(string(f), what)} {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				return path, nil
			}
		}
	}
	if _, err := os.Stat(what); err == nil {
		return what, nil
	}
	return "", fmt.Errorf("there is no snapshot %q in %s: see `labk snapshot list`, or give the path of a file", what, either(folders))
}

// Named returns the file of the snapshot with the name in one of the folders.
func Named(name string, folders ...Folder) (string, error) {
	if name == "" || name != filepath.Base(name) {
		return "", fmt.Errorf("%q is no name of a snapshot: see `labk snapshot list`", name)
	}
	for _, f := range folders {
		file := f.File(strings.TrimSuffix(name, suffix))
		_, err := os.Lstat(file)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look for a snapshot: %w", err)
		}
	}
	return "", fmt.Errorf("there is no snapshot %q in %s: see `labk snapshot list`", name, either(folders))
}

func either(folders []Folder) string {
	var names []string
	for _, f := range folders {
		names = append(names, string(f))
	}
	return strings.Join(names, " or ")
}

// Keep deletes all of the cluster's snapshots that were made for the reason but the newest n. Those of other reasons don't count: what somebody made by hand stays until somebody deletes it. Nor do those of other clusters, which
// may have theirs in the same folder.
func (f Folder) Keep(reason Reason, cluster string, n int) error {
	all, err := f.List()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(s Found) bool { return s.Problem != "" || s.Reason != reason || s.Cluster != cluster })
	for _, old := range all[min(n, len(all)):] {
		if err := os.Remove(old.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete a snapshot: %w", err)
		}
	}
	return nil
}

// clear removes what was not finished.
func (f Folder) clear() error {
	parts, err := filepath.Glob(filepath.Join(string(f), "*"+suffix+partSuffix))
	for _, part := range parts {
		if e := os.Remove(part); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
