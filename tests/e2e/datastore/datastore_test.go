// Package datastore gives a real server bad luck with its disk: full, read-only, failing, in use by another. Nothing that was acknowledged may be lost, the API must say what is wrong, reads must go on, and
// all must be well when the disk is, without a restart.
package datastore

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/status"
	"github.com/labk/labk/tests/e2e/cluster"
	"github.com/labk/labk/tests/powercut"
)

func TestMain(m *testing.M) { cluster.Main(m) }

var alone = []string{"--disable-agent", "--disable=coredns"}

// TestFullDisk fills the disk of the data folder, a small one that can become smaller and larger.
func TestFullDisk(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Args: alone, Before: func(c *cluster.Cluster) {
		c.Sh(t, "mkdir -p /var/lib/labk && mount -t tmpfs -o size=16g tmpfs /var/lib/labk")
	}})
	n := newNotes(t, c)
	n.write(t, 20, 1000)
	n.unharmed(t, "no space is left on the disk of /var/lib/labk/server/db/state.db", "free some", func() {
		used, err := strconv.Atoi(c.Sh(t, "df --output=used -BM /var/lib/labk | tail -n 1 | tr -dc 0-9"))
		if err != nil {
			t.Fatal(err)
		}
		c.Sh(t, fmt.Sprintf("mount -o remount,size=%dm /var/lib/labk", used+2))
	}, func() {
		c.Sh(t, "mount -o remount,size=16g /var/lib/labk")
	})

	// A start on a full disk says what is wrong and changes nothing.
	c.Server.Stop(t)
	c.Sh(t, "mount -o remount,size=$((`df --output=used -BM /var/lib/labk | tail -n 1 | tr -dc 0-9`+1))m /var/lib/labk")
	before := c.Server.Inventory(t, "/var/lib/labk/server")
	c.Labk(t, append([]string{"server"}, alone...)...).Refused(t, 1, "/var/lib/labk", "free space there", "LABK041")
	if after := c.Server.Inventory(t, "/var/lib/labk/server"); !maps.Equal(before, after) {
		t.Errorf("the start on a full disk changed files: %v, before %v", after, before)
	}
	c.Sh(t, "mount -o remount,size=16g /var/lib/labk")
	c.Server.Start(t, alone...)
	c.Server.WaitUp(t)
	n.verify(t)
	n.write(t, 3, 1000)
}

// TestFailingDisk has the datastore on a disk that turns read-only, as the kernel makes one that it finds damaged, and on one that fails. (A lab host has no other way to make a disk in use read-only.)
func TestFailingDisk(t *testing.T) {
	disk := powercut.New(1, powercut.ByFile)
	c := cluster.Start(t, cluster.Options{Args: alone, Before: func(c *cluster.Cluster) {
		c.Server.Mount(t, disk, "/var/lib/labk/server/db")
	}})
	n := newNotes(t, c)
	n.write(t, 20, 1000)
	for _, tc := range []struct {
		fault syscall.Errno
		want  string
	}{{syscall.EROFS, "is its disk mounted read-only"}, {syscall.EIO, "see dmesg"}, {syscall.ENOSPC, "no space is left"}} {
		t.Run(tc.fault.Error(), func(t *testing.T) {
			n.unharmed(t, tc.want, "/var/lib/labk/server/db/state.db", func() { disk.Fail(tc.fault) }, func() { disk.Fail(0) })
			// A start, with SQLite's log as a kill has left it, says the same: what cannot be read now is not damaged.
			c.Server.Signal(t, syscall.SIGKILL)
			_ = c.Server.Wait(t) // it was killed
			disk.Fail(tc.fault)
			c.Labk(t, append([]string{"server"}, alone...)...).Refused(t, 1, "/var/lib/labk/server/db/state.db", tc.want)
			disk.Fail(0)
			c.Server.Start(t, alone...)
			c.Server.WaitUp(t)
			n.verify(t)
		})
	}
}

