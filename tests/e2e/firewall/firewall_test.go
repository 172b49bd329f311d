// Package firewall switches on real firewalls in lab hosts: `labk check` must name what they block and the commands that open it, and
// after those commands other PCs and pods must get through.
package firewall

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
	"github.com/labk/labk/tests/images"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// installed is a shell script that puts the programs of an unpacked archive into the host. The packages are not installed on the machine:
// they would be on there, too.
const installed = `
	for d in bin sbin lib share; do mount -t overlay overlay -o lowerdir=/var/lib/programs/usr/$d:/usr/$d /usr/$d || exit 1; done
	rm -rf /etc/ufw /etc/default/ufw /etc/firewalld
	cp -an /var/lib/programs/etc/. /etc/
	cp /usr/share/ufw/iptables/*.rules /usr/share/ufw/ufw.conf /usr/share/ufw/*.init /etc/ufw/`

// host is one without labk, with ufw and firewalld installed and off.
func host(t *testing.T) *cluster.Cluster {
	t.Helper()
	archive, err := images.Programs(t.Context(), os.Getenv("LABK_TEST_CACHE"), "firewalls", "ufw", "firewalld", "dbus")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := cluster.Start(t, cluster.Options{DontStart: true})
	c.Sh(t, "mkdir /var/lib/programs")
	if r := c.Exec(t, file, "tar", "-x", "-C", "/var/lib/programs"); r.Code != 0 {
		t.Fatalf("unpack %s: %s", archive, r.Stderr)
	}
	c.Sh(t, installed)
	return c
}

// result is what `labk check -o json` tells of each thing that it looks at.
type result struct{ Code, Status, Detail, Remedy string }

// check asks `labk check` about one thing.
func check(t *testing.T, c *cluster.Cluster, code, status string, says ...string) result {
	t.Helper()
	r := c.Labk(t, "check", "-o", "json")
	if r.Code != 0 {
		t.Fatalf("labk check fails: a firewall keeps nothing from starting:\n%s%s", r.Stdout, r.Stderr)
	}
	var all []result
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		if one.Code != code {
			continue
		}
		if one.Status != status {
			t.Fatalf("labk check finds %+v, want %s", one, status)
		}
		for _, s := range says {
			if !strings.Contains(one.Detail, s) {
				t.Errorf("labk check says %q, and not %q", one.Detail, s)
			}
		}
		return one
	}
	t.Fatalf("labk check says nothing about %s", code)
	return result{}
}

// obey runs the commands of a remedy; what follows them is for a person.
func obey(t *testing.T, c *cluster.Cluster, r result) {
	t.Helper()
	commands, _, _ := strings.Cut(r.Remedy, "; and ")
	t.Logf("%s: %s", r.Detail, commands)
	c.Sh(t, commands)
}

func TestUFW(t *testing.T) {
	c := host(t)
	check(t, c, "LABK015", "pass")
	c.Sh(t, "ufw --force enable")
	r := check(t, c, "LABK015", "warn", "6443/tcp from ", "10250/tcp from ", "8472/udp from ", `(DEFAULT_INPUT_POLICY="DROP" in /etc/default/ufw)`,
		`forwarding from pods, forwarding to pods (DEFAULT_FORWARD_POLICY="DROP" in /etc/default/ufw)`)
	check(t, c, "LABK017", "pass") // ufw's chains are not shown twice
	closed(t, c)
	obey(t, c, r)
	check(t, c, "LABK015", "pass")
	open(t, c)

	c.Sh(t, "ufw insert 1 deny 8472/udp && ufw insert 1 allow 22/tcp && ufw route insert 1 deny from 10.0.0.0/8")
	r = check(t, c, "LABK015", "warn", "8472/udp from 10.77.0.0/24 (rule 3: deny 8472/udp from anywhere)",
		"forwarding from pods, forwarding to pods (rule 1: deny any/any from 10.0.0.0/8)")
	closedUDP(t, c)
	obey(t, c, r)
	check(t, c, "LABK015", "pass")
	open(t, c)
	services(t, c)
}

func TestFirewalld(t *testing.T) {
	c := host(t)
	check(t, c, "LABK016", "pass")
	// As root's own, firewalld needs nobody to ask who may change it: without this, it would look for polkit.
	c.WriteFile(t, "/etc/dbus-1/labk-test.conf", `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
		<auth>EXTERNAL</auth><policy context="default"><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`)
	c.Sh(t, "mkdir -p /run/dbus && dbus-daemon --config-file=/etc/dbus-1/labk-test.conf --fork")
	check(t, c, "LABK016", "pass", "not running")
	c.Sh(t, "firewalld && firewall-cmd --permanent --zone=public --add-rich-rule='rule port port=\"10250\" protocol=\"tcp\" reject'")
	cluster.Eventually(t, cluster.Limit, "firewalld", func() error {
		if r := c.Exec(t, nil, "firewall-cmd", "--reload"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	r := check(t, c, "LABK016", "warn", "6443/tcp (not in zone public, which has eth0)", `10250/tcp (zone public: rule port port="10250" protocol="tcp" reject)`,
		"8472/udp", "pods (10.42.0.0/16 is in zone public, target default)")
	check(t, c, "LABK017", "pass")
	closed(t, c)
	obey(t, c, r)
	check(t, c, "LABK016", "pass")
	open(t, c)
	services(t, c)
}

func TestOtherFilter(t *testing.T) {
	c := cluster.Start(t, cluster.Options{DontStart: true})
	check(t, c, "LABK017", "pass")
	c.Sh(t, `nft -f - <<'END'
		table inet mine {
			chain incoming { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; tcp dport 22 accept; }
			chain through { type filter hook forward priority 0; policy drop; ct state established,related accept; }
		}
END`)
	r := check(t, c, "LABK017", "warn", "chain incoming of nftables' table inet mine drops", "6443/tcp from 10.77.0.0/24", "8472/udp",
		"chain through of nftables' table inet mine drops", "forwarding to pods (10.42.0.0/16)")
	closed(t, c)
	obey(t, c, r)
	check(t, c, "LABK017", "pass")
	open(t, c)

	c.Sh(t, "iptables -P INPUT DROP && iptables -A INPUT -i lo -j ACCEPT && iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT && iptables -P FORWARD DROP && iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT")
	r = check(t, c, "LABK017", "warn", "chain INPUT of iptables' filter table", "chain FORWARD of iptables' filter table")
	closed(t, c)
	obey(t, c, r)
	check(t, c, "LABK017", "pass")
	open(t, c)
	services(t, c)
}

// services starts labk, and looks whether pods get their work done behind the firewall: CoreDNS is ready only when it has reached the
// API, and a NodePort answers outside only when the pods are reached.
func services(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	c.Server.Start(t)
	c.Server.WaitUp(t)
	c.Kubectl(t, "rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=2m")
	hello, err := os.ReadFile(cluster.Root(t) + "/examples/hello.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(t, "default", string(hello))
	cluster.Eventually(t, cluster.Limit, "an answer on the NodePort", func() error {
		answer, err := c.Outside().Get(fmt.Sprintf("http://%s:30080/", c.Host.Addr()))
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil && !strings.HasPrefix(string(body), "Hello from ") {
			err = fmt.Errorf("it says %q", body)
		}
		return err
	})
}
