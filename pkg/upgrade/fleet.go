package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/kubectl/pkg/drain"
	nodeutil "k8s.io/kubernetes/pkg/util/node"

	"github.com/labk/labk/pkg/upgrade/request"
	"github.com/labk/labk/pkg/version"
)

// FleetOptions of an upgrade of all agents.
type FleetOptions struct {
	// Client is an administrator's.
	Client kubernetes.Interface
	// Version and SHA256 are of the program that the server runs and hands out.
	Version, SHA256 string
	// Own is the server's own node.
	Own string
	// Drain tells that pods are to be moved away from each PC first.
	Drain bool
	// Patience is how long one PC may take for each of drain and upgrade.
	Patience time.Duration
	// Say tells a person what happens: one line, as fmt.Sprintf.
	Say func(format string, args ...any)
}

// Fleet upgrades all agents that have another version than the server, one after another. With the first that fails it stops: that PC has gone back by itself and may have pods again. PCs that are off are
// left out, and are an error at the end.
func Fleet(ctx context.Context, o FleetOptions) error {
	nodes, err := o.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the nodes: %w", err)
	}
	todo, off := o.plan(nodes.Items)
	if len(todo) == 0 && len(off) == 0 {
		o.Say("every agent has %s", o.Version)
	}
	if o.Drain { // before the first PC is touched
		for _, name := range todo {
			if _, err := o.movable(ctx, name); err != nil {
				return err
			}
		}
	}
	for i, name := range todo {
		if err := o.upgrade(ctx, name); err != nil {
			return fmt.Errorf("%w; upgraded before: %s; not tried: %s", err, listed(todo[:i]), listed(append(todo[i+1:], off...)))
		}
		o.Say("%s: %s is up (%d of %d)", name, o.Version, i+1, len(todo))
	}
	if len(off) > 0 {
		return fmt.Errorf("left out, because they are not Ready: %s: run `labk upgrade --all` again when they are", listed(off))
	}
	return nil
}

// plan says which nodes are to be upgraded, in the order of their names, and which of those can't be because they are off.
func (o *FleetOptions) plan(nodes []corev1.Node) (todo, off []string) {
	for i := range nodes {
		n := &nodes[i]
		has := n.Status.NodeInfo.KubeletVersion
		if n.Name == o.Own || has == o.Version {
			continue
		}
		if order, err := version.Compare(has, o.Version); err == nil && order > 0 {
			o.Say("%s: left as it is, because its %s is newer", n.Name, has)
			continue
		}
		if nodeutil.IsNodeReady(n) {
			todo = append(todo, n.Name)
		} else {
			off = append(off, n.Name)
		}
	}
	slices.Sort(todo)
	slices.Sort(off)
	return todo, off
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// upgrade upgrades one PC.
func (o *FleetOptions) upgrade(ctx context.Context, name string) error {
	n, err := o.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("%s: look at the node: %w", name, err)
	}
	if o.Drain {
		if !n.Spec.Unschedulable { // one that was cordoned before stays so
			defer o.uncordon(context.WithoutCancel(ctx), name)
		}
		if err := o.drain(ctx, n); err != nil {
			return err
		}
	}
	r := request.Request{Version: o.Version, SHA256: o.SHA256, ID: strconv.FormatInt(time.Now().UnixNano(), 36)}
	o.Say("%s: upgrading from %s", name, n.Status.NodeInfo.KubeletVersion)
	if err := request.Ask(ctx, o.Client, name, r); err != nil {
		return fmt.Errorf("%s: ask for the upgrade: %w", name, err)
	}
	return o.await(ctx, name, r)
}

// drainer is kubectl's. It refuses pods that nobody would make anew, and those with data in emptyDir volumes.
func (o *FleetOptions) drainer(ctx context.Context) *drain.Helper {
	return &drain.Helper{
		Ctx: ctx, Client: o.Client, GracePeriodSeconds: -1, IgnoreAllDaemonSets: true, Timeout: o.Patience, Out: io.Discard, ErrOut: io.Discard,
	}
}

// movable lists the pods that a drain would move.
func (o *FleetOptions) movable(ctx context.Context, name string) (*drain.PodDeleteList, error) {
	list, errs := o.drainer(ctx).GetPodsForDeletion(name)
	if len(errs) > 0 {
		return nil, fmt.Errorf("%s can't be drained: %w: move those pods away, or use --drain=false: pods go on running through an upgrade", name, errors.Join(errs...))
	}
	return list, nil
}

func (o *FleetOptions) drain(ctx context.Context, n *corev1.Node) error {
	h := o.drainer(ctx)
	if err := drain.RunCordonOrUncordon(h, n, true); err != nil {
		return fmt.Errorf("%s: cordon: %w", n.Name, err)
	}
	list, err := o.movable(ctx, n.Name)
	if err != nil {
		return err
	}
	o.Say("%s: moving %d pods away", n.Name, len(list.Pods()))
	if err := h.DeleteOrEvictPods(list.Pods()); err != nil {
		return fmt.Errorf("%s: drain: %w", n.Name, err)
	}
	return nil
}

// uncordon lets pods come again, whatever happened: the PC runs the new program or the old one.
func (o *FleetOptions) uncordon(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	n, err := o.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		err = drain.RunCordonOrUncordon(o.drainer(ctx), n, false)
	}
	if err != nil {
		o.Say("%s: it stays cordoned: %v: run `labk kubectl uncordon %s`", name, err, name)
	}
}

// await waits until the PC says what has become of the request, and is Ready with the version.
func (o *FleetOptions) await(ctx context.Context, name string, r request.Request) error {
	// The PC fetches the program, and may try it for as long as that, and then the one before.
	limit := fetchLimit + 2*max(o.Patience, DefaultPatience)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not answer for %v", limit))
	defer cancel()
	list := cache.NewListWatchFromClient(o.Client.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector("metadata.name", name))
	_, err := watchtools.UntilWithSync(ctx, list, &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		n, ok := e.Object.(*corev1.Node)
		if !ok || e.Type == watch.Deleted {
			return false, errors.New("its Node was deleted")
		}
		s := request.StateOf(n)
		if s.ID != r.ID {
			return false, nil
		}
		if s.Outcome == request.Failed {
			return false, errors.New(s.Reason)
		}
		return s.Outcome == request.Done && nodeutil.IsNodeReady(n) && n.Status.NodeInfo.KubeletVersion == o.Version, nil
	})
	if err != nil {
		return fmt.Errorf("%s: the upgrade to %s failed: %w", name, o.Version, because(ctx, err))
	}
	return nil
}
