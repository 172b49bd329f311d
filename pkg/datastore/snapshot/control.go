package snapshot

// What commands ask of the labk that runs.
const (
	// Route, GET: the answer is a Report. POST with a Wish: make a snapshot; the answer is what was Found.
	Route = "/snapshots"
	// RestoreRoute, POST: put the restore that is ready in its place, by a fresh start.
	RestoreRoute = "/snapshots/restore"
)

// Wish is what kind of snapshot somebody wants.
type Wish struct {
	Reason Reason `json:"reason"`
	// Prefix is what the name begins with; empty for the reason.
	Prefix string `json:"prefix,omitempty"`
}

// Report is how snapshots stand.
type Report struct {
	State
	Folder Folder `json:"folder"`
	// Elsewhere tells that the datastore is a database elsewhere: nothing can be restored into that.
	Elsewhere bool `json:"elsewhere,omitempty"`
	// Holder is the other node that has a copy, of the snapshot Copied; empty if none has.
	Holder string `json:"holder,omitempty"`
	Copied string `json:"copied,omitempty"`
}
