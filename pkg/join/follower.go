package join

import (
	"bytes"
	"context"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/process"
)

// NewFollower returns the component of an agent that notices when the cluster's authorities are others than those that this PC knows, or when the server does not accept the node's
// certificate. It then ends with a *process.RestartError: at its start a PC gets to know the authorities, and certificates of them, or is told what to do.
func NewFollower(f Files) lifecycle.Component {
	return lifecycle.NewTask("authorities", f.follow, nil)
}

func (f Files) follow(ctx context.Context) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", f.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	list := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "configmaps", Namespace, fields.OneTermEqualSelector("metadata.name", ClusterConfigMap))
	for ctx.Err() == nil {
		watching, cancel := context.WithCancelCause(ctx)
		_, err := watchtools.UntilWithSync(watching, refusals{list, cancel}, &corev1.ConfigMap{}, nil, func(e watch.Event) (bool, error) {
			m, ok := e.Object.(*corev1.ConfigMap)
			if !ok || e.Type == watch.Deleted {
				return false, nil
			}
			return f.differs(m.Data)
		})
		refused := context.Cause(watching)
		cancel(nil)
		switch {
		case err == nil:
			return &process.RestartError{Reason: "the cluster's certificate authorities have changed: starting anew with certificates of them"}
		case apierrors.IsUnauthorized(refused):
			return &process.RestartError{Reason: "the server does not accept this node's certificate any more: starting anew to get another"}
		}
		select { // an error of the disk; the watch itself goes on for ever
		case <-time.After(tell):
		case <-ctx.Done():
		}
	}
	return nil
}

// refusals ends a watch that the server refuses; other errors pass.
type refusals struct {
	*cache.ListWatch
	end context.CancelCauseFunc
}

func (r refusals) note(err error) error {
	if apierrors.IsUnauthorized(err) {
		r.end(err)
	}
	return err
}

// ListWithContext implements cache.ListerWatcherWithContext.
func (r refusals) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	list, err := r.ListWatch.ListWithContext(ctx, o)
	return list, r.note(err)
}

// WatchWithContext implements cache.ListerWatcherWithContext.
func (r refusals) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	w, err := r.ListWatch.WatchWithContext(ctx, o)
	return w, r.note(err)
}

// differs tells whether the cluster's authorities are others than those that this PC has written down.
func (f Files) differs(shared map[string]string) (bool, error) {
	for key, path := range map[string]string{KeyServerCA: f.ServerCA, KeyClientCA: f.ClientCA} {
		text, ok := shared[key]
		if !ok { // an older server
			continue
		}
		known, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		if !bytes.Equal(known, []byte(text)) {
			return true, nil
		}
	}
	return false, nil
}
