package main

import (
	"context"
	"fmt"
	"time"
)

const (
	settledPods = 10 // one after the other
	burstPods   = 20 // at once
	idleBefore  = 2 * time.Minute
	idleFor     = time.Minute
)

// measureLife measures a cluster that has been started: idling first, before anything was done with it, then with pods.
func (b *bench) measureLife(ctx context.Context, s *started, quick bool) error {
	if err := s.remove(ctx, "first"); err != nil {
		return err
	}
	if !quick {
		if err := b.measureIdle(ctx, s.server, serverIdle); err != nil {
			return err
		}
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	for i := range settledPods {
		if err := b.measurePods(ctx, s, rowPod, fmt.Sprintf("settled-%d", i)); err != nil {
			return err
		}
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	var names []string
	for i := range burstPods {
		names = append(names, fmt.Sprintf("burst-%d", i))
	}
	return b.measurePods(ctx, s, rowTwenty, names...)
}

// idleRows are the rows that idling fills.
type idleRows struct{ cpu, rss, pss, anon, process string }

var (
	serverIdle = idleRows{rowIdleCPU, rowIdleRSS, rowIdlePSS, rowIdleAnon, rowIdleProcess}
	agentIdle  = idleRows{rowAgentCPU, rowAgentRSS, rowAgentPSS, rowAgentAnon, rowAgentProcess}
)

func (b *bench) measureIdle(ctx context.Context, s *server, rows idleRows) error {
	if err := pause(ctx, idleBefore); err != nil {
		return err
	}
	before, err := b.meter.read()
	if err != nil {
		return err
	}
	if err := pause(ctx, idleFor); err != nil {
		return err
	}
	after, err := b.meter.read()
	if err != nil {
		return err
	}
	used := after.since(before, 0)
	used.Value = used.CPU / idleFor.Seconds() * 100
	b.report.add(rows.cpu, used)
	sum, err := b.meter.memory(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	b.report.add(rows.rss, sample{Value: sum.rss})
	b.report.add(rows.pss, sample{Value: sum.pss})
	b.report.add(rows.anon, sample{Value: sum.anon})
	b.report.add(rows.process, sample{Value: sum.labk})
	return nil
}

// measurePods creates the pods at once, adds a row with the time until the last of them was Running, and deletes them.
func (b *bench) measurePods(ctx context.Context, s *started, row string, names ...string) error {
	before, err := b.meter.read()
	if err != nil {
		return err
	}
	began := time.Now()
	creations := make([]func() error, len(names))
	for i, name := range names {
		creations[i] = func() error { return s.create(ctx, name, b.host.Name()) }
	}
	if err := all(creations...); err != nil {
		return err
	}
	at, err := s.waitRunning(ctx, names...)
	if err != nil {
		return err
	}
	after, err := b.meter.read()
	if err != nil {
		return err
	}
	b.report.add(row, after.since(before, at.Sub(began).Seconds()))
	return s.remove(ctx, names...)
}
