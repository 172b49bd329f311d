package snapshot

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/labk/labk/pkg/lifecycle"
)

const (
	// settle is for how long a server has been up before a snapshot that was missed is made: a start has enough to do.
	settle = 2 * time.Minute
	// lookEvery is how often it is asked whether one is due. It is no timer for the hour itself: a PC that sleeps, or whose clock is set, would miss that, or make many.
	lookEvery = time.Minute
	// tryAgain is the time after a failure.
	tryAgain = 10 * time.Minute
	// late is how long after its time a snapshot counts as overdue.
	late = time.Hour
)

// KeeperOptions of a Keeper.
type KeeperOptions struct {
	Folder Folder
	// Schedule is nil for none.
	Schedule cron.Schedule
	// Retention is how many snapshots of one reason are kept; those made by hand all are.
	Retention int
	// Cluster is the hash that the cluster's snapshots have. Those of others in the folder are left alone.
	Cluster func() (string, error)
	// Save makes one.
	Save func(ctx context.Context, reason Reason, prefix string, now time.Time) (Found, error)
	// Copy sees to it that another node has the newest, and is called often; nil for never.
	Copy func(ctx context.Context, newest Found) error
	// Say tells a person what happens: one line, as fmt.Sprintf.
	Say func(format string, args ...any)
	// Settle is for tests; 0 for what is usual.
	Settle time.Duration
}

// Keeper makes snapshots when their time has come, and when somebody wants one. It may be used concurrently.
type Keeper struct {
	*lifecycle.Task
	KeeperOptions
	now func() time.Time

	saving sync.Mutex    // held while one is made
	made   chan struct{} // has room for the news that there is another: its copy need not wait

	mu    sync.Mutex
	state State
}

// State is how snapshots stand.
type State struct {
	// Newest is nil if there is none.
	Newest *Found `json:"newest,omitempty"`
	// Next is when the next one is due by the schedule; zero without one.
	Next time.Time `json:"next,omitzero"`
	// Overdue tells that one should have been made for quite a while.
	Overdue bool `json:"overdue,omitempty"`
	// Error is why the last attempt failed; empty if it did not.
	Error string `json:"error,omitempty"`
	// CopyError is why no other node has the newest, although it should.
	CopyError string `json:"copyError,omitempty"`
}

// NewKeeper returns the component "snapshots".
func NewKeeper(o KeeperOptions) *Keeper {
	// Without the reading of the clock that never jumps: what is compared is what stands on the wall.
	k := &Keeper{KeeperOptions: o, now: func() time.Time { return time.Now().Round(0) }, made: make(chan struct{}, 1)}
	if k.Settle == 0 {
		k.Settle = settle
	}
	k.Task = lifecycle.NewTask("snapshots", k.run, nil)
	return k
}

// State tells how snapshots stand.
func (k *Keeper) State() State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

func (k *Keeper) change(do func(*State)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	do(&k.state)
}

// Make makes a snapshot now, and deletes those that are too many. One at a time: who comes second waits.
func (k *Keeper) Make(ctx context.Context, reason Reason, prefix string) (Found, error) {
	k.saving.Lock()
	defer k.saving.Unlock()
	found, err := k.Save(ctx, reason, prefix, k.now())
	if err == nil && reason != ByHand {
		err = k.Folder.Keep(reason, found.Cluster, k.Retention)
	}
	if ctx.Err() != nil { // labk stops
		return found, err
	}
	k.change(func(s *State) {
		s.Error = ""
		if err != nil {
			s.Error = err.Error()
		}
		if found.Name != "" {
			s.Newest = &found
		}
	})
	select {
	case k.made <- struct{}{}:
	default:
	}
	return found, err
}

