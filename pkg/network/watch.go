package network

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/process"
)

const (
	// steady is for how long a new address must be there before it counts: a card that is being set up shows more than one.
	steady = 3 * time.Second
	// recheck is how often the address is looked at when the kernel tells nothing.
	recheck = 15 * time.Second
)

// NewAddressWatch returns the component that notices when the node's address has left this machine and another has come, as DHCP does. It then ends with
// a *process.RestartError: upstream's components take the address once. An address that is only gone, as with an unplugged cable, is no reason.
func NewAddressWatch(c *config.Config, node NodeAddress) lifecycle.Component {
	return lifecycle.NewTask("address", func(ctx context.Context) error { return watchAddress(ctx, c, node) }, nil)
}

func watchAddress(ctx context.Context, c *config.Config, node NodeAddress) error {
	updates := make(chan netlink.AddrUpdate, 16)
	// Without the kernel's news there is still the clock.
	_ = netlink.AddrSubscribe(updates, ctx.Done())
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	var candidate net.IP
	var since time.Time
	for {
		next := successor(c, node)
		if !next.Equal(candidate) {
			candidate, since = next, time.Now()
		}
		settled := make(<-chan time.Time)
		if candidate != nil {
			if time.Since(since) >= steady {
				return &process.RestartError{Reason: fmt.Sprintf("this PC's address changed from %s to %s: starting anew with it", node.IP, candidate)}
			}
			settled = time.After(steady)
		}
		select {
		case _, ok := <-updates:
			if !ok {
				updates = nil
			}
		case <-settled:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// successor is the address that takes the node's place, nil while the node's is there or there is no other.
func successor(c *config.Config, node NodeAddress) net.IP {
	all, err := hostAddresses()
	if err != nil || slices.ContainsFunc(all, func(a NodeAddress) bool { return a.IP.Equal(node.IP) }) {
		return nil
	}
	next, err := FindNodeAddress(c)
	if err != nil {
		return nil
	}
	return next.IP
}
