package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
)

// hasDatabase tells whether the datastore is on this PC.
func (h Host) hasDatabase() bool {
	return h.Server && h.Config.DatastoreEndpoint == ""
}

// lookDatabase opens and closes the file, which no part of a process may do beside SQLite: POSIX takes all locks that the process has on a file when it closes any descriptor of it, and
// another program that then opens the datastore would take it to be in nobody's use (sqlite.org/howtocorrupt.html, 2.2).
func lookDatabase(_ context.Context, h Host) finding {
	if !h.hasDatabase() {
		return pass("not here")
	}
	path := h.data().Database()
	err := checkSQLite(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return pass("none yet")
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.ENOTDIR):
		return pass("not looked at: %v", err) // LABK001 or LABK040 says what to do
	case err != nil && h.hasSnapshots():
		return warn("%s is damaged: %v", path, err).do("start labk: it sets the file aside and takes the newest good snapshot (labk snapshot list)")
	case err != nil:
		return fail("%s is damaged: %v", path, err)
	}
	return pass("%s", path)
}

// The header of a SQLite file (sqlite.org/fileformat.html): where its fields are.
const (
	sqliteMagic         = "SQLite format 3\x00"
	sqliteHeader        = 100
	offsetPageSize      = 16
	offsetChangeCounter = 24
	offsetPages         = 28
	offsetValidFor      = 92
)

// checkSQLite looks at the first 100 bytes and the size: enough for a file that was cut off, zeroed or replaced. Opening the
// datastore checks the rest.
func checkSQLite(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a file")
	}
	if info.Size() == 0 {
		return nil // made and not yet written: as good as none
	}
	header := make([]byte, sqliteHeader)
	if _, err := io.ReadFull(file, header); err != nil {
		return fmt.Errorf("%d bytes are too few", info.Size())
	}
	if string(header[:len(sqliteMagic)]) != sqliteMagic {
		return errors.New("it does not begin as an SQLite file does")
	}
	pageSize := int64(binary.BigEndian.Uint16(header[offsetPageSize:]))
	if pageSize == 1 {
		pageSize = 65536
	}
	if pageSize < 512 || pageSize&(pageSize-1) != 0 {
		return fmt.Errorf("a page size of %d is impossible", pageSize)
	}
	if info.Size() < pageSize {
		return fmt.Errorf("%d bytes are less than one page of %d", info.Size(), pageSize)
	}
	// The number of pages holds only when it is as old as the last change, and when none wait in the write-ahead log.
	counter := binary.BigEndian.Uint32(header[offsetChangeCounter:])
	valid := binary.BigEndian.Uint32(header[offsetValidFor:])
	pages := int64(binary.BigEndian.Uint32(header[offsetPages:]))
	if counter == valid && !hasLog(path) && info.Size() < pages*pageSize {
		return fmt.Errorf("%d bytes long, and its %d pages need %d", info.Size(), pages, pages*pageSize)
	}
	return nil
}

func hasLog(path string) bool {
	info, err := os.Stat(path + "-wal")
	return err == nil && info.Size() > 0
}

// databaseLarge is a size, in bytes, that no cluster of a lab reaches by itself.
const databaseLarge = 2 << 30

func lookDatabaseSize(_ context.Context, h Host) finding {
	if !h.hasDatabase() {
		return pass("not here")
	}
	file, size := Database(h.data())
	if size > databaseLarge {
		return warn("%s takes %s", file, amount(uint64(size)))
	}
	return pass("%s", amount(uint64(size)))
}

// Database is the file of this PC's datastore, and how many bytes it takes: SQLite's with what waits in its write-ahead log, or etcd's. They are 0 where there is none.
func Database(data paths.Data) (file string, bytes int64) {
	for _, file := range []string{data.Database(), data.EtcdFile()} {
		for _, name := range []string{file, file + "-wal"} {
			if info, err := os.Stat(name); err == nil {
				bytes += info.Size()
			}
		}
		if bytes > 0 {
			return file, bytes
		}
	}
	return data.Database(), 0
}

// lookElsewhere asks the datastore that is not on this PC.
func lookElsewhere(ctx context.Context, h Host) finding {
	if h.Config.DatastoreEndpoint == "" {
		return pass("not used")
	}
	return askLive(h.Config.DatastorePlace()+" answers", func(l *Live) func(context.Context) error { return l.Datastore })(ctx, h)
}

// lookKind finds a datastore that a migration has not brought to where it should be.
func lookKind(_ context.Context, h Host) finding {
	if !h.hasDatabase() {
		return pass("not here")
	}
	file, size := Database(h.data())
	is, wanted := h.data().EtcdFile() == file, h.Config.Datastore == config.Etcd
	if size > 0 && is != wanted {
		return warn("it is in %s, and should be in %s", file, h.Config.Datastore)
	}
	return pass("%s", h.Config.Datastore)
}

// A disk is slow when it takes longer than diskSlow, as often as it is tried: one that is busy for a moment is not.
const (
	diskSlow  = 300 * time.Millisecond
	diskTries = 3
)

// lookDiskSpeed judges by the quickest of a few writes.
func lookDiskSpeed(_ context.Context, h Host) finding {
	if !h.hasDatabase() {
		return pass("not needed without a datastore")
	}
	dir, err := h.standing()
	if err != nil {
		return pass("not looked at: %v", err) // LABK040 says what to do
	}
	var best time.Duration
	for i := range diskTries {
		took, err := h.WriteDisk(dir)
		if err != nil {
			return pass("not looked at: %v", err) // LABK040 and LABK041 say what to do
		}
		if i == 0 || took < best {
			best = took
		}
		if best < diskSlow {
			return pass("4 KiB written in %.1f ms", float64(best.Microseconds())/1000)
		}
	}
	return warn("4 KiB written in %.1f s at best", best.Seconds())
}
