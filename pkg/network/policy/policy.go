// Package policy enforces NetworkPolicies on the pods of this node. It watches the cluster, compiles what it sees into a Model and
// writes that into the kernel's packet filter, from where it works whether labk runs or not.
package policy

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/util/iptables"
	"sigs.k8s.io/knftables"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
)

const (
	// pause is between two writes: many changes at once become one.
	pause = 100 * time.Millisecond
	// retry is after something that failed.
	retry = 2 * time.Second
	// inspection is how often it is looked whether the rules are still there. Others may flush the whole packet filter.
	inspection = 30 * time.Second
)

// Modes of the packet filter.
const (
	modeNFTables = "nftables"
	modeIPTables = "iptables"
)

// Options of the enforcement.
type Options struct {
	// Config is read when the enforcement starts: an agent does not know the cluster's options before.
	Config *config.Config
	// Kubeconfig is the node's.
	Kubeconfig string
	// Mode is nftables or iptables.
	Mode string
	// CNIResults is the folder in which the CNI library notes results.
	CNIResults string
}

// writer makes the kernel do what a model says. It is used by one goroutine.
type writer interface {
	// Write is all or nothing. It leaves out what it knows to be there.
	Write(ctx context.Context, m *Model) error
	// Intact tells whether what was written is still there.
	Intact(ctx context.Context) bool
	// Forget makes the next Write write everything.
	Forget()
	// Remove removes everything that any run has written.
	Remove(ctx context.Context) error
}

// New returns the enforcement. It is ready at once: pods do not wait for it, see docs/networking.md. When it stops, or dies, the rules stay.
func New(o Options) lifecycle.Component {
	c := &controller{opts: o, kicks: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
	return lifecycle.NewTask("network-policy", c.run, nil)
}

type controller struct {
	opts  Options
	tasks sync.WaitGroup
	kicks chan struct{} // something has changed
	hurry chan struct{} // a pod of this node is about to start

	view      *view
	addresses *addresses
	writer    writer
	client    kubernetes.Interface
	failing   bool // the last sync failed
	kernel    state
}

// state is what this run has brought into the kernel.
type state int

const (
	unknown state = iota // perhaps rules of an earlier run
	clean                // no rules
	written
)

func (c *controller) run(ctx context.Context) error {
	var err error
	if c.writer, err = newWriter(c.opts.Mode); err != nil {
		return err
	}
	c.removeOthers(ctx)
	if c.opts.Config.DisableNetworkPolicy {
		if err := c.clean(ctx); err != nil {
			klog.ErrorS(err, "Network policies are disabled, but rules of an earlier run may still be there")
		}
		<-ctx.Done()
		return ctx.Err()
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", c.opts.Kubeconfig)
	if err != nil {
		return err
	}
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	if c.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	if c.view, err = newView(c.client, &c.tasks, func() { kick(c.kicks) }); err != nil {
		return err
	}
	c.addresses = newAddresses(c.opts.CNIResults, func() { kick(c.hurry); kick(c.kicks) })
	ctx, cancel := context.WithCancel(ctx)
	defer c.tasks.Wait()
	defer cancel()
	c.tasks.Go(func() {
		for ctx.Err() == nil {
			if err := c.addresses.run(ctx); err != nil { // a machine has only so many inotify instances
				klog.ErrorS(err, "Network policies learn of new pods from the API only")
			}
			select {
			case <-time.After(retry):
			case <-ctx.Done():
			}
		}
	})
	c.view.start(ctx)
	return c.loop(ctx)
}

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// loop writes after the first change at once, then at most once a pause, unless a pod is about to start.
func (c *controller) loop(ctx context.Context) error {
	kick(c.kicks)
	inspect := time.NewTicker(inspection)
	defer inspect.Stop()
	for {
		select {
		case <-c.kicks:
		case <-inspect.C:
			if c.kernel != written || c.writer.Intact(ctx) {
				continue
			}
			klog.InfoS("The rules of network policies were gone; writing them anew")
			c.writer.Forget()
		case <-ctx.Done():
			return ctx.Err()
		}
		select { // what is done now includes it
		case <-c.hurry:
		default:
		}
		wait := pause
		err := c.sync(ctx)
		if err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "Could not enforce network policies")
			wait = retry
			kick(c.kicks)
			if !c.failing {
				c.report(ctx, err)
			}
		}
		c.failing = err != nil
		select {
		case <-time.After(wait):
		case <-c.hurry:
		case <-ctx.Done():
		}
	}
}

// sync brings the packet filter up to date.
func (c *controller) sync(ctx context.Context) error {
	in, err := c.view.read(ctx)
	if err != nil {
		return err
	}
	if len(in.Policies) == 0 {
		return c.clean(ctx)
	}
	in.Node, in.Addresses = c.opts.Config.NodeName, c.addresses.all()
	model, err := Compile(in)
	if err != nil {
		klog.ErrorS(err, "Left out network policies that cannot be understood")
	}
	if err := c.writer.Write(ctx, model); err != nil {
		return err
	}
	c.kernel = written
	return nil
}

// report makes an event of this node of a failure, so that `kubectl describe node` shows it.
func (c *controller) report(ctx context.Context, failure error) {
	now := metav1.Now()
	node := v1.ObjectReference{Kind: "Node", Name: c.opts.Config.NodeName, UID: types.UID(c.opts.Config.NodeName)} // as the kubelet's events of a node
	_, err := c.client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, &v1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: c.opts.Config.NodeName + ".", Namespace: metav1.NamespaceDefault},
		InvolvedObject: node, Type: v1.EventTypeWarning, Reason: "NetworkPolicyNotEnforced",
		Message: fmt.Sprintf("changes of network policies are not in force on this node: %v", failure),
		Source:  v1.EventSource{Component: "labk", Host: c.opts.Config.NodeName}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		klog.ErrorS(err, "Could not report that network policies are not enforced")
	}
}

// clean removes all rules, also those of an earlier run.
func (c *controller) clean(ctx context.Context) error {
	if c.kernel == clean {
		return nil
	}
	if err := c.writer.Remove(ctx); err != nil {
		return fmt.Errorf("remove the rules of network policies: %w", err)
	}
	c.kernel = clean
	return nil
}

func newWriter(mode string) (writer, error) {
	if mode == modeIPTables {
		return newIPTablesWriter(iptables.New(iptables.ProtocolIPv4)), nil
	}
	nft, err := knftables.New(knftables.IPv4Family, nftTable)
	if err != nil {
		return nil, fmt.Errorf("enforce network policies by nftables: %w", err)
	}
	return newNFTWriter(nft), nil
}

// removeOthers removes the rules of an earlier run that used the other mode. Where there is no program for that, there were no rules.
func (c *controller) removeOthers(ctx context.Context) {
	other, program := modeIPTables, "iptables-save"
	if c.opts.Mode == modeIPTables {
		other, program = modeNFTables, "nft"
	}
	if _, err := exec.LookPath(program); err != nil {
		return
	}
	w, err := newWriter(other)
	if err == nil {
		err = w.Remove(ctx)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		klog.InfoS("Could not look for rules of network policies of an earlier run", "mode", other, "err", err)
	}
}
