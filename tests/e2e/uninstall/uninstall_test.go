// Package uninstall takes labk away from PCs and compares them, as a whole, with how they were before it came.
package uninstall

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
	"github.com/labk/labk/tests/images"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// foreign is what somebody else has on the PC: rules of nft and of iptables, another container runtime's and another CNI network's files, a forwarding PC's settings.
const foreign = `
set -e
if command -v nft >/dev/null; then nft -f - <<'END'
table inet mine {
	set friends { type ipv4_addr; elements = { 192.0.2.1 } }
	chain input { type filter hook input priority 0; policy accept; ip saddr @friends counter accept; }
}
END
fi
iptables -A INPUT -p tcp --dport 9 -m comment --comment "mine" -j ACCEPT
iptables -t nat -N MINE
iptables -t nat -A POSTROUTING -s 198.51.100.0/24 -j MINE
iptables -t nat -A MINE -j MASQUERADE
mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/cni/results /var/lib/cni/networks/mine /etc/containerd/certs.d /run/containerd/runc/k8s.io/mine /var/lib/containerd
echo '{}' | tee /etc/cni/net.d/10-mine.conflist /opt/cni/bin/mine /var/lib/cni/results/mine-1-eth0 /var/lib/cni/networks/mine/192.0.2.7 /run/containerd/runc/k8s.io/mine/state.json /var/lib/containerd/mine >/etc/containerd/mine
mkdir -p /etc/labk && echo mine >/etc/labk/notes
ip netns add mine && ip link add mine0 type veth peer name mine1 && ip link set mine1 netns mine && ip addr add 192.0.2.254/24 dev mine0 && ip link set mine0 up
ip route add 203.0.113.0/24 via 192.0.2.253
mkdir /mnt/mine && mount -t tmpfs mine /mnt/mine
mkdir /sys/fs/cgroup/pids/mine
echo 0 >/proc/sys/kernel/panic; echo 0 >/proc/sys/kernel/panic_on_oops; echo 0 >/proc/sys/net/ipv4/ip_forward
systemctl mask --now apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-tmpfiles-clean.timer 2>/dev/null || true
`

// prepare makes the hosts' strangers and returns how each host is.
func prepare(t *testing.T, c *cluster.Cluster) (before []map[string]string) {
	t.Helper()
	for _, n := range c.Nodes() {
		n.Sh(t, foreign)
		before = append(before, settled(t, n))
	}
	return before
}

// settled surveys a host that has come up: its services, and its IPv6 addresses, which need a second to be decided.
func settled(t *testing.T, n *cluster.Node) map[string]string {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "a settled host", func() error {
		return n.Exec(t, nil, "sh", "-c", `systemctl is-system-running --wait >/dev/null; ! ip -6 addr show | grep -q tentative`).Err
	})
	return look(t, n)
}

