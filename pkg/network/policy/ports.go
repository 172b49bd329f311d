package policy

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// namedPort is a port by the name that containers give it.
type namedPort struct {
	protocol Protocol
	name     string
}

func protocol(p v1.Protocol) Protocol {
	if p == "" {
		return TCP
	}
	return Protocol(strings.ToLower(string(p)))
}

// splitPorts sorts a rule's ports into numbers and names.
func splitPorts(ports []netv1.NetworkPolicyPort) (ranges []PortRange, named []namedPort) {
	for _, p := range ports {
		proto := TCP
		if p.Protocol != nil {
			proto = protocol(*p.Protocol)
		}
		switch {
		case p.Port == nil:
			ranges = append(ranges, PortRange{proto, 0, 65535})
		case p.Port.Type == intstr.String:
			named = append(named, namedPort{proto, p.Port.StrVal})
		default:
			last := p.Port.IntVal
			if p.EndPort != nil {
				last = *p.EndPort
			}
			ranges = append(ranges, PortRange{proto, uint16(p.Port.IntVal), uint16(last)})
		}
	}
	return mergePorts(ranges), named
}

// mergePorts sorts ranges and joins those that overlap or touch.
func mergePorts(ranges []PortRange) []PortRange {
	slices.SortFunc(ranges, PortRange.compare)
	var out []PortRange
	for _, r := range ranges {
		if n := len(out); n > 0 && out[n-1].Protocol == r.Protocol && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// resolve returns the numbers that the pod's containers give the name; each container may give it another.
func (n namedPort) resolve(pod *v1.Pod) []uint16 {
	var out []uint16
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range containers {
			for _, p := range c.Ports {
				if p.Name == n.name && protocol(p.Protocol) == n.protocol {
					out = append(out, uint16(p.ContainerPort))
				}
			}
		}
	}
	return out
}
