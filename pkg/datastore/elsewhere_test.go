package datastore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/datastore/etcd"
	"github.com/labk/labk/pkg/health"
)

// elsewhereStore is a store over the endpoint, and what it has said.
func elsewhereStore(endpoint string) (s *Store, said func() string) {
	cfg := config.Default()
	cfg.DatastoreEndpoint = endpoint
	var mu sync.Mutex
	var lines []string
	return New(Options{Config: &cfg, Say: func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, fmt.Sprintf(format, args...))
		}}), func() string {
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(lines, "\n")
		}
}

// freeAddress is one that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A datastore that is off is waited for, that is said once, and the probes know why.
func TestStartWaits(t *testing.T) {
	address := freeAddress(t)
	s, said := elsewhereStore("http://" + address)
	if err := s.Ping(t.Context()); !errors.Is(err, health.ErrStarting) {
		t.Errorf("before the start: %v", err)
	}
	started := make(chan error, 1)
	go func() { started <- s.Start(t.Context()) }()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(said(), "waiting for the datastore at http://"+address+": dial "+address+": connect: connection refused"); {
		if time.Now().After(deadline) {
			t.Fatal(said())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := s.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("while it waits: %v", err)
	}
	m := etcd.New(etcd.Options{Dir: filepath.Join(t.TempDir(), "etcd"), Listen: func(context.Context) (net.Listener, error) { return net.Listen("tcp", address) }})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer m.Stop(context.Background())
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if strings.Count(said(), "waiting") != 1 || !strings.Contains(said(), "the datastore at http://"+address+" answers") {
		t.Error(said())
	}
}

// A member that is switched off, and does not even refuse connections, does not hide one that answers.
func TestStartWithOneMemberAway(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	address := freeAddress(t)
	m := etcd.New(etcd.Options{Dir: filepath.Join(t.TempDir(), "etcd"), Listen: func(context.Context) (net.Listener, error) { return net.Listen("tcp", address) }})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer m.Stop(context.Background())
	s, said := elsewhereStore("http://" + silent.Addr().String() + ",http://" + address)
	ctx, cancel := context.WithTimeout(t.Context(), 3*probeLimit)
	defer cancel()
	if err := s.Start(ctx); err != nil {
		t.Fatalf("%v\n%s", err, said())
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// A start that is called off ends.
func TestWaitEnds(t *testing.T) {
	for _, scheme := range []string{"http://%s", "postgres://labk:pw@%s/labk", "mysql://labk:pw@tcp(%s)/labk"} {
		s, said := elsewhereStore(fmt.Sprintf(scheme, freeAddress(t)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := s.Start(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(said(), "connection refused") {
			t.Errorf("%s: %v\n%s", scheme, err, said())
		}
		cancel()
	}
}

func TestHide(t *testing.T) {
	s, _ := elsewhereStore("postgres://labk:p%40w@db/labk?sslpassword=key")
	cause := &refusedError{errors.New("bad p%40w, p@w and key"), "correct it"}
	err := s.hide(fmt.Errorf("start: %w", cause))
	if err.Error() != "start: bad ***, *** and ***: correct it" || !errors.As(err, new(*refusedError)) {
		t.Error(err)
	}
	if s.hide(nil) != nil {
		t.Error("nothing is an error")
	}
}