// busy starts pods of all kinds and waits until they run.
func busy(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	c.Apply(t, "default", pods(c.Busybox(t)))
	c.Kubectl(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=100s")
	c.Kubectl(t, "wait", "-n", "kube-system", "--for=condition=Available", "deployment/coredns", "--timeout=100s")
}

// install makes labk a service that runs.
func install(t *testing.T, n *cluster.Node, role string, args ...string) {
	t.Helper()
	if r := n.Exec(t, nil, append([]string{n.Program(), "install", role}, args...)...); r.Err != nil {
		t.Fatalf("%v\n%s", r.Err, r.Stdout)
	}
}

// uninstall runs labk uninstall and says how long that took.
func uninstall(t *testing.T, n *cluster.Node, program string, args ...string) string {
	t.Helper()
	began := time.Now()
	r := n.Exec(t, nil, append([]string{program, "uninstall"}, args...)...)
	if r.Err != nil {
		t.Fatalf("%v\n%s", r.Err, r.Stdout)
	}
	t.Logf("%s, in %.1f s:\n%s", n.Host.Name(), time.Since(began).Seconds(), r.Stdout)
	return r.Stdout
}

// asBefore compares a host with how it was. The kernel ends the last namespaces a moment after their last process. may are prefixes of what may differ.
func asBefore(t *testing.T, n *cluster.Node, before map[string]string, may ...string) {
	t.Helper()
	may = append(may, "file /root/.kube", "file /srv/data") // kubectl's cache; what a pod has written to the PC's own folder
	var left []string
	await := func() bool {
		left = nil
		for _, d := range difference(before, look(t, n)) {
			_, what, _ := strings.Cut(d, ": ")
			if !hasPrefix(what, may) {
				left = append(left, d)
			}
		}
		return len(left) == 0
	}
	for range 5 {
		if await() {
			break
		}
		n.Sh(t, "sleep 1")
	}
	if len(left) > 0 {
		t.Errorf("%s is not as before:\n%s", n.Host.Name(), strings.Join(left, "\n"))
	}
	// the host's network works
	n.Sh(t, "bash -c 'exec 3<>/dev/tcp/"+n.Host.Addr().String()+"/1' 2>&1 | grep refused; ip -br addr show eth0 | grep UP; ip route get 198.51.100.1")
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// A server and an agent, installed as services, with pods.
func TestServices(t *testing.T) {
	c := cluster.Hosts(t, 2)
	before := prepare(t, c)
	install(t, c.Server, "server")
	install(t, c.Agents[0], "agent", c.JoinArgs(t)...)
	busy(t, c)
	const unit = "/etc/systemd/system/labk-agent.service"
	c.Agents[0].Sh(t, "echo '# mine' >>"+unit)
	for i, n := range []*cluster.Node{c.Agents[0], c.Server} {
		out := uninstall(t, n, "labk")
		if n == c.Agents[0] && !(strings.Contains(out, unit+", which had been edited by hand") && strings.Contains(out, "kubectl delete node "+n.Host.Name())) {
			t.Errorf("it does not say that %s was somebody's, or what to do on the server", unit)
		}
		asBefore(t, n, before[1-i])
	}
	uninstall(t, c.Server, c.Server.Program()) // once more: there is nothing
	asBefore(t, c.Server, before[0])
}

// A server that was only run by hand is not ended without being told so; a killed one is cleared away.
func TestByHand(t *testing.T) {
	c := cluster.Hosts(t, 1)
	n := c.Server
	n.Sh(t, "mkdir /var/lib/disk /var/lib/labk && mount --bind /var/lib/disk /var/lib/labk") // a disk for it alone
	before := prepare(t, c)[0]
	n.Start(t)
	n.WaitUp(t)
	busy(t, c)
	const containers = `pgrep -f '^/pause|^/coredns' | sort; cat /proc/$(pgrep -of "server$")/stat | cut -d ' ' -f 22`
	running := n.Sh(t, containers)
	r := n.Exec(t, nil, n.Program(), "uninstall")
	r.Refused(t, 1, "started by hand", "--force")
	if now := n.Sh(t, containers); now != running {
		t.Errorf("a refusal changed the processes %s to %s", running, now)
	}
	if out := c.Kubectl(t, "get", "pod", "stubborn", "-o", "jsonpath={.status.phase}"); out != "Running" {
		t.Errorf("the pod is %s after a refusal", out)
	}
	if r := n.Exec(t, nil, "script", "-qec", n.Program()+" uninstall --force", "/dev/null"); r.Code != 2 || !strings.Contains(r.Stdout, "--yes") {
		t.Errorf("on a terminal it ends with %d: %s", r.Code, r.Stdout)
	}
	uninstall(t, n, n.Program(), "--force")
	_ = n.Wait(t)
	asBefore(t, n, before)
}

// What labk install has opened is closed again, and nothing else.
func TestFirewall(t *testing.T) {
	c := cluster.HostsOver(t, 1, cluster.HostRoot(t, append(images.PlainHost(), "ufw")...))
	n := c.Server
	n.Sh(t, "ufw allow 22/tcp && ufw --force enable")
	before, status := settled(t, n), n.Sh(t, "ufw status numbered")
	install(t, n, "server")
	if n.Sh(t, "ufw status numbered") == status {
		t.Error("installing has opened nothing")
	}
	n.Sh(t, "rm /etc/systemd/system/labk.service") // by somebody, and the service still runs
	n.Sh(t, `mv /usr/sbin/ufw /root/ && printf '#!/bin/sh\necho ERROR: locked; exit 1\n' >/usr/sbin/ufw && chmod +x /usr/sbin/ufw`)
	r := n.Exec(t, nil, "labk", "uninstall")
	if r.Refused(t, 1, "locked"); !strings.Contains(r.Stderr, "run labk uninstall again") {
		t.Errorf("it does not say what to do: %s", r.Stderr)
	}
	n.Sh(t, "mv /root/ufw /usr/sbin/ufw")
	uninstall(t, n, "labk")
	if now := n.Sh(t, "ufw status numbered"); now != status {
		t.Errorf("the firewall was\n%s\nand is\n%s", status, now)
	}
	asBefore(t, n, before, "file /etc/ufw/user", "file /run/ufw.lock") // written again, with the same rules
}

// A disk that labk shares with others, which only its service's environment names.
func TestSharedDisk(t *testing.T) {
	t.Run("running", func(t *testing.T) { sharesDisk(t, true) })
	t.Run("stopped", func(t *testing.T) { sharesDisk(t, false) })
}

func sharesDisk(t *testing.T, running bool) {
	c := cluster.Hosts(t, 1)
	n := c.Server
	n.Sh(t, `mkdir /mnt/ssd /var/lib/disk && mount --bind /var/lib/disk /mnt/ssd && mkdir -p /mnt/ssd/data/measured /mnt/ssd/server /mnt/ssd/thesis/images /etc/default &&
		touch /mnt/ssd/data/measured/1.csv /mnt/ssd/server/index.js && mount -t tmpfs images /mnt/ssd/thesis/images && echo LABK_DATA_DIR=/mnt/ssd >/etc/default/labk`)
	before := prepare(t, c)[0]
	install(t, n, "server")
	n.Sh(t, "ls /mnt/ssd/server/db/state.db && until pgrep -f ^/coredns; do sleep 0.2; done")
	if !running {
		n.Systemctl(t, "stop", "labk")
	}
	if out := uninstall(t, n, "labk"); !strings.Contains(out, "did not make them: data, server, thesis") {
		t.Error("it does not say what it left")
	}
	asBefore(t, n, before)
}

// What a crash, and somebody with rm, left; and nft is not there any more.
func TestHalfRemoved(t *testing.T) {
	c := cluster.Hosts(t, 1)
	n := c.Server
	before := prepare(t, c)[0]
	n.Start(t)
	n.WaitUp(t)
	busy(t, c)
	n.Signal(t, syscall.SIGKILL)
	_ = n.Wait(t)
	n.Sh(t, `rm -rf /var/lib/labk/server /run/labk/containerd/io.containerd.grpc.v1.cri /run/labk/containerd/io.containerd.runtime.v2.task /var/lib/cni/results/labk-* 2>/dev/null
		pkill -KILL -f '[c]ontainerd-shim'; ip link delete flannel.1; nft delete table ip kube-proxy; mv /usr/sbin/nft /usr/sbin/iptables /root/`)
	uninstall(t, n, n.Program())
	n.Sh(t, "mv /root/nft /root/iptables /usr/sbin/")
	asBefore(t, n, before)
}

// Where there is no nft, the rules are those of iptables, of the new one or the old.
func TestIPTables(t *testing.T) {
	root := cluster.HostRoot(t, append(images.BareHost(), "iptables")...)
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			c := cluster.HostsOver(t, 1, root)
			n := c.Server
			n.Sh(t, "update-alternatives --set iptables /usr/sbin/iptables-"+kind+" && update-alternatives --set ip6tables /usr/sbin/ip6tables-"+kind)
			before := prepare(t, c)[0]
			n.Start(t)
			n.WaitUp(t)
			busy(t, c)
			if n.Sh(t, "iptables-save | grep -c KUBE-SERVICES") == "0" {
				t.Fatal("labk has made no rules")
			}
			uninstall(t, n, n.Program(), "--force")
			_ = n.Wait(t)
			asBefore(t, n, before)
		})
	}
}

