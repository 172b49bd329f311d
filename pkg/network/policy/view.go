package policy

import (
	"context"
	"maps"
	"sync"

	v1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// view is what this node knows of the cluster. Pods and namespaces are watched only once there is a policy: most labs have none, and
// their nodes are not to pay for it.
type view struct {
	policies, pods, namespaces cache.SharedIndexInformer
	tasks                      *sync.WaitGroup
	watching                   bool // pods and namespaces
}

// newView returns a view that calls changed after every change that may matter. Goroutines belong to tasks.
func newView(client kubernetes.Interface, tasks *sync.WaitGroup, changed func()) (*view, error) {
	factory := informers.NewSharedInformerFactory(client, 0)
	v := &view{
		policies:   factory.Networking().V1().NetworkPolicies().Informer(),
		pods:       factory.Core().V1().Pods().Informer(),
		namespaces: factory.Core().V1().Namespaces().Informer(),
		tasks:      tasks,
	}
	for _, i := range []struct {
		informer cache.SharedIndexInformer
		same     func(old, now any) bool
	}{
		{v.policies, samePolicy}, {v.pods, samePod}, {v.namespaces, sameNamespace},
	} {
		if err := i.informer.SetTransform(strip); err != nil {
			return nil, err
		}
		_, err := i.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { changed() },
			UpdateFunc: func(old, now any) {
				if !i.same(old, now) {
					changed()
				}
			},
			DeleteFunc: func(any) { changed() },
		})
		if err != nil {
			return nil, err
		}
	}
	return v, nil
}

// start begins to watch policies and returns when all are known, or ctx ends.
func (v *view) start(ctx context.Context) {
	v.tasks.Go(func() { v.policies.RunWithContext(ctx) })
	cache.WaitForCacheSync(ctx.Done(), v.policies.HasSynced)
}

// read returns what is known. With the first policy it begins to watch the rest and waits until it is known.
func (v *view) read(ctx context.Context) (Input, error) {
	in := Input{Policies: list[*netv1.NetworkPolicy](v.policies)}
	if len(in.Policies) == 0 {
		return in, nil
	}
	if !v.watching {
		v.watching = true
		v.tasks.Go(func() { v.pods.RunWithContext(ctx) })
		v.tasks.Go(func() { v.namespaces.RunWithContext(ctx) })
	}
	if !cache.WaitForCacheSync(ctx.Done(), v.pods.HasSynced, v.namespaces.HasSynced) {
		return in, ctx.Err()
	}
	in.Pods = list[*v1.Pod](v.pods)
	in.Namespaces = list[*v1.Namespace](v.namespaces)
	return in, nil
}

func list[T any](i cache.SharedIndexInformer) []T {
	objects := i.GetStore().List()
	out := make([]T, 0, len(objects))
	for _, o := range objects {
		out = append(out, o.(T))
	}
	return out
}

// strip keeps of an object what Compile looks at.
func strip(o any) (any, error) {
	switch o := o.(type) {
	case *v1.Pod:
		p := &v1.Pod{ObjectMeta: stripMeta(o.ObjectMeta)}
		p.Spec.NodeName, p.Spec.HostNetwork = o.Spec.NodeName, o.Spec.HostNetwork
		p.Spec.Containers, p.Spec.InitContainers = stripContainers(o.Spec.Containers), stripContainers(o.Spec.InitContainers)
		p.Status.Phase, p.Status.PodIP = o.Status.Phase, o.Status.PodIP
		return p, nil
	case *v1.Namespace:
		return &v1.Namespace{ObjectMeta: stripMeta(o.ObjectMeta)}, nil
	case *netv1.NetworkPolicy:
		meta := stripMeta(o.ObjectMeta)
		meta.Generation = o.Generation
		return &netv1.NetworkPolicy{ObjectMeta: meta, Spec: o.Spec}, nil
	}
	return o, nil
}

func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels}
}

// stripContainers keeps named ports.
func stripContainers(containers []v1.Container) []v1.Container {
	var ports []v1.ContainerPort
	for _, c := range containers {
		for _, p := range c.Ports {
			if p.Name != "" {
				ports = append(ports, v1.ContainerPort{Name: p.Name, ContainerPort: p.ContainerPort, Protocol: p.Protocol})
			}
		}
	}
	if len(ports) == 0 {
		return nil
	}
	return []v1.Container{{Ports: ports}}
}

func samePod(old, now any) bool {
	a, b := old.(*v1.Pod), now.(*v1.Pod)
	return a.UID == b.UID && a.Spec.NodeName == b.Spec.NodeName && a.Status.PodIP == b.Status.PodIP && ended(a) == ended(b) && maps.Equal(a.Labels, b.Labels)
}

func sameNamespace(old, now any) bool {
	return maps.Equal(old.(*v1.Namespace).Labels, now.(*v1.Namespace).Labels)
}

func samePolicy(old, now any) bool {
	a, b := old.(*netv1.NetworkPolicy), now.(*netv1.NetworkPolicy)
	return a.UID == b.UID && a.Generation == b.Generation
}
