package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/pkg/paths"
)

// measureFleets measures what needs several hosts: agents, whole labs, and the network between nodes.
func measureFleets(ctx context.Context, o options, r *report) error {
	runs := o.runs
	if o.quick {
		runs = 1
	}
	fmt.Fprintln(os.Stderr, "bench: agents")
	err := withFleet(ctx, o, r, 1+runs, "vxlan", func(ctx context.Context, f *fleet) error { return f.measureAgents(ctx, runs, o.quick) })
	if err != nil {
		return fmt.Errorf("agents: %w", err)
	}
	if !o.quick {
		fmt.Fprintln(os.Stderr, "bench: host-gw")
		err := withFleet(ctx, o, r, 2, "host-gw", func(ctx context.Context, f *fleet) error { return f.measureHostGateway(ctx) })
		if err != nil {
			return fmt.Errorf("host-gw: %w", err)
		}
	}
	for i := range runs {
		fmt.Fprintf(os.Stderr, "bench: lab %d of %d\n", i+1, runs)
		if err := measureLab(ctx, o, r); err != nil {
			return fmt.Errorf("lab %d: %w", i+1, err)
		}
	}
	return nil
}

// fleet is a server in the first host of a lab, hosts for agents, and after them two hosts without labk for the bare path.
type fleet struct {
	*bench // the server's
	*started
	lab   *lab.Lab
	hosts int // without those of the bare path
}

// withFleet brings a lab up, starts a server with a network back end in it, and takes the lab down when do has ended. The context that do gets
// ends with the server.
func withFleet(ctx context.Context, o options, r *report, hosts int, backend string, do func(context.Context, *fleet) error) (err error) {
	l, err := lab.Up(ctx, lab.Options{Name: "bench", Subnet: "10.77.200.0/24", Hosts: hosts + 2, Opt: filepath.Dir(o.binary), OwnerBound: true})
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
	f := &fleet{lab: l, hosts: hosts}
	if f.bench, err = newBench(l.Host(1), r, inHosts(o.binary), filepath.Join(logs, "server")); err != nil {
		return err
	}
	ctx, s, err := f.launch(ctx, "--flannel-backend", backend)
	if err != nil {
		return err
	}
	defer s.end()
	f.started = s
	if _, err := f.waitNode(ctx, f.host.Name()); err != nil {
		return f.explain(err)
	}
	return f.explain(do(ctx, f))
}

// join starts an agent in a host, whose logs are beside the server's.
func (f *fleet) join(ctx context.Context, h *lab.Host) (*bench, *started, error) {
	b, err := newBench(h, f.report, f.program, f.log+"-"+h.Name())
	if err != nil {
		return nil, nil, err
	}
	file, err := f.host.Path(paths.Data(config.Default().DataDir).Token())
	if err != nil {
		return nil, nil, err
	}
	token, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	url := fmt.Sprintf("https://%s:%d", f.host.Addr(), config.Default().HTTPSListenPort)
	agent, err := start(ctx, h, b.meter, b.log, b.program, "agent", "--server", url, "--token", strings.TrimSpace(string(token)))
	if err != nil {
		return nil, nil, err
	}
	return b, &started{server: agent, observer: f.observer}, nil
}

// measureAgents joins agents one after the other, each while nothing else happens, and takes all but the last away again. That one idles, and then its
// pods talk to the server's.
func (f *fleet) measureAgents(ctx context.Context, agents int, quick bool) error {
	for i := range agents {
		h := f.lab.Host(2 + i)
		b, agent, err := f.measureAgent(ctx, h)
		if err != nil {
			return fmt.Errorf("agent %d: %w", i+1, err)
		}
		if i < agents-1 {
			if err := h.Kill(ctx); err != nil {
				return err
			}
			continue
		}
		if !quick {
			if err := b.measureIdle(ctx, agent.server, agentIdle); err != nil {
				return agent.explain(err)
			}
		}
		return f.measureThroughput(ctx, h, vxlan, quick)
	}
	return nil
}

// measureAgent starts an agent, for which a pod is waiting.
func (f *fleet) measureAgent(ctx context.Context, h *lab.Host) (*bench, *started, error) {
	if err := f.settle(ctx); err != nil {
		return nil, nil, err
	}
	if err := f.noteLoad(ctx); err != nil {
		return nil, nil, err
	}
	pod := "first-on-" + h.Name()
	if err := f.create(ctx, pod, h.Name()); err != nil {
		return nil, nil, err
	}
	b, agent, err := f.join(ctx, h)
	if err != nil {
		return nil, nil, err
	}
	err = all(
		func() error {
			return b.note(agent, rowAgentNode, func() (time.Time, error) { return f.waitNode(ctx, h.Name()) })
		},
		func() error {
			return b.note(agent, rowAgentPod, func() (time.Time, error) { return f.waitRunning(ctx, pod) })
		},
	)
	if err == nil {
		err = f.remove(ctx, pod)
	}
	return b, agent, agent.explain(err)
}

// measureHostGateway measures the network between the server and an agent.
func (f *fleet) measureHostGateway(ctx context.Context) error {
	h := f.lab.Host(2)
	_, agent, err := f.join(ctx, h)
	if err != nil {
		return err
	}
	if _, err := f.waitNode(ctx, h.Name()); err != nil {
		return agent.explain(err)
	}
	return f.measureThroughput(ctx, h, hostGateway, false)
}