// Another Kubernetes node of the PC keeps what it shares with labk's, also while it is stopped and only its pods run on.
func TestOtherNode(t *testing.T) {
	for name, node := range map[string]struct{ make, said, still string }{
		"running":   {`cp /bin/sleep /root/kubelet && (setsid /root/kubelet 10000 >/dev/null 2>&1 &)`, "kubelet (", `pgrep -f '^/root/kubelet'`},
		"stopped":   {`mkdir -p /var/lib/rancher/k3s/server`, "/var/lib/rancher/k3s", `ls -d /var/lib/rancher/k3s/server`},
		"elsewhere": {`true`, "the pod 01234567-89ab-cdef-0123-456789abcdef", `true`},
	} {
		t.Run(name, func(t *testing.T) { keepsOther(t, node.make, node.said, node.still) })
	}
}

func keepsOther(t *testing.T, make, said, still string) {
	c := cluster.Hosts(t, 1)
	n := c.Server
	n.Start(t)
	n.WaitUp(t)
	busy(t, c)
	n.Signal(t, syscall.SIGTERM)
	_ = n.Wait(t)
	const pod = "kubepods/besteffort/pod01234567-89ab-cdef-0123-456789abcdef"
	n.Sh(t, `mkdir /sys/fs/cgroup/pids/`+pod+` && `+make+` &&
		sh -c 'echo $$ >/sys/fs/cgroup/pids/`+pod+`/cgroup.procs; setsid sleep 20000 >/dev/null 2>&1 &'`)
	if out := uninstall(t, n, n.Program()); !strings.Contains(out, said) {
		t.Errorf("it does not say whose it left")
	}
	if out := n.Sh(t, `pgrep -f '^sleep 20000' >/dev/null && `+still+` >/dev/null && nft list table ip kube-proxy >/dev/null && ls -d /sys/fs/cgroup/pids/`+pod); !strings.HasSuffix(out, pod) {
		t.Errorf("what the other node has: %s", out)
	}
	if out := n.Sh(t, `ls -d /run/labk /var/lib/labk 2>/dev/null; pgrep -fl '^/coredns|^/pause|[c]ontainerd-shim'; nft list tables | grep labk; ls /run/netns; find /sys/fs/cgroup -name 'pod*-*' | grep -v 01234567; true`); out != "" {
		t.Errorf("left of labk: %s", out)
	}
}

