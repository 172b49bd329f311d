package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/config"
)

// answerWithin bounds a question to the API.
const answerWithin = 3 * time.Second

// Status is what is known of a host and its node.
type Status struct {
	Host    string `json:"host"`
	Role    Role   `json:"role"`
	Address string `json:"address"`
	// Running says whether the host has power, Cable whether its network is plugged in.
	Running bool `json:"running"`
	Cable   bool `json:"cable"`
	// PID of labk as its host counts, 0 when it is not running.
	PID int `json:"pid"`
	// Node is "Ready", "NotReady", "absent" when the API does not know the node, or "unknown" when the API does not answer.
	Node string `json:"node"`
}

// Status asks for the state of all hosts, in order.
func (c *Cluster) Status(ctx context.Context) []Status {
	var ready map[string]bool
	client, apiErr := c.Client()
	if apiErr == nil {
		ready, apiErr = readyNodes(ctx, client)
	}
	var all []Status
	for _, n := range c.Nodes() {
		s := Status{
			Host: n.Host.Name(), Role: n.Role(), Address: n.Host.Addr().String(), Running: n.Host.Running(), Cable: n.Host.Plugged(), Node: "unknown",
		}
		if pid, running := n.Pid(); running {
			s.PID = pid
		}
		if apiErr == nil {
			s.Node = "absent"
			if is, known := ready[n.Host.Name()]; is {
				s.Node = "Ready"
			} else if known {
				s.Node = "NotReady"
			}
		}
		all = append(all, s)
	}
	return all
}

// WaitReady waits until the node is Ready, or labk has ended.
func (n *Node) WaitReady(ctx context.Context) error {
	client, err := n.cluster.Client()
	for {
		var ready map[string]bool
		if err == nil {
			ready, err = readyNodes(ctx, client)
		} else {
			client, err = n.cluster.Client()
		}
		if ready[n.Host.Name()] {
			return nil
		}
		if _, running := n.Pid(); !running {
			return fmt.Errorf("labk %s in host %s ended before its node was Ready; the end of its log:\n%s", n.Role(), n.Host.Name(), n.Tail(tailLines))
		}
		if pauseErr := pause(ctx); pauseErr != nil {
			return fmt.Errorf("wait for node %s to be Ready: %w; the end of labk's log:\n%s", n.Host.Name(), errors.Join(pauseErr, err), n.Tail(tailLines))
		}
	}
}

// readyNodes asks the API which nodes there are, and whether each is Ready.
func readyNodes(ctx context.Context, client kubernetes.Interface) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	ready := map[string]bool{}
	for _, node := range list.Items {
		ready[node.Name] = false
		for _, cond := range node.Status.Conditions {
			if cond.Type == corev1.NodeReady {
				ready[node.Name] = cond.Status == corev1.ConditionTrue
			}
		}
	}
	return ready, nil
}

// Kubeconfig is where this machine finds the administrator's kubeconfig. Its address is reachable in the network of the lab's hosts only.
func (c *Cluster) Kubeconfig() (string, error) {
	file, err := c.lab.Host(1).Path(config.Default().WriteKubeconfig)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the server in host %s has not written its kubeconfig yet: look at %s there", c.lab.Host(1).Name(), LogFile)
	}
	return file, nil
}

// Client is the administrator's client of the API. Its connections are made inside the server's host.
func (c *Cluster) Client() (kubernetes.Interface, error) {
	file, err := c.Kubeconfig()
	if err != nil {
		return nil, err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 50, 100
	cfg.Dial = c.lab.Host(1).Net().DialContext
	return kubernetes.NewForConfig(cfg)
}
