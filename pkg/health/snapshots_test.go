package health

import (
	"fmt"
	"time"
)

var snapshotCases = []probeCase{
	{"LABK085", "agent", live(func(*fake) {}), Pass, "not on this PC"},
	{"LABK085", "well", snapshots(Snapshots{}), Pass, "could be made"},
	{"LABK085", "failed", snapshots(Snapshots{Error: "make a snapshot: 3 MiB are free"}), Warn, "3 MiB are free"},
	{"LABK086", "well", snapshots(Snapshots{}), Pass, "as the schedule says"},
	{"LABK086", "too old", snapshots(Snapshots{Overdue: true}), Warn, "too old"},
	{"LABK087", "well", snapshots(Snapshots{}), Pass, "nothing is wrong"},
	{"LABK087", "nobody has room", snapshots(Snapshots{CopyError: "pc2: 3 MiB are free on its disk"}), Warn, "pc2: 3 MiB"},
	{"LABK088", "never", func(*fake) {}, Pass, "no"},
	{"LABK088", "by hand", func(f *fake) { f.restored("replaced", f.DataDir(), 0) }, Pass, "no"},
	{"LABK088", "lately", func(f *fake) { f.restored("damaged", f.DataDir(), 24*time.Hour) }, Warn, "the snapshot schedule-pc1 of 2026-11-01"},
	{"LABK088", "long ago", func(f *fake) { f.restored("damaged", f.DataDir(), 8*24*time.Hour) }, Pass, "it is known"},
	{"LABK088", "acknowledged", func(f *fake) { f.restored("damaged", f.DataDir()+"/gone", time.Hour) }, Pass, "it is known"},
	{"LABK088", "agent", func(f *fake) { f.Server = false; f.restored("damaged", f.DataDir(), 0) }, Pass, "not on this PC"},
}

func snapshots(s Snapshots) func(*fake) {
	return live(func(f *fake) { f.Live.Snapshots = func() Snapshots { return s } })
}

// DataDir is the data folder, made.
func (f *fake) DataDir() string {
	f.put(f.data().Token(), "x")
	return f.Config.DataDir
}

// restored is what a restore leaves.
func (f *fake) restored(why, aside string, ago time.Duration) {
	f.put(f.data().Restored(), fmt.Sprintf(`{"name":"schedule-pc1","created":"2026-11-01T12:00:00Z","at":%q,"aside":%q,"why":%q}`,
		f.Now.Add(-ago).Format(time.RFC3339), aside, why))
}
