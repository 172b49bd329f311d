package policy

import (
	"cmp"
	"net/netip"
	"slices"

	netv1 "k8s.io/api/networking/v1"
)

// networks turns an ipBlock into networks that together are the block without its exceptions. IPv6 yields nothing: pods have no such address.
func networks(b *netv1.IPBlock) []netip.Prefix {
	block, err := netip.ParsePrefix(b.CIDR)
	if err != nil || !block.Addr().Is4() {
		return nil
	}
	var except []netip.Prefix
	for _, text := range b.Except {
		if e, err := netip.ParsePrefix(text); err == nil {
			except = append(except, e.Masked())
		}
	}
	return subtract(block.Masked(), except)
}

// subtract halves the network until each part is either outside all the exceptions, and kept, or inside one.
func subtract(p netip.Prefix, except []netip.Prefix) []netip.Prefix {
	var inside []netip.Prefix
	for _, e := range except {
		if e.Bits() <= p.Bits() && e.Contains(p.Addr()) {
			return nil
		}
		if p.Overlaps(e) {
			inside = append(inside, e)
		}
	}
	if len(inside) == 0 {
		return []netip.Prefix{p}
	}
	low, high := halves(p)
	return append(subtract(low, inside), subtract(high, inside)...)
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	upper := p.Addr().As4()
	upper[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(netip.AddrFrom4(upper), p.Bits()+1)
}

// disjoint sorts networks and leaves out those that others contain: networks nest or have nothing in common.
func disjoint(all []netip.Prefix) []netip.Prefix {
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range all {
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue
		}
		out = append(out, p)
	}
	return out
}

// everything tells whether the networks are the whole of IPv4.
func everything(nets []netip.Prefix) bool { return len(nets) == 1 && nets[0].Bits() == 0 }
