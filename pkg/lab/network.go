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
	index   int
	own     string // path of the host's network namespace
	sw      string // path of the switch's
	mac     net.HardwareAddr
	mtu     int
	addr    netip.Prefix
	gateway netip.Addr // invalid: no default route
}

// connect gives the host a fresh network namespace and a cable, which is plugged into the switch or not.
func (w *wiring) connect(plugged bool) error {
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
	return plug(w.sw, w.index, plugged)
}

// wireHost runs inside the host's network namespace.
func (w *wiring) wireHost() error {
	sw, err := os.Open(w.sw)
	if err != nil {
		return err
	}
	defer sw.Close()
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: cableName, HardwareAddr: w.mac, MTU: w.mtu},
		PeerName:  portName(w.index), PeerMTU: uint32(w.mtu), PeerNamespace: netlink.NsFd(int(sw.Fd())),
	}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("add cable: %w", err)
	}
	if err := raise("lo"); err != nil {
		return err
	}
	if err := setNetSysctls(); err != nil {
		return err
	}
	return w.configure()
}

// configure gives the host's end of the cable its address and routes.
func (w *wiring) configure() error {
	if err := address(cableName, w.addr); err != nil {
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

// readdress replaces the address of a running host, as a DHCP client does that is given another one: the routes through the old
// one go with it.
func (w *wiring) readdress() error {
	err := (&Net{path: w.own}).Do(func() error {
		link, err := netlink.LinkByName(cableName)
		if err != nil {
			return err
		}
		old, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for i := range old {
			if err := netlink.AddrDel(link, &old[i]); err != nil {
				return err
			}
		}
		return w.configure()
	})
	if err != nil {
		return fmt.Errorf("give host %d another address: %w", w.index, err)
	}
	return nil
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
