package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// leafGroup holds a host's init and commands where cgroup v2 stands alone: a group that hands controllers down may have
	// no processes.
	leafGroup = "init"
)

// hierarchy is one cgroup tree of the machine and the lab's place in it.
type hierarchy struct {
	Name    string // its folder below cgroupRoot; empty when it is mounted at cgroupRoot itself
	Options string // of a v1 mount: "cpu,cpuacct" or "none,name=systemd"
	V2      bool
	Base    string // the lab's group as seen by the machine; the hosts' groups are below
}

// sole says that this is cgroup v2 without any v1 beside it.
func (h *hierarchy) sole() bool { return h.V2 && h.Name == "" }

func (h *hierarchy) hostGroup(host int) string {
	return filepath.Join(h.Base, fmt.Sprintf("h%d", host))
}

// commandGroup is the group that a command in the host runs in.
func (h *hierarchy) commandGroup(host int) string {
	if h.sole() {
		return filepath.Join(h.hostGroup(host), leafGroup)
	}
	return h.hostGroup(host)
}

// findHierarchies places the lab below the caller's own group, so that whoever ends that group ends the lab too.
func findHierarchies(group string) ([]hierarchy, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	all := parseHierarchies(string(own), string(mounts))
	if len(all) == 0 {
		return nil, errors.New("find cgroups: none are mounted below /sys/fs/cgroup: mount cgroup2 there")
	}
	for i := range all {
		if all[i].sole() {
			if all[i].Base, err = delegable(all[i].Base, cgroupRoot); err != nil {
				return nil, err
			}
		}
		all[i].Base = filepath.Join(all[i].Base, group)
	}
	return all, nil
}

// parseHierarchies reads /proc/self/cgroup and /proc/self/mountinfo. Base is the caller's own group.
func parseHierarchies(own, mounts string) (all []hierarchy) {
	for line := range strings.Lines(own) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		h := hierarchy{V2: part[1] == "", Options: part[1]}
		if strings.HasPrefix(part[1], "name=") {
			h.Options = "none," + part[1]
		}
		root, point, ok := findCgroupMount(mounts, h.V2, part[1])
		if !ok {
			continue
		}
		h.Name = strings.TrimPrefix(strings.TrimPrefix(point, cgroupRoot), "/")
		h.Base = point
		if rel, err := filepath.Rel(root, part[2]); err == nil && !strings.HasPrefix(rel, "..") {
			h.Base = filepath.Join(point, rel)
		}
		all = append(all, h)
	}
	return all
}

// findCgroupMount finds the mount of v2, or of the v1 hierarchy with these controllers: its root and its place.
func findCgroupMount(mounts string, v2 bool, controllers string) (root, point string, ok bool) {
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 5 || len(right) < 3 || left[4] != cgroupRoot && filepath.Dir(left[4]) != cgroupRoot {
			continue
		}
		if v2 && right[0] == "cgroup2" {
			return left[3], left[4], true
		}
		if v2 || right[0] != "cgroup" {
			continue
		}
		options := strings.Split(right[2], ",")
		if !slices.ContainsFunc(strings.Split(controllers, ","), func(c string) bool { return !slices.Contains(options, c) }) {
			return left[3], left[4], true
		}
	}
	return "", "", false
}

// delegable climbs from the caller's v2 group to the first one that can hand the controllers of a node down: a group with
// processes of its own cannot.
func delegable(own, root string) (string, error) {
	wanted := nodeControllers(readWords(filepath.Join(root, "cgroup.controllers")))
	var err error
	for dir := own; ; dir = filepath.Dir(dir) {
		if err = enableControllers(dir, wanted); err == nil {
			return dir, nil
		}
		if dir == root || len(dir) <= len(root) {
			return "", fmt.Errorf("find a cgroup for the lab: %s cannot hand down %s: %w", root, strings.Join(wanted, " "), err)
		}
	}
}

// nodeControllers picks from what there is what a kubelet needs or uses.
func nodeControllers(there []string) []string {
	used := []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}
	return slices.DeleteFunc(used, func(c string) bool { return !slices.Contains(there, c) })
}

func enableControllers(dir string, wanted []string) error {
	enabled := readWords(filepath.Join(dir, "cgroup.subtree_control"))
	var missing []string
	for _, c := range wanted {
		if !slices.Contains(enabled, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(missing, " ")), 0)
}

func readWords(path string) []string {
	b, _ := os.ReadFile(path) // an absent file has no words
	return strings.Fields(string(b))
}

// makeGroup makes the host's group in the hierarchy.
func (h *hierarchy) makeGroup(host int) error {
	group := h.hostGroup(host)
	for _, dir := range []string{h.Base, group} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if slices.Contains(strings.Split(h.Options, ","), "cpuset") { // a new v1 cpuset is empty and takes no process
			if err := inheritCpuset(dir); err != nil {
				return err
			}
		}
	}
	if !h.sole() {
		return nil
	}
	if err := enableControllers(h.Base, nodeControllers(readWords(filepath.Join(h.Base, "cgroup.controllers")))); err != nil {
		return fmt.Errorf("hand controllers down to the lab's hosts: %w", err)
	}
	return nil
}

func inheritCpuset(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), value, 0); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// killGroup ends every process in the host's group and below and removes the groups. It is done when nothing is left.
func (h *hierarchy) killGroup(ctx context.Context, host int) error {
	group := h.hostGroup(host)
	for {
		err := removeTree(group)
		if err == nil {
			return nil
		}
		killTree(group)
		if pauseErr := pause(ctx); pauseErr != nil {
			return fmt.Errorf("end the processes of cgroup %s: %w", group, errors.Join(err, pauseErr))
		}
	}
}

// killTree sends SIGKILL to what it finds; a frozen v1 group is thawed, or the signal would wait for ever.
func killTree(group string) {
	_ = filepath.WalkDir(group, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		if _, err := os.Stat(filepath.Join(path, "freezer.state")); err == nil {
			_ = os.WriteFile(filepath.Join(path, "freezer.state"), []byte("THAWED"), 0)
		}
		for _, word := range readWords(filepath.Join(path, "cgroup.procs")) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 1 && pid != os.Getpid() {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		return nil
	})
}

// removeTree removes a group and those below it; it fails while there are processes in one.
func removeTree(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(group, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", group, err)
	}
	return nil
}
