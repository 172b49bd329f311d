package powercut

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/labk/labk/pkg/datastore"
)

// runDatastore is the datastore by itself, as a server has it, until the test ends it.
func runDatastore(ended <-chan struct{}, args ...string) error {
	ctx := context.Background()
	s := datastore.New(datastore.Options{Socket: args[1], Database: filepath.Join(args[0], "db", "state.db")})
	if err := s.Start(ctx); err != nil {
		return err
	}
	if err := s.Ready(ctx); err != nil {
		return err
	}
	fmt.Println(ready)
	<-ended
	return s.Stop(ctx)
}
