package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/labk/labk/pkg/join/registrar"
	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

// listTokens is what `labk token list -o json` says.
func listTokens(t testing.TB, c *cluster.Cluster) []registrar.TokenInfo {
	t.Helper()
	r := c.Labk(t, "token", "list", "-o", "json")
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	var out []registrar.TokenInfo
	if err := json.Unmarshal([]byte(r.Stdout), &out); err != nil {
		t.Fatalf("%v in %s", err, r.Stdout)
	}
	return out
}

func findToken(t testing.TB, c *cluster.Cluster, id string) (registrar.TokenInfo, error) {
	t.Helper()
	all := listTokens(t, c)
	i := slices.IndexFunc(all, func(x registrar.TokenInfo) bool { return x.ID == id })
	if i < 0 {
		return registrar.TokenInfo{}, errors.New("it is not listed")
	}
	return all[i], nil
}

func mustFindToken(t testing.TB, c *cluster.Cluster, id string) registrar.TokenInfo {
	t.Helper()
	info, err := findToken(t, c, id)
	if err != nil {
		t.Fatalf("token %s: %v", id, err)
	}
	return info
}

// testTokens uses `labk token`; other is a PC that is no server.
func testTokens(t *testing.T, c *cluster.Cluster, other *cluster.Node) {
	t.Run("list", func(t *testing.T) {
		texts := []string{c.Token(t), createToken(t, c), createToken(t, c, "--ttl", "0", "--description", "for room 12", "--uses", "3"), createToken(t, c, "--replace", "pc-z", "--ttl", "90m")}
		infos := make([]registrar.TokenInfo, len(texts))
		for i, text := range texts {
			infos[i] = mustFindToken(t, c, parse(t, text).ID)
		}
		if own := infos[0]; !own.Permanent || own.Expires != nil || own.UsesLeft != nil {
			t.Errorf("the server's own: %+v", own)
		}
		if x := infos[1].Expires; x == nil || time.Until(*x) > 24*time.Hour || time.Until(*x) < 23*time.Hour || infos[1].UsesLeft != nil {
			t.Errorf("a plain one: %+v", infos[1])
		}
		if x := infos[2]; x.Expires != nil || x.Description != "for room 12" || x.UsesLeft == nil || *x.UsesLeft != 3 || x.Permanent {
			t.Errorf("one with a description: %+v", x)
		}
		if x := infos[3]; x.Replaces != "pc-z" || x.UsesLeft == nil || *x.UsesLeft != 1 {
			t.Errorf("one that replaces: %+v", x)
		}
		said := c.Labk(t, "token", "list").Stdout + c.Labk(t, "token", "list", "-o", "json").Stdout
		for _, text := range texts {
			if p := parse(t, text); !strings.Contains(said, p.ID) || strings.Contains(said, p.Secret) {
				t.Errorf("token list must show ids and no secrets; of %s it says:\n%s", p.ID, said)
			}
		}
	})
	t.Run("delete", func(t *testing.T) {
		byID, whole := createToken(t, c), createToken(t, c)
		if r := c.Labk(t, "token", "delete", parse(t, byID).ID, whole); r.Err != nil {
			t.Fatal(r.Err)
		}
		for _, text := range []string{byID, whole} {
			if _, err := findToken(t, c, parse(t, text).ID); err == nil {
				t.Errorf("token %s is still there", parse(t, text).ID)
			}
		}
		c.Labk(t, "token", "delete", parse(t, byID).ID).Refused(t, failed, parse(t, byID).ID, "labk token list")
	})
	for name, args := range map[string][]string{
		"negative ttl":  {"create", "--ttl=-1h"},
		"no ttl":        {"create", "--ttl=soon"},
		"negative uses": {"create", "--uses=-1"},
		"no node":       {"create", "--replace=PC_1"},
		"unknown flag":  {"create", "--for-ever"},
		"argument":      {"create", "now"},
		"format":        {"list", "-o", "xml"},
		"list what":     {"list", "all"},
		"delete what":   {"delete"},
	} {
		t.Run(name, func(t *testing.T) {
			before := listTokens(t, c)
			c.Labk(t, append([]string{"token"}, args...)...).Refused(t, usage)
			for _, info := range listTokens(t, c) {
				if info.Description == name || len(before) == 0 {
					t.Errorf("it made %+v", info)
				}
			}
		})
	}
	for _, args := range [][]string{{"create"}, {"list"}, {"delete", "abcdef"}} {
		t.Run(args[0]+" on another PC", func(t *testing.T) {
			other.Exec(t, nil, append([]string{other.Program(), "token"}, args...)...).Refused(t, failed, cluster.Kubeconfig, "on the server", "--kubeconfig")
		})
	}
	t.Run("cleaner", func(t *testing.T) {
		id := parse(t, createToken(t, c, "--ttl", "2s")).ID
		cluster.Eventually(t, cluster.Limit, "end of the token", func() error {
			if _, err := findToken(t, c, id); err == nil {
				return errors.New("it is still listed")
			}
			return nil
		})
	})
}

// testOwnToken deletes the token that the server keeps.
func testOwnToken(t *testing.T, c *cluster.Cluster) {
	own := c.Token(t)
	id := parse(t, own).ID
	r := c.Labk(t, "token", "delete", id)
	if r.Err != nil || !strings.Contains(r.Stderr, "next start") || !strings.Contains(r.Stderr, cluster.TokenFile) {
		t.Errorf("it does not say that the token comes back: %v\n%s", r.Err, r.Stderr)
	}
	if _, err := findToken(t, c, id); err == nil {
		t.Error("it is still there")
	}
	c.Server.Restart(t, syscall.SIGTERM)
	mustFindToken(t, c, id)

	c.Labk(t, "token", "delete", id)
	c.Sh(t, "rm "+cluster.TokenFile)
	c.Server.Restart(t, syscall.SIGTERM)
	if c.Token(t) == own {
		t.Error("the server made the same token again")
	}
	if info := mustFindToken(t, c, parse(t, c.Token(t)).ID); !info.Permanent {
		t.Errorf("the new one: %+v", info)
	}
	if _, err := findToken(t, c, id); err == nil {
		t.Error("the old one is known again")
	}
}

// testOnServer starts an agent on the server's PC.
func testOnServer(t *testing.T, c *cluster.Cluster, elsewhere *lab.Host) {
	token := createToken(t, c)
	for name, a := range map[string]struct {
		server string
		want   []string
	}{
		"its address": {c.URL(), []string{"server", "this PC itself"}},
		"localhost":   {"https://127.0.0.1:6443", []string{"server", "this PC itself"}},
		"its name":    {"https://" + c.Host.Name() + ":6443", []string{"data-dir", "a server's data"}},
		"another":     {fmt.Sprintf("https://%s:6443", elsewhere.Addr()), []string{"data-dir", "a server's data", "labk server"}},
	} {
		t.Run("on the server/"+name, func(t *testing.T) {
			before := c.Server.Inventory(t, "/var/lib/labk/agent/tls", "/var/lib/labk/server/tls", "/etc/labk")
			c.Labk(t, "agent", "--server", a.server, "--token", token).Refused(t, usage, a.want...)
			c.Server.Unchanged(t, before, "/var/lib/labk/agent/tls", "/var/lib/labk/server/tls", "/etc/labk")
		})
	}
}
