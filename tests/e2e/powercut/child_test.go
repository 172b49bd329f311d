package powercut

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc"

	"github.com/labk/labk/pkg/datastore/sqlite"
)

// runDatastore is the datastore by itself, as a server has it, until the test ends it.
func runDatastore(ended <-chan struct{}, args ...string) error {
	ctx := context.Background()
	dir := filepath.Join(args[0], "db")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	os.Remove(args[1])
	s, err := sqlite.Open(ctx, sqlite.Options{Path: filepath.Join(dir, "state.db")})
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", args[1])
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	server.New(s, "unix", 5*time.Second, "3.6.11").Register(g)
	go g.Serve(l)
	fmt.Println(ready)
	<-ended
	g.Stop()
	return s.Close()
}
