package request

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
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
	return lifecycle.NewTask("upgrade-requests", (&follower{o}).run, nil)
}

type follower struct{ FollowOptions }

func (f *follower) run(ctx context.Context) error {
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
	if err := f.start(r); err != nil {
		return errors.Join(err, Report(ctx, client, f.Node, r, State{ID: r.ID, Outcome: Failed, Reason: err.Error()}))
	}
	return nil
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

// start starts the upgrade in a session of its own. What it prints goes where this process's errors go.
func (f *follower) start(r Request) error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", "upgrade", "--from", "server", "--request", r.String())
	cmd.Args[0] = program
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start `labk upgrade`: %w", err)
	}
	// Only so that no zombie stays if it ends before this process does, which it need not. It reports by itself.
	go func() { _ = cmd.Wait() }()
	return nil
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
