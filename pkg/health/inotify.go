package health

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A server takes about 20 of root's inotify instances, an agent 8; pods that watch files as root take one or two each.
const (
	inotifyLimit  = "proc/sys/fs/inotify/max_user_instances"
	inotifyServer = 24
	inotifyAgent  = 10
	inotifySpare  = 64
)

func inotifyProbes() []Probe {
	return []Probe{{Fault: Fault{
		Code: "LABK070", Title: "inotify", Severity: Fatal,
		Cause:  "Root may have too few more inotify instances (fs.inotify.max_user_instances): a server needs 24 to start, an agent 10, or its kubelet ends without a word. With fewer than 64 it is a warning: pods that watch files need one or two each, and say \"too many open files\" without.",
		Remedy: "sysctl -w fs.inotify.max_user_instances=512, and the same line without sysctl -w in /etc/sysctl.d/90-labk.conf to keep it",
	}, look: lookInotify, asRoot: true, again: Seldom}}
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
	needed := inotifyAgent
	if h.Server {
		needed = inotifyServer
	}
	switch free := limit - used; {
	case h.Starting && free < needed:
		return fail("root has %d of %d instances", used, limit)
	case free < inotifySpare:
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
