package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func noEnv(string) (string, bool) { return "", false }

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadLayers(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "config.yaml"), "cluster-domain: file.local\nhttps-listen-port: 7001\ntls-san: [a, b]\ndebug: true\n")
	write(t, filepath.Join(dir, "d", "20.yaml"), "cluster-domain: second.local\n")
	write(t, filepath.Join(dir, "d", "10.yaml"), "cluster-domain: first.local\nnode-name: from-folder\n")
	write(t, filepath.Join(dir, "d", "ignored.txt"), "nonsense")
	env := map[string]string{"LABK_NODE_NAME": "from-env", "LABK_HTTPS_LISTEN_PORT": "7002", "LABK_DISABLE": "coredns"}
	c, err := Load(Sources{
		File: file, Folder: filepath.Join(dir, "d"), Role: "server",
		Env:   func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		Flags: map[string][]string{"https-listen-port": {"7003"}, "kubelet-arg": {"eviction-hard=a,b", "v=2"}, "node-label": {"a=b,c=d"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.ClusterDomain != "second.local" || c.NodeName != "from-env" || c.HTTPSListenPort != 7003 || !c.Debug || c.ServiceCIDR != "10.43.0.0/16" {
		t.Errorf("got %+v", c)
	}
	if !slices.Equal(c.TLSSANs, []string{"a", "b"}) || !slices.Equal(c.Disable, []string{"coredns"}) {
		t.Errorf("got %v, %v", c.TLSSANs, c.Disable)
	}
	if !slices.Equal(c.KubeletArgs, []string{"eviction-hard=a,b", "v=2"}) || !slices.Equal(c.NodeLabels, []string{"a=b", "c=d"}) {
		t.Errorf("got %q, %q", c.KubeletArgs, c.NodeLabels)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ file, want string }{
		"unknown key":    {"debug: true\nclutser-cidr: 10.0.0.0/8\n", `line 2: unknown key "clutser-cidr"`},
		"wrong type":     {"\n\nhttps-listen-port: many\n", "line 3: https-listen-port wants a number"},
		"text for list":  {"tls-san: {a: b}\n", "line 1: tls-san wants a list"},
		"list for text":  {"data-dir: [a]\n", "line 1: data-dir wants a text"},
		"bad syntax":     {"debug: true\n  x: [\n", "not YAML"},
		"not a map":      {"- debug\n", "expected lines of KEY: VALUE"},
		"text for truth": {"debug: perhaps\n", "line 1: debug wants true or false"},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, filepath.Join(t.TempDir(), "config.yaml"), tc.file)
			_, err := Load(Sources{File: file, Env: noEnv, Role: "server"})
			var mistake *Error
			if !errors.As(err, &mistake) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("got %v, want %s in %s", err, tc.want, file)
			}
		})
	}
}

func TestLoadFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := Load(Sources{File: missing, Env: noEnv, Role: "server"}); err != nil {
		t.Errorf("the default file may be missing: %v", err)
	}
	if _, err := Load(Sources{File: missing, Explicit: true, Env: noEnv, Role: "server"}); err == nil {
		t.Error("a file that was named must be there")
	}
	for _, text := range []string{"", "# nothing\n", "---\n"} {
		if _, err := Load(Sources{File: write(t, filepath.Join(t.TempDir(), "c.yaml"), text), Env: noEnv, Role: "server"}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	server := write(t, filepath.Join(t.TempDir(), "c.yaml"), "cluster-cidr: 10.1.0.0/16\nnode-name: n\n")
	c, err := Load(Sources{File: server, Env: noEnv, Role: "agent"})
	if err != nil || c.NodeName != "n" || c.ClusterCIDR != Default().ClusterCIDR {
		t.Errorf("an agent passes over a server's options: %+v, %v", c, err)
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string // empty: valid
	}{
		"default":           {func(*Config) {}, ""},
		"same network":      {func(c *Config) { c.ServiceCIDR = c.ClusterCIDR }, "overlaps"},
		"network inside":    {func(c *Config) { c.ServiceCIDR = "10.42.128.0/24" }, "overlaps"},
		"malformed network": {func(c *Config) { c.ClusterCIDR = "10.42.0.0" }, "is no network"},
		"host bits":         {func(c *Config) { c.ClusterCIDR = "10.42.0.1/16" }, "write it as 10.42.0.0/16"},
		"IPv6":              {func(c *Config) { c.ClusterCIDR = "fd00::/48" }, "IPv6"},
		"small":             {func(c *Config) { c.ClusterCIDR = "10.42.0.0/24" }, "too small"},
		"small services":    {func(c *Config) { c.ServiceCIDR = "10.43.0.0/30" }, "size"},
		"DNS outside":       {func(c *Config) { c.ClusterDNS = "10.44.0.10" }, "no address of service-cidr"},
		"DNS inside":        {func(c *Config) { c.ClusterDNS = "10.43.0.53" }, ""},
		"domain":            {func(c *Config) { c.ClusterDomain = "a b" }, "no DNS domain"},
		"back end":          {func(c *Config) { c.FlannelBackend = "carrier-pigeon" }, "use one of vxlan"},
		"port":              {func(c *Config) { c.HTTPSListenPort = 0 }, "is no port"},
		"kubelet's port":    {func(c *Config) { c.HTTPSListenPort = 10250 }, "kubelet"},
		"mode":              {func(c *Config) { c.WriteKubeconfigMode = "rw" }, "octal"},
		"component":         {func(c *Config) { c.Disable = []string{"cordns"} }, "use one of coredns"},
		"name":              {func(c *Config) { c.NodeName = "PC_1" }, "can't be a node's name"},
		"relative folder":   {func(c *Config) { c.DataDir = "data" }, "absolute"},
		"address":           {func(c *Config) { c.NodeIP = "here" }, "no IP address"},
		"datastore":         {func(c *Config) { c.Datastore = "paper" }, "use one of sqlite"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Default()
			c.NodeName = "pc1"
			tc.change(&c)
			err := c.Validate()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestServiceAddresses(t *testing.T) {
	c := Default()
	c.ServiceCIDR = "192.168.5.16/28"
	if c.DNS() != "192.168.5.26" || c.APIServiceIP().String() != "192.168.5.17" {
		t.Errorf("got %s, %s", c.DNS(), c.APIServiceIP())
	}
}

func TestOptionsAreDocumented(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range Options() {
		if o.Name == "" || o.Usage == "" || seen[o.Name] {
			t.Errorf("%+v: every option has a name of its own and a doc comment", o)
		}
		seen[o.Name] = true
	}
}

func TestApplyArgs(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	n := fs.Int("count", 0, "")
	b := fs.Bool("quick", false, "")
	if err := ApplyArgs(fs, "kubelet-arg", []string{"--count=3", "quick"}); err != nil || *n != 3 || !*b {
		t.Errorf("got %v, %d, %v", err, *n, *b)
	}
	for _, arg := range []string{"cuont=3", "count=three"} {
		var mistake *Error
		if err := ApplyArgs(fs, "kubelet-arg", []string{arg}); !errors.As(err, &mistake) || mistake.Option != "kubelet-arg" {
			t.Errorf("%s: got %v", arg, err)
		}
	}
}
