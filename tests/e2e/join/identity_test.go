package join

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

// Names of nodes: the image's, which two PCs were cloned from, and others.
const (
	imageName = "lab-pc"
	imageID   = "0123456789abcdef0123456789abcdef"
	cloneName = "lab-pc-3"
)

// school is a cluster with PCs that have joined or not.
type school struct {
	*cluster.Cluster
	first, clone, copied *cluster.Node
	rivals               [2]*cluster.Node
	third                *cluster.Node
	spare                *cluster.Node // the rival that lost
}

// TestIdentity lets PCs claim names that others have, or had. Nodes are stopped when they have shown what they had to: all hosts have the machine's inotify
// instances in common, usually 128, and a kubelet that gets none ends without a word.
func TestIdentity(t *testing.T) {
	image := lab.HostOptions{Name: imageName, MachineID: imageID}
	c := cluster.Start(t, cluster.Options{Hosts: 7, Each: map[int]lab.HostOptions{2: image, 3: image}})
	s := &school{Cluster: c, first: c.Agent(t, 2, nil), clone: c.Agent(t, 3, nil), copied: c.Agent(t, 4, nil), third: c.Agent(t, 7, nil)}
	s.rivals = [2]*cluster.Node{c.Agent(t, 5, nil), c.Agent(t, 6, nil)}
	ok := t.Run("three at once", func(t *testing.T) { testRivals(t, s) }) &&
		t.Run("cloned PC", func(t *testing.T) { testClone(t, s) }) &&
		t.Run("copied disk", func(t *testing.T) { testCopiedDisk(t, s) })
	if !ok {
		return // what follows needs these PCs
	}
	s.cutPower(t, s.first)
	s.cutPower(t, s.clone)
	t.Run("dead", func(t *testing.T) {
		t.Run("re-imaged", func(t *testing.T) {
			t.Parallel()
			testReimaged(t, s)
		})
		t.Run("deleted, renamed, replaced", func(t *testing.T) {
			t.Parallel()
			t.Run("deleted", func(t *testing.T) { testDeleted(t, s) })
			t.Run("renamed", func(t *testing.T) { testRenamed(t, s) })
			t.Run("replaced", func(t *testing.T) { testReplaced(t, s) })
		})
	})
}

// belongs makes sure that the node is Ready and that PC's.
func (s *school) belongs(t *testing.T, name string, pc *cluster.Node) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "node "+name, func() error {
		n := getNode(t, s.Cluster, name)
		if got := address(n); got != pc.Host.Addr().String() || !isReady(n) {
			return fmt.Errorf("it is at %s, Ready: %v; want it Ready at %s", got, isReady(n), pc.Host.Addr())
		}
		return nil
	})
}

// cutPower cuts it and gives it back; labk does not run then.
func (s *school) cutPower(t *testing.T, n *cluster.Node) {
	t.Helper()
	if err := errors.Join(n.Host.Kill(bounded(t)), n.Host.Boot(bounded(t))); err != nil {
		t.Fatal(err)
	}
}

// refused tries to join; the PC's credentials, or that it has none, must stay.
func (s *school) refused(t *testing.T, pc *cluster.Node, code int, args []string, want ...string) {
	t.Helper()
	before := pc.Inventory(t, credentials...)
	agent(t, pc, append([]string{"--server", s.URL()}, args...)...).Refused(t, code, want...)
	pc.Unchanged(t, before, credentials...)
}

// joins starts an agent, which must come up as the node.
func (s *school) joins(t *testing.T, pc *cluster.Node, name string, args ...string) {
	t.Helper()
	pc.Start(t, append([]string{"--server", s.URL(), "--node-name", name}, args...)...)
	pc.WaitUp(t)
	s.belongs(t, name, pc)
}

// testClone starts a PC that has its name and its machine-id from the same image as the first.
func testClone(t *testing.T, s *school) {
	s.joins(t, s.first, imageName, "--token", s.Token(t))
	address := s.clone.Host.Addr().String()
	s.refused(t, s.clone, failed, []string{"--token", s.Token(t)}, imageName, "another PC, which is alive at "+s.first.Host.Addr().String(), "--node-name")
	if line := fmt.Sprintf("refused a PC (%s) that asked to be the node %s", address, imageName); !strings.Contains(s.Server.Log(), line) {
		t.Errorf("the server does not say %q:\n%s", line, s.Server.Tail(10))
	}
	cluster.Eventually(t, cluster.Limit, "event at the node", func() error {
		list, err := s.Client(t).CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=JoinRefused,involvedObject.name=" + imageName})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if strings.Contains(e.Message, address) {
				return nil
			}
		}
		return fmt.Errorf("it is not among %d", len(list.Items))
	})
	s.belongs(t, imageName, s.first)
	s.joins(t, s.clone, cloneName, "--token", s.Token(t))
	s.clone.Stop(t)
}

