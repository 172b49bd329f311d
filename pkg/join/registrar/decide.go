package registrar

import (
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	capi "k8s.io/kubernetes/pkg/apis/certificates"

	"github.com/labk/labk/pkg/join"
)

// settling is for how long a name is kept for a PC that was given it and whose node has not come up.
const settling = 2 * time.Minute

// verdict on a request.
type verdict struct {
	// approved, or denied with a reason and a sentence for people. Neither: not for labk to decide.
	approved bool
	reason   string
	message  string
}

func approve(format string, args ...any) verdict {
	return verdict{approved: true, message: fmt.Sprintf(format, args...)}
}

func deny(reason, format string, args ...any) verdict {
	return verdict{reason: reason, message: fmt.Sprintf(format, args...)}
}

func forbid(format string, args ...any) verdict { return deny(join.ReasonForbidden, format, args...) }

// node is what the cluster knows of a node.
type node struct {
	exists, ready bool
	addresses     []net.IP
	record        *record // which PC it is; nil if that was never noted
}

// claim is a PC that asks to be a node.
type claim struct {
	name    string
	machine join.Machine
	address string
	token   TokenInfo
}

// admit decides whether a PC may be the node that it asks to be. self is the server's machine, and name the server's node's.
func admit(c claim, n node, serverName string, self join.Machine, reserved []string, now time.Time) verdict {
	if msgs := validation.IsDNS1123Subdomain(c.name); len(msgs) > 0 {
		return forbid("%q can't be a node's name: choose one of lower-case letters, digits, - and . with --node-name", c.name)
	}
	if slices.Contains(reserved, c.name) && !(c.name == serverName && c.machine.Same(self)) {
		return deny(join.ReasonNameTaken, "the name %s is the server's own: give this PC another with --node-name", c.name)
	}
	if c.token.UsesLeft != nil && *c.token.UsesLeft <= 0 {
		return deny(join.ReasonTokenUsedUp, "the token %s has let in as many PCs as it may: make a new one with `labk token create` on the server", c.token.ID)
	}
	if c.token.Replaces != "" && c.token.Replaces != c.name {
		return forbid("the token is for the node %s only: start with --node-name %s, or make a token without --replace", c.token.Replaces, c.token.Replaces)
	}
	if n.record == nil && !n.exists {
		return approve("a new node")
	}
	same := n.record != nil && n.record.Machine.Same(c.machine)
	switch {
	case n.ready && same:
		return deny(join.ReasonStillReady, "the node %s is this PC's own from before, and the cluster still sees it Ready", c.name)
	case n.ready && c.token.Replaces == c.name:
		return deny(join.ReasonStillReady, "the node %s is to be replaced by this PC, and still Ready: switch the old PC off", c.name)
	case n.ready:
		return deny(join.ReasonNameTaken, "the name %s belongs to another PC, which is alive at %s: give this PC another name with --node-name", c.name, first(n.addresses))
	case same:
		return approve("the same PC as before")
	case c.token.Replaces == c.name:
		return approve("replaces the PC that was this node before")
	case !n.exists && now.Sub(n.record.Since) < settling:
		return deny(join.ReasonNameTaken, "the name %s was given to another PC (%s) a moment ago: give this PC another name with --node-name", c.name, n.record.Address)
	case !n.exists: // an administrator deleted it
		return approve("the node was deleted")
	}
	return deny(join.ReasonNameTaken, "the node %s is another PC, which is off: if this PC replaces it, run `labk token create --replace %s` on the server and use that token; if not, give this PC another name with --node-name", c.name, c.name)
}

func first(ips []net.IP) string {
	if len(ips) == 0 {
		return "an unknown address"
	}
	return ips[0].String()
}

// requester is who made a request, as the API server has established it.
type requester struct {
	name       string
	groups     []string
	credential string
}

// isNode and isMachine tell whether the requester is the node, or the PC that is the node.
func (r requester) isNode(name string) bool {
	return r.name == join.NodeUser+name && slices.Contains(r.groups, join.NodeGroup)
}

func (r requester) isMachine(name string) bool {
	return r.name == join.MachineUser+name && slices.Contains(r.groups, join.MachineGroup)
}

