package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLab(t *testing.T) {
	before := inventory(t)
	opt := t.TempDir()
	program := filepath.Join(opt, "greet")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho hello from $(hostname)\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l := bringUp(t, Options{Name: "selftest", Hosts: 2, Subnet: "10.77.8.0/24", Opt: opt})
	t.Run("network", func(t *testing.T) { testNetwork(t, l) })
	t.Run("command", func(t *testing.T) { testCommand(t, l) })
	t.Run("namespaces", func(t *testing.T) { testNamespaces(t, l) })
	t.Run("folders", func(t *testing.T) { testFolders(t, l) })
	t.Run("sysctls", func(t *testing.T) { testSysctls(t, l.Host(1)) })
	t.Run("user namespace", func(t *testing.T) { testUserNamespace(t, l.Host(1)) })
	t.Run("cable", func(t *testing.T) { testCable(t, l) })
	t.Run("power", func(t *testing.T) { testPower(t, l) })
	t.Run("refusal", func(t *testing.T) { testRefusal(t, l) })
	t.Run("down", func(t *testing.T) { testDown(t, l, before) })
}

func testNetwork(t *testing.T, l *Lab) {
	h1, h2 := l.Host(1), l.Host(2)
	ctx := testContext(t)
	if h1.Addr().String() != "10.77.8.11" || l.Gateway().String() != "10.77.8.1" {
		t.Errorf("addresses are %s and %s", h1.Addr(), l.Gateway())
	}
	if err := reach(ctx, h2.Net(), h1.Net(), "10.77.8.11:0"); err != nil {
		t.Errorf("h2 to h1: %v", err)
	}
	if err := reach(ctx, l.Net(), h2.Net(), "10.77.8.12:0"); err != nil {
		t.Errorf("the gateway to h2: %v", err)
	}
	if err := reach(ctx, h1.Net(), l.Net(), "10.77.8.1:0"); err != nil {
		t.Errorf("h1 to the gateway: %v", err)
	}
	p, err := l.Net().ListenPacket(ctx, "udp", "10.77.8.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	sh(t, h1, `grep -q "^nameserver 10.77.8.1$" /etc/resolv.conf && exec bash -c 'echo -n who >/dev/udp/10.77.8.1/53'`)
	b := make([]byte, 16)
	_ = p.SetReadDeadline(time.Now().Add(time.Minute))
	if n, from, err := p.ReadFrom(b); err != nil || string(b[:n]) != "who" || !strings.HasPrefix(from.String(), "10.77.8.11:") {
		t.Errorf("datagram %q from %v: %v", b[:n], from, err)
	}
	if _, err := h1.Net().DialContext(ctx, "tcp", "localhost:1"); err == nil || !strings.Contains(err.Error(), "IP address") {
		t.Errorf("a name was not refused: %v", err)
	}
	if out := sh(t, h1, "ip route show default; ls /sys/class/net; cat /proc/sys/net/ipv4/ip_forward"); out != "default via 10.77.8.1 dev eth0 \neth0\nlo\n1" {
		t.Errorf("h1's network is %q", out)
	}
}

func testCommand(t *testing.T, l *Lab) {
	h := l.Host(1)
	c := h.Command(testContext(t), "sh", "-c", "pwd; echo $HOME $COLOUR; cat; echo problem >&2; exit 7")
	c.Env = []string{"COLOUR=green"}
	c.Stdin = strings.NewReader("typed\n")
	out, err := c.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || string(exit.Stderr) != "problem\n" {
		t.Errorf("error is %v", err)
	}
	if string(out) != "/root\n/root green\ntyped\n" {
		t.Errorf("output is %q", out)
	}
	if out := sh(t, h, "greet"); out != "hello from selftest-h1" { // found in OptDir
		t.Errorf("greet: %q", out)
	}
	if err := h.Command(testContext(t), "no-such-program").Run(); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("unknown program: %v", err)
	}
	c = h.Command(testContext(t), "sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); !errors.As(err, &exit) || exit.String() != "signal: interrupt" {
		t.Errorf("interrupted: %v", err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	c = h.Command(ctx, "sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := c.Wait(); !errors.Is(err, context.Canceled) && !errors.As(err, &exit) {
		t.Errorf("cancelled: %v", err)
	}
	// an orphan is adopted and reaped by pid 1
	sh(t, h, "(sleep 0.01 & echo $! >/tmp/orphan) ; true")
	eventually(t, "the orphan is reaped", func() bool { return sh(t, h, "test -d /proc/$(cat /tmp/orphan) || echo gone") == "gone" })
}

func testNamespaces(t *testing.T, l *Lab) {
	for _, ns := range []string{"cgroup", "ipc", "uts", "net", "pid", "mnt"} {
		own, _ := os.Readlink("/proc/self/ns/" + ns)
		one := sh(t, l.Host(1), "readlink /proc/self/ns/"+ns)
		init := sh(t, l.Host(1), "readlink /proc/1/ns/"+ns)
		other := sh(t, l.Host(2), "readlink /proc/self/ns/"+ns)
		if one != init || one == other || one == own || own == "" {
			t.Errorf("%s: command %s, init %s, other host %s, test %s", ns, one, init, other, own)
		}
	}
	// the command's groups are the roots that the host sees, and below the lab's as the machine sees them
	c := l.Host(1).Command(testContext(t), "sh", "-c", "cat /proc/self/cgroup; cat >/dev/null")
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	c.Stdout = &seen
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	outside, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Process.Pid))
	if err != nil {
		t.Error(err)
	}
	_ = stdin.Close()
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(seen.String()) {
		if group := strings.SplitN(strings.TrimSpace(line), ":", 3)[2]; group != "/" && group != "/"+leafGroup {
			t.Errorf("seen from inside: %s", line)
		}
	}
	for line := range strings.Lines(string(outside)) {
		if !strings.Contains(line, "/labk-lab-selftest/h1") {
			t.Errorf("seen from outside: %s", line)
		}
	}
	// a group made in the host is in its own subtree, and no hindrance to Kill
	sh(t, l.Host(1), `d=$(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs | grep -v -e cpuset -e /init/ | head -n 1)
mkdir ${d%/*}/pods && (echo 0 >${d%/*}/pods/cgroup.procs && setsid sleep 1000 >/dev/null 2>&1 &)`)
	if sh(t, l.Host(1), "grep -c 'shared:' /proc/self/mountinfo") == "0" {
		t.Error("no mount of the host is shared")
	}
}

