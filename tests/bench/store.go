package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/pkg/lab"
)

const (
	loads       = 10   // in a row, on one server
	loadReads   = 3000 // gets after the updates of each load
	lists       = 40
	listObjects = 1200
)

// The rows of the datastore, all through the API.
const (
	rowCreate     = "create ConfigMaps of 512 B, 16 clients"
	rowCreateP50  = "  p50"
	rowCreateP99  = "  p99"
	rowUpdate     = "update them"
	rowUpdateP50  = "  p50 of updates"
	rowUpdateP99  = "  p99 of updates"
	rowDelete     = "delete them"
	rowDeleteP50  = "  p50 of deletions"
	rowDeleteP99  = "  p99 of deletions"
	rowTenth      = "tenth load of the first, creating"
	rowTenthOther = "  the same of updates and deletions, the worse"
	rowGet        = "get them"
	rowGetP99     = "  p99 of gets"
	rowList       = "list of 1200, p50"
	rowListGzip   = "  the same compressed, as client-go asks"
	rowAlone      = "without an agent: create"
	rowAloneP99   = "  p99 without an agent"
	rowAloneOther = "  update and delete without an agent, the slower"
	rowSyncs      = "fsyncs per second, idle"
	rowWrites     = "  writes to the datastore per second meanwhile"
	rowGrown      = "file after 100,000 updates of 100 objects"
	rowCompacted  = "  and one compaction"
	rowManyReadyz = "100,000 objects: start to /readyz"
	rowManyRSS    = "  RSS of labk's process"
	rowManyFile   = "  the datastore's files"
)

// storeRows has the figures of k3s v1.35 with SQLite on the machine that CI runs on; it does not put its writes on the disk before it acknowledges them.
func storeRows() []row {
	return []row{
		{Name: rowCreate, Unit: "/s", Goal: 1500, K3s: 820},
		{Name: rowCreateP50, Unit: "ms"},
		{Name: rowCreateP99, Unit: "ms", Goal: 40, K3s: 42},
		{Name: rowUpdate, Unit: "/s", Goal: 1500, K3s: 788},
		{Name: rowUpdateP50, Unit: "ms"},
		{Name: rowUpdateP99, Unit: "ms"},
		{Name: rowDelete, Unit: "/s", Goal: 1300, K3s: 487},
		{Name: rowDeleteP50, Unit: "ms"},
		{Name: rowDeleteP99, Unit: "ms"},
		{Name: rowTenth, Unit: "x", Goal: 0.9, K3s: 0.44}, // by the third
		{Name: rowTenthOther, Unit: "x"},
		{Name: rowGet, Unit: "/s", Goal: 2500, K3s: 1273},
		{Name: rowGetP99, Unit: "ms"},
		{Name: rowList, Unit: "ms", Goal: 12, K3s: 15.7},
		{Name: rowListGzip, Unit: "ms"},
		{Name: rowAlone, Unit: "/s"},
		{Name: rowAloneP99, Unit: "ms"},
		{Name: rowAloneOther, Unit: "/s"},
		{Name: rowSyncs, Unit: "/s", Goal: 1},
		{Name: rowWrites, Unit: "/s"},
		{Name: rowGrown, Unit: "MB"},
		{Name: rowCompacted, Unit: "MB", Goal: 20},
		{Name: rowManyReadyz, Unit: "s", Goal: 6},
		{Name: rowManyRSS, Unit: "MB"},
		{Name: rowManyFile, Unit: "MB"},
	}
}

// store measures the datastore of a running server.
type store struct {
	*started
	bench *bench
	args  []string
	all   *clients
}

// storeParts are what can be measured of the datastore, in this order.
const storeParts = "loads,idle,alone,many"

// measureStore measures the datastore through the API: of a server as it usually is, of one that runs no agent, and what many updates and many
// objects do to it.
func measureStore(ctx context.Context, o options, r *report) error {
	if o.quick {
		o.parts = "loads"
	}
	wanted := func(part string) bool { return slices.Contains(strings.Split(o.parts, ","), part) }
	plain := func(started context.Context, s *store) error {
		if wanted("loads") {
			if err := s.measureLoads(started, o.loads); err != nil {
				return err
			}
		}
		if o.profile != "" {
			if err := s.writeProfiles(started, o.profile); err != nil {
				return err
			}
		}
		if !wanted("idle") {
			return nil
		}
		return s.measureSyncs(started)
	}
	if wanted("loads") || wanted("idle") || o.profile != "" {
		fmt.Fprintln(os.Stderr, "bench: the datastore: loads and an idle minute")
		if err := withStore(ctx, o, r, nil, plain); err != nil {
			return err
		}
	}
	if wanted("alone") {
		fmt.Fprintln(os.Stderr, "bench: the datastore of a server without an agent")
		args := []string{"--disable-agent", "--disable=coredns"}
		if err := withStore(ctx, o, r, args, func(started context.Context, s *store) error { return s.measureAlone(started) }); err != nil {
			return err
		}
	}
	if !wanted("many") {
		return nil
	}
	fmt.Fprintln(os.Stderr, "bench: many updates, many objects")
	return withStore(ctx, o, r, nil, func(started context.Context, s *store) error { return s.measureMany(ctx, started) })
}

// withStore starts a server in a new host and lets do measure it. The context that do gets ends with the server.
func withStore(ctx context.Context, o options, r *report, args []string, do func(context.Context, *store) error) (err error) {
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
	s := &store{bench: b, args: append(strings.Fields(o.server), args...)}
	ctx, err = s.up(ctx)
	if err != nil {
		return err
	}
	defer func() { s.end() }() // of the last server
	_, err = s.observer.client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: loadNamespace}}, metav1.CreateOptions{})
	if err != nil {
		return s.explain(err)
	}
	return s.explain(do(ctx, s))
}

// loadNamespace is where all objects are made.
const loadNamespace = "bench"

// up starts the server, waits until its start has come to rest, and connects the clients.
func (s *store) up(ctx context.Context) (context.Context, error) {
	ctx, started, err := s.bench.launch(ctx, s.args...)
	if err != nil {
		return ctx, err
	}
	s.started = started
	if _, err := s.waitReadyz(ctx); err != nil {
		return ctx, s.explain(err)
	}
	if err := s.settle(ctx); err != nil {
		return ctx, err
	}
	cfg, err := s.config(ctx)
	if err != nil {
		return ctx, err
	}
	s.all, err = newClients(ctx, s.host, cfg, loadNamespace)
	return ctx, s.explain(err)
}
