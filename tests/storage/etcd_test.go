package storage

import (
	"context"
	"log/slog"
	"net"
	"os"

	"github.com/labk/labk/pkg/datastore/etcd"
)

// member is labk's member of etcd on a unix socket.
type member struct {
	*etcd.Member
	socket string
}

func newMember(dir, socket string) *member {
	listen := func(ctx context.Context) (net.Listener, error) {
		_ = os.Remove(socket) // what a killed one left
		return (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	}
	return &member{etcd.New(etcd.Options{Dir: dir, Listen: listen, Log: slog.New(slog.DiscardHandler)}), socket}
}

func (m *member) Endpoint() string { return "unix://" + m.socket }
