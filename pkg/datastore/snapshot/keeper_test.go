package snapshot

import (
	"testing"
	"time"

	"github.com/robfig/cron/v3"
)

// A day in the life of the planner: each step lets time pass on the wall and really, looks, and says whether a snapshot is due. One that is due is made.
func TestPlanner(t *testing.T) {
	type step struct {
		wall, real time.Duration // since the step before
		due        bool
		fails      bool
	}
	noon := time.Date(2026, 11, 23, 12, 0, 0, 0, time.Local)
	minute, hour, day := time.Minute, time.Hour, 24*time.Hour
	for name, tc := range map[string]struct {
		base  time.Time
		steps []step
	}{
		"a new cluster":       {time.Time{}, []step{{0, 0, true, false}, {minute, minute, false, false}, {12 * hour, 12 * hour, true, false}}},
		"at its time":         {noon, []step{{minute, minute, false, false}, {11*hour + 58*minute, 11*hour + 58*minute, false, false}, {minute, minute, true, false}, {minute, minute, false, false}}},
		"off over night":      {noon.Add(-12 * hour), []step{{9 * hour, 0, true, false}, {minute, minute, false, false}}},
		"off for a month":     {noon.Add(-30 * day), []step{{0, 0, true, false}, {minute, minute, false, false}, {hour, hour, false, false}}},
		"clock a year ahead":  {noon, []step{{365 * day, minute, true, false}, {minute, minute, false, false}, {minute, minute, false, false}}},
		"clock a year behind": {noon, []step{{-365 * day, minute, false, false}, {11 * hour, 11 * hour, false, false}, {hour, hour, true, false}, {minute, minute, false, false}}},
		"ahead and back again": {noon, []step{
			{365 * day, minute, true, false}, {-365 * day, minute, false, false}, {6 * hour, 6 * hour, false, false}, {6 * hour, 6 * hour, true, false}, {minute, minute, false, false},
		}},
		"a failure": {noon, []step{
			{12 * hour, 12 * hour, true, true}, {minute, minute, false, false}, {8 * minute, 8 * minute, false, false}, {minute, minute, true, false}, {minute, minute, false, false},
		}},
		"a failure, and a clock that jumps": {noon, []step{{12 * hour, 12 * hour, true, true}, {365 * day, minute, false, false}, {minute, 9 * minute, true, false}}},
	} {
		t.Run(name, func(t *testing.T) {
			schedule, err := cron.ParseStandard("0 */12 * * *")
			if err != nil {
				t.Fatal(err)
			}
			p := &planner{schedule: schedule, base: tc.base}
			wall, real := noon, time.Now()
			for i, s := range tc.steps {
				wall, real = wall.Add(s.wall), real.Add(s.real)
				got := p.due(wall, real)
				if got != s.due {
					t.Errorf("step %d, at %v: due is %v", i, wall, got)
				}
				if got {
					p.done(wall, real, !s.fails)
				}
			}
		})
	}
}

// It is overdue when none could be made for long, not when the PC was off for long.
func TestOverdue(t *testing.T) {
	schedule, err := cron.ParseStandard("@every 1h")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	p := &planner{schedule: schedule, base: now.Add(-100 * time.Hour)}
	if !p.due(now, now) || p.overdue(now) {
		t.Error("overdue at once")
	}
	p.done(now, now, false)
	later := now.Add(2 * time.Hour)
	if !p.due(later, later) || !p.overdue(later) {
		t.Error("not overdue after two hours of failures")
	}
	p.done(later, later, true)
	if p.due(later, later) || p.overdue(later) {
		t.Error("overdue after one was made")
	}
}

// What is due is made soon, not when it should have been made.
func TestLater(t *testing.T) {
	now := time.Now()
	for name, tc := range map[string]struct{ due, want time.Time }{
		"never": {}, "long ago": {time.Time{}.Add(12 * time.Hour), now}, "tomorrow": {now.AddDate(0, 0, 1), now.AddDate(0, 0, 1)},
	} {
		if got := later(tc.due, now); !got.Equal(tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
