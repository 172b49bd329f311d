package lab

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The test program, started again, as another lab's owner: one that will be killed, and one that leaves its hosts behind.
const (
	ownerEnv = "LABK_LAB_TEST_OWNER"
	leaveEnv = "LABK_LAB_TEST_LEAVE"
)

func TestMain(m *testing.M) {
	err := MaybeInit()
	if err == nil && os.Getenv(ownerEnv) != "" {
		err = ownUntilKilled(os.Getenv(ownerEnv))
	}
	if name := os.Getenv(leaveEnv); err == nil && name != "" {
		if _, err = Up(context.Background(), Options{Name: name, InitCommand: []string{"/proc/self/exe", "lab-init"}}); err == nil {
			os.Exit(0)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func ownUntilKilled(name string) error {
	if _, err := Up(context.Background(), Options{Name: name, Hosts: 2, Subnet: "10.77.9.0/24", OwnerBound: true}); err != nil {
		return err
	}
	fmt.Println("up")
	_, err := io.Copy(io.Discard, os.Stdin) // the test keeps it open
	return err
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func bringUp(t *testing.T, o Options) *Lab {
	t.Helper()
	o.OwnerBound = true
	l, err := Up(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// sh runs a script in the host and returns its output.
func sh(t *testing.T, h *Host, script string) string {
	t.Helper()
	out, err := h.Command(testContext(t), "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx := testContext(t)
	for !condition() {
		if err := pause(ctx); err != nil {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func do(t *testing.T, f func(context.Context) error) {
	t.Helper()
	if err := f(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// reach exchanges a byte between two namespaces of the lab.
func reach(ctx context.Context, from, to *Net, addr string) error {
	l, err := to.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte("x"))
			_ = c.Close()
		}
	}()
	c, err := from.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "x" {
		return fmt.Errorf("read %q, %w", b, err)
	}
	return nil
}

func carrier(t *testing.T, h *Host) string { return sh(t, h, "cat /sys/class/net/eth0/carrier") }

// lost says what is different from before.
func lost(t *testing.T, before []string) string {
	t.Helper()
	var b strings.Builder
	after := inventory(t)
	for _, x := range after {
		if !slices.Contains(before, x) {
			fmt.Fprintf(&b, "+%s\n", x)
		}
	}
	for _, x := range before {
		if !slices.Contains(after, x) {
			fmt.Fprintf(&b, "-%s\n", x)
		}
	}
	return b.String()
}

// asBefore waits for the inventory of before: threads that were in the lab may take a moment to end.
func asBefore(t *testing.T, before []string) {
	t.Helper()
	// what an earlier, killed test run left was cleared away by Up
	before = slices.DeleteFunc(before, func(x string) bool { return strings.Contains(x, "selftest") })
	ctx, diff := testContext(t), ""
	for {
		if diff = lost(t, before); diff == "" {
			return
		}
		if err := pause(ctx); err != nil {
			t.Fatalf("the machine is not as before:\n%s", diff)
		}
	}
}

// processesIn are the pids of processes in cgroups whose path has the text in it.
func processesIn(text string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range files {
		b, _ := os.ReadFile(f) // it may be gone
		pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
		if p, err := identify(pid); err == nil && p.alive() && strings.Contains(string(b), text) {
			pids = append(pids, strconv.Itoa(pid))
		}
	}
	return pids
}

// inventory lists this package's traces on the machine: mounts, cgroups, network namespaces, interfaces, folders.
func inventory(t *testing.T) (all []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		all = append(all, "mount "+strings.Fields(line)[4])
	}
	_ = filepath.WalkDir(cgroupRoot, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(path, "selftest") {
			all = append(all, "cgroup "+path)
		}
		return nil
	})
	own, _ := os.Readlink("/proc/self/ns/net")
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil && ns != own {
			all = append(all, "thread in "+ns)
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		all = append(all, "interface "+l.Name)
	}
	folders, _ := filepath.Glob("/var/tmp/labk-lab-selftest*")
	all = append(all, folders...)
	for _, pid := range processesIn("labk-lab-selftest") {
		all = append(all, "process of selftest "+pid)
	}
	slices.Sort(all)
	return all
}
