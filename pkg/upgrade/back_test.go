package upgrade

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
)

// noted is a Service that notes what it is asked for.
type noted struct{ asked []string }

func (n *noted) Name() string                                { return "labk" }
func (n *noted) Active(context.Context) bool                 { return true }
func (n *noted) LastWords(context.Context, time.Time) string { return "" }
func (n *noted) Restart(context.Context) error               { n.asked = append(n.asked, "restart"); return nil }
func (n *noted) Stop(context.Context) error                  { n.asked = append(n.asked, "stop"); return nil }

// The program before is started again unless its data is not fit for it.
func TestReplacementGoesBack(t *testing.T) {
	failed := errors.New("the configuration is as it is")
	for name, tc := range map[string]struct {
		fit  bool
		err  error
		want []string
	}{
		"all restored":   {true, nil, []string{"stop", "restart"}},
		"not everything": {true, failed, []string{"stop", "restart"}},
		"no data":        {false, failed, []string{"stop"}},
	} {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "labk")
			write(t, program, []byte("new"))
			write(t, paths.Previous(program), []byte("old"))
			s := &noted{}
			r := Replacement{Program: program, Service: s, Patience: time.Second, Restore: func(context.Context) (bool, error) { return tc.fit, tc.err }}
			if err := r.back(t.Context(), process.Self{}); !errors.Is(err, tc.err) {
				t.Errorf("got %v, want %v", err, tc.err)
			}
			if !slices.Equal(s.asked, tc.want) {
				t.Errorf("asked for %v, want %v", s.asked, tc.want)
			}
			has(t, program, "old")
		})
	}
}

// anUpgrade is one of a server from v1.37.1+labk1 that noted another version in its data folder.
func anUpgrade(t *testing.T, noted string) *upgrade {
	t.Helper()
	data := paths.Data(t.TempDir())
	write(t, data.Version(), []byte(noted+"\n"))
	u := &upgrade{data: data, before: "v1.37.1+labk1", next: Program{Text: noted}}
	u.Options = Options{Server: true, Config: &config.Config{}, Say: t.Logf}
	return u
}

// What the caller can't take back does not keep the data folder from being made fit.
func TestRestore(t *testing.T) {
	failed := errors.New("the configuration is as it is")
	u := anUpgrade(t, "v1.37.1+labk2")
	u.Options.Restore = func(context.Context) error { return failed }
	if fit, err := u.restore(t.Context()); !fit || !errors.Is(err, failed) {
		t.Errorf("got %v, %v", fit, err)
	}
	has(t, u.data.Version(), "v1.37.1+labk1\n")
}

// Without the copy of the datastore nobody can go back: the newer program stays and is started again.
func TestBackWithoutCopy(t *testing.T) {
	u := anUpgrade(t, "v1.38.0+labk1")
	if err := paths.WriteFile(u.data.Database(), []byte("new data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if fit, err := u.restore(t.Context()); fit || err == nil {
		t.Errorf("restored without a copy: %v, %v", fit, err)
	}
	s := &noted{}
	u.Service, u.Program = s, filepath.Join(t.TempDir(), "labk")
	previous := paths.Previous(u.Program)
	write(t, u.Program, []byte("new"))
	write(t, previous, []byte("old"))
	if err := u.back(t.Context(), Program{Path: previous}); err == nil || !strings.Contains(err.Error(), "restore the datastore") {
		t.Errorf("got %v", err)
	}
	has(t, u.Program, "new")
	has(t, previous, "old")
	has(t, u.data.Version(), "v1.38.0+labk1\n")
	if want := []string{"stop", "restart"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked for %v, want %v", s.asked, want)
	}
}

// Of etcd only a snapshot can be brought back: without one from just before there is no upgrade to another minor version.
func TestEtcdNeedsASnapshot(t *testing.T) {
	for next, good := range map[string]bool{"v1.37.2+labk1": true, "v1.38.0+labk1": false} {
		u := anUpgrade(t, next)
		if err := u.withoutSnapshot(); err != nil {
			t.Errorf("%s without etcd: %v", next, err)
		}
		if err := paths.WriteFile(u.data.EtcdFile(), []byte("keys"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := u.withoutSnapshot(); (err == nil) != good {
			t.Errorf("%s with etcd: %v", next, err)
		}
	}
}
