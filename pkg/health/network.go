package health

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// upstreamResolvConf is where systemd-resolved lists the servers behind its own local one.
const upstreamResolvConf = "/run/systemd/resolve/resolv.conf"

func networkProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK060", Title: "swap", Severity: Warning,
			Cause:  "The machine swaps. Pods may become slow long before their memory limit ends them.",
			Remedy: "swapoff -a, and take the swap line out of /etc/fstab",
		}, look: lookSwap, again: Often},
		{Fault: Fault{
			Code: "LABK061", Title: "resolv.conf", Severity: Warning,
			Cause:  "The machine's /etc/resolv.conf names no server, or only ones on the machine itself, which pods cannot reach. Names inside the cluster work; names outside do not.",
			Remedy: "name a DNS server of your network in /etc/resolv.conf, if pods need outside names",
		}, look: lookResolvConf, again: Often},
		{Fault: Fault{
			Code: "LABK062", Title: "default route", Severity: Warning,
			Cause:  "The machine has no default route, by which labk would find the address of its node.",
			Remedy: "give --node-ip if the machine has several addresses; add a default route if pods need the outside",
		}, look: lookDefaultRoute, again: Often},
		{Fault: Fault{
			Code: "LABK063", Title: "node's address", Severity: Warning,
			Cause:  "The address of this PC's node is on none of its interfaces any more, or that interface has no link: a cable that is unplugged, a switch that is off, an address that DHCP took back. When another address comes, labk starts anew with it by itself.",
			Remedy: "look at the cable, the switch and the DHCP server (ip addr, ip link)",
		}, look: lookNodeAddress, live: true, again: Often},
	}
}

func lookSwap(_ context.Context, h Host) finding {
	var names []string
	for i, f := range h.fields("proc/swaps") {
		if i > 0 && len(f) > 0 { // the first line is the heading
			names = append(names, f[0])
		}
	}
	if len(names) > 0 {
		return warn("on (%s)", strings.Join(names, ", "))
	}
	return pass("off")
}

func lookResolvConf(_ context.Context, h Host) finding {
	outside, local := h.Nameservers("etc/resolv.conf")
	if len(outside) > 0 {
		return pass("%s", strings.Join(outside, ", "))
	}
	if upstream, _ := h.Nameservers(upstreamResolvConf); len(upstream) > 0 {
		return pass("%s is local to the machine; pods get %s of %s", strings.Join(local, ", "), strings.Join(upstream, ", "), upstreamResolvConf)
	}
	if len(local) > 0 {
		return warn("/etc/resolv.conf names only %s, on the machine itself", strings.Join(local, ", "))
	}
	return warn("/etc/resolv.conf names no server")
}

// Nameservers returns the servers that a resolv.conf (a path below Root) names, those on the machine itself apart.
func (h Host) Nameservers(name string) (outside, local []string) {
	for _, f := range h.fields(name) {
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		address, err := netip.ParseAddr(f[1])
		switch {
		case err != nil:
		case address.Unmap().IsLoopback(), address.IsUnspecified():
			local = append(local, f[1])
		default:
			outside = append(outside, f[1])
		}
	}
	return outside, local
}

func lookDefaultRoute(_ context.Context, h Host) finding {
	const up, reject = 0x1, 0x200
	// Iface Destination Gateway Flags RefCnt Use Metric Mask ...
	for _, f := range h.fields("proc/net/route") {
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 32); err == nil && flags&up != 0 && flags&reject == 0 {
			return pass("through %s", f[0])
		}
	}
	// destination length source length next-hop metric refcount use flags interface
	for _, f := range h.fields("proc/net/ipv6_route") {
		if len(f) < 10 || strings.Trim(f[0], "0") != "" || f[1] != "00" {
			continue
		}
		if flags, err := strconv.ParseUint(f[8], 16, 32); err == nil && flags&up != 0 && flags&reject == 0 {
			return pass("through %s (IPv6)", f[9])
		}
	}
	return warn("none")
}

func lookNodeAddress(_ context.Context, h Host) finding {
	if !h.Live.Address.IsValid() {
		return pass("not known yet")
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return warn("list the interfaces: %v", err)
	}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			return warn("list the addresses of %s: %v", i.Name, err)
		}
		for _, a := range addresses {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil || prefix.Addr().Unmap() != h.Live.Address.Unmap() {
				continue
			}
			if i.Flags&net.FlagRunning == 0 {
				return warn("%s is on %s, which has no link", h.Live.Address, i.Name)
			}
			return pass("%s on %s", h.Live.Address, i.Name)
		}
	}
	return warn("%s is on no interface", h.Live.Address)
}
