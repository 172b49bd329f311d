package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// image comes with labk: a small web server.
const image = "docker.io/labk/hello:1"

// observer remembers when things were first seen to happen. Its methods may be called concurrently.
type observer struct {
	client kubernetes.Interface

	mu      sync.Mutex
	nodes   map[string]time.Time // Ready, by name
	account time.Time            // the default service account is there
	running map[string]time.Time // by the pod's name
	there   map[string]bool      // pods
	changed chan struct{}        // closed and replaced with each change
}

// observe watches nodes, pods and the service account of the namespace default until ctx ends. The API need not be up yet.
func observe(ctx context.Context, client kubernetes.Interface) *observer {
	o := &observer{client: client, nodes: map[string]time.Time{}, running: map[string]time.Time{}, there: map[string]bool{}, changed: make(chan struct{})}
	core := client.CoreV1()
	go o.follow(ctx, func(opts metav1.ListOptions) (runtime.Object, error) { return core.Nodes().List(ctx, opts) },
		func(opts metav1.ListOptions) (watch.Interface, error) { return core.Nodes().Watch(ctx, opts) })
	go o.follow(ctx, func(opts metav1.ListOptions) (runtime.Object, error) { return core.Pods("default").List(ctx, opts) },
		func(opts metav1.ListOptions) (watch.Interface, error) { return core.Pods("default").Watch(ctx, opts) })
	go o.follow(ctx, func(opts metav1.ListOptions) (runtime.Object, error) {
		return core.ServiceAccounts("default").List(ctx, opts)
	},
		func(opts metav1.ListOptions) (watch.Interface, error) {
			return core.ServiceAccounts("default").Watch(ctx, opts)
		})
	return o
}

func (o *observer) follow(ctx context.Context, list func(metav1.ListOptions) (runtime.Object, error), see func(metav1.ListOptions) (watch.Interface, error)) {
	for ctx.Err() == nil {
		if all, err := list(metav1.ListOptions{}); err == nil {
			version := o.takeAll(all)
			if w, err := see(metav1.ListOptions{ResourceVersion: version}); err == nil {
				for e := range w.ResultChan() {
					o.take(e.Object, e.Type == watch.Deleted)
				}
			}
		}
		if pause(ctx, poll) != nil {
			return
		}
	}
}

// takeAll notes the items of a list and returns its version.
func (o *observer) takeAll(list runtime.Object) string {
	switch l := list.(type) {
	case *v1.NodeList:
		for i := range l.Items {
			o.take(&l.Items[i], false)
		}
		return l.ResourceVersion
	case *v1.PodList:
		for i := range l.Items {
			o.take(&l.Items[i], false)
		}
		return l.ResourceVersion
	case *v1.ServiceAccountList:
		for i := range l.Items {
			o.take(&l.Items[i], false)
		}
		return l.ResourceVersion
	}
	return ""
}

func (o *observer) take(object runtime.Object, deleted bool) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	switch x := object.(type) {
	case *v1.Node:
		if _, seen := o.nodes[x.Name]; !seen && nodeReady(x) {
			o.nodes[x.Name] = now
		}
	case *v1.ServiceAccount:
		if o.account.IsZero() && x.Name == "default" {
			o.account = now
		}
	case *v1.Pod:
		if deleted {
			delete(o.there, x.Name)
		} else {
			o.there[x.Name] = true
		}
		if _, seen := o.running[x.Name]; !seen && x.Status.Phase == v1.PodRunning {
			o.running[x.Name] = now
		}
	}
	close(o.changed)
	o.changed = make(chan struct{})
}

func nodeReady(n *v1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// wait waits until the condition, which is evaluated with mu held, says when it has come true.
func (o *observer) wait(ctx context.Context, what string, when func() time.Time) (time.Time, error) {
	for {
		o.mu.Lock()
		at, changed := when(), o.changed
		o.mu.Unlock()
		if !at.IsZero() {
			return at, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		}
	}
}

// waitNode returns when the node became Ready, waitAccount when pods could be made.
func (o *observer) waitNode(ctx context.Context, name string) (time.Time, error) {
	return o.wait(ctx, "node "+name+" is Ready", func() time.Time { return o.nodes[name] })
}

func (o *observer) waitAccount(ctx context.Context) (time.Time, error) {
	return o.wait(ctx, "the default service account is there", func() time.Time { return o.account })
}

// waitRunning returns when the last of the pods was Running.
func (o *observer) waitRunning(ctx context.Context, names ...string) (time.Time, error) {
	return o.wait(ctx, fmt.Sprintf("the pods %v are Running", names), func() (last time.Time) {
		for _, name := range names {
			at, ok := o.running[name]
			if !ok {
				return time.Time{}
			}
			if at.After(last) {
				last = at
			}
		}
		return last
	})
}

// remove deletes the pods and waits until they have gone.
func (o *observer) remove(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := o.client.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete pod %s: %w", name, err)
		}
	}
	_, err := o.wait(ctx, fmt.Sprintf("the pods %v have gone", names), func() time.Time {
		for _, name := range names {
			if o.there[name] {
				return time.Time{}
			}
		}
		return time.Now()
	})
	return err
}

// create makes a pod of the hello image, which waits for the node, as soon as the API takes it.
func (o *observer) create(ctx context.Context, name, node string) error {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			NodeSelector: map[string]string{v1.LabelHostname: node},
			Containers:   []v1.Container{{Name: "hello", Image: image}},
		},
	}
	if _, err := o.waitAccount(ctx); err != nil {
		return err
	}
	for {
		_, err := o.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		if err == nil {
			return nil
		}
		if pauseErr := pause(ctx, poll); pauseErr != nil {
			return fmt.Errorf("create pod %s: %w (%w)", name, err, pauseErr)
		}
	}
}
