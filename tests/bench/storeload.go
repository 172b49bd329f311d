package main

import (
	"context"
	"fmt"
	"time"
)

// step is what all clients do count times; its rows may be empty.
type step struct {
	name          string
	count         int
	do            func(c *caller, i int) error
	row, p50, p99 string
}

// steps are the parts of a load.
func (m *configMaps) steps() []step {
	n := len(m.made)
	return []step{
		{"create", n, m.create, rowCreate, rowCreateP50, rowCreateP99},
		{"update", n, m.update, rowUpdate, rowUpdateP50, rowUpdateP99},
		{"get", loadReads, m.read, rowGet, "", rowGetP99},
		{"delete", n, m.delete, rowDelete, rowDeleteP50, rowDeleteP99},
	}
}

// measureLoads makes, updates, reads and deletes 1000 ConfigMaps, so many times in a row, and lists 1200.
func (s *store) measureLoads(ctx context.Context, loads int) error {
	var first, last map[string]outcome
	for i := range loads {
		got, err := s.load(ctx, s.all.maps(fmt.Sprintf("load-%d", i), loadObjects).steps())
		if err != nil {
			return fmt.Errorf("load %d: %w", i+1, err)
		}
		if i == 0 {
			first = got
		}
		last = got
	}
	kept := func(name string) float64 { return last[name].perSecond / first[name].perSecond }
	s.bench.report.add(rowTenth, sample{Value: kept("create")})
	s.bench.report.add(rowTenthOther, sample{Value: min(kept("update"), kept("delete"))})
	return s.measureLists(ctx)
}

// load takes the steps and notes what came of each.
func (s *store) load(ctx context.Context, steps []step) (map[string]outcome, error) {
	got := map[string]outcome{}
	for _, p := range steps {
		before, err := s.meter.read()
		if err != nil {
			return nil, err
		}
		out, err := s.all.each(ctx, p.count, p.do)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		after, err := s.meter.read()
		if err != nil {
			return nil, err
		}
		got[p.name] = out
		if p.row != "" {
			s.bench.report.add(p.row, after.since(before, out.perSecond))
		}
		if p.p50 != "" {
			s.bench.report.add(p.p50, sample{Value: out.share(0.5)})
		}
		if p.p99 != "" {
			s.bench.report.add(p.p99, sample{Value: out.share(0.99)})
		}
	}
	return got, nil
}

// measureLists lists 1200 ConfigMaps, one list after the other.
func (s *store) measureLists(ctx context.Context) error {
	m := s.all.maps("list", listObjects)
	if _, err := s.all.each(ctx, listObjects, m.create); err != nil {
		return err
	}
	if err := m.checkList(s.all.callers[0]); err != nil {
		return err
	}
	for row, encoding := range map[string]string{rowList: "", rowListGzip: gzipped} {
		before, err := s.meter.read()
		if err != nil {
			return err
		}
		out, err := s.all.one().each(ctx, lists, func(c *caller, _ int) error { return c.list(s.all.folder, encoding) })
		if err != nil {
			return err
		}
		after, err := s.meter.read()
		if err != nil {
			return err
		}
		s.bench.report.add(row, after.since(before, out.share(0.5)))
	}
	_, err := s.all.each(ctx, listObjects, m.delete)
	return err
}

// measureAlone is a load with less: a few times, after one that is not counted.
func (s *store) measureAlone(ctx context.Context) error {
	for i := range 4 {
		m := s.all.maps(fmt.Sprintf("alone-%d", i), loadObjects)
		steps := []step{{name: "create", count: loadObjects, do: m.create}, {name: "update", count: loadObjects, do: m.update}, {name: "delete", count: loadObjects, do: m.delete}}
		got, err := s.load(ctx, steps)
		if err != nil {
			return err
		}
		if i > 0 {
			s.bench.report.add(rowAlone, sample{Value: got["create"].perSecond})
			s.bench.report.add(rowAloneP99, sample{Value: got["create"].share(0.99)})
			s.bench.report.add(rowAloneOther, sample{Value: min(got["update"].perSecond, got["delete"].perSecond)})
		}
	}
	return nil
}

// lull is how long the server is left alone before something that should not meet what came before.
const lull = 20 * time.Second