// TestTwoServers starts a second server over the folder of one that runs, as from another container with the same volume: with processes and mounts of its own.
func TestTwoServers(t *testing.T) {
	c := cluster.Start(t, cluster.Options{Args: alone})
	n := newNotes(t, c)
	n.write(t, 3, 1000)
	argv := append([]string{"unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", c.Program(), "server", "--https-listen-port=7443"}, alone...)
	c.Exec(t, nil, argv...).Refused(t, 1, "/var/lib/labk", "in use by another labk")
	n.verify(t)
	n.write(t, 3, 1000)
}

// notes are ConfigMaps and what they hold.
type notes struct {
	*cluster.Cluster
	known map[string]string
}

// newNotes waits until the controllers run, too: a first start that cannot write what they need ends with the reason.
func newNotes(t *testing.T, c *cluster.Cluster) *notes {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "what a controller makes", func() error {
		_, err := c.Client(t).CoreV1().ConfigMaps("default").Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	return &notes{Cluster: c, known: map[string]string{}}
}

// write makes some, which must work.
func (n *notes) write(t *testing.T, some, size int) {
	t.Helper()
	for range some {
		if err := n.writeOne(t, size); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *notes) writeOne(t *testing.T, size int) error {
	name := fmt.Sprintf("note-%d", len(n.known))
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"text": name + strings.Repeat(".", size)}}
	_, err := n.Client(t).CoreV1().ConfigMaps("default").Create(t.Context(), m, metav1.CreateOptions{})
	if err == nil {
		n.known[name] = m.Data["text"]
	}
	return err
}

// verify wants all that was acknowledged, and nothing else.
func (n *notes) verify(t *testing.T) {
	t.Helper()
	list, err := n.Client(t).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]string{}
	for _, m := range list.Items {
		if strings.HasPrefix(m.Name, "note-") {
			there[m.Name] = m.Data["text"]
		}
	}
	if !maps.Equal(there, n.known) {
		t.Errorf("%d notes are there, and %d were acknowledged", len(there), len(n.known))
	}
}

// unharmed spoils the disk and mends it: in between, changes are refused with the reason and what to do, to kubectl too, reads go on, a person can see it, and the server goes on.
func (n *notes) unharmed(t *testing.T, reason, remedy string, spoil, mend func()) {
	t.Helper()
	pid := n.Server.Pid(t)
	spoil()
	cluster.Eventually(t, cluster.Limit, "a write that is refused", func() error {
		for range 50 {
			if err := n.writeOne(t, 500_000); err != nil {
				return nil
			}
		}
		return fmt.Errorf("%d notes were taken", len(n.known))
	})
	r := n.KubectlErr(t, "create", "configmap", "refused", "--from-literal=text="+strings.Repeat(".", 10_000))
	if r.Code != 1 || !strings.Contains(r.Stderr, reason) || !strings.Contains(r.Stderr, remedy) {
		t.Errorf("kubectl ends with %d and says: %s", r.Code, r.Stderr)
	}
	n.verify(t)
	if f := n.fault(t); f.Status != health.Fail || !strings.Contains(f.Detail, reason) {
		t.Errorf("labk status shows %+v", f)
	}
	mend()
	cluster.Eventually(t, cluster.Limit, "a write when the disk is well again", func() error { return n.writeOne(t, 1000) })
	n.verify(t)
	if f := n.fault(t); f.Code != "" {
		t.Errorf("labk status still shows %+v", f)
	}
	if now := n.Server.Pid(t); now != pid || n.Labk(t, "kubectl", "get", "--raw", "/readyz").Code != 0 {
		t.Errorf("the server was process %d, is %d", pid, now)
	}
}

// fault is what labk status says of the datastore's writes; the zero one if nothing is wrong.
func (n *notes) fault(t *testing.T) health.Result {
	t.Helper()
	r := n.Labk(t, "status", "-o", "json")
	var s status.Status
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("not the JSON of a status: %v:\n%s%s", err, r.Stdout, r.Stderr)
	}
	for _, f := range s.Faults {
		if f.Code == "LABK093" {
			return f
		}
	}
	return health.Result{}
}
