package status

import (
	"context"
	"net/http"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"
	nodeutil "k8s.io/kubernetes/pkg/util/node"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/version"
)

// Route is where a running labk answers with its Status.
const Route = "/status"

// Options are what a server or an agent tells of itself.
type Options struct {
	Host health.Host
	// Live is what the probes may ask of this process; Add adds what it knows itself.
	Live *health.Live
	// Found are the results of the probes before the start.
	Found []health.Result
	// Snapshots tells how a server's snapshots stand; nil on an agent.
	Snapshots func() *Snapshots
	// Client is this process's client of the API, an error for as long as it has no credentials.
	Client func() (kubernetes.Interface, error)
}

// Add puts the component "faults" into the group, and the route into the mux. It is called once a process, which has one registry of metrics.
func Add(g *lifecycle.Group, mux *http.ServeMux, o Options) error {
	o.Live.Slow = func() []string { return slow(g.Members(), time.Now()) }
	o.Host.Live = o.Live
	probes := health.Probes()
	metric, err := newGauge(probes, legacyregistry.Register)
	if err != nil {
		return err
	}
	var events sender
	if o.Host.Node() {
		events = &nodeEvents{node: o.Host.Config.NodeName, client: o.Client}
	}
	m := newMonitor(o.Host, probes, o.Found, metric, events)
	g.Add(m)
	began := time.Now()
	mux.HandleFunc("GET "+Route, func(w http.ResponseWriter, r *http.Request) {
		s := o.gather(r.Context(), g.Members(), m.now(r.Context()))
		s.Since = began
		control.WriteJSON(w, s, nil)
	})
	return nil
}

// slow names the components that have been starting for too long.
func slow(members []lifecycle.Member, now time.Time) (names []string) {
	for _, m := range members {
		if took := now.Sub(m.Since); m.State == lifecycle.Starting && took > health.StartLimit {
			names = append(names, m.Name+" for "+took.Round(time.Second).String())
		}
	}
	return names
}

// gather makes the status of this process.
func (o Options) gather(ctx context.Context, members []lifecycle.Member, found []health.Result) Status {
	h := o.Host
	s := atRest(h, found)
	s.State, s.Components = condense(members)
	s.Role, s.Version, s.PID, s.Node, s.Server = process.Role(h), version.Version, os.Getpid(), h.Config.NodeName, h.Config.Server
	if h.Live.Address.IsValid() {
		s.Address = h.Live.Address.String()
	}
	if o.Snapshots != nil {
		s.Snapshots = o.Snapshots()
	}
	nodes, err := o.nodes(ctx)
	if err != nil {
		s.NodesError = err.Error()
	}
	for _, n := range nodes {
		s.Nodes = append(s.Nodes, node(n))
	}
	return s
}

// condense makes one state of all components'.
func condense(members []lifecycle.Member) (State, []Component) {
	state := Up
	var all []Component
	for _, m := range members {
		c := Component{Name: m.Name, State: m.State, Since: m.Since, WaitsFor: m.WaitsFor}
		if m.Err != nil {
			c.Error = m.Err.Error()
		}
		all = append(all, c)
		switch m.State {
		case lifecycle.Waiting, lifecycle.Starting:
			if state == Up {
				state = Starting
			}
		case lifecycle.Failed, lifecycle.Stopping, lifecycle.Stopped:
			state = Stopping // one that ends takes all with it
		}
	}
	return state, all
}

// nodesLimit bounds the question for the nodes.
const nodesLimit = 5 * time.Second

// nodes asks the API: a server for all, an agent, which may see no other, for its own.
func (o Options) nodes(ctx context.Context) ([]corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, nodesLimit)
	defer cancel()
	client, err := o.Client()
	if err != nil {
		return nil, err
	}
	if o.Host.Server {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	}
	own, err := client.CoreV1().Nodes().Get(ctx, o.Host.Config.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return []corev1.Node{*own}, nil
}

func node(n corev1.Node) Node {
	out := Node{
		Name: n.Name, Ready: nodeutil.IsNodeReady(&n), Version: n.Status.NodeInfo.KubeletVersion, Cordoned: n.Spec.Unschedulable,
		Since: n.CreationTimestamp.Time,
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && out.Address == "" {
			out.Address = a.Address
		}
	}
	return out
}

// atRest is what the data folder tells.
func atRest(h health.Host, found []health.Result) Status {
	data := paths.Data(h.Config.DataDir)
	s := Status{State: Stopped, DataDir: string(data), Faults: []health.Result{}}
	for _, r := range found {
		if r.Status != health.Pass {
			s.Faults = append(s.Faults, r)
		}
	}
	for _, c := range health.Certificates(data) {
		s.Certificates = append(s.Certificates, Certificate{Name: c.Name, File: c.File, Until: c.Until})
	}
	s.Datastore = datastore(h)
	return s
}

// datastore is where it really is: a migration can fail.
func datastore(h health.Host) *Datastore {
	data := paths.Data(h.Config.DataDir)
	if h.Server && h.Config.DatastoreEndpoint != "" {
		return &Datastore{Kind: h.Config.DatastoreKind(), Place: h.Config.DatastorePlace()}
	}
	file, size := health.Database(data)
	switch {
	case size == 0:
		return nil
	case file == data.EtcdFile():
		return &Datastore{Kind: config.Etcd, File: file, Bytes: size}
	}
	return &Datastore{Kind: config.SQLite, File: file, Bytes: size}
}

// AtRest is the status where no labk runs: what the last run, if there was one, has left, and what the probes find now.
func AtRest(ctx context.Context, h health.Host, last *process.Record) Status {
	s := atRest(h, health.Run(ctx, h, health.Probes()))
	if s.Last = last; last != nil {
		s.Role, s.Version, s.Node = last.Role, last.Version, last.Node
	}
	return s
}
