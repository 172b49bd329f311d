package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Name is the host's name, "<lab>-h<index>" unless Options.Each says otherwise.
func (h *Host) Name() string {
	if name := h.lab.state.Options.Each[h.index].Name; name != "" {
		return name
	}
	return h.alias()
}

// alias is a name that no other host has, whatever Options.Each says.
func (h *Host) alias() string { return fmt.Sprintf("%s-h%d", h.lab.Name(), h.index) }

// MachineID is what /etc/machine-id says on a fresh disk.
func (h *Host) MachineID() string {
	if id := h.lab.state.Options.Each[h.index].MachineID; id != "" {
		return id
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(h.dir())))[:32]
}

// Addr is the address of the host's eth0: the one given last by SetAddr, or number 10+index of the subnet.
func (h *Host) Addr() netip.Addr {
	if s, err := h.load(); err == nil && s.Addr != "" {
		if addr, err := netip.ParseAddr(s.Addr); err == nil {
			return addr
		}
	}
	return h.firstAddr()
}

func (h *Host) firstAddr() netip.Addr { return h.lab.state.Options.address(firstAddress + h.index) }

// mac stays the same whatever happens, as a network card does.
func (h *Host) mac() net.HardwareAddr {
	ip := h.firstAddr().As4()
	return net.HardwareAddr{0x02, 0x4c, ip[0], ip[1], ip[2], ip[3]}
}

// SetAddr gives the host another address of the subnet, as DHCP does: the old one is gone, with the routes that went through it. It
// is kept over Kill and Boot. /etc/hosts of all running hosts is written again.
func (h *Host) SetAddr(ctx context.Context, addr netip.Addr) error {
	return h.locked(ctx, func(context.Context) error {
		if err := h.setAddr(addr); err != nil {
			return fmt.Errorf("host %s: address %s: %w", h.alias(), addr, err)
		}
		return nil
	})
}

func (h *Host) setAddr(addr netip.Addr) error {
	if err := h.checkFree(addr); err != nil {
		return err
	}
	s, err := h.load()
	if err != nil {
		return err
	}
	s.Addr = addr.String()
	if err := h.save(s); err != nil {
		return err
	}
	if s.Init.alive() {
		if err := h.wiring().readdress(); err != nil {
			return err
		}
	}
	for _, each := range h.lab.hosts {
		file, err := each.Path("/etc/hosts")
		if err != nil {
			continue // without power: Boot writes it
		}
		if err := replaceFile(file, each.hostsFile()); err != nil {
			return fmt.Errorf("tell host %s: %w", each.alias(), err)
		}
	}
	return nil
}

// checkFree refuses an address that no DHCP server of this subnet would give.
func (h *Host) checkFree(addr netip.Addr) error {
	subnet := h.lab.Subnet()
	if !subnet.Contains(addr) || addr == subnet.Addr() || !subnet.Contains(addr.Next()) {
		return fmt.Errorf("give one of %s", subnet)
	}
	if addr == h.lab.Gateway() {
		return errors.New("it is the gateway's: give another one")
	}
	for _, other := range h.lab.hosts {
		if other != h && other.Addr() == addr {
			return fmt.Errorf("it is that of host %s: give another one", other.alias())
		}
	}
	return nil
}

// hostsFile is the content of the host's /etc/hosts. Its own line comes first: of names that repeat, a host means itself.
func (h *Host) hostsFile() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	line := func(x *Host) {
		names := x.Name()
		if names != x.alias() {
			names += " " + x.alias()
		}
		fmt.Fprintf(&b, "%s %s\n", x.Addr(), names)
	}
	line(h)
	for _, other := range h.lab.hosts {
		if other != h {
			line(other)
		}
	}
	return b.String()
}
