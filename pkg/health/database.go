package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

func lookDatabase(_ context.Context, h Host) finding {
	if !h.Server || h.Config.DatastoreEndpoint != "" || h.Config.Datastore != "sqlite" {
		return pass("not here")
	}
	path := h.data().Database()
	err := checkSQLite(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return pass("none yet")
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.ENOTDIR):
		return pass("not looked at: %v", err) // LABK001 or LABK040 says what to do
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
