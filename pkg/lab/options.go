package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	// OptDir is where a host sees Options.Opt.
	OptDir = "/opt/labk"

	defaultSubnet = "10.77.0.0/24"
	defaultMTU    = 1500
	firstAddress  = 10 // host i has the subnet's address firstAddress+i
	maxHosts      = 99
)

// Options say what Up builds. The zero value of a field means its default.
type Options struct {
	// Name tells labs apart; host names and cgroups begin with it. Lower-case letters, digits and '-'; required.
	Name string
	// Dir is the folder of state, by default /var/tmp/labk-lab-<Name>. It must lie on a real file system (overlayfs must be
	// possible on it) and not below a folder that hosts have of their own. It is created by Up and removed by Down.
	Dir string
	// Subnet is the switch's IPv4 network, by default 10.77.0.0/24. Its first address is the gateway; host i has number 10+i.
	Subnet string
	// Hosts is how many hosts there are, by default one. They count from 1.
	Hosts int
	// Each says, by index, what is special about some hosts.
	Each map[int]HostOptions
	// MTU of the cables in bytes, by default 1500.
	MTU int
	// NoDefaultRoute leaves the hosts without a default route (normally through the gateway).
	NoDefaultRoute bool
	// Opt is a folder that every host sees read-only at OptDir; commands look for programs there first, but not in hosts with a Root.
	Opt string
	// Root is a folder with a root file system, such as debootstrap makes. Each host then sees an overlay of its own over it, all of which is
	// its disk, instead of the machine's root. Nothing is written to the folder itself.
	Root string
	// Systemd makes systemd, which Root must have, the hosts' pid 1. Boot returns when its basic.target is reached.
	Systemd bool
	// OwnerBound hosts die with the process that booted them, and a later Up clears the rest away. For tests.
	OwnerBound bool
	// InitCommand starts a program that calls InitMain (or MaybeInit); by default the running program, without arguments.
	InitCommand []string
	// Then is the rest of Up, if any, with all hosts booted: if it fails, Up fails and leaves nothing, and if the process is killed
	// meanwhile, the next Up clears away what it left. The folder is locked: commands and networks may be used, Boot and the like not.
	Then func(context.Context, *Lab) error `json:"-"`
}

// HostOptions are what may be special about one host. The zero value of a field means its default.
type HostOptions struct {
	// Name is the host name, by default "<lab>-h<index>". Several hosts may have the same, as cloned PCs do.
	Name string
	// MachineID is the content of /etc/machine-id, 32 hexadecimal digits, by default another for each host. Several hosts may have
	// the same.
	MachineID string
}

var (
	namePattern      = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`)
	hostNamePattern  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$`)
	machineIDPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// DefaultDir is the folder of state of the lab with this name.
func DefaultDir(name string) string { return "/var/tmp/labk-lab-" + name }

// complete fills in defaults and checks what can be checked without touching the machine.
func (o Options) complete() (Options, error) {
	if !namePattern.MatchString(o.Name) {
		return o, fmt.Errorf("lab name %q: use lower-case letters, digits and '-', at most 32, beginning with a letter", o.Name)
	}
	if o.Dir == "" {
		o.Dir = DefaultDir(o.Name)
	}
	if o.Subnet == "" {
		o.Subnet = defaultSubnet
	}
	if o.Hosts == 0 {
		o.Hosts = 1
	}
	if o.MTU == 0 {
		o.MTU = defaultMTU
	}
	if len(o.InitCommand) == 0 {
		o.InitCommand = []string{"/proc/self/exe"}
	}
	if err := checkDir(o.Dir); err != nil {
		return o, err
	}
	if err := o.checkOpt(); err != nil {
		return o, err
	}
	if err := o.checkRoot(); err != nil {
		return o, err
	}
	if err := o.checkSubnet(); err != nil {
		return o, err
	}
	return o, o.checkHosts()
}

