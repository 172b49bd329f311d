package health

import (
	"context"
	"encoding/xml"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// systemBus is where firewall-cmd asks firewalld; without it there is nobody to ask.
const systemBus = "run/dbus/system_bus_socket"

// zone is what `firewall-cmd --list-all-zones` says of one.
type zone struct {
	name, target                         string
	interfaces, sources, services, ports []string
	rich                                 []string
}

func lookFirewalld(ctx context.Context, h Host) finding {
	z, unknown := h.firewalldZones(ctx)
	if unknown != nil {
		return *unknown
	}
	return h.judgeFirewalld(z)
}

// firewalldZones asks firewalld. When there is nobody to ask, or no answer, that is a finding.
func (h Host) firewalldZones(ctx context.Context) (z zones, unknown *finding) {
	found := func(f finding) (zones, *finding) { return zones{}, &f }
	program, err := h.LookPath("firewall-cmd")
	if err != nil || !h.exists(systemBus) {
		return found(pass("not in use"))
	}
	standard, err := h.Command(ctx, "", program, "--get-default-zone")
	if err != nil {
		if strings.Contains(err.Error(), "not running") {
			return found(pass("not running"))
		}
		return found(warn("it does not answer: %v", err).do("look at what `firewall-cmd --state` says"))
	}
	all, err := h.Command(ctx, "", program, "--list-all-zones")
	if err != nil {
		return found(warn("its zones cannot be read: %v", err).do("look whether `firewall-cmd --list-all-zones` shows what labk needs"))
	}
	return zones{all: parseZones(all), standard: strings.TrimSpace(standard)}, nil
}

func parseZones(text string) (all []zone) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n ")
		if line == "" {
			continue
		}
		if line[0] != ' ' && line[0] != '\t' {
			all = append(all, zone{name: strings.Fields(line)[0]})
			continue
		}
		if len(all) == 0 {
			continue
		}
		z := &all[len(all)-1]
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "rule ") {
			z.rich = append(z.rich, line)
			continue
		}
		key, value, _ := strings.Cut(line, ":")
		words := strings.Fields(value)
		switch key {
		case "target":
			z.target = strings.TrimSpace(value)
		case "interfaces":
			z.interfaces = words
		case "sources":
			z.sources = words
		case "services":
			z.services = words
		case "ports":
			z.ports = words
		}
	}
	return all
}

type zones struct {
	all      []zone
	standard string
}

// of is the zone that packets from a network belong to: one that names the network, else that of the interface, else the default one.
func (z zones) of(network netip.Prefix, iface string) zone {
	fits := []func(zone) bool{
		func(z zone) bool {
			return slices.ContainsFunc(z.sources, func(s string) bool { p := prefix(s); return p.IsValid() && covers(p, network) })
		},
		func(z zone) bool { return slices.Contains(z.interfaces, iface) },
		func(zone zone) bool { return zone.name == z.standard },
	}
	for _, fit := range fits {
		if i := slices.IndexFunc(z.all, fit); i >= 0 {
			return z.all[i]
		}
	}
	return zone{name: z.standard}
}

func (z zone) acceptsAll() bool { return z.target == "ACCEPT" }

func (h Host) judgeFirewalld(z zones) finding {
	blocked, remedies := h.blockedByFirewalld(z)
	if len(blocked) == 0 {
		return pass("running, and lets through what labk needs")
	}
	return warn("it blocks %s", strings.Join(blocked, ", ")).do("%s", strings.Join(append(remedies, "firewall-cmd --reload"), " && "))
}

