package server

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/pki"
)

func testIdentity(t *testing.T) *identity {
	t.Helper()
	cfg := config.Default()
	cfg.NodeName, cfg.WriteKubeconfig, cfg.WriteKubeconfigMode = "pc", filepath.Join(t.TempDir(), "kubeconfig.yaml"), "600"
	i, err := newIdentity(&cfg, paths.Data(t.TempDir()), net.IPv4(192, 0, 2, 1))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// What its user has changed in the administrator's kubeconfig stays until the certificate in it is another one, or the server starts anew.
func TestRenewalLeavesTheKubeconfigAlone(t *testing.T) {
	i := testIdentity(t)
	path := i.cfg.WriteKubeconfig
	if err := i.ensure(); err != nil {
		t.Fatal(err)
	}
	change := func() {
		t.Helper()
		c, err := clientcmd.LoadFromFile(path)
		if err == nil {
			c.Contexts["labk"].Namespace = "lab"
			err = errors.Join(clientcmd.WriteToFile(*c, path), os.Chmod(path, 0o640))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	changed := func() bool {
		t.Helper()
		c, err := clientcmd.LoadFromFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		namespace, mode := c.Contexts["labk"].Namespace == "lab", info.Mode().Perm() == 0o640
		if namespace != mode {
			t.Errorf("namespace kept: %v, mode kept: %v", namespace, mode)
		}
		return namespace
	}
	renew := func(all bool) error {
		_, err := i.renew(all)
		return err
	}
	for name, tc := range map[string]struct {
		do   func() error
		kept bool
	}{
		"the hourly look":   {func() error { return renew(false) }, true},
		"all are issued":    {func() error { return renew(true) }, false},
		"it was removed":    {func() error { return errors.Join(os.Remove(path), renew(false)) }, false},
		"the server starts": {i.ensure, false},
	} {
		change()
		if err := tc.do(); err != nil || changed() != tc.kept {
			t.Errorf("%s: kept: %v, %v", name, changed(), err)
		}
	}
}

// A command that comes while the server makes its certificates waits, so that what it prepares is not removed as something half made.
func TestEnsureWaitsForCommands(t *testing.T) {
	i := testIdentity(t)
	if err := i.ensure(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	err := i.locked(func(s *pki.Store) error {
		go func() { done <- i.ensure() }()
		return s.Begin()
	})
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	if r, err := i.store.Rotation(); err != nil || r == nil {
		t.Errorf("the authorities were not changed: %v, %v", r, err)
	}
}

// With --force nobody is asked: here the API takes connections and never answers.
func TestFinishByForce(t *testing.T) {
	i := testIdentity(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	i.cfg.HTTPSListenPort = silent.Addr().(*net.TCPAddr).Port
	s := &server{cfg: i.cfg, id: i, restart: make(chan string, 1), say: t.Logf}
	if err := errors.Join(i.ensure(), i.store.Begin(), i.ensure()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.changeAuthorities(ctx, pki.Change{Finish: true, Force: true}); err != nil || ctx.Err() != nil {
		t.Errorf("%v, %v", err, ctx.Err())
	}
	if r, err := i.store.Rotation(); err != nil || r != nil {
		t.Errorf("rotation %v, %v", r, err)
	}
	if len(s.restart) != 1 {
		t.Error("it does not start anew")
	}
	if err := s.changeAuthorities(ctx, pki.Change{Finish: true, Force: true}); !errors.Is(err, pki.ErrNotRotating) {
		t.Errorf("a second time: %v", err)
	}
}
