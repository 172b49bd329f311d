package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

const (
	bridgeName = "br0"
	cableName  = "eth0" // the host's end; the switch's end is portName
)

func portName(host int) string { return fmt.Sprintf("p%d", host) }

// buildSwitch makes the switch's namespace and bridge, unless it is there.
func buildSwitch(path string, gateway netip.Prefix) error {
	if isNetns(path) {
		return nil
	}
	if err := newNetns(path); err != nil {
		return err
	}
	sw := &Net{path: path}
	return sw.Do(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make the lab's switch: add bridge: %w", err)
		}
		if err := raise("lo"); err != nil {
			return err
		}
		return address(bridgeName, gateway)
	})
}

// wiring is what a host's network is made from.
type wiring struct {
	index    int
	own      string // path of the host's network namespace
	sw       string // path of the switch's
	addr     netip.Prefix
	gateway  netip.Addr // invalid: no default route
	carryOff bool       // the cable is not plugged in
}

// connect gives the host a fresh network namespace and a cable into the switch.
func (w *wiring) connect() error {
	if err := w.disconnect(); err != nil {
		return err
	}
	if err := newNetns(w.own); err != nil {
		return err
	}
	if err := (&Net{path: w.own}).Do(w.wireHost); err != nil {
		return fmt.Errorf("connect host %d: %w", w.index, err)
	}
	err := (&Net{path: w.sw}).Do(func() error {
		port, err := netlink.LinkByName(portName(w.index))
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(port, bridge)
	})
	if err != nil {
		return fmt.Errorf("connect host %d: plug the cable into the switch: %w", w.index, err)
	}
	return plug(w.sw, w.index, !w.carryOff)
}

// wireHost runs inside the host's network namespace.
func (w *wiring) wireHost() error {
	sw, err := os.Open(w.sw)
	if err != nil {
		return err
	}
	defer sw.Close()
	attrs := netlink.LinkAttrs{Name: cableName, HardwareAddr: w.mac()}
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: portName(w.index), PeerNamespace: netlink.NsFd(int(sw.Fd()))}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("add cable: %w", err)
	}
	if err := raise("lo"); err != nil {
		return err
	}
	if err := address(cableName, w.addr); err != nil {
		return err
	}
	if err := setNetSysctls(); err != nil {
		return err
	}
	if !w.gateway.IsValid() {
		return nil
	}
	link, err := netlink.LinkByName(cableName)
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: w.gateway.AsSlice()}); err != nil {
		return fmt.Errorf("add default route via %s: %w", w.gateway, err)
	}
	return nil
}

// mac stays the same over Kill and Boot, as a network card does: the other hosts remember it.
func (w *wiring) mac() net.HardwareAddr {
	ip := w.addr.Addr().As4()
	return net.HardwareAddr{0x02, 0x4c, ip[0], ip[1], ip[2], ip[3]}
}

// disconnect takes the cable and the namespace away, with every interface, rule and set that was made in it.
func (w *wiring) disconnect() error {
	if isNetns(w.sw) {
		// from the switch's side it goes at once; the namespace itself only when its last socket is closed
		err := (&Net{path: w.sw}).Do(func() error {
			port, err := netlink.LinkByName(portName(w.index))
			if errors.As(err, new(netlink.LinkNotFoundError)) {
				return nil
			}
			if err != nil {
				return err
			}
			return netlink.LinkDel(port)
		})
		if err != nil {
			return fmt.Errorf("take away the cable of host %d: %w", w.index, err)
		}
	}
	return dropNetns(w.own)
}

// plug moves the switch's end of a cable; the host sees its carrier come or go.
func plug(sw string, host int, in bool) error {
	err := (&Net{path: sw}).Do(func() error {
		port, err := netlink.LinkByName(portName(host))
		if err != nil {
			return err
		}
		if in {
			return netlink.LinkSetUp(port)
		}
		return netlink.LinkSetDown(port)
	})
	if err != nil {
		return fmt.Errorf("plug or unplug the cable of host %d: %w", host, err)
	}
	return nil
}

func raise(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

func address(name string, addr netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, addr, err)
	}
	ipnet := &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, addr, err)
	}
	return raise(name)
}

// setNetSysctls sets, for the network namespace of the calling thread alone, what a node needs.
func setNetSysctls() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("switch on IP forwarding: %w", err)
	}
	for _, name := range []string{"ipv6/conf/all/forwarding", "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"} {
		// a kernel without IPv6 or the bridge filter has no such file
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set net/%s: %w", name, err)
		}
	}
	return nil
}