// belongs tells whether the requester is a node, a machine or a joining PC at all; others' requests are an administrator's to decide.
func (r requester) belongs() bool {
	return slices.ContainsFunc([]string{join.NodeGroup, join.MachineGroup, join.TokenGroup}, func(g string) bool { return slices.Contains(r.groups, g) })
}

// identify decides whether a node's request is its own: only the node itself, and the PC that is noted as that node, may ask for its certificates.
func identify(r requester, name string, rec *record) verdict {
	switch {
	case r.isNode(name):
		return approve("the node itself")
	case !r.isMachine(name):
		return forbid("%s may not have a certificate of node %s", r.name, name)
	case rec == nil:
		return deny(join.ReasonReplaced, "the cluster does not know any more which PC the node %s is: start this PC with a token (`labk token create` on the server)", name)
	case !rec.has(r.credential):
		return deny(join.ReasonReplaced, "the node %s was given to another PC: start this PC with a token and another --node-name, or with one of `labk token create --replace %s`, which gives it the node back", name, name)
	}
	return approve("the node's PC")
}

// succession decides whether a PC may have a machine certificate of the present authority for the one that it comes with: only if that is not one itself.
func succession(r requester, name string, rec *record, authority string) verdict {
	v := identify(r, name, rec)
	if v.approved && rec.Authority == authority && r.credential != rec.Previous {
		return forbid("the node %s has a machine certificate of the present authority already", name)
	}
	return v
}

// clientRequest decides about a certificate by which a kubelet proves itself.
func clientRequest(r requester, request *x509.CertificateRequest, usages []certificatesv1.KeyUsage, name string, rec *record) verdict {
	if err := capi.ValidateKubeletClientCSR(request, usageSet(usages)); err != nil {
		return forbid("not what a node may ask for: %v", err)
	}
	return identify(r, name, rec)
}

// servingLimits are what no node's serving certificate may name.
type servingLimits struct {
	names     []string     // the API's
	addresses []net.IP     // the API's
	networks  []*net.IPNet // pods' and services'
	// others tells which other Ready node has an address.
	others func(net.IP) string
}

// servingRequest decides about a certificate by which a kubelet is known to those who connect to it. said is the address that a PC tells with its request,
// before its kubelet runs: the same that the kubelet would tell. An address that the cluster does not know of yet is an error that may pass.
func servingRequest(r requester, request *x509.CertificateRequest, usages []certificatesv1.KeyUsage, name string, isServer bool, n node, said net.IP, limits servingLimits) (verdict, error) {
	if err := capi.ValidateKubeletServingCSR(request, usageSet(usages)); err != nil {
		return forbid("not what a node may ask for: %v", err), nil
	}
	if v := identify(r, name, n.record); !v.approved {
		return v, nil
	}
	for _, dns := range request.DNSNames {
		if dns != name || slices.Contains(limits.names, dns) && !isServer {
			return forbid("the node %s may not have a certificate for the name %s", name, dns), nil
		}
	}
	for _, ip := range request.IPAddresses {
		api := slices.ContainsFunc(limits.addresses, ip.Equal)
		known := slices.ContainsFunc(n.addresses, ip.Equal) || r.isMachine(name) && ip.Equal(said)
		switch {
		case !ip.IsGlobalUnicast(), slices.ContainsFunc(limits.networks, func(c *net.IPNet) bool { return c.Contains(ip) }):
			return forbid("the node %s may not have a certificate for the address %s", name, ip), nil
		case api && isServer: // whatever its node was called before
		case api:
			return forbid("the address %s is the server's, not the node %s's", ip, name), nil
		case limits.others(ip) != "":
			return deny(join.ReasonAddressTaken, "the address %s is the node %s's, which is Ready, not the node %s's", ip, limits.others(ip), name), nil
		case !known:
			return verdict{}, fmt.Errorf("the address %s is not known as the node %s's", ip, name)
		}
	}
	return approve("the node's own name and addresses"), nil
}

// usageSet is what upstream's checks of requests take.
//
//lint:ignore SA1019 they still take the deprecated type
func usageSet(usages []certificatesv1.KeyUsage) sets.String {
	out := sets.NewString()
	for _, u := range usages {
		out.Insert(string(u))
	}
	return out
}
