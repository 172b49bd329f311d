package health

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// The machine of newFake has the default route and its network, 192.168.2.0/24, on eth0, and is a server.
var reachCases = []probeCase{
	{"LABK015", "not installed", func(*fake) {}, Pass, "not in use"},
	{"LABK015", "installed, off", func(f *fake) { f.ufw("DROP", "DROP"); f.write(ufwConf, "ENABLED=no\n") }, Pass, "not in use"},
	{"LABK015", "on, not loaded", func(f *fake) { f.ufw("DROP", "DROP"); f.programs["ufw"] = prints("Status: inactive\n") }, Pass, "not active"},
	{"LABK015", "no answer", func(f *fake) { f.ufw("DROP", "DROP"); f.programs["ufw"] = complains("ufw: exit status 1") }, Warn, "exit status 1"},
	{"LABK015", "no rules", func(f *fake) { f.ufw("DROP", "DROP"); f.remove(ufwRules) }, Warn, "cannot be read"},
	{"LABK015", "defaults, in", func(f *fake) { f.ufw("DROP", "DROP") }, Warn, `8472/udp from 192.168.2.0/24 (DEFAULT_INPUT_POLICY="DROP" in /etc/default/ufw)`},
	{"LABK015", "defaults, through", func(f *fake) { f.ufw("DROP", "REJECT") }, Warn, `forwarding to pods (DEFAULT_FORWARD_POLICY="REJECT" in /etc/default/ufw)`},
	{"LABK015", "defaults, remedy", func(f *fake) { f.ufw("DROP", "DROP") }, Warn, "\nufw route allow from 10.42.0.0/16 && ufw route allow to 10.42.0.0/16" +
		" && ufw allow proto tcp from 192.168.2.0/24 to any port 6443,10250 && ufw allow proto tcp from 10.42.0.0/16 to any port 6443,10250" +
		" && ufw allow proto udp from 192.168.2.0/24 to any port 8472"},
	{"LABK015", "agent", func(f *fake) { f.Server = false; f.ufw("DROP", "ACCEPT") }, Warn, " && ufw allow proto tcp from 192.168.2.0/24 to any port 10250 && "},
	{"LABK015", "no node", func(f *fake) {
		f.Config.DisableAgent = true
		f.ufw("DROP", "DROP", "allow tcp 6443 0.0.0.0/0 any 0.0.0.0/0 in")
	}, Pass, "lets through"},
	{"LABK015", "other port", func(f *fake) { f.Config.HTTPSListenPort = 16443; f.ufw("DROP", "ACCEPT") }, Warn, "to any port 10250,16443"},
	{"LABK015", "no network", func(f *fake) { f.remove("proc/net/route"); f.ufw("DROP", "ACCEPT") }, Warn, "ufw allow proto udp from any to any port 8472"},
	{"LABK015", "accepts all", func(f *fake) { f.ufw("ACCEPT", "ACCEPT") }, Pass, "lets through"},
	{"LABK015", "opened", func(f *fake) { f.ufw("DROP", "DROP", slices.Concat(ufwIn, ufwThrough)...) }, Pass, "lets through"},
	{"LABK015", "opened by range, for all and with comments", func(f *fake) {
		f.ufw("DROP", "ACCEPT", "allow_log any 6000:11000 0.0.0.0/0 any 0.0.0.0/0 in comment=6120", "allow udp 53,8472 0.0.0.0/0 any 192.168.0.0/16 in_eth0")
	}, Pass, "lets through"},
	{"LABK015", "opened for some", func(f *fake) {
		f.ufw("DROP", "ACCEPT", append([]string{"allow udp 8472 0.0.0.0/0 any 192.168.2.7 in"}, ufwIn[:2]...)...)
	}, Pass, "lets through"},
	{"LABK015", "other interface", func(f *fake) {
		f.ufw("DROP", "ACCEPT", append([]string{"allow udp 8472 0.0.0.0/0 any 0.0.0.0/0 in_wlan0"}, ufwIn[:2]...)...)
	}, Warn, "\nufw allow proto udp from 192.168.2.0/24 to any port 8472"},
	{"LABK015", "other direction", func(f *fake) { f.ufw("DROP", "ACCEPT", "allow any any 0.0.0.0/0 any 0.0.0.0/0 out") }, Warn, "6443/tcp from 10.42.0.0/16"},
	{"LABK015", "forbidden first", func(f *fake) {
		f.ufw("DROP", "ACCEPT", append([]string{"allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", "deny udp 8472 0.0.0.0/0 any 0.0.0.0/0 in"}, ufwIn[:2]...)...)
	}, Warn, "8472/udp from 192.168.2.0/24 (rule 2: deny 8472/udp from anywhere)\nufw insert 2 allow proto udp from 192.168.2.0/24 to any port 8472"},
	{"LABK015", "forbidden first, allowed already", func(f *fake) {
		f.ufw("DROP", "ACCEPT", append([]string{"deny udp 8000:9000 0.0.0.0/0 any 0.0.0.0/0 in"}, ufwIn...)...)
	}, Warn, "\nufw delete allow proto udp from 192.168.2.0/24 to any port 8472 && ufw insert 1 allow proto udp from 192.168.2.0/24 to any port 8472"},
	{"LABK015", "that very rule forbids", func(f *fake) {
		f.ufw("DROP", "ACCEPT", append([]string{"deny_log udp 8472 0.0.0.0/0 any 192.168.2.0/24 in"}, ufwIn[:2]...)...)
	}, Warn, "\nufw allow proto udp from 192.168.2.0/24 to any port 8472"},
	{"LABK015", "forbidden later", func(f *fake) {
		f.ufw("DROP", "ACCEPT", append(slices.Clone(ufwIn), "reject udp 8472 0.0.0.0/0 any 0.0.0.0/0 in")...)
	}, Pass, "lets through"},
	{"LABK015", "forbidden for one", func(f *fake) {
		f.ufw("DROP", "ACCEPT", append([]string{"deny any any 0.0.0.0/0 any 192.168.2.66 in"}, ufwIn...)...)
	}, Pass, "lets through"},
	{"LABK015", "limited", func(f *fake) {
		f.ufw("DROP", "ACCEPT", append([]string{"limit tcp 6443 0.0.0.0/0 any 192.168.2.0/24 in"}, ufwIn...)...)
	}, Warn, "rule 1: limit 6443/tcp from 192.168.2.0/24"},
	{"LABK015", "forwarding forbidden", func(f *fake) {
		f.ufw("ACCEPT", "ACCEPT", "route:deny any any 0.0.0.0/0 any 0.0.0.0/0 in")
	}, Warn, "\nufw route insert 1 allow from 10.42.0.0/16 && ufw route insert 1 allow to 10.42.0.0/16"},
	{"LABK015", "both forbidden", func(f *fake) {
		f.ufw("DROP", "DROP", "route:deny any any 0.0.0.0/0 any 10.0.0.0/8 in", "deny udp 8472 0.0.0.0/0 any 0.0.0.0/0 in", ufwIn[0], ufwIn[1], ufwThrough[1])
	}, Warn, "\nufw insert 2 allow proto udp from 192.168.2.0/24 to any port 8472 && ufw route insert 1 allow from 10.42.0.0/16"},
	{"LABK015", "forwarding forbidden for other PCs", func(f *fake) {
		f.ufw("ACCEPT", "DROP", append([]string{"route:deny any any 0.0.0.0/0 any 192.168.0.0/16 in"}, ufwThrough...)...)
	}, Warn, "\nufw route delete allow to 10.42.0.0/16 && ufw route insert 1 allow to 10.42.0.0/16"},
	{"LABK015", "forwarding between two interfaces", func(f *fake) {
		f.ufw("ACCEPT", "DROP", "route:allow any any 0.0.0.0/0 any 0.0.0.0/0 in_eth0!out_wlan0")
	}, Warn, "forwarding from pods"},

	{"LABK016", "not installed", func(*fake) {}, Pass, "not in use"},
	{"LABK016", "no bus", func(f *fake) { f.firewalld(""); f.remove(systemBus) }, Pass, "not in use"},
	{"LABK016", "not running", func(f *fake) {
		f.firewalld("")
		f.programs["firewall-cmd"] = complains("firewall-cmd: exit status 252 FirewallD is not running")
	}, Pass, "not running"},
	{"LABK016", "no answer", func(f *fake) { f.firewalld(""); f.programs["firewall-cmd"] = complains("exit status 254") }, Warn, "exit status 254"},
	{"LABK016", "as installed", func(f *fake) { f.firewalld("") }, Warn, "8472/udp (not in zone public, which has eth0)"},
	{"LABK016", "as installed, remedy", func(f *fake) { f.firewalld("") }, Warn,
		"\nfirewall-cmd --permanent --zone=public --add-port=6443/tcp --add-port=10250/tcp --add-port=8472/udp" +
			" && firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 && firewall-cmd --reload"},
	{"LABK016", "opened", func(f *fake) {
		f.firewalld("  ports: 6443/tcp 10000-11000/tcp 8472/udp\n")
		f.trust("sources", "10.0.0.0/8")
	}, Pass, "lets through"},
	{"LABK016", "services", func(f *fake) {
		f.firewalld("  services: ssh k8s\n  ports: 8472/udp\n")
		f.trust("sources", "10.42.0.0/16")
		f.write("usr/lib/firewalld/services/k8s.xml", `<service><port port="10250" protocol="tcp"/><include service="api"/></service>`)
		f.write("etc/firewalld/services/api.xml", `<service><port port="6443" protocol="tcp"/><include service="k8s"/></service>`)
	}, Pass, "lets through"},
	{"LABK016", "trusted interface, pods are elsewhere", func(f *fake) { f.firewalld(""); f.trust("interfaces", "eth0") }, Warn,
		"it blocks pods (10.42.0.0/16 is in zone public, target default)\nfirewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 && "},
	{"LABK016", "trusted by default", func(f *fake) { f.firewalld(""); f.standardZone = "trusted" }, Pass, "lets through"},
	{"LABK016", "trusted network", func(f *fake) { f.firewalld(""); f.trust("sources", "192.168.0.0/16 10.42.0.0/16") }, Pass, "lets through"},
	{"LABK016", "pods in the wrong zone", func(f *fake) {
		f.firewalld("  sources: 10.42.0.0/16\n  ports: 6443/tcp 10250/tcp 8472/udp\n")
	}, Warn, "\nfirewall-cmd --permanent --zone=public --remove-source=10.42.0.0/16 && firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16"},
	{"LABK016", "rich rules", func(f *fake) {
		f.firewalld("  ports: 10250/tcp\n  rich rules: \n\trule family=\"ipv4\" source address=\"192.168.2.0/24\" port port=\"8472\" protocol=\"udp\" accept\n" +
			"\trule family=\"ipv4\" source address=\"192.168.2.9\" port port=\"6443\" protocol=\"tcp\" accept\n")
		f.trust("sources", "10.42.0.0/16")
	}, Pass, "lets through"},
	{"LABK016", "rich rule refuses", func(f *fake) {
		f.firewalld("  ports: 6443/tcp 10250/tcp 8472/udp\n  rich rules: \n\trule port port=\"8472\" protocol=\"udp\" reject\n")
		f.trust("sources", "10.42.0.0/16")
	}, Warn, "it blocks 8472/udp (zone public: rule port port=\"8472\" protocol=\"udp\" reject)\n" +
		"firewall-cmd --permanent --zone=public --remove-rich-rule='rule port port=\"8472\" protocol=\"udp\" reject' && firewall-cmd --reload"},
	{"LABK016", "rich rules about others", func(f *fake) {
		f.firewalld("  ports: 6443/tcp 10250/tcp 8472/udp\n  rich rules: \n\trule family=\"ipv4\" source address=\"192.168.2.66\" drop\n" +
			"\trule port port=\"8472\" protocol=\"tcp\" drop\n\trule family=\"ipv6\" drop\n\trule service name=\"ssh\" reject\n\trule protocol value=\"esp\" drop\n")
		f.trust("sources", "10.42.0.0/16")
	}, Pass, "lets through"},

	{"LABK017", "policy accept", func(f *fake) {
		f.table("inet filter", "chain input", "type filter hook input priority 0; policy accept;")
	}, Pass, "none"},
	{"LABK017", "input", func(f *fake) {
		f.table("inet filter", "chain in-coming", "type filter hook input priority 0; policy drop;")
	}, Warn,
		"chain in-coming of nftables' table inet filter drops what it does not accept (policy drop), and does not mention 6443/tcp from 192.168.2.0/24, 10250/tcp"},
	{"LABK017", "input, remedy", func(f *fake) {
		f.table("inet filter", "chain input", "type filter hook input priority 0; policy drop;")
	}, Warn,
		"nft insert rule inet filter input ip saddr 192.168.2.0/24 tcp dport '{ 6443, 10250 }' accept && "},
	{"LABK017", "input with sets", func(f *fake) {
		f.table("inet filter", "chain input", "type filter hook input priority 0; policy drop;", "tcp dport { 22, 6443,10250 } accept", "udp dport 8472 accept")
	}, Pass, "none"},
	{"LABK017", "input of the whole network", func(f *fake) {
		f.table("inet filter", "chain input", "type filter hook input priority 0; policy drop;", "ip saddr 192.168.2.0/24 accept", "ip saddr 10.42.0.0/16 tcp dport 10250-10259 accept")
	}, Warn, "does not mention 6443/tcp from 10.42.0.0/16, 10250/tcp from 10.42.0.0/16\n"},
	{"LABK017", "Docker", func(f *fake) {
		f.table("ip filter", "chain FORWARD", "type filter hook forward priority 0; policy drop;")
	}, Warn,
		"forwarding to pods (10.42.0.0/16)\niptables -I FORWARD -s 10.42.0.0/16 -j ACCEPT && iptables -I FORWARD -d 10.42.0.0/16 -j ACCEPT"},
	{"LABK017", "Docker, with labk's rules in that chain", func(f *fake) {
		f.table("ip filter", "chain FORWARD", "type filter hook forward priority 0; policy drop;")
		f.write("proc/sys/kernel/osrelease", "5.10.0-8-amd64\n")
	}, Pass, "none"},
	{"LABK017", "forward", func(f *fake) { f.table("inet fw", "chain f", "type filter hook forward priority 0; policy drop;") }, Warn,
		"nft insert rule inet fw f ip saddr 10.42.0.0/16 accept && nft insert rule inet fw f ip daddr 10.42.0.0/16 accept"},
	{"LABK017", "forward for pods", func(f *fake) {
		f.table("inet fw", "chain f", "type filter hook forward priority 0; policy drop;", "ip saddr 10.42.0.0/16 counter accept", "ip daddr 10.42.0.0/16 accept")
	}, Pass, "none"},
	{"LABK017", "labk's own", func(f *fake) {
		f.table("ip labk-policy", "chain f", "type filter hook forward priority 0; policy drop;")
	}, Pass, "none"},
	{"LABK017", "IPv6, output", func(f *fake) {
		f.table("ip6 fw", "chain i", "type filter hook input priority 0; policy drop;")
		f.table("inet fw", "chain o", "type filter hook output priority 0; policy drop;")
	}, Pass, "none"},
	{"LABK017", "ufw's own", func(f *fake) {
		f.ufw("DROP", "DROP")
		f.table("ip filter", "chain INPUT", "type filter hook input priority 0; policy drop;")
	}, Pass, "none"},
	{"LABK017", "iptables alone", func(f *fake) {
		f.without("nft")
		f.programs["iptables"] = prints("-P INPUT DROP\n-P FORWARD ACCEPT\n-A INPUT -s 10.42.0.0/16 -j ACCEPT\n-A INPUT -p udp --dport 8472 -j ACCEPT\n-A INPUT -p tcp --dport 10250 -j ACCEPT\n")
	}, Warn, "does not mention 6443/tcp from 192.168.2.0/24\niptables -I INPUT -s 192.168.2.0/24 -p tcp -m multiport --dports 6443 -j ACCEPT"},
	{"LABK017", "no program", func(f *fake) { f.without("nft", "iptables") }, Pass, "not looked at"},
}

