// Command badlabk is a labk that is not good, for tests of upgrades: it says a version and finds nothing wrong with the PC, but as a server it does not come up.
package main

import (
	"database/sql"
	"fmt"
	"os"
	"time"

	_ "modernc.org/sqlite"
)

// Set by the linker. mode is what it does as a server: exit, hang, or spoil (the data folder of an older minor version).
var version, mode string

func main() {
	if len(os.Args) < 2 {
		os.Exit(2)
	}
	switch os.Args[1] {
	case "version":
		fmt.Printf("{\"version\": %q}\n", version)
		return
	case "check":
		fmt.Println("[]")
		return
	}
	switch mode {
	case "hang":
		for {
			time.Sleep(time.Hour)
		}
	case "spoil":
		if err := spoil(); err != nil {
			fmt.Fprintln(os.Stderr, "labk: spoil:", err)
			os.Exit(1)
		}
	}
	fmt.Fprintln(os.Stderr, "labk: start: this program is broken: throw it away")
	os.Exit(1)
}

// spoil does what a newer minor version may: it notes its version and writes what the older one does not understand.
func spoil() error {
	if err := os.WriteFile("/var/lib/labk/version", []byte(version+"\n"), 0o644); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", "/var/lib/labk/server/db/state.db")
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec("ALTER TABLE log RENAME TO log_of_the_future")
	return err
}
