package health

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// loud is for how long it is told that a damaged datastore was restored, if nobody has acknowledged it.
const loud = 7 * 24 * time.Hour

func snapshotProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK085", Title: "snapshots", Severity: Warning,
			Cause:  "The last snapshot of the cluster could not be made, or its file could not be read back. It is tried again every ten minutes. Those from before are still there.",
			Remedy: "do what the message says; labk snapshot save tries it at once",
		}, look: lookSnapshots, live: true, again: Often},
		{Fault: Fault{
			Code: "LABK086", Title: "age of the newest snapshot", Severity: Warning,
			Cause:  "No snapshot has been made for more than an hour after its time. If the datastore were lost now, more than a schedule's time would be lost with it.",
			Remedy: "make one with labk snapshot save and see what it says, or change --snapshot-schedule",
		}, look: lookSnapshotAge, live: true, again: Often},
		{Fault: Fault{
			Code: "LABK087", Title: "copy of the newest snapshot", Severity: Warning,
			Cause:  "The cluster has other nodes, and none of them has a copy of the newest snapshot. If this PC's disk were lost now, all since the last copy would be lost with it.",
			Remedy: "see that one other node is Ready and has 1 GiB free, or keep snapshots on another disk with --snapshot-dir and turn copies off with --disable-snapshot-copy",
		}, look: lookSnapshotCopy, live: true, again: Often},
		{Fault: Fault{
			Code: "LABK088", Title: "restored datastore", Severity: Warning,
			Cause:  "The datastore was damaged, and labk has put the newest good snapshot in its place. What changed in the cluster between that snapshot and the damage is lost. The damaged files are kept. This is told for seven days.",
			Remedy: "look what is missing and whether the disk is broken (dmesg, smartctl); remove the folder with the damaged files to say that you know",
		}, look: lookRestored, asRoot: true, again: Often},
	}
}

func askSnapshots(h Host) (Snapshots, bool) {
	if h.Live.Snapshots == nil {
		return Snapshots{}, false
	}
	return h.Live.Snapshots(), true
}

func lookSnapshots(_ context.Context, h Host) finding {
	switch s, here := askSnapshots(h); {
	case !here:
		return pass("not on this PC")
	case s.Error != "":
		return warn("%s", s.Error)
	}
	return pass("the last one could be made")
}

func lookSnapshotAge(_ context.Context, h Host) finding {
	switch s, here := askSnapshots(h); {
	case !here:
		return pass("not on this PC")
	case s.Overdue:
		return warn("the newest one is too old")
	}
	return pass("as the schedule says")
}

func lookSnapshotCopy(_ context.Context, h Host) finding {
	switch s, here := askSnapshots(h); {
	case !here:
		return pass("not on this PC")
	case s.CopyError != "":
		return warn("%s", s.CopyError)
	}
	return pass("nothing is wrong")
}

// lookRestored reads what a restore has left (snapshot.Plan).
func lookRestored(_ context.Context, h Host) finding {
	if !h.Server {
		return pass("not on this PC")
	}
	var last struct {
		Name    string    `json:"name"`
		Created time.Time `json:"created"`
		At      time.Time `json:"at"`
		Aside   string    `json:"aside"`
		Why     string    `json:"why"`
	}
	text, err := os.ReadFile(h.data().Restored())
	if err != nil || json.Unmarshal(text, &last) != nil || last.Why != "damaged" {
		return pass("no")
	}
	if _, err := os.Stat(last.Aside); last.Aside == "" || err != nil || h.Now.Sub(last.At) > loud {
		return pass("not lately, or it is known")
	}
	const minute = "2006-01-02 15:04 UTC"
	return warn("the datastore was damaged, and at %s the snapshot %s of %s has taken its place; the damaged files are in %s",
		last.At.UTC().Format(minute), last.Name, last.Created.UTC().Format(minute), last.Aside).
		do("look what is missing and whether the disk is broken (dmesg, smartctl); then rm -r %s", last.Aside)
}

// hasSnapshots tells whether there is a snapshot that a damaged datastore could be restored from.
func (h Host) hasSnapshots() bool {
	all, err := filepath.Glob(filepath.Join(h.Config.SnapshotFolder(), "*.snapshot"))
	return err == nil && len(all) > 0
}