func (k *Keeper) run(ctx context.Context) error {
	timer := time.NewTimer(k.Settle)
	defer timer.Stop()
	if err := k.look(); err != nil {
		k.Say("snapshots can't be looked at: %v", err)
	}
	plan := &planner{schedule: k.Schedule, base: k.lastScheduled()}
	k.change(func(s *State) { s.Next = later(plan.next(k.now()), k.now().Add(k.Settle)) })
	for {
		select {
		case <-timer.C:
			k.heed(ctx, plan)
			timer.Reset(lookEvery)
		case <-k.made:
		case <-ctx.Done():
			return nil
		}
		k.see(ctx)
	}
}

// heed makes a snapshot if one is due.
func (k *Keeper) heed(ctx context.Context, plan *planner) {
	if plan.due(k.now(), time.Now()) {
		_, err := k.Make(ctx, Scheduled, string(Scheduled))
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			k.Say("no snapshot could be made, which will be tried again: %v", err)
		}
		plan.done(k.now(), time.Now(), err == nil)
	}
	k.change(func(s *State) { s.Next, s.Overdue = later(plan.next(k.now()), k.now()), plan.overdue(time.Now()) })
}

// later is when one that is due is really made; zero stays zero.
func later(due, soonest time.Time) time.Time {
	if !due.IsZero() && due.Before(soonest) {
		return soonest
	}
	return due
}

// see looks which is the newest, and to its copy.
func (k *Keeper) see(ctx context.Context) {
	if err := k.look(); err != nil {
		k.Say("snapshots can't be looked at: %v", err)
	}
	newest := k.State().Newest
	if k.Copy == nil || newest == nil {
		return
	}
	err := k.Copy(ctx, *newest)
	if ctx.Err() != nil {
		return
	}
	k.change(func(s *State) {
		s.CopyError = ""
		if err != nil {
			s.CopyError = err.Error()
		}
	})
}

// look finds the newest that can be read.
func (k *Keeper) look() error {
	all, err := k.own()
	if err != nil {
		return err
	}
	k.change(func(s *State) {
		s.Newest = nil
		if len(all) > 0 {
			s.Newest = &all[0]
		}
	})
	return nil
}

// own are the cluster's snapshots that can be read, the newest first.
func (k *Keeper) own() ([]Found, error) {
	cluster, err := k.Cluster()
	if err != nil {
		return nil, err
	}
	all, err := k.Folder.List()
	return slices.DeleteFunc(all, func(s Found) bool { return s.Problem != "" || s.Cluster != cluster }), err
}

// lastScheduled is when the schedule was heeded last; zero for never.
func (k *Keeper) lastScheduled() time.Time {
	all, err := k.own()
	if err != nil {
		return time.Time{} // then one is due, and says what is wrong
	}
	for _, found := range all {
		if found.Reason == Scheduled {
			return found.Created
		}
	}
	return time.Time{}
}

// planner knows when a snapshot is due. Every moment comes twice, as what the clock on the wall says, which may jump, and with the time that really passes.
type planner struct {
	schedule cron.Schedule
	// base is the time on the wall from which the next one counts.
	base time.Time
	// failed is when the last attempt failed, since when one has been due: both of the time that passes, zero for never.
	failed, since time.Time
}

// next is when the next one is due; zero for never.
func (p *planner) next(wall time.Time) time.Time {
	if p.schedule == nil {
		return time.Time{}
	}
	if p.base.After(wall) { // the clock was set back, or was wrong then: what lies in the future counts as now
		p.base = wall
	}
	return p.schedule.Next(p.base.In(wall.Location()))
}

// due tells whether one is to be made now.
func (p *planner) due(wall, real time.Time) bool {
	next := p.next(wall)
	if next.IsZero() || next.After(wall) {
		p.since = time.Time{}
		return false
	}
	if p.since.IsZero() {
		p.since = real
	}
	return p.failed.IsZero() || real.Sub(p.failed) >= tryAgain
}

// done notes an attempt.
func (p *planner) done(wall, real time.Time, good bool) {
	if !good {
		p.failed = real
		return
	}
	p.base, p.failed, p.since = wall, time.Time{}, time.Time{}
}

// overdue tells that none could be made for a long time.
func (p *planner) overdue(real time.Time) bool {
	return !p.since.IsZero() && real.Sub(p.since) > late
}