func testFolders(t *testing.T, l *Lab) {
	h := l.Host(1)
	if out := sh(t, h, "ls -A /tmp /run/netns /var/log | tr '\\n' ' '; hostname; cat /etc/hostname"); !strings.HasSuffix(out, "selftest-h1\nselftest-h1") {
		t.Errorf("folders: %q", out)
	}
	if out := sh(t, h, "touch "+OptDir+"/x 2>&1 || true"); !strings.Contains(out, "Read-only") {
		t.Errorf("%s is writable: %q", OptDir, out)
	}
	// /var/lib must be able to carry overlayfs, as containerd's store is there
	sh(t, h, "cd /var/lib && mkdir -p o/l o/u o/w o/m && mount -t overlay overlay -o lowerdir=o/l,upperdir=o/u,workdir=o/w o/m && umount o/m")
	for _, dir := range []string{"/var/lib", "/var/log", "/etc", "/opt", "/root", "/run", "/tmp", "/dev/shm"} {
		file := filepath.Join(dir, "labk-lab-selftest-mark")
		sh(t, h, "echo mark >"+file)
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is on the machine: %v", file, err)
		}
		if out := sh(t, l.Host(2), "cat "+file+" 2>/dev/null || true"); out != "" {
			t.Errorf("%s is on the other host", file)
		}
		if path, err := h.Path(file); err != nil {
			t.Error(err)
		} else if b, err := os.ReadFile(path); string(b) != "mark\n" {
			t.Errorf("%s from outside: %q, %v", file, b, err)
		}
	}
}

func testSysctls(t *testing.T, h *Host) {
	machine, err := os.ReadFile("/proc/sys/kernel/panic")
	if err != nil {
		t.Fatal(err)
	}
	if out := sh(t, h, "cat /proc/sys/vm/overcommit_memory; echo 77 >/proc/sys/kernel/panic; cat /proc/sys/kernel/panic"); out != "1\n77" {
		t.Errorf("the kubelet's sysctls: %q", out)
	}
	if now, _ := os.ReadFile("/proc/sys/kernel/panic"); !bytes.Equal(now, machine) {
		t.Errorf("the machine's kernel.panic became %s", now)
	}
	if out := sh(t, h, "v=$(cat /proc/sys/vm/swappiness); (echo $v >/proc/sys/vm/swappiness) 2>/dev/null || echo refused"); out != "refused" {
		t.Errorf("a machine-wide sysctl was writable: %q", out)
	}
	if out := sh(t, h, "echo 1 >/proc/sys/net/ipv4/conf/all/arp_filter; cat /proc/sys/net/ipv4/conf/all/arp_filter"); out != "1" {
		t.Errorf("the host's own sysctl: %q", out)
	}
}

// What runc does for a pod with a user namespace.
func testUserNamespace(t *testing.T, h *Host) {
	out := sh(t, h, `mkdir -p /tmp/p /tmp/s
unshare -U -r -m -p -n -f sh -c "mount -t proc proc /tmp/p && mount -t sysfs sysfs /tmp/s && cat /tmp/p/1/comm"`)
	if out != "sh" {
		t.Errorf("user namespace: %q", out)
	}
}

