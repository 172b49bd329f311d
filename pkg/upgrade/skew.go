package upgrade

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/version"
)

// askLimit bounds a question to the API.
const askLimit = 10 * time.Second

// checkCluster applies Kubernetes' version skew policy: a node must not be newer than its server, and not much older. A labk that does not run can't be asked; its start looks again.
func (u *upgrade) checkCluster(ctx context.Context, runs bool) error {
	if !runs || u.next.Version.IsDevelopment() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if u.Server {
		return u.checkNodes(ctx)
	}
	return u.checkServer(ctx)
}

// checkServer makes sure that the new program is not newer than the server. A server that does not answer is a reason to stop: the new program could not be seen to work.
func (u *upgrade) checkServer(ctx context.Context) error {
	client, err := Client(join.NodeFiles(u.data).Kubeconfig, askLimit)
	if err != nil {
		return fmt.Errorf("ask the server for its version: %w", err)
	}
	info, err := client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("ask the server for its version: %w: upgrade this PC when its server answers", err)
	}
	theirs, err := version.Parse(info.GitVersion)
	if err != nil {
		return fmt.Errorf("ask the server for its version: %w", err)
	}
	if minors, same := u.next.Version.Minors(theirs); !same || minors > 0 {
		return fmt.Errorf("%s is newer than the server (%s), and a node must not be: upgrade the server first", u.next.Text, info.GitVersion)
	}
	return nil
}

// checkNodes makes sure that no node is left too far behind.
func (u *upgrade) checkNodes(ctx context.Context) error {
	client, err := Client(u.Config.WriteKubeconfig, askLimit)
	if err != nil {
		return fmt.Errorf("ask for the nodes' versions: %w", err)
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("ask for the nodes' versions: %w: upgrade the server when its API answers, or stop labk first", err)
	}
	var behind []string
	for _, n := range nodes.Items {
		has, err := version.Parse(n.Status.NodeInfo.KubeletVersion)
		if minors, same := u.next.Version.Minors(has); err == nil && (!same || minors > version.MaxSkew) {
			behind = append(behind, n.Name+" ("+n.Status.NodeInfo.KubeletVersion+")")
		}
	}
	if len(behind) > 0 {
		slices.Sort(behind)
		return fmt.Errorf("%s would be more than %d minor versions newer than %s: upgrade those PCs first, or delete their Nodes", u.next.Text, version.MaxSkew, strings.Join(behind, ", "))
	}
	return nil
}

// Client is a client of a kubeconfig; limit bounds each request, 0 for none.
func Client(kubeconfig string, limit time.Duration) (kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.Timeout = limit
	return kubernetes.NewForConfig(cfg)
}
