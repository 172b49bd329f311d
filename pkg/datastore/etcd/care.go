package etcd

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sys/unix"
)

// When the file is written anew. That takes about a second for each 100 MiB that live, and everybody waits meanwhile.
const (
	careInterval = time.Minute
	// spaceInterval is how often the disk is looked at: fast ones fill up in seconds.
	spaceInterval = 5 * time.Second
	// garbageAllowed is how many bytes may lie idle in the file: new writes fill them, and a file that shrinks and grows all the time helps nobody.
	garbageAllowed = 64 << 20
	// quickToWrite is how many live bytes are written anew while the API waits; with more, only at a start or when there is need.
	quickToWrite = 32 << 20
)

// Free bytes of the disk at which writes are refused, and taken again: etcd ends when a write fails, which would end the control plane.
const (
	diskFull  = 64 << 20
	diskAgain = 128 << 20
)

// takeCare looks after the file until ctx ends.
func (m *Member) takeCare(ctx context.Context) {
	tick := time.NewTicker(spaceInterval)
	defer tick.Stop()
	for tidied := time.Now(); ; {
		m.makeSpace(ctx)
		if time.Since(tidied) > careInterval {
			m.tidy(quickToWrite)
			tidied = time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// tidy writes the file anew when more than half of it is garbage, unless more than limit bytes live; 0 is no limit.
func (m *Member) tidy(limit int64) {
	file := m.etcd.Server.Backend()
	size, live := file.Size(), file.SizeInUse()
	if size-live < garbageAllowed || live > size/2 || limit > 0 && live > limit {
		return
	}
	if err := file.Defrag(); err != nil {
		m.logger.log.Error("etcd: write the file anew", "error", err)
	}
}

// makeSpace sees to it that etcd refuses writes, and goes on reading, while the disk is full, and takes them again when there is room; and that a file which has
// reached the quota loses all that does not live.
func (m *Member) makeSpace(ctx context.Context) {
	free, ok := m.free(m.opts.Dir)
	alarmed := m.alarmed()
	switch {
	case ok && free < diskFull && !alarmed:
		m.alarm(ctx, etcdserverpb.AlarmRequest_ACTIVATE)
	case alarmed && (!ok || free >= diskAgain):
		file := m.etcd.Server.Backend()
		if file.Size() > quota/10*9 {
			revision := m.etcd.Server.KV().Rev()
			if _, err := m.etcd.Server.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: revision, Physical: true}); err != nil {
				m.logger.log.Error("etcd: compact", "error", err)
			}
			m.tidy(0)
		}
		if file.Size() < quota/10*9 {
			m.alarm(ctx, etcdserverpb.AlarmRequest_DEACTIVATE)
		}
	}
}

func (m *Member) alarmed() bool {
	return slices.ContainsFunc(m.etcd.Server.Alarms(), func(a *etcdserverpb.AlarmMember) bool { return a.Alarm == etcdserverpb.AlarmType_NOSPACE })
}

// Room is an error while etcd takes no writes for want of room. It may be called between Start and Stop.
func (m *Member) Room() error {
	if !m.alarmed() {
		return nil
	}
	free, _ := m.free(m.opts.Dir)
	return fmt.Errorf("etcd takes no writes: %d MiB are free on its disk, and its file takes %d of %d MiB", free>>20, m.etcd.Server.Backend().Size()>>20, int64(quota)>>20)
}

func (m *Member) alarm(ctx context.Context, action etcdserverpb.AlarmRequest_AlarmAction) {
	_, err := m.etcd.Server.Alarm(ctx, &etcdserverpb.AlarmRequest{Action: action, Alarm: etcdserverpb.AlarmType_NOSPACE, MemberID: uint64(m.etcd.Server.MemberID())})
	if err != nil && ctx.Err() == nil {
		m.logger.log.Error("etcd: "+action.String()+" the alarm", "error", err)
	}
}

// freeBytes is what root may still write on the folder's disk.
func freeBytes(dir string) (free int64, ok bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, false
	}
	return int64(fs.Bfree) * fs.Bsize, true
}
