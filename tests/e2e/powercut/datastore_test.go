package powercut

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/tests/powercut"
)

// writers is how many clients write at once.
const writers = 16

// both are the ways to lose power.
var both = [...]powercut.Loss{powercut.All, powercut.Some}

// times is by how much a run by hand does more than one in CI: $LABK_TEST_TIMES.
func times(t *testing.T) int {
	text := os.Getenv("LABK_TEST_TIMES")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("LABK_TEST_TIMES is %q: give a number", text)
	}
	return n
}

// TestCuts cuts the power of the disk below the datastore again and again: at some step of its start or under load.
func TestCuts(t *testing.T) {
	for _, tc := range []struct {
		kind   string
		names  powercut.Names
		rounds int
	}{
		{"sqlite", powercut.ByFile, 100},
		{"sqlite", powercut.ByFolder, 100},
		{"etcd", powercut.ByFile, 20},
	} {
		t.Run(fmt.Sprint(tc.kind, tc.names), func(t *testing.T) {
			s := newStore(t, tc.kind, powercut.New(uint64(tc.rounds), tc.names), uint64(tc.rounds))
			var lost powercut.Lost
			rounds := tc.rounds * times(t)
			for round := range rounds {
				lost.Add(s.cut(t, both[round%2]))
			}
			s.check(t)
			t.Logf("%d acknowledged writes, %d cuts: %v", s.acked.Load(), rounds, lost)
			if lost.Blocks == 0 || s.acked.Load() < int64(rounds) {
				t.Error("nothing was tried")
			}
		})
	}
}

// TestKills kills the datastore 200 times under load.
func TestKills(t *testing.T) {
	kills := 200 * times(t)
	s := newStore(t, "sqlite", nil, 3)
	for range kills {
		c := s.mustStart(t)
		s.verify(t, s.socket)
		s.loadUntil(t, c, nil, 20+s.rand.IntN(200))
		if t.Failed() {
			t.FailNow()
		}
	}
	s.check(t)
	t.Logf("%d acknowledged writes, %d kills", s.acked.Load(), kills)
}

// TestChanges cuts the power at steps of a start that changes the datastore into another: of what kine's own driver has left, as labk had it at first, and of the other kind.
func TestChanges(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		writers  int
		every    int // steps
		names    powercut.Names
	}{
		{"kine", "sqlite", 1, 5, powercut.ByFolder}, // one writer: with more, kine's answers have the revisions of others' changes
		{"sqlite", "etcd", writers, 40, powercut.ByFile},
		{"etcd", "sqlite", writers, 40, powercut.ByFile},
	} {
		t.Run(tc.from+" to "+tc.to, func(t *testing.T) {
			base := newStore(t, tc.from, powercut.New(5, powercut.ByFile), 5)
			base.writers = tc.writers
			c := base.mustStart(t)
			base.loadUntil(t, c, nil, 300)
			c = base.mustStart(t)
			base.adopt(t, base.socket)
			c.kill(t) // a part of it is in the log only
			base.disk.Cut(powercut.All)
			every := max(1, tc.every/times(t))
			for step, done := 1, false; !done; step += every {
				s := newStore(t, tc.to, base.disk.Copy(uint64(step), tc.names), uint64(step))
				s.history = base.history.copy()
				fails := s.disk.CutAt(step)
				c := s.start(t)
				done = c.awaitReady(t, fails)
				c.kill(t)
				s.disk.Cut(both[step%2])
				s.check(t)
				if t.Failed() {
					t.Fatalf("after a cut at step %d", step)
				}
				if done {
					t.Logf("cut at each %d. of %d steps", every, step)
				}
			}
		})
	}
}

// TestFaults lets the disk fail under load, without a restart: changes are refused with the reason and none is half made, reads go on, and all is well when the disk is.
func TestFaults(t *testing.T) {
	for _, tc := range []struct {
		fault syscall.Errno
		want  string
	}{
		{syscall.ENOSPC, "no space is left"},
		{syscall.EROFS, "read-only"},
		{syscall.EIO, "fails"},
	} {
		t.Run(tc.fault.Error(), func(t *testing.T) {
			s := newStore(t, "sqlite", powercut.New(8, powercut.ByFile), 8)
			c := s.mustStart(t)
			for range 5 {
				s.fault(t, tc.fault, tc.want)
				if t.Failed() {
					t.FailNow()
				}
			}
			c.kill(t)
			s.disk.Cut(powercut.All)
			s.check(t)
		})
	}
}

