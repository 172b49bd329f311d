package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// The annotations in which flannel's nodes tell each other where their subnets are; names as in flannel's own daemon.
const (
	annotationBackendData = "flannel.alpha.coreos.com/backend-data"
	annotationBackendType = "flannel.alpha.coreos.com/backend-type"
	annotationPublicIP    = "flannel.alpha.coreos.com/public-ip"
	annotationManaged     = "flannel.alpha.coreos.com/kube-subnet-manager"
)

var errUnused = errors.New("not used with Node objects")

// leases is flannel's subnet.Manager over Node objects. Unlike the one in flannel it is driven by events alone: flannel's asks once a
// second and once in three, which is most of the time in which this node becomes ready.
type leases struct {
	client kubernetes.Interface
	node   string
	conf   *subnet.Config
	nodes  cache.SharedIndexInformer

	mu      sync.Mutex
	own     *v1.Node      // as last seen
	changed chan struct{} // closed and renewed when own changes
	events  chan lease.Event
}

func newLeases(client kubernetes.Interface, node string, conf *subnet.Config) *leases {
	l := &leases{client: client, node: node, conf: conf, changed: make(chan struct{}), events: make(chan lease.Event, 256)}
	l.nodes = informers.NewSharedInformerFactory(client, 0).Core().V1().Nodes().Informer()
	return l
}

// run watches Node objects until ctx ends.
func (l *leases) run(ctx context.Context) {
	l.nodes.SetTransform(func(o any) (any, error) {
		if n, ok := o.(*v1.Node); ok { // images and conditions are most of a Node, and of no use here
			return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Annotations: n.Annotations}, Spec: n.Spec}, nil
		}
		return o, nil
	})
	l.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { l.seen(ctx, nil, o.(*v1.Node)) },
		UpdateFunc: func(old, o any) { l.seen(ctx, old.(*v1.Node), o.(*v1.Node)) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if n, ok := o.(*v1.Node); ok {
				l.send(ctx, lease.EventRemoved, n)
			}
		},
	})
	l.nodes.Run(ctx.Done())
}

func (l *leases) seen(ctx context.Context, old, n *v1.Node) {
	if n.Name == l.node {
		l.mu.Lock()
		l.own = n
		close(l.changed)
		l.changed = make(chan struct{})
		l.mu.Unlock()
		return
	}
	if old != nil && sameLease(old, n) {
		return
	}
	l.send(ctx, lease.EventAdded, n)
}

func sameLease(a, b *v1.Node) bool {
	for _, key := range []string{annotationBackendData, annotationBackendType, annotationPublicIP, annotationManaged} {
		if a.Annotations[key] != b.Annotations[key] {
			return false
		}
	}
	return a.Spec.PodCIDR == b.Spec.PodCIDR
}

func (l *leases) send(ctx context.Context, t lease.EventType, n *v1.Node) {
	le, err := toLease(n)
	if err != nil || n.Annotations[annotationManaged] != "true" {
		return // not a member of the network yet; its next change tells
	}
	select {
	case l.events <- lease.Event{Type: t, Lease: le}:
	case <-ctx.Done():
	}
}

func toLease(n *v1.Node) (lease.Lease, error) {
	_, cidr, err := net.ParseCIDR(n.Spec.PodCIDR)
	if err != nil {
		return lease.Lease{}, fmt.Errorf("node %s has no pod subnet: %w", n.Name, err)
	}
	public, err := ip.ParseIP4(n.Annotations[annotationPublicIP])
	if err != nil {
		return lease.Lease{}, fmt.Errorf("node %s tells no address: %w", n.Name, err)
	}
	return lease.Lease{EnableIPv4: true, Subnet: ip.FromIPNet(cidr), Attrs: lease.LeaseAttrs{
		PublicIP:    public,
		BackendType: n.Annotations[annotationBackendType],
		BackendData: json.RawMessage(n.Annotations[annotationBackendData]),
	}}, nil
}

// ownNode waits until this node's object is there and has a subnet.
func (l *leases) ownNode(ctx context.Context) (*v1.Node, error) {
	for {
		l.mu.Lock()
		n, changed := l.own, l.changed
		l.mu.Unlock()
		if n != nil && n.Spec.PodCIDR != "" {
			return n, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// AcquireLease implements subnet.Manager: it waits for this node's subnet and tells the others where it is.
func (l *leases) AcquireLease(ctx context.Context, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	n, err := l.ownNode(ctx)
	if err != nil {
		return nil, err
	}
	_, cidr, err := net.ParseCIDR(n.Spec.PodCIDR)
	if err != nil {
		return nil, err
	}
	if !l.conf.Network.Contains(ip.FromIP(cidr.IP)) {
		return nil, fmt.Errorf("node %s has the pod subnet %s of another cluster-cidr, this cluster's is %s: delete the Node and start again", l.node, cidr, l.conf.Network)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		annotationBackendData: string(attrs.BackendData),
		annotationBackendType: attrs.BackendType,
		annotationPublicIP:    attrs.PublicIP.String(),
		annotationManaged:     "true",
	}}})
	if err != nil {
		return nil, err
	}
	if _, err := l.client.CoreV1().Nodes().Patch(ctx, l.node, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return nil, fmt.Errorf("announce this node's subnet: %w", err)
	}
	return &lease.Lease{EnableIPv4: true, Subnet: ip.FromIPNet(cidr), Attrs: *attrs}, nil
}

// WatchLeases implements subnet.Manager.
func (l *leases) WatchLeases(ctx context.Context, receiver chan []lease.LeaseWatchResult) error {
	defer close(receiver)
	for {
		select {
		case e := <-l.events:
			select {
			case receiver <- []lease.LeaseWatchResult{{Events: []lease.Event{e}}}:
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// GetStoredMacAddresses implements subnet.Manager: the address that this node's tunnel had before, so that the others need not learn a new one.
func (l *leases) GetStoredMacAddresses(ctx context.Context) (string, string) {
	n, err := l.ownNode(ctx)
	if err != nil {
		return "", ""
	}
	var data struct{ VtepMAC string }
	if json.Unmarshal([]byte(n.Annotations[annotationBackendData]), &data) != nil {
		return "", ""
	}
	return data.VtepMAC, ""
}

// The rest of subnet.Manager.

func (l *leases) Name() string                                             { return "nodes" }
func (l *leases) GetNetworkConfig(context.Context) (*subnet.Config, error) { return l.conf, nil }
func (l *leases) GetStoredPublicIP(context.Context) (string, string)       { return "", "" }
func (l *leases) RenewLease(context.Context, *lease.Lease) error           { return errUnused }
func (l *leases) CompleteLease(context.Context, *lease.Lease, *sync.WaitGroup) error {
	return nil
}
func (l *leases) WatchLease(context.Context, ip.IP4Net, ip.IP6Net, chan []lease.LeaseWatchResult) error {
	return errUnused
}
func (l *leases) HandleSubnetFile(string, *subnet.Config, bool, ip.IP4Net, ip.IP6Net, int) error {
	return errUnused
}