// testCopiedDisk gives a PC what the first keeps, credentials and all.
func testCopiedDisk(t *testing.T, s *school) {
	disk := s.first.Exec(t, nil, "tar", "-C", "/var/lib/labk", "-c", "agent/tls", "agent/etc")
	if disk.Err != nil {
		t.Fatal(disk.Err)
	}
	if r := s.copied.Exec(t, strings.NewReader(disk.Stdout), "sh", "-c", "mkdir -p /var/lib/labk && tar -C /var/lib/labk -x"); r.Err != nil {
		t.Fatal(r.Err)
	}
	as := []string{"--node-name", imageName}
	s.refused(t, s.copied, usage, as, "copy of another PC's", "labk token create")
	s.refused(t, s.copied, failed, append(as, "--token", s.Token(t)), imageName, "another PC, which is alive")
	s.belongs(t, imageName, s.first)
	s.joins(t, s.copied, s.copied.Host.Name(), "--token", s.Token(t))
	s.belongs(t, imageName, s.first)
	if got := s.first.Sh(t, "cat /var/lib/labk/agent/tls/machine.json"); got == s.copied.Sh(t, "cat /var/lib/labk/agent/tls/machine.json") {
		t.Errorf("both PCs say they are %s", got)
	}
	s.copied.Stop(t)
}

// testRivals starts three PCs at once, two of them with one name.
func testRivals(t *testing.T, s *school) {
	for _, pc := range s.rivals {
		pc.Start(t, append(s.JoinArgs(t), "--node-name", "rival")...)
	}
	s.third.Start(t, append(s.JoinArgs(t), "--node-name", "third")...)
	s.third.WaitUp(t)
	up := func(pc *cluster.Node) bool { return strings.Contains(pc.Log(), "this PC is the node rival") }
	lost := func(pc *cluster.Node) bool { return strings.Contains(pc.Log(), "labk: ") }
	cluster.Eventually(t, cluster.Startup, "one of two", func() error {
		if slices.ContainsFunc(s.rivals[:], up) && slices.ContainsFunc(s.rivals[:], lost) {
			return nil
		}
		return errors.New("one has not won, or the other not lost")
	})
	winner, loser := s.rivals[0], s.rivals[1]
	if up(loser) {
		winner, loser = loser, winner
	}
	r := cluster.Result{Stderr: loser.Log(), Code: codeOf(loser.Wait(t))}
	r.Refused(t, failed, "rival", "another PC", "--node-name")
	if lost(winner) {
		t.Errorf("the winner ended:\n%s", winner.Tail(10))
	}
	s.belongs(t, "rival", winner)
	if len(loser.Inventory(t, credentials...)) != 0 {
		t.Error("the loser has credentials")
	}
	s.spare = loser
	winner.Stop(t)
	s.third.Stop(t)
}

func codeOf(err error) int {
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// testReimaged installs the first PC anew. It may have its node back when the cluster no longer sees it Ready.
func testReimaged(t *testing.T, s *school) {
	s.first.Sh(t, "rm -rf /var/lib/labk /var/lib/cni && echo fedcba9876543210fedcba9876543210 > /etc/machine-id")
	s.joins(t, s.first, imageName, "--token", s.Token(t))
	if !strings.Contains(s.first.Log(), "still sees it Ready; waiting") {
		t.Errorf("it does not say that it waits:\n%s", s.first.Tail(10))
	}
	s.first.Stop(t)
}

// testReplaced gives the clone's node to the spare PC, and then lets the clone come back.
func testReplaced(t *testing.T, s *school) {
	replace := createToken(t, s.Cluster, "--replace", cloneName)
	cluster.Eventually(t, cluster.Limit, "end of the node", func() error {
		if isReady(getNode(t, s.Cluster, cloneName)) {
			return errors.New("it is still Ready")
		}
		return nil
	})
	as := []string{"--node-name", cloneName}
	s.refused(t, s.spare, failed, append(as, "--token", s.Token(t)), cloneName, "is off", "labk token create --replace "+cloneName)
	s.refused(t, s.spare, failed, []string{"--node-name", "other", "--token", replace}, "for the node "+cloneName+" only")
	s.joins(t, s.spare, cloneName, "--token", replace)

	s.refused(t, s.clone, failed, as, cloneName, "was given to another PC", "labk token create --replace "+cloneName)
	s.refused(t, s.clone, failed, append(as, "--token", s.Token(t)), cloneName, "belongs to another PC, which is alive at "+s.spare.Host.Addr().String())
	s.belongs(t, cloneName, s.spare)
	s.joins(t, s.clone, "returned", "--token", s.Token(t))
	s.belongs(t, cloneName, s.spare)
}

// testDeleted deletes a node, which comes back with its PC's next start.
func testDeleted(t *testing.T, s *school) {
	if err := s.Client(t).CoreV1().Nodes().Delete(t.Context(), "third", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.joins(t, s.third, "third")
	s.third.Stop(t)
}

// testRenamed starts a PC that has joined under another name. Its address belongs to its old node until that is no longer Ready.
func testRenamed(t *testing.T, s *school) {
	s.refused(t, s.third, usage, []string{"--node-name", "renamed"}, "joined as the node third, not as renamed", "labk token create")
	s.refused(t, s.third, failed, []string{"--node-name", s.Host.Name(), "--token", s.Token(t)}, s.Host.Name(), "the server's own", "--node-name")
	s.joins(t, s.third, "third") // it has lost nothing
	s.third.Stop(t)
	s.joins(t, s.third, "renamed", "--token", s.Token(t))
	if want := "the address " + s.third.Host.Addr().String() + " is the node third's"; !strings.Contains(s.third.Log(), want) {
		t.Errorf("it does not say %q:\n%s", want, s.third.Tail(10))
	}
	s.third.Stop(t)
}
