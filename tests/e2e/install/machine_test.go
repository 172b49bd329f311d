package install

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
	"github.com/labk/labk/tests/images"
)

// A PC without nft and iptables gets nftables from its distribution; where that is not to be had, as in a host without Internet, it is named and nothing is installed.
func TestBarePC(t *testing.T) {
	c := cluster.HostsOver(t, 1, cluster.BareRoot(t))
	n := c.Server
	putScript(t, n)
	before := n.Inventory(t, folders()...)
	r, _ := install(t, n, fromFile(n))
	if r.Code != 1 || !strings.Contains(r.Stderr, "LABK013") || !strings.Contains(r.Stderr, "apt-get install -y -q --no-install-recommends nftables") {
		t.Errorf("code %d\n%s", r.Code, r.Stderr)
	}
	n.Unchanged(t, before, folders()...)
	if r, _ := install(t, n, fromFile(n), "server", "--skip-packages"); r.Code != 1 || strings.Contains(r.Stderr, "apt-get") {
		t.Errorf("without packages: code %d\n%s", r.Code, r.Stderr)
	}
	n.Unchanged(t, before, folders()...)
}

// ufw is opened for exactly what the cluster needs, each rule is noted, and other PCs get through.
func TestFirewall(t *testing.T) {
	c := cluster.HostsOver(t, 2, cluster.HostRoot(t, append(images.PlainHost(), "ufw")...))
	for _, n := range c.Nodes() {
		n.Sh(t, "ufw --force enable")
		putScript(t, n)
	}
	server, agent := c.Server, c.Agents[0]
	installed(t, server, fromFile(server))
	if r := agent.Exec(t, strings.NewReader(server.Sh(t, "labk token create --print-join")), "sh"); r.Code != 0 {
		t.Fatalf("the agent can't join: %s%s\n%s", r.Stdout, r.Stderr, agent.Journal(t))
	}
	for _, n := range c.Nodes() {
		var results []struct{ Code, Status, Detail string }
		args := []string{"labk", "check", "-o", "json"}
		want := []string{"6443,10250/tcp", "8472/udp"}
		if n == agent {
			args, want = append(args, "--agent"), []string{"10250/tcp", "8472/udp"}
		}
		r := n.Exec(t, nil, args...)
		if err := json.Unmarshal([]byte(r.Stdout), &results); err != nil {
			t.Fatal(err)
		}
		for _, one := range results {
			if one.Code == "LABK015" && one.Status != "pass" {
				t.Errorf("%s: %s", n.Host.Name(), one.Detail)
			}
		}
		status := n.Sh(t, "ufw status")
		for _, w := range want {
			if !strings.Contains(status, w) {
				t.Errorf("%s is not open on %s:\n%s", w, n.Host.Name(), status)
			}
		}
		rules := record(t, n).Firewall
		if len(rules) != 5 {
			t.Errorf("%s has noted %v", n.Host.Name(), rules)
		}
		// What is noted is all: taken back, ufw is as it was.
		for _, rule := range slices.Backward(rules) {
			n.Sh(t, strings.Join(rule.Remove, " "))
		}
		if status := n.Sh(t, "ufw status"); status != "Status: active" {
			t.Errorf("with the noted rules taken back, ufw of %s has\n%s", n.Host.Name(), status)
		}
	}
}
