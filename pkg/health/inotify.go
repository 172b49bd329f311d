package health

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A labk has about 20 of root's inotify instances, pods that watch files as root have one or two each.
const (
	inotifyLimit = "proc/sys/fs/inotify/max_user_instances"
	inotifySpare = 64
)

func inotifyProbes() []Probe {
	return []Probe{{Fault: Fault{
		Code: "LABK070", Title: "inotify", Severity: Warning,
		Cause:  "Root may have fewer than 64 more inotify instances (fs.inotify.max_user_instances). labk needs about 20 and pods that watch files one or two each; without one a program says \"too many open files\".",
		Remedy: "sysctl -w fs.inotify.max_user_instances=512, and the same line without sysctl -w in /etc/sysctl.d/90-labk.conf to keep it",
	}, look: lookInotify, asRoot: true}}
}

func lookInotify(_ context.Context, h Host) finding {
	text, err := h.read(inotifyLimit)
	if err != nil {
		return pass("no such limit")
	}
	limit, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return pass("no such limit")
	}
	used := h.inotifyInstances()
	if limit-used < inotifySpare {
		return warn("root has %d of %d instances", used, limit)
	}
	return pass("root has %d of %d instances", used, limit)
}

// inotifyInstances counts those of root's processes, as far as they can be seen from here.
func (h Host) inotifyInstances() (count int) {
	entries, err := os.ReadDir(h.path("proc"))
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil || !h.isRoots(e.Name()) {
			continue
		}
		folder := filepath.Join("proc", e.Name(), "fd")
		files, err := os.ReadDir(h.path(folder))
		if err != nil {
			continue // it has just ended
		}
		for _, f := range files {
			if target, err := os.Readlink(h.path(filepath.Join(folder, f.Name()))); err == nil && target == "anon_inode:inotify" {
				count++
			}
		}
	}
	return count
}

func (h Host) isRoots(pid string) bool {
	for _, words := range h.fields(filepath.Join("proc", pid, "status")) {
		if len(words) > 1 && words[0] == "Uid:" {
			return words[1] == "0"
		}
	}
	return false
}