// blockedByFirewalld says what does not get through, and the commands that change it.
func (h Host) blockedByFirewalld(z zones) (blocked, remedies []string) {
	need := h.reach()
	outside := z.of(need.lan, need.iface)
	var options []string
	for _, d := range need.doors {
		if d.from != need.lan {
			continue // pods have a zone as a whole
		}
		rule, refused := h.refuses(outside, d)
		switch {
		case refused:
			blocked = append(blocked, fmt.Sprintf("%s (zone %s: %s)", d.name(), outside.name, rule))
			remedies = append(remedies, fmt.Sprintf("firewall-cmd --permanent --zone=%s --remove-rich-rule='%s'", outside.name, rule))
		case h.opens(outside, d):
			continue
		default:
			blocked = append(blocked, fmt.Sprintf("%s (not in zone %s%s)", d.name(), outside.name, with(need.iface)))
		}
		if !h.opens(outside, d) {
			options = append(options, "--add-port="+d.name())
		}
	}
	if len(options) > 0 {
		remedies = append(remedies, fmt.Sprintf("firewall-cmd --permanent --zone=%s %s", outside.name, strings.Join(options, " ")))
	}
	if pods := z.of(need.pods, ""); need.pods.IsValid() && !pods.acceptsAll() {
		blocked = append(blocked, fmt.Sprintf("pods (%s is in zone %s, target %s)", need.pods, pods.name, pods.target))
		if slices.Contains(pods.sources, need.pods.String()) {
			remedies = append(remedies, fmt.Sprintf("firewall-cmd --permanent --zone=%s --remove-source=%s", pods.name, need.pods))
		}
		remedies = append(remedies, fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-source=%s", need.pods))
	}
	return blocked, remedies
}

func with(iface string) string {
	if iface == "" {
		return ""
	}
	return ", which has " + iface
}

// opens tells whether a zone lets a door's packets in, by its target, a port, a service or a rich rule.
func (h Host) opens(z zone, d door) bool {
	if z.acceptsAll() {
		return true
	}
	ports := slices.Clone(z.ports)
	for _, s := range z.services {
		ports = append(ports, h.servicePorts(s, 0)...)
	}
	return within(ports, d) || slices.ContainsFunc(z.rich, func(r string) bool { return h.decides(r, d) == "accept" })
}

// refuses finds a rich rule by which a zone turns a door's packets away: those come before what opens.
func (h Host) refuses(z zone, d door) (rule string, refused bool) {
	for _, r := range z.rich {
		if verb := h.decides(r, d); verb == "reject" || verb == "drop" {
			return r, true
		}
	}
	return "", false
}

var (
	richPort    = regexp.MustCompile(` port port="([0-9-]+)" protocol="(\w+)"`)
	richService = regexp.MustCompile(` service name="([^"]+)"`)
	richSource  = regexp.MustCompile(` source (NOT )?address="([^"]+)"`)
	richVerb    = regexp.MustCompile(` (accept|reject|drop)\b`)
	richOther   = regexp.MustCompile(` (protocol value|icmp-type|icmp-block|forward-port|source-port|masquerade)\b`)
)

// decides tells what a rich rule does with a door's packets: accept, reject, drop or, for "", nothing. As with ufw, one that accepts some of
// their sources decides, one that refuses only some does not.
func (h Host) decides(rule string, d door) string {
	verb := richVerb.FindStringSubmatch(rule)
	if verb == nil || strings.Contains(rule, `family="ipv6"`) || richOther.MatchString(rule) {
		return ""
	}
	if port := richPort.FindStringSubmatch(rule); port != nil && (port[2] != d.proto || !hasPort(port[1], d.port)) {
		return ""
	}
	if service := richService.FindStringSubmatch(rule); service != nil && !within(h.servicePorts(service[1], 0), d) {
		return ""
	}
	source := richSource.FindStringSubmatch(rule)
	if source == nil {
		return verb[1]
	}
	if p := prefix(source[2]); p.IsValid() && source[1] == "" && (covers(p, d.from) || verb[1] == "accept" && p.Overlaps(d.from)) {
		return verb[1]
	}
	return ""
}

// within tells whether a door is among ports such as "6443/tcp".
func within(ports []string, d door) bool {
	return slices.ContainsFunc(ports, func(p string) bool {
		list, proto, _ := strings.Cut(p, "/")
		return proto == d.proto && hasPort(list, d.port)
	})
}

// firewalldFolders hold the definitions of services; the administrator's count first.
func firewalldFolders() []string {
	return []string{"etc/firewalld/services", "usr/lib/firewalld/services"}
}

// servicePorts are the ports of a service, as "6443/tcp", with those of the services that it includes.
func (h Host) servicePorts(name string, depth int) (ports []string) {
	var service struct {
		Ports []struct {
			Port  string `xml:"port,attr"`
			Proto string `xml:"protocol,attr"`
		} `xml:"port"`
		Includes []struct {
			Service string `xml:"service,attr"`
		} `xml:"include"`
	}
	for _, folder := range firewalldFolders() {
		text, err := h.read(filepath.Join(folder, name+".xml"))
		if err != nil {
			continue
		}
		if xml.Unmarshal([]byte(text), &service) != nil {
			return nil
		}
		break
	}
	for _, p := range service.Ports {
		ports = append(ports, p.Port+"/"+p.Proto)
	}
	for _, i := range service.Includes {
		if depth < 3 { // they may include each other
			ports = append(ports, h.servicePorts(i.Service, depth+1)...)
		}
	}
	return ports
}