var (
	ufwIn = []string{
		"allow tcp 6443,10250 0.0.0.0/0 any 192.168.2.0/24 in", "allow tcp 6443,10250 0.0.0.0/0 any 10.42.0.0/16 in", "allow udp 8472 0.0.0.0/0 any 192.168.2.0/24 in",
	}
	ufwThrough = []string{"route:allow any any 0.0.0.0/0 any 10.42.0.0/16 in", "route:allow any any 10.42.0.0/16 any 0.0.0.0/0 in"}
)

// ufw switches it on, with its own notes about the rules.
func (f *fake) ufw(in, through string, tuples ...string) {
	f.programs["ufw"] = prints("Status: active\n")
	f.write(ufwConf, "# /etc/ufw/ufw.conf\n\nENABLED=yes\nLOGLEVEL=low\n")
	f.write(ufwDefaults, fmt.Sprintf("IPV6=yes\nDEFAULT_INPUT_POLICY=%q\nDEFAULT_FORWARD_POLICY=%q\n", in, through))
	var rules strings.Builder
	for _, t := range tuples {
		fmt.Fprintf(&rules, "### tuple ### %s\n-A ufw-user-input and so on\n\n", t)
	}
	f.write(ufwRules, "*filter\n### RULES ###\n\n"+rules.String()+"### END RULES ###\nCOMMIT\n")
}

