package network

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/labk/labk/pkg/config"
)

// NodeAddress is where other nodes reach this one.
type NodeAddress struct {
	IP        net.IP
	Interface *net.Interface
}

// FindNodeAddress decides this node's address: the configured one; else that of the configured interface; else the one from which the default
// route leaves; else, on a LAN without a way out, the first global one on an interface that is up.
func FindNodeAddress(c *config.Config) (NodeAddress, error) {
	all, err := hostAddresses()
	if err != nil {
		return NodeAddress{}, fmt.Errorf("list this machine's addresses: %w", err)
	}
	if c.NodeIP != "" {
		ip := net.ParseIP(c.NodeIP)
		i := slices.IndexFunc(all, func(a NodeAddress) bool { return a.IP.Equal(ip) })
		if i < 0 {
			return NodeAddress{}, &config.Error{Option: "node-ip", Problem: c.NodeIP + " is on none of this machine's interfaces", Remedy: "use an address that `ip addr` shows"}
		}
		return all[i], nil
	}
	if c.FlannelIface != "" {
		i := slices.IndexFunc(all, func(a NodeAddress) bool { return a.Interface.Name == c.FlannelIface })
		if i < 0 {
			return NodeAddress{}, &config.Error{Option: "flannel-iface", Problem: "no interface " + c.FlannelIface + " with an IPv4 address", Remedy: "use one that `ip addr` shows"}
		}
		return all[i], nil
	}
	if index, ok := defaultRoute(); ok {
		if i := slices.IndexFunc(all, func(a NodeAddress) bool { return a.Interface.Index == index }); i >= 0 {
			return all[i], nil
		}
	}
	if len(all) == 0 {
		return NodeAddress{}, errors.New("find this machine's address: no interface is up and has an IPv4 address: connect the network cable, or name the address with --node-ip")
	}
	return all[0], nil
}

// hostAddresses lists the global IPv4 addresses of the machine, those of interfaces that labk or another container runtime made left out.
func hostAddresses() ([]NodeAddress, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []NodeAddress
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || virtual(i.Index) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
				out = append(out, NodeAddress{IP: n.IP.To4(), Interface: &i})
			}
		}
	}
	return out, nil
}

// virtual tells a pod's end of a link, a bridge or a tunnel from a network card. A link whose peer is in another network namespace and has
// no address of its own subnet, as in a container, counts as a card: only links with /32 addresses are pods'.
func virtual(index int) bool {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return true
	}
	switch link.Type() {
	case "vxlan", "dummy", "tun":
		return true
	case "bridge":
		return link.Attrs().Name == "docker0" || link.Attrs().Name == "cni0"
	case "veth":
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil || len(addrs) == 0 {
			return true
		}
		ones, _ := addrs[0].Mask.Size()
		return ones == 32
	}
	return false
}

func defaultRoute() (index int, ok bool) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, false
	}
	best := -1
	for i, r := range routes {
		isDefault := r.Dst == nil || (r.Dst.IP.IsUnspecified() && isZeroMask(r.Dst.Mask))
		if isDefault && r.LinkIndex > 0 && (best < 0 || r.Priority < routes[best].Priority) {
			best = i
		}
	}
	if best < 0 {
		return 0, false
	}
	return routes[best].LinkIndex, true
}

func isZeroMask(m net.IPMask) bool {
	ones, _ := m.Size()
	return ones == 0
}

// ensureServiceRoute lets this machine reach services where it has no default route: the rules that turn a service's address into a
// pod's see only packets that the kernel has found a way out for.
func ensureServiceRoute(serviceCIDR string, node NodeAddress) error {
	if _, ok := defaultRoute(); ok {
		return nil
	}
	_, cidr, err := net.ParseCIDR(serviceCIDR)
	if err != nil {
		return fmt.Errorf("read service-cidr: %w", err)
	}
	err = netlink.RouteReplace(&netlink.Route{LinkIndex: node.Interface.Index, Dst: cidr, Src: node.IP, Scope: netlink.SCOPE_LINK})
	if err != nil {
		return fmt.Errorf("add a route to the services' addresses: %w", err)
	}
	return nil
}
