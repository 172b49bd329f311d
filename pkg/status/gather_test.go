package status

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/process"
)

func TestCondense(t *testing.T) {
	member := func(s lifecycle.State) lifecycle.Member { return lifecycle.Member{Name: string(s), State: s} }
	for want, states := range map[State][]lifecycle.State{
		Up:       {lifecycle.Ready, lifecycle.Ready},
		Starting: {lifecycle.Ready, lifecycle.Waiting, lifecycle.Starting},
		Stopping: {lifecycle.Starting, lifecycle.Failed, lifecycle.Waiting},
	} {
		var members []lifecycle.Member
		for _, s := range states {
			members = append(members, member(s))
		}
		got, components := condense(members)
		if got != want || len(components) != len(states) {
			t.Errorf("%v are %s with %+v, want %s", states, got, components, want)
		}
	}
	_, components := condense([]lifecycle.Member{{Name: "a", State: lifecycle.Failed, Err: errors.New("crashed")}})
	if components[0].Error != "crashed" {
		t.Errorf("got %+v", components[0])
	}
}

func TestSlow(t *testing.T) {
	now := time.Now()
	got := slow([]lifecycle.Member{
		{Name: "a", State: lifecycle.Starting, Since: now.Add(-2 * health.StartLimit)},
		{Name: "b", State: lifecycle.Starting, Since: now.Add(-health.StartLimit / 2)},
		{Name: "c", State: lifecycle.Ready, Since: now.Add(-2 * health.StartLimit)},
		{Name: "d", State: lifecycle.Waiting},
	}, now)
	if !slices.Equal(got, []string{"a for 2m0s"}) {
		t.Errorf("got %q", got)
	}
}

func TestAtRest(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	h := health.ThisHost(cfg, true, time.Time{})
	h.LookPath = func(string) (string, error) { return "", errors.New("no programs in a test") }
	if s := AtRest(t.Context(), h, nil); s.State != Stopped || s.Role != "" || s.Last != nil || s.Datastore != nil || s.Well() {
		t.Errorf("never run: %+v", s)
	}
	if err := os.MkdirAll(filepath.Join(cfg.DataDir, "server", "db"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.DataDir, "server", "db", "state.db"), []byte("not a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := AtRest(t.Context(), h, &process.Record{Role: "server", Version: "v1", Node: "pc1", Began: time.Now()})
	if s.Role != "server" || s.Version != "v1" || s.Node != "pc1" || s.Datastore == nil || s.Datastore.Bytes != 14 {
		t.Errorf("got %+v", s)
	}
	if os.Geteuid() == 0 && !slices.ContainsFunc(s.Faults, func(r health.Result) bool { return r.Code == "LABK044" && r.Status == health.Fail }) {
		t.Errorf("the broken database is not among the faults: %+v", s.Faults)
	}
	text, err := json.Marshal(s)
	if err != nil || strings.Contains(string(text), "0001-01-01") {
		t.Errorf("%s, %v: a time that is not known is left out", text, err)
	}
}

func TestWell(t *testing.T) {
	fail, warn := health.Result{Status: health.Fail}, health.Result{Status: health.Warn}
	for _, tc := range []struct {
		s    Status
		want bool
	}{
		{Status{State: Up}, true},
		{Status{State: Up, Faults: []health.Result{warn}}, true},
		{Status{State: Up, Faults: []health.Result{warn, fail}}, false},
		{Status{State: Starting}, false},
		{Status{State: Stopped}, false},
	} {
		if got := tc.s.Well(); got != tc.want {
			t.Errorf("%+v is well: %v", tc.s, got)
		}
	}
}
