package network

import (
	"net"

	"github.com/labk/labk/pkg/paths"
)

// Where a machine keeps its name servers: the usual file, and the one in which systemd-resolved names the servers that it asks itself.
const (
	machineResolvConf = "/etc/resolv.conf"
	systemdResolvConf = "/run/systemd/resolve/resolv.conf"
)

// ResolvConf chooses the resolv.conf that pods with the machine's own DNS get. A server on the machine itself, such as 127.0.0.53, is no
// use there: inside a pod that address is the pod.
type ResolvConf struct {
	// Nameservers reads a resolv.conf: servers outside this machine, and on it.
	Nameservers func(path string) (outside, local []string)
	// Own is the file that Write writes.
	Own string
}

// Path is the file for pods.
func (r ResolvConf) Path() string {
	for _, file := range []string{machineResolvConf, systemdResolvConf} {
		if outside, local := r.Nameservers(file); len(outside) > 0 && len(local) == 0 {
			return file
		}
	}
	return r.Own
}

// Write writes Own, for a machine that has no file that works inside a pod. With no server known it names the node itself, which refuses at once:
// an unknown name is then an error in milliseconds, not a timeout.
func (r ResolvConf) Write(node net.IP) error {
	var servers []string
	for _, file := range []string{systemdResolvConf, machineResolvConf} {
		if servers, _ = r.Nameservers(file); len(servers) > 0 {
			break
		}
	}
	if len(servers) == 0 {
		servers = []string{node.String()}
	}
	var text string
	for _, server := range servers {
		text += "nameserver " + server + "\n"
	}
	return paths.WriteFile(r.Own, []byte(text), 0o644)
}