// firewalld switches it on; public is what its default zone has beside its interface.
func (f *fake) firewalld(public string) {
	f.write(systemBus, "")
	f.standardZone = "public"
	f.zones = "drop\n  target: DROP\n  interfaces: \n  rich rules: \n\npublic (active)\n  target: default\n  interfaces: eth0\n" + public +
		"  forward: yes\n\ntrusted\n  target: ACCEPT\n  forward: yes\n"
	f.programs["firewall-cmd"] = func(args []string) (string, error) {
		if args[0] == "--get-default-zone" {
			return f.standardZone + "\n", nil
		}
		zones := f.zones
		if f.standardZone != "public" {
			zones = strings.Replace(zones, "interfaces: eth0", "interfaces: ", 1)
		}
		return zones, nil
	}
}

// trust gives the zone trusted interfaces or sources.
func (f *fake) trust(key, value string) {
	if key == "interfaces" {
		f.zones = strings.Replace(f.zones, "interfaces: "+value, "interfaces: ", 1)
	}
	f.zones += "  " + key + ": " + value + "\n"
}

// table adds a table of one chain to what nft lists.
func (f *fake) table(name, chain string, lines ...string) {
	if f.chains == nil {
		f.chains = map[string]string{}
	}
	begin := "table " + name + " {\n\t" + chain + " {\n\t\t"
	f.chains["chains"] += begin + lines[0] + "\n\t}\n}\n"
	f.chains["table"] += begin + strings.Join(lines, "\n\t\t") + "\n\t}\n}\n"
}

