package health

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/lockfile"
)

var update = flag.Bool("update", false, "write docs/faults.md anew")

func find(t *testing.T, code string) Probe {
	t.Helper()
	all := Probes()
	i := slices.IndexFunc(all, func(p Probe) bool { return p.Code == code })
	if i < 0 {
		t.Fatalf("no probe %s", code)
	}
	return all[i]
}

// A real listener, found in the real /proc: it belongs to this very process.
func TestPortTakenForReal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := newFake(t)
	f.Root = "/"
	f.Ports = []Port{{Number: l.Addr().(*net.TCPAddr).Port, Use: "test"}}
	r := find(t, "LABK030").Run(context.Background(), f.Host)
	if me := fmt.Sprintf("(pid %d)", os.Getpid()); r.Status != Fail || !strings.Contains(r.Detail, me) {
		t.Errorf("got %+v, want a failure that names %s", r, me)
	}
	// Held by the labk that uses the data folder, it is no fault.
	f.put(f.data().Lock(), "")
	lock, err := lockfile.AcquireLock(f.data().Lock())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if r := find(t, "LABK030").Run(context.Background(), f.Host); r.Status != Pass {
		t.Errorf("got %+v for a port of the running labk", r)
	}
}

// A program that the running labk is just starting has all that is open until it becomes another program.
func TestPortOfAChildThatStarts(t *testing.T) {
	f := newFake(t)
	f.listens("tcp", "00000000:192B") // by the process 123
	f.put(f.data().Lock(), "")
	lock, err := lockfile.AcquireLock(f.data().Lock())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	if r := find(t, "LABK030").Run(context.Background(), f.Host); r.Status != Fail {
		t.Errorf("got %+v for a port of another program", r)
	}
	own := f.path(fmt.Sprintf("proc/%d/fd", os.Getpid()))
	if err := errors.Join(os.MkdirAll(own, 0o755), os.Symlink("socket:[4711]", own+"/7")); err != nil {
		t.Fatal(err)
	}
	if r := find(t, "LABK030").Run(context.Background(), f.Host); r.Status != Pass {
		t.Errorf("got %+v for a port that the running labk has, too", r)
	}
}

func TestLock(t *testing.T) {
	f := newFake(t)
	look := func(status Status, says string) {
		t.Helper()
		if r := find(t, "LABK043").Run(context.Background(), f.Host); r.Status != status || !strings.Contains(r.Detail, says) {
			t.Errorf("got %+v; want %s and %q", r, status, says)
		}
	}
	look(Pass, "free")
	f.put(f.data().Lock(), "")
	look(Pass, "free")
	lock, err := lockfile.AcquireLock(f.data().Lock())
	if err != nil {
		t.Fatal(err)
	}
	look(Pass, "this process")
	f.PID = 1 // as if another one asked
	look(Fail, fmt.Sprintf("another labk (pid %d)", os.Getpid()))
	f.Starting = false
	look(Pass, fmt.Sprintf("labk runs (pid %d)", os.Getpid()))
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	look(Pass, "free")
}

