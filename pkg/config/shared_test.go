package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSharedIsAdopted(t *testing.T) {
	server := Default()
	server.ClusterCIDR, server.ServiceCIDR, server.ClusterDNS = "10.1.0.0/16", "10.2.0.0/16", "10.2.0.53"
	server.ClusterDomain, server.FlannelBackend, server.DisableNetworkPolicy = "lab.example", "host-gw", true
	server.DataDir, server.Token = "/elsewhere", "secret"
	shared := server.Shared()
	for _, mine := range []string{"data-dir", "token", "node-name", "server", "tls-san", "https-listen-port"} {
		if _, ok := shared[mine]; ok {
			t.Errorf("%s is told to all nodes", mine)
		}
	}
	agent := Default()
	agent.NodeName = "pc1"
	shared["a newer server's"] = "x"
	if err := agent.Adopt(shared); err != nil {
		t.Fatal(err)
	}
	delete(shared, "a newer server's")
	for name, want := range shared {
		if got := agent.Shared()[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if agent.DataDir != Default().DataDir || agent.Token != "" || agent.NodeName != "pc1" || !agent.DisableNetworkPolicy {
		t.Errorf("got %+v", agent)
	}
}

func TestAdoptRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(map[string]string)
		want   string
	}{
		"missing":      {func(m map[string]string) { delete(m, "cluster-cidr") }, "does not tell cluster-cidr"},
		"no truth":     {func(m map[string]string) { m["disable-network-policy"] = "perhaps" }, "disable-network-policy"},
		"no network":   {func(m map[string]string) { m["service-cidr"] = "x" }, "service-cidr"},
		"they overlap": {func(m map[string]string) { m["service-cidr"] = m["cluster-cidr"] }, "overlaps"},
		"no back end":  {func(m map[string]string) { m["flannel-backend"] = "pigeon" }, "flannel-backend"},
	} {
		t.Run(name, func(t *testing.T) {
			server := Default()
			server.ClusterDomain = "lab.example"
			shared := server.Shared()
			tc.change(shared)
			agent := Default()
			err := agent.Adopt(shared)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if agent.ClusterDomain != Default().ClusterDomain {
				t.Errorf("half of it was adopted: %+v", agent)
			}
		})
	}
}

func TestServerURL(t *testing.T) {
	for given, want := range map[string]string{
		"https://first-pc:6443":      "https://first-pc:6443",
		"https://first-pc":           "https://first-pc:6443",
		"https://first-pc/":          "https://first-pc:6443",
		"https://192.168.1.10:443":   "https://192.168.1.10:443",
		"https://[fd00::1]":          "https://[fd00::1]:6443",
		"":                           "no server to join",
		"http://first-pc:6443":       "does not begin with https://",
		"HTTPS://first-pc":           "https://first-pc:6443",
		"first-pc:6443":              "is no URL",
		"first-pc":                   "is no URL",
		"//first-pc":                 "does not begin with https://",
		"https://":                   "is no URL",
		"https://:6443":              "is no URL",
		"https://first pc":           "is no URL",
		"https://first-pc:many":      "is no URL",
		"https://first-pc/api":       "more in it",
		"https://first-pc?a=b":       "more in it",
		"https://me:secret@first-pc": "more in it",
		"https://first-pc:6443 ":     "is no URL",
		"https://first-pc#part":      "more in it",
		"https://first-pc:":          "https://first-pc:6443",
		"https://first-pc:70000":     "70000 is no port",
		"https://first-pc:0":         "0 is no port",
	} {
		t.Run(given, func(t *testing.T) {
			c := Default()
			c.Server = given
			u, err := c.ServerURL()
			if strings.HasPrefix(want, "https://") {
				if err != nil || u.String() != want {
					t.Errorf("got %v, %v; want %s", u, err, want)
				}
				return
			}
			var mistake *Error
			if !errors.As(err, &mistake) || mistake.Option != "server" || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "https://first-pc:6443") {
				t.Errorf("got %v, %v; want %q", u, err, want)
			}
		})
	}
}

func TestReadToken(t *testing.T) {
	dir := t.TempDir()
	full, empty := write(t, filepath.Join(dir, "full"), " secret\n"), write(t, filepath.Join(dir, "empty"), " \n")
	for name, tc := range map[string]struct{ token, file, want, problem string }{
		"none":      {},
		"given":     {token: " secret\n", want: "secret"},
		"in a file": {file: full, want: "secret"},
		"empty":     {file: empty, problem: "is empty"},
		"missing":   {file: filepath.Join(dir, "none"), problem: "none: no such file"},
		"a folder":  {file: dir, problem: "is a directory"},
		"both":      {token: "secret", file: full, problem: "give one of the two"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Token: tc.token, TokenFile: tc.file}
			got, err := c.ReadToken()
			if tc.problem == "" {
				if err != nil || got != tc.want {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			var mistake *Error
			if !errors.As(err, &mistake) || mistake.Option != "token-file" || !strings.Contains(err.Error(), tc.problem) || got != "" {
				t.Errorf("got %q, %v; want %q", got, err, tc.problem)
			}
		})
	}
}

func TestReadableTokensAreWarnedOf(t *testing.T) {
	for name, tc := range map[string]struct {
		config string // TOKEN stands for the token's file
		mode   os.FileMode
		warned string // which file; empty for none
	}{
		"config, all":          {"token: secret\n", 0o644, "config.yaml"},
		"config, all write":    {"token: secret\n", 0o666, "config.yaml"},
		"config, group":        {"token: secret\n", 0o640, ""},
		"config, root":         {"token: secret\n", 0o600, ""},
		"config, no token":     {"node-name: pc1\n", 0o644, ""},
		"file, all":            {"token-file: TOKEN\n", 0o644, "token"},
		"file, root":           {"token-file: TOKEN\n", 0o600, ""},
		"file, not there":      {"token-file: TOKEN.none\n", 0o644, ""},
		"config, all, by name": {"# mine\ntoken: secret\nnode-name: pc1\n", 0o604, "config.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			token := write(t, filepath.Join(dir, "token"), "secret\n")
			config := write(t, filepath.Join(dir, "config.yaml"), strings.Replace(tc.config, "TOKEN", token, 1))
			for _, path := range []string{token, config} {
				if err := os.Chmod(path, tc.mode); err != nil {
					t.Fatal(err)
				}
			}
			var warnings []string
			if _, err := Load(Sources{File: config, Env: noEnv, Role: "agent", Warn: func(s string) { warnings = append(warnings, s) }}); err != nil {
				t.Fatal(err)
			}
			want := 0
			if tc.warned != "" {
				want = 1
			}
			if len(warnings) != want || want == 1 && (!strings.Contains(warnings[0], filepath.Join(dir, tc.warned)+":") || !strings.Contains(warnings[0], "chmod 600")) {
				t.Errorf("got %q, want one of %q", warnings, tc.warned)
			}
			if strings.Contains(strings.Join(warnings, ""), "secret") {
				t.Errorf("it tells the token: %q", warnings)
			}
		})
	}
}
