package health

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// probeCase is the machine of newFake and what a case changes in it; then what the probe must say about it.
type probeCase struct {
	code, name string
	change     func(f *fake)
	status     Status
	says       string // in the detail or the remedy
}

func allCases() []probeCase {
	return slices.Concat(probeCases, reachCases, inotifyCases, datastoreCases, liveCases, snapshotCases)
}

var probeCases = []probeCase{
	{"LABK001", "ordinary user", func(f *fake) { f.UID = 1000 }, Fail, "user 1000"},
	{"LABK002", "unprivileged", func(f *fake) { f.write("proc/self/status", "CapEff:\t00000000a80425fb\n") }, Fail, "CAP_SYS_ADMIN and CAP_NET_ADMIN missing"},
	{"LABK002", "no net", func(f *fake) { f.write("proc/self/status", "CapEff:\t000001ffffffefff\n") }, Fail, "CAP_NET_ADMIN missing"},
	{"LABK002", "no /proc", func(f *fake) { f.remove("proc") }, Warn, "no line CapEff"},
	{"LABK002", "ordinary user", func(f *fake) { f.UID = 1000; f.remove("proc/self/status") }, Pass, "only root"},
	{"LABK003", "no resource", func(f *fake) { f.write("proc/self/status", "CapEff:\t000001fffeffffff\n") }, Warn, "OOM scores"},
	{"LABK004", "no mount", func(f *fake) { f.without("mount") }, Fail, "mount is not in PATH"},
	{"LABK004", "no node", func(f *fake) { f.without("mount"); f.Config.DisableAgent = true }, Pass, "without a node"},

	{"LABK010", "absent", func(f *fake) { f.write("proc/filesystems", "\text4\n") }, Fail, "Module not found"},
	{"LABK010", "no modprobe", func(f *fake) { f.write("proc/filesystems", "\text4\n"); f.without("modprobe") }, Fail, "CONFIG_OVERLAY_FS"},
	{"LABK010", "module not loaded", func(f *fake) {
		f.write("proc/filesystems", "\text4\n")
		f.programs["modprobe"] = func([]string) (string, error) { f.write("proc/filesystems", "nodev\toverlay\n"); return "", nil }
	}, Pass, "loaded just now"},
	{"LABK011", "absent", func(f *fake) { f.remove("proc/sys/net/bridge") }, Warn, "Module not found"},
	{"LABK011", "module not loaded", func(f *fake) {
		f.remove("proc/sys/net/bridge")
		f.programs["modprobe"] = func([]string) (string, error) { f.write("sys/module/br_netfilter/x", ""); return "", nil }
	}, Pass, "loaded just now"},
	{"LABK012", "absent", func(f *fake) { f.remove("sys/module/vxlan") }, Warn, "host-gw"},
	{"LABK012", "not loaded", func(f *fake) { f.remove("sys/module/vxlan"); f.programs["modprobe"] = prints("") }, Pass, "module"},
	{"LABK012", "other backend", func(f *fake) { f.remove("sys/module/vxlan"); f.Config.FlannelBackend = "host-gw" }, Pass, "not needed"},
	{"LABK018", "permissive", func(f *fake) { f.write("sys/fs/selinux/enforce", "0") }, Pass, "permissive"},
	{"LABK018", "enforcing", func(f *fake) { f.write("sys/fs/selinux/enforce", "1") }, Warn, "labk has no policy for it\nif something is denied"},

	{"LABK013", "neither", func(f *fake) { f.without("nft", "iptables") }, Fail, "install the package nftables"},
	{"LABK013", "iptables", func(f *fake) { f.without("nft") }, Pass, "/usr/sbin/iptables"},
	{"LABK014", "neither", func(f *fake) { f.without("nft", "iptables") }, Pass, "not looked at"},
	{"LABK014", "iptables alone", func(f *fake) { f.without("nft") }, Pass, IPTables},
	{"LABK014", "both refused", func(f *fake) {
		f.programs["nft"], f.programs["iptables"] = complains("nft: Operation not supported"), complains("iptables: Table does not exist")
	}, Fail, "nft: Operation not supported; iptables: Table does not exist"},
	{"LABK014", "no names of protocols", func(f *fake) { f.remove("etc/protocols") }, Warn, "/etc/protocols does not name tcp and udp\ninstall the package that has the file: netbase"},
	{"LABK014", "no names of protocols, nft alone", func(f *fake) { f.write("etc/protocols", "icmp 1\n"); f.without("iptables") }, Fail, "netbase"},
	{"LABK014", "old nft", func(f *fake) { f.programs["nft"] = prints("nftables v1.0.0 (Fearless Fosdick)\n") }, Warn, "older than 1.0.1"},
	{"LABK014", "old kernel", func(f *fake) { f.write("proc/sys/kernel/osrelease", "5.10.0-8-amd64\n") }, Warn, "older than 5.13"},

	{"LABK020", "v1", func(f *fake) { f.cgroupV1("1", "") }, Pass, "v1 with cpu, memory, pids"},
	{"LABK020", "hybrid", func(f *fake) { f.cgroupV1("1", "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n") }, Pass, "hybrid"},
	{"LABK020", "none", func(f *fake) { f.write("proc/self/mounts", "proc /proc proc rw 0 0\n") }, Fail, "no cgroup file system"},
	{"LABK021", "none", func(f *fake) { f.write("proc/self/mounts", "") }, Pass, "not looked at"},
	{"LABK021", "v2 off", func(f *fake) { f.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n") }, Fail, "boot with cgroup_enable=memory"},
	{"LABK021", "v1 off", func(f *fake) { f.cgroupV1("0", "") }, Fail, "off in /proc/cgroups"},
	{"LABK021", "v1", func(f *fake) { f.cgroupV1("1", "") }, Pass, "v1"},
	{"LABK022", "v2 off", func(f *fake) { f.write("sys/fs/cgroup/cgroup.controllers", "cpuset memory pids\n") }, Fail, "without the cpu controller"},
	{"LABK023", "v2 off", func(f *fake) { f.write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n") }, Fail, "without the pids controller"},

	{"LABK030", "API", func(f *fake) { f.listens("tcp", "00000000:192B") }, Fail, "port 6443 for the API is taken by nginx (pid 123)"},
	{"LABK030", "API, remedy", func(f *fake) { f.listens("tcp", "00000000:192B") }, Fail, "stop nginx or choose another port with --https-listen-port"},
	{"LABK030", "kubelet", func(f *fake) { f.listens("tcp6", strings.Repeat("0", 32)+":280A") }, Fail, "port 10250 for the kubelet"},
	{"LABK030", "unseen", func(f *fake) { f.listens("tcp", "0100007F:192B"); f.remove("proc/123") }, Fail, "cannot be seen from here"},
	{"LABK030", "other address", func(f *fake) { f.listens("tcp", "0100007F:192B"); f.Ports[0].Address = "10.0.0.1" }, Pass, "6443"},
	{"LABK030", "same address", func(f *fake) { f.listens("tcp", "0100007F:192B"); f.Ports[0].Address = "127.0.0.1" }, Fail, "nginx"},

	{"LABK040", "folder there", func(f *fake) { f.put(f.Config.DataDir+"/x", "") }, Pass, "labk"},
	{"LABK040", "a file", func(f *fake) { f.put(f.Config.DataDir, "") }, Fail, "is not a folder"},
	{"LABK040", "below a file", func(f *fake) { f.put(f.Config.DataDir, ""); f.Config.DataDir += "/below" }, Fail, "not a directory"},
	{"LABK040", "read-only", func(f *fake) { f.Config.DataDir = "/proc/self" }, Fail, "/proc/self cannot be written"},
	{"LABK041", "full", func(f *fake) { f.disk(func(s *FileSystem) { s.Free = 150 << 20 }) }, Fail, "150 MiB free of 100 GiB, and labk needs 200 MiB"},
	{"LABK041", "no files left", func(f *fake) { f.disk(func(s *FileSystem) { s.FreeFiles = 12 }) }, Fail, "only 12 more files"},
	{"LABK041", "little", func(f *fake) { f.disk(func(s *FileSystem) { s.Free = 5 << 30 }) }, Warn, "evicts"},
	{"LABK041", "no size", func(f *fake) { f.disk(func(s *FileSystem) { *s = FileSystem{} }) }, Pass, "no size"},
	{"LABK042", "NFS", func(f *fake) { f.disk(func(s *FileSystem) { s.Type = unix.NFS_SUPER_MAGIC }) }, Fail, "NFS"},
	{"LABK042", "Windows share", func(f *fake) { f.disk(func(s *FileSystem) { s.Type = 0xfe534d42 }) }, Fail, "Windows"},
	{"LABK042", "container", func(f *fake) { f.disk(func(s *FileSystem) { s.Type = unix.OVERLAYFS_SUPER_MAGIC }) }, Fail, "mount a volume"},
	{"LABK042", "memory", func(f *fake) { f.disk(func(s *FileSystem) { s.Type = unix.TMPFS_MAGIC }) }, Warn, "reboot"},
	{"LABK044", "not SQLite", func(f *fake) { f.database(func(b []byte) []byte { copy(b, "oh dear"); return b }) }, Fail, "does not begin"},
	{"LABK044", "short", func(f *fake) { f.database(func(b []byte) []byte { return b[:50] }) }, Fail, "50 bytes are too few"},
	{"LABK044", "less than a page", func(f *fake) { f.database(func(b []byte) []byte { return b[:200] }) }, Fail, "less than one page"},
	{"LABK044", "page size", func(f *fake) { f.database(func(b []byte) []byte { b[17] = 1; return b }) }, Fail, "impossible"},
	{"LABK044", "cut off", func(f *fake) { f.database(func(b []byte) []byte { return b[:4096] }) }, Fail, "labk snapshot restore"},
	{"LABK044", "cut off, but logged", func(f *fake) {
		f.put(f.data().Database()+"-wal", "x")
		f.database(func(b []byte) []byte { return b[:4096] })
	}, Pass, "state.db"},
	{"LABK044", "cut off, with a snapshot", func(f *fake) {
		f.database(func(b []byte) []byte { return b[:4096] })
		f.put(f.data().Snapshots()+"/a.snapshot", "x")
	}, Warn, "takes the newest good snapshot"},
	{"LABK044", "good", func(f *fake) { f.database(func(b []byte) []byte { return b }) }, Pass, "state.db"},
	{"LABK044", "empty", func(f *fake) { f.database(func([]byte) []byte { return nil }) }, Pass, "state.db"},
	{"LABK044", "agent", func(f *fake) { f.Server = false; f.database(func(b []byte) []byte { return b[:50] }) }, Pass, "not here"},
	{"LABK047", "newer", func(f *fake) { f.lastVersion("v1.37.1+labk2\n") }, Fail, "was used by v1.37.1+labk2, and this is the older v1.37.1+labk1"},
	{"LABK047", "newer, remedy", func(f *fake) { f.lastVersion("v1.38.0+labk1\n") }, Fail, "run v1.38.0+labk1 or a newer one"},
	{"LABK047", "same", func(f *fake) { f.lastVersion("v1.37.1+labk1\n") }, Pass, "v1.37.1+labk1"},
	{"LABK047", "older", func(f *fake) { f.lastVersion("v1.36.9+labk3\n") }, Pass, "v1.36.9+labk3"},
	{"LABK047", "none", func(f *fake) {}, Pass, "not used yet"},
	{"LABK047", "garbage", func(f *fake) { f.lastVersion("") }, Warn, "remove the file"},
	{"LABK047", "no own version", func(f *fake) { f.lastVersion("v1.38.0+labk1\n"); f.Version = "v0.0.0-dev" }, Pass, "no version of its own"},

	{"LABK094", "NFS", func(f *fake) { f.mount(f.data().Database(), unix.NFS_SUPER_MAGIC) }, Fail, "server/db is on NFS"},
	{"LABK094", "share", func(f *fake) { f.mount(f.data().EtcdFile(), unix.SMB2_SUPER_MAGIC) }, Fail, "server/etcd is on a Windows share"},
	{"LABK094", "FUSE", func(f *fake) { f.mount(f.data().Database(), unix.FUSE_SUPER_MAGIC) }, Warn, "not known"},
	{"LABK094", "local", func(f *fake) { f.mount(f.data().Database(), goodFS.Type) }, Pass, "a local one"},
	{"LABK094", "none yet", func(*fake) {}, Pass, "a local one"},
	{"LABK094", "agent", func(f *fake) { f.Server = false; f.mount(f.data().Database(), unix.NFS_SUPER_MAGIC) }, Pass, "not here"},

	{"LABK050", "begun", func(f *fake) { f.certificate(f.data().ServerTLS()+"/server-ca.crt", f.Now.Add(-time.Hour)) }, Pass, "1 certificates"},
	{"LABK050", "not begun", func(f *fake) { f.certificate(f.data().ServerTLS()+"/server-ca.crt", f.Now.Add(time.Hour)) }, Fail, "server-ca.crt begins at 2026-11-22 13:00 UTC"},
	{"LABK050", "not one", func(f *fake) { f.put(f.data().ServerTLS()+"/x.crt", "x") }, Pass, "no certificates"},
	{"LABK051", "a day", func(f *fake) { f.Built = f.Now.Add(24 * time.Hour) }, Warn, "before this program was built (2026-11-23"},
	{"LABK051", "empty battery", func(f *fake) { f.Now = time.Unix(0, 0) }, Fail, "it is 1970-01-01 00:00 UTC"},
	{"LABK051", "unknown", func(f *fake) { f.Built = time.Time{} }, Pass, "2026"},

	{"LABK060", "on", func(f *fake) { f.write("proc/swaps", goodFiles["proc/swaps"]+"/dev/sda2\tpartition\t1\t0\t-2\n") }, Warn, "/dev/sda2"},
	{"LABK061", "loopback", func(f *fake) { f.write("etc/resolv.conf", "nameserver 127.0.0.1\n") }, Warn, "only 127.0.0.1"},
	{"LABK061", "none", func(f *fake) { f.remove("etc/resolv.conf") }, Warn, "no server"},
	{"LABK061", "systemd-resolved", func(f *fake) {
		f.write("etc/resolv.conf", "nameserver 127.0.0.53\n")
		f.write(upstreamResolvConf, "nameserver 192.168.1.7\n")
	}, Pass, "pods get 192.168.1.7"},
	{"LABK062", "none", func(f *fake) { f.write("proc/net/route", "Iface\n") }, Warn, "--node-ip"},
	{"LABK062", "IPv6", func(f *fake) {
		zero := strings.Repeat("0", 32)
		f.remove("proc/net/route")
		f.write("proc/net/ipv6_route", zero+" 00 "+zero+" 00 "+zero+" ffffffff 00000001 00000000 00200200 lo\n"+
			zero+" 00 "+zero+" 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth1\n")
	}, Pass, "eth1 (IPv6)"},
}

func TestProbes(t *testing.T) {
	probes := map[string]Probe{}
	for _, p := range Probes() {
		probes[p.Code] = p
	}
	for _, c := range allCases() {
		t.Run(c.code+" "+c.name, func(t *testing.T) {
			f := newFake(t)
			c.change(f)
			r := probes[c.code].Run(context.Background(), f.Host)
			if r.Status != c.status || !strings.Contains(r.Detail+"\n"+r.Remedy, c.says) {
				t.Errorf("got %+v; want %s and %q", r, c.status, c.says)
			}
			if (r.Remedy == "") != (r.Status == Pass) || r.Detail == "" {
				t.Errorf("a detail is always needed, a remedy when something is wrong, but got %+v", r)
			}
		})
	}
}

// Every probe must have been seen to find its fault, and no more than the fault's severity.
func TestEveryProbeFinds(t *testing.T) {
	worst := map[string]Status{"LABK043": Fail} // TestLock
	for _, c := range allCases() {
		if c.status == Fail || c.status == Warn && worst[c.code] == "" {
			worst[c.code] = c.status
		}
	}
	want := map[Severity]Status{Fatal: Fail, Warning: Warn}
	for _, p := range Probes() {
		if worst[p.Code] != want[p.Severity] {
			t.Errorf("%s is %s, and the cases show %q at worst", p.Code, p.Severity, worst[p.Code])
		}
	}
}

func TestGoodHost(t *testing.T) {
	for _, r := range Run(context.Background(), newFake(t).Host, Probes()) {
		if r.Status != Pass {
			t.Errorf("%+v", r)
		}
	}
}

func (f *fake) cgroupV1(memory, more string) {
	f.remove("sys/fs/cgroup/cgroup.controllers")
	f.write("proc/self/mounts", "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"+
		"cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n"+more)
	f.write("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t4\t1\t"+memory+"\npids\t8\t1\t1\nhugetlb\t0\t1\t1\n")
}

// listens adds a listening socket, which process 123 has open.
func (f *fake) listens(table, address string) {
	f.write("proc/net/"+table, tcpHeader+"   0: "+address+" 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n")
}

// database writes an SQLite file of two pages, as change makes it.
func (f *fake) database(change func([]byte) []byte) {
	b := make([]byte, 8192)
	copy(b, sqliteMagic)
	binary.BigEndian.PutUint16(b[offsetPageSize:], 4096)
	binary.BigEndian.PutUint32(b[offsetPages:], 2)
	f.put(f.data().Database(), string(change(b)))
}
