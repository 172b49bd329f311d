package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/labk/labk/pkg/lab"
)

// bench is what a run measures in one host: the labk that is started in it.
type bench struct {
	report  *report
	host    *lab.Host
	meter   *meter
	program string // in the host
	log     string
}

func newBench(h *lab.Host, r *report, program, log string) (*bench, error) {
	m, err := newMeter(h)
	return &bench{report: r, host: h, meter: m, program: program, log: log}, err
}

// inHosts is the program's path in a host that sees its folder.
func inHosts(binary string) string { return filepath.Join(lab.OptDir, filepath.Base(binary)) }

// measureRun brings a host up, measures a fresh start, a restart and a stop in it, and with full everything else too.
func measureRun(ctx context.Context, o options, r *report, full bool) (err error) {
	l, err := lab.Up(ctx, lab.Options{Name: "bench", Subnet: "10.77.200.0/24", Opt: filepath.Dir(o.binary), OwnerBound: true})
	if err != nil {
		return err
	}
	logs, err := os.MkdirTemp("", "labk-bench-")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, l.Down(context.WithoutCancel(ctx)), os.RemoveAll(logs))
	}()
	b, err := newBench(l.Host(1), r, inHosts(o.binary), filepath.Join(logs, "log"))
	if err != nil {
		return err
	}
	if err := b.begin(ctx, full, o.quick); err != nil {
		return err
	}
	return b.again(ctx)
}

// started is a running labk and a watch on its cluster.
type started struct {
	*server
	*observer
	end context.CancelFunc
}

// launch notes the machine's load and starts the server. The context ends with it.
func (b *bench) launch(ctx context.Context, args ...string) (context.Context, *started, error) {
	if err := b.noteLoad(ctx); err != nil {
		return ctx, nil, err
	}
	s, err := start(ctx, b.host, b.meter, b.log, append([]string{b.program, "server"}, args...)...)
	if err != nil {
		return ctx, nil, err
	}
	ctx, end := s.guard(ctx)
	client, err := s.client(ctx)
	if err != nil {
		end()
		return ctx, nil, s.explain(err)
	}
	return ctx, &started{server: s, observer: observe(ctx, client), end: end}, nil
}

// noteLoad takes two seconds.
func (b *bench) noteLoad(ctx context.Context) error {
	busy, err := measureLoad(ctx)
	b.report.Loads = append(b.report.Loads, busy)
	return err
}

// begin measures a start with a fresh data folder.
func (b *bench) begin(parent context.Context, full, quick bool) error {
	ctx, s, err := b.launch(parent)
	if err != nil {
		return err
	}
	defer s.end()
	err = all(
		func() error { return b.note(s, rowReadyz, func() (time.Time, error) { return s.waitReadyz(ctx) }) },
		func() error {
			return b.note(s, rowNode, func() (time.Time, error) { return s.waitNode(ctx, b.host.Name()) })
		},
		func() error { return b.firstPod(ctx, s, rowFirstPod, "first") },
		func() error { return b.note(s, rowDNS, func() (time.Time, error) { return b.waitDNS(ctx, s) }) },
	)
	if err == nil && full {
		err = b.measureLife(ctx, s, quick)
	}
	if err != nil {
		return s.explain(err)
	}
	return b.end(parent, s)
}

// again measures a start with the data folder as it is, and with the pods still running.
func (b *bench) again(parent context.Context) error {
	ctx, s, err := b.launch(parent)
	if err != nil {
		return err
	}
	defer s.end()
	err = all(
		func() error { return b.note(s, rowWarmReadyz, func() (time.Time, error) { return s.waitReadyz(ctx) }) },
		func() error { return b.firstPod(ctx, s, rowWarmPod, "second") },
	)
	if err != nil {
		return s.explain(err)
	}
	return b.end(parent, s)
}

// end stops labk once it has come to rest: stopping a start would be another figure.
func (b *bench) end(ctx context.Context, s *started) error {
	if err := s.settle(ctx); err != nil {
		return err
	}
	took, err := s.stop()
	b.report.add(rowStop, took)
	return err
}

// note waits for something and adds a row with when it happened.
func (b *bench) note(s *started, name string, wait func() (time.Time, error)) error {
	at, err := wait()
	if err != nil {
		return err
	}
	got, err := s.passed(at)
	b.report.add(name, got)
	return err
}

// firstPod creates a pod as early as that is possible and waits until it is Running.
func (b *bench) firstPod(ctx context.Context, s *started, name, pod string) error {
	if err := s.create(ctx, pod, b.host.Name()); err != nil {
		return err
	}
	at, err := s.waitRunning(ctx, pod)
	if err != nil {
		return err
	}
	got, err := s.passed(at)
	b.report.add(name, got)
	if name == rowFirstPod {
		b.report.add(rowStartCPU, sample{Value: got.CPU, Bench: got.Bench, Others: got.Others})
	}
	return err
}

// waitDNS returns when the cluster's DNS has answered a question from the host. Each question comes from another port: the
// kernel remembers where it sent the first packet from one.
func (b *bench) waitDNS(ctx context.Context, s *started) (time.Time, error) {
	if _, err := s.waitNode(ctx, b.host.Name()); err != nil { // before, nobody can answer
		return time.Time{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan time.Time, 1)
	for {
		go b.ask(ctx, answered)
		select {
		case at := <-answered:
			return at, nil
		case <-time.After(2 * poll):
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait until DNS answers: %w", context.Cause(ctx))
		}
	}
}

func (b *bench) ask(ctx context.Context, answered chan<- time.Time) {
	conn, err := b.host.Net().DialContext(ctx, "udp", "10.43.0.10:53")
	if err != nil {
		return
	}
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	question := new(dns.Msg).SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA)
	c := &dns.Conn{Conn: conn}
	if c.WriteMsg(question) != nil {
		return
	}
	answer, err := c.ReadMsg()
	if err != nil || answer.Rcode != dns.RcodeSuccess || len(answer.Answer) == 0 {
		return
	}
	select {
	case answered <- time.Now():
	default: // another was first
	}
}

// all runs the functions at once and joins their errors.
func all(functions ...func() error) error {
	errs := make([]error, len(functions))
	var wg sync.WaitGroup
	for i, f := range functions {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
