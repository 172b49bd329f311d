package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		want string // part of the error
	}{
		"fine":         {Options{Name: "a"}, ""},
		"no name":      {Options{}, "lab name"},
		"slash":        {Options{Name: "a/b"}, "lab name"},
		"own folder":   {Options{Name: "a", Dir: "/var/lib/x"}, "hosts have of their own"},
		"tmp":          {Options{Name: "a", Dir: "/tmp"}, "hosts have of their own"},
		"root":         {Options{Name: "a", Dir: "/srv"}, "the lab's alone"},
		"relative":     {Options{Name: "a", Dir: "x/../y"}, "absolute"},
		"IPv6":         {Options{Name: "a", Subnet: "fd00::/64"}, "IPv4"},
		"small subnet": {Options{Name: "a", Subnet: "10.0.0.0/28", Hosts: 5}, "too small"},
		"many":         {Options{Name: "a", Hosts: 1000}, "at most"},
		"no Opt":       {Options{Name: "a", Opt: "/nowhere/at/all"}, "not a folder"},
		"no root":      {Options{Name: "a", Root: "/nowhere/at/all"}, "has no /bin/sh"},
		"systemd only": {Options{Name: "a", Systemd: true}, "give a Root"},
		"no systemd":   {Options{Name: "a", Root: "/proc/self/root/proc", Systemd: true}, "has no /lib/systemd/systemd"},
		"MTU":          {Options{Name: "a", MTU: 200}, "576"},
		"no such host": {Options{Name: "a", Each: map[int]HostOptions{2: {}}}, "no host 2"},
		"host name":    {Options{Name: "a", Each: map[int]HostOptions{1: {Name: "my pc"}}}, "no host name"},
		"machine ID":   {Options{Name: "a", Each: map[int]HostOptions{1: {MachineID: "12"}}}, "no machine ID"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := c.o.complete()
			if c.want == "" && (err != nil || o.Dir != "/var/tmp/labk-lab-a" || o.Hosts != 1 || o.address(1).String() != "10.77.0.1") {
				t.Errorf("got %+v, %v", o, err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestParseHierarchies(t *testing.T) {
	const v1 = `31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
35 31 0:32 / /elsewhere rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`
	got := parseHierarchies("5:pids:/\n4:cpu,cpuacct:/me\n3:memory:/docker/x/me\n1:name=systemd:/\n0::/me\n", v1)
	want := []hierarchy{
		{Name: "cpu,cpuacct", Options: "cpu,cpuacct", Base: "/sys/fs/cgroup/cpu,cpuacct/me"},
		{Name: "memory", Options: "memory", Base: "/sys/fs/cgroup/memory/me"},
		{Name: "systemd", Options: "none,name=systemd", Base: "/sys/fs/cgroup/systemd"},
		{Name: "unified", V2: true, Base: "/sys/fs/cgroup/unified/me"},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if got[i] != want[i] || got[i].sole() {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	got = parseHierarchies("0::/user.slice\n", "30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
	if len(got) != 1 || !got[0].sole() || got[0].Base != "/sys/fs/cgroup/user.slice" || got[0].commandGroup(2) != "/sys/fs/cgroup/user.slice/h2/init" {
		t.Errorf("v2 alone: %+v", got)
	}
}

// A group that already hands down all that a node needs is taken; one that cannot is passed over, up to the root.
func TestDelegable(t *testing.T) {
	root := t.TempDir()
	session := filepath.Join(root, "user", "session")
	if err := os.MkdirAll(filepath.Join(session, "cgroup.subtree_control"), 0o755); err != nil { // cannot be written
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("cgroup.controllers", "cpuset cpu io memory rdma pids\n")
	write("cgroup.subtree_control", "cpuset cpu io memory pids\n")
	if err := os.Mkdir(filepath.Join(root, "user", "cgroup.subtree_control"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := delegable(session, root); err != nil || got != root {
		t.Errorf("got %q, %v", got, err)
	}
	if err := os.Remove(filepath.Join(root, "user", "cgroup.subtree_control")); err != nil {
		t.Fatal(err)
	}
	write("user/cgroup.subtree_control", "cpu pids")
	if got, err := delegable(session, root); err != nil || got != filepath.Join(root, "user") {
		t.Errorf("got %q, %v", got, err)
	}
	if b, _ := os.ReadFile(filepath.Join(root, "user", "cgroup.subtree_control")); string(b) != "+cpuset +io +memory" {
		t.Errorf("enabled %q", b)
	}
}
