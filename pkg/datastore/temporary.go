package datastore

import (
	"context"
	"io"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/labk/labk/pkg/datastore/dump"
)

// Kind and Dump come with the assembly's new form.
func (s *Store) Kind() string { return "sqlite" }

// Dump writes all of the datastore's newest revision (dump.From).
func (s *Store) Dump(ctx context.Context, w io.Writer) (dump.Info, error) {
	client, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{s.Endpoint()}})
	if err != nil {
		return dump.Info{}, err
	}
	defer client.Close()
	return dump.From(ctx, client, dump.KineTTL, w)
}
