package lab

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
)

// inventory is what a lab could change of the machine: mounts, cgroups, interfaces, firewall, sysctls, files, and processes that are the
// lab's. In /var/tmp and /run/netns, where other labs and tests come and go meanwhile, only what has this lab's name counts.
func inventory(t *testing.T, name string) map[string]string {
	t.Helper()
	all := map[string]string{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if point := strings.Fields(line)[4]; !foreign(point, name) {
			all["mount "+point] = ""
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		all["interface "+l.Name] = l.Flags.String()
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(path, name) {
			all["cgroup "+path] = ""
		}
		return nil
	})
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, file := range files {
		if data, _ := os.ReadFile(file); strings.Contains(string(data), "labk-lab-"+name+"/") {
			all["process "+filepath.Dir(file)] = ""
		}
	}
	for _, dir := range []string{"/", "/etc", "/etc/cni", "/etc/labk", "/opt", "/root", "/run", "/run/netns", "/usr/libexec", "/var/lib", "/var/log", "/var/tmp"} {
		entries, _ := os.ReadDir(dir) // it may be absent
		for _, e := range entries {
			if path := filepath.Join(dir, e.Name()); !foreign(path, name) {
				all["file "+path] = ""
			}
		}
	}
	sysctls(all)
	rules, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	all["firewall"] = fmt.Sprintf("%s %v", rules, err)
	return all
}

func foreign(path, name string) bool {
	shared := strings.HasPrefix(path, "/var/tmp/") || strings.HasPrefix(path, "/run/netns/")
	return shared && !strings.Contains(path, name)
}

// sysctls notes those of the network, and those that a kubelet sets.
func sysctls(all map[string]string) {
	note := func(path string) {
		if data, err := os.ReadFile(path); err == nil && filepath.Base(path) != "nf_conntrack_count" {
			all["sysctl "+path] = string(data)
		}
	}
	_ = filepath.WalkDir("/proc/sys/net", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			note(path)
		}
		return nil
	})
	for _, name := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"} {
		note("/proc/sys/" + name)
	}
}

// asBefore waits until the machine is as it was. The kernel ends the last namespaces a moment after their last process. Sysctls that
// appeared are those of a module that the kernel loaded: no setting was changed.
func asBefore(t *testing.T, name string, before map[string]string) {
	t.Helper()
	cluster.Eventually(t, 30*time.Second, "a machine as before", func() error {
		var changes []string
		after := inventory(t, name)
		for what, value := range after {
			if old, was := before[what]; !was && !strings.HasPrefix(what, "sysctl ") {
				changes = append(changes, "new: "+what)
			} else if was && old != value {
				changes = append(changes, fmt.Sprintf("%s was %q and is %q", what, old, value))
			}
		}
		for what := range before {
			if _, is := after[what]; !is {
				changes = append(changes, "gone: "+what)
			}
		}
		if len(changes) == 0 {
			return nil
		}
		slices.Sort(changes)
		return fmt.Errorf("%s", strings.Join(changes, "\n"))
	})
}
