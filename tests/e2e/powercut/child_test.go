package powercut

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/endpoint"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/datastore"
	"github.com/labk/labk/pkg/paths"
)

// runDatastore is the datastore of a server by itself, until the test ends it: the data folder, the socket, the kind.
func runDatastore(ended <-chan struct{}, args ...string) error {
	ctx := context.Background()
	cfg := config.Default()
	cfg.Datastore = args[2]
	s := datastore.New(datastore.Options{
		Config: &cfg, Data: paths.Data(args[0]), Socket: args[1],
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	})
	if err := s.Start(ctx); err != nil {
		return err
	}
	fmt.Println(ready)
	<-ended
	return s.Stop(ctx)
}

// runKine is the driver of kine that labk had at first.
func runKine(_ <-chan struct{}, args ...string) error {
	database := paths.Data(args[0]).Database()
	if err := os.MkdirAll(filepath.Dir(database), 0o700); err != nil {
		return err
	}
	_ = os.Remove(args[1]) // of the one that was killed
	_, err := endpoint.Listen(context.Background(), endpoint.Config{
		WaitGroup:            &sync.WaitGroup{},
		Listener:             "unix://" + args[1],
		Endpoint:             "sqlite://" + database + "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate",
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 8},
		NotifyInterval:       5 * time.Second,
		EmulatedETCDVersion:  "3.6.11",
		CompactInterval:      5 * time.Minute,
		CompactTimeout:       5 * time.Second,
		CompactMinRetain:     1000,
		CompactBatchSize:     1000,
		PollBatchSize:        500,
		PollInterval:         time.Second,
	})
	if err != nil {
		return err
	}
	fmt.Println(ready)
	select {} // it is killed
}
