package status

import (
	"context"
	"sync"
	"time"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/lifecycle"
)

// sender tells of faults that appear and go, in order. It is called by one goroutine at a time.
type sender interface {
	tell(change)
	// flush sends what has not been sent yet; what cannot be sent is kept for the next time.
	flush(ctx context.Context)
}

// change is a fault that has appeared, become another severity, or gone.
type change struct {
	health.Result
	at time.Time
}

// monitor looks, for as long as labk runs, for what health knows can be wrong: at each probe's own interval, and when it is asked to.
type monitor struct {
	*lifecycle.Task
	host   health.Host
	probes []health.Probe
	gauge  *gauge
	events sender

	// looking is held for a round: one at a time.
	looking sync.Mutex
	due     []time.Time // when each probe is due, zero for never again

	mu      sync.Mutex
	results []health.Result // one a probe
}

// newMonitor returns the component "faults". found are the results of the probes before the start; events may be nil.
func newMonitor(host health.Host, probes []health.Probe, found []health.Result, g *gauge, events sender) *monitor {
	host.Starting = false
	m := &monitor{host: host, probes: probes, gauge: g, events: events, due: make([]time.Time, len(probes))}
	m.Task = lifecycle.NewTask("faults", m.run, nil)
	m.accept(found, time.Now())
	for i, p := range probes {
		if p.Again() > 0 {
			m.due[i] = time.Now().Add(p.Again())
		}
	}
	return m
}

func (m *monitor) run(ctx context.Context) error {
	tick := time.NewTicker(health.Often)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.look(ctx, isDue)
		case <-ctx.Done():
			return nil
		}
	}
}

// isDue tells whether a probe is to be run at this tick: it is due, or nearer to this tick than to the next.
func isDue(_ health.Probe, due time.Time) bool { return time.Until(due) < health.Often/2 }

// now looks at what is looked at often, whether it is due or not, and returns all that is known. What was put off because it did not answer waits.
func (m *monitor) now(ctx context.Context) []health.Result {
	m.look(ctx, func(p health.Probe, due time.Time) bool {
		return p.Again() == health.Often && time.Until(due) <= health.Often
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]health.Result(nil), m.results...)
}

// look runs the probes that are wanted and can have another answer now.
func (m *monitor) look(ctx context.Context, wanted func(health.Probe, time.Time) bool) {
	m.looking.Lock()
	defer m.looking.Unlock()
	var probes []health.Probe
	var which []int
	for i, p := range m.probes {
		if !m.due[i].IsZero() && wanted(p, m.due[i]) {
			probes, which = append(probes, p), append(which, i)
		}
	}
	host := m.host
	host.Now = time.Now()
	found := health.Run(ctx, host, probes)
	if ctx.Err() != nil {
		return // the probes were not given the time to answer
	}
	for n, i := range which {
		again := m.probes[i].Again()
		if found[n].Late {
			again = health.Seldom // each look leaves a goroutine behind
		}
		m.due[i] = host.Now.Add(again)
	}
	m.accept(found, host.Now)
	if m.events != nil {
		m.events.flush(ctx)
	}
}

// accept takes results in and tells of what has changed.
func (m *monitor) accept(found []health.Result, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.results == nil {
		m.results = make([]health.Result, len(m.probes))
		for i, p := range m.probes {
			m.results[i] = health.Result{Code: p.Code, Title: p.Title, Status: health.Pass, Detail: "not looked at yet"}
		}
	}
	for _, r := range found {
		for i := range m.results {
			if m.results[i].Code != r.Code {
				continue
			}
			if m.results[i].Status != r.Status && m.events != nil {
				m.events.tell(change{Result: r, at: at})
			}
			m.results[i] = r
			m.gauge.set(r)
		}
	}
}
