package storage

import (
	"context"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/endpoint"
)

// kine is what pkg/datastore runs over a database elsewhere, but that it compacts when it is asked to, and to the last revision.
type kine struct {
	place  place
	socket string
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (k *kine) Name() string                { return "kine" }
func (k *kine) Endpoint() string            { return "unix://" + k.socket }
func (k *kine) Ready(context.Context) error { return nil }

func (k *kine) Start(context.Context) error {
	var ctx context.Context
	ctx, k.cancel = context.WithCancel(context.Background())
	_, err := endpoint.Listen(ctx, endpoint.Config{
		WaitGroup:            &k.wg,
		Listener:             k.Endpoint(),
		Endpoint:             k.place.Database,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 8},
		NotifyInterval:       5 * time.Second,
		EmulatedETCDVersion:  "3.6.11",
		CompactTimeout:       5 * time.Second,
		CompactBatchSize:     1000,
		PollBatchSize:        500,
		PollInterval:         time.Second,
	})
	return err
}

func (k *kine) Stop(context.Context) error {
	k.cancel()
	k.wg.Wait()
	return nil
}
