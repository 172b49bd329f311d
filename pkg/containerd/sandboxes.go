package containerd

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/labk/labk/pkg/paths"
)

// StopSandboxes stops the pods that run with a stale address, and returns how many there were; the kubelet starts them anew. Pods in the host's network have no
// address of their own. Call it when the runtime is ready.
func (r *Runtime) StopSandboxes(ctx context.Context, stale func(net.IP) bool) (stopped int, err error) {
	conn, err := grpc.NewClient("unix://"+paths.ContainerdSocket, grpc.WithTransportCredentials(insecure.NewCredentials())) // a socket that only root may open
	if err != nil {
		return 0, fmt.Errorf("ask for running pods: %w", err)
	}
	defer conn.Close()
	cri := criv1.NewRuntimeServiceClient(conn)
	running := &criv1.PodSandboxFilter{State: &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY}}
	list, err := cri.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: running})
	if err != nil {
		return 0, fmt.Errorf("ask for running pods: %w", err)
	}
	for _, s := range list.Items {
		status, err := cri.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: s.Id})
		if err != nil {
			continue // it has just ended
		}
		ip := net.ParseIP(status.GetStatus().GetNetwork().GetIp())
		if ip == nil || !stale(ip) {
			continue
		}
		if _, err := cri.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			return stopped, fmt.Errorf("stop the pod %s/%s: %w", s.Metadata.Namespace, s.Metadata.Name, err)
		}
		stopped++
	}
	return stopped, nil
}