// After a power cut there is only the disk; and data that are kept make the same cluster again.
func TestKeepData(t *testing.T) {
	c := cluster.Hosts(t, 1)
	n := c.Server
	before := prepare(t, c)[0]
	install(t, n, "server", "--node-label", "room=7", "--token", "0123456789abcdef0123456789abcdef")
	busy(t, c)
	c.Kubectl(t, "create", "configmap", "kept")
	out := uninstall(t, n, "labk", "--keep-data")
	if !strings.Contains(out, "kept: /var/lib/labk") {
		t.Errorf("it does not say what it kept")
	}
	asBefore(t, n, before, "file /var/lib/labk", "file /etc/labk/config.yaml", "file /etc/labk/kept.json", "file /etc/labk/token")
	install(t, n, "server", "--node-label", "room=8")
	c.Kubectl(t, "get", "configmap", "kept")
	c.Kubectl(t, "wait", "--for=condition=Ready", "pod", "stubborn", "--timeout=100s")
	n.Systemctl(t, "disable", "labk")
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Limit)
	defer cancel()
	if err := n.Host.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.Host.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	n.Sh(t, "systemctl is-system-running --wait")
	uninstall(t, n, "labk")
	if out := n.Sh(t, "ls /etc/labk"); out != "notes" {
		t.Errorf("left in /etc/labk: %s", out)
	}
	if r := n.Exec(t, nil, "sh", "-c", `ls -d /var/lib/labk /usr/local/bin/labk /etc/systemd/system/labk.service /var/log/pods /var/lib/kubelet /run/labk`); r.Stdout != "" {
		t.Errorf("left: %s", r.Stdout)
	}
}
