package storage

import (
	"context"
	"fmt"
	"net/url"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcd is a member of its own on a unix socket.
type etcd struct {
	dir, socket string
	running     *embed.Etcd
}

func newEtcd(dir, socket string) *etcd { return &etcd{dir: dir, socket: socket} }

func (e *etcd) Name() string                { return "etcd" }
func (e *etcd) Endpoint() string            { return "unix://" + e.socket }
func (e *etcd) Ready(context.Context) error { return nil }

func (e *etcd) Start(ctx context.Context) error {
	config := embed.NewConfig()
	config.Dir = e.dir
	config.LogLevel = "fatal"
	config.ListenClientUrls = []url.URL{{Scheme: "unix", Path: e.socket}}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = []url.URL{{Scheme: "unix", Path: e.socket + "-peer"}}
	config.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:1"}}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.WatchProgressNotifyInterval = 5e9
	running, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	e.running = running
	select {
	case <-running.Server.ReadyNotify():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("etcd: %w", ctx.Err())
	}
}

func (e *etcd) Stop(context.Context) error {
	e.running.Close()
	return nil
}