// fault lets the disk fail for a while.
func (s *store) fault(t *testing.T, fault syscall.Errno, want string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.load(t.Context(), t, s.socket, s.writers)
	}()
	for end := s.acked.Load() + int64(s.rand.IntN(600)); s.acked.Load() < end; time.Sleep(time.Millisecond) {
	}
	s.disk.Fail(fault)
	<-done // each writer was refused
	client := connect(t, s.socket)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := client.Put(ctx, prefix+"end", "refused"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a write: %v, want %q", err, want)
	}
	if all, err := client.Get(ctx, prefix, clientv3.WithPrefix()); err != nil || len(all.Kvs) == 0 {
		t.Errorf("a read: %v, %v", all, err)
	}
	s.disk.Fail(0)
	s.verify(t, s.socket)
}

// store is a datastore with its history.
type store struct {
	*history
	kind        string         // sqlite or etcd
	disk        *powercut.Disk // nil for a folder of the machine
	dir, socket string
	writers     int
}

func newStore(t *testing.T, kind string, disk *powercut.Disk, seed uint64) *store {
	return &store{newHistory(seed), kind, disk, t.TempDir(), filepath.Join(t.TempDir(), "datastore.sock"), writers}
}

func (s *store) start(t *testing.T) *child {
	t.Helper()
	if s.kind == "kine" {
		return start(t, s.disk, s.dir, "kine", s.dir, s.socket)
	}
	return start(t, s.disk, s.dir, "datastore", s.dir, s.socket, s.kind)
}

// mustStart returns when the datastore serves.
func (s *store) mustStart(t *testing.T) *child {
	t.Helper()
	c := s.start(t)
	if !c.awaitReady(t, nil) {
		t.Fatalf("the datastore does not start: %s", c.said())
	}
	return c
}

// cut is one start of the datastore and its end by a power cut.
func (s *store) cut(t *testing.T, loss powercut.Loss) powercut.Lost {
	t.Helper()
	var fails <-chan struct{}
	starting := s.rand.IntN(3) == 0
	if starting {
		fails = s.disk.CutAt(1 + s.rand.IntN(40))
	}
	c := s.start(t)
	switch up := c.awaitReady(t, fails); {
	case starting:
	case !up:
		t.Fatalf("the datastore does not start: %s", c.said())
	default:
		s.verify(t, s.socket)
		s.loadUntil(t, c, s.disk.CutAt(1+s.rand.IntN(2000)), 50+s.rand.IntN(1000))
	}
	c.kill(t)
	lost := s.disk.Cut(loss)
	if t.Failed() {
		t.FailNow()
	}
	return lost
}

// loadUntil writes until so many more writes are acknowledged or the power fails, and kills the datastore then.
func (s *store) loadUntil(t *testing.T, c *child, fails <-chan struct{}, more int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.load(ctx, t, s.socket, s.writers)
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := s.acked.Load() + int64(more); s.acked.Load() < end; {
		select {
		case <-tick.C:
			continue
		case <-fails:
		case <-done: // no writer has got an answer
		case <-c.ended:
		}
		break
	}
	c.kill(t)
	cancel()
	<-done
}

// check looks at what is left once more, and reads all of the file.
func (s *store) check(t *testing.T) {
	t.Helper()
	c := s.mustStart(t)
	s.verify(t, s.socket)
	c.stop(t)
	if s.kind != "sqlite" {
		return
	}
	c = start(t, s.disk, s.dir, "integrity", paths.Data(s.dir).Database())
	c.wait(t)
	if c.err != nil {
		t.Errorf("the file: %s", c.said())
	}
}

func checkIntegrity(_ <-chan struct{}, args ...string) error {
	db, err := sql.Open("sqlite", "file:"+args[0]+"?mode=ro")
	if err != nil {
		return err
	}
	defer db.Close()
	var result string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&result); err != nil || result != "ok" {
		return fmt.Errorf("integrity check: %s, %w", result, err)
	}
	return nil
}
