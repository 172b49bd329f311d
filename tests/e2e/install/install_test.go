// Package install installs labk as a person does, with install.sh, on PCs with systemd: from a file, from a checkout and from the server; again over what is there; and with input that is
// bad, after which the labk of before runs on.
package install

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// script is where the tests have install.sh: alone, as after a download.
const script = "/root/install.sh"

// putScript brings install.sh onto the node's host.
func putScript(t *testing.T, n *cluster.Node) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cluster.Root(t), "install.sh"))
	if err != nil {
		t.Fatal(err)
	}
	n.WriteFile(t, script, string(text))
}

// install runs install.sh with variables and arguments, and returns how long it took.
func install(t *testing.T, n *cluster.Node, variables string, args ...string) (cluster.Result, time.Duration) {
	t.Helper()
	began := time.Now()
	r := n.Exec(t, nil, "sh", "-c", fmt.Sprintf("%s sh %s %s", variables, script, strings.Join(args, " ")))
	took := time.Since(began)
	t.Logf("install.sh on %s: %.1f s, code %d\n%s%s", n.Host.Name(), took.Seconds(), r.Code, r.Stdout, r.Stderr)
	return r, took
}

// installed is install that must succeed.
func installed(t *testing.T, n *cluster.Node, variables string, args ...string) time.Duration {
	t.Helper()
	r, took := install(t, n, variables, args...)
	if r.Code != 0 {
		t.Fatalf("install.sh fails; the journal:\n%s", n.Journal(t))
	}
	return took
}

// fromFile takes the program that is tested.
func fromFile(n *cluster.Node) string { return "LABK_BINARY=" + n.Program() }

func TestFromFileAndServer(t *testing.T) {
	c := cluster.Hosts(t, 2)
	server, agent := c.Server, c.Agents[0]
	putScript(t, server)
	installed(t, server, fromFile(server))
	line := server.Sh(t, "labk token create --print-join")
	began := time.Now()
	r := agent.Exec(t, nil, "sh", "-c", line)
	t.Logf("%s\njoined after %.1f s, code %d\n%s%s", line, time.Since(began).Seconds(), r.Code, r.Stdout, r.Stderr)
	t.Log(c.Kubectl(t, "get", "nodes", "-o", "wide"))
	t.Log(server.Sh(t, "cat /etc/labk/install.json; cat /etc/labk/config.yaml; ls -la /etc/labk /usr/local/bin"))
	t.Log(agent.Sh(t, "cat /etc/labk/install.json; cat /etc/labk/config.yaml; ls -la /etc/labk /usr/local/bin"))
	installed(t, server, fromFile(server))
	installed(t, server, fromFile(server), "server", "--node-label", "a=b")
}