func (o *Options) checkHosts() error {
	if o.MTU < 576 || o.MTU > 65535 {
		return fmt.Errorf("lab MTU %d: give one from 576 to 65535", o.MTU)
	}
	for i, each := range o.Each {
		if i < 1 || i > o.Hosts {
			return fmt.Errorf("lab of %d hosts: there is no host %d", o.Hosts, i)
		}
		if each.Name != "" && !hostNamePattern.MatchString(each.Name) {
			return fmt.Errorf("lab host %d: %q is no host name: use letters, digits, '-' and '.', at most 64", i, each.Name)
		}
		if each.MachineID != "" && !machineIDPattern.MatchString(each.MachineID) {
			return fmt.Errorf("lab host %d: %q is no machine ID: give 32 hexadecimal digits in lower case", i, each.MachineID)
		}
	}
	return nil
}

func (o *Options) checkOpt() error {
	if o.Opt == "" {
		return nil
	}
	abs, err := filepath.Abs(o.Opt)
	if err != nil {
		return fmt.Errorf("lab folder for %s: %w", OptDir, err)
	}
	if info, err := os.Stat(abs); err != nil || !info.IsDir() {
		return fmt.Errorf("lab folder for %s: %s is not a folder: create it first", OptDir, abs)
	}
	o.Opt = abs
	return nil
}

func (o *Options) checkRoot() error {
	if o.Root == "" && o.Systemd {
		return errors.New("lab with systemd: give a Root: systemd would start the machine's own services")
	}
	if o.Root == "" {
		return nil
	}
	abs, err := filepath.Abs(o.Root)
	if err != nil {
		return fmt.Errorf("lab root: %w", err)
	}
	needed := "/bin/sh"
	if o.Systemd {
		needed = systemdProgram
	}
	if _, err := os.Stat(filepath.Join(abs, needed)); err != nil {
		return fmt.Errorf("lab root %s has no %s: make a root file system there first, such as with debootstrap", abs, needed)
	}
	o.Root = abs
	return nil
}

func (o *Options) checkSubnet() error {
	subnet, err := netip.ParsePrefix(o.Subnet)
	if err != nil || !subnet.Addr().Is4() {
		return fmt.Errorf("lab subnet %q: give an IPv4 network such as %s", o.Subnet, defaultSubnet)
	}
	if o.Hosts < 0 || o.Hosts > maxHosts {
		return fmt.Errorf("lab of %d hosts: at most %d are possible", o.Hosts, maxHosts)
	}
	last := subnet.Masked().Addr()
	for range firstAddress + o.Hosts + 1 { // one more: the broadcast address is nobody's
		last = last.Next()
	}
	if !subnet.Contains(last) {
		return fmt.Errorf("lab subnet %s is too small for %d hosts: use a /24", o.Subnet, o.Hosts)
	}
	o.Subnet = subnet.Masked().String()
	return nil
}

// checkDir refuses places that hosts cover with their own: the disks of a lab there would hide themselves.
func checkDir(dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
		return fmt.Errorf("lab folder %q: give an absolute path", dir)
	}
	for _, own := range append([]string{"/tmp", "/run", "/var/run", "/var/lib", "/var/log", "/proc", "/sys", "/dev"}, overlaid()...) {
		if dir == own || strings.HasPrefix(dir, own+"/") {
			return fmt.Errorf("lab folder %s lies below %s, which hosts have of their own: use %s", dir, own, DefaultDir("NAME"))
		}
	}
	if strings.Count(dir, "/") < 2 {
		return fmt.Errorf("lab folder %s: use a folder that is the lab's alone, such as %s", dir, DefaultDir("NAME"))
	}
	return nil
}

// address is the subnet's n-th address.
func (o *Options) address(n int) netip.Addr {
	a := netip.MustParsePrefix(o.Subnet).Addr() // checked by complete
	for range n {
		a = a.Next()
	}
	return a
}
