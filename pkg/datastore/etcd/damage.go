package etcd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
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

// What etcd says of a write-ahead log that is damaged; it has no errors to compare with for all of them.
var logDamage = []string{"crc mismatch", "wal: file not found", "wal: slice bounds out of range", "snapshot mismatch", "unexpected EOF", "invalid record"}

// judge makes a *DamagedError of the error of a start if the files are to blame for it, and not the disk.
func judge(dir string, failure error) error {
	if errors.Is(failure, unix.ENOSPC) || errors.Is(failure, unix.EROFS) || errors.Is(failure, unix.EACCES) || errors.Is(failure, unix.EIO) {
		return failure
	}
	if slices.ContainsFunc(logDamage, func(words string) bool { return strings.Contains(failure.Error(), words) }) {
		return &DamagedError{Dir: dir, Detail: failure.Error()}
	}
	if detail := examine(filepath.Join(dir, "member", "snap", "db")); detail != "" {
		return &DamagedError{Dir: dir, Detail: detail}
	}
	return failure
}

// examine says what is wrong with a file of bbolt; empty if nothing is, or nothing can be said. It looks at a copy: etcd that has given up still holds the file's lock.
func examine(path string) (detail string) {
	file, err := copyAside(path)
	if err != nil {
		return ""
	}
	defer os.Remove(file)
	defer func() {
		if wrong := recover(); wrong != nil { // bbolt's way to say that a page is not what it should be
			detail = fmt.Sprint(wrong)
		}
	}()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err.Error()
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		var first error
		for wrong := range tx.Check() { // to its end, or its goroutine stays
			if first == nil {
				first = wrong
			}
		}
		return first
	})
	if err != nil {
		return err.Error()
	}
	return ""
}

func copyAside(path string) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(path), ".examined-*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return "", errors.Join(err, os.Remove(out.Name()))
	}
	return out.Name(), nil
}
