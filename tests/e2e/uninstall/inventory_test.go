package uninstall

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
)

// survey prints everything about a host that labk could change, one thing a line: what it is, a tab, and how it is. What systemd itself writes all the time, and the lab's
// own folder, do not count.
const survey = `
set -e
find / /run /tmp /dev /var/lib /var/log -xdev \( -path /proc -o -path /sys -o -path /opt/labk -o -path /run/systemd -o -path /run/log -o -path /var/log/journal \
	-o -path /var/lib/systemd -o -path /var/lib/dbus -o -path /run/user -o -path /run/labk-lab -o -path /run/utmp -o -path /var/log/wtmp -o -path '/tmp/systemd-private-*' \
	-o -path '/var/tmp/systemd-private-*' -o -path /root/.cache \) -prune -o \( -type f -printf 'file %p\t%M %U:%G %s %T@\n' \) -o \( -printf 'file %p\t%M %U:%G %l\n' \)
awk '{ for (i = 7; $i != "-"; i++); print "mount " $5 " " $4 "\t" $(i+1) " " $(i+2) }' /proc/self/mountinfo
ip -o link show | sed -E 's/^[0-9]+: ([^:@]+).*(link\/.*)$/interface \1\t\2/'
ip -o addr show | awk '{ print "address " $2 " " $4 "\t" }'
ip route show table all | sed 's/^/route /; s/$/\t/'
ip rule show | sed 's/^/rule /; s/$/\t/'
ip neigh show nud permanent | sed 's/^/neighbour /; s/$/\t/'
if command -v nft >/dev/null; then nft list ruleset | awk '/^table/ { t = $2 " " $3 } { gsub(/\t/, " "); sub(/counter packets [0-9]+ bytes [0-9]+/, "counter"); print "nft " t " " $0 "\t" }'; fi
for p in iptables-save ip6tables-save iptables-legacy-save ip6tables-legacy-save; do
	if command -v $p >/dev/null; then $p 2>/dev/null | sed -nE '/^(-A|:[^ ]* -)/{ s/ \[[0-9]+:[0-9]+\]//; s/^/'$p' /; s/$/\t/; p; }'; fi
done
find /sys/fs/cgroup -type d -printf 'cgroup %p\t\n' | grep -v -e /system.slice/ -e /user.slice -e /init.scope
for p in /proc/[0-9]*; do
	[ -r $p/exe ] && c=$(tr '\0' ' ' <$p/cmdline 2>/dev/null) || continue
	n=$(readlink $p/ns/mnt) || continue
	case $c in ''|*labk-survey*|find*|awk*|sed*) ;; *) echo "process $c	" ;; esac
done
for n in /proc/[0-9]*/ns/net /proc/[0-9]*/ns/mnt; do readlink $n || true; done | sort -u | sed 's/^/namespace /; s/$/\t/'
sysctl -a 2>/dev/null | grep -e '^net\.' -e '^vm\.overcommit_memory' -e '^vm\.panic_on_oom' -e '^kernel\.panic' -e '^kernel\.keys' |
	grep -v -e nf_conntrack_count -e '\.\(gc_thresh\|mcast_solicit\)' | sed 's/ = /\t/; s/^/sysctl /'
systemctl list-unit-files --no-legend --plain | awk '{ print "unit file " $1 "\t" $2 }'
systemctl list-units --all --no-legend --plain --type=service,mount,slice,scope | grep -v -e '-private' | awk '{ print "unit " $1 "\t" $2 " " $3 }'
`

// look surveys the node's host.
func look(t *testing.T, n *cluster.Node) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(n.Sh(t, survey+"\n# labk-survey")) {
		what, how, _ := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		all[what] = how
	}
	if len(all) < 1000 {
		t.Fatalf("the survey has %d lines only", len(all))
	}
	return all
}

// difference is what is not as it was.
func difference(before, after map[string]string) (out []string) {
	for _, what := range slices.Sorted(maps.Keys(after)) {
		if was, ok := before[what]; !ok {
			out = append(out, fmt.Sprintf("new: %s %s", what, after[what]))
		} else if was != after[what] {
			out = append(out, fmt.Sprintf("changed: %s was %q and is %q", what, was, after[what]))
		}
	}
	for _, what := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[what]; !ok {
			out = append(out, fmt.Sprintf("gone: %s %s", what, before[what]))
		}
	}
	return out
}
