package datastore

import (
	"context"
	"log/slog"
	"runtime/debug"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// guardCall stands before kine's face. It refuses requests without a key, as etcd does: kine's face takes them, and stumbles later. And one request that makes the face panic gets an error
// instead of ending the server for all.
func guardCall(ctx context.Context, request any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
	if keyless(request) {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	defer caught(call.FullMethod, &err)
	return handle(ctx, request)
}

// guardStream is the same for streams, whose requests have no key that is needed.
func guardStream(server any, stream grpc.ServerStream, call *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer caught(call.FullMethod, &err)
	return handle(server, stream)
}

func caught(method string, err *error) {
	if p := recover(); p != nil {
		slog.Error("the datastore could not handle a request: please report this", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "the datastore could not handle this request: its log says more")
	}
}

// keyless tells whether a request has no key where etcd wants one.
func keyless(request any) bool {
	switch r := request.(type) {
	case *pb.RangeRequest:
		return len(r.Key) == 0
	case *pb.PutRequest:
		return len(r.Key) == 0
	case *pb.DeleteRangeRequest:
		return len(r.Key) == 0
	case *pb.TxnRequest:
		for _, c := range r.Compare {
			if len(c.GetKey()) == 0 {
				return true
			}
		}
		return keylessOp(r.Success) || keylessOp(r.Failure)
	}
	return false
}

func keylessOp(ops []*pb.RequestOp) bool {
	for _, op := range ops {
		if r := op.GetRequestRange(); r != nil && keyless(r) {
			return true
		}
		if r := op.GetRequestPut(); r != nil && keyless(r) {
			return true
		}
		if r := op.GetRequestDeleteRange(); r != nil && keyless(r) {
			return true
		}
	}
	return false
}
