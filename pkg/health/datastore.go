package health

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func datastoreProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK090", Title: "datastore elsewhere", Severity: Fatal,
			Cause:  "The database of datastore-endpoint does not answer. Pods go on; nothing in the cluster can be changed, and much cannot be read. labk keeps trying, and all goes on by itself once it is back.",
			Remedy: "see that the database runs and can be reached from this PC",
		}, look: lookElsewhere, live: true, again: Often},
		{Fault: Fault{
			Code: "LABK091", Title: "kind of datastore", Severity: Warning,
			Cause:  "The datastore could not be taken over by the one that the option datastore asks for, and has stayed where it was. Nothing is lost, and everything works from there.",
			Remedy: "see at the start what was in the way (journalctl -u labk), such as a full disk, and restart labk; or set the option datastore to what it was",
		}, look: lookKind, live: true, again: Often},
		{Fault: Fault{
			Code: "LABK092", Title: "etcd's room", Severity: Fatal,
			Cause:  "etcd takes no more writes: its disk has less than 64 MiB free, or its file has reached 8 GiB. Reads and pods go on, and writes too, seconds after there is room.",
			Remedy: "free space on the disk of the data folder, or delete objects that a program of yours has made without end",
		}, look: askLive("there is room", func(l *Live) func(context.Context) error { return l.Room }), live: true, again: Often},
		{Fault: Fault{
			Code: "LABK093", Title: "datastore's writes", Severity: Fatal,
			Cause:  "The datastore refuses changes, because its disk does: it is full, was made read-only (the kernel does so when it finds it damaged), or fails. Reads and pods go on, nothing that was acknowledged is lost, and changes are taken again as soon as the disk takes them.",
			Remedy: "free space on the disk of the data folder; for one that is read-only or fails see dmesg, and replace the disk",
		}, look: askLive("changes are taken", func(l *Live) func(context.Context) error { return l.Writes }), live: true, again: Often},
		{Fault: Fault{
			Code: "LABK094", Title: "datastore's folder", Severity: Fatal,
			Cause:  "The folder of the datastore, below the data folder, is a mount of a network file system: its locks are not safe, and what it calls written may be lost in a power cut. On a FUSE file system it is a warning: labk can't tell what it keeps.",
			Remedy: "stop labk, copy the folder to a local disk (ext4, xfs, btrfs), and mount that there",
		}, look: lookDatastoreFolder, asRoot: true},
	}
}

// lookDatastoreFolder looks at the folders that can be mounts of their own.
func lookDatastoreFolder(_ context.Context, h Host) finding {
	if !h.Server || h.Config.DatastoreEndpoint != "" {
		return pass("not here")
	}
	found := pass("a local one")
	for _, dir := range []string{filepath.Dir(h.data().Etcd()), filepath.Dir(h.data().Database()), h.data().Etcd()} {
		fs, err := h.StatFS(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return warn("%v", err)
		}
		if where := fs.network(); where != "" {
			return fail("%s is on %s", dir, where)
		}
		if uint32(fs.Type) == unix.FUSE_SUPER_MAGIC {
			found = warn("%s is on FUSE: whether it keeps what labk has written for good is not known", dir)
		}
	}
	return found
}
