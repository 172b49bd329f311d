package request

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/lockfile"
	"github.com/labk/labk/pkg/paths"
)

// FollowOptions of a follower.
type FollowOptions struct {
	Data paths.Data
	// Kubeconfig is the node's.
	Kubeconfig, Node string
	// Version is this program's.
	Version string
	// Say tells a person what happens: one line, as fmt.Sprintf.
	Say func(format string, args ...any)
}

// NewFollower returns the component that sees what the server asks this PC for, and starts `labk upgrade` once for each request. That is a process of its own: it outlives the restart that it brings about.
func NewFollower(o FollowOptions) lifecycle.Component {
	return lifecycle.NewTask("upgrade-requests", (&follower{FollowOptions: o}).run, nil)
}

// betweenReports is the time between two tries to report.
const betweenReports = 2 * time.Second

type follower struct {
	FollowOptions
	watching sync.WaitGroup // of run
}

func (f *follower) run(ctx context.Context) error {
	defer f.watching.Wait()
	cfg, err := clientcmd.BuildConfigFromFlags("", f.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	own := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector("metadata.name", f.Node))
	see := func(o any) {
		n, ok := o.(*corev1.Node)
		if !ok {
			return
		}
		if err := f.see(ctx, client, n); err != nil {
			f.Say("the server asks for an upgrade: %v", err)
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: own, ObjectType: &corev1.Node{}, Transform: slim,
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(old, o any) {
			// The kubelet tells of itself every few minutes; only a new request matters.
			if a, ok := old.(*corev1.Node); ok && a.Annotations[Annotation] == o.(*corev1.Node).Annotations[Annotation] {
				return
			}
			see(o)
		}},
	})
	informer.RunWithContext(ctx)
	return nil
}

// slim keeps of a Node what the follower needs.
func slim(o any) (any, error) {
	if n, ok := o.(*corev1.Node); ok {
		small := &corev1.Node{}
		small.Name, small.ResourceVersion, small.Annotations = n.Name, n.ResourceVersion, n.Annotations
		return small, nil
	}
	return o, nil
}

func (f *follower) see(ctx context.Context, client kubernetes.Interface, n *corev1.Node) error {
	text := n.Annotations[Annotation]
	if text == "" {
		return nil
	}
	r, err := Parse(text)
	if err != nil {
		return err
	}
	if last, err := f.recall(); err != nil || last == r {
		return errors.Join(err, f.settle(ctx, client, n, r))
	}
	// Before the start: a request must never be followed twice, or a program that can't run here would be tried again and again.
	if err := f.remember(r); err != nil {
		return err
	}
	f.Say("the server asks this PC to upgrade to %s", r.Version)
	c, err := start(r)
	if err != nil {
		return errors.Join(err, Report(ctx, client, f.Node, r, State{ID: r.ID, Outcome: Failed, Reason: err.Error()}))
	}
	f.watching.Go(func() { f.watch(ctx, client, c, r) })
	return nil
}

// watch reports a failure that the child could not report by itself, as that of a PC on which labk was never installed. With this process it ends: the next one settles it.
func (f *follower) watch(ctx context.Context, client kubernetes.Interface, c *child, r Request) {
	failure := c.wait(ctx)
	if failure == nil {
		return
	}
	s := State{ID: r.ID, Outcome: Failed, Reason: failure.Error()}
	_ = wait.PollUntilContextCancel(ctx, betweenReports, true, func(ctx context.Context) (bool, error) {
		n, err := client.CoreV1().Nodes().Get(ctx, f.Node, metav1.GetOptions{})
		if err != nil {
			return false, nil
		}
		if said := StateOf(n); n.Annotations[Annotation] != r.String() || said.ID == r.ID && said.Final() {
			return true, nil
		}
		return Report(ctx, client, f.Node, r, s) == nil, nil
	})
}

// settle says what became of a request whose process is gone, as after a power cut: this program is the new one or is not.
func (f *follower) settle(ctx context.Context, client kubernetes.Interface, n *corev1.Node, r Request) error {
	if s := StateOf(n); s.ID == r.ID && s.Final() {
		return nil
	}
	if _, held, err := lockfile.Holder(paths.UpgradeLock); err != nil || held {
		return err // it is under way, and will say so itself
	}
	s := State{ID: r.ID, Outcome: Done}
	if f.Version != r.Version {
		s.Outcome, s.Reason = Failed, fmt.Sprintf("it was cut off, and %s runs: ask again", f.Version)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return Report(ctx, client, f.Node, r, s)
}

func (f *follower) recall() (r Request, err error) {
	data, err := os.ReadFile(f.Data.UpgradeRequest())
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read the last request: %w: remove %s", err, f.Data.UpgradeRequest())
	}
	return r, nil
}

func (f *follower) remember(r Request) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return paths.WriteFile(f.Data.UpgradeRequest(), append(data, '\n'), 0o600)
}