func testCable(t *testing.T, l *Lab) {
	h := l.Host(2)
	do(t, h.Cut)
	eventually(t, "h2 has no carrier", func() bool { return carrier(t, h) == "0" })
	do(t, h.Kill)
	do(t, h.Boot)
	if carrier(t, h) != "0" {
		t.Error("booting plugged the cable in")
	}
	ctx, cancel := context.WithTimeout(testContext(t), 200*time.Millisecond)
	defer cancel()
	if err := reach(ctx, l.Host(1).Net(), h.Net(), h.Addr().String()+":0"); err == nil {
		t.Error("h2 was reached without a cable")
	}
	do(t, h.Mend)
	eventually(t, "h2 has a carrier", func() bool { return carrier(t, h) == "1" })
	if err := reach(testContext(t), l.Host(1).Net(), h.Net(), h.Addr().String()+":0"); err != nil {
		t.Errorf("after mending: %v", err)
	}
}

func testPower(t *testing.T, l *Lab) {
	h := l.Host(1)
	sleeper := h.Command(testContext(t), "sh", "-c", "echo awake; exec sleep 1000")
	stdout, err := sleeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "awake\n" {
		t.Errorf("the sleeper said %q, %v", line, err)
	}
	mac := sh(t, h, "cat /sys/class/net/eth0/address; ip link add cni0 type bridge")
	sh(t, h, "unshare -p -f setsid sleep 1000 >/dev/null 2>&1 & true")
	again, err := Open(l.Dir()) // as another process would
	if err != nil {
		t.Fatal(err)
	}
	do(t, again.Host(1).Kill)
	if err := sleeper.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("a process of the host ended with %v", err)
	}
	if h.Running() || again.Host(1).Running() || !l.Host(2).Running() {
		t.Error("not exactly h1 is without power")
	}
	if pids := processesIn("labk-lab-selftest/h1"); len(pids) > 0 {
		t.Errorf("still alive: %v", pids)
	}
	if err := h.Command(testContext(t), "true").Run(); err == nil || !strings.Contains(err.Error(), "boot it first") {
		t.Errorf("a command without power: %v", err)
	}
	do(t, h.Kill) // once more is no error
	do(t, h.Boot)
	do(t, again.Host(1).Boot)
	if out := sh(t, h, "cat /var/lib/*mark /var/log/*mark /etc/*mark /opt/*mark /root/*mark; ls -A /tmp /dev/shm; cat /etc/hostname"); out != strings.Repeat("mark\n", 5)+"/dev/shm:\n\n/tmp:\nselftest-h1" {
		t.Errorf("the disk after boot: %q", out)
	}
	if out := sh(t, h, "cat /sys/class/net/eth0/address; test -e /run/labk-lab-selftest-mark || test -e /sys/class/net/cni0 || true"); out != mac {
		t.Errorf("the network after boot: %q, before %q", out, mac)
	}
	if err := reach(testContext(t), l.Host(2).Net(), h.Net(), h.Addr().String()+":0"); err != nil {
		t.Errorf("after boot: %v", err)
	}
}

func testRefusal(t *testing.T, l *Lab) {
	if _, err := Up(testContext(t), l.state.Options); !errors.Is(err, ErrExists) {
		t.Errorf("a second lab in the folder: %v", err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "labk-lab-other-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "thesis"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(testContext(t), Options{Name: "other", Dir: dir}); err == nil || !strings.Contains(err.Error(), "thesis") {
		t.Errorf("somebody's folder: %v", err)
	}
	_, err = Up(testContext(t), Options{Name: "selftest-bad", InitCommand: []string{"/bin/echo"}})
	if err == nil || !strings.Contains(err.Error(), "its init (/bin/echo) failed") {
		t.Errorf("a wrong init: %v", err)
	}
	if _, err := os.Stat(DefaultDir("selftest-bad")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failed Up left its folder: %v", err)
	}
	_, err = Up(testContext(t), Options{Name: "selftest-then", Then: func(_ context.Context, l *Lab) error {
		return errors.New("no good: " + sh(t, l.Host(1), "hostname"))
	}})
	if err == nil || !strings.Contains(err.Error(), "no good: selftest-then-h1") {
		t.Errorf("a failed Then: %v", err)
	}
	if _, err := os.Stat(DefaultDir("selftest-then")); !errors.Is(err, fs.ErrNotExist) || len(processesIn("selftest-then")) > 0 {
		t.Errorf("a failed Then left something: %v", err)
	}
	if err := InitMain(); err == nil {
		t.Error("InitMain ran outside a host")
	}
}

func testDown(t *testing.T, l *Lab, before []string) {
	do(t, l.Down)
	do(t, l.Down)
	asBefore(t, before)
	if _, err := Open(l.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open after down: %v", err)
	}
	if err := l.Host(1).Boot(testContext(t)); err == nil {
		t.Error("booted a host of a lab that is down")
	}
}
