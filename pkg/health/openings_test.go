package health

import (
	"slices"
	"strings"
	"testing"
)

func TestOpenings(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(f *fake)
		want   []string // add | remove
	}{
		"no firewall": {func(*fake) {}, nil},
		"ufw is off":  {func(f *fake) { f.ufw("DROP", "DROP"); f.programs["ufw"] = prints("Status: inactive\n") }, nil},
		"ufw is open": {func(f *fake) { f.ufw("ACCEPT", "ACCEPT") }, nil},
		"ufw": {func(f *fake) { f.ufw("DROP", "DROP") }, []string{
			"ufw route allow from 10.42.0.0/16 | ufw route delete allow from 10.42.0.0/16",
			"ufw route allow to 10.42.0.0/16 | ufw route delete allow to 10.42.0.0/16",
			"ufw allow proto tcp from 192.168.2.0/24 to any port 6443,10250 | ufw delete allow proto tcp from 192.168.2.0/24 to any port 6443,10250",
			"ufw allow proto tcp from 10.42.0.0/16 to any port 6443,10250 | ufw delete allow proto tcp from 10.42.0.0/16 to any port 6443,10250",
			"ufw allow proto udp from 192.168.2.0/24 to any port 8472 | ufw delete allow proto udp from 192.168.2.0/24 to any port 8472",
		}},
		"ufw, and its owner forbids": {func(f *fake) {
			f.ufw("DROP", "DROP", "deny tcp 6443 0.0.0.0/0 any 192.168.2.0/24 in", "route:deny any any 0.0.0.0/0 any 0.0.0.0/0 in")
		}, []string{
			"ufw allow proto tcp from 10.42.0.0/16 to any port 6443,10250 | ufw delete allow proto tcp from 10.42.0.0/16 to any port 6443,10250",
			"ufw allow proto udp from 192.168.2.0/24 to any port 8472 | ufw delete allow proto udp from 192.168.2.0/24 to any port 8472",
			"ufw allow proto tcp from 192.168.2.0/24 to any port 10250 | ufw delete allow proto tcp from 192.168.2.0/24 to any port 10250",
		}},
		"firewalld": {func(f *fake) { f.firewalld("  ports: 6443/tcp\n") }, []string{
			"firewall-cmd --zone=public --add-port=10250/tcp --add-port=8472/udp | firewall-cmd --zone=public --remove-port=10250/tcp --remove-port=8472/udp",
			"firewall-cmd --permanent --zone=public --add-port=10250/tcp --add-port=8472/udp | firewall-cmd --permanent --zone=public --remove-port=10250/tcp --remove-port=8472/udp",
			"firewall-cmd --zone=trusted --add-source=10.42.0.0/16 | firewall-cmd --zone=trusted --remove-source=10.42.0.0/16",
			"firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 | firewall-cmd --permanent --zone=trusted --remove-source=10.42.0.0/16",
		}},
		"firewalld, and its owner forbids": {func(f *fake) {
			f.firewalld("  sources: 10.42.0.0/16\n  ports: 6443/tcp 10250/tcp 8472/udp\n  rich rules: \n\trule port port=\"8472\" protocol=\"udp\" reject\n")
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			tc.change(f)
			var got []string
			for _, o := range f.Openings(t.Context()) {
				got = append(got, strings.Join(o.Add, " ")+" | "+strings.Join(o.Remove, " "))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}