func TestLAN(t *testing.T) {
	const more = "wlan0\t00FEA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
	for _, c := range []struct {
		name, ip, iface, want string
	}{
		{"default route", "", "", "eth0 192.168.2.0/24"},
		{"address", "192.168.254.7", "", "wlan0 192.168.254.0/24"},
		{"interface", "", "wlan0", "wlan0 192.168.254.0/24"},
		{"unknown address", "10.1.1.1", "", " 0.0.0.0/0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t)
			heading, rest, _ := strings.Cut(goodFiles["proc/net/route"], "\n")
			f.write("proc/net/route", heading+"\n"+more+rest)
			f.Config.NodeIP, f.Config.FlannelIface = c.ip, c.iface
			if iface, network := f.lan(); iface+" "+network.String() != c.want {
				t.Errorf("got %s %s, want %s", iface, network, c.want)
			}
		})
	}
}

var inotifyCases = []probeCase{
	{"LABK070", "as Debian has it", func(f *fake) { f.inotify(20) }, Pass, "root has 20 of 128 instances"},
	{"LABK070", "many", func(f *fake) { f.inotify(65) }, Warn, "root has 65 of 128 instances\nsysctl -w fs.inotify.max_user_instances=512"},
	{"LABK070", "too many to start", func(f *fake) { f.Starting = true; f.inotify(105) }, Fail, "root has 105 of 128 instances\nsysctl -w"},
	{"LABK070", "enough for an agent", func(f *fake) { f.Starting, f.Server = true, false; f.inotify(105) }, Warn, "root has 105 of 128 instances\nsysctl -w"},
	{"LABK070", "another user's", func(f *fake) { f.inotify(65); f.write("proc/123/status", "Name:\tcode\nUid:\t1000\t1000\n") }, Pass, "root has 0 of 128"},
	{"LABK070", "no limit", func(f *fake) { f.remove(inotifyLimit) }, Pass, "no such limit"},
}

// inotify gives process 123, which is root's, so many instances.
func (f *fake) inotify(count int) {
	f.t.Helper()
	f.write("proc/123/status", "Name:\tx\nUid:\t0\t0\t0\t0\n")
	for i := range count {
		if err := os.Symlink("anon_inode:inotify", f.path(fmt.Sprintf("proc/123/fd/%d", 100+i))); err != nil {
			f.t.Fatal(err)
		}
	}
}
