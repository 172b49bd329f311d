package health

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A firewall of the machine's owner keeps nothing from starting, but other PCs and pods knock in vain. The probes of ufw.go, firewalld.go
// and otherfilter.go compare what is open with what must be.

func reachProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK015", Title: "ufw", Severity: Warning,
			Cause:  "ufw is on and blocks what other PCs or pods need: the API's port (6443/tcp, on a server), the kubelet's (10250/tcp), the pod network's (8472/udp with vxlan), or what the machine forwards from and to pods.",
			Remedy: "ufw allow proto tcp from 192.168.1.0/24 to any port 6443,10250 and so on: labk check says the commands for this machine",
		}, look: lookUFW, asRoot: true, again: Seldom},
		{Fault: Fault{
			Code: "LABK016", Title: "firewalld", Severity: Warning,
			Cause:  "firewalld is on and blocks what other PCs or pods need, as for LABK015: the zone of the network's interface lacks a port, or pods are not in a trusted zone.",
			Remedy: "firewall-cmd --permanent --zone=public --add-port=8472/udp and so on, then firewall-cmd --reload: labk check says the commands for this machine",
		}, look: lookFirewalld, asRoot: true, again: Seldom},
		{Fault: Fault{
			Code: "LABK017", Title: "other packet filters", Severity: Warning,
			Cause:  "A chain of nobody that labk knows drops what none of its rules accepts (policy drop) and does not mention what other PCs or pods need, as for LABK015. Docker's FORWARD chain is one.",
			Remedy: "nft insert rule inet filter input tcp dport 6443 accept and so on: labk check says the commands for this machine",
		}, look: lookOtherFilters, asRoot: true, again: Seldom},
	}
}

// door is a port of this machine that must be open, to the addresses of from.
type door struct {
	port  int
	proto string
	from  netip.Prefix
}

func (d door) name() string { return fmt.Sprintf("%d/%s", d.port, d.proto) }

// reach is what must get through.
type reach struct {
	doors []door
	// lan is the network that other PCs are on, through the interface iface; all of IPv4 where it cannot be told.
	lan   netip.Prefix
	iface string
	// pods is where they have their addresses; not valid on a machine that runs none.
	pods netip.Prefix
}

var anywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

func (h Host) reach() reach {
	var r reach
	r.iface, r.lan = h.lan()
	sources := []netip.Prefix{r.lan}
	if pods, err := netip.ParsePrefix(h.Config.ClusterCIDR); err == nil && h.Node() {
		r.pods = pods.Masked()
		sources = append(sources, r.pods)
	}
	for _, from := range sources {
		if h.Server {
			r.doors = append(r.doors, door{h.Config.HTTPSListenPort, "tcp", from})
		}
		if h.Node() {
			r.doors = append(r.doors, door{10250, "tcp", from})
		}
	}
	if h.Node() && h.Config.FlannelBackend == "vxlan" {
		r.doors = append(r.doors, door{8472, "udp", r.lan})
	}
	return r
}

// lan is the network that the node is on, as the kernel's routes tell it: that of --node-ip, of --flannel-iface, or of the default route.
func (h Host) lan() (iface string, network netip.Prefix) {
	ip, _ := netip.ParseAddr(h.Config.NodeIP)
	iface = h.Config.FlannelIface
	if iface == "" && !ip.IsValid() {
		for _, r := range h.routes() {
			if r.to.Bits() == 0 {
				iface = r.iface
				break
			}
		}
	}
	for _, r := range h.routes() {
		if r.direct && r.to.Bits() > 0 && (r.iface == iface || iface == "" && ip.IsValid()) && (!ip.IsValid() || r.to.Contains(ip)) {
			return r.iface, r.to
		}
	}
	return iface, anywhere
}

// route is one of the kernel's IPv4 routes; direct ones have no gateway.
type route struct {
	iface  string
	to     netip.Prefix
	direct bool
}

func (h Host) routes() (all []route) {
	// Iface Destination Gateway Flags RefCnt Use Metric Mask ...
	for _, f := range h.fields("proc/net/route") {
		if len(f) < 8 {
			continue
		}
		to, err := strconv.ParseUint(f[1], 16, 32)
		mask, maskErr := strconv.ParseUint(f[7], 16, 32)
		if err != nil || maskErr != nil {
			continue // the heading
		}
		var address, ones [4]byte
		binary.NativeEndian.PutUint32(address[:], uint32(to))
		binary.NativeEndian.PutUint32(ones[:], uint32(mask))
		bits := strings.Count(fmt.Sprintf("%032b", binary.BigEndian.Uint32(ones[:])), "1")
		all = append(all, route{iface: f[0], to: netip.PrefixFrom(netip.AddrFrom4(address), bits), direct: f[2] == "00000000"})
	}
	return all
}

// or is the network, or the word when that is all of them.
func or(p netip.Prefix, word string) string {
	if p == anywhere {
		return word
	}
	return p.String()
}

// covers tells whether all of inner's addresses are outer's.
func covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Overlaps(inner)
}

// prefix reads a network or an address; what is neither is no network.
func prefix(text string) netip.Prefix {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked()
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return netip.Prefix{}
}

// hasPort tells whether a list such as "22,6000:7000" or a range such as "6000-7000" contains a port; "any" does.
func hasPort(list string, port int) bool {
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.ReplaceAll(part, ":", "-"), "-")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, toErr := strconv.Atoi(last)
		if part == "any" || err == nil && toErr == nil && from <= port && port <= to {
			return true
		}
	}
	return false
}

// gather joins the ports of doors that one rule can open: same protocol, same source. Ports are in order, as ufw writes them.
func gather(doors []door) (rules []gathered) {
	for _, d := range slices.SortedStableFunc(slices.Values(doors), func(a, b door) int { return a.port - b.port }) {
		i := slices.IndexFunc(rules, func(g gathered) bool { return g.proto == d.proto && g.from == d.from })
		if i < 0 {
			i = len(rules)
			rules = append(rules, gathered{proto: d.proto, from: d.from})
		}
		rules[i].ports = append(rules[i].ports, strconv.Itoa(d.port))
	}
	return rules
}

type gathered struct {
	proto string
	from  netip.Prefix
	ports []string
}
