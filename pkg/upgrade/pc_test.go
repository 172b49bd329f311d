package upgrade

import (
	"strings"
	"testing"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/version"
)

func TestCheckStep(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		server   bool
		says     string // empty if it may be
	}{
		{"v1.37.1+labk1", "v1.37.1+labk2", true, ""},
		{"v1.37.1+labk1", "v1.37.1+labk1", true, ""}, // another build
		{"v1.37.9+labk1", "v1.38.0+labk1", true, ""},
		{"v1.37.1+labk1", "v1.39.0+labk1", true, "2 minor versions newer"},
		{"v1.37.1+labk1", "v1.39.0+labk1", false, ""}, // of a node it is asked by how much it differs from its server
		{"v1.37.1+labk2", "v1.37.1+labk1", true, "is older"},
		{"v1.37.1+labk2", "v1.37.0+labk9", false, "is older"},
		{"v1.37.1+labk2", "v0.0.0-dev", true, ""},
		{"v0.0.0-dev", "v1.39.0+labk1", true, ""},
		{"", "v1.39.0+labk1", true, ""},
	} {
		n, err := version.Parse(tc.to)
		if err != nil {
			t.Fatal(err)
		}
		u := &upgrade{Options: Options{Server: tc.server}, next: Program{Version: n, Text: tc.to}}
		if err := u.checkStep(tc.from); (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("from %s to %s (server: %v): %v", tc.from, tc.to, tc.server, err)
		}
	}
}

// A PC is looked at as what it is: an agent has no use for what a server needs.
func TestCheckArgs(t *testing.T) {
	for want, o := range map[string]Options{
		"--data-dir /data":                     {Server: true},
		"--data-dir /data --agent":             {},
		"--data-dir /data --config /c":         {Server: true, ConfigFile: "/c"},
		"--data-dir /data --config /c --agent": {ConfigFile: "/c"},
	} {
		o.Config = &config.Config{DataDir: "/data"}
		if got := strings.Join(o.checkArgs(), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestOtherMinor(t *testing.T) {
	for _, tc := range []struct {
		noted, before, now string
		want               bool
	}{
		{"v1.37.1+labk2", "v1.37.1+labk1", "", false},
		{"v1.37.2+labk1", "v1.37.1+labk1", "", false},
		{"v1.38.0+labk1", "v1.37.1+labk1", "", true},
		{"v2.37.0+labk1", "v1.37.1+labk1", "", true},
		{"v1.38.0+labk1", "", "v1.37.1+labk1", true},
		{"v1.37.2+labk1", "", "v1.37.1+labk1", false},
		{"garbage", "v1.37.1+labk1", "", true}, // rather the copy than what nobody knows
		{"v1.37.2+labk1", "", "", true},
	} {
		u := &upgrade{before: tc.before, nowText: tc.now}
		if got := u.otherMinor(tc.noted); got != tc.want {
			t.Errorf("%+v: got %v", tc, got)
		}
	}
}
