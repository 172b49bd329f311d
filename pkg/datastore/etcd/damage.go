package etcd

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

// DamagedError tells that a member's files can't be trusted.
type DamagedError struct {
	Dir    string
	Detail string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("open the datastore: %s is damaged (%s); it was left as it is: bring a snapshot back with `labk snapshot restore`, or keep it aside and begin an empty cluster with `mv %s %s.damaged`",
		e.Dir, e.Detail, e.Dir, e.Dir)
}

// Examine looks at a member's file of keys (paths.Data.EtcdFile), which nobody may be using. Damage is a *DamagedError; any other error is that nothing can be said, as on a disk that fails. Values have no checksums: damage within one
// is not found. bbolt panics in goroutines of its own when a page is not what it should be, so that only a process that may die of it can call this.
func Examine(file string) error {
	size, err := readThrough(file)
	if err != nil {
		return err
	}
	if size == 0 {
		return nil // etcd makes the file before its first page
	}
	dir := filepath.Dir(filepath.Dir(filepath.Dir(file)))
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return judge(dir, err)
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		var first error
		for wrong := range tx.Check() { // to its end, or its goroutine stays
			if first == nil {
				first = &DamagedError{Dir: dir, Detail: wrong.Error()}
			}
		}
		return first
	})
}

// readThrough reads a file to its end: bbolt maps it, and what the disk does not give back would end the process as damage does.
func readThrough(file string) (size int64, err error) {
	in, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	return io.Copy(io.Discard, in)
}

// damage is what etcd and bbolt say of files that are damaged; they have no errors to compare with for all of it.
var damage = []string{"invalid database", "checksum error", "version mismatch", "file size too small", "crc mismatch", "wal: file not found", "wal: slice bounds out of range", "snapshot mismatch"}

// judge makes a *DamagedError of an error if the files are to blame for it.
func judge(dir string, failure error) error {
	if slices.ContainsFunc(damage, func(words string) bool { return strings.Contains(failure.Error(), words) }) {
		return &DamagedError{Dir: dir, Detail: failure.Error()}
	}
	return failure
}
