package server

import "runtime/debug"

// collector is the garbage collector's setting. While starting, the process allocates much that it keeps, and every collection is in vain: it
// collects lazily then, and tightly from the moment when it is up.
type collector struct{ percent int }

func saveTimeWhileStarting() collector { return collector{percent: debug.SetGCPercent(400)} }

// saveSpace returns to tight collection and gives the kernel back what starting took.
func (c collector) saveSpace() {
	debug.SetGCPercent(min(c.percent, 60))
	go debug.FreeOSMemory()
}
