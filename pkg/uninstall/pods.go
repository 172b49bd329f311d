package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// grace is how long containers have after SIGTERM.
	grace = 3 * time.Second
	// killTime is how long the kernel may take to end what was killed.
	killTime = 5 * time.Second
)

// podGroup is the cgroup of a pod, in one of the hierarchies.
type podGroup struct{ path, uid string }

// podGroupName is what the kubelet calls a pod's cgroup, by itself or by systemd, where the UID has no '-'.
var podGroupName = regexp.MustCompile(`(?:^|-)pod([0-9a-f_-]{32,36})(?:\.slice)?$`)

// podRoots are the folders of all pods in all hierarchies.
func podRoots() (roots []string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, m := range parseMounts(string(mounts)) {
		if m.kind != "cgroup" && m.kind != "cgroup2" {
			continue
		}
		for _, name := range []string{"kubepods", "kubepods.slice"} {
			if dir := filepath.Join(m.point, name); exists(dir) && !slices.Contains(roots, dir) {
				roots = append(roots, dir)
			}
		}
	}
	return roots
}

// podGroups are the cgroups of labk's pods: all there are, unless this PC has another node.
func (r *removal) podGroups() (groups []podGroup) {
	uids := r.podUIDs()
	for _, g := range allPodGroups() {
		if len(r.others) == 0 || uids[g.uid] || slices.ContainsFunc(members(g.path), r.ofContainer) {
			groups = append(groups, g)
		}
	}
	return groups
}

// strangePods are pods that run here and that neither labk's kubelet nor its containerd knows: such as "the pod 0123...". They are another node's, wherever that keeps its data.
func (r *removal) strangePods() (all []string) {
	uids := r.podUIDs()
	for _, g := range allPodGroups() {
		pids := members(g.path)
		if uids[g.uid] || slices.ContainsFunc(pids, r.ofContainer) {
			continue
		}
		// One that is just ending has no root any more, and is nobody's.
		if name := "the pod " + g.uid; slices.ContainsFunc(pids, hasRoot) && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

func allPodGroups() (groups []podGroup) {
	for _, root := range podRoots() {
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil
			}
			m := podGroupName.FindStringSubmatch(e.Name())
			if m == nil {
				return nil
			}
			groups = append(groups, podGroup{path, strings.ReplaceAll(m[1], "_", "-")})
			return fs.SkipDir
		})
	}
	return groups
}

// podUIDs are the pods that labk's kubelet knows.
func (r *removal) podUIDs() map[string]bool {
	uids := map[string]bool{}
	entries, _ := os.ReadDir(filepath.Join(r.site.data.Kubelet(), "pods")) // gone: none
	for _, e := range entries {
		uids[e.Name()] = true
	}
	return uids
}

// members are the processes of a cgroup and those below.
func members(group string) (pids []int) {
	_ = filepath.WalkDir(group, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, word := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// endPods asks all containers to end, ends those that do not, then the shims, and removes the cgroups.
func (r *removal) endPods(ctx context.Context) error {
	groups := r.podGroups()
	running := map[string]bool{}
	for _, g := range groups {
		for _, pid := range members(g.path) {
			running[g.uid] = true
			if r.isInit(pid) {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
	}
	empty := func() bool {
		return !slices.ContainsFunc(groups, func(g podGroup) bool { return len(members(g.path)) > 0 })
	}
	await(ctx, grace, empty)
	gone := await(ctx, killTime, func() bool {
		for _, g := range groups {
			kill(g.path)
		}
		return empty()
	})
	shims := r.helpers()
	gone = await(ctx, killTime, func() bool {
		left := r.helpers()
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0
	}) && gone
	if len(running)+len(shims) > 0 {
		r.o.Say("ended %s and %s", count(len(running), "pod"), count(len(shims), "shim"))
	}
	if !gone {
		return errors.New("processes of pods do not end: they may be waiting for a disk or a server; reboot")
	}
	return r.removeGroups(ctx, groups)
}

// kill ends everything in a cgroup and below; what is frozen is thawed, or the signal would wait.
func kill(group string) {
	_ = filepath.WalkDir(group, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && exists(filepath.Join(path, "freezer.state")) {
			_ = os.WriteFile(filepath.Join(path, "freezer.state"), []byte("THAWED"), 0)
		}
		return nil
	})
	for _, pid := range members(group) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (r *removal) removeGroups(ctx context.Context, groups []podGroup) error {
	var slices []string
	for _, g := range groups {
		if strings.HasSuffix(g.path, ".slice") {
			slices = append(slices, filepath.Base(g.path))
		}
	}
	roots := podRoots()
	if len(r.others) == 0 && systemdRuns() {
		for _, root := range roots {
			if strings.HasSuffix(root, ".slice") {
				slices = append(slices, filepath.Base(root)) // and with it those below
			}
		}
	}
	if len(slices) > 0 && systemdRuns() {
		// What systemd does not stop is removed below, or named there.
		_ = exec.CommandContext(ctx, "systemctl", append([]string{"stop"}, slices...)...).Run()
	}
	var errs []error
	for _, g := range groups {
		var err error
		await(ctx, killTime, func() bool { err = removeGroup(g.path); return err == nil })
		errs = append(errs, err)
	}
	for _, root := range roots { // what is left has other nodes' pods in it
		if len(r.others) == 0 {
			errs = append(errs, removeGroup(root))
		}
	}
	if len(groups)+len(roots) > 0 {
		r.o.Say("removed %s", count(len(groups)+len(roots), "cgroup"))
	}
	return errors.Join(errs...)
}

// removeGroup removes a cgroup and those below.
func removeGroup(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(group, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the cgroup %s: %w", group, err)
	}
	return nil
}
