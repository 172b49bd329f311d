package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Direction of the traffic that a profile judges, as the isolated pod sees it.
type Direction string

// The two directions.
const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

// Model is what the packet filter of one node has to do. Its size depends on the pods of this node, on how many different profiles they
// have, and on how many peers these allow; not on the number of policies.
//
// Profiles are named after their content: pods with the same rules share one, and one that has a name never changes. The same holds for sets of
// blocks. Sets of pods are named after the selectors that choose them: only their elements change as pods come and go. So a pod
// that starts somewhere costs one element here.
type Model struct {
	// Isolated says by direction which addresses of this node's pods are judged by which profile. Addresses that are not there are free.
	Isolated map[Direction]map[netip.Addr]string
	// Profiles and Sets are those in use, by name.
	Profiles map[string]Profile
	Sets     map[string]Set
}

// Profile is a list of what is allowed in one direction. What no rule allows is dropped.
type Profile struct {
	Direction Direction
	Rules     []Rule
}

// Rule allows packets whose other end is in Set and whose destination port is in Ports.
type Rule struct {
	// Set is empty for any other end.
	Set string
	// Ports is empty for any protocol and port, and with a set of endpoints, which says itself.
	Ports []PortRange
}

// PortRange is some ports of a protocol; First and Last belong to it.
type PortRange struct {
	Protocol    Protocol
	First, Last uint16
}

// all tells whether every port of the protocol is in the range.
func (r PortRange) all() bool { return r.First == 0 && r.Last == 65535 }

func (r PortRange) compare(other PortRange) int {
	return cmp.Or(cmp.Compare(r.Protocol, other.Protocol), cmp.Compare(r.First, other.First), cmp.Compare(r.Last, other.Last))
}

// Protocol as nft and iptables name it.
type Protocol string

// The protocols that have ports.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// Kind of a set.
type Kind string

// The kinds of sets. They begin the sets' names.
const (
	// Pods are single addresses.
	Pods Kind = "pods"
	// Blocks are networks of which none contains another.
	Blocks Kind = "blocks"
	// Endpoints are addresses with a protocol and a port.
	Endpoints Kind = "endpoints"
)

// Set is the other ends that a rule allows.
type Set struct {
	Kind     Kind
	Elements map[Element]struct{}
}

// Element of a set. Protocol and Port are only in sets of endpoints; Net is one address but in sets of blocks.
type Element struct {
	Net      netip.Prefix
	Protocol Protocol
	Port     uint16
}

func (e Element) compare(other Element) int {
	return cmp.Or(e.Net.Addr().Compare(other.Net.Addr()), cmp.Compare(e.Net.Bits(), other.Net.Bits()),
		cmp.Compare(e.Protocol, other.Protocol), cmp.Compare(e.Port, other.Port))
}

func newModel() *Model {
	return &Model{
		Isolated: map[Direction]map[netip.Addr]string{Ingress: {}, Egress: {}},
		Profiles: map[string]Profile{},
		Sets:     map[string]Set{},
	}
}

// name makes a name of a prefix and a hash of the content: at most 22 characters, as iptables takes no more than 28.
func name(prefix, content string) string {
	sum := sha256.Sum256([]byte(content))
	return prefix + "-" + hex.EncodeToString(sum[:6])
}

// key tells rules apart, and sorts them.
func (r Rule) key() string {
	var b strings.Builder
	b.WriteString(r.Set)
	for _, p := range r.Ports {
		fmt.Fprintf(&b, " %s/%d-%d", p.Protocol, p.First, p.Last)
	}
	return b.String()
}

// isolated returns every address that is judged in some direction.
func (m *Model) isolated() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, addrs := range m.Isolated {
		for a := range addrs {
			out[a] = true
		}
	}
	return out
}
