package etcd

import (
	"context"
	"math"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// newRPC is a gRPC server with etcd's services. etcd's own would register metrics under the names of containerd's, in the one registry of this process, which containerd does not survive. What
// it has beside that is for members that have lost the others.
func newRPC(s *etcdserver.EtcdServer) *grpc.Server {
	rpc := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: embed.DefaultGRPCKeepAliveMinTime}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: embed.DefaultGRPCKeepAliveInterval, Timeout: embed.DefaultGRPCKeepAliveTimeout}),
		grpc.MaxConcurrentStreams(s.Cfg.MaxConcurrentStreams),
		grpc.MaxRecvMsgSize(int(s.Cfg.MaxRequestBytesWithOverhead())),
		grpc.MaxSendMsgSize(math.MaxInt32),
	)
	etcdserverpb.RegisterKVServer(rpc, v3rpc.NewQuotaKVServer(s))
	etcdserverpb.RegisterWatchServer(rpc, v3rpc.NewWatchServer(s))
	etcdserverpb.RegisterLeaseServer(rpc, v3rpc.NewQuotaLeaseServer(s))
	etcdserverpb.RegisterClusterServer(rpc, v3rpc.NewClusterServer(s))
	etcdserverpb.RegisterMaintenanceServer(rpc, maintenance{v3rpc.NewMaintenanceServer(s, nil)})
	return rpc
}

// maintenance is etcd's, but for what the caretaker does.
type maintenance struct{ etcdserverpb.MaintenanceServer }

// Defragment implements etcdserverpb.MaintenanceServer.
func (maintenance) Defragment(context.Context, *etcdserverpb.DefragmentRequest) (*etcdserverpb.DefragmentResponse, error) {
	return nil, status.Error(codes.Unimplemented, "labk itself sees to it that the file is small")
}
