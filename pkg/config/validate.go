package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/labk/labk/pkg/paths"
)

// Packaged components that disable may name.
var packaged = []string{"coredns"}

// Validate checks everything that can be checked without looking at the machine. The error is an *Error.
func (c *Config) Validate() error {
	for _, check := range []func() error{c.validateNode, c.validateNetworks, c.validateServer} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) validateNode() error {
	if msgs := validation.IsDNS1123Subdomain(c.NodeName); len(msgs) > 0 {
		return &Error{"node-name", fmt.Sprintf("%q can't be a node's name", c.NodeName), "use lower-case letters, digits, - and ."}
	}
	if !strings.HasPrefix(c.DataDir, "/") {
		return &Error{"data-dir", fmt.Sprintf("%q is not an absolute path", c.DataDir), "begin it with /"}
	}
	for _, a := range []struct{ option, value string }{{"node-ip", c.NodeIP}, {"bind-address", c.BindAddress}, {"advertise-address", c.AdvertiseAddress}} {
		if a.value != "" && net.ParseIP(a.value) == nil {
			return &Error{a.option, fmt.Sprintf("%q is no IP address", a.value), "write it like 192.168.1.10"}
		}
	}
	return nil
}

func (c *Config) validateNetworks() error {
	pods, err := parseCIDR("cluster-cidr", c.ClusterCIDR)
	if err != nil {
		return err
	}
	services, err := parseCIDR("service-cidr", c.ServiceCIDR)
	if err != nil {
		return err
	}
	if pods.Contains(services.IP) || services.Contains(pods.IP) {
		return &Error{"cluster-cidr", fmt.Sprintf("%s overlaps service-cidr %s", pods, services), "choose two networks with no address in common"}
	}
	if ones, _ := pods.Mask.Size(); ones > 23 {
		return &Error{"cluster-cidr", fmt.Sprintf("%s is too small: each node takes a /24 of it", pods), "use a /23 or larger"}
	}
	if ones, _ := services.Mask.Size(); ones > 28 || ones < 12 {
		return &Error{"service-cidr", fmt.Sprintf("%s has a size that Kubernetes does not take", services), "use one between /12 and /28"}
	}
	if c.ClusterDNS != "" {
		if ip := net.ParseIP(c.ClusterDNS); ip == nil || !services.Contains(ip) {
			return &Error{"cluster-dns", fmt.Sprintf("%q is no address of service-cidr %s", c.ClusterDNS, services), "choose one inside it, or leave it out"}
		}
	}
	if msgs := validation.IsDNS1123Subdomain(c.ClusterDomain); len(msgs) > 0 {
		return &Error{"cluster-domain", fmt.Sprintf("%q is no DNS domain", c.ClusterDomain), "use one like cluster.local"}
	}
	return oneOf("flannel-backend", c.FlannelBackend, "vxlan", "host-gw", "none")
}

func (c *Config) validateServer() error {
	if c.HTTPSListenPort < 1 || c.HTTPSListenPort > 65535 {
		return &Error{"https-listen-port", fmt.Sprintf("%d is no port", c.HTTPSListenPort), "use one from 1 to 65535"}
	}
	if c.HTTPSListenPort == 10250 {
		return &Error{"https-listen-port", "10250 is the kubelet's", "use another, such as 6443"}
	}
	if mode, err := strconv.ParseUint(c.WriteKubeconfigMode, 8, 32); err != nil || mode > 0o777 {
		return &Error{"write-kubeconfig-mode", fmt.Sprintf("%q is no file mode", c.WriteKubeconfigMode), "write it in octal, like 0600"}
	}
	if err := c.validateSnapshots(); err != nil {
		return err
	}
	for _, name := range c.Disable {
		if err := oneOf("disable", name, packaged...); err != nil {
			return err
		}
	}
	return c.validateDatastore()
}

func (c *Config) validateSnapshots() error {
	if _, err := c.Snapshots(); err != nil {
		return &Error{"snapshot-schedule", fmt.Sprintf("%q is no schedule: %v", c.SnapshotSchedule, err), "write it as cron does, like \"0 */12 * * *\", or off"}
	}
	if c.SnapshotRetention < 1 {
		return &Error{"snapshot-retention", fmt.Sprintf("%d snapshots can't be kept", c.SnapshotRetention), "keep at least 1, or turn them off with snapshot-schedule: off"}
	}
	if c.SnapshotDir != "" && !strings.HasPrefix(c.SnapshotDir, "/") {
		return &Error{"snapshot-dir", fmt.Sprintf("%q is not an absolute path", c.SnapshotDir), "begin it with /"}
	}
	return nil
}

// SnapshotFolder is the folder of snapshots.
func (c *Config) SnapshotFolder() string {
	if c.SnapshotDir != "" {
		return c.SnapshotDir
	}
	return paths.Data(c.DataDir).Snapshots()
}

// Snapshots is when snapshots are made; nil for never.
func (c *Config) Snapshots() (cron.Schedule, error) {
	if c.SnapshotSchedule == "" || c.SnapshotSchedule == "off" {
		return nil, nil
	}
	if strings.Contains(c.SnapshotSchedule, "TZ=") && !strings.Contains(c.SnapshotSchedule, " ") { // the parser panics over that
		return nil, errors.New("a time zone alone does not say when")
	}
	s, err := cron.ParseStandard(c.SnapshotSchedule)
	if err != nil {
		return nil, err
	}
	if every, ok := s.(cron.ConstantDelaySchedule); ok && every.Delay < time.Minute {
		return nil, errors.New("that is more often than once a minute")
	}
	if s.Next(time.Now()).IsZero() {
		return nil, errors.New("that day is in no year")
	}
	return s, nil
}

func oneOf(option, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return &Error{option, fmt.Sprintf("there is no %q", value), "use one of " + strings.Join(allowed, ", ")}
}

func parseCIDR(option, value string) (*net.IPNet, error) {
	ip, n, err := net.ParseCIDR(value)
	switch {
	case err != nil:
		return nil, &Error{option, fmt.Sprintf("%q is no network", value), "write it like 10.42.0.0/16"}
	case ip.To4() == nil:
		return nil, &Error{option, value + " is an IPv6 network, which labk does not carry yet", "use an IPv4 network"}
	case !ip.Equal(n.IP):
		return nil, &Error{option, fmt.Sprintf("%s has bits set beyond its prefix", value), fmt.Sprintf("write it as %s", n)}
	}
	return n, nil
}

// DNS is the address of the cluster's DNS: the configured one, else the tenth of the services' network. The configuration must be valid.
func (c *Config) DNS() string {
	if c.ClusterDNS != "" {
		return c.ClusterDNS
	}
	return c.serviceAddress(10).String()
}

// APIServiceIP is the address of the service "kubernetes", the first of the services' network.
func (c *Config) APIServiceIP() net.IP { return c.serviceAddress(1) }

func (c *Config) serviceAddress(n byte) net.IP {
	_, cidr, err := net.ParseCIDR(c.ServiceCIDR)
	if err != nil {
		return nil
	}
	ip := slices.Clone(cidr.IP.To4())
	ip[3] += n // the network is a /28 or larger, so its last byte has room for 10
	return ip
}
