package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestGivenIsWhatIsLoaded(t *testing.T) {
	env := map[string]string{"LABK_NODE_NAME": "pc1", "LABK_TLS_SAN": "a,b", "LABK_HTTPS_LISTEN_PORT": "7002", "LABK_SERVER": "https://not-a-server's:6443"}
	s := Sources{
		Role: "server", Env: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		Flags: map[string][]string{"https-listen-port": {"7003"}, "debug": {"true"}, "kubelet-arg": {"eviction-hard=a,b", "v=2"}},
	}
	given, err := s.Given()
	if err != nil {
		t.Fatal(err)
	}
	want := []Setting{{"node-name", "pc1"}, {"kubelet-arg", []string{"eviction-hard=a,b", "v=2"}}, {"debug", true}, {"https-listen-port", 7003}, {"tls-san", []string{"a", "b"}}}
	if !reflect.DeepEqual(given, want) {
		t.Errorf("got %v, want %v", given, want)
	}
	text, err := Merge(nil, given)
	if err != nil {
		t.Fatal(err)
	}
	direct, err := Load(s)
	if err != nil {
		t.Fatal(err)
	}
	file, err := Load(Sources{Role: "server", Env: noEnv, File: write(t, t.TempDir()+"/config.yaml", string(text))})
	if err != nil || !reflect.DeepEqual(file, direct) {
		t.Errorf("the file gives %+v, %v; the command line gave %+v; the file:\n%s", file, err, direct, text)
	}
	s.Flags["https-listen-port"] = []string{"many"}
	if _, err := s.Given(); err == nil || !strings.Contains(err.Error(), "--https-listen-port") {
		t.Errorf("a wrong value: got %v", err)
	}
}

func TestMerge(t *testing.T) {
	for name, tc := range map[string]struct {
		text     string
		settings []Setting
		want     string
	}{
		"nothing into nothing": {"", nil, ""},
		"into nothing":         {"", []Setting{{"node-name", "pc1"}, {"tls-san", []string{"a", "b"}}}, "node-name: pc1\ntls-san:\n  - a\n  - b\n"},
		"into comments":        {"# mine\n", []Setting{{"debug", true}}, "# mine\ndebug: true\n"},
		"nothing changes":      {"# mine\nnode-name:   'pc1'\n", nil, "# mine\nnode-name:   'pc1'\n"},
		"same value":           {"# mine\nnode-name:   pc1\ndebug:  true\n", []Setting{{"node-name", "pc1"}, {"debug", true}}, "# mine\nnode-name:   pc1\ndebug:  true\n"},
		"in place":             {"# mine\nnode-name: pc1 # the first\ndebug: true\n", []Setting{{"node-name", "pc2"}}, "# mine\nnode-name: pc2 # the first\ndebug: true\n"},
		"at the end":           {"debug: true # why\n", []Setting{{"node-name", "pc2"}}, "debug: true # why\nnode-name: pc2\n"},
		"taken out":            {"token: secret\ndebug: true\n", []Setting{{"token", nil}}, "debug: true\n"},
		"not there to take":    {"debug:  true\n", []Setting{{"token", nil}}, "debug:  true\n"},
		"what looks otherwise": {"", []Setting{{"node-name", "123"}, {"node-label", []string{"a=true", "yes"}}}, "node-name: \"123\"\nnode-label:\n  - a=true\n  - \"yes\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Merge([]byte(tc.text), tc.settings)
			if err != nil || string(got) != tc.want {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
	for _, bad := range []string{"- a\n", "a: [\n"} {
		if got, err := Merge([]byte(bad), nil); err == nil {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}