// The probes leave nothing behind, not even the data folder.
func TestNothingLeft(t *testing.T) {
	f := newFake(t)
	Run(context.Background(), f.Host, Probes())
	if _, err := os.Stat(f.Config.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data folder: %v", err)
	}
	if err := os.Mkdir(f.Config.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	Run(context.Background(), f.Host, Probes())
	if left, err := os.ReadDir(f.Config.DataDir); err != nil || len(left) > 0 {
		t.Errorf("left in the data folder: %v, %v", left, err)
	}
}

// On this machine, whatever it is: every probe answers, in order.
func TestThisHost(t *testing.T) {
	f := newFake(t)
	h := ThisHost(f.Config, true, f.Built)
	h.Command = func(ctx context.Context, stdin, name string, args ...string) (string, error) {
		if strings.HasSuffix(name, "modprobe") {
			return "", errors.New("a test loads no modules")
		}
		return command(ctx, stdin, name, args...)
	}
	results := Run(context.Background(), h, Probes())
	for i, p := range Probes() {
		if results[i].Code != p.Code || results[i].Detail == "" {
			t.Errorf("result %d is %+v, want one of %s", i, results[i], p.Code)
		}
		t.Logf("%s %s %s: %s", p.Code, results[i].Status, p.Title, results[i].Detail)
	}
}

func TestFirewallMode(t *testing.T) {
	f := newFake(t)
	if mode, err := f.FirewallMode(context.Background()); mode != NFTables || err != nil {
		t.Errorf("both: %q, %v", mode, err)
	}
	f.programs["nft"] = complains("nft: exit status 1")
	if mode, err := f.FirewallMode(context.Background()); mode != IPTables || err != nil {
		t.Errorf("broken nft: %q, %v", mode, err)
	}
	f.without("nft", "iptables")
	if mode, err := f.FirewallMode(context.Background()); mode != "" || err == nil {
		t.Errorf("neither: %q, %v", mode, err)
	}
}

// A probe that hangs delays nothing beyond the caller's patience, and takes no other result with it.
func TestHangingProbe(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithCancel(context.Background())
	hanging := Probe{Fault: Fault{Code: "X1"}, look: func(context.Context, Host) finding { cancel(); <-release; return pass("late") }}
	results := Run(ctx, Host{}, []Probe{hanging})
	if results[0].Status != Warn || !results[0].Late || !strings.Contains(results[0].Detail, "no answer") {
		t.Errorf("got %+v", results[0])
	}
}

func TestErr(t *testing.T) {
	f := newFake(t)
	if err := Err(Run(context.Background(), f.Host, Probes())); err != nil {
		t.Fatalf("a good host: %v", err)
	}
	f.write("sys/fs/cgroup/cgroup.controllers", "cpu pids\n")
	f.without("nft", "iptables")
	err := Err(Run(context.Background(), f.Host, Probes()))
	want := "check firewall program: neither nft nor iptables is in PATH: install the package nftables (or iptables) (LABK013)\n" +
		"check memory cgroup: cgroup v2 without the memory controller in /sys/fs/cgroup/cgroup.controllers: " +
		"boot with cgroup_enable=memory (and cgroup_memory=1 on a Raspberry Pi) on the kernel's command line (LABK021)"
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	if !HasCode(fmt.Errorf("start: %w", err), "LABK021") || HasCode(err, "LABK001") {
		t.Error("HasCode does not find what is in the error, or finds what is not")
	}
}

// An ordinary user reads one sentence.
func TestOrdinaryUser(t *testing.T) {
	f := newFake(t)
	f.UID, f.Config.DataDir = 1000, "/proc/self"
	err := Err(Run(context.Background(), f.Host, Probes()))
	if want := "check user: not root but user 1000: run it as root, for example with sudo (LABK001)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// docs/faults.md is the catalog: go test ./pkg/health -run TestDocs -update writes it.
func TestDocs(t *testing.T) {
	const path = "../../docs/faults.md"
	want := document()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s differs from the probes: go test ./pkg/health -run TestDocs -update", path)
	}
}

func document() string {
	var b strings.Builder
	b.WriteString(`# Faults

English · [한국어](ko/faults.md)

What can be wrong with a PC and with the labk on it. A code never changes its meaning.

` + "`labk check`" + ` looks for all that can be seen without a running labk, and starts nothing; a server or agent does the same first and stops at
a fatal fault. A running one looks again, as the table says, and tells of what it finds in four places:

- ` + "`labk status`" + ` on the PC, which also looks anew at what is looked at each minute;
- events of the PC's node, a warning when a fault appears and a normal one when it goes: ` + "`kubectl get events --field-selector reason=LABK041`" + `;
- the metric ` + "`labk_fault{code=\"LABK041\",severity=\"fatal\"}`" + `, 1 or 0, at ` + "`/metrics`" + ` of the API server and of the kubelet;
- its exit code: ` + "`labk status`" + ` and ` + "`labk check`" + ` end with 1 when something fails.

A fault of severity fatal keeps labk from starting, or from doing its work; it can also appear as a warning, as its cause says.

<!-- Made from the probes in pkg/health: go test ./pkg/health -run TestDocs -update -->

| code | what is looked at | cause | remedy | severity | looked for |
| --- | --- | --- | --- | --- | --- |
`)
	for _, p := range Probes() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", p.Code, p.Title, p.Cause, p.Remedy, p.Severity, lookedFor(p))
	}
	return b.String()
}

// lookedFor says when a probe is run.
func lookedFor(p Probe) string {
	times := map[time.Duration]string{0: "", Often: "each minute", Seldom: "each hour"}[p.Again()]
	switch {
	case p.Live():
		return times
	case times == "":
		return "before a start"
	}
	return "before a start, " + times
}

// The Korean page has a row for each fault and for nothing else, with the same severity and times.
func TestKoreanDocs(t *testing.T) {
	const path = "../../docs/ko/faults.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		if strings.HasPrefix(line, "| LABK") {
			rows[strings.Fields(line)[1]] = line
		}
	}
	severities := map[Severity]string{Fatal: "치명적", Warning: "경고"}
	times := strings.NewReplacer("before a start", "시작 전", "each minute", "1분마다", "each hour", "1시간마다")
	for _, p := range Probes() {
		columns := strings.Split(strings.Trim(rows[p.Code], "| "), " | ")
		delete(rows, p.Code)
		end := []string{severities[p.Severity], times.Replace(lookedFor(p))}
		if len(columns) != 6 || slices.Contains(columns, "") || !slices.Equal(columns[4:], end) {
			t.Errorf("%s has no row for %s with a title, a cause, a remedy and %q: %q", path, p.Code, end, columns)
		}
	}
	for code := range rows {
		t.Errorf("%s has a row for %s, which is no fault", path, code)
	}
}

func TestCatalog(t *testing.T) {
	last := ""
	for _, p := range Probes() {
		if p.Code <= last {
			t.Errorf("%s comes after %s", p.Code, last)
		}
		last = p.Code
		if p.Title == "" || !strings.HasSuffix(p.Cause, ".") || p.Remedy == "" || strings.HasSuffix(p.Remedy, ".") {
			t.Errorf("%s: a title, a cause in whole sentences and a remedy that ends a sentence are needed: %+v", p.Code, p.Fault)
		}
		if strings.ContainsAny(p.Title+p.Cause+p.Remedy, "|\n") {
			t.Errorf("%s: no bars or line ends: they would break the table", p.Code)
		}
	}
}
